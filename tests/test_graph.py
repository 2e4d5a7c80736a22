"""What a network's data flow tells: which channels are live, and which modules follow which."""

import functools
import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_macs import fixed
from torch import nn

from fbs_tutorial import ChannelPruning, GatedConv2d, convert, count_macs
from fbs_tutorial.method.gated import evaluating, gated_layers
from fbs_tutorial.method.graph import (
    UntraceableError,
    chains,
    last_convolution,
    replace,
    trace,
    traceable_parts,
)
from fbs_tutorial.method.liveness import Liveness
from fbs_tutorial.models import wrap

CHANNELS = 8


class Function(nn.Module):
    """A module that is one function."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


class Strict(Liveness):
    """Fails if anything that is not live is not 0, at any node."""

    def rule(self, step):
        live = super().rule(step)
        assert_sound(step.value, live, step.node.format_node())
        return live


def assert_sound(value, live, where):
    if isinstance(value, torch.Tensor):
        assert live.shape == value.shape and live.dtype == torch.bool, where
        assert not (value != 0)[~live].any(), where
    elif isinstance(value, (tuple, list)):
        for part, part_live in zip(value, live, strict=True):
            assert_sound(part, part_live, where)


def channels_live_after(function, *modules, winners=3, image=(3, 4, 4)):
    """Which channels of ``function``'s output are live if 3 of its 8 input channels won: a list."""
    net = nn.Sequential(fixed(3, CHANNELS, winners), Function(function, *modules)).eval()
    nn.init.normal_(net[0].beta)
    x, ends = torch.randn(2, *image), []

    class Recorded(Strict):
        def rule(self, step):
            ends.append(super().rule(step))
            return ends[-1]

    with evaluating(net):
        Recorded(net, trace(net), {})(x)
    live = ends[-1]
    assert torch.equal(live[0], live[1])
    return live[0].flatten(1).any(dim=1).nonzero().flatten().tolist()


def one_winner(*modules):
    """A block whose first channel wins for every image."""
    block = ChannelPruning(*modules, density=1 / CHANNELS)
    nn.init.zeros_(block.predictor.weight)
    return block


