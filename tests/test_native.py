"""The compiled kernel: what it computes, what it leaves to others, and how it comes to be."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from test_execution import (
    assert_same,
    calibrated,
    counted_macs,
    executed_macs,
    used,
)
from torch import nn

from fbs_tutorial import GatedConv2d, accelerate, convert, set_density
from fbs_tutorial.execution import native
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.native import Planes
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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    net = used(convert(mcifarnet(), 0.5, gates="random"), torch.rand(8, 3, 32, 32))
    fast, x = accelerate(net, "native"), torch.rand(5, 3, 32, 32)
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
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), 64),
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
    for x in (images[:2], images[:1]):
        expected = net(x)
        gates = {n: winner_mask(m.saliency, m.density) for n, m in gated_layers(net).items()}
        fast = accelerate(net, "native")
        with forced_gates(fast, gates):
            assert_same(fast(x), expected)
    for backend in ("auto", "cpu", "native"):
        fast = accelerate(net, backend)
        with forced_gates(fast, gates), forced_gates(net, gates):
            assert executed_macs(fast, x) == counted_macs(net, x)


def test_counted_also_where_the_kernel_selects():
    net = used(convert(mcifarnet(), 0.5, gates="random"), torch.rand(8, 3, 32, 32))
    for x in torch.rand(3, 1, 3, 32, 32):
        for backend in ("auto", "cpu", "native"):
            assert executed_macs(accelerate(net, backend), x) == counted_macs(net, x)
