"""The drawn language of the course: what every diagram is made of.

A diagram is drawn on one `canvas`. Its unit is a hundredth of the page's width, x runs to the
right and y runs down, and everything stands where its top left corner is. Colours say whose gates
are meant, in every figure of the course: BLUE an image's own, ORANGE the mean gate, PURPLE another
image's, GREEN a static network; PALE and FAINT is what is skipped.
"""

import textwrap
from collections.abc import Sequence
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.text import Text
from torch import Tensor

from ..plots.style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, PALE, ink

INCHES = 0.09  # of one unit: 100 units are 9 inches, 900 pixels
SIGNED = LinearSegmentedColormap.from_list("signed", [DARK_GREY, "white", BLUE])  # -, 0, +
Point = tuple[float, float]
Values = Tensor | np.ndarray | Sequence[float]


def canvas(height: float, width: float = 100) -> tuple[Figure, Axes]:
    """An empty page of ``width`` × ``height`` units without axes, 900 pixels wide at 100 units."""
    figure = plt.figure(figsize=(width * INCHES, height * INCHES), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def label(axes: Axes, x: float, y: float, words: str, **style) -> Text:
    """Words around the point ``(x, y)``; ``style`` as in ``axes.text``, ``ha="left"`` say."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": BLACK, **style}
    return axes.text(x, y, words, **{**style, "color": ink(style["color"])})


def title(axes: Axes, x: float, y: float, words: str, **style) -> Text:
    """The name of a part, in bold, that begins at ``x``."""
    return label(axes, x, y, words, **{"ha": "left", "weight": "bold", "fontsize": 10, **style})


def note(axes: Axes, x: float, y: float, words: str, **style) -> Text:
    """A remark in small grey letters."""
    return label(axes, x, y, words, **{"color": "#555555", "fontsize": 8, **style})


def badge(axes: Axes, x: float, y: float, number: int, colour: str = BLACK) -> None:
    """The number of a step in a disc around ``(x, y)``."""
    axes.add_patch(Circle((x, y), 1.2, facecolor=colour, edgecolor="none", zorder=5))
    label(axes, x, y + 0.05, str(number), color="white", fontsize=8, weight="bold", zorder=6)


def paragraph(axes: Axes, x: float, y: float, words: str, width: float, **style) -> float:
    """Words in lines of about ``width`` units beneath ``(x, y)``; returns where the next begins."""
    style = {"ha": "left", "va": "top", "fontsize": 9, "linespacing": 1.3, **style}
    letters = int(width / (0.083 * style["fontsize"]))
    lines = textwrap.fill(words, letters)
    label(axes, x, y, lines, **style)
    return y + 0.2 * style["fontsize"] * (1 + lines.count("\n"))


def steps(axes: Axes, x: float, y: float, texts: Sequence[str], width: float) -> float:
    """A numbered list in the same discs as `badge`; returns where it ends."""
    for number, words in enumerate(texts, 1):
        badge(axes, x + 1.2, y + 0.9, number)
        y = paragraph(axes, x + 3.4, y, words, width - 3.4) + 1.4
    return y


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    words: str = "",
    *,
    colour: str = BLACK,
    fill: str = "white",
    **style,
) -> Patch:
    """A box with rounded corners and words in its middle; ``style`` as in `label`."""
    patch = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.8",
        facecolor=fill, edgecolor=colour, linewidth=1.2, zorder=2,
    )  # fmt: skip
    axes.add_patch(patch)
    if words:
        inside = label(axes, x + width / 2, y + height / 2, words, zorder=3, **style)
        inside.inside = patch  # for `collisions`
    return patch


def arrow(
    axes: Axes,
    start: Point,
    end: Point,
    words: str = "",
    *,
    colour: str = BLACK,
    bend: float = 0.0,
    line: str = "-",
    away: Point = (0.0, -1.2),
    size: float = 11,
) -> None:
    """An arrow, and words beside its middle, ``away`` from it.

    Args:
        bend: 0 for a straight arrow, positive and negative to bend to one side or the other.
        line: ``"--"`` for what does not happen, or only in training.
        size: of its head, in points.
    """
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=size, color=colour, linewidth=0.12 * size,
            linestyle=line, shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}", zorder=3,
        )
    )  # fmt: skip
    if words:
        middle = (start[0] + end[0]) / 2 + away[0], (start[1] + end[1]) / 2 + away[1]
        label(axes, *middle, words, color=colour, fontsize=8)


def path(axes: Axes, points: Sequence[Point], *, colour: str = BLACK, line: str = "-") -> None:
    """An arrow round corners, through all ``points``."""
    x, y = zip(*points, strict=True)
    axes.plot(x[:-1], y[:-1], line, color=colour, linewidth=1.3, solid_capstyle="round", zorder=3)
    arrow(axes, points[-2], points[-1], colour=colour, line=line)


def bracket(
    axes: Axes, start: Point, end: Point, words: str = "", *, depth: float = 1.0, **style
) -> None:
    """A bracket along a row or a column, with words beyond it.

    It opens towards the side that ``depth`` points away from: down or to the right if positive.
    """
    (x0, y0), (x1, y1) = start, end
    flat = abs(x1 - x0) >= abs(y1 - y0)
    dx, dy = (0, depth) if flat else (depth, 0)
    x, y = [x0, x0 + dx, x1 + dx, x1], [y0, y0 + dy, y1 + dy, y1]
    axes.plot(x, y, "-", color=style.get("color", DARK_GREY), linewidth=1)
    side = ("top" if depth > 0 else "bottom") if flat else "center"
    aside = "center" if flat else ("left" if depth > 0 else "right")
    middle = (x0 + x1) / 2 + 1.6 * dx, (y0 + y1) / 2 + 1.6 * dy
    label(axes, *middle, words, **{"ha": aside, "va": side, "fontsize": 8, **style})


def feature_map(
    axes: Axes, x: float, y: float, side: float, values: Values, *, top: float = 0.0, **style
) -> None:
    """One map ``[H, W]`` as a little picture: white is 0, the darkest is ``top`` (its maximum)."""
    values = _numbers(values)
    top = top or abs(values).max() or 1.0
    style = {"cmap": "Blues", "vmin": 0, "vmax": top, "zorder": 1, **style}
    _picture(axes, x, y, side, values, **style)
    frame(axes, x, y, side, side, zorder=style["zorder"])


def _picture(axes: Axes, x: float, y: float, side: float, values: np.ndarray, **style) -> None:
    extent = (x, x + side, y + side, y)
    axes.imshow(values, extent=extent, aspect="auto", interpolation="nearest", **style)


def frame(axes: Axes, x: float, y: float, width: float, height: float, **style) -> None:
    """A thin rectangle; ``style`` as in matplotlib's ``Rectangle``."""
    style = {"facecolor": "none", "edgecolor": DARK_GREY, "linewidth": 0.6, "zorder": 2, **style}
    axes.add_patch(Rectangle((x, y), width, height, **style))


def maps(
    axes: Axes,
    x: float,
    y: float,
    values: Values,
    side: float,
    step: Point,
    *,
    live: Values | None = None,
    top: float | None = None,
    **style,
) -> None:
    """The maps ``[C, H, W]`` of one image, each ``step`` from the one before.

    A step shorter than ``side`` makes a stack, ``(0, side)`` a column, ``(side, 0)`` a row. All
    share one scale, white at 0 and darkest at ``top``, by default the largest value. A map that
    is not ``live`` (bool ``[C]``) is crossed out.
    """
    values = _numbers(values)
    live = np.ones(len(values), bool) if live is None else _numbers(live)
    top = top or abs(values).max(initial=0)
    for i, (one, alive) in enumerate(zip(values, live, strict=True)):
        left, upper = x + i * step[0], y + i * step[1]
        if alive:
            feature_map(axes, left, upper, side, one, top=top, zorder=1 + i / 100, **style)
        else:
            skipped(axes, left, upper, side, side, zorder=1 + i / 100)


def skipped(axes: Axes, x: float, y: float, width: float, height: float, zorder: float = 1) -> None:
    """A rectangle that is not computed: pale, with a stroke through it."""
    frame(axes, x, y, width, height, facecolor=FAINT, edgecolor=GREY, zorder=zorder)
    axes.plot([x, x + width], [y + height, y], color=GREY, linewidth=0.8, zorder=zorder)


def bars(
    axes: Axes,
    x: float,
    y: float,
    values: Values,
    cell: float,
    length: float,
    *,
    towards: str = "right",
    won: Values | None = None,
    colour: str = BLUE,
    top: float | None = None,
) -> float:
    """A bar for each channel, one per ``cell``, the largest ``length`` long.

    Args:
        x, y: where the first bar stands on the common base line.
        towards: "right" or "left" for bars beneath each other, "up" for bars side by side.
        won: bool ``[C]``; the bars of losers are pale.
        top: the value that is ``length`` long, by default the largest.

    Returns:
        The length of a bar of value 1, to place a `cut`.
    """
    values = _numbers(values).astype(float)
    won = np.ones(len(values), bool) if won is None else _numbers(won)
    unit = length / (top or abs(values).max() or 1.0)
    sign, thick = (1 if towards == "right" else -1), 0.7 * cell
    for i, (value, wins) in enumerate(zip(values, won, strict=True)):
        at = i * cell + 0.15 * cell
        style = {"facecolor": colour if wins else PALE, "edgecolor": colour if wins else GREY}
        if towards == "up":
            frame(axes, x + at, y, thick, -value * unit, **style)
        else:
            frame(axes, x, y + at, sign * value * unit, thick, **style)
    return unit


def cut(axes: Axes, start: Point, end: Point, words: str = "", **style) -> None:
    """The dashed line between winners and losers, and words at its end."""
    axes.plot(*zip(start, end, strict=True), "--", color=ORANGE, linewidth=1.3, zorder=4)
    style = {"color": ORANGE, "fontsize": 8, "va": "top", **style}
    label(axes, end[0], end[1] + 0.3, words, **style)


def kernels(
    axes: Axes,
    x: float,
    y: float,
    winners: Values,
    live: Values,
    cell: float,
    *,
    weights: Values | None = None,
    colour: str = BLUE,
    strike: bool = True,
) -> None:
    """The C_out × C_in kernels of a convolution: a row per output, a column per input channel.

    A kernel is computed where its row wins and its column is live. The row of a loser is struck
    out, the column of an empty input is pale.

    Args:
        winners, live: bool ``[C_out]`` and ``[C_in]``.
        weights: ``[C_out, C_in, k, k]``, drawn into the kernels that are computed.
        strike: a line through the row of every loser.
    """
    winners, live = _numbers(winners).astype(bool), _numbers(live).astype(bool)
    weights = None if weights is None else _numbers(weights)
    shades = {2: colour, 1: PALE, 0: FAINT}
    for o, wins in enumerate(winners):
        for i, alive in enumerate(live):
            place = x + i * cell, y + o * cell
            shade = shades[int(wins) + int(alive)]
            frame(axes, *place, cell, cell, facecolor=shade, edgecolor="white", zorder=1)
            if weights is not None and wins and alive:
                _kernel(axes, *place, cell, weights[o, i], abs(weights).max())
        if strike and not wins:
            middle = y + (o + 0.5) * cell
            ends = [x - 0.25 * cell, x + (len(live) + 0.25) * cell]
            axes.plot(ends, [middle, middle], color=DARK_GREY, linewidth=0.9, zorder=3)


def _kernel(axes: Axes, x: float, y: float, cell: float, weights: np.ndarray, top: float) -> None:
    """One k×k kernel: blue for positive weights, grey for negative ones."""
    gap = 0.08 * cell
    style = {"cmap": SIGNED, "vmin": -top, "vmax": top, "zorder": 2}
    _picture(axes, x + gap, y + gap, cell - 2 * gap, weights, **style)


def matrix(
    axes: Axes,
    x: float,
    y: float,
    rows: Sequence[Sequence[object]],
    cell: Point = (5.0, 3.0),
    *,
    fills: Sequence[Sequence[str]] | None = None,
    **style,
) -> None:
    """A small table of values (numbers with two digits), each in a cell ``(width, height)``.

    Args:
        fills: the colour of each cell, white by default. style: as in `label`.
    """
    width, height = cell
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            place, fill = (x + c * width, y + r * height), fills[r][c] if fills else "white"
            frame(axes, *place, width, height, facecolor=fill, zorder=1)
            words = f"{value:.2f}" if isinstance(value, float) else str(value)
            dark = fill in (BLUE, ORANGE, BLACK, DARK_GREY)
            colour = {"color": "white"} if dark else {}
            middle = place[0] + width / 2, place[1] + height / 2
            label(axes, *middle, words, **{"fontsize": 8, **colour, **style})


def collisions(figure: Figure) -> list[str]:
    """What is wrong with the words of a diagram: outside the page, over one another, over a box.

    A diagram is ready when the list is empty; the tests ask for that.
    """
    figure.canvas.draw()
    texts = [t for axes in figure.axes for t in axes.texts if t.get_text().strip()]
    extents = [text.get_window_extent() for text in texts]
    found = []
    for text, extent in zip(texts, extents, strict=True):
        around = getattr(text, "inside", figure).get_window_extent()
        if not (around.x0 - 1 <= extent.x0 and extent.x1 <= around.x1 + 1):
            found.append(f"{text.get_text()!r} is wider than its place")
        if not (around.y0 - 1 <= extent.y0 and extent.y1 <= around.y1 + 1):
            found.append(f"{text.get_text()!r} is higher than its place")
    for (one, a), (other, b) in combinations(zip(texts, extents, strict=True), 2):
        if a.shrunk(0.98, 0.8).overlaps(b.shrunk(0.98, 0.8)):
            found.append(f"{one.get_text()!r} stands over {other.get_text()!r}")
    return found


def _numbers(values: Values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
