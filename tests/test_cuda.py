"""The backend for GPUs. Most of it is tested without one.

The PyTorch form runs on the CPU. The Triton kernel runs in Triton's interpreter, in a process of
its own (`interpret` below), and is compiled for several GPUs, whose code is looked at. The tests at
the end need a GPU: ``make test-gpu``.
"""

import copy
import itertools
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock, patch

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
from fbs_tutorial.execution import cuda
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.cuda import Graphed, TorchCudaConv, TritonConv, choose_tile, graphed
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.models import mcifarnet

# The kernel itself is fine with Triton 3.2, but its interpreter and compiler are called otherwise.
VERSION = re.findall(r"\d+", cuda.triton.__version__) if cuda.triton else ["0"]
needs_triton = pytest.mark.skipif([*map(int, VERSION)] < [3, 3], reason="needs Triton 3.3")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def accelerated_here(net):
    """What the backend makes of a network, although that is on a CPU."""
    with patch("fbs_tutorial.execution.plan.check_device"):
        return accelerate(net, "cuda")


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
    with torch.no_grad(), patch.object(cuda, "KERNELS_AT_ONCE", 2 * 9 * 5 * 8):
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


SIZES = list(itertools.product([1, 8, 128], [1, 49, 64, 196, 900], [1, 48, 96, 512], [1, 3, 64]))


@pytest.mark.parametrize("tensor_cores", [False, True])
def test_tiles_are_what_triton_takes(tensor_cores):
    for size in SIZES:
        tile = choose_tile(*size, tensor_cores)
        assert {tile.pixels, tile.outputs} <= {16, 32, 64, 128} and tile.inputs in (16, 32)
        assert tile.warps in (2, 4, 8)


def test_tiles_fit():
    assert choose_tile(128, 1024, 128, 64)[:2] == (128, 128)
    assert choose_tile(128, 49, 256, 64)[:2] == (64, 128)  # 49 pixels are no case for 128
    assert choose_tile(1, 196, 256, 256)[:2] == (32, 32)  # of larger ones there were but four
    assert not choose_tile(1, 64, 64, 48).flat and choose_tile(1, 64, 64, 3).flat


# The kernel in the interpreter


@needs_triton
def test_the_kernel_computes_what_the_masked_layer_does():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the kernel is right" in done.stdout


def interpret():
    """Called in a process with TRITON_INTERPRET=1: the kernel against masked layers."""
    assert cuda.INTERPRETING
    torch.manual_seed(0)
    cases = itertools.cycle(itertools.product([3, 1, 5], [1, 2], [0, 1], [0.5, 1.0, 0.25]))
    channels = [(5, 7), (16, 24), (3, 33), (37, 20)]
    settings = itertools.product(channels, [1, 3], [False, True], [torch.float32, torch.float16])
    for ((ins, outs), images, compact, dtype), case in zip(settings, cases, strict=False):
        kernel, stride, padding, density = case
        layer = GatedConv2d(ins, outs, kernel, stride, padding, density=density)
        interpret_layer(layer, images, compact, dtype, (9, 6))
    wide = GatedConv2d(6, 40, (3, 2), (2, 1), (0, 2), density=0.5, activation=False)
    wide.conv.dilation = (1, 3)
    interpret_layer(wide, 2, False, torch.float32, (13, 12))
    tiny = GatedConv2d(4, 6, 1, density=1e-3, activation=False)
    interpret_layer(tiny, 2, True, torch.float32, (1, 1))
    for size in [(128, 128, 16, False, 8, 3), (16, 16, 32, True, 2, 5), (64, 32, 32, False, 2, 3)]:
        layer = GatedConv2d(40, 50, 3, padding=1, density=0.5)
        interpret_layer(layer, 2, True, torch.float32, (9, 9), cuda.Tile(*size))
    interpret_rounding()
    for dtype in torch.float32, torch.float16:
        interpret_networks(dtype)
    print("the kernel is right")


