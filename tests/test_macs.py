import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    active_channels,
    convert,
    count_macs,
    load_pretrained,
    saliency_penalty,
    set_density,
)
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.models import mcifarnet

M_CIFARNET = [  # in, out, positions of the output map
    (3, 64, 900), (64, 64, 900), (64, 128, 225), (128, 128, 225), (128, 128, 225),
    (128, 192, 64), (192, 192, 64), (192, 192, 64),
]  # fmt: skip
PAPER = {
    1.0: 174301824, 0.9: 142817906, 0.8: 113437234, 0.7: 86497200, 0.6: 64008629,
    0.5: 43964736, 0.4: 28933682, 0.3: 16644370, 0.2: 7443696, 0.1: 2046485,
}  # fmt: skip


@pytest.mark.parametrize(("density", "expected"), PAPER.items())
def test_arithmetic_of_m_cifarnet(density, expected):
    live = {3: 3, **{c: active_channels(c, density) for c in (64, 128, 192)}}
    convs = sum(live[ins] * live[outs] * 9 * positions for ins, outs, positions in M_CIFARNET)
    assert convs + live[192] * 10 == expected


def test_count_of_m_cifarnet():
    net = convert(mcifarnet(), gates="random")
    image = torch.rand(1, 3, 32, 32)
    for density, expected in PAPER.items():
        report = count_macs(set_density(net, density), image)
        assert report.active.tolist() == [expected]
        assert report.dense == 174301824
        assert report.overhead == sum(ins * outs for ins, outs, _ in M_CIFARNET) == 143552
        assert report.scaling == sum(outs * at for _, outs, at in M_CIFARNET) == 238464


def grouped_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        nn.Conv2d(8, 12, (3, 1), groups=4, dilation=2),
        nn.Conv2d(12, 12, 3, groups=12, bias=False),
        nn.Flatten(),
        nn.LazyLinear(7),
    )


@pytest.mark.parametrize(
    "build",
    [
        mcifarnet,
        grouped_net,
        torchvision.models.resnet18,
        torchvision.models.mobilenet_v2,
        torchvision.models.shufflenet_v2_x0_5,
    ],
)
def test_dense_is_what_pytorch_counts(build):
    net, image = build().eval(), torch.rand(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        net(image)
    report = count_macs(net, image)
    assert report.dense == counter.get_total_flops() / 2
    assert report.active.tolist() == [report.dense]
    assert (report.overhead, report.scaling, report.speedup) == (0, 0, 1.0)


def fixed(ins, outs, k=None, *, ranking="first", kernel=1, **options):
    """A gated layer whose ``k`` winners are always the first channels, or the last."""
    layer = GatedConv2d(ins, outs, kernel, density=(k or outs) / outs, **options)
    nn.init.zeros_(layer.predictor.weight)
    bias = torch.linspace(2, 1, outs)
    layer.predictor.bias.data = bias if ranking == "first" else bias.flip(0)
    return layer


def live_inputs_after(*modules, image=(3, 4, 4)):
    """How many inputs of the last module, which has one output, are live."""
    last = count_macs(nn.Sequential(*modules), torch.randn(1, *image)).layers[-1]
    return last.active.item() / last.dense * modules[-1].weight.numel()


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.ReLU(),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, padding=1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout(0.9),
        nn.Dropout2d(0.9),
        nn.ChannelShuffle(4),
        nn.Upsample(scale_factor=2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_winners_stay_alone_through(between):
    assert live_inputs_after(fixed(3, 8, 3), between, nn.Conv2d(8, 1, 1)) == 3


@pytest.mark.parametrize(
    "between",
    [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8), nn.Sigmoid()],
    ids=["batch norm", "without scale and shift", "group norm", "sigmoid"],
)
def test_every_channel_is_live_after(between):
    assert live_inputs_after(fixed(3, 8, 3), between, nn.Conv2d(8, 1, 1)) == 8


def test_a_linear_layer_reads_the_columns_of_live_channels():
    assert live_inputs_after(fixed(3, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 1)) == 3 * 16


class Joined(nn.Module):
    def __init__(self, join, left, right):
        super().__init__()
        self.join, self.left, self.right = join, left, right

    def forward(self, x):
        return self.join(self.left(x), self.right(x))


def cat(*parts):
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("join", "ranking", "live"),
    [
        (torch.add, "first", 4),  # {0, 1, 2} or {0, 1, 2, 3}
        (torch.add, "last", 7),  # {0, 1, 2} or {4, 5, 6, 7}
        (torch.sub, "first", 4),
        (torch.mul, "first", 3),
        (torch.mul, "last", 0),
        (cat, "last", 7),
    ],
    ids=[
        "sum, overlap", "sum", "difference, overlap", "product, overlap", "product",
        "concatenation",
    ],
)  # fmt: skip
def test_where_branches_meet(join, ranking, live):
    branches = Joined(join, fixed(3, 8, 3), fixed(3, 8, 4, ranking=ranking))
    reader = nn.Conv2d(16 if join is cat else 8, 1, 1)
    assert live_inputs_after(branches, reader) == live


