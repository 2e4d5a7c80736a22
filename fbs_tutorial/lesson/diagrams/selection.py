"""How the winners are selected, and how a loser becomes one of them."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_mask
from ..plots.style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, PALE, legend_below
from . import draw

WIDEST = 16  # channels that have room for their values
FEW = 6  # lines that have room for their names
FIRST = {"color": DARK_GREY, "linewidth": 1.3, "linestyle": "-."}  # who won at the start


def selections(g: Tensor, ways: Mapping[str, Tensor], k: int) -> tuple[Figure, str]:
    """One image's g, and who wins by each way of selecting.

    Args:
        g: ``[C]``, at most 16 channels. ways: ``{name: bool [C]}``. k: how many should win.

    Raises:
        ValueError: more channels than the picture has room for.
    """
    if g.ndim != 1 or len(g) > WIDEST:
        raise ValueError(f"g must be [C] of at most {WIDEST} channels, got {list(g.shape)}")
    cell, left, top = 60 / len(g), 22.0, 15.0
    figure, axes = draw.canvas(top + 5 * len(ways) + 2)
    draw.title(axes, 2, 2.4, f"Three ways to choose {k} of {len(g)}, when values are equal")
    draw.label(axes, left - 1, 11.5, "g", ha="right", weight="bold")
    draw.bars(axes, left, 13, g, cell, 6, towards="up", colour=DARK_GREY)
    axes.plot([left, left + 60], [13, 13], color=BLACK, linewidth=0.8)
    said = []
    for row, (name, won) in enumerate(ways.items()):
        y, count = top + 5 * row, int(won.sum())
        draw.label(axes, left - 1, y + 2, name, ha="right")
        for c, wins in enumerate(won.tolist()):
            fill, ink = (BLUE, "white") if wins else (PALE, DARK_GREY)
            draw.frame(axes, left + c * cell, y, cell, 4, facecolor=fill, edgecolor="white")
            words = {"fontsize": 8, "color": ink}
            draw.label(axes, left + (c + 0.5) * cell, y + 2, f"{g[c]:.1f}", **words)
        shade = BLACK if count == k else ORANGE
        draw.label(axes, left + 61.5, y + 2, f"{count} win", ha="left", color=shade, weight="bold")
        said.append(f"{name}: channels {', '.join(map(str, won.nonzero()[:, 0].tolist()))}")
    return figure, f"{k} of {len(g)} should win. {'; '.join(said)}."


def crossing(
    history: Tensor, density: float, channel: int, title: str = "", xlabel: str = "training step"
) -> tuple[Figure, str]:
    """One image's g over training: a loser on its way to the winners, and the cut between them.

    Args:
        history: ``[steps, C]``, g of one image after each step.
        density: at which they compete. channel: the one to follow.
    """
    won = winner_mask(history, density)  # [steps, C]
    lowest = history.masked_fill(~won, torch.inf).amin(dim=1)
    highest = history.masked_fill(won, 0.0).amax(dim=1)
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    steps, few = range(len(history)), history.shape[1] <= FEW
    others = [c for c in range(history.shape[1]) if not won[0, c] and c != channel]
    if others and not few:
        low, high = history[:, others].aminmax(dim=1)
        axes.fill_between(steps, low, high, color=FAINT, zorder=0, label="all others")
    for c in range(history.shape[1]) if few else won[0].nonzero()[:, 0].tolist():
        look = FIRST if won[0, c] else {"color": GREY, "linewidth": 0.5}
        axes.plot(steps, history[:, c], zorder=1, **look)
        if few:
            place = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(f"channel {c}", (steps[-1], history[-1, c]), (6, 0), **place)
    axes.plot(steps, (lowest + highest) / 2, "--", color=ORANGE, linewidth=2, label="the cut")
    one, wins = history[:, channel], won[:, channel]
    axes.plot(steps, one, color=BLUE, linewidth=1, zorder=3)
    loses, is_winner = one.masked_fill(wins, torch.nan), one.masked_fill(~wins, torch.nan)
    axes.plot(steps, loses, ":", color=BLACK, linewidth=3, label=f"channel {channel} loses")
    axes.plot(steps, is_winner, color=BLUE, linewidth=3, label=f"channel {channel} wins", zorder=4)
    axes.set(xlabel=xlabel, ylabel="predicted saliency g", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    if not few:  # whatever is far above the cut may leave the picture
        axes.set_ylim(0, 1.2 * max(float(one.max()), float(lowest.max())))
    axes.plot([], [], label="wins at the start", **FIRST)
    if few:
        axes.plot([], [], color=GREY, linewidth=0.5, label="the others")
    legend_below(figure, ncols=5)
    first = int(wins.nonzero()[0]) if wins.any() else None
    when = "never wins" if first is None else f"wins for the first time at step {first}"
    changed, k = int((won[0] & ~won[-1]).sum()), int(won[0].sum())
    sentence = f"Channel {channel} {when}. By the end {changed} of {k} first winners have lost."
    return figure, sentence


def sleepers(needed: Tensor, found: Tensor) -> tuple[Figure, str]:
    """Kinds of images, the channels that each of them needs, and those that were found in training.

    Args:
        needed: bool ``[kinds, C]``. found: which of them win for their kind.
    """
    kinds, channels = needed.shape
    cell, left, top = 60 / channels, 22.0, 11.0
    figure, axes = draw.canvas(top + 4 * kinds + 5)
    draw.title(axes, 2, 2.4, f"{kinds} kinds of images, and the channels that each kind needs")
    for c in range(channels):
        draw.note(axes, left + (c + 0.5) * cell, top - 1.6, f"{c}")
    for kind in range(kinds):
        y = top + 4 * kind
        draw.label(axes, left - 1, y + 1.8, f"kind {kind}", ha="right")
        for c in range(channels):
            asked, has = bool(needed[kind, c]), bool(found[kind, c])
            fill = BLUE if has else "white" if asked else FAINT
            draw.frame(
                axes, left + c * cell, y, cell - 0.4, 3.6, facecolor=fill,
                edgecolor=BLUE if asked else "none", linewidth=1.4,
            )  # fmt: skip
            if asked:
                words, ink = ("wins", "white") if has else ("sleeps", BLACK)
                draw.label(axes, left + (c + 0.46) * cell, y + 1.8, words, fontsize=8, color=ink)
    draw.note(axes, left + 30, top + 4 * kinds + 1.6, "channel")
    asleep = (needed & ~found).any(dim=0).nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, asleep)) if asleep else "none"
    return figure, (
        f"{int((found & needed).sum())} of {int(needed.sum())} needed channels win for their kind "
        f"in the end. Asleep: {listed}."
    )
