"""Pictures of plain numbers: bars in groups, lines over depth, images."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ...bench.timing import three_digits
from .style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PALE_BLUE,
    PURPLE,
    YELLOW,
    label_lines,
    legend_below,
    name_ends,
)


def layer_bars(
    layers: Sequence[str],
    panels: dict[str, dict[str, Sequence[float]]],
    *,
    level: Sequence[float] | None = None,
    level_name: str = "chance",
    ylabel: str = "",
    top: float | None = None,
    digits: int = 0,
    shared: bool = True,
    colours: Sequence[str] = (BLUE, ORANGE, GREEN, PURPLE),
) -> tuple[Figure, str]:
    """A group of bars per layer, a bar per series, and the panels side by side.

    Args:
        panels: ``{title: {series: one value per layer}}``, up to four series in all; one that is in
            several panels looks the same there.
        level: a pale bar behind each group, one value per layer.
        top: upper end of the axis. digits: after the point, in the sentence.
        shared: whether the panels have one scale; else each has its own, and its title the unit.
        colours: one for each series.
    """
    figure, row = plt.subplots(
        1, len(panels), figsize=(7.5, 3.2), sharey=shared, squeeze=False, layout="constrained"
    )
    middle, sentences = np.arange(len(layers)), []
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    looks = dict(zip(names, zip(colours, ("", "///", "...", "xx"), strict=False), strict=False))
    for axes, (title, series) in zip(row[0], panels.items(), strict=True):
        width, said = 0.8 / len(series), []
        if level is not None:
            axes.bar(middle, level, 0.9, color=PALE, label=level_name)
        for i, (name, values) in enumerate(series.items()):
            colour, hatch = looks[name]
            left = middle - 0.4 + (i + 0.5) * width
            bars = axes.bar(
                left, values, width, color=colour, hatch=hatch, edgecolor="white", label=name
            )
            numbers = [f"{value:,.{digits}f}" for value in values]
            said.append(f"  {name}: {', '.join(numbers)}")
            if len(series) == 1:
                axes.bar_label(bars, numbers, fontsize=9, padding=2)
                axes.margins(y=0.1)
        unit = f", {ylabel}" if ylabel else ""
        sentences += [f"{title}{unit} for {', '.join(layers)}:".replace("\n", " "), *said]
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(middle, layers)
        axes.set_ylim(top=top)
    row[0][0].set_ylabel(ylabel)
    drawn = {}
    for axes in row[0]:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    if len(drawn) > 1:
        legend_below(figure, list(drawn.values()), list(drawn), ncols=len(drawn))
    return figure, "\n".join(sentences)


def layer_lines(
    layers: Sequence[str],
    panels: dict[str, dict[str, Sequence[float]]],
    *,
    images: int,
    chance: float,
    ylabel: str = "recognised correctly (%)",
    xlabel: str = "",
) -> tuple[Figure, str]:
    """A share at each layer, in percent: a line per series, its name where it ends.

    Bars are one standard error of a share of ``images``.

    Args:
        panels: ``{title: {series: one value per layer}}``, up to three series.
        chance: a dotted line. xlabel: what the layers' names stand for.
    """
    size = 3.2 + 2.7 * len(panels), 3.2
    figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False,
                               layout="constrained")  # fmt: skip
    places, said = np.arange(len(layers)), []
    for axes, (title, series) in zip(row[0], panels.items(), strict=True):
        said.append(f"{title}, {ylabel} for {', '.join(layers)}:")
        axes.axhline(chance, color=DARK_GREY, linestyle=":")
        ends = [("guessing", chance, DARK_GREY)]
        for (name, values), look in zip(series.items(), LINES, strict=False):
            values = np.array(values)
            error = np.sqrt(values * (100 - values) / images)
            axes.errorbar(places, values, error, fmt="".join(look[1:]), color=look[0], capsize=3)
            ends.append((name, values[-1], look[0]))
            said.append(f"  {name}: {', '.join(f'{value:.0f}' for value in values)}")
        axes.set(ylim=(0, 104), xlim=(-0.2, len(layers) - 0.8))
        axes.set_xticks(places, layers)
        axes.set_xlabel(xlabel)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, axis="y")
        name_ends(axes, len(layers) - 0.75, ends)
    row[0][0].set_ylabel(ylabel)
    return figure, "\n".join(said)


LINES = ((BLACK, "o", "-"), (DARK_GREY, "s", "--"), (YELLOW, "^", "-."))


def seed_dots(
    places: Sequence[str],
    kinds: dict[str, Sequence[Sequence[float]]],
    title: str = "",
    xlabel: str = "",
    *,
    paired: bool = False,
) -> tuple[Figure, str]:
    """Accuracies, in percent, of networks that differ in their seed: a dot each, by kind.

    Args:
        places: along the axis, from left to right. kinds: ``{name: runs}``, up to two, a run being
            one accuracy for each place; a single kind needs no name.
        paired: whether a thin line joins the dots of a run, in place of one from the lowest to the
            highest of a place.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    middle, ends = np.arange(len(places)), []
    said = [[] for _ in places]
    looks = ((BLUE, "o"), (BLACK, "x"))
    for i, ((name, runs), (colour, marker)) in enumerate(zip(kinds.items(), looks, strict=False)):
        values = np.array(runs)  # [runs, places]
        low, high = values.min(axis=0), values.max(axis=0)
        at = middle + 0.22 * (i - (len(kinds) - 1) / 2)
        if not paired:
            axes.vlines(at, low, high, color=colour, alpha=0.3)
        line = f"{marker}-" if paired else marker
        axes.plot(at, values.T, line, color=colour, markersize=7, linewidth=0.8)
        ends.append((name, values[:, -1].mean(), colour))
        for there, a, b in zip(said, low, high, strict=True):
            there.append(f"{name} {a:.1f} to {b:.1f}".strip())
    axes.set_xticks(middle, places)
    axes.set(xlabel=xlabel, ylabel="test accuracy (%)", xlim=(-0.5, len(places) - 0.5))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3, axis="y")
    name_ends(axes, len(places) - 0.4, ends)
    named = [f"{xlabel} {place}".replace("\n", " ").strip() for place in places]
    parts = (f"{name}: {', '.join(each)}" for name, each in zip(named, said, strict=True))
    return figure, f"Percent correct. {'; '.join(parts)}."


