"""Skipping on a GPU: three Triton launches a layer or cuDNN's dense convolution, whichever is less.

A GPU is slow to answer: asking it how many channels are empty would cost more than skipping those
saves. So nothing here looks at a value. All shapes follow from the densities alone, which is also
what a CUDA graph asks for; and so does the choice between the two ways.
"""

import os
from math import ceil, gcd, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.gated import Gated
from ..method.wta import active_channels
from .layers import Compact, SparseConv

try:
    import triton

    from . import triton_conv as kernels
except ImportError:  # there are no wheels for macOS and Windows
    triton = None

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run in numpy, on a CPU
SELECT = 16384, 8  # numbers at a time, and warps, of a program that selects
GATHERED = 2**30  # bytes of weights that are gathered at a time; a batch of more goes in parts

# The least compute capability of a GPU for which Triton has instructions for these products, and
# numbers of no other dtype go into the kernels. On older ones it would make 16 bits out of float32,
# while PyTorch's convolutions use tensor cores for float16.
KERNEL_FROM = {torch.float32: (7, 5), torch.float16: (8, 0), torch.bfloat16: (8, 0)}


def cuda_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> SparseConv:
    """The backend ``"cuda"``: the Triton kernels where they can run, else the form in PyTorch."""
    dtype, gpu = conv.weight.dtype, capability(conv.weight)
    if gpu is None:  # the interpreter's products of bfloat16 are wrong
        runs = INTERPRETING and dtype in (torch.float32, torch.float16)
    else:
        runs = dtype in KERNEL_FROM and gpu >= KERNEL_FROM[dtype]
    if runs and triton is not None and conv.groups == 1:
        return TritonConv(conv, norm)
    plain = TorchCudaConv(conv, norm)
    if dtype == torch.bfloat16 and gpu is not None and gpu < (8, 0):
        plain.float()  # nor has cuDNN products of bfloat16 there; those of float32 are the same
    return plain


def capability(tensor: Tensor) -> tuple[int, int] | None:
    """The compute capability of the GPU that a tensor is on; None if it is on none."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else None


def tf32_allowed() -> bool:
    """PyTorch's own switch for convolutions: whether factors of float32 are read as TF32."""
    conv = getattr(torch.backends.cudnn, "conv", None)  # since PyTorch 2.9
    if hasattr(conv, "fp32_precision"):
        return conv.fp32_precision == "tf32"
    return torch.backends.cudnn.allow_tf32


