"""Pictures of FBS beside its static relatives: what each costs, and what is removed."""

from collections.abc import Mapping, Sequence
from statistics import mean

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ...bench.compared import IDLE, LABELS, grouped
from .simple import layer_bars
from .style import (
    BLACK,
    BLUE,
    DARK_GREEN,
    DARK_GREY,
    GREEN,
    GREY,
    LINE,
    ORANGE,
    PALE_BLUE,
    PALE_GREEN,
    PURPLE,
    ink,
    legend_below,
    plain_ticks,
)

LOOKS = {  # colour, marker, line: static methods are green, FBS is blue
    "plain": (BLACK, "*", ""),
    "narrow": (DARK_GREY, "x", "--"),
    "scratch": (DARK_GREY, "+", ":"),
    "slimming": (GREEN, "s", "-"),
    "kernels": (DARK_GREEN, "P", "--"),
    "stripes": (PALE_GREEN, "^", "-."),
    "fbs": (BLUE, "o", "-"),
    "fbs, idle removed": (BLUE, "o", ":"),
    "slimming, fbs": (PALE_BLUE, "D", "-"),
    "slimming, fbs, idle removed": (PALE_BLUE, "D", ":"),
}
TURNED_DOWN = ("kernels", "slimming", "stripes")  # in the order of `pruning_level`
AXES = {"macs": "MACs (millions)", "bytes": "stored (kB)", "ms": "ms, one image"}
UNITS = {"macs": 1e6, "bytes": 1e3, "ms": 1.0}
CUT = 0.05  # of a data set's dots: so many may lie beyond the axis, marked with their number


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


