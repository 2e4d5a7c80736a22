"""Pictures of accuracy against density: controls, seeds, published tables, one network at work."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...bench.budget import within
from ...bench.timing import Timing, three_digits
from ...method.dynamics import CONTROLS
from .style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Look,
    curve,
    draw_images,
    ink,
    label_lines,
    legend_below,
)

LOOKS = {  # of the controls, by their field in a row of metrics.json
    "mean_winners": (PURPLE, "D", "-."),
    "own_gates": (BLUE, "o", "-"),
    "mean_gates": (ORANGE, "s", "--"),
    "shuffled_gates": (GREEN, "^", ":"),
}
LABELS = {control.field: control.label for control in CONTROLS}
CLOSE_UP = ("mean_winners", "own_gates")  # those that stay near the best


def accuracy_and_macs(
    runs: Sequence[Sequence[dict]], static: Sequence[Sequence[dict]] = (), title: str = ""
) -> tuple[Figure, str]:
    """Accuracy with own, mean and another's gates, and the MACs, against density.

    Args:
        runs: the ``rows`` of one or more ``metrics.json`` with the same densities. With several
            (seeds), lines are medians and bands run from the smallest to the largest.
        static: the same of small plain networks that have the winners' channels only.
    """
    runs, static = _gated(runs), _gated(static)
    densities = np.array([row["density"] for row in runs[0]])
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(7, 7), sharex=True, height_ratios=(2, 2.4, 1.3), layout="constrained"
    )
    medians = _controls(top, middle, densities, runs, static)
    best = medians["own_gates"].max()
    top.set(ylabel="test accuracy (%)", ylim=(best - 15, min(best + 2, 100.5)), title=title)
    middle.set(ylabel="test accuracy (%)", ylim=(0, 104))
    top.text(0.01, 0.04, "close-up of the best 15 points", transform=top.transAxes, fontsize=9)
    legend_below(figure, *middle.get_legend_handles_labels(), ncols=2)
    for ax in (top, middle):
        ax.grid(alpha=0.3)

    macs = np.median([[row["macs_gates"] / row["macs_dense"] for row in run] for run in runs], 0)
    bars = bottom.bar(densities, 100 * macs, width=0.06, color=GREY, edgecolor=BLACK)
    bottom.bar_label(bars, [f"1/{1 / share:.1f}" for share in macs], fontsize=8, padding=2)
    bottom.set(xlabel="density d (share of channels that win)", ylabel="MACs (% of dense)")
    bottom.set(ylim=(0, 128), xlim=(1.06, 0.04), xticks=densities)

    at = int(np.abs(densities - 0.5).argmin())
    own, mean, other = (medians[key][at] for key in ("own_gates", "mean_gates", "shuffled_gates"))
    sentence = (
        f"At density {densities[at]:g} the network needs {100 * macs[at]:.0f} % of its MACs and is "
        f"right on {own:.1f} % of the test images when each has its own gates, on {mean:.1f} % "
        f"with the mean gate, on {other:.1f} % with another image's."
    )
    return figure, sentence


def _gated(runs: Sequence[Sequence[dict]]) -> list[list[dict]]:
    """The rows with a density; the plain network has none."""
    return [[row for row in run if row["density"] is not None] for run in runs]


def _controls(
    top: Axes,
    middle: Axes,
    densities: np.ndarray,
    runs: Sequence[Sequence[dict]],
    static: Sequence[Sequence[dict]],
) -> dict[str, np.ndarray]:
    """Draw all curves in the middle, and those that stay near the best at the top; the medians."""
    if static:
        accuracies = [[row["test_accuracy"] for row in run] for run in static]
        for ax in (top, middle):
            curve(ax, densities, accuracies, "small plain network", (BLACK, "x", "--"))
    medians = {}
    for key, look in LOOKS.items():
        accuracies = [[row[key] for row in run] for run in runs]
        for ax in [top, middle] if key in CLOSE_UP else [middle]:
            medians[key] = curve(ax, densities, accuracies, LABELS[key], look)
    return medians


def learning_curve(log: Sequence[Mapping], title: str = "") -> tuple[Figure, str]:
    """The loss, and below it validation accuracy and the density, over all epochs of a run.

    Args:
        log: a row for each epoch, as `read_log` gives them: "step", "loss", "val_accuracy" in 0..1
            and "density", which is NaN where there is none. Vertical lines divide the steps, which
            are named if there are several.
    """
    epochs = np.arange(1, len(log) + 1)
    loss, accuracy, density = (
        np.array([row[key] for row in log]) for key in ("loss", "val_accuracy", "density")
    )
    heights = (1.2, 1.4) if np.isnan(density).all() else (1.2, 1.4, 0.5)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(7, 5.4), sharex=True, height_ratios=heights, layout="constrained"
    )
    axes[0].semilogy(epochs, loss, "-", color=BLACK, marker=".")
    axes[1].plot(epochs, 100 * accuracy, "-", color=BLUE, marker="o", markersize=3)
    if len(axes) > 2:
        axes[2].fill_between(epochs, density, step="mid", color=GREY, alpha=0.5)
        axes[2].plot(epochs, density, color=BLACK, linewidth=1, drawstyle="steps-mid")
        axes[2].set(ylabel="density", ylim=(0, 1.05))
    ends = _mark_steps(axes, [row["step"] for row in log])
    axes[0].set(ylabel="training loss", title=title)
    axes[1].set(ylabel="validation accuracy (%)", ylim=(0, 104), xlim=(0.5, len(log) + 0.5))
    axes[-1].set_xlabel("epoch")
    for ax in axes:
        ax.grid(alpha=0.3)
    reached = [f"{step} {100 * accuracy[i]:.1f} %" for step, i in ends.items()]
    if len(ends) == 1:
        reached = [f"at the end {100 * accuracy[-1]:.1f} %"]
    else:
        reached[0] = f"at the end of each step: {reached[0]}"
    went = (
        f"s, loss from {loss[0]:.3g} to {loss[-1]:.3g}" if len(log) > 1 else f", loss {loss[0]:.3g}"
    )
    return figure, (f"{len(log)} epoch{went}; validation accuracy {', '.join(reached)}.")


def _mark_steps(axes: Sequence[Axes], steps: Sequence[str]) -> dict[str, int]:
    """A line between steps, and their names above; returns the index of each step's last epoch."""
    ends = {step: i for i, step in enumerate(steps)}
    begin = 0
    for step, end in ends.items():
        for ax in axes:
            ax.axvline(begin + 0.5, color=GREY, linewidth=0.8, zorder=0)
        if len(ends) > 1:
            axes[0].annotate(
                step, ((begin + end + 2) / 2, 1), (0, -3), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", va="top", fontsize=7, color=ink(DARK_GREY),
                rotation=0 if len(ends) < 8 else 90,
            )  # fmt: skip
        begin = end + 1
    return ends


