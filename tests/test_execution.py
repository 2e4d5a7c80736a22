"""`accelerate`: what it computes, what it leaves out, and what it refuses."""

import copy
import gc
import io
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    channel_saliency,
    convert,
    count_macs,
    how_dynamic,
    load_data,
    load_pretrained,
    set_density,
)
from fbs_tutorial.data import as_tensors
from fbs_tutorial.execution import native
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.layers import SparseConv2d
from fbs_tutorial.method.convert import gate_layer
from fbs_tutorial.method.gated import Gated, forced_gates, gated_layers
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.models import mcifarnet

BACKENDS = ["reference", "cpu", *["native"] * bool(native.compilers())]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


# What the tests compare


def assert_same(y, expected):
    """Equal but for rounding; the error is relative to the largest output."""
    tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-4
    assert y.shape == expected.shape and y.dtype == expected.dtype
    largest = expected.abs().max().item()
    assert largest < float("inf")
    assert (y - expected).abs().max().item() <= tolerance * largest


def assert_accelerated(net, x, backends=BACKENDS):
    """The outputs are those of the network with its masks, and the backends' are one another's."""
    with torch.no_grad():
        expected = net(x)
        outputs = [accelerate(net, backend)(x) for backend in backends]
    for y in outputs:
        assert_same(y, expected)
        assert_same(y, outputs[0])


def assert_accelerated_with_the_same_winners(net, x):
    """In float32, where two saliencies at the cut may be equal but for rounding."""
    with torch.no_grad():
        expected = net(x)
        gates = {name: winner_mask(m.saliency, m.density) for name, m in gated_layers(net).items()}
        for backend in BACKENDS:
            accelerated = accelerate(net, backend)
            with forced_gates(accelerated, gates):
                assert_same(accelerated(x), expected)


def executed_macs(net, image):
    with FlopCounterMode(display=False) as counter:
        net(image)
    return counter.get_total_flops() / 2


def counted_macs(net, image):
    report = count_macs(net, image, by="zeros")
    return report.active.item() + report.overhead


def assert_executes_what_is_counted(net, images, backends=BACKENDS):
    for image in images.split(1):
        for backend in backends:
            assert executed_macs(accelerate(net, backend), image) == counted_macs(net, image)


# Networks as training might leave them


@torch.no_grad()
def used(net, images=None):
    """In eval mode; no parameter or statistic is 0 or 1 any more, and gates differ by image."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, Gated):
            random_gates(module)
    return net.eval() if images is None else calibrated(net, images)


@torch.no_grad()
def random_gates(layer):
    nn.init.kaiming_uniform_(layer.predictor.weight, nonlinearity="relu")
    layer.predictor.weight.mul_(0.3)
    layer.predictor.bias.copy_(1 + 0.3 * torch.randn(layer.out_channels))
    if isinstance(layer, GatedConv2d):
        layer.beta.normal_(0, 0.5)


@torch.no_grad()
def calibrated(net, images):
    """Statistics measured on these images, so that deep stacks of random gates do not overflow."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()(images)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # of channels that were empty in these images
            module.running_var.clamp_(min=0.1)
    return net.eval()


def images_like(*shape, dtype=torch.float64):
    return torch.rand(shape).to(dtype)


# Random layers and chains of them


@st.composite
def convolutions(draw, ins, size, wild=True):
    """A convolution of ``ins`` channels that fits maps of ``size``, and the size it returns."""
    kind = draw(st.sampled_from(["1", "1", "depthwise", "multiplier", "between"]))
    divisors = [g for g in (2, 3, 5, 7) if ins % g == 0 and g < ins]
    groups = {"1": 1, "between": draw(st.sampled_from(divisors)) if divisors else 1}.get(kind, ins)
    outs = {"1": draw(st.integers(1, 13)), "depthwise": ins, "multiplier": 2 * ins}
    outs = outs.get(kind, groups * draw(st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "circular"])) if wild else "zeros"
    same = wild and draw(st.booleans())
    stride = 1 if same else draw(st.sampled_from([1, 1, 2, (2, 1)]))
    dilation = draw(st.sampled_from([1, 1, 2])) if wild else 1
    most = (size - 1) // 2 if mode != "zeros" else 3
    padding = st.integers(0, min(most, 3))
    padding = "same" if same else draw(st.one_of(padding, st.tuples(padding, padding)))
    kernels = [
        k for k in (1, 3, 5, 7, 2, (3, 1), (1, 2)) if _fits(k, dilation, padding, size, mode)
    ]
    kernel = draw(st.sampled_from(kernels))
    return nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, padding_mode=mode)


def _fits(kernel, dilation, padding, size, mode):
    for axis in (0, 1):
        k = kernel[axis] if isinstance(kernel, tuple) else kernel
        extent = dilation * (k - 1) + 1
        if padding == "same":
            if mode != "zeros" and extent // 2 >= size:  # there is not so much to reflect
                return False
            continue
        p = padding[axis] if isinstance(padding, tuple) else padding
        if extent > size + 2 * p:
            return False
    return True


DENSITIES = st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0])


@st.composite
def gated(draw, ins, size, images, wild=True):
    """A gated layer with everything about it drawn."""
    conv = draw(convolutions(ins, size, wild))
    activation = draw(st.sampled_from([True, False, nn.ReLU6()]))
    layer = gate_layer(conv, nn.BatchNorm2d(conv.out_channels), activation)
    layer.reduce = draw(st.sampled_from(["l1", "l1", "l2", "max", "avg"]))
    layer.density = draw(DENSITIES)
    if draw(st.booleans()):
        layer.density = torch.tensor(draw(st.lists(DENSITIES, min_size=images, max_size=images)))
    return layer


def dead(x, share):
    """``x`` with some channels of some images empty, and one image wholly if there are several."""
    x = x * (torch.rand(x.shape[:2]) >= share).to(x)[:, :, None, None]
    if share and len(x) > 1:
        x[0] = 0
    return x


