"""The exercises of notebook 08, Skipping for real, on a CPU."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..compiled import in_planes
from .engine import Case, Exercise, Mistake


def _pairs() -> Iterator[Case]:
    axes = ("image", "winner", "live input")
    row = "which number has a pair in memory? Which axes has the result?"
    table = "each output has C_in kernels: number o * C_in + i; the result is [N, k, i]"
    each = "every image has its own winners and live inputs"
    own = f"{each}; the result is [N, k, i]"
    for n, k, i, channels, hint, more in [
        (1, 2, 3, 5, row, table),
        (3, 4, 2, 7, each, own),
        (4, 4, 4, 9, each, own),
    ]:
        winners, live = (
            torch.rand(n, channels).argsort(dim=1)[:, :size].sort(dim=1).values for size in (k, i)
        )
        expected = winners[:, :, None] * channels + live[:, None, :]
        yield Case((winners, live, channels), expected, hint, more, axes=axes)


check_pair_index = Exercise(
    "pair_index(winners, live, in_channels): [N, k] and [N, i] -> numbers of kernels, [N, k, i]",
    _pairs,
    "every pair has its number, for 1, 3 and 4 images.",
    (
        Mistake(
            lambda o, i, c: o[:, :, None] + i[:, None] * c,
            "you exchange the two: each output has C_in kernels, one after the other",
        ),
        Mistake(
            lambda o, i, c: (o[:, :, None] * c + i[:, None]).transpose(1, 2),
            "live inputs and winners have changed places in the result",
        ),
        Mistake(
            lambda o, i, c: (o[0, :, None] * c + i[0])[None].expand(len(o), -1, -1),
            "you use the first image's lists for all images",
        ),
        Mistake(lambda o, i, c: (o[0, :, None] * c + i[0])[None], "you answer for one image only"),
        Mistake(
            lambda o, i, c: o[:, :, None] * i.shape[1] + i[:, None],
            "you count the live inputs, but in memory an output has kernels for all inputs",
        ),
        Mistake(
            lambda o, i, c: o[:, :, None] * float(c) + i[:, None],
            "the numbers are right, but they are no integers",
        ),
        Mistake(lambda o, i, c: o[:, :, None] + i[:, None], "you do not multiply by C_in"),
        Mistake(
            lambda o, i, c: o[:, None] * c + i,
            "you meet the winners and the live inputs one by one, not each with each",
        ),
    ),
)


class _Convolutions(TorchDispatchMode):
    """Counts the convolutions that PyTorch runs inside the ``with``."""

    calls = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.calls += operator is torch.ops.aten.convolution.default
        return operator(*arguments, **(keywords or {}))


def _calls(function: Callable, x: Tensor, kernels: Tensor) -> int:
    with _Convolutions() as counter:
        function(x, kernels)
    return counter.calls


def _batches() -> Iterator[Case]:
    one = "which size has the result of one image?"
    padded = "a 3x3 convolution with padding 1, so that the maps keep their size"
    own = "whose kernels does an image meet?"
    fold = "image n with kernels n: fold the images into the channels, and give each its group"
    calls = "how many convolutions ran for this batch?"
    all_in_one = "one call for the batch, not one each: groups=N"
    for n, k, i, hint, more in [(1, 2, 3, one, padded), (2, 3, 3, own, fold), (4, 5, 2, own, fold)]:
        x, kernels = _whole_numbers(n, k, i)
        each = [F.conv2d(x[[m]], kernels[m], padding=1) for m in range(n)]
        yield Case((x, kernels), torch.cat(each), hint, more)
    many = _whole_numbers(5, 2, 2)
    yield Case(many, 1, calls, all_in_one, ask=_calls, unit=" convolution")


def _whole_numbers(n: int, k: int, i: int) -> tuple[Tensor, Tensor]:
    """Maps and kernels whose sums are exact."""
    sizes = [(n, i, 4, 6), (n, k, i, 3, 3)]
    return tuple(torch.randint(-3, 4, size).float() for size in sizes)


def _grouped(x: Tensor, kernels: Tensor, padding: int = 1, interleaved: str = "") -> Tensor:
    """The right answer; or with the images of one of the three tensors interleaved."""
    n, _, height, width = x.shape
    x = x.transpose(0, 1) if interleaved == "x" else x
    kernels = kernels.transpose(0, 1) if interleaved == "kernels" else kernels
    one = x.reshape(1, -1, height, width)
    y = F.conv2d(one, kernels.flatten(0, 1), padding=padding, groups=n)
    if interleaved == "y":
        return y.view(-1, n, *y.shape[2:]).transpose(0, 1)
    return y.view(n, -1, *y.shape[2:])


check_batch_as_groups = Exercise(
    "batch_as_groups(x, kernels): [N, i, H, W] and [N, k, i, 3, 3] -> [N, k, H, W]",
    _batches,
    "each image has its own kernels, all in one call.",
    (
        Mistake(
            lambda x, w: torch.cat([F.conv2d(x[[n]], w[n], padding=1) for n in range(len(x))]),
            "you loop over the images: right, and one call each",
        ),
        Mistake(
            lambda x, w: F.conv2d(x, w[0], padding=1), "you use the first image's kernels for all"
        ),
        Mistake(lambda x, w: _grouped(x, w, 0), "you leave the padding out"),
        Mistake(lambda x, w: F.conv2d(x, w[0]), "you leave the padding out, and the other kernels"),
        Mistake(
            partial(_grouped, interleaved="x"),
            "the images are interleaved in x: a group needs the channels of one image together",
        ),
        Mistake(
            partial(_grouped, interleaved="kernels"),
            "the images are interleaved in the kernels: a group needs those of one image together",
        ),
        Mistake(
            partial(_grouped, interleaved="y"),
            "the images are interleaved in the result: the first k maps are those of image 0",
        ),
        Mistake(
            lambda x, w: _grouped(x, w).view(1, -1, *x.shape[2:]),
            "you leave all images in one: the result is [N, k, H, W]",
        ),
    ),
)


class _Clock:
    """How long a layer takes at a density, as a share of dense; it counts how often it is asked."""

    def __init__(self, name: str, fixed: float, growing: float, power: float = 2.0):
        self.name, self.fixed, self.growing, self.power = name, fixed, growing, power
        self.asked = 0

    def __call__(self, density: float) -> float:
        if not 0 < density <= 1:
            raise ValueError(f"a density lies above 0 and up to 1, and you ask for {density:.3g}")
        self.asked += 1
        shaken = 0.004 * math.sin(1000 * density)  # no clock is perfectly still
        return self.fixed + self.growing * density**self.power + shaken

    def __repr__(self) -> str:
        return self.name

    @property
    def even(self) -> float:
        """The density at which the clock would show 1, were it still."""
        square = max(0.0, (1 - self.fixed) / self.growing)
        return min(1.0, square ** (1 / self.power))


CALLS = 8  # measurements that a search may take


def _search(function: Callable, clock: _Clock) -> str | None:
    clock.asked = 0
    found = function(clock)
    if found is None:
        return None
    found = float(found)
    if clock.asked > CALLS:
        right = "right" if abs(found - clock.even) <= 0.02 else "wrong"
        return f"{right}, but after {clock.asked} measurements"
    near = abs(found - clock.even) <= 0.02
    end = round(found) if abs(found - round(found)) < 0.07 else None
    return _wanted(clock) if near else f"{found:.2f}" if end is None else f"close to {end}"


def _wanted(clock: _Clock) -> str:
    return f"{clock.even:.2f}, give or take 0.02, in at most {CALLS} measurements"


CLOCKS = (  # a layer, its fixed time, the part that grows with the density, and as which power
    ("a layer on large maps", 0.08, 1.05),
    ("a layer on small maps", 0.5, 0.9),
    ("a layer whose time grows evenly", 0.3, 1.2, 1.0),
    ("a layer that never pays", 1.4, 0.5),
    ("a layer that always pays", 0.1, 0.7),
)


def _clocks(clocks: Sequence[tuple] = CLOCKS) -> Iterator[Case]:
    halve = "after one measurement in the middle, where can the break-even still be?"
    middle = "keep two ends, measure between them, and move the end that is on the same side"
    shape = "does your search assume how time grows with density?"
    never = "what if skipping is slower at every density, or never?"
    ends = "the answers are then 0 and 1: the ends that you began with are never moved"
    for clock in (_Clock(*parts) for parts in clocks):
        hint, more = (halve, middle) if 0 < clock.even < 1 else (never, ends)
        hint = shape if clock.power != 2 else hint
        yield Case((clock,), _wanted(clock), hint, more, ask=_search)


def _halving(rounds: int, upwards: bool = False) -> Callable[[Callable], float]:
    def search(share: Callable[[float], float]) -> float:
        low, high = 0.0, 1.0
        for _ in range(rounds):
            middle = (low + high) / 2
            if (share(middle) < 1) != upwards:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    return search


def _by_the_model(share: Callable[[float], float]) -> float:
    """From two measurements, as if the time were fixed + growing · d²."""
    low, high = share(0.1), share(1.0)
    growing = (high - low) / 0.99
    return min(1.0, max(0.0, (1 - low) / growing + 0.01)) ** 0.5


def _scan(steps: int) -> Callable[[Callable], float]:
    def search(share: Callable[[float], float]) -> float:
        densities = [n / steps for n in range(1, steps + 1)]
        return max((d for d in densities if share(d) < 1), default=0.0)

    return search


check_break_even = Exercise(
    f"break_even(share): the d at which share(d) is 1, in at most {CALLS} calls of share",
    _clocks,
    "right for five layers, never and always included. Now ask your own computer.",
    (
        Mistake(_scan(100), "you try every density in turn: right, and far too many measurements"),
        Mistake(_scan(20), "you try every density in turn: too many measurements, and too coarse"),
        Mistake(_scan(8), "you take the best of a few fixed densities: they are too far apart"),
        Mistake(_halving(7, upwards=True), "you keep the wrong half after each measurement"),
        Mistake(_halving(3), "you stop too early: three halvings leave an eighth of the range"),
        Mistake(_halving(20), "you halve long after the clock's own noise is larger"),
        Mistake(
            _by_the_model, "you trust fixed + growing · d² and solve it; a clock need not follow it"
        ),
        Mistake(
            lambda share: share(_halving(7)(share)), "you return the share there, not the density"
        ),
    ),
)


GARBAGE = (999.0, math.inf)  # in planes that nobody wrote; 0 · inf is no number
AXES = ("winner", "row", "column")


def _from_planes(
    planes: Tensor,
    weight: Tensor,
    live: Tensor,
    winners: Tensor,
    height: int,
    width: int,
    *,
    pitch: int = 0,
    crop: bool = True,
    tap: Callable[[int, int], tuple[int, int]] = lambda a, b: (a, b),
    swap: bool = False,
    column: int | None = None,
    every: bool = False,
) -> Tensor:
    """The right answer, and with other arguments some that are not."""
    row = width + 1
    pitch = pitch or row
    sums = torch.zeros(len(winners), height * row)
    for i in range(len(planes)) if every else live.tolist():
        for a in range(3):
            for b in range(3):
                start, (c, d) = a * pitch + b, tap(a, b)
                j = i if column is None else column
                w = weight[j, winners, c, d] if swap else weight[winners, j, c, d]
                w = w * float(i in live) if every else w
                sums += w[:, None] * planes[i, start : start + height * row]
    maps = sums.view(-1, height, row)
    return maps[:, :, :width] if crop else maps


class ConvolutionError(Exception):
    """A convolution of PyTorch was called where the exercise is to do without."""


class GatherError(Exception):
    """Kernels or maps were copied by a list where the exercise is to read them in place."""


class SliceError(Exception):
    """A slice of a plane is shorter or longer than the sums it is added to."""


UNEQUAL = (
    "a slice is not as long as the sums: between two rows of a plane lies one zero, not two, so "
    "a row has width + 1 numbers, and a slice height * (width + 1)"
)


class _Copies(TorchDispatchMode):
    """Finds kernels and planes that are copied inside the ``with``."""

    OPERATORS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default)

    def __init__(self, planes: Tensor, weight: Tensor, winners: Tensor):
        super().__init__()
        self.found, self.planes, self.allowed = "", planes, len(winners) * weight[0, 0].numel()
        self.given = {_place(planes), _place(weight)}

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        out = operator(*arguments, **(keywords or {}))
        if operator in self.OPERATORS:
            if _place(arguments[0]) == _place(self.planes):
                self.found = "this copies maps: a slice of planes[i] is a view, planes[live] is not"
            elif out.numel() > self.allowed:
                self.found = "this gathers kernels: read the weights of one live input at a time"
        elif self._as_large_as_all_planes(out):
            self.found = "this copies maps, or stacks slices: add up one slice at a time"
        return out

    def _as_large_as_all_planes(self, out: object) -> bool:
        new = isinstance(out, Tensor) and _place(out) not in self.given
        return new and out.is_floating_point() and out.numel() >= self.planes.numel()


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins, also that of what it is a view of."""
    return tensor.untyped_storage().data_ptr()