FIRST, ALL = [0, 1, 2], list(range(CHANNELS))
RULES = {  # an operation on maps of 8 channels of which the first three won: what is live after it
    "relu(1 - x)": (lambda x: F.relu(1 - x), ALL),
    "x - 3": (lambda x: x - 3, ALL),
    "relu(x - 3)": (lambda x: torch.relu(x - 3), ALL),
    "x + 3": (lambda x: x + 3, ALL),
    "x - 0": (lambda x: x - 0, FIRST),
    "2 * x": (lambda x: 2 * x, FIRST),
    "-x": (lambda x: -x, FIRST),
    "x / 2": (lambda x: x / 2, FIRST),
    "2 / x": (lambda x: 2 / x, ALL),
    "x ** 2": (lambda x: x**2, FIRST),
    "x ** 0": (lambda x: x**0, ALL),
    "x / x": (lambda x: x / x, ALL),
    "threshold at 6": (lambda x: F.threshold(x, 6.0, 0.0), FIRST),
    "threshold to 5": (lambda x: F.threshold(x, 6.0, 5.0), ALL),
    "threshold below 0": (lambda x: F.threshold(x, -1.0, 5.0), FIRST),
    "hardshrink": (lambda x: F.hardshrink(x, 2.5), FIRST),
    "softmax": (lambda x: F.softmax(x, dim=1), ALL),
    "sigmoid": (lambda x: x.sigmoid(), ALL),
    "silu": (F.silu, FIRST),
    "gelu": (F.gelu, FIRST),
    "hardswish": (F.hardswish, FIRST),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), FIRST),
    "clamp around 0": (lambda x: x.clamp(-1, 1), FIRST),
    "clamp from 1": (lambda x: x.clamp(min=1), ALL),
    "exp": (torch.exp, ALL),
    "to double": (lambda x: x.double(), FIRST),
    "dropout": (lambda x: F.dropout(x, 0.5, training=True), FIRST),
    "relu in place": (lambda x: F.relu(x, inplace=True), FIRST),
    "a shortened sum": (lambda x: operator.iadd(1 * x, x.flip(1)), [0, 1, 2, 5, 6, 7]),
    "a shortened sum, seen through its input": (
        lambda x: (lambda y: (operator.iadd(y, x.flip(1)), 1 * y)[1])(1 * x), ALL,
    ),
    "an assignment": (lambda x: (lambda y: (operator.setitem(y, 0, 1.0), 1 * y)[1])(1 * x), ALL),
    "a sum in place": (lambda x: F.relu(x).add_(1), ALL),
    "a sum in place, seen through its input": (
        lambda x: (lambda y: (y.add_(1), 1 * y)[1])(F.relu(x)), ALL,
    ),
    "a sum in place, seen through a view": (
        lambda x: (lambda y, view: (y.add_(1), 1 * view)[1])(*(lambda y: (y, y[:, :]))(F.relu(x))),
        ALL,
    ),
    "mean of the maps": (lambda x: x.mean(dim=(2, 3), keepdim=True), FIRST),
    "x - mean of all": (lambda x: x - x.mean(dim=1, keepdim=True), ALL),
    "x times mean of all": (lambda x: x * x.mean(dim=1, keepdim=True), FIRST),
    "max pooling": (lambda x: F.max_pool2d(x, 3, padding=1), FIRST),
    "average pooling": (lambda x: F.adaptive_avg_pool2d(x, 1), FIRST),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), FIRST),
    "pad with 0": (lambda x: F.pad(x, (1, 1, 0, 0)), FIRST),
    "pad with 1": (lambda x: F.pad(x, (1, 1, 0, 0), value=1.0), ALL),
    "pad channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0)), [1, 2, 3]),
    "flatten": (lambda x: x.flatten(2), FIRST),
    "view": (lambda x: x.view(x.size(0), 2, 4, 4, 4).transpose(1, 2), [0, 1, 2]),
    "shuffle": (
        lambda x: x.view(x.size(0), 2, 4, 4, 4).transpose(1, 2).contiguous().view(x.shape),
        [0, 2, 4],
    ),
    "permute there and back": (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), FIRST),
    "flip": (lambda x: x.flip(1), [5, 6, 7]),
    "roll": (lambda x: torch.roll(x, 1, dims=1), [1, 2, 3]),
    "chunk, second half": (lambda x: x.chunk(2, dim=1)[1], []),
    "halves swapped": (lambda x: torch.cat([x[:, 4:], x.chunk(2, dim=1)[0]], dim=1), [4, 5, 6]),
    "halves in reverse": (lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1), [4, 5, 6]),
    "split": (lambda x: x.split([2, 6], dim=1)[1], [0]),
    "a slice": (lambda x: x[:, 2:4], [0]),
    "cat": (lambda x: torch.cat([x, x], dim=1), [0, 1, 2, 8, 9, 10]),
    "cat with a sigmoid": (lambda x: torch.cat([x, x.sigmoid()], dim=1), [0, 1, 2, *range(8, 16)]),
    "a - its flip": (lambda x: F.relu(x - x.flip(1)), [0, 1, 2, 5, 6, 7]),
    "x - x": (lambda x: x - x, FIRST),
    "x times its flip": (lambda x: x * x.flip(1), []),
    "x times its shift": (lambda x: x * x.roll(1, dims=1), [1, 2]),
    "sum of a list": (lambda x: sum([x, x.roll(3, dims=1)]), [0, 1, 2, 3, 4, 5]),
    "unknown: cumulative sum": (lambda x: x.cumsum(dim=1), ALL),
    "unknown: matmul": (lambda x: x @ x, ALL),
    "unknown: where": (lambda x: torch.where(x > 0, x, x), ALL),
    "unknown: sort": (lambda x: x.sort(dim=1)[0], ALL),
}  # fmt: skip
if torch.__version__.startswith("2.6."):  # torch.fx there follows no slice of a tuple into `cat`
    del RULES["halves in reverse"]


@pytest.mark.parametrize(("function", "live"), RULES.values(), ids=RULES)
def test_what_is_live_after(function, live):
    assert channels_live_after(function) == live


