"""The backend for GPUs. Most of it is tested without one.

The PyTorch form runs on the CPU. The Triton kernels run in Triton's interpreter, in a process of
its own (`interpret` below), and are compiled for several GPUs, whose code is looked at. The tests
at the end need a GPU: ``make test-gpu``.
"""

import copy
import itertools
import json
import os
import re
import subprocess
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from test_execution import (
    Residual,
    assert_same,
    chain_and_images,
    layer_and_images,
    m_cifarnet,
    random_gates,
    torchvision_net,
    used,
)
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    active_channels,
    channel_saliency,
    convert,
    set_density,
)
from fbs_tutorial.bench.stored import stored
from fbs_tutorial.execution import cuda, rows
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.cuda import TorchCudaConv, TritonConv, to_tf32
from fbs_tutorial.execution.graphs import Graphed, graphed
from fbs_tutorial.execution.layers import winners_and_gates
from fbs_tutorial.execution.roofline import (
    GPUS,
    H100,
    Layer,
    Tile,
    choose_tile,
    dense_time,
    gpu_like,
    hand_over_time,
    skip_time,
    skipping_is_faster,
)
from fbs_tutorial.execution.rows import Rows, RowsMaxPool2d
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.models import mcifarnet

# The kernels are fine with Triton 3.2 too, but its interpreter and compiler are called otherwise.
VERSION = re.findall(r"\d+", cuda.triton.__version__) if cuda.triton else ["0"]
needs_triton = pytest.mark.skipif([*map(int, VERSION)] < [3, 3], reason="needs Triton 3.3")


def needs_gpu(test):
    """Skipped without a GPU; ``-m gpu`` runs these tests alone."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(skip(test))


def accelerated_here(net):
    """What the backend makes of a network, although that is on a CPU."""
    with patch("fbs_tutorial.execution.plan.check_device"):
        return accelerate(net, "cuda", check=False)  # which would run what a test listens to


def in_plain_form(net):
    """The same, in PyTorch's operations also where the kernel could run."""
    with patch.object(cuda, "cuda_conv", TorchCudaConv):
        return accelerated_here(net)


@torch.no_grad()
def errors(net, images, accelerated):
    """Of the accelerated and the masked form, with the same winners, as shares of the largest
    output; the truth is the network in float64."""
    exact, fast = copy.deepcopy(net).double(), accelerated(images)
    gates = {n: winner_mask(m.saliency, m.density) for n, m in gated_layers(accelerated).items()}
    with forced_gates(net, gates), forced_gates(exact, gates):
        expected, masked = exact(images.double()), net(images)
    assert fast.dtype == masked.dtype and expected.isfinite().all()
    largest = expected.abs().max()
    return [((y.double() - expected).abs().max() / largest).item() for y in (fast, masked)]


def assert_as_right_as_masked(net, images, accelerated, eps):
    fast, masked = errors(net, images, accelerated)
    assert 0 < fast <= 2 * masked + eps, (fast / eps, masked / eps)


# The plain form


@given(layer_and_images())
def test_the_plain_form_of_a_layer_equals_its_masked_form(case):
    layer, x = case[0].double(), case[1].double()
    with torch.no_grad():
        assert_same(accelerated_here(layer)(x), layer(x))


@settings(max_examples=40)
@given(chain_and_images())
def test_the_plain_form_of_a_chain_equals_its_masked_form(case):
    net, x = case[0].double(), case[1].double()
    with torch.no_grad():
        assert_same(accelerated_here(net)(x), net(x))


def test_the_plain_form_of_a_large_batch_goes_in_parts():
    net = used(nn.Sequential(GatedConv2d(4, 9, 3, density=0.5), GatedConv2d(9, 8, 3)).double())
    x = torch.rand(7, 4, 9, 9, dtype=torch.float64)
    with torch.no_grad(), patch.object(cuda, "GATHERED", 2 * 9 * 5 * 8 * 8):
        assert_same(accelerated_here(net)(x), net(x))


def test_the_plain_form_skips():
    """A grouped convolution of k winners and k inputs, and not of all of them."""
    net = used(nn.Sequential(GatedConv2d(8, 16, 3, 1, 1), GatedConv2d(16, 16, 3, 1, 1)))
    accelerated, kernels = accelerated_here(set_density(net, 0.25)), []
    convolve = F.conv2d
    with patch.object(F, "conv2d", lambda *a, **k: kernels.append(a[1].shape) or convolve(*a, **k)):
        accelerated(torch.rand(3, 8, 6, 6))
    assert kernels == [(3 * 4, 8, 3, 3), (3 * 4, 4, 3, 3)]


# In 16 bits

NARROW = [torch.float16, torch.bfloat16]
each_narrow = pytest.mark.parametrize("dtype", NARROW, ids=str)


def chain():
    """Gated layers of one group and of several, a pruned block, and what may stand between."""
    return nn.Sequential(
        GatedConv2d(3, 32, 3, padding=1, density=0.5),
        nn.MaxPool2d(2),
        GatedConv2d(32, 48, 3, padding=1, density=0.5, activation=nn.ReLU6()),
        GatedConv2d(48, 40, 3, groups=8, density=0.5, activation=False, reduce="l2"),
        ChannelPruning(nn.Conv2d(40, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), density=0.5),
        nn.Conv2d(24, 10, 1),
    )


@each_narrow
def test_a_network_in_16_bits_is_as_right_as_its_masked_form(dtype):
    x = torch.rand(4, 3, 16, 16).to(dtype)
    net = used(chain(), x.float()).to(dtype)
    accelerated = in_plain_form(net)
    convs = [module for module in accelerated.modules() if isinstance(module, TorchCudaConv)]
    assert len(convs) == 5 and all(conv.weight.dtype == dtype for conv in convs)
    assert_as_right_as_masked(net, x, accelerated, torch.finfo(dtype).eps)


@each_narrow
def test_norms_are_folded_in_float32_and_kernels_rounded_once(dtype):
    layer = used(GatedConv2d(24, 32, 3)).to(dtype)
    conv, norm = in_plain_form(layer).conv, layer.norm
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    exact = layer.conv.weight.double() * scale[:, None, None, None]
    wrong = (conv.weight.double() - exact).abs()
    assert conv.weight.dtype == dtype
    digit = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
    assert (wrong <= 0.501 * digit).all()  # at most half of the last one
    assert conv.bias.dtype == torch.float32
    exact = layer.beta.double() - norm.running_mean.double() * scale
    torch.testing.assert_close(conv.bias.double(), exact, rtol=1e-6, atol=1e-7)


