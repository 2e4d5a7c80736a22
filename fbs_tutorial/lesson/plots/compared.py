"""Pictures of FBS beside its static relatives: what each costs, and what is removed."""

from collections.abc import Mapping, Sequence
from statistics import mean

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ...bench.compared import LABELS, grouped
from .style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    YELLOW,
    legend_below,
    plain_ticks,
)

LOOKS = {  # colour, marker, line
    "plain": (BLACK, "*", ""),
    "narrow": (DARK_GREY, "x", "--"),
    "scratch": (BLACK, "+", ":"),
    "slimming": (GREEN, "s", "-"),
    "kernels": (PURPLE, "P", "-"),
    "stripes": (ORANGE, "^", "-"),
    "fbs": (BLUE, "o", "-"),
    "fbs, idle removed": (BLUE, "o", ":"),
    "slimming, fbs": (YELLOW, "D", "-"),
    "slimming, fbs, idle removed": (YELLOW, "D", ":"),
}
AXES = {"macs": "MACs (millions)", "bytes": "stored (kB)", "ms": "ms, one image"}
UNITS = {"macs": 1e6, "bytes": 1e3, "ms": 1.0}


def compared(results: dict, title: str = "") -> tuple[Figure, str]:
    """Test accuracy over MACs, stored bytes and milliseconds: a line for each method.

    Args:
        results: of `compare`. Points are means over its seeds; bars run from the lowest seed to
            the highest. Milliseconds are of the seeds for which the machine was idle, if any.
    """
    timed = all(any("ms" in row for row in rows) for rows in grouped(results).values())
    names = list(AXES) if timed else [name for name in AXES if name != "ms"]
    figure, row = plt.subplots(
        1, len(names), figsize=(3.2 * len(names), 4.2), sharey=True, layout="constrained"
    )
    for axes, name in zip(row, names, strict=True):
        _lines(axes, results, name)
    row[0].set_ylabel("test accuracy (%)")
    legend_below(figure, *row[0].get_legend_handles_labels(), ncols=3, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure, _sentence(results)


def _lines(axes: Axes, results: dict, name: str) -> None:
    """One panel: all methods over what ``name`` costs."""
    groups = grouped(results)
    for method, (colour, marker, line) in LOOKS.items():
        points = [rows for (_, other), rows in groups.items() if other == method]
        if method == "plain":  # a point, and from there to the left what others would have to keep
            right = 100 * mean(row["test_accuracy"] for row in points[0])
            axes.axhline(right, color=colour, linewidth=0.6)
        cost = [_cost(rows, name) for rows in points]
        right = [[100 * row["test_accuracy"] for row in rows] for rows in points]
        middle = [mean(values) for values in right]
        off = [[m - min(v) for m, v in zip(middle, right, strict=True)],
               [max(v) - m for m, v in zip(middle, right, strict=True)]]  # fmt: skip
        axes.errorbar(cost, middle, off, color=colour, marker=marker, linestyle=line,
                      markersize=10 if marker == "*" else 5, elinewidth=0.6,
                      label=LABELS[method])  # fmt: skip
    axes.set(xlabel=AXES[name], xscale="log")
    ends = [_cost(rows, name) for rows in groups.values()]
    plain_ticks(axes.xaxis, _ticks(min(ends), max(ends)))
    axes.grid(alpha=0.3)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from a little below ``low`` to a little above ``high``."""
    steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    return [step for step in steps if low / 1.3 <= step <= high * 1.3]


def _cost(rows: list[dict], name: str) -> float:
    times = [row["ms"]["1"] for row in rows if "ms" in row]
    values = times if name == "ms" else [row[name] for row in rows]
    return mean(values) / UNITS[name]


def _sentence(results: dict) -> str:
    """Who is best at each level, and how far FBS is from it."""
    said = []
    for level in results["plan"]["densities"]:
        means = {
            method: 100 * mean(row["test_accuracy"] for row in rows)
            for (own, method), rows in grouped(results).items()
            if own == level
        }
        best = max(means, key=means.get)
        said.append(
            f"With the MACs of winners at d = {level:g}, {LABELS[best]} is best with "
            f"{means[best]:.1f} %; FBS has {means['fbs']:.1f} %."
        )
    return "\n".join(said)


def filter_shapes(kept: Mapping[str, Tensor]) -> tuple[Figure, str]:
    """The shapes of filters, each its 3x3 taps, kept ones filled: ``{layer: [C_out, 3, 3]}``."""
    figure, column = plt.subplots(
        len(kept), 1, figsize=(8, 0.6 * len(kept) + 0.3), squeeze=False, layout="constrained"
    )
    said = []
    for axes, (name, shapes) in zip(column[:, 0], kept.items(), strict=True):
        shown = shapes[:32].float().numpy()
        strip = np.full((3, 4 * len(shown) - 1), np.nan)
        for i, shape in enumerate(shown):
            strip[:, 4 * i : 4 * i + 3] = shape
        axes.imshow(strip, cmap=ListedColormap(["#EEEEEE", BLUE]), vmin=0, vmax=1)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_axis_off()
        said.append(f"{name} keeps {shapes.float().mean():.0%} of its stripes")
    return figure, "; ".join(said) + ". Blue taps are kept; the first 32 filters of each layer."


def pruning_level(
    points: Mapping[str, Sequence[Mapping]], method: str, share: float
) -> tuple[Figure, str]:
    """One method at one level, among all methods at all levels.

    Args:
        points: for each method a list of mappings with "share"; "before" and "accuracy", right
            after the cut and after fine-tuning; "macs", as a share of the unpruned network's; "kB";
            and "layers" ``{name: share of its MACs}``.
        share: of what the method prunes that is left.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.5, 3.7), width_ratios=(1.5, 1), layout="constrained"
    )
    looks = zip(points.items(), (PURPLE, GREEN, ORANGE, BLUE), "Ps^o", strict=True)
    for (name, row), colour, marker in looks:
        macs, cut, tuned = ([100 * p[key] for p in row] for key in ("macs", "before", "accuracy"))
        left.plot(macs, tuned, color=colour, marker=marker, markersize=4, label=name)
        if cut != tuned:
            left.plot(macs, cut, "--", color=colour, linewidth=0.9)
    here = min(points[method], key=lambda point: abs(point["share"] - share))
    left.plot([100 * here["macs"]], [100 * here["accuracy"]], "o", color=BLACK, markersize=13,
              fillstyle="none", label="you are here")  # fmt: skip
    left.set(xlabel="MACs (% of the unpruned network)", ylabel="test accuracy (%)", ylim=(0, 104))
    left.grid(alpha=0.3)
    legend_below(figure, *left.get_legend_handles_labels(), ncols=5, fontsize=8)
    names, shares = list(here["layers"]), [100 * value for value in here["layers"].values()]
    bars = right.bar(names, shares, color=GREY, edgecolor=BLACK)
    right.bar_label(bars, [f"{value:.0f}" for value in shares], fontsize=8, padding=2)
    right.set(ylabel="MACs left in the layer (%)", ylim=(0, 115), title=method)
    right.tick_params(axis="x", rotation=30)
    cut = "" if here["before"] == here["accuracy"] else f"{here['before']:.1%} after the cut and "
    return figure, (
        f"{method} at {here['share']:.1f}: {here['macs']:.1%} of the MACs, {here['kB']:.0f} kB "
        f"stored, right on {cut}{here['accuracy']:.1%} in the end. Dashed lines: after the cut."
    )
