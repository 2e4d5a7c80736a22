"""Feature maps as `TritonConv` makes them: compact, in rows of pixels, with their sums."""

import copy
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .compact import PLAIN_RELUS, Compact, LazySum
from .roofline import power_of_2

try:
    import triton

    from . import triton_conv as kernels
except ImportError:  # there are no wheels for macOS and Windows
    triton = kernels = None


class Rows(LazySum):
    """Compact maps in channels_last memory, in rows that are padded with zeros to 16 bytes.

    Args:
        maps, channels, total, nonnegative: as of `Compact`.
        sums: ``[N, parts, k]``, of the maps' magnitudes over parts of the pixels; None: unknown.
        rounded: whether all values are numbers of TF32.
    """

    __slots__ = ("_sums", "rounded")

    @staticmethod
    def __new__(
        cls,
        maps: Tensor,
        channels: Tensor | None,
        total: int,
        nonnegative: bool = False,
        sums: Tensor | None = None,
        rounded: bool = False,
    ) -> "Rows":
        self = Compact.__new__(cls, maps, channels, total, nonnegative)
        self.set_up()
        self._sums, self.rounded = sums, rounded
        return self

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        x = args[0]
        if operation is PLAIN_RELUS[1] and isinstance(x, Rows) and x.is_ours():
            return x.cut_off()
        return super().__torch_dispatch__(operation, types, args, kwargs)

    def is_ours(self) -> bool:
        """Whether nothing is still to be added to the maps, and nobody else has them."""
        return triton is not None and self.addend is None and not self.lent

    def cut_off(self) -> "Rows":
        """A ReLU in place; it measures the maps for the next layer in the same pass."""
        self.settle_reader()
        if not self.nonnegative:
            self._sums = _one_pass(self.maps, relu=True)
            self.nonnegative = True
        return self

    @property
    def sums(self) -> Tensor | None:
        self.settle()
        return self._sums

    def can_add(self, other: Compact) -> bool:
        return triton is not None

    def sum_with(self, other: "Rows", relu: bool) -> "Rows":
        return add(self, other, relu)

    def become(self, y: "Rows") -> None:
        self.maps, self.channels, self.nonnegative = y.maps, None, y.nonnegative
        self._sums, self.rounded = y.sums, False

    def on_maps(self, operation, args: tuple, kwargs: dict) -> object:
        self.settle_reader()
        sums = self.sums
        if not self.nonnegative:  # an activation in place changes them
            self._sums = None
        y = super().on_maps(operation, args, kwargs)
        if y is not self:
            self._sums = sums
        return y

    def dense(self) -> Tensor:
        return spread(self)

    def fill_in(self) -> Tensor:
        maps = super().fill_in()
        self._sums, self.rounded = None, False
        return maps

    def __deepcopy__(self, memo: dict) -> "Rows":
        parts = (copy.deepcopy(x, memo) for x in (self.maps, self.channels, self.sums))
        maps, channels, sums = parts
        return Rows(maps, channels, self.shape[1], self.nonnegative, sums, self.rounded)


def padded(length: int) -> int:
    """Numbers in a row whose end is padded to 16 bytes, in every dtype."""
    return ceil(length / 8) * 8


def rows_of_pixels(x: Compact, pad=lambda maps: maps) -> tuple[Tensor, int]:
    """Maps as ``[N, H, W, width]`` in contiguous memory, and that width.

    Of `Rows`, ``width`` is padded, and what is beyond the channels is 0.
    """
    maps = pad(x.maps)
    n, k, height, columns = maps.shape
    row = padded(k)
    if isinstance(x, Rows) and maps.stride() == (height * columns * row, 1, columns * row, row):
        return maps.as_strided((n, height, columns, row), (*maps.stride()[::2], row, 1)), row
    return maps.permute(0, 2, 3, 1).contiguous(), k


def spread(x: Compact) -> Tensor:
    """``x.dense()``, in channels_last memory where channels were left out."""
    return x.maps if x.channels is None else fill(x, None, False)[0]


def add(x: Compact, addend: Compact, relu: bool) -> Rows:
    """``x + addend``, or its positive part, and the sums of that, in one pass."""
    y, sums = fill(x, addend, relu)
    return Rows(y, None, x.shape[1], relu, sums)


