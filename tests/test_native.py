"""The compiled kernel: what it computes, what it leaves to others, and how it comes to be."""

import copy
import ctypes
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest
import torch
import torch.nn.functional as F
import torchvision
from test_execution import (
    Residual,
    assert_same,
    calibrated,
    conv_norm_relu,
    counted_macs,
    executed_macs,
    used,
)
from torch import nn
from torchvision.models.resnet import Bottleneck

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    calibrate,
    convert,
    load_data,
    load_pretrained,
    set_density,
)
from fbs_tutorial.execution import native
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.layers import winners_of
from fbs_tutorial.execution.native import NativeConv, Planes
from fbs_tutorial.method.convert import gate_layer, random_predictor
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.method.wta import rank_channels, winner_mask
from fbs_tutorial.models import mcifarnet

pytestmark = pytest.mark.needs(compiler=bool(native.compilers()))


@torch.no_grad()
def assert_native(net, x):
    """Equal to the masked network with the same winners; the kernel, and nothing else, gates."""
    fast, expected = accelerate(net, "native"), net(x)
    gates = {name: winner_mask(m.saliency, m.density) for name, m in gated_layers(net).items()}
    assert_same(fast(x), expected)
    with forced_gates(fast, gates):
        assert_same(fast(x), expected)
    return fast


# One layer