MODULES = {
    "PReLU": (nn.PReLU(8), FIRST),
    "Hardtanh": (nn.Hardtanh(), FIRST),
    "Hardtanh from 1": (nn.Hardtanh(1.0, 2.0), ALL),
    "Threshold": (nn.Threshold(6.0, 0.0), FIRST),
    "Threshold to 5": (nn.Threshold(6.0, 5.0), ALL),
    "Hardshrink": (nn.Hardshrink(2.5), FIRST),
    "Softmax2d": (nn.Softmax2d(), ALL),
    "BatchNorm2d": (nn.BatchNorm2d(8), ALL),
    "LayerNorm": (nn.LayerNorm([8, 4, 4]), ALL),
    "LocalResponseNorm": (nn.LocalResponseNorm(2), ALL),
    "Conv2d": (nn.Conv2d(8, 8, 1), ALL),
    "max pooling with indices": (
        Function(lambda x, m: m(x)[0], nn.MaxPool2d(2, return_indices=True)), ALL,
    ),
    "Upsample": (nn.Upsample(scale_factor=2, mode="bicubic"), FIRST),
    "ConstantPad2d": (nn.ConstantPad2d(1, 2.0), ALL),
    "ReflectionPad2d": (nn.ReflectionPad2d(1), FIRST),
    "PixelShuffle": (nn.PixelShuffle(2), [0]),
    "ReLU in place": (nn.ReLU(inplace=True), FIRST),
    "a gated layer": (fixed(8, 8, 2, ranking="last"), [6, 7]),
    "its mean only": (fixed(8, 8, 2, ranking="last", activation=nn.GELU()), [6, 7]),
    "an unknown activation": (
        fixed(8, 8, 2, ranking="last", activation=Function(lambda x: x - x.mean(1, True))), ALL,
    ),
    "a block": (one_winner(nn.Conv2d(8, 8, 1), nn.Sigmoid()), [0]),
}  # fmt: skip


@pytest.mark.parametrize(("module", "live"), MODULES.values(), ids=MODULES)
def test_what_is_live_after_a_module(module, live):
    assert channels_live_after(lambda x, m: m(x), module) == live


class OwnReLU(nn.ReLU):
    pass


def test_a_class_made_from_an_activation_is_looked_into():
    assert channels_live_after(lambda x, m: m(x), OwnReLU()) == FIRST


def test_a_module_whose_forward_was_replaced_may_do_anything():
    relu = nn.ReLU()
    relu.forward = lambda x: x.roll(1, dims=1)
    assert channels_live_after(lambda x, m: m(x), relu) == ALL


def test_a_module_with_hooks_may_do_anything():
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, args, output: output + 1)
    assert channels_live_after(lambda x, m: m(x), relu) == ALL


def test_one_convolution_used_twice_reads_two_different_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.conv = fixed(3, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(self.conv(self.gate(x)))

    layers = count_macs(Twice(), torch.rand(1, 3, 2, 2)).layers
    assert [layer.active.item() for layer in layers] == [3 * 3 * 4, 3 * 8 * 4, 8 * 8 * 4]


# Zeros never more than gates


UNARY = [
    lambda x: F.relu(1 - x),
    lambda x: x - 3,
    lambda x: F.threshold(x, 1.0, 0.0),
    lambda x: F.threshold(x, 1.0, 2.0),
    lambda x: F.hardshrink(x, 0.5),
    lambda x: F.softmax(x, dim=1),
    torch.sigmoid,
    F.silu,
    F.gelu,
    F.relu,
    lambda x: x.relu_(),
    lambda x: F.dropout(x, 0.5, training=False),
    lambda x: x.view(x.size(0), 2, 4, 4, 4).transpose(1, 2).reshape(x.shape),
    lambda x: x.flatten(1).view(x.shape),
    lambda x: torch.cat([x.chunk(2, dim=1)[1], x.chunk(2, dim=1)[0]], dim=1),
    lambda x: x.mean(dim=(2, 3), keepdim=True).expand(x.shape),
    lambda x: x.mean(dim=1, keepdim=True) + x,
    lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    lambda x: x.cumsum(dim=1),
    lambda x: x.flip(1),
]
BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.iadd,
    lambda x, y: F.relu(x - y),
    lambda x, y: torch.cat([x, y], dim=1)[:, ::2],
    lambda x, y: x + y.sigmoid(),
    lambda x, y: x * y.mean(dim=1, keepdim=True),
    lambda x, y: 1 - torch.maximum(x, y),
]


