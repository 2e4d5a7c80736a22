"""What a layer costs on a GPU, from its sizes alone: which way to take, and in which tiles.

A kernel takes as long as the slowest of three: arithmetic, bytes between the chip and its memory,
and bytes between the second-level cache and the multiprocessors. To that comes a launch. Constants
of the H100 are fitted to ``assets/h100/layers.json``. Nothing was measured on other GPUs: their
constants are the H100's, in the proportion of the two `SHEETS`.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple


class Tile(NamedTuple):
    """The part of an image's output that one program computes, and how it walks the inputs."""

    pixels: int
    outputs: int
    inputs: int  # input channels in one step
    flat: bool  # steps go over all pairs (tap, input), and not over the inputs of each tap
    warps: int
    stages: int  # steps under way at once
    registers: int | None = None  # that a thread may take, so that more programs run at once


def power_of_2(number: int) -> int:
    """The least power of 2 that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def choose_tile(images: int, pixels: int, k_out: int, k_in: int, products: str) -> Tile:
    """A tile for ``images`` products of ``[pixels, taps * k_in]`` and ``[taps * k_in, k_out]``.

    It depends on sizes only, so that a layer's kernel is compiled once and can be captured.
    """
    flat = k_in < 16
    n = min(128, max(16, power_of_2(k_out)))
    if products == "fp32":
        n = 32 if k_out > 64 and 0 < k_out % 64 <= 32 else min(n, 64)
        n = narrower(images, pixels, k_out, 64, n)
        return Tile(64, n, 16, flat, 4 if n == 64 else 2, 3)
    wide = products != "tf32"
    inputs = 32 if flat else min(64 if wide else 32, max(16, power_of_2(k_in)))
    if flat:
        return Tile(128, min(n, 64), inputs, flat, 4, 2)
    small = pixels <= 64
    m = 64 if small or (n == 128 and pixels < 512) else 128
    shrunk = narrower(images, pixels, k_out, 64, n)
    if shrunk < n:
        return Tile(64, shrunk, inputs, flat, 4, 4)
    cap = None if k_in % inputs else 128  # masks at the end of rows take registers of their own
    if (m, n) == (128, 128):
        return Tile(m, n, inputs, flat, 8, 3, cap)
    if n == 128:
        return Tile(m, n, inputs, flat, 4, 4 if wide or small else 3)
    if n == 64:
        many = m == 128 and (wide or pixels >= 1024)
        return Tile(m, n, inputs, flat, 4, 4 if m == 128 and not many else 3, cap if many else None)
    return Tile(m, n, inputs, flat, 4, 3 if n == 32 else 4)


def narrower(images: int, pixels: int, k_out: int, m: int, n: int) -> int:
    """Fewer outputs in a tile, where there would not be a program for every other processor."""
    while n > 16 and images * ceil(pixels / m) * ceil(k_out / n) < 64:
        n //= 2
    return n


class Layer(NamedTuple):
    """A layer's work: images, inputs and outputs that are live, those there are, and pixels."""

    images: int
    k_in: int
    k_out: int
    c_in: int
    c_out: int
    taps: int
    pixels: int  # of the output
    pixels_in: int


@dataclass(frozen=True)
class Gpu:
    """Rates of one kind of GPU, in millions per microsecond: bytes, and MACs by `products`.

    Attributes:
        memory: of a kernel that reads and writes whole rows.
        cache: of tiles that come from the second-level cache into registers.
        own: MACs of this package's convolution.
        dense: MACs of cuDNN's, which does not come near its peak on small maps.
    """

    memory: float
    cache: dict[str, float]
    own: dict[str, float]
    dense: dict[str, float]

    def times(self, memory: float, cache: float, fp32: float, tensor: float) -> "Gpu":
        """One whose rates are so many times as high; ``tensor``: on tensor cores."""
        by = {name: fp32 if name == "fp32" else tensor for name in self.own}
        cached = {name: rate * cache for name, rate in self.cache.items()}
        own, dense = (
            {name: table[name] * by[name] for name in by} for table in (self.own, self.dense)
        )
        return Gpu(self.memory * memory, cached, own, dense)


class Sheet(NamedTuple):
    """What a data sheet promises: TB/s of memory, dense TFLOP/s, and MB of second-level cache.

    ``tf32`` is 0 where tensor cores do not have it; ``half``: bfloat16 or float16, summed in
    float32. ``cache`` is no number of the sheet but an estimate: the share of the H100's rate.
    """

    memory: float
    fp32: float
    tf32: float
    half: float
    megabytes: float
    cache: float


SHEETS = {  # by compute capability; NVIDIA's white papers of the Turing, Ampere, Ada, Hopper GPUs
    (7, 5): Sheet(0.32, 8.1, 0, 65, 4, 0.15),  # T4
    (8, 0): Sheet(2.04, 19.5, 156, 312, 40, 0.55),  # A100, 80 GB
    (8, 6): Sheet(0.94, 35.6, 35.6, 71, 6, 0.3),  # RTX 3090
    (8, 9): Sheet(1.01, 82.6, 82.6, 165, 72, 0.7),  # RTX 4090
    (9, 0): Sheet(3.35, 67, 495, 989, 50, 1),  # H100, SXM
}