def contest(results: Mapping[str, dict], title: str = "") -> tuple[Figure, str]:
    """How far each method is from the narrow network: a panel per data set and level.

    A dot is a seed, a stroke the mean, and a band goes from the narrow network's lowest seed to its
    highest. Dots far to the left lie at the edge, as a triangle with its number.

    Args:
        results: of `compare`, under the names of the data sets. Removing idle channels changes
            no answer, so it has no row of its own.
    """
    panels = [(name, level) for name, one in results.items() for level in one["plan"]["densities"]]
    figure, row = plt.subplots(
        1, len(panels), figsize=(2.0 * len(panels) + 1.6, 4.2), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    said = []
    for axes, (name, level) in zip(row[0], panels, strict=True):
        off = _distances(results[name], level)
        _dots(axes, off, *_limits(results[name]))
        narrow = 100 * mean(r["test_accuracy"] for r in grouped(results[name])[level, "narrow"])
        uncut = 100 * mean(r["test_accuracy"] for r in grouped(results[name])[None, "plain"])
        axes.set_title(
            f"{name}, d = {level:g}\nnarrow {narrow:.1f} %\nuncut {uncut:.1f} %", fontsize=9
        )
        best = max(off, key=lambda method: off[method].mean())
        said.append(
            f"{name}, d = {level:g}: best {LABELS[best]}, {narrow + off[best].mean():.1f} %; "
            f"narrow {narrow:.1f} %; FBS minus narrow {_signed(off['fbs'].mean())} points."
        )
    row[0][0].invert_yaxis()
    figure.supxlabel("points of test accuracy from the narrow network's mean", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure, "\n".join(said)


def _distances(results: dict, level: float) -> dict[str, np.ndarray]:
    """Points from the narrow network's mean, one per seed, by method."""
    groups = {m: rows for (own, m), rows in grouped(results).items() if own == level}
    narrow = mean(row["test_accuracy"] for row in groups["narrow"])
    return {
        m: np.array([100 * (row["test_accuracy"] - narrow) for row in rows])
        for m, rows in groups.items()
        if not m.endswith(IDLE)
    }


def _limits(results: dict) -> tuple[float, float]:
    """The ends of an axis for all levels, without the lowest dots."""
    levels = [_distances(results, level) for level in results["plan"]["densities"]]
    every = np.concatenate([points for level in levels for points in level.values()])
    return np.quantile(every, CUT) - 0.4, every.max() + 0.3


def _dots(axes: Axes, off: Mapping[str, np.ndarray], low: float, high: float) -> None:
    """One panel of `contest`, from ``low`` to ``high`` points."""
    axes.axvspan(off["narrow"].min(), off["narrow"].max(), color=LINE, alpha=0.6, linewidth=0)
    axes.axvline(0, color=DARK_GREY, linewidth=0.8)
    for place, (method, points) in enumerate(off.items()):
        colour = LOOKS[method][0]
        inside = points[points >= low]
        axes.plot(inside, [place] * len(inside), "o", color=colour, markersize=6, alpha=0.7)
        if points.mean() >= low:
            axes.plot([points.mean()] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2)
        beyond = sorted(points[points < low])
        if beyond:
            words = ", ".join(map(_signed, beyond))
            axes.plot([low], [place], "<", color=colour, markersize=6, clip_on=False)
            axes.annotate(words, (low, place), (4, 10), textcoords="offset points", fontsize=8,
                          va="center", color=ink(colour))  # fmt: skip
    axes.set_yticks(range(len(off)), [LABELS[method] for method in off], fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_xlim(low - 0.03 * (high - low), high)
    axes.set_ylim(-0.7, len(off) - 0.3)
    axes.grid(axis="x", alpha=0.3)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _least_wrong(points: Mapping[str, Sequence[Mapping]]) -> float:
    """Half of the smallest share of wrong images in percent: where none is drawn on a log axis."""
    wrong = [100 * (1 - p[key]) for row in points.values() for p in row
             for key in ("before", "accuracy")]  # fmt: skip
    return min((w for w in wrong if w > 1e-9), default=1.0) / 2


EXCHANGED = {  # gates in place of an image's own, by their field in a row of `compare`
    "mean_winners": "the mean gate's winners",
    "mean_gates": "the mean gate",
    "shuffled_gates": "another image's gates",
}
KEPT = {"narrow": "narrow", "fbs": "FBS", "fbs, idle removed": "idle removed"}


def exchanged_gates(results: Mapping[str, dict], title: str = "") -> tuple[Figure, str]:
    """Points of accuracy that FBS loses with other gates than each image's own; means of the seeds.

    Args:
        results: as for `contest`. The sentence also says what FBS stores, with and without its idle
            channels, and what the narrow network stores.
    """
    names, lost, stored = [], {said: [] for said in EXCHANGED.values()}, []
    for name, one in results.items():
        groups = grouped(one)
        for level in one["plan"]["densities"]:
            names.append(f"{name}, {level:g}")
            rows = groups[level, "fbs"]
            for key, said in EXCHANGED.items():
                lost[said].append(100 * mean(row["own_gates"] - row[key] for row in rows))
            sizes = {m: mean(row["bytes"] for row in groups[level, m]) / 1000 for m in KEPT}
            each = ", ".join(f"{KEPT[m]} {size:.0f} kB" for m, size in sizes.items())
            stored.append(f"  {names[-1]}: {each}")
    look = {"colours": (GREY, ORANGE, PURPLE), "digits": 1, "ylabel": "points of accuracy lost"}
    figure, said = layer_bars(names, {title: lost}, **look)
    return figure, "\n".join([said, "Stored:", *stored])


def filter_shapes(kept: Mapping[str, Tensor], shown: int = 12) -> tuple[Figure, str]:
    """The shapes of filters, each its 3x3 taps, kept ones filled: ``{layer: [C_out, 3, 3]}``.

    Args:
        shown: so many filters of each layer are drawn, at most.
    """
    figure, column = plt.subplots(
        len(kept), 1, figsize=(8, 0.8 * len(kept)), squeeze=False, layout="constrained"
    )
    said = []
    for axes, (name, shapes) in zip(column[:, 0], kept.items(), strict=True):
        some = shapes[:shown].float().numpy()
        strip = np.full((3, 4 * shown - 1), np.nan)  # as wide for each layer
        for i, shape in enumerate(some):
            strip[:, 4 * i : 4 * i + 3] = shape
        colours = ListedColormap(["#E4E4E4", GREEN])
        axes.pcolormesh(strip, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axes.set(aspect="equal", ylim=(3, 0))
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_axis_off()
        said.append(f"{name} keeps {shapes.float().mean():.0%} of its stripes")
    every = torch.cat([shapes.float() for shapes in kept.values()])
    taps, shares = every.sum(dim=(1, 2)), every.mean(dim=0)
    corners = shares[::2, ::2]
    return figure, (
        f"{'; '.join(said)}. Green taps are kept; the first {shown} filters of each layer are "
        f"drawn. Of all filters {shares[1, 1]:.0%} keep the middle tap, and {corners.min():.0%} to "
        f"{corners.max():.0%} each corner. Filters with a single tap: {int((taps == 1).sum())} of "
        f"{len(taps)}."
    )


def faded_scales(
    scales: Mapping[str, Sequence[Tensor]], percent: float, title: str = ""
) -> tuple[Figure, str]:
    """The size |gamma| of every channel's scale, sorted within each layer, for two networks.

    Args:
        scales: ``{network: [[C] of each layer]}``, the same layers in both.
        percent: below the dashed line lie so many of the second network's scales.
    """
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    said, middles = [], []
    for (name, layers), colour, marker in zip(
        scales.items(), (DARK_GREY, GREEN), "os", strict=True
    ):
        sizes = [layer.detach().abs().sort().values for layer in layers]
        start, middles = 0, []
        for i, size in enumerate(sizes):
            places = range(start, start + len(size))
            axes.plot(
                places, size, marker, color=colour, markersize=3.5, label="_" * (i > 0) + name
            )
            middles.append(start + len(size) / 2)
            start += len(size) + 5
        ends = ", ".join(f"{size.min():.2f} to {size.max():.2f}" for size in sizes)
        said.append(f"  {name}: {ends}")
    cut = torch.cat(sizes).quantile(percent / 100).item()
    axes.axhline(cut, color=ORANGE, linestyle="--", label=f"{percent:g} % of the squares are below")
    axes.set_xticks(middles, [f"conv{i + 1}" for i in range(len(middles))])
    axes.set(yscale="log", title=title, ylabel="|γ| of a channel")
    plain_ticks(axes.yaxis, [0.01, 0.03, 0.1, 0.3, 1])
    axes.grid(axis="y", alpha=0.3)
    legend_below(figure, *axes.get_legend_handles_labels(), ncols=3, fontsize=9)
    return figure, "\n".join(["Scales of conv1 and on, the smallest to the largest:", *said])


def pruning_level(
    points: Mapping[str, Sequence[Mapping]], method: str, share: float
) -> tuple[Figure, str]:
    """One static method at one level, among all at all levels: after the cut, and repaired.

    Args:
        points: for each method a list of mappings with "share"; "before" and "accuracy", right
            after the cut and after fine-tuning; "macs", as a share of the unpruned network's; "kB";
            and "layers" ``{name: share of its MACs}``.
        share: of what the method prunes that is left.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3.7), layout="constrained")
    here = min(points[method], key=lambda point: abs(point["share"] - share))
    least = _least_wrong(points)
    for axes, key, title in ((left, "before", "after the cut"), (middle, "accuracy", "repaired")):
        for (name, row), method_of in zip(points.items(), TURNED_DOWN, strict=True):
            colour, marker, line = LOOKS[method_of]
            macs = [100 * p["macs"] for p in row]
            axes.plot(macs, [max(100 * (1 - p[key]), least) for p in row], line, color=colour,
                      marker=marker, markersize=4, label=name)  # fmt: skip
        axes.plot([100 * here["macs"]], [max(100 * (1 - here[key]), least)], "o", color=BLACK,
                  markersize=13, fillstyle="none", label="you are here")  # fmt: skip
        axes.set(xlabel="MACs (% of the unpruned network)", title=title, yscale="log")
        axes.set_ylim(0.7 * least, 140)
        plain_ticks(
            axes.yaxis, [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick > least]
        )
        axes.grid(alpha=0.3)
    left.set(ylabel="validation images wrong (%)")
    legend_below(figure, *left.get_legend_handles_labels(), ncols=4, fontsize=8)
    names, shares = list(here["layers"]), [100 * value for value in here["layers"].values()]
    bars = right.bar(names, shares, color=GREY, edgecolor=BLACK)
    right.bar_label(bars, [f"{value:.0f}" for value in shares], fontsize=8, padding=2)
    right.set(ylabel="MACs left in the layer (%)", ylim=(0, 115), title=method)
    right.tick_params(axis="x", rotation=30)
    return figure, (
        f"{method} at {here['share']:.1f}: {here['macs']:.1%} of the MACs, {here['kB']:.0f} kB "
        f"stored, right on {here['before']:.1%} after the cut and {here['accuracy']:.1%} when "
        "repaired."
    )