def fill(x: Compact, addend: Compact | None, relu: bool) -> tuple[Tensor, Tensor | None]:
    """All channels of ``x``, ``[N, C, H, W]``, plus ``addend``; then also the sums."""
    maps, width = rows_of_pixels(x)
    other, other_width = (maps, 0) if addend is None else rows_of_pixels(filled(addend))
    (n, height, columns, _), total = maps.shape, x.shape[1]
    y = maps.new_empty(n, height, columns, total)
    block, pixels = min(128, power_of_2(total)), height * columns
    some = min(max(1, 4096 // block), power_of_2(pixels))
    repeat = min(4, ceil(pixels / some))
    tiles = ceil(pixels / (some * repeat))
    sums = None if addend is None else y.new_empty(n, tiles, total, dtype=torch.float32)
    channels = maps if x.channels is None else x.channels.contiguous()
    k = x.maps.shape[1]
    kernels.spread_kernel[(tiles, n, ceil(total / block))](
        maps, channels, other, y, y if sums is None else sums, pixels, width, other_width, k, total,
        HAS_CHANNELS=x.channels is not None, ADD=addend is not None, RELU=relu,
        BLOCK_K=min(32, power_of_2(k)), BLOCK_M=some, BLOCK_C=block, REPEAT=repeat,
    )  # fmt: skip
    return y.permute(0, 3, 1, 2), sums


def filled(x: Compact) -> Compact:
    """The same with all its channels."""
    return x if x.channels is None else Rows(spread(x), None, x.shape[1])


def mask(y: Tensor, bias: Tensor, pi: Tensor | None, relu: bool, tf32: bool) -> Tensor:
    """Make ``relu(pi * (y + bias))`` of ``y`` ``[N, C, H, W]``; its sums ``[N, parts, C]``."""
    return _one_pass(y, bias, pi, relu, tf32)


def sums_of(maps: Tensor) -> Tensor:
    """``[N, parts, C]``: the magnitudes of maps ``[N, C, H, W]`` over parts of the pixels."""
    return _one_pass(maps)


def _one_pass(
    y: Tensor,
    bias: Tensor | None = None,
    pi: Tensor | None = None,
    relu: bool = False,
    tf32: bool = False,
) -> Tensor:
    """Sums over pixels; before that, given a bias or a ReLU, `mask` in place."""
    n, channels, height, columns = y.shape
    if min(height, columns) > 1 and y.stride(2) != columns * y.stride(3):
        y = y.contiguous()  # a copy is summed up; what a convolution returns is never so
    pixel, pixels = y.stride(3) if columns > 1 else y.stride(2), height * columns
    planes = pixel < y.stride(1)
    if planes:
        block_c, block_m = 1, min(4096, power_of_2(pixels))
    else:
        block_c = min(64, power_of_2(channels))
        block_m = min(4096 // block_c, power_of_2(pixels))
    parts = ceil(pixels / block_m)
    sums = torch.empty(n, parts, channels, device=y.device)
    kernels.mask_kernel[(parts, ceil(channels / block_c), n)](
        y, sums if bias is None else bias, sums if pi is None else pi, sums, pixels, channels,
        y.stride(0), pixel, y.stride(1),
        MASK=relu or bias is not None, SHIFTED=bias is not None, GATED=pi is not None,
        RELU=relu, ROUND=tf32,
        BLOCK_M=block_m, BLOCK_C=block_c,
    )  # fmt: skip
    return sums


class RowsMaxPool2d(nn.MaxPool2d):
    """A pooling layer that keeps `Rows` what they are; others it pools as PyTorch does."""

    def __init__(self, pool: nn.MaxPool2d):
        parts = pool.kernel_size, pool.stride, pool.padding, pool.dilation
        super().__init__(*parts, pool.return_indices, pool.ceil_mode)
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        x, ordinary = input, _pair(self.dilation) == (1, 1)
        simple = ordinary and not (self.return_indices or self.ceil_mode)
        if not (isinstance(x, Rows) and simple and (x.nonnegative or x.channels is None)):
            return super().forward(x)
        return self.pool(x)

    def pool(self, x: Rows) -> Rows:
        """The maxima, and their sums, in one pass."""
        maps, width = rows_of_pixels(x)
        (n, height, columns, _), k = maps.shape, x.maps.shape[1]
        window, stride, padding = map(_pair, (self.kernel_size, self.stride, self.padding))
        sizes = zip((height, columns), window, stride, padding, strict=True)
        rows, across = ((size + 2 * p - w) // step + 1 for size, w, step, p in sizes)
        row, pixels = padded(k), rows * across
        y = maps.new_empty(n, rows, across, row)
        block = min(64, power_of_2(row))
        some = min(2048 // block, power_of_2(pixels))
        tiles = ceil(pixels / some)
        sums = y.new_empty(n, tiles, k, dtype=torch.float32)
        kernels.pool_kernel[(tiles, ceil(row / block), n)](
            maps, y, sums, pixels, across, height, columns, width, row, k,
            *stride, *padding, KERNEL_H=window[0], KERNEL_W=window[1],
            BLOCK_M=some, BLOCK_C=block,
        )  # fmt: skip
        y = y[..., :k].permute(0, 3, 1, 2)
        return Rows(y, x.channels, x.shape[1], x.nonnegative, sums, x.rounded)