def _in_place_of_a_gather(
    function: Callable, planes: Tensor, weight: Tensor, live: Tensor, winners: Tensor, *size: int
) -> Tensor:
    with _Convolutions() as counter, _Copies(planes, weight, winners) as copies:
        try:
            maps = function(planes, weight, live, winners, *size)
        except RuntimeError as error:
            if "must match the size" not in str(error):
                raise
            raise SliceError(UNEQUAL) from error
    if counter.calls:
        raise ConvolutionError("this calls a convolution; slices and sums are enough")
    if copies.found:
        raise GatherError(copies.found)
    return maps


def _gathering(
    planes: Tensor, weight: Tensor, live: Tensor, winners: Tensor, height: int, width: int
) -> Tensor:
    """Right numbers, from kernels that are copied side by side."""
    small, every = weight[winners][:, live], torch.arange(len(winners))
    sums = torch.zeros(len(winners), height, width)
    for place, i in enumerate(live.tolist()):
        sums += _from_planes(planes, small, torch.tensor([i]), every, height, width, column=place)
    return sums


def _planes() -> Iterator[Case]:
    one = "one input, one winner: which numbers of the plane meet the first tap?"
    slices = "tap (a, b) is planes[i, start : start + height * (width + 1)]; what is start?"
    lists = "which planes may be read, and which rows of the weight count?"
    empty = "planes of inputs that are not live were never written: they hold garbage"
    wide = "rows have width + 1 numbers in the plane, and width in the result"
    crop = "view the sums as [k, height, width + 1] and leave the last column out"
    for c_out, c_in, live, winners, size, hint, more in [
        (1, 1, [0], [0], (3, 3), one, slices),
        (4, 4, [1, 2], [0, 3], (3, 4), lists, empty),
        (5, 5, [0, 2, 3], [1, 2, 4], (4, 2), wide, crop),
    ]:
        live, winners = torch.tensor(live), torch.tensor(winners)
        x = torch.randint(-3, 4, (c_in, *size)).float()
        weight = torch.randint(-3, 4, (c_out, c_in, 3, 3)).float()
        expected = F.conv2d(x[None, live], weight[winners][:, live], padding=1)[0]
        planes = torch.full_like(full := in_planes(x), GARBAGE[c_in > 4])
        planes[live] = full[live]
        arguments = (planes, weight, live, winners, *size)
        yield Case(arguments, expected, hint, more, ask=_in_place_of_a_gather, axes=AXES)