SHAPES = [  # images, inputs, outputs, size, kernel, stride, padding, dilation, groups
    (1, 16, 24, 32, 3, 1, 1, 1, 1),
    (3, 32, 50, 15, 3, 1, 1, 1, 1),
    (2, 32, 48, 30, 3, 2, 1, 1, 1),
    (2, 32, 48, 15, 3, 2, 1, 1, 1),
    (2, 3, 17, 32, 3, 1, 0, 1, 1),
    (1, 3, 64, 56, 7, 2, 3, 1, 1),
    (2, 20, 33, 14, 1, 2, 0, 1, 1),
    (2, 20, 33, 13, 1, 1, 0, 1, 1),
    (2, 20, 33, 4, 3, 1, 1, 1, 1),
    (2, 20, 33, 2, 3, 2, 1, 1, 1),
    (2, 20, 33, 1, 3, 1, 1, 1, 1),
    (2, 12, 9, 11, 5, 1, 2, 1, 1),
    (2, 12, 9, 11, 5, 2, 2, 1, 1),
    (2, 12, 9, 11, 7, 1, 3, 1, 1),
    (2, 12, 9, 13, 3, 3, 1, 1, 1),
    (2, 12, 9, 13, 2, 1, 1, 1, 1),
    (2, 12, 9, 13, 1, 1, 1, 1, 1),
    (2, 12, 9, 13, 3, 1, 2, 2, 1),
    (2, 12, 9, 13, 3, 2, 2, 2, 1),
    (2, 12, 9, 13, 3, 3, 2, 2, 1),
    (2, 12, 9, 13, (3, 1), (2, 1), (1, 0), 1, 1),
    (2, 12, 9, 13, (1, 5), (1, 2), (0, 2), 1, 1),
    (2, 12, 9, 13, (3, 2), (1, 3), (2, 1), (2, 1), 1),
    (2, 12, 12, 13, 3, 1, 1, 1, 12),
    (2, 12, 24, 13, 3, 2, 1, 1, 12),
    (2, 12, 20, 13, 3, 1, 1, 1, 4),
    (2, 12, 9, 13, 3, 1, "same", 1, 1),
    (2, 12, 9, 13, 4, 1, "same", 1, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_convolution(shape):
    """Also what it hands on: saliencies, and zeros around the maps, which the next layer reads."""
    n, c_in, c_out, size, kernel, stride, padding, dilation, groups = shape
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)
    for density in (1.0, 0.5, 0.2):
        for activation in (True, False):
            layer = used(gate_layer(conv, nn.BatchNorm2d(c_out), activation))
            layer.density = density
            x = torch.randn(n, c_in, size, size)
            x[:, c_in // 2] = 0
            fast = assert_native(layer, x)
            y = fast.conv.execute(fast, Compact(x, None, c_in))[1]
            expected = layer(x).detach()
            if conv.padding != "same" or kernel == 3:
                assert isinstance(y, Planes) and y.measured
                border_is_0(y)
                assert_same(y.among_all(y.measure()), expected.abs().mean((2, 3)))
            assert_same(y.dense(), expected)
            followers = [GatedConv2d(c_out, 8, 3, s, 1, density=0.5) for s in (1, 2)]
            for follower in followers:
                assert_native(nn.Sequential(layer, used(follower)).eval(), x)


def border_is_0(y):
    c, memory = y.c, y._memory[0]
    shape, strides = (c.n, c.k, c.h + 2, c.pitch), (c.image, c.plane, c.pitch, 1)
    around = memory.as_strided(shape, strides, 1).clone()  # from the pixel over the first
    around[:, :, 1:-1, : c.w] = 0
    assert not around.any()
    assert not memory.as_strided((c.n, c.k), (c.image, c.plane)).any()


# The other way


@pytest.fixture(params=[lambda live, *sizes: True, lambda live, *sizes: live % 2 == 0])
def gathering(request, monkeypatch):
    """One image always goes the other way; or in some layers, so that both read each other's."""
    monkeypatch.setattr(native, "gather_is_faster", request.param)


@pytest.mark.parametrize("shape", [(1, *shape[1:]) for shape in SHAPES[::3]], ids=str)
def test_layers_that_gather(gathering, shape):
    _, c_in, c_out, size, kernel, stride, padding, dilation, groups = shape
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)
    layers = gate_layer(conv, nn.BatchNorm2d(c_out), True), GatedConv2d(c_out, 8, 3, padding=1)
    for density in (1.0, 0.5, 0.2):
        net = used(set_density(nn.Sequential(*layers, GatedConv2d(8, 9, 3, 2, 1)), density))
        for x in (torch.randn(1, c_in, size, size), torch.randn(2, c_in, size, size)):
            assert_native(net, x)


@pytest.mark.parametrize(
    "name", ["resnet18", "bottlenecks", "vgg11_bn", "mobilenet_v2", "googlenet"]
)
def test_networks_with_layers_that_gather(gathering, name):
    test_networks(name)


def test_the_gather_is_for_many_channels_on_large_maps_of_one_image():
    def chosen(channels, side, density, taps=9):
        k = winners_of(channels, density)
        return native.gather_is_faster(k, k, taps, side**2, side**2, density == 1)

    assert chosen(64, 224, 0.5) and chosen(256, 56, 0.5) and chosen(512, 28, 1.0)
    assert not any(chosen(c, side, 0.5) for c, side in ((64, 30), (192, 8), (512, 7), (512, 14)))
    assert not any(chosen(c, side, 0.1) for c, side in ((64, 224), (256, 56), (512, 28)))
    layer = used(GatedConv2d(256, 256, 3, padding=1, density=0.5))
    conv = accelerate(layer, "native").conv
    sizes = Compact(torch.empty(1, 256, 56, 56), None, 256)
    assert conv.gathers(sizes, 128) and not conv.gathers(sizes, 8)
    assert not conv.gathers(Compact(torch.empty(2, 256, 56, 56), None, 256), 128)
    conv.chooses = False
    assert not conv.gathers(sizes, 128)


STORED = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.json"))


def test_the_choice_is_that_of_the_stored_times():
    """Of single layers both ways are timed; where they differ clearly, the faster one is taken."""
    rows = [row for path in STORED for row in json.loads(path.read_text())["rows"]]
    compared = 0
    for row in (row for row in rows if row["kind"] == "layer"):
        kernel = {v["density"]: v for v in row["variants"] if v["variant"] == "native"}
        gather = {v["density"]: v for v in row["variants"] if v["variant"] == "accelerated"}
        channels, side, _ = row["shape"]
        for density in kernel.keys() & gather.keys():
            k = winners_of(channels, density)
            gathers = native.gather_is_faster(k, k, 9, side**2, side**2, density == 1)
            times = kernel[density]["median_ms"], gather[density]["median_ms"]
            assert times[gathers] <= 1.2 * min(times), (row["name"], density, times)
            compared += 1
    if not compared:
        pytest.skip("the kernel's own times are not among the stored ones")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    net = used(convert(mcifarnet(), 0.5, gates="random"), torch.rand(8, 3, 32, 32))
    fast = accelerate(net, "native")
    for x in (torch.rand(5, 3, 32, 32), torch.rand(1, 3, 32, 32)):
        with torch.no_grad():
            expected = fast(x)
            try:
                torch.set_num_threads(threads)
                assert torch.equal(fast(x), expected)
            finally:
                torch.set_num_threads(1)


def test_several_threads_of_python():
    net = used(convert(mcifarnet(), 0.5, gates="random"), torch.rand(8, 3, 32, 32))
    fast, images = accelerate(net, "native"), torch.rand(24, 1, 3, 32, 32)
    with torch.no_grad():
        expected = [fast(x) for x in images]
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(torch.no_grad()(fast), images))
    assert all(map(torch.equal, outputs, expected))


