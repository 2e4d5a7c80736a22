"""Skipping on a GPU, drawn: launches, taps, tiles, a kernel's addresses, what a map travels."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...execution.roofline import SHEETS
from ..plots.style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, PALE
from ..toy_gpu import ToyGpu
from . import draw

LIGHT = "#8FBFDC"
KERNELS = {"select": DARK_GREY, "gather": LIGHT, "convolve": BLUE}


def timeline(
    kernels: Sequence[tuple[str, float]], launch: float, title: str = "Launches and kernels"
) -> tuple[Figure, str]:
    """When a CPU launches kernels one by one, and when the GPU runs them; below, as one graph.

    Args:
        kernels: names and microseconds, in the order of their launch.
        launch: microseconds that the CPU takes for each.
    """
    gpu = ToyGpu(launch)
    for name, microseconds in kernels:
        gpu.launch(name, microseconds)
    graph, busy = launch, sum(microseconds for _, microseconds in kernels)
    unit, end = 80 / max(gpu.free, launch + busy), gpu.free
    figure, axes = draw.canvas(43)
    draw.title(axes, 2, 2.4, title)
    for y, words in (6, "CPU"), (12, "GPU"), (22, "CPU, a graph"), (28, "GPU"):
        draw.label(axes, 14, y + 1.8, words, ha="right", weight="bold")
    draw.frame(axes, 15, 22, launch * unit, 3.6, facecolor=GREY, edgecolor="white")
    for name, launched, begin, stop in gpu.log:
        left = 15 + (launched - launch) * unit
        draw.frame(axes, left, 6, launch * unit, 3.6, facecolor=GREY, edgecolor="white")
        _kernel(axes, 15 + begin * unit, 12, (stop - begin) * unit, name)
        _kernel(axes, 15 + graph * unit, 28, (stop - begin) * unit, name)
        graph += stop - begin
    for y, stop in (17.6, end), (33.6, graph):
        draw.note(axes, 15, y, "0")
        draw.note(axes, 15 + stop * unit, y, f"{stop:.0f} µs")
    for i, name in enumerate(("a launch", *dict.fromkeys(name for name, _ in kernels))):
        draw.frame(axes, 15 + 16 * i, 38.6, 2, 2, facecolor=KERNELS.get(name, GREY))
        draw.label(axes, 18 + 16 * i, 39.6, name, ha="left", fontsize=8)
    return figure, (
        f"One by one: {end:.0f} µs, of which the GPU works {busy:.0f} and waits {end - busy:.0f}. "
        f"As a graph: {graph:.0f} µs."
    )


def _kernel(axes: Axes, x: float, y: float, width: float, name: str) -> None:
    draw.frame(axes, x, y, width, 3.6, facecolor=KERNELS.get(name, ORANGE), edgecolor="white")
    if width > 0.85 * len(name):
        colour = BLACK if name == "gather" else "white"
        draw.label(axes, x + width / 2, y + 1.8, name, color=colour, fontsize=8)


def three_clocks(
    kernels: Sequence[tuple[str, float]], launch: float, waking: float
) -> tuple[Figure, str]:
    """One call: what the CPU's clock says at once and after waiting, and what two events say.

    Args:
        kernels: names and microseconds. launch: what the CPU takes for each.
        waking: from the end of the GPU's work until the CPU goes on.
    """
    gpu = ToyGpu(launch)
    for name, microseconds in kernels:
        gpu.launch(name, microseconds)
    seen = gpu.free + waking
    unit, left = 66 / seen, 24
    figure, axes = draw.canvas(31)
    draw.title(axes, 2, 2.4, "One call, read on three clocks")
    for y, words in (6, "CPU"), (11, "GPU"):
        draw.label(axes, left - 1, y + 1.8, words, ha="right", weight="bold")
    wait = left + gpu.now * unit
    draw.frame(axes, wait, 6, (seen - gpu.now) * unit, 3.6, facecolor=PALE, edgecolor="white")
    draw.label(axes, wait + (seen - gpu.now) * unit / 2, 7.8, "waits, if it is told to", fontsize=8)
    for name, launched, begin, stop in gpu.log:
        at = left + (launched - launch) * unit
        draw.frame(axes, at, 6, launch * unit, 3.6, facecolor=GREY, edgecolor="white")
        _kernel(axes, left + begin * unit, 11, (stop - begin) * unit, name)
    readings = {"CPU's clock, at once": gpu.now, "two events": gpu.free}
    readings["CPU's clock, after waiting"] = seen
    for i, (words, stop) in enumerate(readings.items()):
        y = 17.6 + 4 * i
        draw.label(axes, left - 1, y, words, ha="right", fontsize=8)
        draw.frame(axes, left, y - 0.5, stop * unit, 1, facecolor=BLUE if i == 1 else DARK_GREY)
        draw.label(axes, left + stop * unit + 1, y, f"{stop:.1f} µs", ha="left", fontsize=8)
    busy = sum(microseconds for _, microseconds in kernels)
    return figure, (
        f"The GPU works {busy:.0f} µs. The CPU's clock says {gpu.now:.1f} if it is read at once "
        f"and {seen:.1f} after waiting; two events say {gpu.free:.1f}."
    )


def nine_taps(size: int = 6, pixel: tuple[int, int] = (2, 3)) -> tuple[Figure, str]:
    """A 3×3 convolution as nine products: what one output pixel reads at each tap.

    Args:
        size: of the square map. pixel: row and column of the output pixel.
    """
    figure, axes = draw.canvas(40)
    draw.title(axes, 2, 2.4, "Each tap is the same map, shifted by one step")
    cell = 15 / (size + 2)
    for tap in range(9):
        row, column = divmod(tap, 3)
        left, top = 4 + 19 * column, 6 + 11.3 * row
        small = 9.2 / (size + 2)
        _map(axes, left, top, small, size, (pixel[0] + row - 1, pixel[1] + column - 1))
        steps = ", ".join(("-1", "0", "+1")[i] for i in (row, column))
        draw.label(axes, left + 10, top + 4.5, f"tap {tap}\n({steps})", ha="left")
    draw.arrow(axes, (61, 22), (69, 22), "add up")
    left, top = 72, 22 - 0.5 * cell * (size + 2)
    _map(axes, left, top, cell, size, pixel, colour=BLUE, framed=False)
    draw.label(axes, left + 7.5, top + cell * (size + 2) + 1, f"output pixel {pixel}")
    return figure, (
        f"The output pixel in row {pixel[0]}, column {pixel[1]} reads one input pixel per tap "
        "(orange): its own place and the eight around it. Each tap multiplies all inputs of that "
        "pixel by a matrix of its own, [C_in, C_out]. The pale frame is padding, which holds zeros."
    )


def _map(
    axes: Axes, left: float, top: float, cell: float, size: int, marked: tuple[int, int],
    *, colour: str = ORANGE, framed: bool = True,
) -> None:  # fmt: skip
    for r in range(-1, size + 1):
        for c in range(-1, size + 1):
            off = min(r, c) < 0 or max(r, c) == size
            if off and not framed:
                continue
            shade = colour if (r, c) == marked else FAINT if off else PALE
            place = left + (c + 1) * cell, top + (r + 1) * cell
            draw.frame(axes, *place, cell, cell, facecolor=shade, edgecolor="white")


def program_tiles(pixels: int, k_out: int, tile: tuple[int, int]) -> tuple[Figure, str]:
    """The result ``[pixels, k_out]`` of an image, cut into tiles; what one program reads for it.

    Args:
        tile: pixels and winners of one program.
    """
    m, n = tile
    rows, columns = -(-pixels // m), -(-k_out // n)
    figure, axes = draw.canvas(46)
    draw.title(axes, 2, 2.4, f"One image: {rows} × {columns} programs, each with a tile")
    height, width, left, top = 24.0, 34.0, 50.0, 17.0
    h, w = height / pixels, width / k_out
    draw.frame(axes, 6, top, 34, height, facecolor=PALE)
    draw.label(axes, 23, top + height + 2.4, f"x  [{pixels}, taps · k_in]", fontsize=10)
    draw.frame(axes, left, 5.5, width, 8.5, facecolor=PALE)
    words = "the winners'\nweights\n[taps · k_in, k_out]"
    draw.label(axes, left + width + 1, 9.7, words, ha="left")
    for r in range(rows):
        for c in range(columns):
            size = min(n, k_out - c * n) * w, min(m, pixels - r * m) * h
            place = left + c * n * w, top + r * m * h
            mine = (r, c) == (rows - 1, 0)
            draw.frame(axes, *place, *size, facecolor=BLUE if mine else FAINT, edgecolor="white")
            middle = place[0] + size[0] / 2, place[1] + size[1] / 2
            draw.label(axes, *middle, f"{r}, {c}", color="white" if mine else DARK_GREY)
    r = rows - 1
    mine = min(m, pixels - r * m) * h
    middle = top + r * m * h + mine / 2
    draw.frame(axes, 6, top + r * m * h, 34, mine, facecolor=ORANGE)
    draw.label(axes, 23, middle, f"{min(m, pixels - r * m)} pixels, all taps", color="white")
    draw.frame(axes, left, 5.5, min(n, k_out) * w, 8.5, facecolor=LIGHT)
    draw.arrow(axes, (40.3, middle), (left - 0.3, middle))
    draw.arrow(axes, (left + n * w / 6, 14.2), (left + n * w / 6, top + r * m * h - 0.2))
    draw.label(axes, left + width / 2, top + height + 2.4, f"y  [{pixels}, {k_out}]", fontsize=10)
    return figure, (
        f"{pixels} pixels × {k_out} winners in tiles of {m} × {n}: {rows * columns} programs. The "
        f"blue one reads the orange rows of x and the light columns of the weights. Every tile of "
        f"pixels reads the weights anew, {rows} times in all."
    )


def rows_of_a_copy(
    k_in: int, k_out: int, width: int, blocks: tuple[int, int]
) -> tuple[Figure, str]:
    """What exercise 3 asks for: a program's block, and the places in memory that it fills.

    Args:
        k_in, k_out: lengths of the two lists. width: of a row in memory, with its zeros.
        blocks: powers of 2 that are not shorter.
    """
    rows, columns = blocks
    cell = min(26 / rows, 40 / columns)
    figure, axes = draw.canvas(10.6 + rows * cell)
    draw.title(
        axes, 2, 2.4, f"A block of {rows} × {columns}, and the {k_in} × {width} places of own"
    )
    for i in range(rows):
        for j in range(columns):
            kind = 0 if i >= k_in or j >= width else 2 if j < k_out else 1
            place = 26 + j * cell, 8.6 + i * cell
            shade = (FAINT, PALE, BLUE)[kind]
            draw.frame(axes, *place, cell, cell, facecolor=shade, edgecolor="white")
            if kind == 1:
                draw.label(axes, place[0] + cell / 2, place[1] + cell / 2, "0", fontsize=8)
    draw.bracket(axes, (25.4, 8.6), (25.4, 8.6 + k_in * cell), f"{k_in} live inputs", depth=-1)
    draw.bracket(axes, (26, 8.2), (26 + k_out * cell, 8.2), f"{k_out} winners", depth=-1)
    right = 29 + columns * cell
    for i, (shade, words) in enumerate(
        [
            (BLUE, "a winner's weight"),
            (PALE, "0, fills the row up\nto a multiple of 4"),
            (FAINT, "no place in own:\nleave it alone"),
        ]
    ):
        draw.frame(axes, right, 8 + 6 * i, 2, 2, facecolor=shade, edgecolor=GREY)
        draw.label(axes, right + 3, 9 + 6 * i, words, ha="left", fontsize=8)
    return figure, (
        f"The block has {rows * columns} places. {k_in * k_out} of them are weights, "
        f"{k_in * (width - k_out)} are zeros that fill each row up to {width} numbers, and the "
        "rest belongs to somebody else."
    )


def own_weights(
    channels: Tensor, winners: Tensor, sizes: tuple[int, int], tile: tuple[int, int, int]
) -> tuple[Figure, str]:
    """Select, gather, convolve: one image's kernels, their copy, and the tiles that read it.

    Args:
        channels, winners: of one image, ``[k_in]`` and ``[k_out]``.
        sizes: ``(C_in, C_out)``. tile: pixels of the map, and a tile's pixels and winners.
    """
    c_in, c_out = sizes
    live, won = torch.zeros(c_in, dtype=torch.bool), torch.zeros(c_out, dtype=torch.bool)
    live[channels], won[winners] = True, True
    cell = min(28 / c_out, 30 / c_in)
    figure, axes = draw.canvas(44)
    _headings(axes)
    draw.kernels(axes, 4, 12, won, live, cell)
    draw.note(axes, 4 + c_in * cell / 2, 14 + c_out * cell, f"{c_out} × {c_in} kernels")
    top, left = 14, 45
    draw.kernels(axes, left, top, [1] * len(winners), [1] * len(channels), cell)
    below = top + len(winners) * cell + 2
    draw.note(axes, left + len(channels) * cell / 2, below, f"{len(winners)} × {len(channels)}")
    draw.arrow(axes, (6 + c_in * cell, 22), (left - 1, 22), "copy once")
    pixels, m, n = tile
    rows, columns = -(-pixels // m), -(-len(winners) // n)
    for r in range(rows):
        for c in range(columns):
            place = 74 + 22 * c / columns, 12 + 24 * r / rows
            draw.box(axes, *place, 21 / columns, 23 / rows, f"program\n{r}, {c}", fontsize=8)
    draw.note(axes, 85, 38.4, f"tiles of {m} pixels × {n} winners")
    draw.arrow(axes, (left + 1 + len(channels) * cell, 22), (73.4, 22), f"{rows} reads")
    share = len(winners) * len(channels) / c_in / c_out
    return figure, (
        f"Of {c_out} × {c_in} kernels (rows are outputs) one image needs {len(winners)} × "
        f"{len(channels)}, {100 * share:.0f} %. They are copied once, and each of "
        f"{rows * columns} programs reads {'all' if columns == 1 else 'its columns'} of the copy."
    )


def loads_of_a_row(winners: Sequence[int], total: int) -> tuple[Figure, str]:
    """Weights of two bytes, one per load where a list says, or eight at a time where they adjoin.

    Args:
        winners: eight places in a row of ``total`` weights, ascending.
    """
    figure, axes = draw.canvas(27)
    cell, copy = min(2.8, 48 / total), 2.8
    draw.title(axes, 2, 2.4, f"with lists: {len(winners)} loads of 2 bytes")
    draw.label(axes, 14, 8.4, "the winners' list", ha="right", fontsize=8)
    draw.label(axes, 14, 19.4, "a row of weights", ha="right", fontsize=8)
    for i, place in enumerate(winners):
        draw.frame(axes, 16 + i * copy, 7, copy, 2.8, facecolor="white", edgecolor=GREY)
        draw.label(axes, 16 + (i + 0.5) * copy, 8.4, str(place), fontsize=8)
        ends = (16 + (i + 0.5) * copy, 10.2), (16 + (place + 0.5) * cell, 17.6)
        draw.arrow(axes, *ends, colour=ORANGE, size=7)
    for j in range(total):
        shade = ORANGE if j in winners else PALE
        draw.frame(axes, 16 + j * cell, 18, cell, 2.8, facecolor=shade, edgecolor="white")
    draw.note(axes, 16, 24, "each load waits for its number in the list", ha="left")
    left = 72
    draw.title(axes, left, 2.4, "without: 1 load of 16 bytes")
    for i in range(len(winners)):
        draw.frame(axes, left + i * copy, 18, copy, 2.8, facecolor=BLUE, edgecolor="white")
    draw.bracket(axes, (left, 17.2), (left + len(winners) * copy, 17.2), "neighbours", depth=-1)
    draw.note(axes, left, 24, "the address is known beforehand", ha="left")
    return figure, (
        f"In bfloat16 a weight has 2 bytes. {len(winners)} winners take {len(winners)} loads, each "
        "at an address that depends on a number of the list, which has to arrive first. "
        f"{len(winners)} neighbours take a single load of 16 bytes, whose address is known."
    )


def _headings(axes: Axes) -> None:
    heads = (2, "select", "which rows, which columns?"), (43, "gather", "the image's own weights")
    for number, (x, name, words) in enumerate(
        (*heads, (74, "convolve", "whole rows, tile by tile")), 1
    ):
        draw.badge(axes, x + 1.4, 3, number, KERNELS[name])
        draw.title(axes, x + 4, 3, name)
        draw.note(axes, x + 0.4, 6.6, words, ha="left")


L2 = SHEETS[9, 0].megabytes  # of the H100's second-level cache
WAYS = {
    "dense": ("dense, in our tiles:\nall weights", GREY),
    "scattered": ("one kernel: looked up\nwhile multiplying", ORANGE),
    "copied": ("three launches: copied\nonce, read in whole rows", BLUE),
}


def bytes_per_image(
    density: float,
    channels: int = 128,
    side: int = 56,
    clocks: Mapping[str, float] | None = None,
    images: int = 128,
) -> tuple[Figure, str]:
    """Weights that travel for one image of a 3×3 layer in float32, by three ways of computing it.

    Args:
        channels: in and out. side: of the map. images: in the batch.
        clocks: microseconds that each way took, by its name in `weight_traffic`, where known.
    """
    found = {name: sum(parts) for name, parts in weight_traffic(density, channels, side).items()}
    memory = from_memory(density, channels, images)
    figure, axes = draw.canvas(32)
    draw.title(
        axes, 2, 2.4, f"Weights per image: {channels} channels, {side}×{side}, d = {density:g}"
    )
    draw.note(axes, 82, 2.6, f"H100, {images} images, TF32:", ha="center")
    unit = 38 / max(found.values())
    for i, (name, (words, colour)) in enumerate(WAYS.items()):
        y = 6 + 8 * i
        draw.label(axes, 22, y + 2.2, words, ha="right", fontsize=8)
        draw.frame(axes, 24, y, found[name] * unit, 4.4, facecolor=colour, edgecolor="white")
        draw.label(axes, 25 + found[name] * unit, y + 2.2, f"{found[name]:.2f} MB", ha="left")
        if name != "dense":  # cuDNN's tiles are its own
            took = f"{clocks[name]:.0f} µs" if clocks else "not measured"
            draw.label(axes, 82, y + 2.2, took, color=BLACK if clocks else GREY, weight="bold")
    words = f"bars: from the L2 to the processors, in tiles of {TILE} pixels"
    draw.note(axes, 24, 29.4, words, ha="left")
    sentence = (
        f"At d = {density:g} the tiles of a dense layer would read {found['dense']:.2f} MB of "
        f"weights per image from the L2. Looking them up reads {found['scattered']:.2f} MB, "
        f"copying first {found['copied']:.2f} MB. Between memory and the L2 travel "
        f"{memory['scattered']:.3f} and {memory['copied']:.3f} MB."
    )
    if clocks:
        times = " and ".join(f"{clocks[name]:.0f}" for name in ("scattered", "copied"))
        sentence += (
            f" The H100 took {times} µs for {images} images; PyTorch's dense layer and ReLU, whose "
            f"tiles we do not know, took {clocks['dense']:.0f}."
        )
    return figure, sentence


TILE = 128  # pixels of a tile


def weight_traffic(
    density: float, channels: int, side: int, pixels: int = TILE
) -> dict[str, tuple[float, ...]]:
    """MB per image from the L2, by each way; of ``"copied"`` the copy and the reads of it.

    A read takes 32 bytes at a time, here eight numbers of a row of weights, and winners lie at
    random in it. Tiles of a dense layer reach across images, as their weights are the same.
    """
    k, tiles = max(1, round(density * channels)), -(-side * side // pixels)
    row = channels * 4 * sector_share(channels, k)
    whole, copy = 9 * channels * channels * 4, 9 * k * k * 4
    scattered = 9 * k * row
    ways = {"dense": (side * side / pixels * whole,), "scattered": (tiles * scattered,)}
    ways["copied"] = (scattered + copy, tiles * copy)
    return {name: tuple(part / 1e6 for part in parts) for name, parts in ways.items()}


def from_memory(density: float, channels: int, images: int) -> dict[str, float]:
    """MB of weights per image between memory and the L2, of each way.

    A layer's weights come once for the batch. Copies that do not fit into the L2 together are
    written to memory and read back.
    """
    k = max(1, round(density * channels))
    once, copy = (9 * n * n * 4 / 1e6 for n in (channels, k))
    once /= images
    spilt = 2 * copy if images * copy > L2 else 0
    return {"dense": once, "scattered": once, "copied": once + spilt}


def sector_share(channels: int, k: int, numbers: int = 8) -> float:
    """The expected share of a row's sectors that hold one of ``k`` winners at random."""
    none = 1.0
    for i in range(numbers):  # that all of a sector lose, one after the other
        none *= max(0, channels - k - i) / (channels - i)
    return 1 - none
