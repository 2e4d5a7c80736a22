"""What whole networks launch on a GPU, and how long that takes by the model of `roofline`.

No GPU is needed: networks run on tensors without values, and launches are written down. What the
model says is held against what an H100 measured; it knows nothing of what it was not fitted to.
"""

from collections import Counter
from contextlib import contextmanager
from functools import cache
from math import prod
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fbs_tutorial import accelerate, convert, set_density
from fbs_tutorial.bench.cases import NETWORKS
from fbs_tutorial.bench.stored import stored
from fbs_tutorial.bench.variants import DTYPES, fold
from fbs_tutorial.execution import cuda, rows
from fbs_tutorial.execution.compact import Compact
from fbs_tutorial.execution.roofline import H100, LAUNCH, Layer, Tile, convolution_time
from fbs_tutorial.lesson.plots.gpu import selection_time

pytestmark = pytest.mark.skipif(cuda.triton is None, reason="needs Triton")
LAYERS = stored("layers")["rows"]


class Launches(TorchDispatchMode):
    """Stands for the kernels, and hears of PyTorch's: ``(name, arguments, constants, result)``."""

    def __init__(self):
        super().__init__()
        self.log = []

    def __getattr__(self, name):
        if not name.endswith("_kernel"):
            raise AttributeError(name)
        return Launcher(name, self.log)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        y = operation(*args, **(kwargs or {}))
        if not any(isinstance(x, Compact) for x in args):  # which does its work with others
            self.log.append((operation.__name__, args, {}, y))
        return y


class Launcher:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def __getitem__(self, grid):
        return lambda *args, **constants: self.log.append((self.name, args, constants, None))


@contextmanager
def as_on_an_h100(launches, products):
    with (
        patch("fbs_tutorial.execution.plan.check_device"),
        patch.object(cuda, "capability", lambda tensor: (9, 0)),
        patch.object(cuda, "kernels", launches),
        patch.object(rows, "kernels", launches),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=products == "tf32"),
        torch.no_grad(),
    ):
        yield


@cache
def networks(name, products):
    """The plain network, folded, and the accelerated one, without values."""
    plain, dtype = NETWORKS[name].make(1.0).eval(), DTYPES.get(products, torch.float32)
    with as_on_an_h100(Launches(), products):
        gated = convert(plain, gates="random").eval().to(dtype)
        fast = accelerate(gated, "cuda", check=False).to("meta")
    return fold(plain).to("meta", dtype), fast


def launches_of(name, images, products, density=None, way=None):
    """What the accelerated network launches; without a density the plain one."""
    launches, (plain, fast) = Launches(), networks(name, products)
    net = plain if density is None else set_density(fast, density)
    dtype = DTYPES.get(products, torch.float32)
    for module in fast.modules():
        if isinstance(module, cuda.TritonConv):
            module.way = way
    x = torch.empty(images, *NETWORKS[name].shape, device="meta", dtype=dtype)
    with as_on_an_h100(launches, products):
        net(x)  # forms of weights are made
        launches.log.clear()
        with launches:
            net(x)
    return launches.log


def bytes_of(*tensors):
    return sum(x.numel() * x.element_size() for x in tensors)


def microseconds(launch, products):
    """By the model; what only makes a view or asks for memory takes none."""
    name, args, constants, y = launch
    rate = H100.memory * 1e6
    if name == "select_kernel":
        return selection_time(args[11], LAYERS)
    if name == "gather_kernel":
        return LAUNCH + bytes_of(args[3]) / rate
    if name == "convolve_kernel":
        return convolve_time(args, constants, products)
    if name == "mask_kernel":
        return LAUNCH + (2 if constants["MASK"] else 1) * bytes_of(args[0]) / rate
    if name == "spread_kernel":
        picked = 0.7 if args[0].element_size() == 4 else 0.45  # as in `dense_time`
        moved = bytes_of(args[0], args[3], *[args[2]] * constants["ADD"])
        return LAUNCH + moved / (rate * (picked if constants["HAS_CHANNELS"] else 1))
    if name == "pool_kernel":
        return LAUNCH + bytes_of(args[0], args[1]) / rate
    if name == "convolution.default":
        return library_time(args, y, products)
    passes = {"relu_.default": 2, "relu.default": 2, "add_.Tensor": 3, "add.Tensor": 3}
    passes |= {"constant_pad_nd.default": 2, "addmm.default": 1}
    if name.startswith("max_pool2d"):
        return LAUNCH + bytes_of(args[0], y[0]) / rate
    return LAUNCH + passes[name] * bytes_of(y) / rate if name in passes else 0.0