@each_narrow
@pytest.mark.parametrize("reduce", ["l1", "l2", "max", "avg"])
@pytest.mark.parametrize("activation", [True, False])
def test_gates_of_maps_in_16_bits_are_computed_in_float32(dtype, reduce, activation):
    layers = GatedConv2d(3, 32, 3, density=0.5, activation=activation), GatedConv2d(32, 20, 3)
    layers[1].reduce = reduce
    accelerated, seen = in_plain_form(used(nn.Sequential(*layers)).to(dtype)), []
    accelerated[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        accelerated(torch.rand(3, 3, 12, 12).to(dtype))
        (x,) = seen
        s = x.among_all(channel_saliency(x.maps.double(), reduce))
        g = layers[1].double().predict(s)
    assert x.maps.dtype == dtype and accelerated[1].saliency.dtype == torch.float32
    torch.testing.assert_close(accelerated[1].saliency.double(), g, rtol=1e-5, atol=1e-6)


@each_narrow
def test_shift_and_gate_are_applied_in_float32(dtype):
    """Two roundings, of what the convolution returns and of the result, and no others."""
    x, pi = torch.rand(2, 20, 9, 9).to(dtype), 1 + torch.rand(2, 24)
    conv, winners = TorchCudaConv(nn.Conv2d(20, 24, 3).to(dtype)), torch.arange(24).expand(2, -1)
    conv.bias += torch.randn(24)
    x, weight = x.double(), conv.weight.double()
    gate, eps = pi.double()[:, :, None, None], torch.finfo(dtype).eps
    product, bias = F.conv2d(x, weight), conv.bias.double()[:, None, None]
    y = conv(Compact(x.to(dtype), None, 20), x.mean((2, 3)), winners, pi).maps
    exact = gate * (product + bias)
    roundings = (gate * product).abs() + exact.abs()
    in_sums = 1e-6 * gate * F.conv2d(x, weight.abs())  # they are in float32
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= 0.501 * eps * roundings + in_sums).all()


# What it refuses, and what it takes


@each_narrow
@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_16_bits_are_for_gpus(dtype, backend):
    net = GatedConv2d(3, 4, 3).eval().to(dtype)
    with pytest.raises(TypeError, match=rf"with backend 'cuda' also float16.*has {dtype}"):
        accelerate(net, backend)


def test_the_cuda_backend_needs_a_cuda_device_and_the_model_on_it():
    net = GatedConv2d(3, 4, 3).eval()
    with (
        patch("torch.cuda.is_available", return_value=False),
        pytest.raises(ValueError, match="backend='cuda' needs a CUDA device"),
    ):
        accelerate(net, "cuda")
    with (
        patch("torch.cuda.is_available", return_value=True),
        pytest.raises(ValueError, match="needs the model on cuda, got one on cpu"),
    ):
        accelerate(net, "cuda")


def test_the_kernel_takes_what_it_can_do():
    with pytest.raises(ValueError, match="one group, got 2"):
        TritonConv(nn.Conv2d(4, 4, 3, groups=2))
    conv, winners = TritonConv(nn.Conv2d(2, 4, 3)), torch.tensor([[0, 1]])
    maps = torch.rand(1, 2, 5, 5)
    with pytest.raises(TypeError, match=r"float32, not float64; got torch\.float64"):
        conv(Compact(maps.double(), None, 2), maps.mean((2, 3)), winners)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        conv(Compact(maps[:, :, :2, :2], None, 2), maps.mean((2, 3)), winners)