def accuracy_lines(
    densities: Sequence[float], lines: dict[str, Sequence[Sequence[float]]], title: str = ""
) -> tuple[Figure, str]:
    """Accuracies 0..1 against density, one line for each of up to four names.

    Args:
        lines: ``{name: runs}``, a run being one accuracy per density. With several runs (seeds) the
            line is their median and a band runs from the lowest to the highest.

    Raises:
        ValueError: five names or more.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    styles = [(BLUE, "o", "-"), (GREEN, "s", "--"), (PURPLE, "^", "-."), (DARK_GREY, "x", ":")]
    said = []
    near = min(range(len(densities)), key=lambda i: abs(densities[i] - 0.5))
    for (name, runs), look in zip(lines.items(), styles[: len(lines)], strict=True):
        values = curve(axes, densities, runs, name, look)
        said.append(f"{name} {values[near]:.1f} %")
    axes.set(xlabel="density d (share of channels that win)", ylabel="accuracy (%)", title=title)
    axes.set(xlim=(min(densities) - 0.04, max(densities) + 0.04), ylim=(0, 104), xticks=densities)
    axes.grid(alpha=0.3)
    label_lines(axes, 9)
    return figure, f"Correct at density {densities[near]:g}: {'; '.join(said)}."


def accuracy_over_macs(
    lines: Mapping[str, Sequence[dict]],
    published: Mapping[str, Sequence[dict]] | None = None,
    title: str = "",
    images: int | None = None,
) -> tuple[Figure, str]:
    """Test accuracy against MACs per image, one line or point for each kind of network.

    Args:
        lines: ``{name: rows}``, up to eight, with ``"macs"`` and ``"test_accuracy"`` in each row.
        published: the same of other people, drawn with open markers and no line.
        images: in the test set; each point of ``lines`` then has a bar of one standard error.

    Points of two lines that would lie on each other are moved apart, 3 % of their MACs each.
    """
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    drawn, ticks = _moved_apart(lines), _macs_of_ticks(lines)
    looks = [  # of those that may lie on another: thin ones, which leave it visible
        (BLACK, "s", ""), (BLUE, "o", ""), (BLUE, "*", ""), (BLACK, "x", "--"),
        (BLACK, "+", ""), (BLACK, "1", ""), (BLUE, "D", ":"), (BLUE, "v", ""),
    ]  # fmt: skip
    for (name, rows), (colour, marker, line) in zip(drawn.items(), looks, strict=False):
        _over_macs(axes, rows, name, line, color=colour, marker=marker)
        if images:
            shares = np.array([row["test_accuracy"] for row in rows])
            error, macs = np.sqrt(shares * (1 - shares) / images), [row["macs"] for row in rows]
            ends = 100 * (shares - error), 100 * (shares + error)
            axes.vlines(macs, *ends, color=colour, linewidth=1)
    for name, rows in (published or {}).items():
        style = {"color": ORANGE, "marker": "o", "markerfacecolor": "white"}
        _over_macs(axes, rows, f"published: {name}", "", **style)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick / 1e6:.0f} M" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="MACs per image, predictors included", ylabel="test accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.margins(x=0.15, y=0.08)
    label_lines(axes)
    quarter = max(_all_macs(lines)) / 4
    named = {**lines, **{f"published: {name}": rows for name, rows in (published or {}).items()}}
    said = [_nearest(rows, name, quarter) for name, rows in named.items()]
    moved = _all_macs(drawn) != _all_macs(lines)
    apart = " Two that lie on each other are drawn a little apart." if moved else ""
    return figure, f"Nearest to a quarter of the MACs: {'; '.join(said)}.{apart}"


def _all_macs(lines: Mapping[str, Sequence[dict]]) -> list[float]:
    return [row["macs"] for rows in lines.values() for row in rows]


def _macs_of_ticks(lines: Mapping[str, Sequence[dict]]) -> list[float]:
    """Of all points, those that leave room for their numbers."""
    ticks: list[float] = []
    for tick in sorted(_all_macs(lines)):
        if not ticks or tick > 1.2 * ticks[-1]:
            ticks.append(tick)
    return ticks


def _moved_apart(lines: Mapping[str, Sequence[dict]]) -> dict[str, list[dict]]:
    """The same rows; of two kinds within 1 % of the MACs and 0.1 points one goes to each side."""
    moved = {name: [dict(row) for row in rows] for name, rows in lines.items()}
    for (_, rows), (_, others) in combinations(moved.items(), 2):
        for row, other in product(rows, others):
            near = abs(row["test_accuracy"] - other["test_accuracy"]) < 0.001
            if near and abs(row["macs"] / other["macs"] - 1) < 0.01:
                row["macs"] *= 0.97
                other["macs"] *= 1.03
    return moved


def _over_macs(axes: Axes, rows: Sequence[dict], name: str, line: str, **style: str) -> None:
    macs, values = ([row[key] for row in rows] for key in ("macs", "test_accuracy"))
    size = 12 if style["marker"] in "*+1" else 7
    values = [100 * value for value in values]
    axes.plot(macs, values, linestyle=line, label=name, markersize=size, **style)


def _nearest(rows: Sequence[dict], name: str, macs: float) -> str:
    row = min(rows, key=lambda row: abs(row["macs"] - macs))
    return f"{name} {100 * row['test_accuracy']:.1f} % at {row['macs'] / 1e6:.0f} M"


def budget_curves(lines: Mapping[str, Sequence[dict]], title: str = "") -> tuple[Figure, str]:
    """Test accuracy against mean MACs: images that get one look or two, and one look for all.

    Args:
        lines: ``{name: points}`` as `bench.budget.curves` gives them, each with its "looks", and
            "accuracy" and "macs" of "validation" and "test". Of the first line it is also drawn
            what as many second looks would give that fall on images by chance. Points of one
            network at two densities are joined with those of the same network only.
    """
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    twice = [(BLUE, "o", "-"), (BLACK, "x", "--"), (BLUE, "^", "-.")]
    once = [(BLUE, "s", ""), (BLACK, "D", "")]  # both seen where one lies on the other
    for name, chosen in lines.items():
        look = (once if len(chosen[0]["looks"]) == 1 else twice).pop(0)
        _over_mean_macs(axes, chosen, "accuracy", name, look)
    first = next(iter(lines.values()))
    if all("random_accuracy" in point["test"] for point in first):
        _over_mean_macs(axes, first, "random_accuracy", BY_CHANCE, (DARK_GREY, ".", ":"))
    axes.set_xscale("log")
    macs = [point["test"]["macs"] for chosen in lines.values() for point in chosen]
    ticks = np.geomspace(min(macs), max(macs), 6)
    axes.set_xticks(ticks, [f"{tick / 1e6:.3g} M" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="mean MACs per image, predictors included", ylabel="test accuracy (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    alone = [p for chosen in lines.values() for p in chosen if len(p["looks"]) == 1]
    quarter = max(point["validation"]["macs"] for point in alone) / 4
    said = [_within(chosen, name, quarter) for name, chosen in lines.items()]
    return figure, f"With {quarter / 1e6:.3g} M MACs: {'; '.join(filter(None, said))}."


BY_CHANCE = "the first of these, the images drawn at random"


def _over_mean_macs(axes: Axes, chosen: Sequence[dict], key: str, name: str, look: Look) -> None:
    """One kind of point; a line joins neighbours, but not those of two different networks alone."""
    colour, marker, line = look
    points = [[p["test"]["macs"], 100 * p["test"][key]] for p in chosen]
    alone = [only_network(p) for p in chosen]
    for i in reversed(range(1, len(points))):
        if alone[i - 1] is not None and alone[i] is not None and alone[i - 1] != alone[i]:
            points.insert(i, [np.nan, np.nan])
    style = {"markerfacecolor": "none", "markersize": 10} if marker == "D" else {}
    axes.plot(*zip(*points, strict=True), linestyle=line, color=colour, marker=marker, label=name,
              **style)  # fmt: skip


def only_network(point: Mapping) -> str | None:
    """The one network that looks twice, at two densities; None if two look, or one once."""
    names = {look.partition("@")[0] for look in point["looks"]}
    return names.pop() if len(names) < len(point["looks"]) else None


def _within(chosen: Sequence[dict], name: str, macs: float) -> str | None:
    """What is best on validation images among what is affordable there, and its test accuracy."""
    best = within(chosen, macs)
    if best is None:
        return None
    test = best["test"]
    return f"{name} {100 * test['accuracy']:.1f} % at {test['macs'] / 1e6:.3g} M"


def at_density(
    density: float,
    curve: Mapping[float, float],
    macs: Mapping[str, float],
    times: Mapping[str, Timing],
    images: Tensor,
    captions: Sequence[str],
    *,
    here: float | None = None,
) -> tuple[Figure, str]:
    """One network at one density: some images with its answers, accuracy, MACs, milliseconds.

    Args:
        curve: measured accuracy 0..1 at each density. here: the accuracy on the images at hand.
        macs: ``{count: share of the dense MACs}``.
        times: the first is what the others are compared with.
    """
    figure = plt.figure(figsize=(8.5, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    draw_images(np.atleast_1d(top.subplots(1, len(images))), images, captions)
    left, middle, right = bottom.subplots(1, 3, width_ratios=(1.3, 1, 1))
    said = [
        *_place_on_the_curve(left, density, curve, here),
        _share_bars(middle, macs),
        *_millisecond_bars(right, times),
    ]
    return figure, f"d = {density:.1f}: {'; '.join(said)}."


def _place_on_the_curve(
    axes: Axes, density: float, accuracies: Mapping[float, float], here: float | None
) -> list[str]:
    values = [100 * value for value in accuracies.values()]
    axes.plot(list(accuracies), values, "-", color=BLUE, marker=".")
    nearest = min(accuracies, key=lambda d: abs(d - density))
    reached = 100 * accuracies[nearest]
    axes.plot([nearest], [reached], "o", color=BLUE, markersize=10, label="test set")
    said = [f"right on {reached:.1f} % of the test set"]
    if here is not None:
        axes.plot([density], [100 * here], "D", color=ORANGE, markersize=8, label="images here")
        said.append(f"on {100 * here:.1f} % of the images here")
    axes.set(xlabel="density d", ylabel="accuracy (%)", xlim=(1.05, 0.05), ylim=(0, 104))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return said


def _share_bars(axes: Axes, macs: Mapping[str, float]) -> str:
    shares = [100 * share for share in macs.values()]
    bars = axes.bar(list(macs), shares, color=[BLUE, GREEN][: len(macs)], edgecolor=BLACK)
    axes.bar_label(bars, [f"{share:.1f} %" for share in shares], fontsize=8, padding=2)
    axes.set(ylabel="MACs (% of dense)", ylim=(0, 115))
    return "MACs " + ", ".join(f"{v:.1f} % {n}" for n, v in zip(macs, shares, strict=True))


def _millisecond_bars(axes: Axes, times: Mapping[str, Timing]) -> list[str]:
    spent = [1000 * t.median for t in times.values()]
    bars = axes.bar(list(times), spent, color=[GREY, BLUE][: len(times)], edgecolor=BLACK)
    axes.bar_label(bars, [three_digits(ms) for ms in spent], fontsize=8, padding=2)
    axes.set(ylabel="milliseconds", ylim=(0, 1.2 * max(spent)))
    name, *others = times
    return [
        f"{other} {three_digits(ms)} ms, {100 * ms / spent[0]:.0f} % of {name}"
        for other, ms in zip(others, spent[1:], strict=True)
    ]