@torch.no_grad()
def interpret_layer(layer, images, compact, dtype, size, tile=None):
    """The kernel in ``dtype`` equals the masked layer in float64, on the same numbers and gates."""
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
    conv.tile = tile
    y = conv(inputs, None, winners, pi, layer.activation)
    assert y.maps.dtype == dtype and y.maps.shape[1] == k
    assert y.maps.is_contiguous(memory_format=torch.channels_last)
    tolerance = 2e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    error = (y.dense().double() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, (layer, images, compact, dtype, size, tile, error.item())


@torch.no_grad()
def interpret_rounding():
    """In float16 a result is rounded once, at the end; here of sums of 1600 positive products."""
    conv, winners = TritonConv(nn.Conv2d(64, 16, 5).half()), torch.arange(16).expand(1, -1)
    conv.weight.uniform_(0, 0.1)
    x, pi = torch.rand(1, 64, 7, 7).half(), 1 + torch.rand(1, 16)
    y = conv(Compact(x, None, 64), x.float().mean((2, 3)), winners, pi).maps.double()
    weight = conv.weight.double().permute(2, 1, 0).reshape(16, 64, 5, 5)
    exact = F.conv2d(x.double(), weight) + conv.bias.double()[:, None, None]
    exact *= pi.double()[:, :, None, None]
    wrong = (y - exact).abs() / exact.abs() / torch.finfo(torch.float16).eps
    assert wrong.max() <= 0.51, wrong.max()


@torch.no_grad()
def interpret_networks(dtype):
    """Whole networks through `accelerate`: a chain, and a residual one of uneven padding."""
    chain = nn.Sequential(
        GatedConv2d(3, 10, 3, density=0.5), nn.MaxPool2d(2), GatedConv2d(10, 20, 3, density=0.3)
    )
    branch = GatedConv2d(10, 10, 4, padding="same", density=0.5, activation=False)
    residual = nn.Sequential(GatedConv2d(3, 10, 3), Residual(branch), nn.Conv2d(10, 5, 1))
    for net in used(chain).to(dtype), used(residual).to(dtype):
        x = torch.rand(2, 3, 12, 12).to(dtype)
        accelerated = accelerated_here(net)
        assert any(isinstance(module, TritonConv) for module in accelerated.modules())
        if dtype == torch.float32:
            assert_same(accelerated(x), net(x))
        else:
            assert_as_right_as_masked(net, x, accelerated, torch.finfo(dtype).eps)


# The kernel as compiled for GPUs, which takes none


def compiled(capability, dtype="fp32", *, k_in=64, inputs=True, **options):
    """The kernel for a 3x3 convolution of ``k_in`` inputs, as a launch would have it compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    precision = options.get("precision", "ieee")
    tile = choose_tile(128, 1024, 128, k_in, dtype != "fp32" or precision == "tf32")
    tile = tile._replace(**{k: v for k, v in options.items() if k in tile._fields})
    constants = dict(KERNEL_H=3, KERNEL_W=3, GATHER_INPUTS=inputs, GATHER_OUTPUTS=True)
    constants |= dict(GATED=True, RELU=True, PRECISION=precision)
    constants |= dict(FLAT=tile.flat, BLOCK_M=tile.pixels, BLOCK_N=tile.outputs)
    constants |= dict(BLOCK_K=tile.inputs, x_c=1)
    constants |= {f"{name}_{side}": 1 for name in ("stride", "dilation") for side in "hw"}
    if k_in == 1:  # Triton makes a constant of every number that is 1
        constants |= dict.fromkeys(("pixels", "columns", "height", "width", "k_in", "k_out"), 1)
        constants |= dict.fromkeys(("in_channels", "out_channels", "x_n", "x_h", "x_w"), 1)
    names = cuda.sparse_conv_kernel.arg_names
    pointers = dict.fromkeys(("x", "weight", "y"), f"*{dtype}")
    pointers |= dict(shift="*fp32", pi="*fp32", channels="*i64", winners="*i64")
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    divisible = {"k_in", "k_out", "in_channels", "out_channels", "x_n", "x_h", "x_w"}
    divisible = set(pointers) | (divisible - set(constants) if k_in % 16 == 0 else set())
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(cuda.sparse_conv_kernel, signature, constants, attributes)
    stages = tile.stages if inputs else 3
    settings = dict(num_warps=tile.warps, num_stages=stages, enable_fp_fusion=True)
    return compile(source, target=GPUTarget("cuda", capability, 32), options=settings)


SHARED_MEMORY = {75: 64 * 1024, 80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}


def assert_fits(kernel, capability, tmp_path):
    """Within the shared memory of a multiprocessor, and nothing kept in memory for want of room."""
    assert kernel.metadata.shared <= SHARED_MEMORY[capability]
    assert ".local" not in kernel.asm["ptx"]
    (tmp_path / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = Path(cuda.triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    use = subprocess.run(
        [tool, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"STACK:(\d+)", use)[1] == "0", use


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 89, 90])
def test_float32_is_computed_in_float32(capability, tmp_path):
    kernel = compiled(capability)
    assert_fits(kernel, capability, tmp_path)
    ptx = kernel.asm["ptx"]
    assert "fma.rn.f32" in ptx and "mma.sync" not in ptx and "wgmma" not in ptx
    assert ("cp.async" in ptx) == (capability >= 80)  # the next step loads while this one computes


ON_TENSOR_CORES = [("fp32", "tf32"), ("bf16", "ieee"), ("fp16", "ieee")]


@needs_triton
@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), ON_TENSOR_CORES)
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_tensor_cores_are_used_where_they_may_be(dtype, precision, capability, inputs, tmp_path):
    kernel = compiled(capability, dtype, precision=precision, inputs=inputs)
    assert_fits(kernel, capability, tmp_path)
    ptx = kernel.asm["ptx"]
    kind = {"fp32": "tf32", "bf16": "bf16", "fp16": "f16"}[dtype]
    instruction = "wgmma.mma_async.sync.aligned" if capability == 90 else "mma.sync.aligned"
    assert re.search(rf"{instruction}\S*\.f32\.{kind}\.{kind}", ptx)  # sums in float32
    assert "cp.async" in ptx and "fma.rn.f32" not in ptx


@needs_triton
def test_inputs_of_a_pixel_are_read_sixteen_bytes_at_a_time():
    ptx = compiled(90, inputs=False).asm["ptx"]
    assert re.search(r"cp\.async\.cg\.shared\.global \[.*\], \[.*\], (0x10|16)", ptx)


TILES = [(128, 64), (64, 64), (64, 32), (32, 32), (16, 16)]


@needs_triton
@pytest.mark.parametrize(("pixels", "outputs"), TILES)
def test_smaller_tiles_fit_too(pixels, outputs, tmp_path):
    warps = min(8, max(2, pixels * outputs // 1024))
    sizes = dict(pixels=pixels, outputs=outputs, warps=warps, stages=3)
    assert_fits(compiled(90, **sizes), 90, tmp_path)
    sizes |= dict(warps=4, stages=5)
    assert_fits(compiled(90, "bf16", **sizes), 90, tmp_path)


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 89, 90])
@pytest.mark.parametrize("size", [(256, 900, 16), (256, 64, 64), (128, 900, 64), (8, 64, 64)])
def test_tiles_of_flat_steps_fit_too(size, capability, tmp_path):
    for precision in ("ieee", "tf32") if capability >= 80 else ("ieee",):
        tile = choose_tile(*size, 3, precision == "tf32")
        assert tile.flat
        sizes = {name: getattr(tile, name) for name in ("pixels", "outputs", "warps", "stages")}
        kernel = compiled(capability, k_in=3, inputs=False, precision=precision, **sizes)
        assert_fits(kernel, capability, tmp_path)


@needs_triton
@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("k_in", [1, 20, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_odd_sizes_fit_too(k_in, inputs, dtype, tmp_path):
    assert_fits(compiled(90, dtype, k_in=k_in, inputs=inputs), 90, tmp_path)


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
        assert_same(fast(*arguments).dense(), expected)
        if cuda.triton and torch.cuda.get_device_capability() >= (8, 0):
            fast.precision = "tf32"
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
        accelerated = accelerate(net)
        for module in accelerated.modules():
            if isinstance(module, TritonConv):
                module.precision = "tf32"
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
    interpret()
