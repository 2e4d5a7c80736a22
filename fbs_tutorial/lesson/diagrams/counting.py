"""What is computed: why two densities multiply, and which channels are live after a sum."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..plots.style import BLUE, DARK_GREY, PALE
from . import draw


def kernel_grid(live_inputs: Tensor, winners: Tensor) -> tuple[Figure, str]:
    """Which of the C_out × C_in kernels one image needs, and the small convolution that is left.

    Args:
        live_inputs: bool ``[C_in]``. winners: bool ``[C_out]``.
    """
    rows, columns = len(winners), len(live_inputs)
    k, live = int(winners.sum()), int(live_inputs.sum())
    cell = min(34 / rows, 64 / (columns + live), 3.6)
    left, top = 14.0, 13.0
    figure, axes = draw.canvas(top + rows * cell + 4)
    share = 100 * k * live / (rows * columns)
    draw.title(axes, 2, 2.4, f"Rows times columns: {share:.0f} % of the kernels are left")
    right, bottom = left + columns * cell, top + rows * cell
    draw.label(axes, (left + right) / 2, top - 4.6, f"{live} of {columns} inputs are live")
    for i, alive in enumerate(live_inputs.tolist()):
        middle = left + (i + 0.5) * cell
        colour = BLUE if alive else PALE
        draw.arrow(axes, (middle, top - 3.4), (middle, top - 0.6), colour=colour, size=7)
    draw.kernels(axes, left, top, winners, live_inputs, cell)
    draw.bracket(axes, (left - 1.6, top), (left - 1.6, bottom), f"{k} of {rows}\nwin", depth=-1)
    draw.note(axes, 2, bottom + 2, "one square: the k × k weights of one pair", ha="left")
    shares = f"{100 * k / rows:.0f} % × {100 * live / columns:.0f} % = {share:.0f} %"
    _what_is_left(axes, k, live, cell, right, (top + bottom) / 2, shares)
    sentence = (
        f"{k} of {rows} output channels win and {live} of {columns} input channels are live. "
        f"{k} × {live} = {k * live} of {rows * columns} kernels are computed; rows times columns: "
        f"{shares}."
    )
    return figure, sentence


def _what_is_left(
    axes: Axes, k: int, live: int, cell: float, right: float, middle: float, shares: str
) -> None:
    """The kernels that are computed, moved together."""
    left = right + 14
    draw.arrow(axes, (right + 2, middle), (left - 2, middle), "what is left")
    upper = middle - k * cell / 2 - 2
    everything = torch.ones(k, dtype=torch.bool), torch.ones(live, dtype=torch.bool)
    draw.kernels(axes, left, upper, *everything, cell)
    across, under = left + max(live * cell, 18) / 2, upper + k * cell
    draw.label(axes, across, under + 2, f"{k} × {live} = {k * live} kernels")
    draw.label(axes, across, under + 5, shares, color=BLUE, fontsize=12, weight="bold")


def live_sum(
    branches: Sequence[Tensor], names: Sequence[str] = ("shortcut", "branch")
) -> tuple[Figure, str]:
    """Live channels of branches that are added: a channel of the sum is live if any one's is.

    Args:
        branches: bool ``[C]`` each, two or more. names: one for each.
    """
    total = torch.stack(list(branches)).any(dim=0)
    channels = len(total)
    cell = min(60 / channels, 4.0)
    left, step = 20.0, cell + 3.6
    figure, axes = draw.canvas(9 + step * len(branches) + cell + 0.5)
    draw.title(axes, 2, 2.4, f"A sum is live where any part is: {int(total.sum())} of {channels}")
    for i, (name, live) in enumerate(zip(names, branches, strict=True)):
        _channel_row(axes, left, 6 + i * step, live, cell, name, "+" if i else "")
    bottom = 6 + len(branches) * step
    axes.plot([left - 3, left + channels * cell], [bottom - 1.8] * 2, color=DARK_GREY, linewidth=1)
    _channel_row(axes, left, bottom, total, cell, "sum", "=")
    for c, live in enumerate(total.tolist()):
        if live:
            _down_to_the_sum(axes, left + (c + 0.5) * cell, [bool(b[c]) for b in branches], step)
    counts = " and ".join(f"{int(b.sum())}" for b in branches)
    sentence = (
        f"Of {channels} channels {counts} are live before the sum and {int(total.sum())} after "
        "it: a channel of the sum is empty only where all parts are empty."
    )
    return figure, sentence


def _channel_row(
    axes: Axes, x: float, y: float, live: Tensor, cell: float, name: str, sign: str
) -> None:
    """One square per channel, filled where it is live, with name, sign and count."""
    draw.label(axes, 2, y + cell / 2, name, ha="left", weight="bold")
    draw.label(axes, x - 2, y + cell / 2, sign, fontsize=12)
    for c, alive in enumerate(live.tolist()):
        left = x + c * cell
        if alive:
            draw.frame(axes, left, y, cell, cell, facecolor=BLUE, edgecolor="white")
        else:
            draw.skipped(axes, left, y, cell, cell)
    words = f"{int(live.sum())} live"
    draw.label(axes, x + len(live) * cell + 1.5, y + cell / 2, words, ha="left")


def _down_to_the_sum(axes: Axes, x: float, live: Sequence[bool], step: float) -> None:
    """A thin line from the lowest live square of a column to the sum's."""
    lowest = max(i for i, alive in enumerate(live) if alive)
    start = 6 + (lowest + 1) * step - 3.4
    draw.arrow(axes, (x, start), (x, 6 + len(live) * step - 0.3), colour=BLUE, size=7)