class RandomGraph(nn.Module):
    """Operations on earlier maps, each ``(kind, number, earlier, another earlier)``; then a
    convolution reads every one of them."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(self.layer(kind, number) for kind, number, *_ in steps)
        self.shared = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.readers = nn.ModuleList(nn.Conv2d(CHANNELS, 1, 1) for _ in steps)

    def layer(self, kind, number):
        if kind == "gated":
            layer = GatedConv2d(CHANNELS, CHANNELS, 1, density=(1 + number % 4) / 8)
            nn.init.normal_(layer.beta)
            nn.init.normal_(layer.predictor.weight, std=3.0)
            return layer
        if kind == "block":
            parts = nn.Conv2d(CHANNELS, CHANNELS, 1), [nn.ReLU(), nn.Sigmoid()][number % 2]
            return ChannelPruning(*parts, density=(1 + number % 4) / 8)
        if kind == "norm":
            return nn.BatchNorm2d(CHANNELS)
        return nn.Identity()

    def forward(self, x):
        maps = [x]
        for (kind, number, first, second), layer in zip(self.steps, self.layers, strict=True):
            a, b = maps[first % len(maps)], maps[second % len(maps)]
            if kind == "unary":
                maps.append(UNARY[number % len(UNARY)](a))
            elif kind == "binary":
                maps.append(BINARY[number % len(BINARY)](a, b))
            elif kind == "shared":
                maps.append(self.shared(a))
            else:
                maps.append(layer(a))
        return sum(reader(y) for reader, y in zip(self.readers, maps[1:], strict=True))


KINDS = ["gated", "gated", "block", "norm", "shared", *["unary"] * 6, *["binary"] * 5]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), *[st.integers(0, 59)] * 3), min_size=1, max_size=10
)
START = [("gated", 2, 0, 0), ("gated", 1, 0, 0)]  # so that there are dead channels from the start


@settings(max_examples=100)
@given(STEPS)
def test_zeros_are_never_more_than_gates(steps):
    net, x = RandomGraph([*START, *steps]).eval(), torch.randn(2, CHANNELS, 4, 4)
    reports = [count_macs(net, x, by=by) for by in ("gates", "zeros")]
    for gates, zeros in zip(*(report.layers for report in reports), strict=True):
        assert gates.name == zeros.name and gates.dense == zeros.dense
        assert (zeros.active <= gates.active).all(), gates.name
    with evaluating(net):
        y = net(x.clone())
        assert torch.equal(Strict(net, trace(net), {})(x.clone()), y)  # and sound at every node


def test_the_random_graphs_have_empty_channels_to_lose():
    net = RandomGraph([*START, ("unary", 9, 1, 0), ("binary", 0, 1, 2), ("binary", 2, 1, 2)])
    report = count_macs(net, torch.randn(2, CHANNELS, 4, 4))
    shares = [layer.active.float().mean().item() / layer.dense for layer in report.layers]
    assert shares[2:5] == [3 / 8, 2 / 8, 3 / 8] and 3 / 8 <= shares[5] < 1 and shares[6] <= 2 / 8


# What cannot be followed


class Branching(nn.Module):
    """Its own code depends on values, its two children can be followed."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        )
        self.rest = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))])

    def forward(self, x):
        x = self.first(x)
        if x.sum() > 1e9:  # the line that stops
            return x
        for part in self.rest:
            x = part(x)
        return x


LINE = r"test_graph.py, line \d+, in Branching.forward: if x.sum\(\) > 1e9:"


@pytest.mark.parametrize("form", [functools.partial(convert, density=0.5), wrap])
def test_the_parts_that_can_be_followed_are_converted_and_the_line_is_named(form):
    net = Branching().eval()
    with pytest.warns(UserWarning, match=f"only parts of model were looked at: .*{LINE}"):
        gated = form(net)
    assert list(gated_layers(gated)) == ["first.0", "first.3", "rest.0.0"]


