"""How gates are trained: where the gradient goes, and the schedule of densities."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_take_all
from ..plots.style import BLACK, BLUE, DARK_GREY, ORANGE, PALE
from . import draw

WIDEST = 12  # channels that have room for their values


def gradient_through_winners(g: Tensor, density: float) -> tuple[Figure, str]:
    """Winner-take-all on one image's ``g`` ``[C]``, forwards, and the gradient that comes back.

    Raises:
        ValueError: more channels than the picture has room for.
    """
    if g.ndim != 1 or len(g) > WIDEST:
        raise ValueError(f"g must be [C] of at most {WIDEST} channels, got {list(g.shape)}")
    g = g.detach().clone().requires_grad_()
    pi = winner_take_all(g[None], density)[0]
    (slope,) = torch.autograd.grad(pi.sum(), g)  # 1 where the gradient passes
    figure, axes = draw.canvas(9 + 3.6 * len(g) + 5)
    passes = int(slope.count_nonzero())
    draw.title(axes, 2, 2.4, f"The gradient reaches {passes} of {len(g)} channels: the winners")
    for x, words in ((20, "predicted saliency g"), (50, "winner-take-all"), (80, "gate pi")):
        draw.label(axes, x, 6.6, words, weight="bold")
    height = 3.6 * len(g) + 1
    draw.box(axes, 42, 8.5, 16, height, fill="#FAFAFA", colour=DARK_GREY)
    unit = float(g.detach().abs().max()) or 1.0
    for c in range(len(g)):
        row = float(g[c].detach()) / unit, float(pi[c].detach()), bool(slope[c])
        _channel(axes, 9 + 3.6 * c, c, float(g[c].detach()), *row)
    draw.arrow(axes, (22, height + 11), (28, height + 11), colour=BLACK)
    draw.note(axes, 29, height + 11, "forward: the value", ha="left")
    draw.arrow(axes, (58, height + 11), (52, height + 11), colour=ORANGE, line="--")
    draw.note(axes, 59, height + 11, "backward: the gradient", ha="left")
    won = ", ".join(str(c) for c in range(len(g)) if slope[c])
    sentence = (
        f"At density {density:g} channels {won} win. The gradient passes to these {passes} "
        f"unchanged; the other {len(g) - passes} get exactly 0 from this image."
    )
    return figure, sentence


def _channel(
    axes: Axes, y: float, channel: int, g: float, length: float, pi: float, passes: bool
) -> None:
    """One row: the bar of g, the way through the box and back, and the gate."""
    middle, colour = y + 1.5, BLUE if passes else DARK_GREY
    draw.note(axes, 3.5, middle, f"channel {channel}", ha="left")
    width = 12 * abs(length)
    fill = {"facecolor": BLUE if passes else PALE, "edgecolor": colour}
    draw.frame(axes, 14, y + 0.5, width, 2, **fill)
    draw.label(axes, 14 + width + 1, middle, f"{g:.2f}", ha="left", fontsize=8, color=colour)
    draw.label(axes, 80, middle, f"{pi:.2f}" if pi else "0", color=colour)
    if passes:
        draw.arrow(axes, (34, middle - 0.55), (74, middle - 0.55), colour=BLACK, size=9)
        draw.arrow(axes, (74, middle + 0.75), (34, middle + 0.75), colour=ORANGE, line="--", size=9)
        return
    axes.plot([34, 49], [middle - 0.55] * 2, color=DARK_GREY, linewidth=1)
    axes.plot([74, 51], [middle + 0.75] * 2, "--", color=ORANGE, linewidth=1)
    for x, dy, shade in ((49, -0.55, DARK_GREY), (51, 0.75, ORANGE)):
        axes.plot([x, x], [middle + dy - 0.6, middle + dy + 0.6], color=shade, linewidth=2)


def density_staircase(
    steps: Sequence[tuple[float, int]], accuracies: Sequence[float] | None = None
) -> tuple[Figure, str]:
    """A schedule: the density at each epoch, a stair per step, and how good each network ends.

    Args:
        steps: ``(density, epochs)`` in the order of training.
        accuracies: 0..1, at the end of each step; written under its stair.
    """
    total = sum(epochs for _, epochs in steps)
    left, right, top, height = 12.0, 97.0, 8.0, 26.0
    figure, axes = draw.canvas(top + height + (8 if accuracies is not None else 4))
    first, last = steps[0][0], steps[-1][0]
    draw.title(axes, 2, 2.4, f"Down a staircase: from d = {first:g} to {last:g} in {total} epochs")
    floor, x = top + height, left
    for i, (density, epochs) in enumerate(steps):
        width = (right - left) * epochs / total
        level = floor - height * density
        draw.frame(axes, x, level, width, floor - level, facecolor=PALE, edgecolor="none")
        axes.plot([x, x + width], [level, level], color=BLUE, linewidth=3, zorder=3)
        if i:
            before = floor - height * steps[i - 1][0]
            draw.arrow(axes, (x, before), (x, level), colour=BLUE, size=8)
        draw.label(axes, x + width / 2, level - 1.4, f"{density:g}", color=BLUE, weight="bold")
        draw.note(axes, x + width / 2, floor + 1.6, f"{epochs}")
        if accuracies is not None:
            draw.label(axes, x + width / 2, floor + 6, f"{100 * accuracies[i]:.1f}", fontsize=8)
        x += width
    axes.plot([left, right], [floor, floor], color=BLACK, linewidth=1)
    draw.note(axes, left - 1, floor + 1.6, "epochs", ha="right")
    draw.note(axes, left - 1, top, "density", ha="right")
    if accuracies is None:
        ending = ""
    else:
        draw.label(axes, left - 1, floor + 6, "right, %", ha="right", fontsize=8)
        ending = (
            f" The network reads {100 * accuracies[0]:.1f} % of the images at the first stair "
            f"and {100 * accuracies[-1]:.1f} % at the last."
        )
    sentence = (
        f"The density falls from {first:g} to {last:g} in {len(steps)} steps of "
        f"{_epochs(steps)} epochs; each step starts from the weights of the one before.{ending}"
    )
    return figure, sentence


def _epochs(steps: Sequence[tuple[float, int]]) -> str:
    counts = sorted({epochs for _, epochs in steps})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