class TorchCudaConv(SparseConv):
    """Gathers the kernels of every image, then one convolution whose groups are the images.

    The plain form of skipping. It runs on any device, and multiplies in its weight's dtype.
    """

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        dtype = self.weight.dtype
        if self.groups > 1:
            y = self.convolve_groups(self.pad(x.dense()).to(dtype), winners)
        else:
            maps = self.pad(x.maps).to(dtype)
            n, width = maps.shape[:2]
            one = winners.shape[1] * width * prod(self.kernel_size)
            step = max(1, GATHERED // (one * dtype.itemsize))
            channels = [None] * n if x.channels is None else x.channels.split(step)
            parts = zip(maps.split(step), channels, winners.split(step), strict=False)
            y = [self.convolve(*part) for part in parts]
            y = torch.cat(y) if len(y) > 1 else y[0]
        y = y + self.shift[winners][:, :, None, None]  # from here on in float32 or finer
        if pi is not None:
            y = y.mul_(pi[:, :, None, None])
        y = (y.relu_() if relu else y).to(x.maps.dtype)
        return Compact(y, winners, self.out_channels, relu)

    def convolve(self, maps: Tensor, channels: Tensor | None, winners: Tensor) -> Tensor:
        """``W x`` of the winners, ``[n, k, H', W']``, from maps ``[n, width, H, W]``."""
        n, width, height, columns = maps.shape
        if channels is None:
            kernels = self.weight[winners.flatten()]  # [n * k, C_in, k, k]
        else:  # row o * C_in + i is the kernel from input i to output o
            rows = winners[:, :, None] * self.in_channels + channels[:, None]  # [n, k, width]
            kernels = self.weight.flatten(0, 1)[rows.flatten()]
            kernels = kernels.view(-1, width, *self.kernel_size)  # [n * k, width, k, k]
        maps = maps.reshape(1, n * width, height, columns)
        y = F.conv2d(maps, kernels, None, self.stride, self.padding, self.dilation, groups=n)
        return y.view(n, -1, *y.shape[2:])

    def convolve_groups(self, x: Tensor, winners: Tensor) -> Tensor:
        """The same for a convolution with groups of its own, from all inputs.

        A depthwise one computes its winners alone. Of others it computes every channel, because
        the number of winners in a group differs from image to image.
        """
        arguments = (self.stride, self.padding, self.dilation)
        if self.in_channels > self.groups:
            return pick(F.conv2d(x, self.weight, None, *arguments, self.groups), winners)
        n, k = winners.shape
        inputs = pick(x, winners // (self.out_channels // self.groups))  # [n, k, H, W]
        kernels = self.weight[winners.flatten()]
        y = F.conv2d(inputs.flatten(0, 1)[None], kernels, None, *arguments, groups=n * k)
        return y.view(n, k, *y.shape[2:])


def pick(maps: Tensor, channels: Tensor) -> Tensor:
    """``[n, C, H, W], [n, k] -> [n, k, H, W]``: each image's own channels."""
    return maps.gather(1, channels[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


class Rows(Compact):
    """Compact maps that a `TritonConv` made: rows of pixels, padded with zeros to 16 bytes."""

    def dense(self) -> Tensor:
        return spread(self)


class TritonConv(SparseConv):
    """A convolution of one group in three launches, or by cuDNN with gate and sums in one pass.

    In float32, TF32 (where PyTorch's switch for convolutions allows it and the GPU has it), float16
    or bfloat16. Sums, shift and gate are in float32; only maps and weights are in 16 bits. Its maps
    are in channels_last memory, rows of whole 16 bytes.

    Attributes:
        tile: how the work is divided; None for what `choose_tile` says.
        way: ``"skip"`` or ``"dense"``; None for what `skipping_is_faster` says.
    """

    tile: "Tile | None" = None
    way: str | None = None

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        if conv.groups > 1:
            raise ValueError(f"TritonConv takes convolutions of one group, got {conv.groups}")
        super().__init__(conv, norm)
        # [C_out, C_in, k, k], in memory [C_out, k, k, C_in]
        self.weight = self.weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        self.forms: dict[str, tuple[Tensor, Tensor]] = {}  # of a tensor: itself and another form

    def __getstate__(self) -> dict:
        return {**self.__dict__, "forms": {}}

    @property
    def products(self) -> str:
        """``"fp16"``, ``"bf16"``, ``"tf32"`` or ``"fp32"``: what products are made of now."""
        if self.weight.dtype != torch.float32:
            return "fp16" if self.weight.dtype == torch.float16 else "bf16"
        gpu = capability(self.weight)
        return "tf32" if tf32_allowed() and (gpu is None or gpu >= (8, 0)) else "fp32"

    def form(self, name: str, of: Tensor | None = None) -> Tensor:
        """A weight in another form, made when first needed; ``of``: if not the convolution's.

        ``"columns"`` is ``[taps, C_in, C_out]``, ``"rounded"`` the weight rounded to TF32,
        ``"planes"`` the weight in PyTorch's own order, ``"transposed"`` that of a predictor.
        """
        source = self.weight if of is None else of
        if name not in self.forms or self.forms[name][0] is not source:
            self.forms[name] = source, FORMS[name](source)
        return self.forms[name][1]

    def size(self, x: Compact) -> tuple[int, int]:
        """Rows and columns of the output."""
        return self.output_size(self.pad(x.maps[:1, :1]))

    def skips(self, x: Compact, k: int) -> bool:
        """Whether to compute ``k`` outputs each in three launches, or all of them by cuDNN."""
        if self.way is not None:
            return self.way == "skip"
        n, width, *size = x.maps.shape
        layer = Shape(
            n, width, k, self.in_channels, self.out_channels, prod(self.kernel_size),
            prod(self.size(x)), prod(size),
        )  # fmt: skip
        return skipping_is_faster(layer, self.products, x.channels is not None)

    def select(
        self, gate: Gated, x: Compact
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """As `SparseConv.select`; no winners, and the gates of all, where all are computed."""
        if gate.forced is not None or isinstance(gate.density, Tensor):
            return super().select(gate, x)
        k = active_channels(self.out_channels, gate.density)
        dense = not self.skips(x, k)
        sums, pixels = x.sums, prod(x.maps.shape[2:])
        if sums is None or gate.reduce != "l1":
            sums, pixels = x.saliency(gate.reduce)[:, None], 1
        weight = self.form("transposed", gate.predictor.weight)
        with torch.cuda.device_of(sums):
            g, winners, pi = select(
                weight, gate.predictor.bias, sums, x.channels, pixels, k, dense
            )
        return None, g, winners, pi

    def forward(
        self,
        x: Compact,
        s: Tensor | None,
        winners: Tensor | None,
        pi: Tensor | None = None,
        relu: bool = False,
    ) -> Compact:
        """As `SparseConv.forward`; ``winners`` None stands for all outputs."""
        if x.maps.dtype != self.weight.dtype or x.maps.dtype not in KERNEL_FROM:
            raise TypeError(
                f"TritonConv takes maps of its weight's dtype {self.weight.dtype}, not float64; "
                f"got {x.maps.dtype}"
            )
        if winners is not None and winners.shape[1] == self.out_channels:
            winners = None  # they come in ascending order
        k = self.out_channels if winners is None else winners.shape[1]
        with torch.cuda.device_of(x.maps):  # Triton launches on the current device
            if self.skips(x, k):
                return self.skip(x, winners, pi, relu)
            if winners is not None:
                pi = winners.new_ones(winners.shape, dtype=torch.float32) if pi is None else pi
                pi = pi.new_zeros(len(pi), self.out_channels).scatter_(1, winners, pi)
            return self.dense(x, pi, relu)

    def dense(self, x: Compact, pi: Tensor | None, relu: bool) -> Compact:
        """All outputs by PyTorch's convolution; then shift, gate, ReLU and sums in one pass."""
        images = self.pad(spread(x))
        precision, weight = self.products, self.weight
        if precision != "fp32":
            images = images.contiguous(memory_format=torch.channels_last)
        elif images.is_contiguous():
            weight = self.form("planes")
        y = F.conv2d(images, weight, None, self.stride, self.padding, self.dilation)
        sums = mask(y, self.shift, pi, relu, precision == "tf32")
        return Rows(y, None, self.out_channels, relu, sums)

    def skip(
        self, x: Compact, winners: Tensor | None, pi: Tensor | None, relu: bool
    ) -> Compact:
        """The winners only, in parts of the batch whose gathered weights are within a bound."""
        maps, width = rows_of_pixels(x, self.pad)
        n, k = len(maps), self.out_channels if winners is None else winners.shape[1]
        size = self.size(x)
        tile = self.tile or choose_tile(n, prod(size), k, width, self.products)
        y = maps.new_empty(n, *size, padded(k))
        sums = y.new_empty(n, ceil(prod(size) / tile.pixels), k, dtype=torch.float32)
        step = n
        if x.channels is not None:
            one = k * width * prod(self.kernel_size) * maps.element_size()
            step = max(1, GATHERED // one)
        for first in range(0, n, step):
            count = min(step, n - first)
            weight = None
            if x.channels is not None:
                weight = self.gather(x.channels, winners, width, first, count)
            self.convolve(
                maps, x, weight, winners, pi, relu, y, sums, tile, first, count
            )  # fmt: skip
        y = y[..., :k].permute(0, 3, 1, 2)
        return Rows(y, winners, self.out_channels, relu, sums)

    def kernel_macs(self, x: Compact, y: Compact) -> int:
        k = y.maps.shape[1]
        if not self.skips(x, k):
            return 0
        return x.maps.shape[1] * prod(self.kernel_size) * y.maps.numel()

    def gather(
        self, channels: Tensor, winners: Tensor | None, width: int, first: int, count: int
    ) -> Tensor:
        """The weights of some images, between their inputs and their winners."""
        taps, tf32 = prod(self.kernel_size), self.products == "tf32"
        by_rows = self.products != "fp32"
        k_in, k = channels.shape[1], self.out_channels if winners is None else winners.shape[1]
        lists = [(winners, k, self.out_channels, k), (channels, k_in, self.in_channels, width)]
        if not by_rows:
            lists = [lists[1], (winners, k, self.out_channels, padded(k))]
        (rows, n_rows, all_rows, height), (columns, n_columns, all_columns, length) = lists
        out = self.weight.new_empty(count * height * taps * length)
        some = 16 if height * count >= 2048 else 4
        block = triton.next_power_of_2(length)
        kernels.gather_kernel[(ceil(height / some), taps, count)](
            self.weight if by_rows else self.form("columns"),
            channels if rows is None else rows,
            channels if columns is None else columns,
            out, first, all_rows, all_columns, n_rows, n_columns, height, length,
            TAPS=taps, BY_ROWS=by_rows, HAS_ROWS=rows is not None,
            HAS_COLUMNS=columns is not None, ROUND=tf32, BLOCK_R=some, BLOCK_C=block,
            num_warps=max(1, min(4, block // 64)),
        )  # fmt: skip
        return out

    def convolve(
        self, maps, x, weight, winners, pi, relu, y, sums, tile, first, count
    ) -> None:  # fmt: skip
        """Write ``relu(pi * (W x + shift))`` of some images into ``y``, and its sums."""
        _, height, columns, width = maps.shape
        _, rows_out, columns_out, row = y.shape
        precision, k = self.products, sums.shape[2]
        by_rows, own = precision != "fp32", weight is not None
        if weight is None:
            weight = self.weight if precision in ("fp16", "bf16") else None
            weight = self.form("rounded") if precision == "tf32" else weight
            weight = self.form("columns") if weight is None else weight
        unit = whole = gcd(width, 8)
        if tile.near:
            unit = gcd(unit, 8 // maps.element_size())
        pixels = rows_out * columns_out
        programs = count * ceil(pixels / tile.pixels) * ceil(k / tile.outputs)
        kernels.convolve_kernel[(programs,)](
            maps, weight, maps if winners is None else winners, self.shift,
            maps if pi is None else pi, y, sums, first, pixels, columns_out, height, columns,
            width // unit, width // whole, row // 8, k, self.out_channels,
            *self.stride, *self.padding, *self.dilation,
            KERNEL_H=self.kernel_size[0], KERNEL_W=self.kernel_size[1], UNIT=unit, UNIT_W=whole,
            UNIT_Y=8,
            OWN=own, HAS_WINNERS=winners is not None, GATED=pi is not None, RELU=relu,
            K_MAJOR=by_rows, FLAT=tile.flat, EVEN=width % tile.inputs == 0,
            ROUND_X=precision == "tf32" and x.sums is None, ROUND_Y=precision == "tf32",
            PRECISION="tf32" if precision == "tf32" else "ieee",
            BLOCK_M=tile.pixels, BLOCK_N=tile.outputs, BLOCK_K=tile.inputs,
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip

class Tile(NamedTuple):
    """The part of an image's output that one program computes, and how it walks the inputs."""

    pixels: int
    outputs: int
    inputs: int  # input channels in one step
    flat: bool  # steps go over all pairs (tap, input), and not over the inputs of each tap
    warps: int
    stages: int  # steps under way at once
    near: bool = False  # maps through the first-level cache, 8 bytes at a time
    registers: int | None = None  # that a thread may take, so that more programs run at once


def choose_tile(images: int, pixels: int, k_out: int, k_in: int, precision: str) -> Tile:
    """A tile for ``images`` products of ``[pixels, taps * k_in]`` and ``[taps * k_in, k_out]``.

    It depends on sizes only, so that a layer's kernel is compiled once and can be captured.
    """
    n = min(128, max(16, triton.next_power_of_2(k_out)))
    flat = k_in < 16
    if precision == "fp32":
        n = min(n, 64)
        return Tile(64, n, 16, flat, 2 if n < 64 else 4, 3)
    widest = 64 if precision in ("bf16", "fp16") else 32
    inputs = 32 if flat else min(widest, max(16, triton.next_power_of_2(k_in)))
    if flat:
        return Tile(64, min(n, 64), inputs, flat, 4, 2)
    m = 64 if pixels <= 64 or (n == 128 and widest == 64) else 128
    warps = 8 if m * n == 128 * 128 else 4
    return Tile(m, n, inputs, flat, warps, 3 if warps == 8 else 4)


class Shape(NamedTuple):
    """A layer's work: images, inputs and outputs that are live, those there are, and pixels."""

    images: int
    k_in: int
    k_out: int
    c_in: int
    c_out: int
    taps: int
    pixels: int  # of the output
    pixels_in: int


def skipping_is_faster(layer: Shape, precision: str, gathers: bool) -> bool:
    """Whether three launches will take less time than the dense way."""
    return layer.k_in * layer.k_out < 0.8 * layer.c_in * layer.c_out


FORMS = {
    "columns": lambda weight: weight.flatten(2).permute(2, 1, 0).contiguous(),
    "rounded": lambda weight: to_tf32(weight),
    "planes": lambda weight: weight.contiguous(),
    "transposed": lambda weight: weight.detach().t().contiguous(),
}


def padded(length: int) -> int:
    """Numbers in a row whose end is padded to 16 bytes, in every dtype."""
    return ceil(length / 8) * 8


def to_tf32(x: Tensor) -> Tensor:
    """float32 numbers rounded to the nearest of TF32, which have 10 bits after the point."""
    return ((x.view(torch.int32) + 0x1000) & -8192).view(torch.float32)


def rows_of_pixels(x: Compact, pad=lambda maps: maps) -> tuple[Tensor, int]:
    """Maps as ``[N, H, W, width]`` in contiguous memory, and that width.

    Of maps that a `TritonConv` made, ``width`` is padded, and what is beyond the channels is 0.
    """
    maps = pad(x.maps)
    n, k, height, columns = maps.shape
    row = padded(k)
    if x.sums is not None and maps.stride() == (height * columns * row, 1, columns * row, row):
        return maps.as_strided((n, height, columns, row), (*maps.stride()[::2], row, 1)), row
    return maps.permute(0, 2, 3, 1).contiguous(), k


def spread(x: Compact) -> Tensor:
    """``x.dense()``, in channels_last memory where channels were left out."""
    if x.channels is None:
        return x.maps
    maps, width = rows_of_pixels(x)
    n, height, columns, _ = maps.shape
    y = maps.new_empty(n, height, columns, x.total)
    block = min(128, triton.next_power_of_2(x.total))
    pixels, some = height * columns, max(1, 4096 // block)
    repeat = min(4, ceil(pixels / some))
    k = x.channels.shape[1]
    kernels.spread_kernel[(ceil(pixels / (some * repeat)), n, ceil(x.total / block))](
        maps, x.channels, y, pixels, width, k, x.total,
        BLOCK_K=min(32, triton.next_power_of_2(k)), BLOCK_M=some, BLOCK_C=block, REPEAT=repeat,
    )  # fmt: skip
    return y.permute(0, 3, 1, 2)


def mask(y: Tensor, shift: Tensor, pi: Tensor | None, relu: bool, tf32: bool) -> Tensor:
    """Make ``relu(pi * (y + shift))`` of ``y`` ``[N, C, H, W]``; its sums ``[N, parts, C]``."""
    n, channels, height, columns = y.shape
    pixels, planes = height * columns, y.is_contiguous()
    if planes:
        block_c, block_m = 1, min(4096, triton.next_power_of_2(pixels))
    else:
        block_c = min(64, triton.next_power_of_2(channels))
        block_m = min(4096 // block_c, triton.next_power_of_2(pixels))
    parts = ceil(pixels / block_m)
    sums = torch.empty(n, parts, channels, device=y.device)
    kernels.mask_kernel[(parts, ceil(channels / block_c), n)](
        y, shift, y if pi is None else pi, sums, pixels, channels,
        *((1, pixels) if planes else (channels, 1)),
        GATED=pi is not None, RELU=relu, ROUND=tf32, BLOCK_M=block_m, BLOCK_C=block_c,
    )  # fmt: skip
    return sums


def select(
    weight: Tensor,
    bias: Tensor,
    sums: Tensor,
    channels: Tensor | None,
    pixels: int,
    k: int,
    dense: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``g`` ``[N, C]``, winners and gates ``[N, k]``; ``dense``: no winners, gates ``[N, C]``."""
    n, parts, width = sums.shape
    c = len(bias)
    g = sums.new_empty(n, c)
    winners = None if dense else torch.empty(n, k, dtype=torch.int64, device=g.device)
    pi = sums.new_empty(n, c if dense else k)
    block = max(16, triton.next_power_of_2(c))
    inputs = max(1, min(triton.next_power_of_2(width), SELECT[0] // block))
    kernels.select_kernel[(n,)](
        sums.contiguous(), sums if channels is None else channels, weight, bias, g, g if dense else winners, pi, parts, 1.0 / pixels,
        width, width, c, k,
        HAS_CHANNELS=channels is not None, DENSE=dense,
        BLOCK_T=max(1, min(triton.next_power_of_2(parts), 4096 // inputs)), BLOCK_I=inputs,
        BLOCK_C=block, BLOCK_P=min(block, max(16, SELECT[0] // block)), num_warps=SELECT[1],
    )  # fmt: skip
    return g, winners, pi
