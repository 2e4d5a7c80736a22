"""How the winners are selected, and how a loser becomes one of them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_mask
from ..plots.style import (
    BLACK,
    BLUE,
    DARK_GREY,
    FAINT,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    ink,
    name_ends,
)
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
    history: Tensor, density: float, channel: int, title: str = "", loss: Sequence[float] = ()
) -> tuple[Figure, str]:
    """One image's g over training: a loser on its way to the winners, and the cut between them.

    Args:
        history: ``[steps, C]``, g of one image after each step.
        density: at which they compete. channel: the one to follow.
        loss: of each step, drawn beneath if given.
    """
    won = winner_mask(history, density)  # [steps, C]
    few = history.shape[1] <= FEW
    size, heights = (8, 3.4 + (len(loss) > 0)), (3.4, 1)[: 1 + (len(loss) > 0)]
    figure, all_axes = plt.subplots(
        len(heights), 1, figsize=size, height_ratios=heights, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    axes, last = all_axes[0, 0], len(history) - 1
    ends = _competitors(axes, history, won, channel, few)
    cut = _cut(history, won)
    axes.plot(cut, "--", color=ORANGE, linewidth=2, label="the cut")
    ends.append(("the cut", float(cut[-1]), ORANGE))
    one, wins = history[:, channel], won[:, channel]
    axes.plot(one, color=BLUE, linewidth=1, zorder=3)
    for name, now, line, colour, away in (
        ("loses", ~wins, ":", BLACK, (0, -7)),
        ("wins", wins, "-", BLUE, (-6, 7)),
    ):
        axes.plot(one.masked_fill(~now, torch.nan), line, color=colour, linewidth=3, zorder=4)
        if now.any():
            middle = int(now.nonzero()[:, 0].double().mean())
            style = {"ha": "center", "va": "top" if away[1] < 0 else "bottom", "fontsize": 9}
            axes.annotate(name, (middle, one[middle]), away, textcoords="offset points",
                          color=ink(colour), weight="bold", **style)  # fmt: skip
    ends.append((f"channel {channel}", float(one[-1]), BLUE))
    axes.set(ylabel="predicted saliency g", title=title, xlim=(0, 1.01 * last))
    axes.spines[["top", "right"]].set_visible(False)
    if not few:  # whatever is far above the cut may leave the picture
        axes.set_ylim(0, 1.05 * float(torch.stack([history[:, won[0]].max(), one.max()]).max()))
    if len(loss):
        all_axes[1, 0].plot(loss, color=BLACK)
        all_axes[1, 0].set(ylabel="loss", ylim=(0, None))
        all_axes[1, 0].spines[["top", "right"]].set_visible(False)
    all_axes[-1, 0].set_xlabel("training step")
    name_ends(axes, 1.02 * last, ends)
    first = int(wins.nonzero()[0]) if wins.any() else None
    when = "never wins" if first is None else f"wins for the first time at step {first}"
    changed, k = int((won[0] & ~won[-1]).sum()), int(won[0].sum())
    sentence = f"Channel {channel} {when}. By the end {changed} of {k} first winners have lost."
    return figure, sentence


def _cut(history: Tensor, won: Tensor) -> Tensor:
    """Halfway between the weakest winner and the strongest loser, ``[steps]``."""
    lowest = history.masked_fill(~won, torch.inf).amin(dim=1)
    return (lowest + history.masked_fill(won, 0.0).amax(dim=1)) / 2


def _competitors(
    axes: Axes, history: Tensor, won: Tensor, channel: int, few: bool
) -> list[tuple[str, float, str]]:
    """All but the one channel: lines of the first winners, the others as lines or as an area.

    Returns:
        The names of lines, where they end, and their colours, for `name_ends`.
    """
    first = [c for c in won[0].nonzero()[:, 0].tolist() if c != channel]
    others = [c for c in range(won.shape[1]) if c not in first and c != channel]
    for c in first:
        axes.plot(history[:, c], zorder=1, **FIRST)
    if few:
        for c in others:
            axes.plot(history[:, c], color=GREY, linewidth=0.8, zorder=1)
        return [(f"channel {c}", float(history[-1, c]), DARK_GREY) for c in (*first, *others)]
    low, high = history[:, others].aminmax(dim=1)
    axes.fill_between(range(len(history)), low, high, color=FAINT, zorder=0)
    words = "grey area: the other channels\ndash-dotted: the first winners"
    axes.text(0.01, 0.97, words, transform=axes.transAxes, fontsize=9, va="top",
              color=ink(DARK_GREY))  # fmt: skip
    return []


def lifted(
    lines: Mapping[str, Tensor], cut: Tensor, channel: int, wins_at: int
) -> tuple[Figure, str]:
    """One channel's g for one image, in trainings in which different images may move it.

    Args:
        lines: ``{which images move it: g [steps]}``, up to four, all images first.
        cut: ``[steps]``, between winners and losers when all images move it.
        wins_at: the step of its first win then.
    """
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.plot(cut, "--", color=ORANGE, linewidth=1.5)
    ends, said = [("the cut", float(cut[-1]), ORANGE)], []
    for (name, g), (colour, line) in zip(lines.items(), MOVERS, strict=False):
        axes.plot(g, line, color=colour, linewidth=2.2)
        ends.append((name, float(g[-1]), colour))
        said.append(f"{name} {g[0]:.2f}, {g[wins_at]:.2f}, {g[-1]:.2f}")
    axes.axvline(wins_at, color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlabel="training step", ylabel=f"g of channel {channel}")
    axes.set(xlim=(0, 1.01 * (len(cut) - 1)), ylim=(0, None))
    axes.set_title(f"Who moves channel {channel}?", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    name_ends(axes, 1.02 * (len(cut) - 1), ends)
    return figure, (
        f"g of channel {channel} before training, at step {wins_at} and at the last step, moved "
        f"by: {'; '.join(said)}."
    )


MOVERS = ((BLUE, "-"), (BLACK, ":"), (DARK_GREY, "-."), (PURPLE, "-"))


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