@st.composite
def layer_and_images(draw):
    torch.manual_seed(draw(st.integers(0, 2**16)))
    images, size = draw(st.sampled_from([1, 1, 2, 3, 64])), draw(st.sampled_from([1, 5, 6, 9]))
    ins = draw(st.sampled_from([1, 3, 4, 6, 7, 10]))
    layer = used(draw(gated(ins, size, images)))
    return layer, dead(torch.randn(images, ins, size, size), draw(st.sampled_from([0, 0, 0.5, 1])))


@st.composite
def chain_and_images(draw):
    """Gated layers, plain convolutions and pruned blocks in a row, and what stands between them."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    images = draw(st.sampled_from([1, 1, 2, 5]))
    x = torch.randn(images, draw(st.integers(1, 5)), 9, 9)
    net = nn.Sequential()
    for _ in range(draw(st.integers(1, 4))):
        y = net.eval()(x)
        ins, size = y.shape[1], min(y.shape[2:])
        kind = draw(st.sampled_from(["gated", "gated", "gated", "plain", "block", "raw block"]))
        conv = draw(convolutions(ins, size, wild=False))
        outs, density = conv.out_channels, draw(DENSITIES)
        norm, act = nn.BatchNorm2d(outs), nn.ReLU(inplace=draw(st.booleans()))
        net.append(
            {
                "gated": draw(gated(ins, size, images, wild=False)),
                "plain": conv,
                "block": ChannelPruning(conv, norm, act, density=density),
                "raw block": ChannelPruning(act, conv, density=density, normalize=False),
            }[kind]
        )
        between = [None, nn.Identity(), nn.ReLU(inplace=True), nn.Dropout(), nn.ReLU6()]
        between += [nn.AdaptiveAvgPool2d(3), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2, 1, 1)]
        between += [nn.BatchNorm2d(net.eval()(x).shape[1])]
        between = draw(st.sampled_from(between))
        if between is not None:
            net.append(between)
    if not any(isinstance(module, Gated) for module in net):
        net.append(GatedConv2d(net(x).shape[1], 7, 1, density=0.5))
    if draw(st.booleans()):
        net.append(nn.Flatten()).append(nn.Linear(net(x).flatten(1).shape[1], 5))
    return used(net, None), dead(x, draw(st.sampled_from([0, 0, 0.5])))


@given(layer_and_images())
def test_a_layer_equals_its_masked_form(case):
    layer, x = case
    assert_accelerated(layer.double(), x.double())


@settings(max_examples=40)
@given(layer_and_images())
def test_a_layer_equals_its_masked_form_in_float32(case):
    assert_accelerated_with_the_same_winners(*case)


@settings(max_examples=40)
@given(chain_and_images())
def test_a_chain_equals_its_masked_form_and_executes_what_is_counted(case):
    net, x = case[0].double(), case[1].double()
    assert_accelerated(net, x)
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    if all(conv.groups in (1, conv.in_channels) for conv in convs) and len(x) == 1:
        assert_executes_what_is_counted(net, x)


@settings(max_examples=30)
@given(chain_and_images())
def test_a_chain_equals_its_masked_form_in_float32(case):
    assert_accelerated_with_the_same_winners(*case)


@pytest.mark.parametrize(
    ("images", "size", "channels"),
    [(1, 4, 16), (1, 24, 16), (1, 60, 16), (3, 24, 16), (3, 60, 16), (64, 4, 128)],
)
def test_maps_and_batches_of_every_size(images, size, channels):
    """The fast form goes several ways, by the sizes of maps and batches."""
    net = nn.Sequential(GatedConv2d(3, channels, 3, padding=1), GatedConv2d(channels, 48, 3, 1, 1))
    x = dead(torch.randn(images, 3, size, size, dtype=torch.float64), 0.3)
    x[0, 0, 0, 0] = 1.0
    assert_accelerated(set_density(used(net.double()), 0.5), x, ["cpu"])


@pytest.mark.parametrize("images", [1, 4])
def test_any_layout_of_the_images(images):
    net = used(nn.Sequential(GatedConv2d(4, 9, 3, density=0.5), GatedConv2d(9, 8, 3)).double())
    x = dead(torch.randn(images, 4, 30, 26, dtype=torch.float64), 0.3)
    net.to(memory_format=torch.channels_last)
    assert_accelerated(net, x)
    assert_accelerated(net, x.to(memory_format=torch.channels_last))
    assert_accelerated(net, x.transpose(2, 3))
    assert_accelerated(net, x[:, :, ::2, ::2])


# Whole networks


def digits(density):
    images = torch.stack([image for image, _ in list(load_data("digits")[1])[:4]])
    return load_pretrained("digits", density).double(), images.double()


def m_cifarnet(gates):
    net = convert(mcifarnet(), 0.5, gates=gates).double()
    images = images_like(3, 3, 32, 32)
    return (used(net, images) if gates == "random" else net.eval()), images


def torchvision_net(name, size=32, **options):
    net = getattr(torchvision.models, name)(num_classes=10, **options)
    if name == "vgg11_bn":
        net.classifier[0], net.classifier[3] = nn.Linear(512 * 7 * 7, 32), nn.Linear(32, 16)
        net.classifier[6] = nn.Linear(16, 10)
    images = images_like(3, 3, size, size)
    return used(convert(net, 0.5, gates="random").double(), images), images


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x):
        return x + self.branch(x)


class Branching(nn.Module):
    """A network that torch.fx cannot follow."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) if x.sum() > 0 else self.layers(-x)