def depth_lines(panels: dict[str, dict[str, Sequence[float]]], ylabel: str) -> tuple[Figure, str]:
    """A size after each block of a deep stack, on a log axis: ``{panel: {name: values}}``.

    A line ends where its values are no longer finite; a cross marks the last finite one.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(8, 3.3), layout="constrained", sharex=True)
    styles = [(BLACK, ":"), (ORANGE, "--"), (BLUE, "-"), (YELLOW, "-.")]
    said = []
    for axes, (panel, lines) in zip(np.atleast_1d(row), panels.items(), strict=True):
        said.append(f"{panel}, {ylabel}:")
        for (name, values), (colour, style) in zip(lines.items(), styles, strict=False):
            values = np.array(values, dtype=float)
            finite = int(np.isfinite(values).cumprod().sum())
            blocks = np.arange(1, len(values) + 1)[:finite]
            axes.semilogy(blocks, values[:finite], style, color=colour, label=name)
            if finite < len(values):
                axes.plot(blocks[-1:], values[finite - 1 : finite], "x", color=colour)
                said.append(f"  {name}: not finite from block {finite + 1} on")
            else:
                said.append(f"  {name}: {three_digits(values[-1])} at the end")
        axes.set(title=panel, xlabel="block", ylabel=ylabel)
        axes.grid(alpha=0.3)
        label_lines(axes, 9)
    return figure, "\n".join(said)


def three_counts(
    densities: Sequence[float],
    counts: dict[str, Sequence[float]],
    title: str = "Three counts of one network",
) -> tuple[Figure, str]:
    """Shares of the dense MACs against density: by gates, by zeros, executed.

    Args:
        counts: ``{name: one share 0..1 per density}``, up to four, what is executed last.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    looks, said = [(BLUE, "o", "-"), (PALE_BLUE, "s", "--"), (PALE_BLUE, "v", ":")], []
    looks[len(counts) - 1 :] = [(BLACK, "x", ":")]
    near = min(range(len(densities)), key=lambda i: abs(densities[i] - 0.5))
    for (name, shares), (colour, marker, line) in zip(counts.items(), looks, strict=False):
        percent = [100 * share for share in shares]
        axes.plot(densities, percent, line, color=colour, marker=marker, label=name)
        said.append(f"{name} {percent[near]:.1f} % and {percent[-1]:.1f} %")
    axes.set(xlabel="density d", ylabel="dense MACs (%)", ylim=(0, 108), xticks=densities)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    label_lines(axes, 9)
    return figure, f"At d = {densities[near]:g} and d = {densities[-1]:g}: {'; '.join(said)}."


