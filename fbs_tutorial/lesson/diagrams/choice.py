"""Static or dynamic: which channels images excite, what cuts keep, what a choice is worth."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_mask
from ..plots.style import (
    BLACK,
    BLUE,
    DARK_GREEN,
    DARK_GREY,
    GREEN,
    GREY,
    TEXT,
    ink,
    legend_below,
)
from .draw import bars, box, canvas, frame, label, note, title


def busiest_channels(
    images: Tensor, activity: Tensor, names: Sequence[str], density: float = 0.25
) -> tuple[Figure, str]:
    """How strongly each image excites each channel of a layer; the busiest are coloured.

    Args:
        images: ``[N, 1, H, W]``, two or three. activity: ``[N, C]``. names: of the images.
        density: the share of the channels that count as the busiest.
    """
    count, channels = activity.shape
    busiest, top = winner_mask(activity, density), activity.max().item()  # [N, C], one scale
    figure, axes = canvas(6 + 14 * count)
    title(axes, 2, 2.5, "The image")
    title(
        axes,
        18,
        2.5,
        f"How strongly it excites the {channels} channels of the last layer: mean of each map",
    )
    for i, (image, values, won, name) in enumerate(
        zip(images, activity, busiest, names, strict=True)
    ):
        y = 16 + 14 * i
        axes.imshow(
            image[0].numpy(), extent=(2, 12, y, y - 10), aspect="auto", cmap="gray_r", vmin=0
        )
        frame(axes, 2, y - 10, 10, 10, edgecolor=BLACK)
        bars(axes, 18, y, values, 80 / channels, 9.5, towards="up", won=won, top=top)
        label(axes, 17.5, y - 9.5, f"{top:.1f}", ha="right", fontsize=7, color=DARK_GREY)
        label(axes, 17.5, y, "0", ha="right", fontsize=7, color=DARK_GREY)
        axes.plot([18, 98], [y, y], color=DARK_GREY, linewidth=0.8)
        note(axes, 7, y + 1.5, name)
    note(axes, 58, 4.6 + 14 * count, "blue: the busiest quarter; pale: the others")
    shared = (busiest.double() @ busiest.double().T).long()
    said = [
        f"{names[i]} and {names[j]} {shared[i, j]}"
        for i in range(count)
        for j in range(i + 1, count)
    ]
    k = int(busiest[0].sum())
    return figure, f"Channels in common, of the {k} busiest: {'; '.join(said)}."


TENTHS = (0.05, 0.1, 0.2, 0.5, 1)  # ticks where the scarce densities have room
CUTS = ((BLUE, "o-"), (GREEN, "s--"), (DARK_GREEN, "^:"))  # the choice per image, static ones


def what_a_cut_keeps(
    densities: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    density: float,
    by_class: Sequence[Sequence[float]],
) -> tuple[Figure, str]:
    """Accuracy after cuts of one layer, a choice per image and static ones, and of each class.

    Args:
        curves: ``{name: percent, one per density}``, the choice per image first, at most three.
        density: one of them, at which the classes are shown.
        by_class: percent of each class there, for each curve.
    """
    at = int(np.argmin(abs(np.array(densities) - density)))
    figure, (axes, classes) = plt.subplots(
        1, 2, figsize=(9, 3.4), layout="constrained", sharey=True
    )
    places, said = np.arange(len(by_class[0])), []
    for i, (name, values) in enumerate(curves.items()):
        colour, look = CUTS[i]
        axes.plot(densities, values, look, color=colour, markersize=4, label=name)
        shift = 0.24 * (i - (len(curves) - 1) / 2)
        classes.plot(places + shift, by_class[i], look[0], color=colour, markersize=6)
        lost = [str(c) for c, right in enumerate(by_class[i]) if right < 50]
        less = f", fewer than half of the {_listed(lost)}s" if lost else ""
        said.append(f"{name} {values[at]:.1f} %{less}")
    axes.axvline(density, color=BLACK, linewidth=0.8)
    axes.set(xlabel="density of the last layer", ylabel="test accuracy (%)", ylim=(-4, 106))
    axes.set_xscale("log")
    axes.set_xticks(TENTHS, [f"{tick:g}" for tick in TENTHS], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title("all digits", fontsize=10)
    classes.set(xlabel="digit", xticks=places)
    for place in places[1:]:
        classes.axvline(place - 0.5, color=GREY, linewidth=0.5)
    classes.set_title(f"each digit, at d = {density:.2f}", fontsize=10)
    for one in (axes, classes):
        one.grid(alpha=0.3, axis="y")
    figure.suptitle("A well-chosen static cut keeps up until channels are scarce", fontsize=11)
    legend_below(figure, *axes.get_legend_handles_labels(), ncols=len(curves))
    return figure, f"Correct at d = {density:.2f}: {'; '.join(said)}."


def _listed(words: Sequence[str]) -> str:
    return "s, ".join(words[:-1]) + "s and " * (len(words) > 1) + words[-1]


def lost_without_choice(
    series: Mapping[str, Sequence[Sequence[dict]]], images: int
) -> tuple[Figure, str]:
    """Points lost when all images get the same channels, by density, on one axis.

    The bars are a standard error of the difference of two independent shares of ``images``: the
    two here are of the same images, so their difference scatters less, and at density 1 not at all.

    Args:
        series: ``{name: runs}``, rows of `how_dynamic` with densities; lines are medians.
        images: how many each row was measured on.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.5), layout="constrained")
    said = []
    for (name, runs), (colour, look, side) in zip(series.items(), PAYS, strict=False):
        densities = sorted(r["density"] for r in runs[0])
        own, fixed = (_median(runs, densities, key) for key in ("own_gates", "mean_winners"))
        lost, error = own - fixed, np.sqrt((own * (100 - own) + fixed * (100 - fixed)) / images)
        error[np.array(densities) == 1] = 0
        axes.errorbar(densities, lost, error, fmt=look, color=colour, capsize=3, markersize=6)
        axes.annotate(
            name, (densities[1], lost[1] + side * error[1]), (0, 9 * side - 4),
            textcoords="offset points", color=ink(colour), fontsize=9, weight="bold",
        )  # fmt: skip
        said.append(
            f"{name}: {lost[0]:.1f} points at d = {densities[0]:g}, error below {error[0]:.1f}"
        )
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.margins(y=0.12)
    axes.set(xlabel="density d", ylabel="points lost", xlim=(0.15, 1.05))
    axes.set_title("What is lost when all images get the same channels", fontsize=11)
    axes.grid(alpha=0.3)
    return figure, "Lost when all images get the same channels: " + "; ".join(said) + "."