def test_the_plain_form_does_what_the_kernel_cannot():
    with patch.object(cuda, "INTERPRETING", True):  # as if tensors were on a GPU
        kinds = {
            "float32": cuda.cuda_conv(nn.Conv2d(4, 4, 3)),
            "groups": cuda.cuda_conv(nn.Conv2d(4, 4, 3, groups=2)),
            "float64": cuda.cuda_conv(nn.Conv2d(4, 4, 3).double()),
            "float16": cuda.cuda_conv(nn.Conv2d(4, 4, 3).half()),
            "bfloat16": cuda.cuda_conv(nn.Conv2d(4, 4, 3).bfloat16()),
        }
        for gpu in (7, 0), (7, 5), (8, 0):
            with patch.object(cuda, "capability", return_value=gpu):
                for dtype in torch.float32, torch.float16, torch.bfloat16:
                    kinds[gpu, dtype] = cuda.cuda_conv(nn.Conv2d(4, 4, 3).to(dtype))
        with patch.object(cuda, "triton", None):
            kinds["without triton"] = cuda.cuda_conv(nn.Conv2d(4, 4, 3))
    plain = {name for name, conv in kinds.items() if type(conv) is TorchCudaConv}
    fused = {"float32", "float16", ((7, 5), torch.float32)}
    fused |= {((8, 0), dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    assert plain == set(kinds) - (fused if cuda.triton else set())


def test_bfloat16_is_multiplied_in_float32_where_a_gpu_cannot():
    x = torch.rand(2, 3, 12, 12).bfloat16()
    net = used(nn.Sequential(GatedConv2d(3, 16, 3, density=0.5), GatedConv2d(16, 8, 3))).bfloat16()
    with patch.object(cuda, "capability", return_value=(7, 5)):
        accelerated, types = accelerated_here(net), []
    convolve = F.conv2d
    with patch.object(F, "conv2d", lambda *a, **k: types.append(a[1].dtype) or convolve(*a, **k)):
        y = accelerated(x)
    assert types == [torch.float32] * 2 and y.dtype == torch.bfloat16
    assert_as_right_as_masked(net, x, accelerated, torch.finfo(x.dtype).eps)


def test_the_package_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; from fbs_tutorial.execution import cuda; "
    subprocess.run([sys.executable, "-c", code + "assert cuda.triton is None"], check=True)


def test_a_graph_needs_a_gpu():
    net = GatedConv2d(3, 4, 3).eval()
    with pytest.raises(ValueError, match="needs images on a CUDA device, got cpu"):
        graphed(net, torch.rand(1, 3, 8, 8))


class OnGpu:
    """Stands for images on a GPU where there is none."""

    is_cuda, shape, dtype, device = True, (1, 3, 8, 8), torch.float32, "cuda:0"


class Recorder(MagicMock):
    """Stands for ``torch.cuda`` where there is none: nothing is recorded, and nothing replayed."""

    CUDAGraph = MagicMock


def test_a_graph_recorded_in_inference_mode_serves_outside_of_it():
    net, images = GatedConv2d(3, 4, 3).eval(), torch.rand(1, 3, 8, 8)
    conditions = patch.object(Graphed, "conditions", lambda self, images: images.shape)
    with patch.object(torch, "cuda", Recorder()), conditions:
        with torch.inference_mode():
            graph = graphed(net, images + 1)
        assert torch.equal(graph.images, images + 1)
        y = graph(images)
        assert not y.is_inference() and not y.requires_grad
        assert torch.equal(graph.images, images)  # what a replay would have read
        assert graph.graph.replay.call_count == 1


def test_a_graph_is_good_for_a_shape_and_densities():
    net = set_density(convert(mcifarnet()), 0.5).eval()
    graph, images = Graphed(net), OnGpu()
    before = graph.conditions(images)
    assert graph.conditions(images) == before
    set_density(net, 0.25)
    assert graph.conditions(images) != before
    set_density(net, 0.5)
    assert graph.conditions(images) == before
    images.shape = (2, 3, 8, 8)
    assert graph.conditions(images) != before


def test_a_graph_refuses_shapes_that_depend_on_values():
    net = convert(mcifarnet()).eval()
    with pytest.raises(ValueError, match="one density for all images"):
        Graphed(set_density(net, torch.tensor([0.5]))).conditions(OnGpu())
    set_density(net, 0.5)
    name = next(iter(gated_layers(net)))
    with (
        forced_gates(net, {name: torch.ones(1, 64)}),
        pytest.raises(ValueError, match="no forced gates"),
    ):
        Graphed(net).conditions(OnGpu())
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        Graphed(net.train()).conditions(OnGpu())


# What the sizes of a layer decide

SIZES = list(itertools.product([1, 8, 128], [1, 49, 64, 196, 900], [1, 48, 96, 512], [1, 3, 64]))
PRODUCTS = ["fp32", "tf32", "bf16", "fp16"]


@pytest.mark.parametrize("products", PRODUCTS)
def test_tiles_are_what_triton_takes(products):
    for size in SIZES:
        tile = choose_tile(*size, products)
        assert {tile.pixels, tile.outputs} <= {16, 32, 64, 128} and tile.inputs in (16, 32, 64)
        assert tile.warps in (2, 4, 8)
        assert tile.flat == (size[3] < 16)


def test_tiles_fit():
    assert choose_tile(128, 1024, 128, 64, "tf32")[:2] == (128, 128)
    assert choose_tile(128, 49, 256, 64, "tf32")[:2] == (64, 128)  # 49 pixels are no case for 128
    assert choose_tile(1, 196, 256, 256, "tf32")[:2] == (64, 16)  # of larger ones there were few


TABLE = stored("layers")
MEASURED = TABLE["rows"]
each_measured = pytest.mark.parametrize(
    "row",
    [*MEASURED, *TABLE["prototype"]["rows"]],
    ids=lambda r: f"{r['products']} {r['channels']}@{r['side']} x{r['images']} {r['density']}",
)


def convolution(row):
    """Microseconds of the convolution in the tile that is chosen, or in the nearest measured."""
    sizes = row["images"], row["side"] ** 2, row["k"], row["k"], row["products"]
    tile, found = (
        choose_tile(*sizes),
        {tuple(json.loads(t)): us for t, us in row["convolve"].items()},
    )
    return found.get(tuple(tile)) or min(us for t, us in found.items() if t[:2] == tile[:2])


@each_measured
def test_the_rule_takes_the_faster_way_on_an_h100(row):
    """Within 10 % of the better way, in time with the selection, which both have."""
    work = Layer(row["images"], *[row["k"]] * 2, *[row["channels"]] * 2, 9, *[row["side"] ** 2] * 2)
    skips = skipping_is_faster(work, row["products"], True, H100)
    if "total" in row:  # the prototype; it had no dense way, but selected in any case
        skip, dense = row["total"], row["select"] + row["dense_pytorch"]
    else:
        skip = row["select"] + row["gather"] + convolution(row)
        dense = row["select"] + row["spread"] + row["dense_and_mask"]
    assert (skip if skips else dense) <= 1.1 * min(skip, dense), (skip, dense)


@pytest.mark.parametrize("products", ["fp32", "tf32", "bf16"])
def test_tiles_are_nearly_the_best_that_were_measured(products):
    measured = [row for row in MEASURED if row["products"] == products]
    shares = [convolution(row) / min(row["convolve"].values()) for row in measured]
    assert max(shares) <= 1.3 and sum(shares) / len(shares) <= 1.06, shares


def test_the_rule_depends_on_sizes_in_the_right_sense():
    def skips(k, side=14, n=64, gpu=H100, products="tf32", gathers=True):
        return skipping_is_faster(
            Layer(n, k, k, 512, 512, 9, side * side, side * side), products, gathers, gpu
        )

    for gpu, products in itertools.product(GPUS.values(), PRODUCTS):
        ways = [skips(k, gpu=gpu, products=products) for k in range(8, 513, 8)]
        assert ways == sorted(ways, reverse=True)  # fewer channels are never a reason to skip less
        assert ways[0] and not ways[-1]
    assert skips(256, side=28) and not skips(256, side=7)  # own weights pay on large maps
    assert gpu_like((10, 0)) is H100 and gpu_like(None) is H100 and gpu_like((8, 7)) is GPUS[8, 6]
    assert gpu_like((6, 1)) is GPUS[7, 5]


def test_after_full_maps_the_next_layer_counts_too():
    """Alone, each of these layers would gain a little; filling in after it would cost more."""

    def times(k, products, images, c_in, c_out, side, gathers=False):
        layer = Layer(images, c_in, k, c_in, c_out, 9, side**2, (2 * side) ** 2)
        alone = [way(layer, products, gathers, H100) for way in (skip_time, dense_time)]
        later = hand_over_time(layer, products, H100)
        return *alone, later, skipping_is_faster(layer, products, gathers)

    for k, *sizes in (96, "tf32", 256, 64, 128, 15), (116, "bf16", 64, 64, 128, 28):
        skip, dense, later, skips = times(k, *sizes)
        assert skip < dense <= skip + later and not skips
        skip, dense, later, skips = times(32, *sizes)  # the next layer gains as well
        assert skip < dense and later == 0 and skips
        assert times(128, *sizes)[2] == 0  # all maps are handed on
        assert times(k, *sizes, gathers=True)[3]  # to and fro is what it costs already


# Rounding to TF32


def test_numbers_are_rounded_to_the_nearest_of_tf32():
    """Half a digit at most, to both sides, and none for numbers of 10 bits."""
    x = torch.randn(100_000, dtype=torch.float64).float()
    wrong = (to_tf32(x).double() - x.double()) / x.double()
    assert wrong.abs().max() <= 2**-11 and abs(wrong.mean()) < 2**-11 / 50
    exact = torch.arange(1024, 2048).float() / 64
    assert torch.equal(to_tf32(exact), exact) and torch.equal(to_tf32(-exact), -exact)
    assert to_tf32(torch.tensor([1 + 2**-11 + 2**-20]))[0] == 1 + 2**-10
    assert to_tf32(torch.tensor([1 + 2**-11 - 2**-20]))[0] == 1
    assert torch.equal(to_tf32(torch.zeros(2)), torch.zeros(2))


# The kernels in the interpreter


@needs_triton
@pytest.mark.parametrize("part", ["small_kernels", "layers", "networks", "tensor_cores"])
def test_in_the_interpreter(part):
    here = str(Path(cuda.__file__).parents[2])  # the copy of the package that is tested
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{part} are right" in done.stdout


@torch.no_grad()
def interpret(part):
    """Called in a process with TRITON_INTERPRET=1: the kernels against PyTorch's operations."""
    assert cuda.INTERPRETING
    torch.manual_seed(0)
    {
        "small_kernels": interpret_small_kernels,
        "layers": interpret_layers,
        "networks": interpret_networks,
        "tensor_cores": interpret_tensor_cores,
    }[part]()
    print(f"{part} are right")


def tf32(allow):
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=allow)


def some_rows(n, k, size, total, dtype=torch.float32, nonnegative=True):
    """Compact maps with channels of their own for each image, in padded rows, and the full ones."""
    channels = torch.rand(n, total).argsort(dim=1)[:, :k].sort(dim=1).values
    y = torch.zeros(n, *size, rows.padded(k), dtype=dtype)
    y[..., :k] = torch.rand(n, *size, k) if nonnegative else torch.randn(n, *size, k)
    sums = y[..., :k].float().abs().sum((1, 2))[:, None]
    x = Rows(y[..., :k].permute(0, 3, 1, 2), channels, total, nonnegative, sums)
    return x, Compact.dense(x)


def interpret_small_kernels():
    interpret_select()
    interpret_gather()
    interpret_passes()
    interpret_relus()
    interpret_pools()
    interpret_sums_in_place()


def interpret_select():
    """The winners of `winners_and_gates`, ties and zeros included."""
    for n, c_in, width, c, density in [
        (3, 20, 7, 33, 0.3),
        (2, 5, 5, 16, 0.5),
        (1, 300, 150, 200, 0.5),
    ]:
        gate = GatedConv2d(c_in, c, 1, density=density).eval()
        random_gates(gate)
        gate.predictor.weight[1::3] = gate.predictor.weight[0]  # ties
        gate.predictor.bias[1::3] = gate.predictor.bias[0]
        channels = torch.rand(n, c_in).argsort(1)[:, :width].contiguous()
        sums, k = torch.rand(n, 5, width), active_channels(c, density)
        s = torch.zeros(n, c_in).scatter_(1, channels, sums.sum(1) / 12)
        weight, bias = gate.predictor.weight.t().contiguous(), gate.predictor.bias
        g, winners, pi = cuda.select(weight, bias, sums, channels, 12, k, False)
        torch.testing.assert_close(g, gate.predict(s), rtol=1e-5, atol=1e-6)
        expected, gates = winners_and_gates(gate, g)
        assert torch.equal(winners, expected) and torch.equal(pi, gates)
        again, none, everything = cuda.select(weight, bias, sums, channels, 12, k, True)
        assert none is None and torch.equal(again, g)
        assert torch.equal(everything, torch.zeros(n, c).scatter_(1, winners, pi))


def interpret_gather():
    """The weights between the lists, rows padded with zeros; rounded to the nearest for TF32."""
    conv, channels = TritonConv(nn.Conv2d(20, 12, 3)), torch.rand(4, 20).argsort(1)[:, :7]
    winners = torch.rand(4, 12).argsort(1)[:, :5]
    for allow in True, False:
        with tf32(allow):
            for first in 0, 1:
                own = conv.gather(channels, winners, 8, first, 2)
                for i in range(2):
                    part = conv.weight[winners[first + i]][
                        :, channels[first + i]
                    ]  # [k, k_in, 3, 3]
                    if allow:
                        rows_ = F.pad(part.permute(0, 2, 3, 1), (0, 1)).reshape(5, 9, 8)
                        assert torch.equal(own.view(2, 5, 9, 8)[i], to_tf32(rows_))
                    else:
                        columns = F.pad(part.flatten(2).permute(2, 1, 0), (0, 3, 0, 1))
                        assert torch.equal(own.view(2, 9, 8, 8)[i], columns)


def interpret_passes():
    """Filling in, adding, masking, summing up."""
    for k, total, size in [(3, 9, (5, 4)), (16, 40, (9, 7)), (1, 130, (1, 1))]:
        x, full = some_rows(2, k, size, total, nonnegative=False)
        assert torch.equal(x.dense(), full)
        other = torch.randn_like(full)
        for y in other, other.contiguous(memory_format=torch.channels_last):
            added = rows.add(x, Compact(y, None, total), True)
            torch.testing.assert_close(added.maps, (full + y).relu())
            assert_sums(added)
            sums = rows.sums_of(y).sum(1)
            torch.testing.assert_close(sums, y.abs().sum((2, 3)))
            pi, bias, masked = torch.rand(2, total), torch.randn(total), y.clone()
            sums = rows.mask(masked, bias, pi, True, False).sum(1)
            expected = (pi[:, :, None, None] * (y + bias[:, None, None])).relu()
            torch.testing.assert_close(masked, expected)
            torch.testing.assert_close(sums, masked.abs().sum((2, 3)))


def interpret_relus():
    """A ReLU in place is one pass, which measures; none where nothing is below 0."""
    full = torch.randn(2, 9, 5, 4)
    full[0, 0, 0, 0] = float("nan")
    forms = full, full.contiguous(memory_format=torch.channels_last)
    made = [(Rows(y.clone(), None, 9), full) for y in forms]
    made.append(some_rows(2, 3, (5, 4), 9, nonnegative=False))
    for x, y in made:
        with patch.object(Rows, "fill_in", side_effect=AssertionError):
            assert F.relu(x, inplace=True) is x and x.nonnegative
        with patch.object(rows, "_one_pass", side_effect=AssertionError):
            F.relu(x, inplace=True)
        torch.testing.assert_close(x.sums.sum(1), x.maps.sum((2, 3)), equal_nan=True)
        torch.testing.assert_close(x.dense(), y.relu(), rtol=0, atol=0, equal_nan=True)
    x = Rows(full.clone(), None, 9)
    view = x[:, :2]  # from now on others may write to it
    assert torch.equal(F.relu(x, inplace=True)[:, 2:], full[:, 2:].relu())
    assert torch.equal(view.nan_to_num(), full[:, :2].relu().nan_to_num())


def assert_sums(x):
    torch.testing.assert_close(
        x.sums.sum(1), x.maps.float().abs().sum((2, 3)), rtol=1e-5, atol=1e-5
    )


def interpret_pools():
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((1, 3), (2, 1))]
    for (k, total), pool in itertools.product([(3, 9), (16, 16), (70, 80)], pools):
        x, full = some_rows(2, k, (8, 6), total)
        y = RowsMaxPool2d(pool)(x)
        assert type(y) is Rows and y.maps.shape[1] == k
        assert_sums(y)
        assert torch.equal(y.dense(), pool(full))
        assert torch.equal(
            rows.rows_of_pixels(y)[0][..., k:], torch.zeros(()).expand(2, *y.shape[2:], -k % 8)
        )
    x, full = some_rows(2, 3, (8, 6), 9, nonnegative=False)  # of what is left out, 0 is the largest
    assert torch.equal(RowsMaxPool2d(pools[0])(x) + 0, pools[0](full))
    assert torch.equal(
        RowsMaxPool2d(nn.MaxPool2d(3, 2, ceil_mode=True))(full),
        F.max_pool2d(full, 3, 2, 0, 1, True),
    )


