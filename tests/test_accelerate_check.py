"""`accelerate` compares itself with the masked network, once, and runs masked what differs."""

import collections
import copy
import dataclasses
import gc
import io
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from test_convert import difference
from test_execution import used
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fbs_tutorial import ChannelPruning, GatedConv2d, accelerate, count_macs, set_density
from fbs_tutorial.execution import check
from fbs_tutorial.execution.cpu import CpuConv
from fbs_tutorial.execution.layers import SparseConv2d, SparseGatedConv2d
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.models import mcifarnet


def network():
    block = ChannelPruning(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), density=0.5)
    layers = [GatedConv2d(3, 8, 3, padding=1, density=0.5), nn.MaxPool2d(2), block]
    layers += [nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 5)]
    return used(nn.Sequential(*layers))


X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def faulty(monkeypatch):
    """A backend that is wrong for convolutions of 8 inputs and these outputs."""

    def plant(outs=8, fault=lambda y: y + 1):
        right = CpuConv.run

        def wrong(self, maps, kernels, *args, **kwargs):
            y = right(self, maps, kernels, *args, **kwargs)
            return fault(y) if self.in_channels == 8 and self.out_channels == outs else y

        monkeypatch.setattr(CpuConv, "run", wrong)

    return plant


def warned(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        y = call()
    return y, [str(warning.message) for warning in found]


def test_where_all_is_well_nothing_is_said_or_changed():
    net = network()
    fast = accelerate(net)
    modules = list(fast.modules())
    y, said = warned(lambda: fast(X))
    assert said == [] and list(fast.modules()) == modules
    assert difference(y, net(X)) < 1e-4


def test_a_layer_that_differs_is_named_and_runs_masked(faulty):
    faulty()
    net = network()
    fast = accelerate(net)
    y, said = warned(lambda: fast(X))
    assert difference(y, net(X)) < 1e-4
    assert any("runs 2.block.0 masked" in text for text in said)
    assert any("runs 3 masked" in text for text in said) and len(said) == 2
    assert isinstance(fast[0], SparseGatedConv2d)  # only what differs
    assert type(fast[3]) is nn.Conv2d and type(fast[2][0]) is nn.Conv2d
    y, said = warned(lambda: fast(X))
    assert said == []
    set_density(fast, 1.0), set_density(net, 1.0)  # masked layers too
    assert difference(fast(X), net(X)) < 1e-4


def test_without_the_check_nothing_is_compared(faulty):
    faulty()
    net = network()
    y, said = warned(lambda: accelerate(net, check=False)(X))
    assert said == [] and difference(y, net(X)) > 1e-2


@pytest.mark.parametrize("fault", [lambda y: y[:, :-1], lambda y: 1 / 0, lambda y: y * float("nan"),
                                   lambda y: y * (1 + 1e-3)])  # fmt: skip
def test_errors_shapes_nan_and_small_differences_are_found(faulty, fault):
    faulty(fault=fault)
    net = network()
    fast = accelerate(net)
    y, said = warned(lambda: fast(X))
    assert said and difference(y, net(X)) < 1e-4


def test_a_gated_layer_that_differs_and_is_the_network_itself(faulty):
    faulty(outs=6)
    layer = used(GatedConv2d(8, 6, 3, density=0.5))
    fast, x = accelerate(layer), torch.rand(2, 8, 5, 5)
    y, said = warned(lambda: fast(x))
    assert len(said) == 1 and difference(y, layer(x)) < 1e-4
    for density in (1.0, 0.2):
        set_density(fast, density), set_density(layer, density)
        assert difference(fast(x), layer(x)) < 1e-4
        assert difference(fast.gate, layer.gate) < 1e-4


def test_a_calibrated_layer_that_differs(faulty):
    from fbs_tutorial import calibrate

    faulty()
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), GatedConv2d(8, 8, 3, density=0.5)))
    calibrate(net, torch.rand(16, 3, 8, 8), [0.25, 0.5, 1.0])
    fast = accelerate(net)
    _, said = warned(lambda: fast(X))
    assert len(said) == 1
    for density in (0.25, 1.0):
        set_density(fast, density), set_density(net, density)
        assert difference(fast(X), net(X)) < 1e-4