def test_a_shuffle_moves_winners_between_groups():
    """Winners 0 to 3 of 8 all feed the first of two groups, or after a shuffle two each."""
    grouped = fixed(8, 8, 2, groups=2)  # its winners are in the first group
    for between, live in ((nn.Identity(), 4), (nn.ChannelShuffle(2), 2)):
        report = count_macs(
            nn.Sequential(fixed(3, 8, 4), between, grouped), torch.randn(1, 3, 1, 1)
        )
        assert report.layers[-1].active.tolist() == [live * 2]


def test_a_suppressed_depthwise_channel_costs_nothing():
    net = nn.Sequential(fixed(3, 8, 5), fixed(8, 8, 3, ranking="last", groups=8))
    report = count_macs(net, torch.randn(1, 3, 2, 2))
    assert report.layers[-1].active.tolist() == [0]  # it keeps 5, 6 and 7, its input 0 to 4
    assert report.layers[-1].dense == 8 * 4


def test_only_the_last_convolution_of_a_pruned_block_is_skipped():
    block = ChannelPruning(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), density=0.5)
    report = count_macs(
        nn.Sequential(fixed(3, 8, 5), block, nn.Conv2d(4, 7, 1)), torch.randn(1, 3, 2, 2)
    )
    actives = [layer.active.item() for layer in report.layers]
    assert actives == [3 * 5 * 4, 5 * 6 * 4, 6 * 2 * 4, 2 * 7 * 4]
    assert report.overhead == 3 * 8 + 8 * 4
    assert report.scaling == 8 * 4 + 4 * 4


def test_every_predictor_is_counted_when_gates_are_nested():
    block = ChannelPruning(GatedConv2d(3, 8, 1), GatedConv2d(8, 4, 1))
    report = count_macs(block, torch.randn(1, 3, 2, 2))
    assert report.overhead == 3 * 8 + 8 * 4 + 3 * 4


def test_a_winner_with_gate_0_counts_by_gates_but_not_by_zeros():
    layer = GatedConv2d(3, 8, 1, density=0.5)
    nn.init.zeros_(layer.predictor.weight)
    nn.init.constant_(layer.predictor.bias, -1.0)
    net, image = nn.Sequential(layer, nn.Conv2d(8, 2, 1)), torch.randn(1, 3, 1, 1)
    by_gates, by_zeros = count_macs(net, image, by="gates"), count_macs(net, image, by="zeros")
    assert [x.active.item() for x in by_gates.layers] == [3 * 4, 4 * 2]
    assert [x.active.item() for x in by_zeros.layers] == [3 * 4, 0]


def brute_force(net, x):
    """MACs by zeros of a chain of gated layers: pairs of a live input and a winner, in loops."""
    total = 0
    for layer in net:
        y, conv = layer(x), layer.conv
        per_in, per_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        for winner in winner_mask(layer.saliency, layer.density)[0].nonzero().flatten().tolist():
            first = winner // per_out * per_in
            live = sum(bool(channel.any()) for channel in x[0, first : first + per_in])
            total += live * conv.kernel_size[0] ** 2 * y[0, 0].numel()
        x = y
    return total