def interpret_sums_in_place():
    """A sum that is made later is always the sum of what was there when it was asked for."""
    for case in range(8):
        (x, a), (y, b) = some_rows(2, 3, (4, 4), 8, nonnegative=False), some_rows(2, 5, (4, 4), 8)
        view = y[:, :2] if case == 4 else None  # from now on others may write to it
        x += y
        assert type(x) is Rows and (x.addend is None) == (case == 4)
        expected = a + b
        if case == 1:
            x = F.relu(x, inplace=True)
            expected = expected.relu()
            assert x.nonnegative and x.channels is None
            assert_sums(x)
        elif case == 2:
            y.mul_(2)
        elif case == 3:
            z, c = some_rows(2, 5, (4, 4), 8)
            y += z
            assert torch.equal(y + 0, b + c)
        elif case == 4:
            view.mul_(2)
        elif case == 5:
            relued = F.relu(x)
            torch.testing.assert_close(relued + 0, expected.relu())
        elif case == 6:
            assert x.sums is not None
            assert_sums(x)
            x.mul_(2)
            expected = 2 * expected
            assert x.sums is None and not x.nonnegative
        elif case == 7:
            x = copy.deepcopy(x)
            assert type(x) is Rows
            F.relu(y, inplace=True)
        torch.testing.assert_close(x + 0, expected)