class AsksForAType(nn.Module):
    """Its code cannot be followed, and looks at the types of its layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            GatedConv2d(8, 8, 3, padding=1, density=0.5), nn.Conv2d(8, 8, 1)
        )

    def forward(self, x):
        if not list(x[0, 0, 0]):  # which nobody can follow
            return x
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, (nn.Conv2d, GatedConv2d)):
                x = F.max_pool2d(x, 2)
        return x


class KeepsALayer(nn.Module):
    """Runs a layer that it has in a function, which no replacement reaches."""

    def __init__(self):
        super().__init__()
        self.layer = GatedConv2d(8, 8, 3, padding=1, density=0.5)
        layer = self.layer
        self.run = [lambda x: layer(x)]

    def forward(self, x):
        return self.run[0](x) if list(x[0, 0, 0]) else x


@pytest.mark.parametrize("part", [AsksForAType, KeepsALayer])
def test_code_that_cannot_be_followed(part):
    layers = GatedConv2d(3, 8, 3, padding=1, density=0.5), part(), nn.Conv2d(8, 4, 1)
    net = used(nn.Sequential(*layers))
    fast = accelerate(net)
    y, said = warned(lambda: fast(X))
    assert difference(y, net(X)) < 1e-4
    if part is AsksForAType:
        assert said and all("1" in text for text in said)
        assert isinstance(fast[2], SparseConv2d)


# Nobody sees it


def test_counters_and_profilers_do_not_see_it():
    net = used(mcifarnet_gated())
    x = torch.rand(1, 3, 32, 32)
    report = count_macs(net, x, by="zeros")
    with FlopCounterMode(display=False) as counter:
        accelerate(net)(x)
    assert counter.get_total_flops() / 2 == report.active.item() + report.overhead

    def operations(net):
        with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
            net(x)
        return sum(event.count for event in seen.key_averages() if "conv" in event.key)

    fast = accelerate(net)
    assert operations(fast) == operations(fast)


def mcifarnet_gated():
    from fbs_tutorial import convert

    return convert(mcifarnet(), 0.3, gates="random")


def test_hooks_and_attributes_see_one_run():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls, self.seen = GatedConv2d(3, 8, 3, density=0.5), 0, []
            self.register_buffer("total", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen.append(len(x))
            self.total += 1
            return self.layer(x)

    net, looks = Counts(), []
    net.layer.register_forward_hook(lambda *_: looks.append(1))
    net = nn.Sequential(GatedConv2d(3, 3, 1, density=0.5), net)
    fast = accelerate(used(net))
    fast[0].register_forward_hook(lambda *_: looks.append(2))
    fast(X)
    assert looks == [2, 1] and fast[1].calls == 1 and fast[1].seen == [3] and fast[1].total == 1


def test_random_numbers_are_drawn_as_without_it():
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), Noise()))
    outputs = []
    for checked in (True, False):
        fast = accelerate(net, check=checked)
        torch.manual_seed(1)
        y, said = warned(lambda fast=fast: fast(X))
        outputs.append(y)
        assert said == []
    assert torch.equal(*outputs)


class Noise(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5) + torch.randn_like(x)


def test_it_is_done_once_also_by_copies_and_threads(monkeypatch):
    runs, run = [], check.SelfCheck.compare
    monkeypatch.setattr(
        check.SelfCheck,
        "compare",
        lambda *args: (runs.append(threading.get_ident()), run(*args))[1],
    )
    net = network()
    fast = accelerate(net)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(accelerate(nn.Sequential(net[0]).eval(), "cpu"), [X] * 8):
            assert difference(y, net[0](X)) < 1e-4
    assert len(runs) == 1 and runs.pop() != threading.get_ident()
    twin = copy.deepcopy(fast)
    fast(X), fast(X)
    assert len(runs) == 1
    copy.deepcopy(fast)(X)
    assert len(runs) == 1  # a copy of a checked network is checked
    twin(X)
    assert len(runs) == 2
    file = io.BytesIO()
    torch.save(accelerate(net), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    loaded(X), loaded(X)
    assert len(runs) == 3


def test_nothing_is_kept(monkeypatch):
    net = network()
    weights = sum(p.numel() for p in net.parameters())
    fast = accelerate(net)
    (found,) = [h for h in fast._forward_pre_hooks.values() if isinstance(h, check.SelfCheck)]
    olds = [weakref.ref(old) for old in found.replaced]
    del net
    gc.collect()
    kept = [p for old in olds for m in old().modules() for p in m._parameters.values()]
    assert sum(p.numel() for p in kept if p is not None) < weights  # predictors, which are shared
    alive = {id(x) for x in gc.get_objects() if isinstance(x, torch.Tensor)}
    fast(X)
    del kept
    gc.collect()
    assert found.replaced == {} and not any(old() is not None for old in olds[:1])
    new = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and id(x) not in alive]
    assert sum(x.numel() for x in new) < 2000


def test_weights_are_as_they_are_at_that_call():
    net, other = network(), network()
    fast, from_other = accelerate(net), accelerate(other)
    state = from_other.state_dict()
    fast.load_state_dict(state)
    set_density(fast, 0.25), set_density(other, 0.25)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    y, said = warned(lambda: fast(X))
    assert said == [] and difference(y, other(X)) < 1e-4
    fast = accelerate(other).double()
    y, said = warned(lambda: fast(X.double()))
    assert said == [] and difference(y, other(X)) < 1e-4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_in_every_mode(mode, faulty):
    faulty()
    net = network()
    expected = net(X).detach()
    fast = accelerate(net)
    with mode():
        y, said = warned(lambda: fast(X))
    assert len(said) == 2 and difference(y, expected) < 1e-4
    assert difference(fast(X), expected) < 1e-4
    with torch.no_grad():
        assert difference(fast(X), expected) < 1e-4


def test_under_autocast_rounding_is_no_difference():
    net = network()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        _, said = warned(lambda: accelerate(net)(X))
    assert said == []


def test_densities_and_gates_of_a_batch():
    net = set_density(network(), torch.tensor([0.25, 0.5, 1.0]))
    y, said = warned(lambda: accelerate(net)(X))
    assert said == [] and difference(y, net(X)) < 1e-4
    set_density(net, 0.5)
    gates = {name: torch.rand(3, 8) * (torch.rand(3, 8) < 0.5) for name in gated_layers(net)}
    fast = accelerate(net)
    with forced_gates(fast, gates), forced_gates(net, gates):
        y, said = warned(lambda: fast(X))
        assert said == [] and difference(y, net(X)) < 1e-4


def test_a_layer_that_runs_twice_and_outputs_of_all_kinds():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = GatedConv2d(8, 8, 3, padding=1, density=0.25)

        def forward(self, x, again=True):
            y = self.layer(x)
            z = self.layer(y) if again else y
            return {"maps": [y, z], "best": z.flatten(1).argmax(dim=1), "name": "heads"}

    net = used(Heads())
    x = torch.rand(3, 8, 6, 6)
    y, said = warned(lambda: accelerate(net)(x, again=True))
    assert said == [] and y["name"] == "heads"
    assert difference(y["maps"][1], net(x)["maps"][1]) < 1e-4


def test_images_that_the_network_refuses_are_refused_as_before():
    fast = accelerate(network())
    for _ in range(3):
        with pytest.raises(ValueError, match="3 channels, got 4"):
            fast(torch.rand(2, 4, 8, 8))
    fast = accelerate(network())
    with pytest.raises(ValueError, match="empty"):
        fast(X[:0])
    _, said = warned(lambda: fast(X))
    assert said == []


def test_a_network_that_takes_whole_batches_only():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = GatedConv2d(3, 8, 3, density=0.5)

        def forward(self, x):
            a, b = self.layer(x).chunk(2)
            return a * b

    net, x = used(Pairs()), torch.rand(4, 3, 6, 6)
    y, said = warned(lambda: accelerate(net)(x))
    assert said == [] and difference(y, net(x)) < 1e-4


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    more: collections.OrderedDict


class NamedOutput(collections.OrderedDict):
    """As in libraries that know it by name and by key."""


@pytest.mark.parametrize("form", [Output, NamedOutput])
def test_outputs_of_ones_own_kind_are_compared_too(form, faulty):
    faulty(outs=6)

    class Wraps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), nn.Conv2d(8, 6, 1))

        def forward(self, x):
            y = self.layers(x)
            return form(logits=y, more=NamedOutput(maps=[y, "name"]))

    net = used(Wraps())
    y, said = warned(lambda: accelerate(net)(X))
    logits = y.logits if form is Output else y["logits"]
    assert len(said) == 1 and difference(logits, net.layers(X)) < 1e-4