LAUNCH = 2.5  # microseconds from the end of one kernel to the first work of the next, in a graph
H100 = Gpu(
    memory=2.6,
    cache={"fp32": 2.6, "tf32": 6.3, "bf16": 5.4, "fp16": 5.4},
    own={"fp32": 18, "tf32": 120, "bf16": 220, "fp16": 220},
    dense={"fp32": 26, "tf32": 160, "bf16": 300, "fp16": 300},
)


def by_sheets(mine: Sheet, other: Sheet) -> Gpu:
    """The H100's rates in the proportion of two data sheets."""
    shares = (mine.memory, other.memory), (mine.fp32, other.fp32), (mine.half, other.half)
    memory, fp32, tensor = (a / b for a, b in shares)
    return H100.times(memory, mine.cache, fp32, tensor)


GPUS = {capability: by_sheets(sheet, SHEETS[9, 0]) for capability, sheet in SHEETS.items()}
GPUS[9, 0] = H100


def gpu_like(capability: tuple[int, int] | None) -> Gpu:
    """The constants of the newest GPU in the table that is not newer than this one."""
    known = [c for c in GPUS if capability is None or c <= capability]
    return GPUS[max(known, default=min(GPUS))]


def skipping_is_faster(layer: Layer, products: str, gathers: bool, gpu: Gpu = H100) -> bool:
    """Whether the winners alone will take less time than all outputs by cuDNN.

    ``gathers``: images come with channels of their own, so that their weights are gathered, or
    else their maps filled in. What both ways do, the selection, is left out. After full maps, what
    the next layer will lose by the winners' counts too, or a network would go to and fro.
    """
    later = 0.0 if gathers else hand_over_time(layer, products, gpu)
    skip = skip_time(layer, products, gathers, gpu) + later
    return skip < dense_time(layer, products, gathers, gpu)


def hand_over_time(layer: Layer, products: str, gpu: Gpu) -> float:
    """Microseconds by which a layer like this one after it would be slower without all inputs.

    It would gather weights, or fill its maps in; 0 where it would be faster all the same.
    """
    n, k, c, taps, pixels = layer.images, layer.k_out, layer.c_out, layer.taps, layer.pixels
    if k == c:
        return 0.0

    def next_time(width: int, gathers: bool) -> float:
        after = Layer(n, width, k, c, c, taps, pixels, pixels)
        return min(way(after, products, gathers, gpu) for way in (skip_time, dense_time))

    return max(0.0, next_time(k, True) - next_time(c, False))


def skip_time(layer: Layer, products: str, gathers: bool, gpu: Gpu) -> float:
    """Microseconds of `gather` and `convolve`."""
    weights = own_weights(layer, products) if gathers else 0
    gather = LAUNCH + weights / 1e6 / gpu.memory if gathers else 0
    tile = choose_tile(layer.images, layer.pixels, layer.k_out, layer.k_in, products)
    return convolution_time(layer, tile, products, gathers, gpu) + gather


def own_weights(layer: Layer, products: str) -> int:
    """Bytes of the weights that the images of a batch have for themselves."""
    size = 4 if products in ("fp32", "tf32") else 2
    return layer.images * layer.taps * layer.k_in * layer.k_out * size


def convolution_time(
    layer: Layer, tile: Tile, products: str, gathers: bool = True, gpu: Gpu = H100
) -> float:
    """Microseconds of `convolve` in tiles of this size."""
    n, k_in, k_out, *_, taps, pixels, pixels_in = layer
    size = 4 if products in ("fp32", "tf32") else 2
    programs = n * ceil(pixels / tile.pixels) * ceil(k_out / tile.outputs)
    depth = taps * max(k_in, tile.inputs if not tile.flat else 1)
    maps = n * (pixels_in * k_in + pixels * k_out) * size
    weights = own_weights(layer, products) if gathers else 0
    slowest = max(
        programs * tile.pixels * tile.outputs * depth / gpu.own[products],
        programs * (tile.pixels + tile.outputs) * taps * k_in * size / gpu.cache[products],
        (maps + weights) / gpu.memory,
    )
    return LAUNCH + slowest / 1e6


def dense_time(layer: Layer, products: str, gathers: bool, gpu: Gpu) -> float:
    """Microseconds of filling in, cuDNN's convolution and the pass that masks its outputs."""
    n, k_in, _, c_in, c_out, taps, pixels, pixels_in = layer
    size = 4 if products in ("fp32", "tf32") else 2
    maps_in, maps_out = n * pixels_in * c_in * size, n * pixels * c_out * size
    convolution = max(
        n * pixels * c_in * c_out * taps / gpu.dense[products],
        1.6 * (maps_in + maps_out) / gpu.memory,
    )
    mask = LAUNCH + 2 * maps_out / 1e6 / gpu.memory
    rate = gpu.memory * (0.7 if size == 4 else 0.45)  # numbers are picked one by one
    spread = LAUNCH + (1 + k_in / c_in) * maps_in / 1e6 / rate if gathers else 0
    return LAUNCH + convolution / 1e6 + mask + spread
