"""Static or dynamic: which channels images excite, what a cut keeps, where a choice counts."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_mask
from ..plots.style import BLACK, BLUE, DARK_GREY, GREEN, GREY, ORANGE, legend_below
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
    busiest = winner_mask(activity, density)  # [N, C]
    figure, axes = canvas(6 + 14 * count)
    title(axes, 2, 2.5, "The image")
    title(axes, 18, 2.5, f"How strongly it excites the {channels} channels of the last layer")
    for i, (image, values, won, name) in enumerate(
        zip(images, activity, busiest, names, strict=True)
    ):
        y = 16 + 14 * i
        axes.imshow(
            image[0].numpy(), extent=(2, 12, y, y - 10), aspect="auto", cmap="gray_r", vmin=0
        )
        frame(axes, 2, y - 10, 10, 10, edgecolor=BLACK)
        bars(axes, 18, y, values, 80 / channels, 9.5, towards="up", won=won)
        axes.plot([18, 98], [y, y], color=DARK_GREY, linewidth=0.8)
        note(axes, 7, y + 1.5, name)
    note(axes, 58, 4.6 + 14 * count, "dark: the busiest quarter; pale: the others")
    shared = (busiest.double() @ busiest.double().T).long()
    said = [
        f"{names[i]} and {names[j]} {shared[i, j]}"
        for i in range(count)
        for j in range(i + 1, count)
    ]
    k = int(busiest[0].sum())
    return figure, f"Channels in common, of the {k} busiest: {'; '.join(said)}."


def what_a_cut_keeps(
    densities: Sequence[float],
    static: Sequence[float],
    dynamic: Sequence[float],
    density: float,
    by_class: Sequence[Sequence[float]],
) -> tuple[Figure, str]:
    """Accuracy after a static cut of one layer and after a choice per image, and of each class.

    Args:
        static, dynamic: percent, one per density.
        density: one of them, at which the classes are shown.
        by_class: percent of each class there, after the static cut and after a choice per image.
    """
    at = int(np.argmin(abs(np.array(densities) - density)))
    fixed, own = static[at], dynamic[at]
    figure, (axes, bars_of) = plt.subplots(
        1, 2, figsize=(9, 3.4), layout="constrained", sharey=True
    )
    axes.plot(densities, dynamic, "o-", color=BLUE, markersize=4, label="own busiest channels")
    axes.plot(densities, static, "s--", color=GREEN, markersize=4, label="the same for all images")
    axes.plot([density] * 2, [fixed, own], "o-", color=BLACK, markersize=6, linewidth=1)
    axes.set(xlabel="density of the last layer", ylabel="test accuracy (%)", ylim=(0, 104))
    axes.set_title("all digits", fontsize=10)
    places = np.arange(len(by_class[0]))
    for values, colour, side in zip(by_class, (GREEN, BLUE), (-0.2, 0.2), strict=True):
        bars_of.bar(places + side, values, 0.4, color=colour)
    bars_of.set(xlabel="digit", xticks=places)
    bars_of.set_title(f"each digit, at d = {density:.2f}", fontsize=10)
    for one in (axes, bars_of):
        one.grid(alpha=0.3, axis="y")
    figure.suptitle("A static cut gives up whole digits, a choice per image none", fontsize=11)
    legend_below(figure, *axes.get_legend_handles_labels(), ncols=2)
    lost = [str(i) for i, right in enumerate(by_class[0]) if right < 50]
    less = f"fewer than half of the {_listed(lost)}s are right" if lost else "no digit loses half"
    return figure, (
        f"d = {density:.2f}: own channels {own:.1f} %, the same channels for all images "
        f"{fixed:.1f} %, where {less}."
    )


def _listed(words: Sequence[str]) -> str:
    return "s, ".join(words[:-1]) + "s and " * (len(words) > 1) + words[-1]


def where_choice_pays(panels: Mapping[str, Sequence[Sequence[dict]]]) -> tuple[Figure, str]:
    """Accuracy with own gates, and with one choice for all images, by density.

    Args:
        panels: ``{title: runs}``, rows of `how_dynamic` with densities; lines are medians.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(8.5, 3.5), layout="constrained")
    said = []
    span = 0.0  # of the axis that needs most; all get as much, so that gaps compare
    for axes, (name, runs) in zip(np.atleast_1d(row), panels.items(), strict=True):
        densities = sorted(r["density"] for r in runs[0])
        own, fixed = (_median(runs, densities, key) for key in ("own_gates", "mean_winners"))
        axes.plot(densities, own, "o-", color=BLUE, label="every image has its own channels")
        axes.plot(densities, fixed, "s--", color=ORANGE, label="the same channels for all images")
        axes.fill_between(densities, fixed, own, color=BLUE, alpha=0.1, linewidth=0)
        axes.set(xlabel="density d", title=name, xticks=densities)
        axes.grid(alpha=0.3)
        span = max(span, np.ptp(axes.get_ylim()))
        gaps = (own - fixed).tolist()
        said.append(f"{name}: {gaps[0]:.1f} points at d = {densities[0]:g}")
    for axes in np.atleast_1d(row):
        axes.set_ylim(axes.get_ylim()[1] - span, axes.get_ylim()[1])
    np.atleast_1d(row)[0].set_ylabel("images that are right (%)")
    figure.suptitle("With fifty classes the choice per image counts, with ten hardly", fontsize=11)
    legend_below(figure, *axes.get_legend_handles_labels(), ncols=2)
    return figure, "What the choice per image is worth: " + "; ".join(said) + "."