def _cleaned(
    planes: Tensor, weight: Tensor, live: Tensor, winners: Tensor, height: int, width: int
) -> Tensor:
    """Right numbers, from live planes that are copied among zeros, and all of which are read."""
    clean = torch.zeros_like(planes)
    for i in live.tolist():
        clean[i] = planes[i]
    return _from_planes(clean, weight, torch.arange(len(clean)), winners, height, width)


check_from_planes = Exercise(
    "from_planes(planes, weight, live, winners, height, width): a 3x3 convolution -> [k, H, W]",
    _planes,
    "no kernel was gathered, no map was copied, no convolution was called.",
    (
        Mistake(_gathering, "you gather: kernels or maps are copied by a list before use"),
        Mistake(
            _cleaned,
            "you make new planes, and read them all, instead of the live ones where they lie",
        ),
        Mistake(
            partial(_from_planes, every=True),
            "you read planes that are not live and multiply them by 0; what lies there may be inf",
        ),
        Mistake(partial(_from_planes, crop=False), "you leave the border in: crop every row"),
        Mistake(
            partial(_from_planes, tap=lambda a, b: (b, a)),
            "you exchange the kernel's rows and columns",
        ),
        Mistake(
            partial(_from_planes, tap=lambda a, b: (2 - a, 2 - b)),
            "you turn the kernel round; PyTorch's convolution does not",
        ),
        Mistake(
            lambda p, w, live, win, h, c: _from_planes(p, w, live, win, h, c, pitch=c),
            "you step by width from row to row, but a row of the plane has width + 1 numbers",
        ),
        Mistake(
            lambda p, w, live, win, h, c: _from_planes(
                p, w, live, win, h, c + 1, pitch=c + 2, crop=False
            ),
            "you count two zeros between rows: a row of the plane has width + 1 numbers",
        ),
        Mistake(partial(_from_planes, swap=True), "you exchange inputs and outputs in the weight"),
        Mistake(
            lambda p, w, live, win, h, c: _from_planes(p, w, torch.arange(len(p)), win, h, c),
            "you read all planes, also those of inputs that are not live",
        ),
        Mistake(
            lambda p, w, live, win, h, c: _from_planes(p, w, live, torch.arange(len(w)), h, c),
            "you compute all outputs, not the winners alone",
        ),
        Mistake(
            lambda p, w, live, win, h, c: _from_planes(p, w, torch.arange(len(live)), win, h, c),
            "you count the live inputs from 0, and read other planes than those in the list",
        ),
    ),
)