@pytest.mark.skipif("sanitize" in os.environ.get("CXXFLAGS", ""), reason="which keeps memory")
def test_a_thousand_shapes_leave_nothing_behind():
    """The kernel keeps memory for its copies, as much as the largest call needs, and no more."""
    layer = used(nn.Sequential(GatedConv2d(2, 4, 3, 2, 1), GatedConv2d(4, 4, 3, padding=1)))
    fast = accelerate(set_density(layer, 0.5), "native")
    images = [torch.rand(1 + i % 3, 2, 4 + i % 29, 4 + i % 23) for i in range(1000)]
    with torch.inference_mode():
        for repeat in range(10):
            if repeat == 2:
                before = resident()
            for x in images:
                fast(x)
    assert resident() - before < 2**20


def resident():
    """Bytes of this process that are in memory."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("only Linux tells")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Sums that wait for their ReLU


def two_maps():
    """Outputs of two layers, with values of both signs, and what they stand for."""
    x, made = Compact(torch.rand(2, 3, 7, 6), None, 3), []
    for _ in range(2):
        layer = used(GatedConv2d(3, 8, 3, padding=1, density=0.5, activation=False))
        fast = accelerate(layer, "native")
        made.append(fast.conv.execute(fast, x)[1])
    return *made, *(y.dense().clone() for y in made)


READERS = {
    "relu in place": lambda y: y.relu_(),
    "relu": lambda y: y.relu(),
    "relu6": F.relu6,
    "pooling": lambda y: F.max_pool2d(y, 2),
    "a mean": lambda y: y.relu_().mean((2, 3), keepdim=True),
    "adaptive pooling": lambda y: F.adaptive_avg_pool2d(F.relu(y), 1),
    "silu": lambda y: F.silu(y, inplace=True),
    "another sum": lambda y: (y + y).relu(),
    "a number": lambda y: y + 1,
    "a copy": copy.deepcopy,
    "twice": lambda y: y.relu_().mul_(2).relu_(),
    "a view": lambda y: y[:, 1:].mul_(2),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_sums(read, mode):
    with mode():
        a, b, full_a, full_b = two_maps()
        a += b
        full_a += full_b
        assert isinstance(a, Planes) and a.addend is b
        assert_same(read(a) + 0, read(full_a))
        assert_same(a + 0, full_a)
        assert_same(b + 0, full_b)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_added_changes_before_the_sum_is_read(read):
    with torch.inference_mode():
        a, b, full_a, full_b = two_maps()
        a += b
        full_a += full_b
        assert_same(read(b) + 0, read(full_b))
        assert_same(a + 0, full_a)
        assert_same(b + 0, full_b)


def test_saliencies_stay_right_through_sums_and_activations():
    with torch.inference_mode():
        for do in (F.relu, F.relu_, F.relu6, F.silu, lambda y: y, lambda y: F.avg_pool2d(y, 2)):
            a, b, full_a, full_b = two_maps()
            for y, full in ((do(a + b), do(full_a + full_b)), (do(b), do(full_b))):
                if not isinstance(y, Compact):
                    continue
                assert_same(y.among_all(y.saliency()), full.abs().mean((2, 3)))
                y.relu_()
                assert_same(y.among_all(y.saliency()), full.relu().mean((2, 3)))


# Selection


def test_ties_and_nan_are_ranked_as_everywhere():
    layer = GatedConv2d(4, 64, 3, padding=1).eval()
    fast, x = accelerate(layer, "native"), torch.rand(3, 4, 6, 6)
    nn.init.zeros_(fast.predictor.weight)
    for case in range(200):
        bias = torch.randint(-1, 4, (64,)).float()
        bias[case % 64] = [float("nan"), float("inf"), -0.0, 3.0][case % 4]
        fast.predictor.bias.data.copy_(bias)
        k = case % 64 + 1
        set_density(fast, k / 64)
        y = fast.conv.execute(fast, Compact(x, None, 4))[1]
        winners = rank_channels(fast.predict(torch.zeros(3, 4)))[1][:, :k].sort(dim=1)[0]
        found = torch.arange(64).expand(3, -1) if y.channels is None else y.channels
        assert torch.equal(found, winners)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_spread_as_in_the_masked_network(value):
    """Where every channel wins: a loser's 0 times infinity is NaN, and is not computed here."""
    layers = GatedConv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), GatedConv2d(8, 6, 3, padding=1)
    net, x = used(nn.Sequential(*layers)), torch.rand(2, 3, 8, 8)
    x[0, 1, 2, 3] = value
    y, expected = accelerate(net, "native")(x), net(x).detach()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((3, 2), (1, 2), (1, 0))])