def convolve_time(args, constants, products):
    maps, pixels, k = args[0], args[8], args[14]
    taps = constants["KERNEL_H"] * constants["KERNEL_W"]
    n, *size, width = maps.shape
    names = "BLOCK_M", "BLOCK_N", "BLOCK_K", "FLAT", "num_warps", "num_stages"
    layer = Layer(n, width, k, width, k, taps, pixels, prod(size))
    tile = Tile(*(constants[name] for name in names))
    return convolution_time(layer, tile, products, constants["OWN"])


def library_time(args, y: Tensor, products):
    """cuDNN's convolution; PyTorch adds a bias in a pass of its own."""
    x, weight, bias = args[:3]
    macs = len(x) * prod(y.shape[2:]) * weight.numel()
    moved = 1.6 * bytes_of(x, y) / H100.memory
    shift = LAUNCH + 2 * bytes_of(y) / 1e6 / H100.memory if bias is not None else 0
    return LAUNCH + max(macs / H100.dense[products], moved) / 1e6 + shift


def total(name, images, products, density=None, way=None):
    log = launches_of(name, images, products, density, way)
    return sum(microseconds(launch, products) for launch in log)


MEASURED = [row for row in stored("networks")["rows"] if row["images"] > 1]
slow = pytest.mark.slow
each_network = pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[slow] * (r["network"] != "mcifarnet")) for r in MEASURED],
    ids=lambda row: f"{row['network']}-{row['images']}-{row['products']}",
)


@each_network
def test_the_model_of_whole_networks_is_not_far_from_an_h100(row):
    """The stored rows are of earlier kernels: dense within a third, skipping on VGG-16 and
    M-CifarNet too; what ResNet-18 launches has changed since."""
    case = row["network"], row["images"], row["products"]
    dense = total(*case)
    assert 0.66 < dense / min(row["dense_nchw"], row["dense_nhwc"]) < 1.34
    if row["network"] != "resnet18":
        for d in 0.5, 0.25:
            assert 0.55 < total(*case, d) / row[f"accelerated {d}"] < 1.34, d


@each_network
def test_networks_are_hardly_slower_than_with_every_layer_dense(row):
    """By the model. What the masks cost, no rule can save; with few images they cost more."""
    case = row["network"], row["images"], row["products"]
    plain = total(*case)
    for d in 0.9, 0.8, 0.7, 0.6, 0.5, 0.25:
        masked, chosen = total(*case, d, "dense"), total(*case, d)
        assert chosen <= 1.13 * masked, d
        if row["images"] >= 64:
            assert chosen <= (1.05 if d <= 0.5 else 1.12) * plain, d


def test_in_a_residual_network_no_pass_only_measures_or_cuts_off():
    """But of the images; what adds, cuts off or convolves measures for the next layer."""
    for way in "skip", "dense", None:
        log = launches_of("resnet18", 64, "bf16", 0.5, way)
        names = Counter(name for name, *_ in log)
        measuring = [c for name, _, c, _ in log if name == "mask_kernel" and not c["MASK"]]
        assert len(measuring) == 1 and "relu_.default" not in names
        rectifying = [c for name, _, c, _ in log if name == "mask_kernel" and not c["SHIFTED"]]
        assert len(rectifying) == 1 + 8  # one in each block, whose ReLU stands apart
        assert names["select_kernel"] == 20 and names["add_.Tensor"] == 0