LAYERS = (  # winners, vectors of pixels, registers
    (12, 4, 16),
    (8, 1, 16),
    (2, 20, 16),
    (96, 9, 16),
    (96, 9, 32),
    (7, 5, 32),
)
Tile = tuple[int, int]  # J winners and P vectors of pixels


def registers_of(tile: Tile) -> int:
    """For the sums, for pixels, and one for a weight."""
    return tile[0] * tile[1] + tile[1] + 1


def loads_of(tile: Tile, winners: int, vectors: int) -> int:
    """Weights and vectors that all passes load, for one live input and one tap."""
    return math.ceil(winners / tile[0]) * math.ceil(vectors / tile[1]) * sum(tile)


def tile_of_fewest_loads(
    winners: int,
    vectors: int,
    registers: int,
    *,
    loads: Callable[[Tile, int, int], float] = loads_of,
    needs: Callable[[Tile], int] = registers_of,
) -> Tile:
    """The right answer, and with other arguments some that are not."""
    tiles = ((j, p) for j in range(1, winners + 1) for p in range(1, vectors + 1))
    fitting = (tile for tile in tiles if needs(tile) <= registers)
    return min(fitting, key=lambda tile: (loads(tile, winners, vectors), needs(tile)))


def _tile_of(function: Callable, *sizes: int) -> str | None:
    """What the reader's answer is, in words."""
    found = function(*sizes)
    if found is None:
        return None
    if not isinstance(found, tuple | list) or len(found) != 2:
        return f"{found!r}, which is no pair (J, P)"
    return _in_words(tuple(int(number) for number in found), *sizes)


