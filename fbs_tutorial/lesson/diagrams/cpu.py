"""Skipping on a CPU, drawn: the gather, orders in memory, planes with a border, a tile of sums."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..plots.style import BLUE, DARK_GREY, FAINT, ORANGE, PALE
from . import draw

Picture = tuple[Figure, str]


def gather(weight: Tensor, winners: Tensor, live: Tensor, channels: int = 12) -> Picture:
    """Kernels of live pairs, picked out of the weights into one small dense kernel.

    Args:
        weight: ``[C_out, C_in, k, k]``. winners, live: int64, the outputs and inputs that count.
        channels: so many outputs and inputs are drawn, the first ones.

    Raises:
        ValueError: none of the first ``channels`` outputs wins, or none of the inputs is live.
    """
    c_in = weight.shape[1]
    won, alive = ([int(i) for i in x if i < channels] for x in (winners, live))
    if not won or not alive:
        raise ValueError(f"channels must reach a winner and a live input, got {channels}")
    flags = [[i in chosen for i in range(channels)] for chosen in (won, alive)]
    figure, axes = draw.canvas(46)
    cell = 26 / channels
    draw.title(axes, 4, 2.4, f"the first {channels} × {channels} kernels")
    draw.kernels(axes, 7, 8, *flags, cell)
    draw.label(axes, 7 + cell * channels / 2, 6, "input channels (pale: empty)")
    draw.label(axes, 4.4, 21, "outputs (struck out: lose)", rotation=90)
    draw.arrow(axes, (35, 21), (46, 21), "gather")
    draw.title(axes, 48, 2.4, "their share of the small dense kernel")
    top = 21 - cell * len(won) / 2
    draw.kernels(axes, 49, top, [True] * len(won), [True] * len(alive), cell)
    words = f"{len(won)} winners × {len(alive)} live"
    draw.label(axes, 49 + cell * len(alive) / 2, top - 2, words)
    draw.arrow(axes, (51 + cell * len(alive), 21), (83, 21), "one conv2d")
    draw.box(axes, 84, 16, 14, 10, f"maps of\n{len(won)} winners", colour=BLUE, fontsize=10)
    last = won[-1]
    _one_row(axes, last, alive, c_in, channels)
    pairs = len(winners) * len(live)
    return figure, (
        f"In all {len(winners)} winners times {len(live)} live inputs: {pairs:,} of "
        f"{weight.shape[0] * c_in:,} kernels are copied side by side. The kernel from input "
        f"{alive[-1]} to output {last} is number {last} · {c_in} + {alive[-1]} = "
        f"{last * c_in + alive[-1]} in memory."
    )


def _one_row(axes: Axes, winner: int, live: Sequence[int], c_in: int, channels: int) -> None:
    """The kernels of one winner as they lie in memory, and those that are copied."""
    width, start = 76 / channels, 23
    draw.label(axes, 22, 37.5, f"winner {winner} in memory", ha="right")
    draw.label(axes, 22, 43.5, "the copy", ha="right")
    for i in range(channels):
        fill = BLUE if i in live else FAINT
        row = [[winner * c_in + i]]
        draw.matrix(axes, start + i * width, 36, row, (width, 3), fills=[[fill]], fontsize=9)
    for place, i in enumerate(live):
        row = [[winner * c_in + i]]
        draw.matrix(axes, start + place * width, 42, row, (width, 3), fills=[[BLUE]], fontsize=9)
        middle = width / 2
        ends = (start + i * width + middle, 39.2), (start + place * width + middle, 41.9)
        draw.arrow(axes, *ends, colour=DARK_GREY)


def layouts(skipped: int = 1) -> Picture:
    """Three channels of 2×3 pixels in memory, in three orders; one channel is skipped."""
    pixels = [[f"{name}{p}" for p in range(1, 7)] for name in "abc"]
    first = [(c, word) for c, words in enumerate(pixels) for word in words]
    last = [(c, words[p]) for p in range(6) for c, words in enumerate(pixels)]
    plane = [
        cell
        for c, words in enumerate(pixels)
        for row in (words[:3], words[3:])
        for cell in [(-1, "0"), *((c, word) for word in row)]
    ]
    figure, axes = draw.canvas(28)
    rows = [
        ("NCHW", first, "a channel is one block: easy to leave out"),
        ("NHWC", last, "a channel is a hole in every pixel (channels_last)"),
        ("planes", plane, "a block per channel, with zeros between its rows"),
    ]
    for i, (name, cells, why) in enumerate(rows):
        y = 1 + 9.2 * i
        draw.title(axes, 1, y + 1.7, name)
        draw.label(axes, 9, y + 5.4, why, ha="left")
        for place, (c, word) in enumerate(cells):
            fill = {skipped: FAINT, -1: PALE}.get(c, BLUE)
            cell = {"fills": [[fill]], "fontsize": 9}
            draw.matrix(axes, 9 + 3.75 * place, y, [[word]], (3.75, 3.4), **cell)
    return figure, (
        "The same 18 numbers in three orders. Channel b is empty: in the first and the last order "
        "it is one block, which nobody has to touch; in channels_last it sits in every pixel. The "
        "planes also hold zeros between the rows; those above and below are not drawn."
    )


def planes(height: int = 3, width: int = 5, tap: tuple[int, int] = (2, 1)) -> Picture:
    """A map in a plane with a border of zeros; a tap of a 3×3 kernel is one offset in memory.

    Args:
        height, width: of the map. tap: row and column of the tap that is drawn, 0 to 2 each.

    Raises:
        ValueError: a tap outside the kernel.
    """
    if not all(0 <= place < 3 for place in tap):
        raise ValueError(f"tap must be a row and a column from 0 to 2, got {tap}")
    pitch, lanes = width + 1, 8
    cells = [0] * pitch
    for row in range(height):
        cells += [0, *range(row * width + 1, (row + 1) * width + 1)]
    cells += [0] * (pitch + 2)
    offset = tap[0] * pitch + tap[1]
    figure, axes = draw.canvas(50)
    draw.title(axes, 2, 2.5, f"a map of {height}×{width} pixels in its plane")
    fills = [BLUE if value else PALE for value in cells]
    rows = [slice(r * pitch, (r + 1) * pitch) for r in range(height + 2)]
    draw.matrix(axes, 4, 5, [cells[r] for r in rows], (4, 3.4), fills=[fills[r] for r in rows])
    draw.label(axes, 4 + 2 * pitch, 6.6 + 3.4 * (height + 2), f"one row is {pitch} numbers")
    draw.title(axes, 42, 2.5, "the nine taps: offsets in memory")
    taps = [[a * pitch + b for b in range(3)] for a in range(3)]
    marks = [["white"] * 3 for _ in range(3)]
    marks[tap[0]][tap[1]] = ORANGE
    draw.matrix(axes, 46, 7, taps, (6, 4), fills=marks)
    draw.label(axes, 55, 21, f"offset = {pitch} · row + column")
    words = f"sum[0 … 7] +=\nw[o, i, {tap[0]}, {tap[1]}] × plane[{offset} … {offset + 7}]"
    draw.box(axes, 69, 6, 30, 6.4, words, colour=ORANGE)
    draw.label(axes, 84, 15.4, "one weight, eight neighbouring\npixels: one multiplication")
    _memory(axes, cells, offset, lanes, pitch)
    return figure, (
        f"Row after row, with one 0 between them. Tap {tap} of the kernel reads what lies {offset} "
        "numbers further on, for all pixels. So eight neighbouring outputs need eight neighbouring "
        f"inputs, across the end of a row too. After every {width} outputs one falls on the "
        "border, and is thrown away."
    )


def _memory(axes: Axes, cells: Sequence[int], offset: int, lanes: int, pitch: int) -> None:
    """The plane as one line, what a tap reads of it, and the sums that it goes to."""
    size, x, y = 96 / len(cells), 2, 36
    draw.label(axes, x, y - 6.6, "the same plane, as it lies in memory", ha="left")
    for i, value in enumerate(cells):
        fill = BLUE if value else PALE
        draw.matrix(axes, x + i * size, y, [[value]], (size, 2.8), fills=[[fill]], fontsize=7)
    draw.frame(
        axes, x + offset * size, y - 0.4, lanes * size, 3.6, edgecolor=ORANGE, linewidth=2.2,
        zorder=5,
    )  # fmt: skip
    ends, side = ((x, y - 1.2), (x + offset * size, y - 1.2)), "center" if offset > 2 else "left"
    draw.bracket(axes, *ends, f"offset {offset}", depth=-1, color=ORANGE, ha=side)
    for i in range(lanes):
        word = "–" if (i + 1) % pitch == 0 else f"y{i + 1 - (i + 1) // pitch}"
        fill = PALE if word == "–" else "white"
        draw.matrix(axes, x + i * size, y + 9, [[word]], (size, 2.8), fills=[[fill]], fontsize=7)
    draw.label(axes, x + (lanes + 0.4) * size, y + 10.4, "the sums of eight outputs", ha="left")
    draw.arrow(
        axes,
        (x + (offset + lanes / 2) * size, y + 3.4),
        (x + lanes / 2 * size, y + 8.8),
        "times the weight",
        colour=ORANGE,
        away=(9, 0.6),
    )


def tile(winners: int = 4, vectors: int = 3, lanes: int = 8) -> Picture:
    """A tile of sums that stays in registers while inputs and taps pass by.

    Args:
        winners, vectors: the tile's size. lanes: pixels in a vector.
    """
    figure, axes = draw.canvas(max(24, 14 + 6 * winners))
    draw.title(axes, 2, 2.5, "For one live input and one tap")
    left, top, width, height = 24, 11, min(17, 48 / vectors), 5
    for p in range(vectors):
        draw.box(axes, left + p * width, 5, width - 1, 4.4, f"{lanes} pixels", colour=BLUE)
    for j in range(winners):
        y = top + j * (height + 1)
        draw.box(axes, 4, y, 18, height, f"weight, winner {j + 1}", colour=ORANGE)
        for p in range(vectors):
            place = left + p * width, y, width - 1, height
            draw.box(axes, *place, "sum += w × x", fill=PALE, colour=DARK_GREY)
    done, loaded = winners * vectors, winners + vectors
    x = left + vectors * width + 1
    words = f"{loaded} loads feed\n{done} multiplications;"
    draw.label(axes, x, 12, words, ha="left", va="top", fontsize=10)
    draw.label(axes, x, 17, "the sums stay\nin registers", ha="left", va="top", fontsize=10)
    return figure, (
        f"{winners} winners times {vectors} vectors: each weight serves {vectors} vectors and each "
        f"vector of pixels {winners} winners, so {loaded} loads feed {done} multiplications. With "
        "one winner and one vector, two loads would feed one."
    )