def test_between_parts_all_channels_are_live_and_the_report_names_the_line():
    with pytest.warns(UserWarning):
        net = convert(Branching(), 0.5)
    report = count_macs(net, torch.rand(2, 3, 2, 2))
    active = [3 * 4 * 4, 4 * 4 * 4, 8 * 2 * 4]  # the last reads all 8
    assert [layer.active.tolist() for layer in report.layers] == [[n] * 2 for n in active]
    assert "Branching.forward: if x.sum() > 1e9:" in report.stopped_at
    assert str(report).splitlines()[-1].startswith("all channels count as live where torch.fx")
    assert count_macs(net, torch.rand(2, 3, 2, 2), by="zeros").stopped_at == ""


def test_a_network_of_which_nothing_can_be_followed_is_refused_with_the_remedy():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    says = r"(?s)cannot follow .*Bare.forward: return .*modules of their own"
    x = torch.rand(1, 3, 2, 2)
    for call in (convert, wrap, lambda net: count_macs(net, x), trace):
        with pytest.raises(UntraceableError, match=says):
            call(Bare())
    assert count_macs(Bare(), x, by="zeros").dense == 3 * 8 * 4


def test_gated_layers_alone_are_enough_to_count():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = fixed(3, 8, 3), fixed(8, 8, 2)

        def forward(self, x):
            return self.second(self.first(x)) if x.sum() > -1e9 else x

    report = count_macs(Bare(), torch.rand(1, 3, 2, 2))
    assert [layer.active.item() for layer in report.layers] == [3 * 3 * 4, 8 * 2 * 4]


def test_arguments_with_a_default_keep_it():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.conv = fixed(3, 8, 3), nn.Conv2d(8, 1, 1)

        def forward(self, x, extra=None, scale=1.0):
            y = self.gate(x)
            return self.conv(y if extra is None else y + extra) * scale

    assert count_macs(Skip(), torch.rand(1, 3, 1, 1)).layers[-1].active.item() == 3

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.skip = Skip()

        def forward(self, x):
            return self.skip(x, extra=1.0) if x.sum() > -1e9 else x

    # called in another way than it was followed: nothing is known
    assert count_macs(Calls(), torch.rand(1, 3, 1, 1)).layers[-1].active.item() == 8


def test_hooks_see_tensors_while_a_network_is_counted():
    net = nn.Sequential(nn.Sequential(fixed(3, 8, 3), nn.Conv2d(8, 8, 1)), nn.Conv2d(8, 1, 1))
    seen = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output))
    report = count_macs(net, torch.rand(1, 3, 1, 1))
    assert [layer.active.item() for layer in report.layers] == [3 * 3, 3 * 8, 8]
    assert [type(output) for output in seen] == [torch.Tensor]


def test_in_inference_mode_the_count_is_the_same():
    with torch.inference_mode():
        net = nn.Sequential(fixed(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1))
        assert count_macs(net, torch.rand(1, 3, 1, 1)).layers[-1].active.item() == 3


# What follows what


def test_chains_of_all_parts():
    parts = traceable_parts(Branching())
    kinds = [tuple(type(module) for module in chain) for chain in chains(parts)]
    pair = (nn.Conv2d, nn.BatchNorm2d)
    assert kinds == [(*pair, nn.ReLU), (*pair, type(None)), (*pair, type(None))]


def test_a_weight_read_by_other_code_is_no_part_of_a_chain():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    outer = Function(lambda x, inner: inner(x) * inner[1].weight.sum(), net)
    assert not chains(traceable_parts(outer)) and len(chains(traceable_parts(net))) == 1
    net.register_forward_hook(lambda module, args, output: None)  # now a part of its own
    assert len(traceable_parts(outer).graphs) == 2 and not chains(traceable_parts(outer))


def test_the_last_convolution_of_a_block():
    conv = nn.Conv2d(4, 4, 1)
    for after in (nn.ReLU(), nn.SiLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Sigmoid()):
        assert last_convolution(ChannelPruning(conv, after)) is conv
    for after in (nn.GroupNorm(1, 4), nn.Softmax2d(), nn.ChannelShuffle(2), conv):
        assert last_convolution(ChannelPruning(conv, after)) is None


def test_replace_under_every_name():
    relu, net = nn.ReLU(), nn.Sequential(nn.Sequential(), nn.Identity())
    net[0].add_module("a", relu), net.add_module("b", relu)
    new = nn.SiLU()
    assert replace(net, relu, new) is net and net[0].a is new and net.b is new
    assert replace(net, net, new) is new