def _in_words(tile: Tile, winners: int, vectors: int, registers: int) -> str:
    if min(tile) < 1:
        return f"J = {tile[0]}, P = {tile[1]}, which computes nothing"
    needs, loads = registers_of(tile), loads_of(tile, winners, vectors)
    return f"J = {tile[0]}, P = {tile[1]}: {loads:,} loads and {needs} registers"


def _best_tiles(layers: Sequence[tuple[int, int, int]] = LAYERS) -> Iterator[Case]:
    hint = "how many tiles cover all winners and vectors, and what does each of them load?"
    more = (
        "of all tiles with J * P + P + 1 <= registers, the one with the least "
        "ceil(winners / J) * ceil(vectors / P) * (J + P); of equals, the one of fewer registers"
    )
    for sizes in layers:
        expected = _in_words(tile_of_fewest_loads(*sizes), *sizes)
        yield Case(sizes, expected, hint, more, ask=_tile_of)


def _predicted() -> str:
    tiles = [
        f"{j} × {p} with {registers} registers"
        for registers in (16, 32)
        for j, p in [tile_of_fewest_loads(96, 9, registers)]
    ]
    return " and ".join(tiles)


check_best_tile = Exercise(
    "best_tile(winners, vectors, registers): the tile (J, P) that fits and loads least",
    _best_tiles,
    f"six layers. For 192@8 at d = 0.5 you predict {_predicted()}. Now ask the clock.",
    (
        Mistake(
            partial(tile_of_fewest_loads, needs=lambda tile: tile[0] * tile[1]),
            "you keep registers for the sums alone; pixels need P, and a weight one more",
        ),
        Mistake(
            partial(tile_of_fewest_loads, needs=lambda tile: tile[0] * tile[1] + tile[0] + 1),
            "you keep J registers for pixels; there are P vectors of them",
        ),
        Mistake(
            partial(
                tile_of_fewest_loads,
                loads=lambda tile, winners, vectors: (
                    winners / tile[0] * (vectors / tile[1]) * sum(tile)
                ),
            ),
            "you divide without rounding up: the last tile is computed whole, or not at all",
        ),
        Mistake(
            partial(
                tile_of_fewest_loads,
                loads=lambda tile, winners, vectors: (
                    math.ceil(winners / tile[0]) * math.ceil(vectors / tile[1])
                ),
            ),
            "you count the tiles; each of them loads J weights and P vectors",
        ),
        Mistake(
            partial(tile_of_fewest_loads, loads=lambda tile, winners, vectors: sum(tile)),
            "you count the loads of one tile; a small tile needs many passes",
        ),
        Mistake(
            partial(tile_of_fewest_loads, loads=lambda tile, *sizes: -tile[0] * tile[1]),
            "you take the tile with the most sums; what does it load?",
        ),
        Mistake(
            lambda *sizes: tile_of_fewest_loads(*sizes)[::-1],
            "J and P have changed places: winners come first",
        ),
    ),
)