def above_the_square(
    shares: Mapping[float, float], predictors: float, title: str = ""
) -> tuple[Figure, str]:
    """How far the MACs that are left lie above d², in percent of d², and the predictors on top.

    Args:
        shares: ``{density: share 0..1 of the dense MACs}``. predictors: their MACs, the same share.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    places = range(len(shares))
    above = [100 * (share / d**2 - 1) for d, share in shares.items()]
    extra = [100 * predictors / d**2 for d in shares]
    axes.bar(places, above, 0.6, color=BLUE, label="rounding up, first layer, classifier")
    bars = axes.bar(
        places, extra, 0.6, bottom=above, color=ORANGE, hatch="///", edgecolor="white",
        label="predictors",
    )  # fmt: skip
    both = [a + e for a, e in zip(above, extra, strict=True)]
    axes.bar_label(bars, [f"{value:.1f} %" for value in both], fontsize=9, padding=2)
    axes.set_xticks(places, [f"{d:g}" for d in shares])
    axes.set(xlabel="density d", ylabel="above d² (% of d²)")
    axes.set_title(title, fontsize=11)
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=9)
    said = [
        f"d = {d:g}: {a:.1f} % and {e:.1f} %" for d, a, e in zip(shares, above, extra, strict=True)
    ]
    return figure, f"Above d², and the predictors: {'; '.join(said)}."


def published_and_counted(
    published: Mapping[float, float], counted: Mapping[str, Mapping[float, float]], title: str = ""
) -> tuple[Figure, str]:
    """Published numbers of two decimals minus one's own, and the band in which they agree.

    Args:
        published: ``{density: number}``. counted: ``{name: the same}``, up to three.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    said = []
    looks = zip((BLUE, ORANGE, GREEN), ("s", "o", "^"), (0.012, -0.012, 0), strict=True)
    for (name, own), (colour, marker, beside) in zip(counted.items(), looks, strict=False):
        apart = {d: published[d] - own[d] for d in published}
        x = [d + beside for d in apart]
        axes.plot(x, list(apart.values()), marker, color=colour, markersize=7, label=name)
        agree = [d for d, value in apart.items() if abs(value) <= HALF_A_DIGIT]
        at = ", ".join(f"{d:g}" for d in sorted(agree))
        said.append(f"{name}: {len(agree)} of {len(apart)} rows agree, at d = {at}")
    look = {"color": GREY, "alpha": 0.5, "linewidth": 0}
    axes.axhspan(-HALF_A_DIGIT, HALF_A_DIGIT, label="agrees to the last published digit", **look)
    axes.set(xlabel="density d", ylabel="published minus counted\n(hundred million MACs)")
    axes.set_xticks(sorted(published))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure, f"Grey: half of the last published digit. {'; '.join(said)}."


HALF_A_DIGIT = 0.005 + 1e-9  # of two decimals


def right_and_work(
    densities: Sequence[float], right: Sequence[float], work: Sequence[float]
) -> tuple[Figure, str]:
    """Accuracy and MACs, both in percent, against the density of all layers."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(densities, right, "-o", color=BLUE, label="images that are right")
    axes.plot(densities, work, "--s", color=ORANGE, label="MACs that are left")
    axes.set(xlabel="density of every layer", ylabel="%", ylim=(0, 104), xticks=densities)
    axes.set_title("The work falls at once, and accuracy waits")
    axes.grid(alpha=0.3)
    label_lines(axes, fontsize=10)
    parts = [
        f"d = {d:g}: {r:.1f} % right with {m:.0f} % of the MACs"
        for d, r, m in zip(densities, right, work, strict=True)
        if round(10 * d) in (1, 2, 3, 5, 10)
    ]
    return figure, "; ".join(reversed(parts)) + "."