def interpret_layers():
    """Every layer in both ways, in float32, TF32 and float16."""
    cases = itertools.cycle(itertools.product([3, 1, 5], [1, 2], [0, 1], [0.5, 1.0, 0.25]))
    channels = [(5, 7), (16, 24), (3, 33), (37, 20)]
    settings = itertools.product(channels, [1, 3], [False, True], ["fp32", "tf32", "fp16"])
    for ((ins, outs), images, compact, products), case in zip(settings, cases, strict=False):
        kernel, stride, padding, density = case
        layer = GatedConv2d(ins, outs, kernel, stride, padding, density=density)
        for way in "skip", "dense":
            interpret_layer(layer, images, compact, products, (9, 6), way=way)
    wide = GatedConv2d(6, 40, (3, 2), (2, 1), (0, 2), density=0.5, activation=False)
    wide.conv.dilation = (1, 3)
    interpret_layer(wide, 2, False, "fp32", (13, 12))
    tiny = GatedConv2d(4, 6, 1, density=1e-3, activation=False)
    interpret_layer(tiny, 2, True, "fp32", (1, 1))
    for size in [(128, 128, 16, False, 8, 3), (16, 16, 32, True, 2, 5), (64, 32, 32, False, 2, 3)]:
        layer = GatedConv2d(40, 50, 3, padding=1, density=0.5)
        interpret_layer(layer, 2, True, "fp32", (9, 9), Tile(*size))
        interpret_layer(layer, 2, False, "tf32", (9, 9), Tile(*size))
    interpret_parts()
    interpret_rounding()


def interpret_parts():
    """Of a large batch, two images have gathered weights at a time: the memory of two, no more."""
    gather, held, sizes = TritonConv.gather, [], []

    def watched(self, *arguments):
        assert all(part() is None for part in held)
        own = gather(self, *arguments)
        held.append(weakref.ref(own))
        sizes.append(own.nbytes)
        return own

    for products, one in ("fp32", 32 * 24 * 9 * 4), ("fp16", 32 * 24 * 9 * 2):
        bound = patch.object(cuda, "GATHERED", 2 * one)
        with bound, patch.object(TritonConv, "gather", watched):
            layer = GatedConv2d(40, 50, 3, padding=1, density=0.5)
            interpret_layer(layer, 5, True, products, (5, 5))
        assert len(sizes) == 3 and max(sizes) <= 2 * one
        sizes.clear()