def test_pooling(window):
    """NaN wins wherever it is; a window of padding and a negative number has that number."""
    with torch.inference_mode():
        y, _, _, _ = two_maps()
        y.maps[0, 1, 2, 3], y.maps[1, 0, 4] = float("nan"), -1.0
        pooled = native.NativeMaxPool2d(nn.MaxPool2d(*window))(y)
        expected = F.max_pool2d(y.dense(), *window)
        assert isinstance(pooled, Planes)
        assert torch.equal(pooled.dense().nan_to_num(-9.0), expected.nan_to_num(-9.0))
        border_is_0(pooled)


def test_a_layer_without_live_inputs():
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, padding=1, density=0.5), GatedConv2d(8, 5, 3)))
    for x in (torch.zeros(2, 3, 6, 6), dead_first(torch.rand(2, 3, 6, 6))):
        assert_native(net, x)


def dead_first(x):
    x[0] = 0
    return x


# Whole networks


FAMILIES = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 48),
    "bottlenecks": (lambda: torchvision.models.ResNet(Bottleneck, [1, 1, 2, 1], 10), 48),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(init_weights=False).features, 48),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 48),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), 48),
    "shufflenet_v2": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10), 64),
    "regnet": (lambda: torchvision.models.regnet_y_400mf(num_classes=10), 48),
    "efficientnet": (lambda: torchvision.models.efficientnet_b0(num_classes=10), 32),
    "googlenet": (lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False), 64),
    "densenet": (lambda: torchvision.models.densenet121(num_classes=10), 32),
    "M-CifarNet": (mcifarnet, 32),
}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_networks(name):
    build, size = FAMILIES[name]
    images = torch.rand(8, 3, size, size)
    net = convert(build().eval(), 0.5, gates="random")
    for layer in gated_layers(net).values():
        random_predictor(layer, 0.03)  # larger gates would grow from layer to layer
    net = calibrated(net, images)
    fast = accelerate(net, "native")
    for x in (images[:2], images[:1]):
        expected = net(x)
        gates = {n: winner_mask(m.saliency, m.density) for n, m in gated_layers(net).items()}
        with forced_gates(fast, gates):
            assert_same(fast(x), expected)
    with forced_gates(fast, gates), forced_gates(net, gates):
        assert executed_macs(fast, x) == counted_macs(net, x)


def test_counted_also_where_the_kernel_selects():
    net = used(convert(mcifarnet(), 0.5, gates="random"), torch.rand(8, 3, 32, 32))
    for x in torch.rand(3, 1, 3, 32, 32):
        for backend in ("auto", "cpu", "native"):
            assert executed_macs(accelerate(net, backend), x) == counted_macs(net, x)


# What it is handed, and what it hands on


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_what_leaves_the_network_is_an_ordinary_tensor(density):
    """Contiguous too, as reshapes want it: the kernel's planes are not."""
    net = set_density(used(nn.Sequential(GatedConv2d(3, 8, 3), GatedConv2d(8, 6, 3))), density)
    fast, x = accelerate(net, "native"), torch.rand(2, 3, 9, 8)
    for images in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        y = fast(images)
        assert type(y) is torch.Tensor and y.is_contiguous()
        assert_same(y, net(images).detach())
        hooked = []
        hook = fast[0].register_forward_hook(lambda _, args, y, to=hooked: to.append(y.view(2, -1)))
        fast(images)
        hook.remove()
        assert_same(hooked[0], net[0](images).detach().flatten(1))


@pytest.mark.parametrize("reduce", ["l1", "l2", "max", "avg"])
@pytest.mark.parametrize("density", [0.5, torch.tensor([0.2, 1.0, 0.6])])
@pytest.mark.parametrize("activation", [True, False, nn.ReLU6(), nn.SiLU(), nn.Hardswish()])
def test_reductions_densities_and_activations(reduce, density, activation):
    layers = [
        GatedConv2d(i, o, 3, padding=1, activation=activation, reduce=reduce)
        for i, o in ((3, 16), (16, 12), (12, 8))
    ]
    assert_native(set_density(used(nn.Sequential(*layers)), density), 9 * torch.randn(3, 3, 9, 9))


@pytest.mark.parametrize("normalize", [True, False])
def test_blocks(normalize):
    options = dict(normalize=normalize, density=0.5)
    block = ChannelPruning(*conv_norm_relu(8, 8), nn.MaxPool2d(3, 1, 1), **options)
    net = nn.Sequential(ChannelPruning(*conv_norm_relu(3, 8), **options), Residual(block))
    assert_native(used(net), torch.rand(2, 3, 9, 9))


