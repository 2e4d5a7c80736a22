"""Residual and inverted-residual blocks, drawn with the live channels of one image."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..plots.style import BLACK, BLUE, DARK_GREY, YELLOW
from . import draw

TOP, SIDE = 12.0, 12.8  # of the squares of channels
Stage = tuple[str, Tensor, Tensor | None]  # what is done, live channels [C], wasted ones


def residual_block(x: Tensor, first: Tensor, second: Tensor) -> tuple[Figure, str]:
    """A block relu(x + conv2(conv1(x))) with one small square per channel, filled where it is live.

    Args:
        x, first, second: bool ``[C]``, the live channels of the block's input and the winners of
            its two convolutions for one image.
    """
    total = x | second
    counts = [int(part.sum()) for part in (x, first, second, total)]
    figure, axes = draw.canvas(31)
    draw.title(axes, 2, 2.4, f"The sum fills up again: {counts[2]} win, {counts[3]} are live after")
    _chain(axes, x, [("conv1\ngate\nReLU", first, None), ("conv2\ngate", second, None)])
    said = "{} of {} channels enter the block, {} win in conv1 and {} in conv2; after the sum {}"
    ending = " are live, and the next block has to read them."
    return figure, said.format(counts[0], len(x), *counts[1:]) + ending


def inverted_residual(
    x: Tensor, expansion: Tensor, depthwise: Tensor, projection: Tensor
) -> tuple[Figure, str]:
    """MobileNetV2's block: 1x1 to many channels, 3x3 in each channel alone, 1x1 back, and a sum.

    Args:
        x, expansion, depthwise, projection: bool, the live channels of the input and the winners
            of the three convolutions for one image; the two in the middle are equally many.
    """
    wasted = depthwise & ~expansion
    useful = int((depthwise & expansion).sum())
    won = int(depthwise.sum())
    figure, axes = draw.canvas(33.5)
    draw.title(axes, 2, 2.4, f"Of {won} winners in the depthwise layer {useful} have work to do")
    stages = [
        ("1×1\nexpand", expansion, None),
        ("3×3\ndepth-\nwise", depthwise, wasted),
        ("1×1\nproject", projection, None),
    ]
    _chain(axes, x, stages)
    draw.frame(axes, 2, 30.6, 1.4, 1.4, facecolor=YELLOW)
    words = "wins, but its only input is empty: it puts out a constant, scaled by its gate"
    draw.note(axes, 4.4, 31.3, words, ha="left")
    sentence = (
        f"{int(expansion.sum())} of {len(expansion)} channels win in the expansion and {won} in "
        f"the depthwise layer, of which {useful} read a channel that is not empty; after the sum "
        f"{int((x | projection).sum())} of {len(x)} channels are live."
    )
    return figure, sentence


def _chain(axes: Axes, x: Tensor, stages: Sequence[Stage]) -> None:
    """Channels and layers by turns, the shortcut above them, and the sum at the end."""
    side, width = (SIDE, 9.0) if len(stages) < 3 else (11.0, 6.4)
    gap = (96 - (len(stages) + 2) * side - len(stages) * width - 6) / (2 * len(stages) + 2)
    middle = TOP + side / 2
    _channels(axes, 2, x, side, "x")
    left, kept = 2 + side, x
    for words, live, wasted in stages:
        draw.arrow(axes, (left + 0.3, middle), (left + gap - 0.2, middle), size=8)
        left += gap
        draw.box(axes, left, middle - 4, width, 8, words, fontsize=8)
        draw.arrow(axes, (left + width + 0.2, middle), (left + width + gap - 0.3, middle), size=8)
        left += width + gap
        _channels(axes, left, live, side, "winners", wasted)
        left, kept = left + side, live
    plus = left + gap + 2
    draw.arrow(axes, (left + 0.3, middle), (plus - 2, middle), size=8)
    draw.box(axes, plus - 1.8, middle - 1.8, 3.6, 3.6, "+", fontsize=13)
    above = TOP - 4
    corners = [(2 + side / 2, TOP - 0.4), (2 + side / 2, above), (plus, above), (plus, middle - 2)]
    draw.path(axes, corners, colour=DARK_GREY)
    draw.note(axes, (2 + side / 2 + plus) / 2, above - 1.4, "shortcut: every live channel of x")
    draw.arrow(axes, (plus + 2, middle), (plus + 1.8 + gap, middle), size=8)
    _channels(axes, plus + 2.2 + gap, x | kept, side, "sum")


def _channels(
    axes: Axes, x: float, live: Tensor, side: float, name: str, wasted: Tensor | None = None
) -> None:
    """A square of small squares, one for each channel, and beneath it how many are live."""
    columns = math.ceil(math.sqrt(len(live)))
    cell = side / columns
    wasted = torch.zeros_like(live) if wasted is None else wasted
    for c, (alive, idle) in enumerate(zip(live.tolist(), wasted.tolist(), strict=True)):
        place = x + c % columns * cell, TOP + c // columns * cell
        if alive:
            fill = YELLOW if idle else BLUE
            draw.frame(axes, *place, cell, cell, facecolor=fill, edgecolor="white")
        else:
            draw.skipped(axes, *place, cell, cell)
    draw.label(axes, x + side / 2, TOP + side + 2, name, weight="bold", color=BLACK)
    words = f"{int(live.sum())} of {len(live)}"
    draw.label(axes, x + side / 2, TOP + side + 4.6, words, fontsize=8)