def test_by_zeros_equals_brute_force_and_is_at_most_by_gates():
    net = nn.Sequential(
        GatedConv2d(3, 16, 3, density=0.8),
        GatedConv2d(16, 16, 3, stride=2, groups=4, density=0.5),
        GatedConv2d(16, 16, 3, padding=1, groups=16, density=0.9),
        GatedConv2d(16, 5, 1, density=0.5),
    ).eval()
    for layer in net:
        nn.init.normal_(layer.beta)
    images = torch.randn(6, 3, 8, 8)
    images[0, 1] = 0
    zeros = count_macs(net, images, by="zeros").active
    assert zeros.tolist() == [brute_force(net, image[None]) for image in images]
    assert len(zeros.unique()) > 1
    gates = count_macs(net, images, by="gates").active
    assert (zeros <= gates).all() and (zeros < gates).any()


def test_an_image_of_nothing_costs_nothing_by_zeros():
    report = count_macs(GatedConv2d(3, 8, 1), torch.zeros(1, 3, 2, 2), by="zeros")
    assert report.active.tolist() == [0]
    assert report.speedup == float("inf")
    assert "total" in str(report)


def test_densities_of_their_own_give_counts_of_their_own():
    net, images = load_pretrained("digits"), torch.rand(3, 1, 16, 16)
    expected = [count_macs(set_density(net, d), images[:1]).active.item() for d in (0.1, 0.55, 1.0)]
    set_density(net, torch.tensor([0.1, 0.55, 1.0]))
    assert count_macs(net, images).active.tolist() == expected


@pytest.mark.parametrize("by", ["gates", "zeros"])
def test_the_model_is_left_as_it_was(by):
    net = nn.Sequential(GatedConv2d(3, 8, 3), nn.Dropout(), ChannelPruning(nn.Conv2d(8, 4, 3)))
    net[2].eval()
    net(torch.randn(4, 3, 8, 8))
    gated = [net[0], net[2]]
    before = [(layer.saliency, layer.gate) for layer in gated]
    modes, state = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    count_macs(net, torch.randn(2, 3, 8, 8), by=by)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    for layer, (saliency, gate) in zip(gated, before, strict=True):
        assert layer.saliency is saliency and layer.gate is gate
    saliency_penalty(net).backward()  # the graph of the last training batch is still there


def test_the_model_is_left_as_it_was_when_the_count_fails():
    net = nn.Sequential(GatedConv2d(3, 8, 3), nn.Conv2d(9, 4, 3))
    with pytest.raises(RuntimeError):
        count_macs(net, torch.randn(1, 3, 8, 8))
    assert all(m.training and not m._forward_hooks for m in net.modules())


@st.composite
def chains(draw):
    """Layers (groups, in, out, k) of 1x1 convolutions whose first k outputs win."""
    layers, ins = [], 3
    for _ in range(draw(st.integers(1, 4))):
        outs = draw(st.sampled_from([4, 6, 12]))
        groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if ins % g == outs % g == 0]))
        layers.append((groups, ins, outs, draw(st.integers(1, outs))))
        ins = outs
    return layers


