"""The exercises of notebook 09, Skipping on a GPU.

Kernels run in Triton's interpreter, on a CPU. Their tensors lie between guards, so that a number
written outside of a tensor does no harm and shows. A number read there is an error, also where the
mask of a store drops it later. Typical mistakes are kernels, too.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from ...bench.stored import stored
from ...checkpoints import load_pretrained
from ...data import load_data
from ...execution.roofline import Layer
from ...method.gated import GatedConv2d
from ...method.wta import winner_mask
from .engine import Case, Exercise, Experiment, MissingError, Mistake

try:
    import triton.language as tl
    from triton.runtime import interpreter
except ImportError:  # there are no wheels for macOS and Windows
    tl = interpreter = None

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


def _sectors(
    winners: Tensor,
    k_in: int,
    tiles: int,
    *,
    taps: int = 9,
    written: int = 1,
    read: int = 1,
    anew: bool = True,
    touched: Callable[[Tensor], int] = lambda winners: len((winners // NUMBERS).unique()),
    rows: Callable[[int], int] = lambda k: -(-k // NUMBERS),
) -> tuple[int, int]:
    """The right answer, and with other arguments some that are not."""
    there, copy, all_rows = touched(winners), rows(len(winners)), taps * k_in
    looked_up = all_rows * there * (tiles if anew else 1)
    return looked_up, all_rows * (read * there + written * copy + (tiles if anew else 1) * copy)


NUMBERS = 8  # float32 numbers in a sector of 32 bytes


def _two_numbers(function: Callable, *arguments: object) -> list[int] | None:
    found = function(*arguments)
    return None if found is None else [int(number) for number in found]


def _traffic() -> Iterator[Case]:
    hint = "which sectors of a row hold a winner, and how often is each read or written?"
    more = "len((winners // 8).unique()) sectors of a row have winners; a row of the copy has "
    more += "ceil(k_out / 8), which are written once and read once per tile"
    for channels, k_out, k_in, tiles in [(16, 2, 1, 1), (64, 20, 5, 1), (128, 37, 9, 7)]:
        winners = torch.rand(channels).argsort()[:k_out].sort().values
        expected = list(_sectors(winners, k_in, tiles))
        yield Case((winners, k_in, tiles), expected, hint, more, ask=_two_numbers)


def _enough_tiles() -> int:
    """From how many tiles on copying moves fewer, where every sector of 128 numbers has winners."""
    winners = torch.arange(0, 128, 2)
    ways = (_sectors(winners, 1, tiles) for tiles in range(1, 100))
    return next(i for i, (looked_up, copied) in enumerate(ways, 1) if copied < looked_up)


check_sectors_moved = Exercise(
    "sectors_moved(winners, k_in, tiles): (looked up, copied first), sectors of 32 bytes per image",
    _traffic,
    "where every sector has winners, half of the row's numbers, copying first moves fewer from "
    f"{_enough_tiles()} tiles on.",
    (
        Mistake(
            partial(_sectors, touched=lambda winners: -(-len(winners) // NUMBERS)),
            "you count the winners in eights, as if side by side; which sectors hold them?",
        ),
        Mistake(
            partial(_sectors, touched=len),
            "you count one sector for each winner; winners in one sector share it",
        ),
        Mistake(
            partial(_sectors, rows=lambda k: k),
            "the copy's rows are counted in numbers; eight of them fill a sector",
        ),
        Mistake(
            partial(_sectors, rows=lambda k: k // NUMBERS),
            "the copy's last sector is dropped where it is not full",
        ),
        Mistake(partial(_sectors, written=0), "the copy has to be written, too"),
        Mistake(partial(_sectors, read=0), "what is copied has to be read first"),
        Mistake(
            partial(_sectors, written=0, read=0),
            "the copy is not free: it is read and written once",
        ),
        Mistake(partial(_sectors, taps=1), "you count one tap; there are nine"),
        Mistake(partial(_sectors, anew=False), "every tile reads the weights anew"),
        Mistake(
            lambda winners, k_in, tiles: _sectors(winners, k_in, tiles)[::-1],
            "the two numbers have changed places",
        ),
    ),
)


GATHER = """
def gather_kernel(
    weight, channels, winners, own, k_in, k_out, width, in_channels, out_channels,
    BLOCK_I: "constexpr", BLOCK_J: "constexpr",
):
    n, tap = tl.program_id(0), tl.program_id(1)
    i, j = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_J)
    row = tl.load(channels + n * k_in + i, mask=i < k_in, other=0)
    out = tl.load(winners + n * k_out + j, mask=j < k_out, other=0)
    PLACES
    w = tl.load(weight + where, mask=read, other=0.0)
    tl.store(own + place, w, mask=write)
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
    exec(re.sub("^    (PLACES|TOTAL|BITS)$", f"    {line}", source, flags=re.M), names)
    return next(thing for name, thing in names.items() if name.endswith("_kernel"))