PAYS = ((DARK_GREY, "s--", -1), (BLUE, "o-", 1))  # and on which side the name stands


def _median(runs: Sequence[Sequence[dict]], densities: Sequence[float], key: str) -> np.ndarray:
    found = [[next(r for r in run if r["density"] == d)[key] for d in densities] for run in runs]
    return 100 * np.median(found, axis=0)


ROWS = (
    "single kernels,\nstripes", "channels,\nfilters", "positions\nof a map", "whole layers",
    "experts,\ntokens",
)  # fmt: skip
STATIC = (
    ["Kernel masks\n2017", "Stripe pruning\n2020"],
    ["Slimming\n2017", "Lasso pruning\n2017", "AMC, NetAdapt\n2018"],
    ["Perforation\n2016"],
    ["ShortGPT\n2024"],
    [],
)
BY_DIAL = ([], ["Slimmable\n2019"], [], [], [])
DYNAMIC = (
    [],
    ["Runtime pruning\n2017", "FBS\n2019"],
    ["Channel gating\n2019"],
    ["SkipNet\n2018"],
    ["Mixture of\nexperts 2017", "Mixture of\ndepths 2024"],
)
BUILT = ("Kernel masks", "Stripe pruning", "Slimming")  # in notebook 12
COLUMNS = ((15, GREEN), (54.5, DARK_GREY), (70, BLUE))


def related_work() -> tuple[Figure, str]:
    """A map: what is removed, in rows, and when it is decided, in columns."""
    figure, axes = canvas(61)
    label(axes, 34, 3, "static: decided once", color=GREEN, weight="bold", fontsize=11)
    label(axes, 61, 3, "by a dial", color=DARK_GREY, weight="bold", fontsize=11)
    label(axes, 84.5, 3, "dynamic: per input", color=BLUE, weight="bold", fontsize=11)
    note(axes, 34, 5.8, "pays once, runs on any hardware")
    note(axes, 61, 5.8, "at run time")
    note(axes, 84.5, 5.8, "pays for each input, has to skip")
    for i, (words, *entries) in enumerate(zip(ROWS, STATIC, BY_DIAL, DYNAMIC, strict=True)):
        y = 8.5 + 10 * i
        label(axes, 1, y + 4, words, ha="left", fontsize=9.5, weight="bold")
        frame(axes, 14, y, 85.5, 8, facecolor="#F6F7F8", edgecolor="none", zorder=0)
        for (x, colour), names in zip(COLUMNS, entries, strict=True):
            _entries(axes, x, y, names, colour)
    for x in (53.5, 69):
        axes.plot([x, x], [1.5, 57], ":", color=GREY)
    note(
        axes,
        57,
        59,
        "coloured frames: built in this course; grey: exists, but is not in this course",
    )
    return figure, (
        "FBS removes channels, decides per image, and lets a linear prediction decide before "
        "the convolution is computed."
    )


def _entries(axes: object, x: float, y: float, names: Sequence[str], colour: str) -> None:
    step = 14.5 if colour == BLUE else 12.7
    for i, name in enumerate(names):
        edge, fill, words = GREY, "white", TEXT
        if name.startswith("FBS"):
            edge, fill, words = BLUE, BLUE, "white"
        elif name.startswith(BUILT):
            edge, words = colour, BLACK
        where = (x + step * i, y + 1.2, step - 0.9, 5.6)
        box(axes, *where, name, colour=edge, fill=fill, color=words, fontsize=8)