def interpret_layer(layer, images, compact, products, size, tile=None, way="skip"):
    """A layer equals the masked one in float64, on the same numbers and gates."""
    dtype = torch.float16 if products == "fp16" else torch.float32
    layer = used(layer).to(dtype)
    x = torch.rand(images, layer.in_channels, *size).to(dtype)
    inputs = Compact(x, None, layer.in_channels)
    if compact:  # each image has its own channels, in any order
        k = (layer.in_channels + 1) // 2
        chosen = torch.rand(images, layer.in_channels).argsort(dim=1)[:, :k]
        inputs = Compact(cuda.pick(x, chosen), chosen, layer.in_channels)
        x = inputs.dense()
    k = active_channels(layer.out_channels, layer.density)
    winners = torch.rand(images, layer.out_channels).argsort(dim=1)[:, :k].sort(dim=1).values
    pi = torch.rand(images, k)
    gate = torch.zeros(images, layer.out_channels).scatter(1, winners, pi)
    exact = copy.deepcopy(layer).double()
    with forced_gates(exact, {"": gate.double()}):
        expected = exact(x.double())
    conv = TritonConv(layer.conv, layer.norm)
    conv.bias += layer.beta
    conv.tile, conv.way = tile, way
    with tf32(products == "tf32"):
        assert conv.products == products
        y = conv(inputs, None, winners, pi, layer.activation)
    assert y.maps.dtype == dtype and y.rounded == (products == "tf32")
    assert y.maps.shape[1] == (k if way == "skip" else layer.out_channels)
    assert_sums(y)
    if y.rounded:
        assert torch.equal(to_tf32(y.maps.contiguous()), y.maps)
    tolerance = {"fp32": 2e-6, "tf32": 2**-9, "fp16": 4 * torch.finfo(torch.float16).eps}[products]
    error = (y.dense().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= tolerance, (layer, images, compact, products, size, tile, way, error.item())


def interpret_rounding():
    """In float16 a result is rounded once, at the end; here of sums of 1600 positive products."""
    conv, winners = TritonConv(nn.Conv2d(64, 16, 5).half()), torch.arange(16).expand(1, -1)
    conv.weight.uniform_(0, 0.1)
    x, pi = torch.rand(1, 64, 7, 7).half(), 1 + torch.rand(1, 16)
    conv.way = "skip"
    y = conv(Compact(x, None, 64), x.float().mean((2, 3)), winners, pi).maps.double()
    exact = F.conv2d(x.double(), conv.weight.double()) + conv.bias.double()[:, None, None]
    exact *= pi.double()[:, :, None, None]
    wrong = (y - exact).abs() / exact.abs() / torch.finfo(torch.float16).eps
    assert wrong.max() <= 0.51, wrong.max()


class Block(nn.Module):
    """A residual block as torchvision writes it: an addition and a ReLU in place."""

    def __init__(self, ins, outs, stride=1):
        super().__init__()
        self.first = GatedConv2d(ins, outs, 3, stride, 1, density=0.5)
        self.second = GatedConv2d(outs, outs, 3, 1, 1, density=0.5, activation=False)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = GatedConv2d(ins, outs, 1, stride, density=0.5, activation=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.second(self.first(x))
        y += self.shortcut(x)
        return self.relu(y)


def interpret_networks():
    """Whole networks through `accelerate`, in both ways, by the rule, in all precisions."""
    parts = GatedConv2d(3, 10, 3, density=0.5), nn.MaxPool2d(2), GatedConv2d(10, 20, 3, density=0.3)
    branch = GatedConv2d(10, 10, 4, padding="same", density=0.5, activation=False)
    plain = nn.Sequential(GatedConv2d(3, 10, 3), Residual(branch), nn.Conv2d(10, 5, 1))
    stem = GatedConv2d(3, 16, 7, 2, 3, density=0.5), nn.MaxPool2d(3, 2, 1)
    blocks = nn.Sequential(*stem, Block(16, 16), Block(16, 24, 2), nn.AdaptiveAvgPool2d(1))
    for net in nn.Sequential(*parts), plain, blocks, chain():
        x = torch.rand(2, 3, 16, 16)
        net = used(net, x)
        for way, products in [
            ("skip", "fp32"),
            ("dense", "fp32"),
            (None, "fp32"),
            ("skip", "tf32"),
            ("skip", "fp16"),
        ]:
            dtype = torch.float16 if products == "fp16" else torch.float32
            network = copy.deepcopy(net).to(dtype)
            accelerated = accelerated_here(network)
            convs = [m for m in accelerated.modules() if isinstance(m, TritonConv)]
            assert convs
            for conv in convs:
                conv.way = way
            with tf32(products == "tf32"):
                if products == "fp32":
                    assert_same(accelerated(x), network(x))
                else:
                    eps = (
                        2**-10
                    )  # of TF32 and float16 alike; on a CPU the masked form is in float32
                    error, masked = errors(network, x.to(dtype), accelerated)
                    assert 0 < error <= 2 * masked + 4 * eps, (way, products, error / eps)
    interpret_densities(nn.Sequential(*parts))
    additions = []
    with patch.object(rows, "add", lambda *a: additions.append(a[2]) or add(*a)):
        accelerated_here(used(blocks, x))(x)
    assert additions == [True, True]  # filled in, added and cut off in one pass each


add = rows.add


def interpret_densities(net):
    """A density for each image; what one has too many has the gate 0."""
    x = torch.rand(3, 3, 16, 16)
    net = set_density(used(net, x), torch.tensor([0.5, 0.25, 1.0]))  # 10 channels, in rows of 16
    for way in "skip", "dense", None:
        accelerated = accelerated_here(net)
        for conv in accelerated.modules():
            if isinstance(conv, TritonConv):
                conv.way = way
        with tf32(False):
            assert_same(accelerated(x), net(x))


def cut_off(x):
    """What a tensor core reads of float32 numbers."""
    return (x.view(torch.int32) & -8192).view(torch.float32)


@contextmanager
def products_of(operands):
    """PyTorch's convolutions of float32 numbers with other factors, as cuDNN has them in TF32."""
    convolve = F.conv2d

    def conv2d(x, weight, *rest, **named):
        if x.dtype == torch.float32:
            x, weight = operands(x.contiguous()), operands(weight)
        return convolve(x, weight, *rest, **named)

    with patch.object(F, "conv2d", conv2d), patch.object(nn.Conv2d, "_conv_forward", forward_of):
        yield


def forward_of(self, x, weight, bias):
    return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@contextmanager
def tensor_cores():
    """The interpreter's products in TF32 of what a tensor core reads: operands that are cut off."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def create_dot(self, a, b, d, precision, *rest):
        if "TF32" in str(precision).upper() and a.data.dtype == np.float32:
            a, b = (
                TensorHandle((x.data.view(np.int32) & -8192).view(np.float32), x.dtype)
                for x in (a, b)
            )
        return multiply(self, a, b, d, precision, *rest)

    with patch.object(InterpreterBuilder, "create_dot", create_dot):
        yield


def interpret_tensor_cores():
    """A deep network on tensor cores, which cut operands off, and on the worst cuDNN, which does
    so too: as right as the masked form on a cuDNN that rounds to the nearest."""
    widths, layers = (3, 16, 16, 24, 24, 24, 32, 32, 32, 32), []
    for i, (ins, outs) in enumerate(itertools.pairwise(widths)):
        layers += [GatedConv2d(ins, outs, 3, padding=1, density=0.5)]
        layers += [nn.MaxPool2d(2)] * (i in (2, 5))
    x = torch.rand(2, 3, 8, 8)
    net = used(nn.Sequential(*layers), x)
    exact, found = copy.deepcopy(net).double(), {}
    for way in "skip", "dense":
        fast = accelerated_here(net)
        for conv in fast.modules():
            if isinstance(conv, TritonConv):
                conv.way = way
        with tf32(True), tensor_cores(), products_of(cut_off):
            y = fast(x)
        gates = {n: winner_mask(m.saliency, m.density) for n, m in gated_layers(fast).items()}
        with forced_gates(net, gates), forced_gates(exact, gates):
            expected = exact(x.double())
            with products_of(to_tf32):
                masked = net(x)
            with products_of(cut_off):
                wrong = net(x)
        for name, z in ("itself", y), ("rounded", masked), ("cut off", wrong):
            error = (z.double() - expected).square().mean() / expected.square().mean()
            found[way, name] = round(2**10 * error.sqrt().item(), 3)
        itself, rounded = found[way, "itself"], found[way, "rounded"]
        assert 0 < itself <= 1.7 * rounded and found[way, "cut off"] > 2 * rounded, found
    print("root mean square errors in units of 2**-10:", found)


# The kernels as compiled for GPUs, which takes none

POINTERS = {
    "convolve_kernel": dict(winners="*i64", bias="*fp32", pi="*fp32", sums="*fp32"),
    "select_kernel": dict.fromkeys(("sums", "predictor", "bias", "g_out", "pi"), "*fp32")
    | dict.fromkeys(("channels", "winners"), "*i64"),
    "gather_kernel": dict(rows="*i64", columns="*i64"),
    "mask_kernel": dict(bias="*fp32", pi="*fp32", sums="*fp32"),
    "spread_kernel": dict(channels="*i64", sums="*fp32"),
    "pool_kernel": dict(sums="*fp32"),
}
OF_DTYPE = {"convolve_kernel": "x weight y", "gather_kernel": "weight out", "mask_kernel": "y"}
OF_DTYPE |= {"spread_kernel": "x addend y", "pool_kernel": "x y"}


def compile_kernel(name, capability, constants, dtype="fp32", divisible=(), **options):
    """A kernel as a launch would have it compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = getattr(cuda.kernels, name)
    pointers = POINTERS[name] | dict.fromkeys(OF_DTYPE.get(name, "").split(), f"*{dtype}")
    names = kernel.arg_names
    kinds = {**pointers, "scale": "fp32"}
    signature = {n: "constexpr" if n in constants else kinds.get(n, "i32") for n in names}
    attributes = {
        (names.index(n),): [["tt.divisibility", 16]]
        for n in {*pointers, *divisible} - set(constants)
    }
    constants = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constants, attributes)
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def convolution_kernel(
    capability, products="fp32", *, k_in=64, k_out=128, pixels=1024, own=True, taps=3
):
    """`convolve_kernel` for a convolution of ``k_in`` inputs, as `TritonConv` launches it."""
    dtype = "fp32" if products in ("fp32", "tf32") else products
    few = k_in if k_in < 16 else rows.padded(k_in)
    width = (
        few
        if products == "fp32" or k_in >= 16
        else -(-few * (2 if dtype != "fp32" else 4) // 16) * 16 // (2 if dtype != "fp32" else 4)
    )
    tile = choose_tile(128, pixels, k_out, width, products)
    constants = dict(
        KERNEL_H=taps, KERNEL_W=taps, UNIT=next(u for u in (8, 4, 2, 1) if width % u == 0)
    )
    constants |= dict(UNIT_Y=8, OWN=own, HAS_WINNERS=True, GATED=True, RELU=True)
    constants |= dict(K_MAJOR=products != "fp32", FLAT=tile.flat, EVEN=width % tile.inputs == 0)
    constants |= dict(ROUND_X=products == "tf32" and not own, ROUND_Y=products == "tf32")
    constants |= dict(PRECISION="tf32" if products == "tf32" else "ieee")
    constants |= dict(BLOCK_M=tile.pixels, BLOCK_N=tile.outputs, BLOCK_K=tile.inputs)
    constants |= {f"{n}_{side}": 1 for n in ("stride", "dilation", "padding") for side in "hw"}
    options = dict(num_warps=tile.warps, num_stages=tile.stages)
    options |= dict(maxnreg=tile.registers) if tile.registers and capability >= 90 else {}
    return compile_kernel("convolve_kernel", capability, constants, dtype, **options)


SHARED_MEMORY = {75: 64 * 1024, 80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}


def assert_fits(kernel, capability, tmp_path):
    """Within the shared memory of a multiprocessor, and nothing kept in memory for want of room.

    A tile whose registers are capped, so that two programs run at once, may keep a few bytes there:
    on an H100 it was still the faster one, by 20 % (assets/h100/layers.json).
    """
    assert kernel.metadata.shared <= SHARED_MEMORY[capability]
    assert ".local" not in kernel.asm["ptx"]
    (tmp_path / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = Path(cuda.triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    use = subprocess.run(
        [tool, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    assert int(re.search(r"STACK:(\d+)", use)[1]) <= (64 if kernel.metadata.maxnreg else 0), use


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 89, 90])
def test_float32_is_computed_in_float32(capability, tmp_path):
    kernel = convolution_kernel(capability)
    assert_fits(kernel, capability, tmp_path)
    ptx = kernel.asm["ptx"]
    assert "fma.rn.f32" in ptx and "mma.sync" not in ptx and "wgmma" not in ptx
    assert ("cp.async" in ptx) == (capability >= 80)  # the next step loads while this one computes


@needs_triton
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("products", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_tensor_cores_are_used_where_they_may_be(products, capability, own, tmp_path):
    kernel = convolution_kernel(capability, products, own=own)
    assert_fits(kernel, capability, tmp_path)
    ptx = kernel.asm["ptx"]
    kind = {"tf32": "tf32", "bf16": "bf16", "fp16": "f16"}[products]
    instruction = "wgmma.mma_async.sync.aligned" if capability == 90 else "mma.sync.aligned"
    assert re.search(rf"{instruction}\S*\.f32\.{kind}\.{kind}", ptx)  # sums in float32
    assert "fma.rn.f32" not in ptx


def copies(ptx):
    """Bytes of each asynchronous copy to shared memory."""
    return [
        int(size, 0) for size in re.findall(r"cp\.async\.c[ag]\S* \[.*?\], \[.*?\], (\w+)", ptx)
    ]


@needs_triton
@pytest.mark.parametrize("products", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_weights_and_maps_are_copied_sixteen_bytes_at_a_time(capability, products):
    sizes = copies(convolution_kernel(capability, products).asm["ptx"])
    assert sizes and set(sizes) == {16}
    few = copies(convolution_kernel(capability, products, k_in=3, own=False).asm["ptx"])
    assert products == "fp32" or set(few) <= {16}  # an image's pixels are padded to that


TILES = [(16, 900), (64, 49), (256, 196), (32, 900), (64, 900), (256, 49)]


@needs_triton
@pytest.mark.parametrize(
    ("capability", "products", "k_out", "pixels"),
    [
        *((90, products, *sizes) for products in ("fp32", "tf32", "bf16") for sizes in TILES),
        *((89, products, *sizes) for products in ("tf32", "bf16") for sizes in TILES[:3]),
        *((75, "fp32", *sizes) for sizes in TILES[:3]),
    ],
)
def test_every_tile_fits(capability, products, k_out, pixels, tmp_path):
    """Also where there is least shared memory: an RTX 4090 on tensor cores, a T4 in float32."""
    kernel = convolution_kernel(capability, products, k_out=k_out, pixels=pixels)
    assert_fits(kernel, capability, tmp_path)


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 89, 90])
def test_tiles_of_flat_steps_fit_too(capability, tmp_path):
    for products in ("fp32", "tf32", "bf16") if capability >= 80 else ("fp32",):
        for k_out, taps in (64, 7), (16, 3):
            kernel = convolution_kernel(
                capability, products, k_in=3, k_out=k_out, own=False, taps=taps
            )
            assert_fits(kernel, capability, tmp_path)


@needs_triton
@pytest.mark.parametrize("k_in", [1, 20, 90])
@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_odd_sizes_fit_too(k_in, products, tmp_path):
    assert_fits(convolution_kernel(90, products, k_in=k_in), 90, tmp_path)


@needs_triton
@pytest.mark.parametrize("capability", [75, 90])
def test_the_other_kernels_fit(capability, tmp_path):
    for block, warps in (64, 4), (256, 8), (512, 16):
        numbers = {64: 4096, 256: 8192, 512: 16384}[block] // block
        sizes = dict(BLOCK_T=64, BLOCK_I=numbers, BLOCK_C=block, BLOCK_P=numbers)
        constants = dict(HAS_CHANNELS=True, DENSE=False, **sizes)
        kernel = compile_kernel("select_kernel", capability, constants, num_warps=warps)
        assert_fits(kernel, capability, tmp_path)
    gather = dict(TAPS=9, BY_ROWS=True, HAS_ROWS=True, HAS_COLUMNS=True, ROUND=True)
    mask = dict(MASK=True, SHIFTED=True, GATED=True, RELU=True, ROUND=True)
    spread = dict(HAS_CHANNELS=True, ADD=True, RELU=True, BLOCK_K=32, REPEAT=4)
    pool = dict(KERNEL_H=3, KERNEL_W=3, BLOCK_M=32, BLOCK_C=64)
    for name, constants, divisible in [
        ("gather_kernel", gather | dict(BLOCK_R=16, BLOCK_C=256), ()),
        ("mask_kernel", mask | dict(BLOCK_M=64, BLOCK_C=64, y_channel=1), ("channels", "y_pixel")),
        ("mask_kernel", mask | dict(BLOCK_M=4096, BLOCK_C=1, y_pixel=1), ()),
        ("spread_kernel", spread | dict(BLOCK_M=32, BLOCK_C=128), ("total",)),
        ("pool_kernel", pool, ("x_row", "y_row")),
    ]:
        kernel = compile_kernel(name, capability, constants, divisible=divisible)
        assert_fits(kernel, capability, tmp_path)


# On a GPU


@contextmanager
def strict_float32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():
        yield


def vgg():
    return torchvision_net("vgg11_bn", init_weights=False)


def resnet():
    return torchvision_net("resnet18")


def on_gpu(make, density):
    net, images = make()
    return set_density(net.float(), density).cuda(), images.float().cuda()


NETS = {"m_cifarnet": lambda: m_cifarnet("random"), "resnet18": resnet, "vgg11_bn": vgg}
each_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@needs_gpu
@each_net
@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_a_network_on_a_gpu_equals_its_masked_form(make, density):
    net, images = on_gpu(make, density)
    with strict_float32():
        for batch in images, images[:1]:
            expected = net(batch)
            gates = {n: winner_mask(m.saliency, m.density) for n, m in gated_layers(net).items()}
            accelerated = accelerate(net)
            kinds = {type(module) for module in accelerated.modules()}
            assert (TritonConv if cuda.triton else TorchCudaConv) in kinds
            with forced_gates(accelerated, gates):
                assert_same(accelerated(batch), expected)


@needs_gpu
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_the_kernel_on_a_gpu_equals_the_plain_form(kernel, density):
    conv, norm = nn.Conv2d(96, 130, kernel, padding=kernel // 2).cuda(), nn.BatchNorm2d(130).cuda()
    x = torch.rand(5, 48, 15, 15, device="cuda")
    channels = torch.rand(5, 96, device="cuda").argsort(dim=1)[:, :48]
    k = active_channels(130, density)
    winners = torch.rand(5, 130, device="cuda").argsort(dim=1)[:, :k].sort(dim=1).values
    pi, s = torch.rand(5, k, device="cuda"), x.mean(dim=(2, 3))
    with strict_float32():
        arguments = (Compact(x, channels, 96), s, winners, pi, True)
        expected = TorchCudaConv(conv, norm)(*arguments).dense()
        fast = cuda.cuda_conv(conv, norm)
        for fast.way in "skip", "dense", None:
            assert_same(fast(*arguments).dense(), expected)
        if cuda.triton and torch.cuda.get_device_capability() >= (8, 0):
            fast.way = "skip"
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
                error = (fast(*arguments).dense() - expected).abs().max() / expected.abs().max()
            assert 0 < error < 3e-3
            fast = fast.to(torch.bfloat16)
            x, pi = x.bfloat16(), pi.bfloat16()
            y = fast(Compact(x, channels, 96), s, winners, pi, True).dense()
            assert y.dtype == torch.bfloat16
            assert (y - expected).abs().max() / expected.abs().max() < 3e-2


@needs_gpu
@each_net
@each_narrow
def test_a_network_in_16_bits_on_a_gpu_is_as_right_as_its_masked_form(make, dtype):
    net, images = on_gpu(make, 0.5)
    net, images, cores = net.to(dtype), images.to(dtype), torch.cuda.get_device_capability()
    if dtype == torch.bfloat16 and cores < (8, 0):
        pytest.skip("the masked form needs a GPU with bfloat16")
    with strict_float32():
        accelerated = accelerate(net)
        fused = any(isinstance(module, TritonConv) for module in accelerated.modules())
        assert fused == (cuda.triton is not None and cores >= (8, 0))
        for form in accelerated, in_plain_form(net):
            assert_as_right_as_masked(net, images, form, torch.finfo(dtype).eps)


@needs_gpu
@each_net
def test_bfloat16_is_served_on_a_gpu_that_cannot_multiply_it(make):
    net, images = on_gpu(make, 0.5)
    with strict_float32(), patch.object(cuda, "capability", return_value=(7, 5)):
        expected = accelerate(net)(images)
        y = accelerate(net.bfloat16())(images.bfloat16())
    assert y.dtype == torch.bfloat16 and y.isfinite().all() and y.shape == expected.shape


@needs_gpu
@each_net
def test_a_network_in_tf32_is_as_right_as_its_masked_form(make):
    if not cuda.triton or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs Triton and a GPU with TF32")
    net, images = on_gpu(make, 0.5)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True), torch.no_grad():
        for way in "skip", "dense", None:
            accelerated = accelerate(net)
            for module in accelerated.modules():
                if isinstance(module, TritonConv):
                    module.way = way
            assert_as_right_as_masked(net, images, accelerated, 2**-10)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@each_net
def test_nothing_waits_for_the_gpu(make, dtype):
    net, images = on_gpu(make, 0.5)
    accelerated, images = accelerate(net.to(dtype)), images.to(dtype)
    for batch in images, images[:1]:
        accelerated(batch)  # kernels are compiled
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            accelerated(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@each_net
def test_a_graph_replays_what_the_network_computes(make):
    net, images = on_gpu(make, 0.5)
    with strict_float32():
        accelerated = accelerate(net)
        graph = graphed(accelerated, images)
        recorded = graph.graph
        for batch in images, images.flip(0), images * 0.5:
            assert_same(graph(batch), accelerated(batch))
        assert graph.graph is recorded
        first = graph(images)
        graph(images * 0.5)
        assert_same(first, graph(images))  # the outputs are not those of the next batch
        set_density(accelerated, 0.25)
        assert_same(graph(images), accelerated(images))
        assert graph.graph is not recorded
        assert_same(graph(images[:2]), accelerated(images[:2]))


@needs_gpu
@each_narrow
def test_a_graph_in_16_bits_replays_what_the_network_computes(dtype):
    x = torch.rand(4, 3, 16, 16)
    net, x = used(chain(), x).to(dtype).cuda(), x.to(dtype).cuda()
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a GPU with bfloat16")
    accelerated = accelerate(net)
    with torch.inference_mode():
        graph = graphed(accelerated, x)
    with torch.no_grad():
        for batch in x, x.flip(0), x * 0.5:
            y, expected = graph(batch), accelerated(batch)
            assert y.dtype == dtype
            assert (y - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()


@needs_gpu
def test_layers_of_groups_run_on_a_gpu():
    net = nn.Sequential(
        GatedConv2d(6, 12, 3, padding=1, density=0.5),
        GatedConv2d(12, 12, 3, padding=1, groups=12, density=0.5),
        GatedConv2d(12, 12, 1, groups=3, density=0.5),
    )
    for layer in net:
        random_gates(layer)
    net, x = net.eval().cuda(), torch.rand(3, 6, 9, 9, device="cuda")
    with strict_float32():
        assert_same(accelerate(net)(x), net(x))


if __name__ == "__main__":
    interpret(sys.argv[1])