def launch(kernel: Callable, grid: tuple[int, ...], *arguments: object, **sizes: int) -> None:
    """Run a kernel in the interpreter, whether or not it is already one of Triton's.

    Raises:
        MissingError: there is no Triton here.
        IndexError: it reads outside of its tensors, or writes further away than their guards.
    """
    if interpreter is None:
        raise MissingError(
            "there is no Triton here (its packages are for Linux), so nothing was run"
        )
    function = interpreter.InterpretedFunction(getattr(kernel, "fn", kernel))
    try:
        with watched([x for x in arguments if isinstance(x, Tensor)]):
            function[grid](*arguments, **sizes)
    except Exception as error:
        raise error.__cause__ or error from None


class _Memory:
    """The interpreter's memory, in which only some tensors may be read, and written with guards."""

    def __init__(self, memory: object, tensors: Sequence[Tensor]):
        self.memory = memory
        self.readable = [_span(x) for x in tensors]
        self.writable = [_span(x if x._base is None else x._base) for x in tensors]

    def __getattr__(self, name: str) -> object:
        return getattr(self.memory, name)

    def load(self, places: np.ndarray, mask: np.ndarray, *rest: object) -> np.ndarray:
        outside = _outside(places, mask, self.readable)
        if outside:
            raise IndexError(
                f"a load reads {outside} numbers that lie outside of the tensors, where a GPU may "
                "stop the program or hand over anything; either its addresses are too large, or "
                "its mask lets too much through"
            )
        return self.memory.load(places, mask, *rest)

    def store(self, places: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        outside = _outside(places, mask, self.writable)
        if outside:
            raise IndexError(f"a store writes {outside} numbers far outside of the tensors")
        return self.memory.store(places, values, mask)


def _span(x: Tensor) -> tuple[int, int]:
    """The first address of a tensor and the one after its end."""
    return x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()


def _outside(places: np.ndarray, mask: np.ndarray, spans: Sequence[tuple[int, int]]) -> int:
    """How many places that the mask lets through lie in none of the spans."""
    inside = np.zeros(places.shape, dtype=bool)
    for begin, end in spans:
        inside |= (places >= begin) & (places < end)
    return int((mask.astype(bool) & ~inside).sum())


@contextmanager
def watched(tensors: Sequence[Tensor]) -> Iterator[None]:
    """What Triton's interpreter reads and writes meanwhile must lie in these tensors."""
    memory = interpreter._interpreter
    interpreter._interpreter = _Memory(memory, tensors)
    try:
        yield
    finally:
        interpreter._interpreter = memory


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
    own = guarded(torch.full((n, taps, k_in, filled(k_out)), UNTOUCHED), UNTOUCHED)
    inputs = [guarded(x) for x in (weight, channels, winners)]
    sizes = k_in, k_out, filled(k_out), *weight.shape[1:]
    launch(kernel, (n, taps), *inputs, own, *sizes, BLOCK_I=blocks[0], BLOCK_J=blocks[1])
    return written(own)


def filled(k: int) -> int:
    """The next multiple of 4: as many float32 numbers are 16 bytes."""
    return -(-k // 4) * 4


def some_channels(images: int, total: int, k: int) -> Tensor:
    """``[images, k]``: different channels out of ``total``, in ascending order."""
    return torch.rand(images, total).argsort(1)[:, :k].sort(1).values


def _gathers() -> Iterator[Case]:
    hint = f"which places of own exist, and in which of them is a weight? {UNTOUCHED:g} marks an "
    hint += "untouched place"
    more = "read where i < k_in and j < k_out, write where i < k_in and j < width, and step by "
    more += "width from one row of own to the next"
    for n, k_in, k_out, *blocks in [(1, 5, 11, 16, 16), (1, 3, 6, 4, 16), (3, 5, 6, 8, 8)]:
        weight = 1 + torch.rand(9, 7, 13)
        channels, winners = some_channels(n, 7, k_in), some_channels(n, 13, k_out)
        own = torch.zeros(n, 9, k_in, filled(k_out))
        own[..., :k_out] = weight[:, channels[:, :, None], winners[:, None, :]].transpose(0, 1)
        own = own[:, : 9 if n > 1 else 1].flatten()
        expected = torch.cat([own, torch.full((512,), UNTOUCHED)])
        arguments = (weight, channels, winners, *blocks)
        yield Case(arguments, expected, hint, more, ask=gather, axes=("place from own",))


WHERE = "((tap * in_channels + row) * out_channels)[:, None] + out[None, :]"
READ = "(i < k_in)[:, None] & (j < k_out)[None, :]"
PLACE = "((n * 9 + tap) * k_in + i)[:, None] * width + j[None, :]"
WRITE = "(i < k_in)[:, None] & (j < width)[None, :]"


def places(where: str = WHERE, read: str = READ, place: str = PLACE, write: str = WRITE) -> str:
    """The four lines of exercise 3, one of them wrong perhaps."""
    return f"where = {where}; read = {read}; place = {place}; write = {write}"


check_gather_kernel = Exercise(
    "gather_kernel(weight, channels, winners, own, k_in, k_out, width, …, BLOCK_I, BLOCK_J): fills "
    "own [N, 9, k_in, width] with each image's weights, and the ends of rows with zeros",
    _gathers,
    "every image has its weights, rows end in zeros, and nothing else was written.",
    tuple(
        Mistake(kernel_with(GATHER, places(**wrong)), says)
        for wrong, says in [
            (
                {"write": READ},
                "you write only where there is a weight; rows of own have to end in zeros",
            ),
            (
                {"read": WRITE},
                "you read as much as you write; at the end of a row that is no winner's weight",
            ),
            (
                {"place": PLACE.replace("width", "k_out")},
                "rows of own lie k_out apart; each is width numbers long",
            ),
            (
                {"place": PLACE.replace("width", "k_out"), "write": READ},
                "rows of own lie k_out apart, and no zeros fill them; each is width numbers long",
            ),
            (
                {"place": "((n * 9 + tap) * k_in * width + i * k_out)[:, None] + j[None, :]"},
                "rows of own lie k_out apart, and taps as they should; each row is width long",
            ),
            (
                {
                    "place": "((n * 9 + tap) * k_in * width + i * k_out)[:, None] + j[None, :]",
                    "write": READ,
                },
                "rows of own lie k_out apart, and end without zeros; each row is width long",
            ),
            (
                {"where": WHERE.replace("tap *", "(n * 9 + tap) *")},
                "the image number is in where; but weight [9, C_in, C_out] is one for all images, "
                "and only its copies in own are numbered",
            ),
            (
                {"write": "(i >= 0)[:, None] & (j >= 0)[None, :]"},
                "there is no mask at the store: all of the block is written",
            ),
            (
                {"write": "(i < k_in)[:, None] & (j >= 0)[None, :]"},
                "columns from width on are written",
            ),
            (
                {"write": "(i >= 0)[:, None] & (j < width)[None, :]"},
                "rows from k_in on are written",
            ),
            (
                {"write": "(i <= k_in)[:, None] & (j <= width)[None, :]"},
                "<= lets one place too many through",
            ),
            (
                {"write": "(i < in_channels)[:, None] & (j < out_channels)[None, :]"},
                "the mask asks for C_in and C_out, but the lists are shorter",
            ),
            (
                {"where": "(row * out_channels)[:, None] + out[None, :]"},
                "every tap gets the weights of the first",
            ),
            (
                {"where": "((tap * in_channels + i) * out_channels)[:, None] + out[None, :]"},
                "the inputs 0, 1, 2 … are taken, and not those in the list",
            ),
            (
                {"where": WHERE.replace("out[None, :]", "j[None, :]")},
                "the outputs 0, 1, 2 … are taken, and not those in the list of winners",
            ),
            (
                {"where": "((tap * in_channels + row) * out_channels)[None, :] + out[:, None]"},
                "where has a row for each winner; a row of own belongs to a live input",
            ),
            (
                {"place": PLACE.replace("k_in", "in_channels")},
                "an image's part of own has k_in rows per tap, and not in_channels",
            ),
            (
                {"place": PLACE.replace("n * 9 + tap", "n + tap")},
                "one image further is 9 taps further in own",
            ),
            (
                {"place": "(tap * k_in + i)[:, None] * width + j[None, :]"},
                "all images write to the place of the first",
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


def _ends() -> Iterator[Case]:
    hint = "in which order, and where do the j-th winner's shift and image n's gates lie? No load "
    hint += "may go past the end of a tensor"
    more = "load shift + out and pi + n * k_out + j, each with mask=j < k_out and as a row "
    more += "[None, :]; add, multiply, ReLU"
    for n, pixels, k, sign in [(1, 20, 6, 1), (3, 40, 20, 1), (2, 16, 16, -1)]:
        sums, shift, winners = torch.randn(n, pixels, k), torch.randn(24), some_channels(n, 24, k)
        pi = (0.5 + torch.rand(n, k)) * torch.where(torch.arange(k) % 3 == 2, sign, 1)
        y = (pi[:, None] * (sums + shift[winners][:, None])).relu().flatten()
        expected = torch.cat([y, torch.full((512,), UNTOUCHED)])
        arguments = sums, shift, winners, pi
        yield Case(arguments, expected, hint, more, ask=finished, axes=("place from y",))
    images = load_data("digits")[1].tensors[0][:20]
    yield Case((images,), read_digits(None, images), hint, more, ask=read_digits, axes=("digit",))


def row_of(places: str, mask: str = ", mask=j < k_out, other=0.0") -> str:
    """A load of one number per winner, as a row of the tile."""
    return f"tl.load({places}{mask})[None, :]"


SHIFTS, GATES = row_of("shift + out"), row_of("pi + n * k_out + j")
ADD, GATE = f"total += {SHIFTS}", f"total *= {GATES}"
RELU = "total = tl.where(total > 0.0, total, 0.0)"
check_finish_kernel = Exercise(
    "finish_kernel(sums, shift, winners, pi, y, pixels, k_out, BLOCK_M, BLOCK_N): fills y "
    "[N, pixels, k_out] with relu(pi * (sums + shift))",
    _ends,
    "shift, gate and ReLU are right, and no load left its tensor. At the end of all 4 layers of "
    "the digits network, your kernel has read 20 digits, each as the network reads it.",
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
                (ADD, f"total *= {row_of('pi + n * k_out + j', '')}", RELU),
                "the gates are loaded without a mask: those of the last image end before the block "
                "does. That they are thrown away later does not make it right to read there",
            ),
            (
                (f"total += {row_of('shift + j')}", GATE, RELU),
                "the shift is that of channel j; the j-th winner's lies at shift + out",
            ),
            (
                (f"total += {row_of('shift + j', '')}", GATE, RELU),
                "the shift is that of channel j, and is loaded without a mask; the j-th winner's "
                "lies at shift + out",
            ),
            (
                (ADD, f"total *= {row_of('pi + n * k_out + out')}", RELU),
                "you look for the gate of channel out; but pi [N, k_out] has one for each winner, "
                "in the order of the list: the j-th is at pi + n * k_out + j",
            ),
            (
                (ADD, f"total *= {row_of('pi + out')}", RELU),
                "you look for the gate of channel out, and in the first image; but pi [N, k_out] "
                "has one for each winner, in the order of the list",
            ),
            (
                (ADD, f"total *= {row_of('pi + j')}", RELU),
                "all images get the gates of the first; those of image n begin at pi + n * k_out",
            ),
        ]
    ),
)


TILE_LAYERS = ((32, 256, 56), (32, 512, 28), (32, 512, 14), (64, 512, 7))
HELD_OUT = ((256, 192, 8), (64, 256, 14))  # that the picture does not show
TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (256, 64))  # pixels, outputs: all measured
NEAR = 1.1  # of the best measured


@cache
def tile_times(sizes: tuple = TILE_LAYERS) -> dict[Layer, dict[tuple[int, int], float]]:
    """Microseconds of ``convolve`` on an H100, for each layer and tile; TF32, d = 0.5.

    Args:
        sizes: of the layers: images, channels, side.
    """
    times = {}
    for row in stored("layers")["rows"]:
        size = row["images"], row["channels"], row["side"]
        if size in sizes and (row["products"], row["density"]) == ("tf32", 0.5):
            found = [(tuple(json.loads(name)[:2]), us) for name, us in row["convolve"].items()]
            lists, all_channels, pixels = [row["k"]] * 2, [row["channels"]] * 2, row["side"] ** 2
            layer = Layer(row["images"], *lists, *all_channels, 9, pixels, pixels)
            times[layer] = {tile: min(us for t, us in found if t == tile) for tile in TILES}
    return times


def best_tile(layer: Layer) -> tuple[int, int]:
    """The fastest that was measured."""
    return min(TILES, key=tile_times(TILE_LAYERS + HELD_OUT)[layer].get)


def _are_tiles(function: Callable, tiles: Sequence[tuple[int, int]]) -> str | None:
    """What the reader's answers are, in words."""
    for layer in tile_times():
        tile = function(layer)
        if tile is None:
            return None
        if not isinstance(tile, (tuple, list)) or tuple(tile) not in tiles:
            return f"{tile!r} for {layer.pixels} pixels and {layer.k_out} winners"
    return "tiles that were measured"


def _tiles() -> Iterator[Case]:
    hint = f"a tile is one of {', '.join(map(str, TILES))}"
    expected = "tiles that were measured"
    yield Case((TILES,), expected, hint, ask=_are_tiles)


def _how_near(function: Callable) -> tuple[bool, str]:
    """What each layer takes in the reader's tile, and in the best one; also layers unseen."""
    seen = [_beside_best(function, *each) for each in tile_times().items()]
    worst, said = max(slower for slower, _ in seen), "\n  ".join(line for _, line in seen)
    if worst > NEAR:
        slower = f"the worst is {100 * worst - 100:.1f} % slower than the best tile"
        return False, f"{slower}.\n  {said}"
    unseen = [_beside_best(function, *each) for each in tile_times(HELD_OUT).items()]
    holds = sum(slower <= NEAR for slower, _ in unseen)
    more = "\n  ".join(line for _, line in unseen)
    return True, (
        f"all four layers are within 10 % of the best tile measured.\n  {said}\n  "
        f"Of {len(unseen)} layers that the picture does not show, your rule holds on {holds}:\n"
        f"  {more}"
    )


def _beside_best(
    function: Callable, layer: Layer, times: dict[tuple[int, int], float]
) -> tuple[float, str]:
    """How many times as long as the best tile the reader's takes, and a line that says so."""
    name, best = f"pixels {layer.pixels}, k_out {layer.k_out}", min(times.values())
    try:
        tile = tuple(function(layer))
        took = times[tile]
    except Exception as error:  # whatever a rule does with a layer that it has not seen
        return math.inf, f"✘ {name}: no tile that was measured ({type(error).__name__})"
    slower = took / best
    return slower, (
        f"{'✔' if slower <= NEAR else '✘'} {name}: {tile[0]}×{tile[1]} takes {took:.1f} µs, the "
        f"best {best:.1f} µs, {100 * slower - 100:.1f} % more"
    )


check_tile = Experiment(
    "my_tile(layer): (pixels, outputs) of a tile for `convolve`",
    _tiles,
    "tiles.",
    (
        Mistake(lambda layer: (16, 16), "a tile is taken that was not measured, (16, 16)"),
        Mistake(lambda layer: 128, "one number is returned; a tile has two"),
        Mistake(
            lambda layer: (layer.k_out, layer.pixels), "the tile is the whole layer, not a part"
        ),
        Mistake(
            lambda layer: (64, layer.k_out), "a tile takes all winners, also where that is 256"
        ),
    ),
    judge=_how_near,
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
