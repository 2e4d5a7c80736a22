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
    DARK_GREY,
    GREEN,
    GREY,
    TEXT,
    ink,
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


def cut_by_hand(kept: Tensor, hits: Tensor, labels: Tensor, excited: Tensor) -> tuple[Figure, str]:
    """What a cut of the reader's leaves of each digit, and which digits excite which channel.

    Args:
        kept: bool ``[C]``. hits: which images are correct after the cut, bool ``[N]``.
        labels: ``[N]``. excited: how strongly each class excites each channel, ``[classes, C]``.
    """
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 4.4), height_ratios=(1, 1.5), layout="constrained"
    )
    classes, channels = excited.shape
    right = [100 * hits[labels == c].double().mean().item() for c in range(classes)]
    lost = [c for c in range(classes) if right[c] < 50]
    bars = top.bar(range(classes), right, 0.8, color=BLUE, edgecolor=BLACK)
    for c in lost:
        bars[c].set(facecolor=GREY, hatch="//")
    top.bar_label(bars, [f"{share:.0f}" for share in right], fontsize=8, padding=1)
    top.set(ylabel="correct (%)", ylim=(0, 118), xticks=range(classes), xlabel="digit")
    whole = 100 * hits.double().mean().item()
    top.set_title(f"{int(kept.sum())} of {channels} channels: {whole:.1f} % correct", fontsize=11)
    shown = bottom.imshow(
        excited.numpy(), cmap="Blues", aspect="auto", vmin=0, vmax=float(excited.quantile(0.98))
    )
    at = kept.nonzero()[:, 0].tolist()
    bottom.set(ylabel="digit", yticks=range(classes), xlabel="channel; those with a mark are kept")
    bottom.set_xticks(range(channels), [str(channel) for channel in range(channels)], fontsize=6)
    for channel in at:
        bottom.get_xticklabels()[channel].set(weight="bold", color=BLUE)
    bottom.plot(at, [-0.9] * len(at), "v", color=BLACK, markersize=4, clip_on=False)
    figure.colorbar(shown, ax=bottom, label="mean activity", pad=0.01)
    none = "No digit is lost" if not lost else f"Fewer than half are left of the {_listed(lost)}s"
    return figure, (
        f"With {len(at)} of {channels} channels {whole:.1f} % of the digits are correct. {none}."
    )