def _median(runs: Sequence[Sequence[dict]], densities: Sequence[float], key: str) -> np.ndarray:
    found = [[next(r for r in run if r["density"] == d)[key] for d in densities] for run in runs]
    return 100 * np.median(found, axis=0)


ROWS = ("single kernels,\nstripes", "channels,\nfilters", "positions\nof a map", "whole layers")
STATIC = (
    ["Kernel masks\n2017", "Stripe pruning\n2020"],
    ["Channel pruning\n2017", "Slimming\n2017", "AMC, NetAdapt\n2018"],
    [],
    [],
)
DYNAMIC = ([], ["Runtime pruning\n2017", "FBS\n2019"], ["Channel gating\n2019"], ["SkipNet\n2018"])


def related_work() -> tuple[Figure, str]:
    """A map: what is removed, in rows, and when it is decided, in columns."""
    figure, axes = canvas(50)
    label(axes, 39, 3, "static: decided once", color=GREEN, weight="bold", fontsize=11)
    label(axes, 81, 3, "dynamic: decided per image", color=BLUE, weight="bold", fontsize=11)
    note(axes, 39, 5.6, "pays once, runs on any hardware")
    note(axes, 81, 5.6, "pays a little per image, and has to be able to skip")
    axes.plot([61, 61], [1.5, 48], ":", color=GREY)
    for i, (words, fixed, chosen) in enumerate(zip(ROWS, STATIC, DYNAMIC, strict=True)):
        y = 8.5 + 10 * i
        label(axes, 1, y + 4, words, ha="left", fontsize=9.5, weight="bold")
        frame(axes, 15, y, 84, 8, facecolor="#F6F7F8", edgecolor="none", zorder=0)
        _entries(axes, 16.5, y, fixed, GREEN)
        _entries(axes, 63, y, chosen, BLUE)
    return figure, (
        "FBS removes channels, decides per image, and lets a linear prediction decide before "
        "anything is computed."
    )


def _entries(axes: object, x: float, y: float, names: Sequence[str], colour: str) -> None:
    for i, name in enumerate(names):
        mine = name.startswith("FBS")
        fill, words = (BLUE, "white") if mine else ("white", BLACK)
        where = (x + 14.5 * i, y + 1.2, 13.5, 5.6)
        box(axes, *where, name, colour=colour, fill=fill, color=words, fontsize=8)