def test_statistics_of_each_density():
    net = load_pretrained("digits")
    images = torch.stack([load_data("digits")[1][i][0] for i in range(40)])
    calibrate(net, images, (0.5, 1.0))
    fast = accelerate(net, "native")
    for density in (1.0, 0.5, 0.6):
        set_density(net, density), set_density(fast, density)
        assert_same(fast(images), net(images).detach())


def test_float64_goes_another_way():
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), nn.MaxPool2d(2)))
    fast, x = accelerate(net, "native"), torch.rand(2, 3, 8, 8)
    fast(x)
    y = fast.double()(x.double())
    assert y.dtype == torch.float64
    assert (y - net.double()(x.double())).abs().max() < 1e-5
    assert_same(fast.float()(x), net.float()(x).detach())


def test_weights_that_are_loaded_or_copied_are_used():
    net, other = (used(nn.Sequential(GatedConv2d(3, 8, 3), GatedConv2d(8, 6, 3))) for _ in "ab")
    x = torch.rand(2, 3, 8, 8)
    fast, twin = accelerate(net, "native"), accelerate(other, "native")
    fast(x), twin(x)
    copied = copy.deepcopy(fast)
    for options in ({}, {"assign": True}):
        fast.load_state_dict(twin.state_dict(), **options)
        assert torch.equal(fast(x), twin(x))
    assert_same(copied(x), net(x).detach())


# How it comes to be


@pytest.fixture
def built_anew(monkeypatch, tmp_path):
    """With an empty cache, and nothing of before remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CXX", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    native.library.cache_clear(), native.warn_once.cache_clear()
    yield tmp_path / "cache" / "fbs_tutorial"
    monkeypatch.undo()
    native.library.cache_clear(), native.warn_once.cache_clear()


SMALL = GatedConv2d(3, 8, 3, density=0.5).eval()


def assert_falls_back():
    x = torch.rand(1, 3, 6, 6)
    with pytest.warns(UserWarning, match=r"'native' cannot be built.*apt install g\+\+"):
        fast = accelerate(SMALL)
    assert type(fast.conv) is not NativeConv
    assert_same(fast(x), SMALL(x).detach())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        accelerate(SMALL)
    with pytest.raises(ValueError, match=r"backend='native'.*apt install g\+\+"):
        accelerate(SMALL, "native")


def test_without_a_compiler(built_anew, monkeypatch):
    monkeypatch.setenv("PATH", str(built_anew))
    assert_falls_back()


def test_a_compiler_that_fails(built_anew, monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no headers' >&2; exit 1")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no headers"):
        accelerate(SMALL, "native")
    assert not list(built_anew.glob("*"))


def test_a_compiler_that_never_ends(built_anew, monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexec /bin/sleep 60")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(native, "TIME_LIMIT", 0.1)
    assert_falls_back()


def test_what_was_built_needs_no_compiler(built_anew, monkeypatch):
    assert native.available()
    assert [path.suffix for path in built_anew.iterdir()] == [".so"]
    native.library.cache_clear()
    monkeypatch.setenv("PATH", str(built_anew))
    fast = accelerate(SMALL)
    assert type(fast.conv) is NativeConv


def test_a_damaged_build_is_built_again(built_anew, monkeypatch, tmp_path):
    assert native.available()
    path = tmp_path / "other" / "fbs_tutorial" / next(built_anew.iterdir()).name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    native.library.cache_clear()
    assert native.available() and path.stat().st_size > 1000


def test_a_cache_that_cannot_be_written(built_anew, monkeypatch):
    built_anew.parent.write_text("a file where a folder should be")  # also root cannot write here
    assert native.available()
    assert_same(accelerate(SMALL, "native")(X), SMALL(X).detach())


X = torch.rand(1, 3, 6, 6)
BUILDS = [("g++", "-march=native"), ("clang++", "-march=native"), ("g++", "-mtune=generic")]


@pytest.mark.parametrize(("compiler", "flag"), BUILDS, ids=str)
def test_compilers_and_vectors_of_other_lengths(compiler, flag, tmp_path, monkeypatch):
    path = which(compiler)
    if path is None and os.environ.get("CI") != "true":
        pytest.skip(f"there is no {compiler}")
    lib = native.typed(ctypes.CDLL(native.built([path, *native.FLAGS, flag], tmp_path / "n.so")))
    monkeypatch.setattr(native, "library", lambda: lib)
    native.plane_and_size.cache_clear()
    try:
        for shape in SHAPES[::7]:
            test_every_kind_of_convolution(shape)
    finally:
        native.plane_and_size.cache_clear()