class Functional(nn.Module):
    """ReLU, sums, concatenation and pooling as functions, and one input read twice."""

    def __init__(self):
        super().__init__()
        self.first = GatedConv2d(3, 8, 3, padding=1, density=0.5, activation=False)
        self.left = GatedConv2d(8, 6, 3, padding=1, density=0.5)
        self.right = nn.Conv2d(8, 6, 1)
        self.last = GatedConv2d(12, 5, 3, density=0.4)

    def forward(self, x):
        x = F.relu(self.first(x), inplace=True)
        left, right = self.left(x), self.right(x).relu()
        x = torch.cat([left + right, left], dim=1)
        return self.last(F.max_pool2d(x, 2)).mean(dim=(2, 3))


class Shared(nn.Module):
    """The same layers at several places."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)
        self.gated = GatedConv2d(8, 8, 3, padding=1, density=0.5)
        self.first, self.same = GatedConv2d(3, 8, 3, density=0.5), self.gated

    def forward(self, x):
        x = self.act(self.gated(self.act(self.first(x))))
        x = self.conv(self.gated(self.conv(x)))
        return self.act(self.same(x)) + self.act(x)


def conv_norm_relu(ins, outs, **options):
    conv = nn.Conv2d(ins, outs, 3, padding=1, **options)
    return conv, nn.BatchNorm2d(outs), nn.ReLU(inplace=True)


def pruned_blocks(normalize):
    options = dict(normalize=normalize, density=0.5)
    return nn.Sequential(
        ChannelPruning(*conv_norm_relu(3, 8), nn.Conv2d(8, 9, 3, stride=2), **options),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        Residual(ChannelPruning(*conv_norm_relu(9, 9), nn.MaxPool2d(3, 1, 1), **options)),
        ChannelPruning(
            torchvision.models.resnet.BasicBlock(9, 9),
            GatedConv2d(9, 6, 1, density=0.5),
            nn.Conv2d(6, 8, 3, groups=1),
            nn.ReLU6(),
            **options,
        ),
        ChannelPruning(torchvision.models.resnet.BasicBlock(8, 8), **options),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def mixing_block():
    """A block whose last convolution may not be skipped: what follows mixes its channels."""
    block = ChannelPruning(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), density=0.25)
    return nn.Sequential(block, nn.Conv2d(8, 4, 1))


def small(net, size=12):
    net, images = net.double(), images_like(3, 3, size, size)
    return used(net, images), images


NETWORKS = {
    "digits 0.5": lambda: digits(0.5),
    "digits any density": lambda: (set_density((d := digits(None))[0], 0.3), d[1]),
    "M-CifarNet": lambda: m_cifarnet("random"),
    "M-CifarNet, neutral": lambda: m_cifarnet("neutral"),
    "resnet18": lambda: torchvision_net("resnet18"),
    "vgg11_bn": lambda: torchvision_net("vgg11_bn", init_weights=False),
    "mobilenet_v2": lambda: torchvision_net("mobilenet_v2"),
    "shufflenet": lambda: torchvision_net("shufflenet_v2_x0_5", 64),
    "blocks": lambda: small(pruned_blocks(normalize=False)),
    "normalised blocks": lambda: small(pruned_blocks(normalize=True)),
    "nested blocks": lambda: small(ChannelPruning(ChannelPruning(*conv_norm_relu(3, 8)))),
    "block that mixes": lambda: small(mixing_block()),
    "functions": lambda: small(Functional()),
    "shared layers": lambda: small(Shared()),
    "not traceable": lambda: small(
        Branching(GatedConv2d(3, 8, 3, density=0.5), nn.ReLU(), GatedConv2d(8, 5, 3, density=0.5))
    ),
    "a single layer": lambda: small(GatedConv2d(3, 8, 3, density=0.5)),
    "a single block": lambda: small(ChannelPruning(*conv_norm_relu(3, 8), density=0.5)),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


@each_network
def test_a_network_equals_its_masked_form(build):
    assert_accelerated(*build())


@each_network
def test_a_network_executes_what_is_counted(build):
    net, images = build()
    assert_executes_what_is_counted(net, images[:2], ["cpu"])
    if sum(p.numel() for p in net.parameters()) < 100_000:
        assert_executes_what_is_counted(net, images[:1], ["reference"])


@each_network
def test_a_batch_gives_the_same_as_its_images_one_by_one(build):
    net, images = build()
    accelerated = accelerate(net)
    assert_same(accelerated(images), torch.cat([accelerated(x) for x in images.split(1)]))


@each_backend
@pytest.mark.parametrize("images", [1, 4])
def test_the_float32_digits_network(backend, images):
    net = set_density(load_pretrained("digits"), 0.5)
    x = digits(0.5)[1].float()[:images]
    assert_same(accelerate(net, backend)(x), net(x).detach())


def test_skipping_is_worth_something():
    net, images = m_cifarnet("random")
    dense = executed_macs(net, images[:1])
    assert executed_macs(accelerate(net, "cpu"), images[:1]) < 0.35 * dense


# What layers hand on


def compact_maps(layout=torch.contiguous_format, dtype=torch.float64):
    """Three of seven channels, others in each of two images."""
    maps = torch.randn(2, 3, 6, 5, dtype=dtype).contiguous(memory_format=layout)
    return Compact(maps, torch.tensor([[0, 2, 5], [1, 3, 4]]), 7)


def write_through_a_view(x):
    F.relu(x[:, 1:3], inplace=True).add_(2)
    x[0, 0] = -3.0
    return x


def saved_and_loaded(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file)


KEEP_COMPACT = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6,
    "relu6 in place": lambda x: F.relu6(x, inplace=True),
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "dropout": lambda x: F.dropout(x, training=False),
    "dropout2d": lambda x: F.dropout2d(x, training=False),
    "max pooling": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pooling": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "pooling to a size": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "maximum to a size": lambda x: F.adaptive_max_pool2d(x, 2),
    "a deep copy": copy.deepcopy,
    "two after another": lambda x: F.max_pool2d(F.relu(x), 2),
}
FILL_IN = {
    "pooling to one pixel": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "flatten": nn.Flatten(),
    "indices": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1] + 0,
    "indices of a size": lambda x: F.adaptive_max_pool2d(x, 3, return_indices=True)[1] + 0,
    "hardtanh that lifts zeros": lambda x: F.hardtanh(x, 0.5, 1),
    "mean over pixels": lambda x: x.mean((2, 3)),
    "mean over channels": lambda x: x.mean(1, keepdim=True),
    "a sum": lambda x: x + x,
    "a difference": lambda x: 1 - x,
    "a softmax": lambda x: x.softmax(1),
    "cat": lambda x: torch.cat([x, x.relu()], dim=1),
    "a slice": lambda x: x[1, 2:4],
    "its rows": lambda x: torch.stack(list(x)),
    "a convolution": lambda x: F.conv2d(x, x.new_ones(4, 7, 3, 3)),
    "a norm": lambda x: F.group_norm(x, 7),
    "another dtype": lambda x: x.float(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "written in place": lambda x: F.relu_(x.mul_(-2).add_(1)),
    "written through a view": write_through_a_view,
    "relu, then written": lambda x: write_through_a_view(F.relu(x, inplace=True)),
    "written as a result": lambda x: torch.add(x.new_ones(2, 7, 6, 5), 1, out=x),
    "another shape in place": lambda x: x.unsqueeze_(0).transpose_(1, 2).mul(2),
    "numpy": lambda x: torch.from_numpy(x.numpy().copy()),
    "an array": lambda x: torch.from_numpy(np.asarray(x).copy()),
    "a list": lambda x: torch.tensor(x.tolist(), dtype=x.dtype),
    "printed": lambda x: torch.tensor(list(repr(x).encode())),
    "a copy": lambda x: copy.copy(x),
    "pickled": saved_and_loaded,
    "a gradient": lambda x: (x * x.new_ones(1).requires_grad_()).detach(),
    "strides": lambda x: torch.tensor(x.stride()),
}
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
each_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


@pytest.mark.parametrize("operation", [*KEEP_COMPACT, *FILL_IN])
@each_mode
@each_layout
def test_compact_maps_are_the_full_maps_to_every_operation(operation, mode, layout):
    do = {**KEEP_COMPACT, **FILL_IN}[operation]
    with mode():
        x = compact_maps(layout)
        full = x.dense().clone()
        y, expected = do(x), do(full)
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        assert y.stride() == expected.stride()
        assert isinstance(y, Compact) == (operation in KEEP_COMPACT or y is x)
        if operation in KEEP_COMPACT:
            assert y.maps.shape[1] == 3
            assert not y.nonnegative or (expected >= 0).all()
        torch.testing.assert_close(y + 0, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(x + 0, full)  # what was written to the one was written to the other


@pytest.mark.parametrize("reduce", ["l1", "l2", "max", "avg"])
@pytest.mark.parametrize("between", [F.relu, F.gelu, lambda x: F.avg_pool2d(F.relu(x), 2)])
def test_the_saliency_of_compact_maps(reduce, between):
    y = between(compact_maps())
    expected = channel_saliency(y.dense(), reduce)
    torch.testing.assert_close(y.among_all(y.saliency(reduce)), expected)
    y.mul_(-1)  # and so it may be negative
    torch.testing.assert_close(y.saliency(reduce), channel_saliency(y + 0, reduce))


@each_backend
@each_network
def test_hooks_see_what_they_see_in_the_masked_network(build, backend):
    net, x = build()
    if backend == "reference" and sum(p.numel() for p in net.parameters()) > 100_000:
        pytest.skip("loops take long")
    accelerated = accelerate(net, backend)
    looks, expected = [], []
    for model, values in ((accelerated, looks), (copy.deepcopy(net), expected)):
        for name, module in outer_layers(model):
            module.register_forward_hook(
                lambda _, args, y, name=name, to=values: to.append((name, args[0] + 0, y + 0))
            )
    with torch.no_grad():
        accelerated(x), model(x)
    assert [name for name, *_ in looks] == [name for name, *_ in expected] != []
    for (_, *tensors), (_, *others) in zip(looks, expected, strict=True):
        for y, other in zip(tensors, others, strict=True):
            assert type(y) is torch.Tensor
            assert_same(y, other)


def outer_layers(net):
    """The layers by name, without the parts of gated and of executing ones."""
    kinds = (Gated, SparseConv2d)
    parts = {p for m in net.modules() if isinstance(m, kinds) for p in m.modules() if p is not m}
    return [(name, module) for name, module in net.named_modules() if module not in parts]


@each_backend
def test_a_part_of_an_accelerated_network_can_be_called(backend):
    net, x = m_cifarnet("random")
    accelerated, x = accelerate(net, backend), x[:1, :, :12, :12]
    with torch.no_grad():
        for part in (slice(2), slice(8), slice(1, 5)):
            y, expected = accelerated[part](x), net[part](x)
            assert isinstance(y, torch.Tensor)
            assert_same(y, expected)
            assert torch.equal(torch.from_numpy(y.numpy()), y)
            assert_same(accelerated[8:12](accelerated[:8](x)), net[8:12](net[:8](x)))
        assert (
            type(accelerate(net[:2].eval(), backend)(x)) is torch.Tensor
        )  # what leaves it is plain


@pytest.mark.parametrize("between", [nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Dropout()])
@each_mode
def test_also_what_cannot_be_traced_hands_on_winners_only(between, mode):
    layers = GatedConv2d(3, 8, 3, density=0.5), between, GatedConv2d(8, 6, 3, density=0.5)
    net, x = small(Branching(*layers))
    accelerated, seen = accelerate(net, "cpu"), []
    accelerated.layers[2].conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with mode():
        assert_same(accelerated(x).detach(), net(x).detach())
    assert [(type(x), x.maps.shape[1], x.shape[1]) for x in seen] == [(Compact, 4, 8)]


@each_network
def test_no_attribute_is_set_on_a_tensor(build):
    net, x = build()
    accelerated, tensors = accelerate(net), [x]
    for module in accelerated.modules():
        module.register_forward_hook(lambda _, args, y: tensors.extend((*args, y)))
    accelerated(x)
    tensors += [x.maps for x in tensors if isinstance(x, Compact)]
    assert not any(vars(x) for x in tensors if isinstance(x, torch.Tensor))


def test_a_block_forgets_its_winners_also_after_an_error():
    net, _ = shared_with_the_outside()  # a convolution, and a block that has it too
    accelerated, x = accelerate(used(net)), torch.rand(2, 8, 6, 6)
    hook = accelerated[1].block.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        accelerated(x)
    hook.remove()
    assert_same(accelerated(x), net(x).detach())


# Blocks


def twice():
    conv = nn.Conv2d(4, 4, 1)
    return ChannelPruning(conv, nn.ReLU(), conv, density=0.5), 4


def shared_between_blocks():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    blocks = [ChannelPruning(conv, nn.BatchNorm2d(8), nn.ReLU(), density=d) for d in (0.5, 0.25)]
    return nn.Sequential(*blocks), 8


def shared_with_the_outside():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(conv, ChannelPruning(conv, nn.BatchNorm2d(8), density=0.5), nn.ReLU()), 8


def shared_activation():
    act = nn.ReLU6()
    layers = [GatedConv2d(8, 8, 3, density=0.5, activation=act) for _ in range(2)]
    return nn.Sequential(layers[0], act, layers[1]), 8


@pytest.mark.parametrize(
    "build", [twice, shared_between_blocks, shared_with_the_outside, shared_activation]
)
def test_modules_at_several_places(build):
    net, channels = build()
    net = used(net.double())
    x = torch.randn(2, channels, 6, 6, dtype=torch.float64)
    assert_accelerated(net, x)
    assert_executes_what_is_counted(net, x, ["cpu"])


@each_backend
def test_a_convolution_before_mixing_is_computed_in_full(backend):
    net, images = small(mixing_block())
    dense = count_macs(net, images[:1]).layers[0].dense
    accelerated = accelerate(net, backend)
    assert executed_macs(accelerated[0], images[:1]) == dense + 3 * 8


# Empty inputs, empty gates, small maps


def gates_at_0(net):
    """Every gate of every image is 0."""
    for layer in gated_layers(net).values():
        nn.init.zeros_(layer.predictor.weight)
        nn.init.constant_(layer.predictor.bias, -1.0)
    return net


EMPTY_CASES = {
    "layer": lambda: GatedConv2d(3, 8, 3, padding=1, density=0.5),
    "layer without activation": lambda: GatedConv2d(3, 8, 3, density=0.5, activation=False),
    "groups": lambda: GatedConv2d(3, 9, 3, padding=1, groups=3, density=0.5),
    "plain convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), GatedConv2d(4, 8, 1, density=0.5), nn.Conv2d(8, 4, 3, padding=1)
    ),
    "chain": lambda: nn.Sequential(
        *(GatedConv2d(i, o, 3, padding=1, density=0.5) for i, o in ((3, 8), (8, 8), (8, 5)))
    ),
    "block": lambda: ChannelPruning(*conv_norm_relu(3, 8), density=0.5),
    "linear layer": lambda: nn.Sequential(
        GatedConv2d(3, 8, 1, density=0.5), nn.Flatten(), nn.Linear(128, 4), nn.ReLU(inplace=True)
    ),
}
each_empty_case = pytest.mark.parametrize("build", EMPTY_CASES.values(), ids=EMPTY_CASES)


@each_empty_case
@pytest.mark.parametrize("images", [1, 3])
def test_images_of_nothing(build, images):
    net, x = used(build().double()), torch.zeros(images, 3, 4, 4, dtype=torch.float64)
    assert_accelerated(net, x)
    assert_executes_what_is_counted(net, x[:1])
    if images > 1:
        x[1] = torch.rand(3, 4, 4)
        x[2, 1] = torch.rand(4, 4)
        assert_accelerated(net, x)


@each_empty_case
@pytest.mark.parametrize("images", [1, 3])
def test_gates_that_are_all_0(build, images):
    net, x = gates_at_0(used(build().double())), images_like(images, 3, 4, 4)
    assert_accelerated(net, x)
    assert_executes_what_is_counted(net, x[:1])


@pytest.mark.parametrize("images", [1, 3])
def test_a_layer_after_gates_of_0_gives_its_bias(images):
    layers = GatedConv2d(3, 8, 3, density=0.5), GatedConv2d(8, 6, 3, padding=1, density=0.5)
    net = used(nn.Sequential(*layers).double())
    gates_at_0(net[0])
    assert_accelerated(net, images_like(images, 3, 5, 5))
    assert_executes_what_is_counted(net, images_like(1, 3, 5, 5))


def test_a_linear_layer_without_live_columns_twice():
    """Its output is its bias, which an activation in place must not write to."""
    net = gates_at_0(used(EMPTY_CASES["linear layer"]().double()))
    accelerated, x = accelerate(net, "cpu"), images_like(2, 3, 4, 4)
    for images in (x[:1], x[:1], x):
        assert_same(accelerated(images), net(images).detach())


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_of_one_pixel(kernel, images):
    layers = [GatedConv2d(i, o, kernel, padding=kernel // 2) for i, o in ((3, 8), (8, 7), (7, 7))]
    net = set_density(used(nn.Sequential(*layers).double()), 0.5)
    x = torch.randn(images, 3, 1, 1, dtype=torch.float64)
    assert_accelerated(net, x)
    assert_executes_what_is_counted(net, x[:1])


def test_a_mean_of_0_is_not_an_empty_channel():
    layer = used(GatedConv2d(2, 8, 1, density=0.5, reduce="avg").double())
    x = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).expand(1, 2, 4, 4)
    assert_accelerated(layer, x)
    assert executed_macs(accelerate(layer, "cpu"), x) == 2 * 4 * 16 + 2 * 8


# Densities


@each_backend
def test_densities_set_later_reach_the_accelerated_network(backend):
    net, x = digits(None)
    accelerated = accelerate(net, backend)
    assert list(gated_layers(accelerated)) == list(gated_layers(net))
    names = list(gated_layers(net))
    mixed = {names[0]: 0.9, names[-1]: 0.2}
    for density in (0.1, 0.55, 1.0, mixed, torch.tensor([0.1, 0.3, 0.7, 1.0]), 0.4):
        assert set_density(accelerated, density) is accelerated
        assert_same(accelerated(x), set_density(net, density)(x).detach())


@pytest.mark.parametrize("normalize", [True, False])
@each_backend
def test_densities_set_later_reach_blocks(backend, normalize):
    net, x = small(pruned_blocks(normalize))
    accelerated = accelerate(net, backend)
    for density in (0.1, torch.tensor([0.2, 1.0, 0.6]), 1.0):
        assert_same(set_density(accelerated, density)(x), set_density(net, density)(x).detach())


@each_backend
def test_as_many_densities_as_images(backend):
    net = set_density(used(GatedConv2d(3, 8, 3)), torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="density"):
        accelerate(net, backend)(torch.randn(3, 3, 5, 5))


@each_backend
@pytest.mark.parametrize("kind", ["winners", "values", "one for all", "nothing"])
@pytest.mark.parametrize("normalize", [True, False])
def test_forced_gates(backend, kind, normalize):
    layer = GatedConv2d(3, 8, 3, density=0.5)
    block = ChannelPruning(*conv_norm_relu(8, 8), density=0.5, normalize=normalize)
    net, x = small(nn.Sequential(layer, block))
    gate = {
        "winners": torch.rand(3, 8) < 0.4,
        "values": torch.rand(3, 8) * (torch.rand(3, 8) < 0.4),
        "one for all": torch.tensor([[0.0, 1, 0, 2, 0, 0, 3, 0]]),
        "nothing": torch.zeros(3, 8),
    }[kind]
    accelerated, gates = accelerate(net, backend), {"0": gate, "1": gate}
    with forced_gates(net, gates), forced_gates(accelerated, gates):
        assert_same(accelerated(x), net(x).detach())


# A module like others


@each_backend
def test_the_model_is_not_changed(backend):
    net, x = small(pruned_blocks(normalize=True))
    net(x)
    state, modules = copy.deepcopy(net.state_dict()), list(net.named_modules())
    last = [(m.saliency, m.gate) for m in gated_layers(net).values()]
    accelerate(net, backend)(x)
    assert list(net.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    for layer, (saliency, gate) in zip(gated_layers(net).values(), last, strict=True):
        assert layer.saliency is saliency and layer.gate is gate


@each_backend
def test_later_changes_of_the_model_do_not_reach_it(backend):
    net, x = small(pruned_blocks(normalize=True))
    accelerated = accelerate(net, backend)
    before = accelerated(x)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.zero_()
    set_density(net, 1.0)
    assert torch.equal(accelerated(x), before)


@each_backend
def test_a_copy_gives_the_same_and_stands_alone(backend):
    net, x = small(pruned_blocks(normalize=True))
    accelerated = accelerate(net, backend)
    expected = accelerated(x)
    file = io.BytesIO()
    torch.save(accelerated, file)
    file.seek(0)
    for twin in (copy.deepcopy(accelerated), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x), expected)
        set_density(twin, 1.0)
        assert not torch.equal(twin(x), expected)
        assert torch.equal(accelerated(x), expected)


@each_backend
def test_state_dict_round_trip(backend):
    net, x = small(pruned_blocks(normalize=True))
    other, _ = small(pruned_blocks(normalize=True))
    accelerated, twin = accelerate(net, backend), accelerate(other, backend)
    assert not torch.equal(twin(x), accelerated(x))
    twin.load_state_dict(accelerated.state_dict())
    assert torch.equal(twin(x), accelerated(x))


@each_backend
def test_running_again_gives_the_same(backend):
    """Layers share the memory they gather into; what is in it from before must not matter."""
    net, x = small(pruned_blocks(normalize=True))
    accelerated = accelerate(net, backend)
    first = accelerated(x)
    kept = first.clone()
    accelerated(torch.cat([x, 10 * x]))
    assert torch.equal(first, kept)  # not a view of that memory
    assert torch.equal(accelerated(x), first)
    assert torch.equal(accelerated(x), first)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@each_backend
def test_in_every_gradient_mode(backend, mode):
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), GatedConv2d(8, 4, 3)))
    net.append(nn.Flatten()).append(nn.Linear(4 * 4 * 4, 3))
    accelerated, x = accelerate(net, backend), torch.rand(2, 3, 8, 8)
    with mode():
        inside = accelerated(x)
    assert torch.equal(accelerated(x), inside)
    with torch.no_grad():
        assert torch.equal(accelerated(x), inside)


@each_backend
@pytest.mark.parametrize("name", ["a single layer", "a single block", "blocks", "functions"])
def test_no_graph_is_built(backend, name):
    net, images = NETWORKS[name]()
    y = accelerate(net, backend)(images.requires_grad_())
    assert not y.requires_grad and y.grad_fn is None


@each_backend
def test_under_autocast_the_winners_are_the_same(backend):
    layer = GatedConv2d(16, 64, 3, density=0.5).eval()
    x = torch.randn(64, 16, 6, 6)
    accelerated = accelerate(layer, backend)
    layer(x), accelerated(x)
    winners = winner_mask(layer.saliency, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        accelerated(x)
    assert accelerated.saliency.dtype == torch.float32
    assert torch.equal(winner_mask(accelerated.saliency, 0.5), winners)


@each_backend
def test_moved_to_channels_last_and_float64(backend):
    net = used(nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), GatedConv2d(8, 4, 3)))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    expected = copy.deepcopy(net).double()(x).detach()
    accelerated = accelerate(net, backend)
    accelerated(x.float())
    assert (accelerated.double()(x) - expected).abs().max() < 1e-5
    accelerated.to(memory_format=torch.channels_last)
    assert (accelerated(x) - expected).abs().max() < 1e-5


@each_backend
def test_a_child_in_training_mode_runs_in_eval_mode_or_is_refused(backend):
    net = used(nn.Sequential(nn.BatchNorm2d(3), GatedConv2d(3, 8, 3, density=0.5), nn.Dropout()))
    x = torch.rand(4, 3, 5, 5)
    expected = net(x).detach()
    net[0].train(), net[2].train()
    try:
        accelerated = accelerate(net, backend)
    except ValueError as error:
        assert "eval" in str(error)
    else:
        assert_same(accelerated(x), expected)


# Modules that are more than they seem


class OnTokens(nn.Module):
    """A linear layer, or attention, that reads each position of the maps."""

    def __init__(self, reader):
        super().__init__()
        self.gated, self.reader = GatedConv2d(3, 8, 3, density=0.5), reader

    def forward(self, x):
        return self.reader(self.gated(x).flatten(2).transpose(1, 2))


class SelfAttention(nn.Module):
    """Attention reads the weights of a linear layer inside it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Tied(nn.Module):
    """A second use of a layer's weights."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return F.linear(self.linear(x), self.linear.weight.t())


class ScaledConv(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class ScaledGate(GatedConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class TwiceTheBlock(ChannelPruning):
    def forward(self, x):
        return super().forward(x) + self.block(x)


class RollingReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x).roll(1, dims=1)


class ReadsAKernel(nn.Module):
    """Uses the weight of a gated layer by itself."""

    def __init__(self):
        super().__init__()
        self.gated = GatedConv2d(8, 8, 3, padding=1, density=0.5)

    def forward(self, x):
        return F.conv2d(self.gated(x), self.gated.conv.weight)


class AsksForKinds(nn.Module):
    """Collects the maps before each pooling, as segmentation networks do."""

    def __init__(self):
        super().__init__()
        gated = [GatedConv2d(8, 8, 3, padding=1, density=0.5) for _ in range(2)]
        self.layers = nn.Sequential(gated[0], nn.MaxPool2d(2), gated[1], nn.MaxPool2d(2))

    def forward(self, x):
        sums = 0
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                sums = sums + x.sum(dim=(2, 3))
            x = layer(x)
        return sums + x.sum(dim=(2, 3))


def with_part(**parts):
    layer = GatedConv2d(8, 8, 3, density=0.5)
    for name, part in parts.items():
        setattr(layer, name, part)
    return layer


def affine_norm():
    norm = nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight)
    return with_part(norm=norm)


def hooked(which):
    net = nn.Sequential(
        GatedConv2d(8, 8, 3, density=0.5), nn.ReLU(), nn.Conv2d(8, 8, 1), GatedConv2d(8, 8, 1)
    )
    net[which].register_forward_hook(lambda module, args, output: output.flip(1))
    return net


def hook_in_a_block():
    block = ChannelPruning(nn.Conv2d(8, 8, 3), nn.ReLU(), density=0.5)
    block[1].register_forward_hook(lambda module, args, output: output.flip(1))
    return block


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(ScaledGate(8, 8, 3, density=0.5), GatedConv2d(8, 8, 3, density=0.5)),
        lambda: with_part(conv=ScaledConv(8, 8, 3, bias=False)),
        affine_norm,
        lambda: with_part(norm=nn.GroupNorm(2, 8)),
        lambda: TwiceTheBlock(nn.Conv2d(8, 8, 3), nn.ReLU(), density=0.5),
        lambda: with_part(activation=RollingReLU()),
        ReadsAKernel,
        AsksForKinds,
        lambda: hooked(0),
        lambda: hooked(1),
        lambda: hooked(2),
        hook_in_a_block,
    ],
    ids=[
        "a subclass", "a convolution", "a norm with a scale", "another norm", "a block",
        "an activation", "a kernel read", "isinstance", "hook on a layer", "hook on a ReLU",
        "hook on a convolution", "hook in a block",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_as_it_is(build):
    net = used(build().double())
    assert_accelerated(net, torch.rand(2, 8, 12, 12, dtype=torch.float64))


def test_threads_do_not_share_memory():
    net = used(nn.Sequential(GatedConv2d(3, 32, 3, density=0.5), GatedConv2d(32, 64, 3)).double())
    for layer in gated_layers(net).values():  # the same gates for all: only memory is shared
        nn.init.zeros_(layer.predictor.weight)
    accelerated, images = accelerate(net, "cpu"), torch.rand(40, 1, 3, 16, 16).double()
    with torch.no_grad():
        expected = [accelerated(x) for x in images]
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(torch.no_grad()(accelerated), images))
    for y, alone in zip(outputs, expected, strict=True):
        assert_same(y, alone)


def test_what_is_accelerated_reports_its_gates_but_is_not_counted_or_accelerated_again():
    net, (images, labels) = load_pretrained("digits", 0.3), as_tensors(load_data("digits")[1])
    accelerated = accelerate(net)
    accelerated(images), net(images)
    for name, layer in gated_layers(accelerated).items():
        assert_same(layer.gate, gated_layers(net)[name].gate.detach())
    assert how_dynamic(accelerated, images, labels).own == how_dynamic(net, images, labels).own
    with pytest.raises(ValueError, match="the network itself"):
        count_macs(accelerated, images)
    with pytest.raises(ValueError, match="accelerated already"):
        accelerate(accelerated)


class FirstOf(nn.Module):
    def forward(self, pair):
        return pair[0]


def parametrised():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3))
    return nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), conv)


@pytest.mark.parametrize(
    "build",
    [
        lambda: OnTokens(nn.Linear(8, 5)),
        lambda: OnTokens(SelfAttention()),
        lambda: OnTokens(Tied()),
        lambda: nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), ScaledConv(8, 4, 3)),
        lambda: nn.Sequential(
            GatedConv2d(3, 8, 3, density=0.5), nn.Flatten(), ScaledLinear(8 * 36, 4)
        ),
        lambda: GatedConv2d(3, 8, 3, density=0.5, activation=nn.PReLU(8)),
        lambda: nn.Sequential(
            GatedConv2d(3, 8, 3, density=0.5), nn.MaxPool2d(2, return_indices=True), FirstOf()
        ),
        parametrised,
    ],
    ids=["tokens", "attention", "tied", "Conv2d", "Linear", "PReLU", "pooling", "weight norm"],
)
def test_modules_that_are_more_than_they_seem(build):
    net = build().double()
    for module in net.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight)
    assert_accelerated(used(net), torch.randn(2, 3, 8, 8, dtype=torch.float64))


# Errors


NET = nn.Sequential(GatedConv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5)).eval()


@pytest.mark.parametrize("backend", ["nope", "CPU", "", None, 1])
def test_an_unknown_backend_is_refused(backend):
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(backend))) as error:
        accelerate(NET, backend)
    assert "reference" in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match=r"(?i)cuda"):
        accelerate(NET, "cuda")


@each_backend
def test_a_model_it_cannot_do_is_refused(backend):
    with pytest.raises(ValueError, match="eval"):
        accelerate(copy.deepcopy(NET).train(), backend)
    with pytest.raises(ValueError, match="gated"):
        accelerate(nn.Conv2d(3, 8, 3).eval(), backend)
    with pytest.raises(TypeError, match="Module"):
        accelerate("net", backend)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(TypeError, match=str(dtype)):
            accelerate(copy.deepcopy(NET).to(dtype), backend)
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 3), norm)).eval()
    with pytest.raises(ValueError, match="running statistics"):
        accelerate(net, backend)


@each_backend
def test_training_mode_is_refused(backend):
    block = ChannelPruning(nn.Conv2d(3, 8, 3)).eval()
    for net in (NET, block):
        accelerated, x = accelerate(net, backend), torch.rand(1, 3, 4, 4)
        with pytest.raises(ValueError, match="eval"):
            accelerated.train()(x)
        assert_same(accelerated.eval()(x), net(x).detach())


@each_backend
@pytest.mark.parametrize(
    "first", [GatedConv2d(3, 8, 3), nn.Conv2d(3, 8, 3)], ids=["gated", "plain"]
)
def test_images_that_do_not_fit_are_refused(backend, first):
    accelerated = accelerate(nn.Sequential(first, GatedConv2d(8, 4, 1)).eval(), backend)
    with pytest.raises(ValueError, match="3 channels, got 4"):
        accelerated(torch.rand(1, 4, 6, 6))
    with pytest.raises(ValueError, match="4 dimensions"):
        accelerated(torch.rand(3, 6, 6))
    with pytest.raises(ValueError, match="empty"):
        accelerated(torch.rand(0, 3, 6, 6))
    with pytest.raises(TypeError, match="floating"):
        accelerated(torch.ones(1, 3, 6, 6, dtype=torch.int64))
    for images in (torch.rand(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.rand(4, 3, 2, 2)):
        with pytest.raises((ValueError, RuntimeError), match=r"(?i)smaller|greater|kernel"):
            accelerated(images)


@pytest.mark.parametrize("groups", [1, 3])
@each_backend
def test_a_map_that_shrinks_below_a_kernel_is_refused(backend, groups):
    layers = GatedConv2d(3, 6, 3), GatedConv2d(6, 6, 3, groups=groups)
    accelerated = accelerate(nn.Sequential(*layers).eval(), backend)
    for image in (torch.rand(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)):
        with pytest.raises((ValueError, RuntimeError), match=r"(?i)smaller|greater|kernel"):
            accelerated(image)


@each_backend
@pytest.mark.parametrize(
    "second",
    [
        *(GatedConv2d(c, 4, 1) for c in (7, 9)),
        *(nn.Conv2d(c, 4, 1) for c in (7, 9)),
        *(nn.Sequential(nn.Flatten(), nn.Linear(c * 16, 4)) for c in (7, 9)),
        *(ChannelPruning(nn.Conv2d(c, 4, 1)) for c in (7, 9)),
    ],
    ids=[f"{n} {c}" for n in ("gated", "plain", "linear", "block") for c in (7, 9)],
)
def test_layers_that_do_not_fit_one_another_are_refused(backend, second):
    """As the masked form does, which gets 8 channels here and wants 7 or 9."""
    net = nn.Sequential(GatedConv2d(3, 8, 3, density=0.5), second).eval()
    x = torch.rand(1, 3, 6, 6)
    with pytest.raises((ValueError, RuntimeError)):
        net(x)
    accelerated = accelerate(net, backend)
    for images in (x, torch.zeros(1, 3, 6, 6), torch.rand(3, 3, 6, 6)):
        with pytest.raises((ValueError, RuntimeError)):
            accelerated(images)


# Memory


def peak_memory(net, images):
    """Bytes that PyTorch's allocator held at most during one forward, beyond those before it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        net(images)
    events = [e for e in recording.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (mcifarnet, (1, 3, 32, 32)),
        (mcifarnet, (32, 3, 32, 32)),
        (lambda: torchvision.models.vgg11_bn(init_weights=False).features, (1, 3, 128, 128)),
    ],
    ids=["M-CifarNet", "M-CifarNet, 32 images", "VGG11"],
)
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_allocates_no_more_than_the_dense_network(build, shape, backend):
    dense, x = build().eval(), torch.rand(shape)
    accelerated = accelerate(convert(dense, 0.5, gates="random"), backend)
    expected = peak_memory(dense, x)
    assert expected > x.nbytes
    assert peak_memory(accelerated, x) <= expected  # the first time, with all it gathers into
