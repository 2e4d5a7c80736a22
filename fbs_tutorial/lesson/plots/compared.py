"""Pictures of FBS beside its static relatives: what each costs, and what is removed."""

from statistics import mean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...bench.compared import LABELS, grouped
from .style import BLACK, BLUE, DARK_GREY, GREEN, ORANGE, PURPLE, legend_below, plain_ticks

LOOKS = {  # colour, marker, line
    "narrow": (DARK_GREY, "x", "--"),
    "scratch": (BLACK, "+", ":"),
    "slimming": (GREEN, "s", "-"),
    "kernels": (PURPLE, "P", "-"),
    "stripes": (ORANGE, "^", "-"),
    "fbs": (BLUE, "o", "-"),
    "fbs, idle removed": (BLUE, "o", ":"),
    "slimming, fbs": (GREEN, "D", "--"),
    "slimming, fbs, idle removed": (GREEN, "D", ":"),
}
AXES = {"macs": "MACs (millions)", "bytes": "stored (kB)", "ms": "ms, one image"}
UNITS = {"macs": 1e6, "bytes": 1e3, "ms": 1.0}


def compared(results: dict, title: str = "") -> tuple[Figure, str]:
    """Test accuracy over MACs, stored bytes and milliseconds: a line for each method.

    Args:
        results: of `compare`. Points are means over its seeds; bars run from the lowest seed to
            the highest. Milliseconds are left out where the machine was busy.
    """
    timed = all("ms" in row for row in results["rows"])
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
    (plain,) = (rows for (level, _), rows in groups.items() if level is None)
    level = 100 * mean(row["test_accuracy"] for row in plain)
    axes.axhline(level, color=BLACK, linewidth=0.8, label=f"plain, {_cost(plain, name):.3g}")
    axes.get_lines()[0].set_label("plain")
    for method, (colour, marker, line) in LOOKS.items():
        points = [rows for (_, other), rows in groups.items() if other == method]
        cost = [_cost(rows, name) for rows in points]
        right = [[100 * row["test_accuracy"] for row in rows] for rows in points]
        middle = [mean(values) for values in right]
        off = [[m - min(v) for m, v in zip(middle, right, strict=True)],
               [max(v) - m for m, v in zip(middle, right, strict=True)]]  # fmt: skip
        axes.errorbar(cost, middle, off, color=colour, marker=marker, linestyle=line,
                      markersize=5, elinewidth=0.6, label=LABELS[method])  # fmt: skip
    axes.set(xlabel=AXES[name], xscale="log")
    ends = [_cost(rows, name) for rows in groups.values()]
    plain_ticks(axes.xaxis, _ticks(min(ends), max(ends)))
    axes.grid(alpha=0.3)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from a little below ``low`` to a little above ``high``."""
    steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    return [step for step in steps if low / 1.3 <= step <= high * 1.3]


def _cost(rows: list[dict], name: str) -> float:
    values = [row["ms"]["1"] if name == "ms" else row[name] for row in rows]
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
            f"With the MACs of FBS at d = {level:g}, {LABELS[best]} is best with "
            f"{means[best]:.1f} %; FBS has {means['fbs']:.1f} %."
        )
    return "\n".join(said)