@settings(max_examples=30)
@given(chains(), st.integers(1, 3))
def test_a_chain_costs_what_arithmetic_says(chain, size):
    net = nn.Sequential(*(fixed(i, o, k, groups=g) for g, i, o, k in chain))
    expected, live = 0, 3
    for groups, ins, outs, k in chain:
        for group in range(groups):  # how many of the first `live` and `k` fall into it
            inputs = min(max(live - group * ins // groups, 0), ins // groups)
            outputs = min(max(k - group * outs // groups, 0), outs // groups)
            expected += inputs * outputs * size * size
        live = k
    report = count_macs(net, torch.randn(1, 3, size, size))
    assert report.active.tolist() == [expected]
    assert report.dense == sum(i // g * o * size * size for g, i, o, _ in chain)
    assert report.overhead == sum(i * o for _, i, o, _ in chain)


def test_prints_as_a_table_with_its_totals():
    net = convert(mcifarnet(), 0.5)
    lines = str(count_macs(net, torch.rand(2, 3, 32, 32))).splitlines()
    assert lines[0].split() == ["layer", "dense", "active", "share"]
    assert [line.split()[0] for line in lines[1:9]] == [f"conv{i}" for i in range(1, 9)]
    assert lines[10].split() == ["total", "174,301,824", "43,964,736", "25.2%"]
    assert lines[11].split() == ["predictors", "143,552"]
    assert lines[12].split() == ["scaling", "238,464"]
    assert "3.96 times fewer MACs" in lines[13]
    assert len({len(line) for line in lines[:11]}) == 1  # the columns are straight


def test_differences_of_live_channels_stay_live():
    class Centred(nn.Module):
        def forward(self, x):
            return 1 - x + x.mean(dim=(2, 3), keepdim=True)

    net = nn.Sequential(Centred(), nn.Conv2d(3, 4, 1, bias=False))
    assert count_macs(net, torch.rand(2, 3, 5, 5)).active.tolist() == [3 * 4 * 25] * 2


def test_a_block_is_not_skipped_where_channels_mix_after_its_convolution():
    x = torch.rand(1, 3, 5, 5)
    mixing = ChannelPruning(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), density=0.5)
    apart = ChannelPruning(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), density=0.5)
    assert count_macs(mixing, x).active.tolist() == [3 * 8 * 25]
    assert count_macs(apart, x).active.tolist() == [3 * 4 * 25]


class ConvSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.softmax(self.conv(x), dim=1)


class UntilPositive(ConvSoftmax):
    """Cannot be followed: the flow depends on values."""

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def twice():
    conv = nn.Conv2d(4, 4, 1)
    return conv, nn.Identity(), conv


@pytest.mark.parametrize(
    ("layers", "runs"),
    [(twice(), 2), ((ConvSoftmax(),), 1), ((UntilPositive(),), 1)],
    ids=["runs twice", "function", "not traceable"],
)
def test_a_convolution_of_a_block_counts_in_full_where_an_execution_cannot_skip(layers, runs):
    block, x = ChannelPruning(*layers, density=0.5).eval(), torch.rand(1, 4, 5, 5)
    report = count_macs(block, x, by="zeros")
    assert report.active.tolist() == [runs * 16 * 25]
    with FlopCounterMode(display=False) as counter:
        accelerate(block)(x)
    assert counter.get_total_flops() / 2 == report.active.item() + report.overhead
    apart = ChannelPruning(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), density=0.5)
    assert count_macs(apart, x, by="zeros").active.tolist() == [16 * 25 / 2]


def test_a_linear_layer_on_tokens_counts_every_position():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 7)

        def forward(self, x):
            return self.linear(x.flatten(2).transpose(1, 2).reshape(-1, 3))

    assert count_macs(Tokens(), torch.rand(2, 3, 5, 5)).active.tolist() == [25 * 3 * 7] * 2


class Striped(nn.Module):
    """A made-up layer that leaves out part of its kernel for good, and has no attributes of a
    convolution: pair (o, i) keeps ``kept[o, i]`` of 9 taps."""

    def __init__(self, ins, kept):
        super().__init__()
        self.inner = (torch.nn.functional.conv2d, torch.randn(*kept.shape, 3, 3))
        self.ins, self.kept = ins, kept

    def forward(self, x):
        function, weight = self.inner
        return function(x, weight, padding=1, groups=self.ins // self.kept.shape[1])

    def kept_pairs(self):
        return self.kept

    def dense_macs(self, positions):
        return self.kept.numel() * 9 * positions


@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_with_kept_pairs_is_counted_by_them_alone(groups):
    kept = torch.arange(6 * 8 // groups).reshape(6, -1) % 10
    layer = Striped(8, kept)
    report = count_macs(nn.Sequential(fixed(3, 8, 5), nn.ReLU(), layer), torch.rand(2, 3, 4, 4))
    assert report.layers[-1].dense == 6 * 8 // groups * 9 * 16
    pairs = 0
    for out in range(6):
        for i in range(8 // groups):
            channel = out // (6 // groups) * (8 // groups) + i  # the input that pair (out, i) reads
            pairs += kept[out, i].item() * (channel < 5)
    assert report.layers[-1].active.tolist() == [pairs * 16] * 2


def test_kept_pairs_and_winners_of_a_gated_layer_both_count():
    class Masked(nn.Conv2d):
        def kept_pairs(self):
            return torch.full((8, 3), 9).index_fill(1, torch.tensor([1]), 0)

        def dense_macs(self, positions):
            return 8 * 3 * 9 * positions

    layer = fixed(3, 8, 2, kernel=3)
    layer.conv = Masked(3, 8, 3, bias=False)
    report = count_macs(layer, torch.rand(1, 3, 4, 4))
    assert report.active.tolist() == [2 * 2 * 9 * 4] and report.dense == 8 * 3 * 9 * 4


class Frames(nn.Module):
    """Each image has four frames among its channels; they go through the layers as rows."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = GatedConv2d(3, 8, 3, density=0.5), GatedConv2d(8, 8, 3, density=0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.conv(self.first(x.view(-1, 3, *x.shape[2:]))).mean(dim=(2, 3))
        return self.head(y.view(len(x), 4, -1).mean(dim=1))


class Views(Frames):
    """Two views of each image, one after the other in the batch: first all images, then all again;
    the first layer sees each image once."""

    def forward(self, x):
        y = self.first(x)
        y = self.conv(torch.cat([y, y.flip(3)])).mean(dim=(2, 3))
        return self.head(sum(y.chunk(2)))


class Tokens(Frames):
    """A linear layer on places as rows, which come before the images."""

    def forward(self, x):
        y = self.conv(self.first(x)).flatten(2).permute(2, 0, 1)  # [H * W, N, C]
        return self.head(y).mean(dim=0)


@pytest.mark.parametrize("by", ["gates", "zeros"])
@pytest.mark.parametrize(
    ("build", "channels", "rows"),
    [(Frames, 12, (4, 4, 1)), (Views, 3, (1, 2, 1)), (Tokens, 3, (1, 1, 4))],
)  # fmt: skip
def test_several_rows_of_an_image_are_its_own(build, channels, rows, by):
    net, images = build().eval(), torch.rand(3, channels, 6, 6)
    images[1] = 0  # it costs less by zeros
    report = count_macs(net, images, by=by)
    alone = [count_macs(net, images[i : i + 1], by=by).active.item() for i in range(3)]
    assert report.active.tolist() == alone
    macs = [3 * 8 * 9 * 16, 8 * 8 * 9 * 4, 8 * 5]
    assert [layer.dense for layer in report.layers] == [r * m for r, m in zip(rows, macs)]  # noqa: B905
    assert report.overhead == rows[0] * 3 * 8 + rows[1] * 8 * 8
    assert report.scaling == rows[0] * 8 * 16 + rows[1] * 8 * 4
    if by == "zeros":
        assert alone[1] < min(alone[0], alone[2])


@pytest.mark.parametrize("by", ["gates", "zeros"])
def test_several_rows_and_densities_of_their_own(by):
    net, images = Tokens(), torch.rand(3, 3, 6, 6)
    expected = [
        count_macs(set_density(net, d), images[:1], by).active.item() for d in (0.2, 0.5, 1)
    ]
    densities = torch.tensor([0.2, 0.5, 1.0])
    set_density(net, densities)
    images = images[:1].expand(3, -1, -1, -1)
    assert count_macs(net, images, by).active.tolist() == expected
    assert net.first.density is net.conv.density is densities
    frames = set_density(Frames(), torch.full((12,), 0.5))
    with pytest.raises(ValueError, match="one density per image, 3; model has 12"):
        count_macs(frames, torch.rand(3, 12, 6, 6), by)


def test_what_does_not_run_for_an_image_costs_it_nothing():
    class EarlyExit(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.more = nn.Parameter(torch.ones(2, 2))

        def forward(self, x):
            y = self.first(x)
            if x.mean() > 0.5:
                y = self.second(y)
            return y.mean(dim=(2, 3))[:, :2] @ self.more

    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])
    report = count_macs(EarlyExit(), images, by="zeros")
    layers = {layer.name: layer.active.tolist() for layer in report.layers}
    assert layers == {
        "first": [0, 192, 0], "second": [0, 128, 0], "the model itself": [4, 4, 4],
    }  # fmt: skip
    assert report.dense == 192 + 128 + 4


class Own(nn.Module):
    """A layer whose own code multiplies: ``function(self, x)``, with a matrix."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)
        self.matrix = nn.Parameter(torch.rand(8, 8))

    def forward(self, x):
        return self.function(self, x)


def by_places(x):
    """``[N, C, H, W] -> [N, H * W, C]``"""
    return x.flatten(2).transpose(1, 2)


def from_places(y):
    return y.transpose(1, 2).unflatten(2, (4, 4))


BLOCKS = {  # from [N, 8, 4, 4] to itself
    "gated": lambda: GatedConv2d(8, 8, 3, padding=1, density=0.5),
    "grouped": lambda: nn.Conv2d(8, 8, 1, groups=4),
    "subclass": lambda: type("Mine", (nn.Conv2d,), {})(8, 8, 1),
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2),
    "1d": lambda: Own(lambda m, x: m.layers[0](x.flatten(2)).view_as(x), nn.Conv1d(8, 8, 1)),
    "3d": lambda: Own(lambda m, x: m.layers[0](x[:, :, None])[:, :, 0], nn.Conv3d(8, 8, 1)),
    "matmul": lambda: Own(lambda m, x: from_places(by_places(x) @ m.matrix)),
    "einsum": lambda: Own(lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.matrix)),
    "functional": lambda: Own(lambda m, x: F.conv2d(x, m.matrix[:, :, None, None])),
    "attention": lambda: Own(
        lambda m, x: from_places(m.layers[0](*[by_places(x)] * 3)[0]),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ),
    "encoder": lambda: Own(
        lambda m, x: from_places(m.layers[0](by_places(x))),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    ),
    "gru": lambda: Own(
        lambda m, x: from_places(m.layers[0](by_places(x))[0]), nn.GRU(8, 8, batch_first=True)
    ),
    "forward itself": lambda: Own(lambda m, x: m.layers[0].forward(x), nn.Conv2d(8, 8, 1)),
    "twice": lambda: Own(lambda m, x: m.layers[0](m.layers[0](x)), nn.Conv2d(8, 8, 1)),
    "linear": lambda: Own(lambda m, x: from_places(m.layers[0](by_places(x))), nn.Linear(8, 8)),
    "untraceable": lambda: Own(lambda m, x: x @ m.matrix[:4, :4] if x.sum() > 0 else x),
}  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5), st.booleans())
def test_dense_and_predictors_are_what_pytorch_counts_in_any_network(names, by_gates):
    start = nn.Sequential(nn.ReLU())  # a part that can be followed
    net = nn.Sequential(start, *(BLOCKS[name]() for name in names)).eval()
    images = torch.rand(2, 8, 4, 4)
    report = count_macs(net, images, by="gates" if by_gates else "zeros")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(images[:1])
    torch.backends.mha.set_fastpath_enabled(before)
    assert report.dense + report.overhead == counter.get_total_flops() / 2
    assert report.active.shape == (2,) and (report.active <= report.dense).all()
    assert report.uncounted == []
    plain = {"gated", "grouped", "subclass", "twice", "linear"}
    assert bool(report.whole) == bool(set(names) - plain)