def every_digit(
    densities: Sequence[float], kept: Mapping[str, Sequence[Sequence[float]]], title: str = ""
) -> tuple[Figure, str]:
    """What cuts leave of each digit, at every density: a row per digit, a panel per cut.

    Args:
        densities: ascending, evenly spaced. kept: ``{cut: percent, [densities][digits]}``.
    """
    figure, row = plt.subplots(
        1, len(kept), figsize=(9, 3.3), sharey=True, squeeze=False, layout="constrained"
    )
    half, said = (densities[1] - densities[0]) / 2, []
    quarter = min(range(len(densities)), key=lambda i: abs(densities[i] - 0.25))
    for axes, (name, percent) in zip(row[0], kept.items(), strict=True):
        values = np.array(percent).T  # [digits, densities]
        extent = (densities[0] - half, densities[-1] + half, len(values) - 0.5, -0.5)
        shown = axes.imshow(
            values, cmap="cividis", vmin=0, vmax=100, extent=extent, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axes.set_title(name, fontsize=10, weight="bold")
        axes.set(xlabel="density", yticks=range(len(values)), xticks=(0.05, 0.25, 0.5, 0.75, 1))
        axes.set_xticklabels(["0.05", "0.25", "0.5", "0.75", "1"], fontsize=8)
        said.append(f"{name} {', '.join(f'{share:.0f}' for share in percent[quarter])}")
    row[0][0].set_ylabel("digit")
    figure.suptitle(title, fontsize=11)
    figure.colorbar(shown, ax=row[0].tolist(), label="correct (%)", pad=0.01)
    return figure, (
        f"Dark: lost. Percent correct of each digit, from 0 on, at d = {densities[quarter]:g}: "
        f"{'; '.join(said)}."
    )


def _listed(digits: Sequence[int]) -> str:
    words = [str(digit) for digit in digits]
    return "s, ".join(words[:-1]) + "s and " * (len(words) > 1) + words[-1]


def lost_without_choice(
    series: Mapping[str, Sequence[Sequence[dict]]],
    images: int,
    pairs: Mapping[str, Sequence[dict]] | None = None,
) -> tuple[Figure, str]:
    """Points lost when all images get the same channels, by density, on one axis.

    The bars are a standard error of the difference of two shares of the same ``images``. Where it
    is known which images they differ in, it is that of the pairs. Where not, it is that of two
    independent shares, which is too long; at density 1 both runs are one.

    Args:
        series: ``{name: runs}``, rows of `how_dynamic` with densities; lines are medians.
        images: how many each row was measured on.
        pairs: ``{name: rows}``, with "density", and how many images are correct in one run only,
            "own_only" and "same_only".
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.7), layout="constrained")
    said = []
    for (name, runs), (colour, look, side) in zip(series.items(), PAYS, strict=False):
        densities = sorted(r["density"] for r in runs[0])
        own, fixed = (_median(runs, densities, key) for key in ("own_gates", "mean_winners"))
        lost, error = own - fixed, np.sqrt((own * (100 - own) + fixed * (100 - fixed)) / images)
        known = {row["density"]: row for row in (pairs or {}).get(name, ())}
        for i, density in enumerate(densities):
            if density in known:
                error[i] = _paired(known[density], images)
        error[np.array(densities) == 1] = 0
        axes.errorbar(densities, lost, error, fmt=look, color=colour, capsize=3, markersize=6)
        most, sign = ("", "±") if known else ("at most ", "± at most")
        axes.annotate(
            f"{name}\nbars: {most}1 standard error",
            (densities[1], lost[1] + side * error[1]), (0, 8 * side), textcoords="offset points",
            va="bottom" if side > 0 else "top", color=ink(colour), fontsize=9,
        )  # fmt: skip
        each = [
            f"{points:.1f} {sign} {e:.1f} at d = {d:g}"
            for d, points, e in zip(densities, lost, error, strict=True)
            if d < 1
        ]
        said.append(f"{name}: {', '.join(each)}")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.margins(y=0.2)
    axes.set(xlabel="density d", ylabel="points lost", xlim=(0.15, 1.05))
    axes.set_title("What is lost when all images get the same channels", fontsize=11)
    axes.grid(alpha=0.3)
    return figure, "Points lost when all images get the same channels. " + "; ".join(said) + "."


def _paired(row: Mapping, images: int) -> float:
    """One standard error, in points, of the difference of two shares of the same images."""
    one, other = row["own_only"], row["same_only"]
    return 100 * np.sqrt(one + other - (one - other) ** 2 / images) / images


PAYS = ((DARK_GREY, "s--", -1), (BLUE, "o-", 1))  # and on which side the name stands


def _median(runs: Sequence[Sequence[dict]], densities: Sequence[float], key: str) -> np.ndarray:
    found = [[next(r for r in run if r["density"] == d)[key] for d in densities] for run in runs]
    return 100 * np.median(found, axis=0)


ROWS = (
    "single kernels,\nstripes", "channels,\nfilters", "positions\nof a map", "whole layers",
    "experts", "tokens",
)  # fmt: skip
STATIC = (
    ["Kernel masks\n2017", "Stripes\n2020"],
    ["Slimming\n2017", "Lasso pruning\n2017"],
    ["Perforation\n2016"],
    ["ShortGPT\n2024"],
    [],
    [],
)
BY_DIAL = ([], ["Slimmable\n2019"], [], [], [], [])
DYNAMIC = (
    [],
    ["Runtime\npruning 2017", "FBS\n2019", "Batch-shaped\ngates 2020",
     "Dynamic slim-\nmable 2021"],
    ["Channel\ngating 2019"],
    ["Early exits\n2016", "SkipNet\n2018"],
    ["Mixture of\nexperts 2017"],
    ["Mixture of\ndepths 2024"],
)  # fmt: skip
BUILT = ("Kernel masks", "Stripes", "Slimming")  # in notebook 12
COLUMNS = ((14.5, GREEN), (39.5, DARK_GREY), (53, BLUE))


def related_work() -> tuple[Figure, str]:
    """A map: what is removed, in rows, and when it is decided, in columns."""
    figure, axes = canvas(64)
    heads = (
        (26, "static: decided once", GREEN, "pays once, runs on any hardware"),
        (45, "by a dial", DARK_GREY, "at run time"),
        (76, "dynamic: per input", BLUE, "pays for each input, has to skip"),
    )
    for x, words, colour, remark in heads:
        label(axes, x, 3, words, color=colour, weight="bold", fontsize=11)
        note(axes, x, 5.8, remark)
    for i, (words, *entries) in enumerate(zip(ROWS, STATIC, BY_DIAL, DYNAMIC, strict=True)):
        y = 8.5 + 8.7 * i
        label(axes, 1, y + 3.6, words, ha="left", fontsize=9.5, weight="bold")
        frame(axes, 13.5, y, 86, 7.2, facecolor="#F6F7F8", edgecolor="none", zorder=0)
        for (x, colour), names in zip(COLUMNS, entries, strict=True):
            _entries(axes, x, y, names, colour)
    for x in (38.7, 52):
        axes.plot([x, x], [1.5, 60], ":", color=GREY)
    note(
        axes,
        57,
        62,
        "coloured frames: built in this course; grey: exists, but is not in this course",
    )
    return figure, (
        "FBS removes channels, decides per image, and lets a linear prediction decide before "
        "the convolution is computed."
    )


def _entries(axes: object, x: float, y: float, names: Sequence[str], colour: str) -> None:
    step = 11.7
    for i, name in enumerate(names):
        edge, fill, words = GREY, "white", TEXT
        if name.startswith("FBS"):
            edge, fill, words = BLUE, BLUE, "white"
        elif name.startswith(BUILT):
            edge, words = colour, BLACK
        where = (x + step * i, y + 0.8, step - 0.8, 5.6)
        box(axes, *where, name, colour=edge, fill=fill, color=words, fontsize=8)
