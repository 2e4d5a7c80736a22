"""The exercises of notebook 09, Skipping on a GPU.

Kernels run in Triton's interpreter, on a CPU. Their tensors lie between guards, so that an address
outside of a tensor does no harm and shows. Typical mistakes are kernels, too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from ...checkpoints import load_pretrained
from ...data import load_data
from ...execution.roofline import Layer, Tile, choose_tile, convolution_time
from ...method.gated import GatedConv2d
from ...method.wta import winner_mask
from .engine import Case, Exercise, Mistake

try:
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
except ImportError:  # there are no wheels for macOS and Windows
    tl = InterpretedFunction = None

GUARD = 4096  # numbers before and after every tensor
UNTOUCHED = -99.0  # what stands where no kernel has written


def _lists() -> Iterator[Case]:
    axes = ("live input", "winner")
    row = "how far apart in the list are two winners, and how far two channels?"
    far = "a row for each channel, a column for each winner; one channel further is out_channels "
    far += "numbers further, one winner further is the next number"
    taps = "how many numbers does one tap have?"
    tap_far = "one tap further is in_channels * out_channels numbers further"
    for tap, k_in, k_out, hint, more in [
        (0, 2, 3, row, far),
        (0, 2, 2, row, far),
        (5, 3, 2, taps, tap_far),
    ]:
        channels, winners = (torch.rand(6).argsort()[:k].sort().values for k in (k_in, k_out))
        expected = torch.arange(9 * 6 * 7).view(9, 6, 7)[tap][channels[:, None], winners]
        yield Case((tap, channels, winners, 6, 7), expected, hint, more, axes=axes)


check_weight_addresses = Exercise(
    "weight_addresses(tap, channels, winners, in_channels, out_channels): places [k_in, k_out] "
    "in the flat copy of a weight [taps, in_channels, out_channels]",
    _lists,
    "every weight is found, for three pairs of lists.",
    (
        Mistake(
            lambda t, i, o, c_in, c_out: (t * c_in + i) * c_out + o[:, None],
            "rows and columns have changed places",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: (t * c_in + i[:, None]) * c_in + o,
            "you step by in_channels from one channel to the next",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: (t + i[:, None]) * c_out + o,
            "you take one tap further for one channel further",
        ),
        Mistake(lambda t, i, o, c_in, c_out: i[:, None] * c_out + o, "you leave the tap out"),
        Mistake(
            lambda t, i, o, c_in, c_out: (i[:, None] * c_out + o) * 9 + t,
            "you let the taps of a weight be neighbours, but here a tap is the first axis",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: t * c_in * c_out + i[:, None] + o * c_in,
            "you let the inputs be neighbours, but here the outputs are",
        ),
    ),
)


GATHER = """
def gather_kernel(
    weight, channels, winners, own, k_in, k_out, in_channels, out_channels,
    BLOCK_I: "constexpr", BLOCK_J: "constexpr",
):
    n, tap = tl.program_id(0), tl.program_id(1)
    i, j = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_J)
    rows, columns = i < k_in, j < k_out
    row = tl.load(channels + n * k_in + i, mask=rows, other=0)
    out = tl.load(winners + n * k_out + j, mask=columns, other=0)
    line = (tap * in_channels + row) * out_channels
    MASK
    w = tl.load(weight + line[:, None] + out[None, :], mask=both, other=0.0)
    place = ((n * 9 + tap) * k_in + i)[:, None] * k_out + j[None, :]
    tl.store(own + place, w, mask=both)
"""
FINISH = """
def finish_kernel(
    sums, shift, winners, pi, y, pixels, k_out, BLOCK_M: "constexpr", BLOCK_N: "constexpr"
):
    n = tl.program_id(0)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    out = tl.load(winners + n * k_out + j, mask=j < k_out, other=0)
    place = (n * pixels + m)[:, None] * k_out + j[None, :]
    inside = (m < pixels)[:, None] & (j < k_out)[None, :]
    total = tl.load(sums + place, mask=inside, other=0.0)
    b = tl.load(shift + out, mask=j < k_out, other=0.0)[None, :]
    g = tl.load(pi + n * k_out + j, mask=j < k_out, other=0.0)[None, :]
    TOTAL
    tl.store(y + place, total, mask=inside)
