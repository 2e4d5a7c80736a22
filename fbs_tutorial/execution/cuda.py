"""Skipping on a GPU: three Triton launches a layer or cuDNN's dense convolution, whichever is less.

A GPU is slow to answer: asking it how many channels are empty would cost more than skipping those
saves. So nothing here looks at a value. All shapes follow from the densities alone, which is also
what a CUDA graph asks for; and so does the choice between the two ways.
"""

import os
from math import ceil, gcd, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.gated import Gated
from ..method.wta import active_channels
from .compact import Compact
from .layers import SparseConv
from .roofline import Layer, Tile, choose_tile, gpu_like, power_of_2, skipping_is_faster
from .rows import Rows, kernels, mask, padded, rows_of_pixels, spread, sums_of, triton

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run in numpy, on a CPU
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

    reads_saliency = False

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        dtype = self.weight.dtype
        if self.groups > 1:
            y = self.convolve_groups(self.pad(x.dense()).to(dtype), winners)
        else:
            maps = self.pad(x.maps).to(dtype)
            n, width = maps.shape[:2]
            one = prod(self.kernel_size) * dtype.itemsize + 8 * (x.channels is not None)
            step = max(1, GATHERED // (winners.shape[1] * width * one))
            channels = [None] * n if x.channels is None else x.channels.split(step)
            parts = zip(maps.split(step), channels, winners.split(step), strict=False)
            y = [self.convolve(*part) for part in parts]
            y = torch.cat(y) if len(y) > 1 else y[0]
        y = y + self.bias[winners][:, :, None, None]  # from here on in float32 or finer
        if pi is not None:
            y = y.mul_(pi[:, :, None, None])
        y = (y.relu_() if relu else y).to(x.maps.dtype)
        return self.output(y, winners, relu)

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


class TritonConv(SparseConv):
    """A convolution of one group in three launches, or by cuDNN with gate and sums in one pass.

    In float32, TF32 (where PyTorch's switch for convolutions allows it and the GPU has it), float16
    or bfloat16. Sums, bias and gate are in float32; only maps and weights are in 16 bits. Its maps
    are `Rows`.

    Attributes:
        tile: how the work is divided; None for what `choose_tile` says.
        way: ``"skip"`` or ``"dense"``; None for what `skipping_is_faster` says.
    """

    reads_saliency = False
    tile: Tile | None = None
    way: str | None = None

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        if conv.groups > 1:
            raise ValueError(f"TritonConv takes convolutions of one group, got {conv.groups}")
        super().__init__(conv, norm)
        # [C_out, C_in, k, k], in memory [C_out, k, k, C_in]
        self.weight = self.weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        self.forms: dict[tuple, tuple[Tensor, Tensor]] = {}  # of a tensor: itself and another form

    def __getstate__(self) -> dict:
        return {**self.__dict__, "forms": {}}

    @property
    def products(self) -> str:
        """``"fp16"``, ``"bf16"``, ``"tf32"`` or ``"fp32"``: what products are made of now."""
        if self.weight.dtype != torch.float32:
            return "fp16" if self.weight.dtype == torch.float16 else "bf16"
        gpu = capability(self.weight)
        return "tf32" if tf32_allowed() and (gpu is None or gpu >= (8, 0)) else "fp32"

    def form(self, name: str, of: Tensor | None = None, inputs: int = 0) -> Tensor:
        """A weight in another form, made when first needed.

        Args:
            of: a predictor's weight.
            inputs: how many the form has, more than the weight; 0 for as many.
        """
        source, key = self.weight if of is None else of, (name, inputs)
        if key not in self.forms or self.forms[key][0] is not source:
            wide = widened(source, inputs) if inputs else source
            self.forms[key] = source, FORMS[name](wide)
        return self.forms[key][1]

    def size(self, x: Compact) -> tuple[int, int]:
        """Rows and columns of the output."""
        return self.output_size(self.pad(x.maps[:1, :1]))

    def skips(self, x: Compact, k: int) -> bool:
        """Whether to compute ``k`` outputs each in three launches, or all of them by cuDNN."""
        if self.way is not None:
            return self.way == "skip"
        n, width, *size = x.maps.shape
        sizes = self.in_channels, self.out_channels, prod(self.kernel_size)
        layer = Layer(n, width, k, *sizes, prod(self.size(x)), prod(size))
        gpu = gpu_like(capability(self.weight))
        return skipping_is_faster(layer, self.products, x.channels is not None, gpu)

    def select(
        self, gate: Gated, x: Compact
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """As `SparseConv.select`; no winners, and the gates of all, where all are computed."""
        if gate.forced is not None or isinstance(gate.density, Tensor) or not self.takes(x):
            return super().select(gate, x)
        k = active_channels(self.out_channels, gate.density)
        everything = not self.skips(x, k)
        with torch.cuda.device_of(x.maps):
            sums, pixels = x.sums if isinstance(x, Rows) else None, prod(x.maps.shape[2:])
            if gate.reduce != "l1":
                sums, pixels = x.saliency(gate.reduce)[:, None], 1
            elif sums is None:
                sums = sums_of(x.maps)
            weight, bias = self.form("transposed", gate.predictor.weight), gate.predictor.bias
            return None, *select(weight, bias, sums, x.channels, pixels, k, everything)

    def takes(self, x: Compact) -> bool:
        return x.maps.dtype == self.weight.dtype and x.maps.dtype in KERNEL_FROM

    def forward(
        self,
        x: Compact,
        s: Tensor | None,
        winners: Tensor | None,
        pi: Tensor | None = None,
        relu: bool = False,
    ) -> Compact:
        """As `SparseConv.forward`; ``winners`` None stands for all outputs."""
        if not self.takes(x):
            raise TypeError(
                f"TritonConv takes maps of its weight's dtype {self.weight.dtype}, not float64; "
                f"got {x.maps.dtype}"
            )
        if winners is not None:  # in ascending order
            winners = None if winners.shape[1] == self.out_channels else winners.contiguous()
        pi = pi if pi is None else pi.contiguous()
        k = self.out_channels if winners is None else winners.shape[1]
        with torch.cuda.device_of(x.maps):  # Triton launches on the current device
            if self.skips(x, k):
                return self.skip(x, winners, pi, relu)
            if winners is not None:
                pi = winners.new_ones(winners.shape, dtype=torch.float32) if pi is None else pi
                pi = pi.new_zeros(len(pi), self.out_channels).scatter_(1, winners, pi)
            return self.dense(x, pi, relu)

    def dense(self, x: Compact, pi: Tensor | None, relu: bool) -> Rows:
        """All outputs by PyTorch's convolution; then bias, gate, ReLU and sums in one pass."""
        images, weight, tf32 = self.pad(spread(x)), self.weight, self.products == "tf32"
        if self.products != "fp32":
            images = images.contiguous(memory_format=torch.channels_last)
            if tf32:  # not every routine of cuDNN rounds what it reads in this layout
                weight = self.form("rounded")
        elif images.is_contiguous():
            weight = self.form("planes")
        y = F.conv2d(images, weight, None, self.stride, self.padding, self.dilation)
        sums = mask(y, self.bias, pi, relu, tf32)
        return Rows(y, None, self.out_channels, relu, sums, tf32)

    def skip(self, x: Compact, winners: Tensor | None, pi: Tensor | None, relu: bool) -> Rows:
        """The winners only, in parts of the batch whose gathered weights are within a bound."""
        maps, width = self.inputs(x)
        n, k = len(maps), self.out_channels if winners is None else winners.shape[1]
        size, own, products = self.size(x), x.channels is not None, self.products
        tile = self.tile or choose_tile(n, prod(size), k, width, products)
        y = maps.new_empty(n, *size, padded(k))
        sums = y.new_empty(n, ceil(prod(size) / tile.pixels), k, dtype=torch.float32)
        one = padded(k) * width * prod(self.kernel_size) * maps.element_size()
        step, weight = (max(1, GATHERED // one), None) if own else (n, self.shared(width))
        exact = products != "tf32" or (isinstance(x, Rows) and x.rounded)
        for first in range(0, n, step):
            count = min(step, n - first)
            if own:
                weight = None  # the memory of the last part serves the next one
                weight = self.gather(x.channels, winners, width, first, count)
            self.convolve(
                (maps, weight, winners, pi, y, sums), (first, count), tile, own, relu, not exact
            )
        maps = y[..., :k].permute(0, 3, 1, 2)
        return Rows(maps, winners, self.out_channels, relu, sums, products == "tf32")

    def inputs(self, x: Compact) -> tuple[Tensor, int]:
        """`rows_of_pixels`; a few channels, as of an image, are padded to 16 bytes."""
        maps, width = rows_of_pixels(x, self.pad)
        unit = 16 // maps.element_size()
        if x.channels is None and width < 16 and width % unit and self.products != "fp32":
            maps = F.pad(maps, (0, -width % unit))
        return maps, maps.shape[3]

    def shared(self, width: int) -> Tensor:
        """The weight for images without channels of their own, whose pixels are rows of width."""
        name = {"fp32": "columns", "tf32": "rounded"}.get(self.products, "rows")
        return self.form(name, inputs=width if width != self.in_channels else 0)

    def uncounted_macs(self, x: Compact, y: Compact) -> int:
        k = y.maps.shape[1]
        return x.maps.shape[1] * prod(self.kernel_size) * y.maps.numel() if self.skips(x, k) else 0

    def gather(
        self, channels: Tensor, winners: Tensor | None, width: int, first: int, count: int
    ) -> Tensor:
        """The weights of some images, between their inputs and their winners."""
        taps, by_rows = prod(self.kernel_size), self.products != "fp32"
        channels, winners = (
            channels.contiguous(),
            winners if winners is None else winners.contiguous(),
        )
        k_in, k = channels.shape[1], self.out_channels if winners is None else winners.shape[1]
        lists = [(winners, k, self.out_channels, k), (channels, k_in, self.in_channels, width)]
        if not by_rows:
            lists = [lists[1], (winners, k, self.out_channels, padded(k))]
        (rows, n_rows, all_rows, height), (columns, n_columns, all_columns, length) = lists
        out = self.weight.new_empty(count * height * taps * length)
        some, block = 16 if height * count >= 2048 else 4, power_of_2(length)
        kernels.gather_kernel[(ceil(height / some), taps, count)](
            self.weight if by_rows else self.form("columns"),
            channels if rows is None else rows,
            channels if columns is None else columns,
            out, first, all_rows, all_columns, n_rows, n_columns, height, length,
            TAPS=taps, BY_ROWS=by_rows, HAS_ROWS=rows is not None,
            HAS_COLUMNS=columns is not None, ROUND=self.products == "tf32",
            BLOCK_R=some, BLOCK_C=block, num_warps=max(1, min(4, block // 64)),
        )  # fmt: skip
        return out

    def convolve(
        self,
        tensors: tuple[Tensor | None, ...],
        images: tuple[int, int],
        tile: Tile,
        own: bool,
        relu: bool,
        rounds: bool,
    ) -> None:
        """Write ``relu(pi * (W x + bias))`` into ``y``, and its sums.

        Args:
            tensors: ``maps, weight, winners, pi, y, sums``.
            images: the first, and how many.
            own: whether each image has a weight of its own.
            rounds: whether the maps are to be rounded to TF32.
        """
        maps, weight, winners, pi, y, sums = tensors
        (_, height, columns, width), (_, rows_out, columns_out, row) = maps.shape, y.shape
        (first, count), k, pixels = images, sums.shape[2], rows_out * columns_out
        tf32, unit = self.products == "tf32", gcd(width, 8)
        programs = count * ceil(pixels / tile.pixels) * ceil(k / tile.outputs)
        newer = (capability(y) or (9, 0)) >= (9, 0)  # older tensor cores keep factors in registers
        kernels.convolve_kernel[(programs,)](
            maps, weight, maps if winners is None else winners, self.bias,
            maps if pi is None else pi, y, sums, first, pixels, columns_out, height, columns,
            width // unit, row // 8, k, self.out_channels,
            *self.stride, *self.padding, *self.dilation,
            KERNEL_H=self.kernel_size[0], KERNEL_W=self.kernel_size[1], UNIT=unit, UNIT_Y=8,
            OWN=own, HAS_WINNERS=winners is not None, GATED=pi is not None, RELU=relu,
            K_MAJOR=self.products != "fp32", FLAT=tile.flat, EVEN=width % tile.inputs == 0,
            ROUND_X=rounds, ROUND_Y=tf32, PRECISION="tf32" if tf32 else "ieee",
            BLOCK_M=tile.pixels, BLOCK_N=tile.outputs, BLOCK_K=tile.inputs,
            num_warps=tile.warps, num_stages=tile.stages,
            maxnreg=tile.registers if newer else None,
        )  # fmt: skip


def to_tf32(x: Tensor) -> Tensor:
    """float32 numbers rounded to the nearest of TF32, which have 10 bits after the point."""
    return ((x.view(torch.int32) + 0x1000) & -8192).view(torch.float32)


def widened(weight: Tensor, inputs: int) -> Tensor:
    """A weight ``[C_out, inputs, k, k]``, 0 for the inputs it did not have; by rows in memory."""
    rows = F.pad(weight.permute(0, 2, 3, 1), (0, inputs - weight.shape[1]))
    return rows.contiguous().permute(0, 3, 1, 2)


FORMS = {
    "columns": lambda weight: weight.flatten(2).permute(2, 1, 0).contiguous(),  # taps, C_in, C_out
    "rounded": to_tf32,
    "rows": lambda weight: weight,
    "planes": lambda weight: weight.contiguous(),  # in PyTorch's own order
    "transposed": lambda weight: weight.detach().t().contiguous(),  # of a predictor
}


def select(
    weight: Tensor,
    bias: Tensor,
    sums: Tensor,
    channels: Tensor | None,
    pixels: int,
    k: int,
    everything: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """``g`` ``[N, C]``, winners and gates ``[N, k]``; for everything, only gates ``[N, C]``."""
    (n, parts, width), c = sums.shape, len(bias)
    g = sums.new_empty(n, c)
    winners = None if everything else torch.empty(n, k, dtype=torch.int64, device=g.device)
    pi = sums.new_empty(n, c if everything else k)
    block = max(16, power_of_2(c))
    numbers, warps = (4096, 4) if block <= 128 else (8192, 8) if block <= 256 else (16384, 16)
    inputs = max(1, min(power_of_2(width), numbers // block))
    kernels.select_kernel[(n,)](
        sums.contiguous(), sums if channels is None else channels.contiguous(), weight, bias, g,
        g if everything else winners, pi, parts, 1.0 / pixels, width, width, c, k,
        HAS_CHANNELS=channels is not None, DENSE=everything,
        BLOCK_T=max(1, min(power_of_2(parts), 4096 // inputs)), BLOCK_I=inputs, BLOCK_C=block,
        BLOCK_P=min(block, max(16, numbers // block)), num_warps=warps,
    )  # fmt: skip
    return g, winners, pi