def test_what_is_counted_whole_is_named_in_the_report():
    net = nn.Sequential(fixed(3, 8, 4), nn.ConvTranspose2d(8, 4, 2, 2), fixed(4, 4, 2))
    report = count_macs(net, torch.rand(2, 3, 4, 4))
    assert [layer.active.tolist() for layer in report.layers] == [
        [3 * 4 * 16] * 2, [4 * 2 * 64] * 2, [8 * 4 * 4 * 16] * 2,
    ]  # fmt: skip
    assert str(report).splitlines()[-1] == "all channels count as live in 1"


def test_what_cannot_be_counted_is_named_in_the_report():
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.weight = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 4, 1, 1))

        def forward(self, x):
            y = self.conv(x)
            return torchvision.ops.deform_conv2d(y, y.new_zeros(len(y), 2, 4, 4), self.weight)

    report = count_macs(nn.Sequential(Deformed()), torch.rand(2, 3, 4, 4), by="zeros")
    assert report.uncounted == ["torchvision.deform_conv2d in 0"]
    assert str(report).splitlines()[-1] == "not counted: torchvision.deform_conv2d in 0"


def test_recurrent_and_bilinear_layers_and_products_with_vectors():
    """PyTorch's own counter knows none of them."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
            self.bilinear, self.v = nn.Bilinear(10, 10, 4), nn.Parameter(torch.rand(4))

        def forward(self, x):
            y = self.lstm(x.flatten(2).permute(2, 0, 1))[0][-1]
            return torch.mv(self.bilinear(y, y), self.v)

    report = count_macs(Sequence(), torch.rand(2, 3, 4, 4))
    layers = {layer.name: layer.dense for layer in report.layers}
    assert layers == {
        "lstm": 16 * 2 * 20 * (3 + 5 + 10 + 5),
        "bilinear": 10 * 10 * 4,
        "the model itself": 4,
    }
    assert report.active.tolist() == [report.dense] * 2


def test_a_layer_that_multiplies_beside_its_weight_is_counted_so():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.down, self.up = nn.Parameter(torch.rand(2, 8)), nn.Parameter(torch.rand(8, 2))

        def forward(self, x):
            return super().forward(x) + x @ self.down.T @ self.up.T

    net = nn.Sequential(nn.Flatten(), Adapted())
    report = count_macs(net, torch.rand(3, 8, 1, 1))
    assert report.active.tolist() == [64 + 32] * 3 and report.whole == ["1"]


def test_ways_to_call_a_layer():
    """Its input by keyword, as one map or one row of features, or image by image."""

    class Calls(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.conv, self.linear, self.form = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), form

        def forward(self, x):
            return self.form(self, x)

    forms = [
        lambda m, x: m.linear(input=m.conv(input=x).mean(dim=(2, 3))),
        lambda m, x: torch.stack([m.linear(m.conv(image).mean(dim=(1, 2))) for image in x]),
        lambda m, x: m.linear(m.conv(x).mean(dim=(2, 3)).squeeze()),
    ]
    for form in forms:
        for images in (1, 3):
            report = count_macs(Calls(form), torch.rand(images, 3, 4, 4), by="zeros")
            assert report.active.tolist() == [3 * 4 * 16 + 4 * 5] * images and report.whole == []
    pooled = Calls(lambda m, x: m.linear(m.conv(x).mean(dim=(0, 2, 3))))
    with pytest.raises(ValueError, match="linear runs on 1 rows, not on a multiple of 3 images"):
        count_macs(pooled, torch.rand(3, 3, 4, 4))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, torch.jit.script])
def test_wrapped_networks_are_counted(wrap):
    net, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        torch.rand(2, 3, 8, 8),
    )
    wrapped = wrap(net, backend="eager") if wrap is torch.compile else wrap(net)
    assert count_macs(wrapped, x, by="zeros").dense == count_macs(net, x).dense


def test_tensors_without_values_are_refused_among_others():
    for net, x in ((nn.Conv2d(3, 8, 3).to("meta"), "cpu"), (nn.Conv2d(3, 8, 3), "meta")):
        with pytest.raises(ValueError, match="meta device"):
            count_macs(net, torch.rand(1, 3, 8, 8, device=x))


def test_a_transformer_is_fast_again_after_the_count_also_of_one_that_fails():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(9, 8, 1))
    with pytest.raises(RuntimeError):
        count_macs(net, torch.rand(1, 3, 4, 4))
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_rows_that_belong_to_no_image_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 7)

        def forward(self, x):
            return self.linear(x.flatten(2).transpose(1, 2).reshape(-1, 3)[:-1])

    says = "linear runs on 49 rows, not on a multiple of 2 images: .* let the model fold its frames"
    with pytest.raises(ValueError, match=says):
        count_macs(Odd(), torch.rand(2, 3, 5, 5))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_an_activation_inside_a_gated_layer_keeps_empty_channels_empty(activation):
    """The counters' own hooks on it are not somebody's change of it."""
    parts = [nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), activation()]
    parts += [nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)]
    network = convert(nn.Sequential(*parts).eval(), 0.5, gates="random")
    layers = count_macs(network, torch.rand(2, 3, 4, 4)).layers
    assert [(x.active / x.dense).tolist() for x in layers] == [[0.5, 0.5], [0.25, 0.25]]
