"""What all pictures share: colours, curves with bands, legends under the picture.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; markers and
hatches repeat what the colours say.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from torch import Tensor

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW = "#E69F00"
DARK_GREEN, PALE_GREEN, PALE_BLUE = "#00523C", "#5FC7A6", "#56B4E9"  # where a colour has kin
MID_BLUE = "#3A93C8"  # lines of what has pale blue bars, which would be faint on white
GREY, DARK_GREY, BLACK = "#BBBBBB", "#777777", "#222222"
PALE, FAINT = "#DFE7EE", "#F1F1F1"  # kernels that are skipped: for one reason, for both
TEXT, LINE, PANEL, WHITE = "#555555", "#DDDDDD", "#F6F7F8", "#FFFFFF"  # what stands around

DARK_ENOUGH = 0.155  # luminance of words: their contrast with a pale ground is 4.5 or more

Look = tuple[str, str, str]  # colour, marker, line


def curve(
    axes: Axes,
    densities: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    look: Look,
) -> np.ndarray:
    """Draw shares 0..1, ``[runs, densities]``, in percent; returns their median over the runs.

    With several runs a band goes from the lowest to the highest.
    """
    colour, marker, line = look
    values = 100 * np.array(values)  # [runs, densities]
    middle = np.median(values, axis=0)
    axes.plot(densities, middle, line, color=colour, marker=marker, label=label)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)
    return middle


def ink(colour: str) -> str:
    """A colour for words: as dark as it must be to be read on a pale ground; white stays white."""
    parts = np.array(to_rgb(colour))
    if parts.min() > 0.95 or _luminance(parts) <= DARK_ENOUGH:
        return colour  # white words stand on dark grounds
    while _luminance(parts) > DARK_ENOUGH:
        parts = 0.97 * parts
    return to_hex(parts)


def _luminance(parts: np.ndarray) -> float:
    """The relative luminance of WCAG 2.1, of red, green and blue from 0 to 1."""
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def legend_below(figure: Figure, *entries: Sequence, ncols: int, fontsize: int = 9) -> None:
    """A legend without a frame under the whole picture."""
    figure.legend(
        *entries, loc="outside lower center", ncols=ncols, fontsize=fontsize, frameon=False
    )


SIDES = {  # of a point, in points of type away from it: how words beside it are aligned
    (8, 0): ("left", "center"),
    (-8, 0): ("right", "center"),
    (0, 8): ("center", "bottom"),
    (0, -8): ("center", "top"),
    (8, 8): ("left", "bottom"),
    (-8, 8): ("right", "bottom"),
    (8, -8): ("left", "top"),
    (-8, -8): ("right", "top"),
}


def label_lines(axes: Axes, fontsize: float = 8.5) -> None:
    """Write each line's label beside one of its points, in place of a legend.

    A line without a label is only kept clear of. Of about a dozen points of a line, from right to
    left, and all sides of each it is the one where the words lie inside the axes and hide least of
    markers, lines and other words.
    """
    axes.figure.draw_without_rendering()
    drawn = [_pixels(line) for line in axes.lines]
    boxes: list[Bbox] = []
    for line, own in zip(axes.lines, drawn, strict=True):
        if line.get_label().startswith("_"):  # Matplotlib's, where there is none
            continue
        others = np.concatenate([points for points in drawn if points is not own] or [own])
        words = axes.annotate(
            line.get_label(), (0, 0), (0, 0), textcoords="offset points", fontsize=fontsize
        )
        words.set_color(ink(line.get_color()))
        points = sorted(line.get_xydata(), key=lambda point: -point[0])
        places = [(point, side) for point in points[:: len(points) // 12 or 1] for side in SIDES]
        bad = []
        for place in places:
            box = _beside(words, *place)
            struck = _within(others, box, 5) + _within(own, box, 2)
            hidden = 10 * struck + _within(others, box, 16)
            alone = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            bad.append(hidden + 1000 * (not alone or box.count_overlaps(boxes)))
        boxes.append(_beside(words, *places[int(np.argmin(bad))]))


def name_ends(
    axes: Axes, x: float, ends: Sequence[tuple[str, float, str]], fontsize: float = 9
) -> None:
    """Write names to the right of ``x``, in place of a legend, apart where they would overlap.

    Args:
        ends: name, height and colour of each line where it ends.
    """
    axes.figure.draw_without_rendering()  # now the axes have their height
    low, high = axes.get_ylim()
    row = 1.35 * fontsize * axes.figure.dpi / 72 * (high - low) / axes.bbox.height
    ordered = sorted(ends, key=lambda end: end[1])
    for (name, y, colour), at in zip(ordered, _apart([y for _, y, _ in ordered], row), strict=True):
        axes.annotate(
            name, (x, y), (x, at), xycoords="data", textcoords="data", va="center", ha="left",
            fontsize=fontsize, color=ink(colour), annotation_clip=False,
        )  # fmt: skip


def _apart(heights: Sequence[float], row: float) -> list[float]:
    """The nearest heights to these, ascending, that are a row apart or more."""
    blocks: list[list[float]] = []  # of rows that touch: what their first ones would be
    for i, height in enumerate(heights):
        blocks.append([height - i * row])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    firsts = [np.mean(block) for block in blocks for _ in block]
    return [float(first + i * row) for i, first in enumerate(firsts)]


def _beside(words: Annotation, point: np.ndarray, side: tuple[int, int]) -> Bbox:
    """Move words to a side of a point; where they are then, in pixels."""
    words.xy, (across, along) = point, SIDES[side]
    words.set(position=side, ha=across, va=along)
    return words.get_window_extent()


def _pixels(line: Line2D) -> np.ndarray:
    """Points of a line in pixels, ``[n, 2]``, close together where it is drawn."""
    points = line.axes.transData.transform(line.get_xydata())
    if line.get_linestyle() in ("None", "", " ") or len(points) < 2:
        return points
    steps = np.linspace(0, 1, 50)[:, None]
    return np.concatenate([(1 - steps) * a + steps * b for a, b in pairwise(points)])


def _within(points: np.ndarray, box: Bbox, margin: float) -> int:
    """How many points lie in a box or less than a margin away from it."""
    distance = abs(points - (box.min + box.max) / 2) - box.size / 2
    return int((distance < margin).all(axis=1).sum())


def plain_ticks(axis: object, ticks: Sequence[float]) -> None:
    """Just these ticks, as plain numbers, on a logarithmic axis."""
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def draw_images(row: np.ndarray, images: Tensor, captions: Sequence[str]) -> None:
    """Colour images ``[N, 3, H, W]`` in a row of axes, each under its caption."""
    for axes, image, caption in zip(row, images, captions, strict=True):
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(caption, fontsize=8)
        axes.set_axis_off()