"""


ROUND = """
def round_kernel(x, y, size, BLOCK: "constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < size, other=0.0)
    bits = value.to(tl.int32, bitcast=True)
    BITS
    tl.store(y + i, bits.to(tl.float32, bitcast=True), mask=i < size)
"""


def kernel_with(source: str, line: str) -> Callable:
    """The kernel in ``source`` with ``line`` in the place that is left open for it."""
    names = {"tl": tl}
    exec(re.sub("^    (MASK|TOTAL|BITS)$", f"    {line}", source, flags=re.M), names)
    return next(thing for name, thing in names.items() if name.endswith("_kernel"))


def launch(kernel: Callable, grid: tuple[int, ...], *arguments: object, **sizes: int) -> None:
    """Run a kernel in the interpreter, whether or not it is already one of Triton's."""
    if InterpretedFunction is None:
        raise NotImplementedError("there is no Triton here (its packages are for Linux)")
    try:
        InterpretedFunction(getattr(kernel, "fn", kernel))[grid](*arguments, **sizes)
    except Exception as error:
        raise error.__cause__ or error from None


def guarded(values: Tensor, beside: float = 0) -> Tensor:
    """A copy with `GUARD` numbers on both sides."""
    buffer = torch.full((values.numel() + 2 * GUARD,), beside, dtype=values.dtype)
    buffer[GUARD:-GUARD] = values.flatten()
    return buffer[GUARD:-GUARD].view(values.shape)


def written(y: Tensor) -> Tensor:
    """What stands in a guarded tensor and in the 512 places after it."""
    return y._base[GUARD : GUARD + y.numel() + 512]


def gather(
    kernel: Callable, weight: Tensor, channels: Tensor, winners: Tensor, *blocks: int
) -> Tensor:
    """Run a ``gather_kernel``; of a single image only the first program, for the first tap."""
    (n, k_in), k_out = channels.shape, winners.shape[1]
    taps = 9 if n > 1 else 1
    own = guarded(torch.full((n, taps, k_in, k_out), UNTOUCHED), UNTOUCHED)
    inputs = [guarded(x) for x in (weight, channels, winners)]
    sizes = k_in, k_out, *weight.shape[1:]
    launch(kernel, (n, taps), *inputs, own, *sizes, BLOCK_I=blocks[0], BLOCK_J=blocks[1])
    return written(own)


def some_channels(images: int, total: int, k: int) -> Tensor:
    """``[images, k]``: different channels out of ``total``, in ascending order."""
    return torch.rand(images, total).argsort(1)[:, :k].sort(1).values


def _gathers() -> Iterator[Case]:
    hint = f"which i and j have an entry in their list? {UNTOUCHED:g} marks an untouched place"
    more = "i < k_in as a column, [:, None], and j < k_out as a row, [None, :]: both have to hold"
    for n, k_in, k_out, *blocks in [(1, 5, 11, 16, 16), (1, 3, 6, 4, 8), (3, 5, 6, 8, 8)]:
        weight = torch.rand(9, 7, 13)
        channels, winners = some_channels(n, 7, k_in), some_channels(n, 13, k_out)
        own = weight[:, channels[:, :, None], winners[:, None, :]].transpose(0, 1)
        own = own[:, : 9 if n > 1 else 1].flatten()
        expected = torch.cat([own, torch.full((512,), UNTOUCHED)])
        arguments = (weight, channels, winners, *blocks)
        yield Case(arguments, expected, hint, more, ask=gather, axes=("place from own",))


check_gather_kernel = Exercise(
    "gather_kernel(weight, channels, winners, own, k_in, …, BLOCK_I, BLOCK_J): fills own "
    "[N, 9, k_in, k_out] with each image's weights",
    _gathers,
    "every image has its weights, and nothing else was written.",
    tuple(
        Mistake(kernel_with(GATHER, f"both = {mask}"), says)
        for mask, says in [
            (
                "(i >= 0)[:, None] & (j >= 0)[None, :]",
                "there is no mask: all of the block is stored",
            ),
            ("rows[:, None] & (j >= 0)[None, :]", "columns from k_out on are stored, too"),
            ("(i >= 0)[:, None] & columns[None, :]", "rows from k_in on are stored, too"),
            ("(i < k_out)[:, None] & (j < k_in)[None, :]", "the mask lies on the wrong axis"),
            ("(i <= k_in)[:, None] & (j <= k_out)[None, :]", "<= lets one place too many through"),
            (
                "(i < in_channels)[:, None] & (j < out_channels)[None, :]",
                "the mask asks for C_in and C_out, but the lists are shorter",
            ),
        ]
    ),
)


def finish(kernel: Callable, sums: Tensor, shift: Tensor, winners: Tensor, pi: Tensor) -> Tensor:
    """Run a ``finish_kernel`` in tiles of 16 winners and 16 pixels, or 64 on large maps."""
    n, pixels, k = sums.shape
    y = guarded(torch.full_like(sums, UNTOUCHED), UNTOUCHED)
    inputs = [guarded(x) for x in (sums, shift, winners, pi)]
    block = 16 if pixels < 64 else 64
    grid = (n, -(-pixels // block), -(-k // 16))
    launch(kernel, grid, *inputs, y, pixels, k, BLOCK_M=block, BLOCK_N=16)
    return y


def finished(kernel: Callable, *arguments: Tensor) -> Tensor:
    return written(finish(kernel, *arguments))


@torch.no_grad()
def read_digits(kernel: Callable | None, images: Tensor) -> Tensor:
    """What the digits network reads with the kernel as the end of every layer; or without one."""
    network = load_pretrained("digits", 0.5).eval()

    def end(layer: GatedConv2d, inputs: tuple, output: Tensor) -> Tensor:
        chosen = winner_mask(layer.saliency, layer.density)
        winners = chosen.nonzero()[:, 1].view(len(chosen), -1)  # as many for every image
        sums = layer.norm(layer.conv(inputs[0])).flatten(2)  # [N, C_out, pixels]
        own = sums.gather(1, winners[:, :, None].expand(-1, -1, sums.shape[2])).mT.contiguous()
        y = finish(kernel, own, layer.beta, winners, layer.gate.gather(1, winners)).mT
        index = winners[:, :, None].expand_as(y)
        return torch.zeros_like(sums).scatter(1, index, y).view_as(output)

    for layer in network.modules():
        if isinstance(layer, GatedConv2d) and kernel is not None:
            layer.register_forward_hook(end)
    return network(images).argmax(1)


def _ends(some: slice = slice(20)) -> Iterator[Case]:
    hint = "in which order, and where do the j-th winner's shift and image n's gates lie?"
    more = "load shift + out and pi + n * k_out + j, each as a row [None, :]; add, multiply, ReLU"
    for n, pixels, k, sign in [(1, 20, 6, 1), (3, 40, 20, 1), (2, 16, 16, -1)]:
        sums, shift, winners = torch.randn(n, pixels, k), torch.randn(24), some_channels(n, 24, k)
        pi = (0.5 + torch.rand(n, k)) * torch.where(torch.arange(k) % 3 == 2, sign, 1)
        y = (pi[:, None] * (sums + shift[winners][:, None])).relu().flatten()
        expected = torch.cat([y, torch.full((512,), UNTOUCHED)])
        arguments = sums, shift, winners, pi
        yield Case(arguments, expected, hint, more, ask=finished, axes=("place from y",))
    images = load_data("digits")[1].tensors[0][some]
    yield Case((images,), read_digits(None, images), hint, more, ask=read_digits, axes=("digit",))


ADD, GATE, RELU = "total += b", "total *= g", "total = tl.where(total > 0.0, total, 0.0)"
check_finish_kernel = Exercise(
    "finish_kernel(sums, shift, winners, pi, y, pixels, k_out, BLOCK_M, BLOCK_N): fills y "
    "[N, pixels, k_out] with relu(pi * (sums + shift))",
    _ends,
    "shift, gate and ReLU are right. At the end of all 4 layers of the digits network, your "
    "kernel has read 20 digits, each as the network reads it.",
    tuple(
        Mistake(kernel_with(FINISH, "; ".join(steps)), says)
        for steps, says in [
            ((GATE, ADD, RELU), "the shift comes after the gate; it belongs before it"),
            ((RELU, ADD, GATE), "the ReLU comes before the shift; it is the last step"),
            (
                (ADD, RELU, GATE),
                "the ReLU comes before the gate. Where no gate is negative, as in FBS, that is the "
                "same; one input here has negative gates, and the formula puts the ReLU last",
            ),
            ((ADD, GATE), "the ReLU is missing"),
            ((ADD, RELU), "the gate is missing"),
            ((GATE, RELU), "the shift is missing"),
            (
                ("total += tl.load(shift + j, mask=j < k_out, other=0.0)[None, :]", GATE, RELU),
                "the shift is that of channel j; the j-th winner's lies at shift + out",
            ),
            (
                (ADD, "total *= tl.load(pi + j, mask=j < k_out, other=0.0)[None, :]", RELU),
                "all images get the gates of the first; those of image n begin at pi + n * k_out",
            ),
        ]
    ),
)


def tile_layers(images: int, sizes: Sequence[tuple[int, int]]) -> list[Layer]:
    """3×3 layers at d = 0.5 of ``(winners, side of the maps)``."""
    return [Layer(images, k, k, 2 * k, 2 * k, 9, side * side, side * side) for k, side in sizes]


TILE_LAYERS = tile_layers(64, ((32, 56), (64, 28), (128, 14), (256, 7)))
NEAR = "at most 5 % slower than the best"


def tile_time(layer: Layer, tile: tuple[int, int]) -> float:
    """Microseconds of an H100, by the package's model, in tiles of ``(pixels, outputs)``, TF32.

    Raises:
        ValueError: the tile is none that Triton and the registers take.
    """
    sizes = (16, 32, 64, 128)
    if not (isinstance(tile, tuple) and len(tile) == 2 and set(tile) <= set(sizes)):
        raise ValueError(f"a tile is two numbers out of {sizes}, got {tile!r}")
    usual = choose_tile(layer.images, layer.pixels, layer.k_out, layer.k_in, "tf32")
    return convolution_time(layer, Tile(*tile, *usual[2:]), "tf32")


def best_tile(layer: Layer) -> tuple[int, int]:
    """The fastest in the model."""
    tiles = product((16, 32, 64, 128), repeat=2)
    return min(tiles, key=lambda tile: tile_time(layer, tile))


def judged(function: Callable, layer: Layer) -> str:
    """How much slower than the best tile the reader's is."""
    slower = tile_time(layer, function(layer)) / tile_time(layer, best_tile(layer)) - 1
    return NEAR if slower <= 0.05 else f"{100 * slower:.0f} % slower than the best"


def _tiles(layers: Sequence[Layer] = TILE_LAYERS) -> Iterator[Case]:
    for layer in layers:
        hint = f"how many of the places of your tiles are empty: {layer.pixels} pixels, "
        hint += f"{layer.k_out} winners?"
        more = (
            "large tiles read less, and small ones leave less empty: try all sixteen in tile_time"
        )
        yield Case((layer,), NEAR, hint, more, ask=judged)


check_tile = Exercise(
    "my_tile(layer): (pixels, outputs) of a tile, each 16, 32, 64 or 128, for `convolve`",
    _tiles,
    "all four layers are within 5 % of the best tile in the model.",
    (
        Mistake(lambda layer: (16, 16), "the smallest tile is taken, which reads the most"),
        Mistake(lambda layer: (128, 16), "tiles are narrow: the maps are read again and again"),
        Mistake(lambda layer: (16, 128), "tiles are flat: the weights are read again and again"),
        Mistake(lambda layer: (32, 32), "one small tile is taken for all layers"),
    ),
)


def rounded(kernel: Callable, x: Tensor) -> Tensor:
    """Run a ``round_kernel`` in programs of 32 numbers."""
    y = guarded(torch.full_like(x, UNTOUCHED), UNTOUCHED)
    launch(kernel, (-(-len(x) // 32),), guarded(x), y, len(x), BLOCK=32)
    return written(y)


def _roundings() -> Iterator[Case]:
    hint = "is 1 + 0.6 / 1024 nearer to 1 or to 1 + 1 / 1024, and what does cutting off make of it?"
    more = "add half of the last digit that stays, 4096, then clear 13 bits: & -8192"
    steps = torch.arange(20)
    for x in (
        1 + (steps + 0.6) / 1024,
        -1 - (steps + 0.3) / 1024,
        torch.cat([1 + (steps + 0.5) / 1024, -2 - (steps + 0.5) / 512, torch.randn(33)]),
    ):
        bits = (x.view(torch.int32) + 4096) & -8192
        expected = torch.cat([bits.view(torch.float32), torch.full((512,), UNTOUCHED)])
        yield Case((x,), expected, hint, more, ask=rounded, axes=("number",))


check_round_kernel = Exercise(
    "round_kernel(x, y, size, BLOCK): y is x rounded to the nearest of TF32, ties away from 0",
    _roundings,
    "10 bits after the point stay, and all numbers are rounded to the nearest.",
    tuple(
        Mistake(kernel_with(ROUND, f"bits = {bits}"), says)
        for bits, says in [
            ("bits & -8192", "the lower bits are cut off, as a tensor core does it"),
            ("(bits + 8192) & -8192", "a whole step is added before the lower bits are cleared"),
            ("(bits + 4095) & -8192", "ties go towards 0: half a step is 4096"),
            ("(bits + 4096) & -4096", "12 bits are cleared, but TF32 has no place for 13"),
            ("(bits + 4096) >> 13", "the bits are moved down and never back up"),
            ("bits + 4096", "half a step is added, and nothing is cleared"),
        ]
    ),
)
