"""The course's pictures. Each function returns the figure and one sentence that says what it shows.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; markers and
hatches repeat what the colours say.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ..bench.timing import Timing, three_digits

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY, BLACK = "#BBBBBB", "#222222"

CURVES = (  # key in a row of metrics.json, label, colour, marker, line
    ("mean_winners", "the mean gate's channels, its own values", PURPLE, "D", "-."),
    ("own_gates", "its own gates", BLUE, "o", "-"),
    ("mean_gates", "the mean gate", ORANGE, "s", "--"),
    ("shuffled_gates", "another image's gates", GREEN, "^", ":"),
)


def accuracy_and_macs(
    runs: Sequence[Sequence[dict]], static: Sequence[Sequence[dict]] = (), title: str = ""
) -> tuple[Figure, str]:
    """Accuracy with own, mean and another's gates, and the MACs, against density.

    Args:
        runs: the ``rows`` of one or more ``metrics.json`` with the same densities. With several
            (seeds), lines are medians and bands run from the smallest to the largest.
        static: the same of small plain networks that have the winners' channels only.
    """
    runs = [[row for row in run if row["density"] is not None] for run in runs]
    densities = np.array([row["density"] for row in runs[0]])
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(7, 7), sharex=True, height_ratios=(2, 2.4, 1.3), layout="constrained"
    )
    if static:
        for ax in (top, middle):
            _curve(ax, densities, static, "test_accuracy", "small plain network", BLACK, "x", "--")
    medians = {}
    for key, label, colour, marker, line in CURVES:
        axes = [middle] if key in ("mean_gates", "shuffled_gates") else [top, middle]
        for ax in axes:
            medians[key] = _curve(ax, densities, runs, key, label, colour, marker, line)
    best = medians["own_gates"].max()
    top.set(ylabel="test accuracy (%)", ylim=(best - 15, min(best + 2, 100.5)), title=title)
    middle.set(ylabel="test accuracy (%)", ylim=(0, 104))
    top.text(0.01, 0.04, "close-up of the best 15 points", transform=top.transAxes, fontsize=9)
    figure.legend(
        *middle.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
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


def _curve(
    axes: Axes,
    densities: np.ndarray,
    runs: Sequence[Sequence[dict]],
    key: str,
    label: str,
    colour: str,
    marker: str,
    line: str,
) -> np.ndarray:
    """Draw the median over the runs with a band from lowest to highest; returns the median."""
    rows = [[row for row in run if row["density"] is not None] for run in runs]
    values = 100 * np.array([[row[key] for row in run] for run in rows])  # [runs, densities]
    middle = np.median(values, axis=0)
    axes.plot(densities, middle, line, color=colour, marker=marker, label=label)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)
    return middle


def layer_bars(
    layers: Sequence[str],
    panels: dict[str, dict[str, Sequence[float]]],
    *,
    level: Sequence[float] | None = None,
    level_name: str = "chance",
    ylabel: str = "",
    top: float | None = None,
    digits: int = 0,
) -> tuple[Figure, str]:
    """One group of bars a layer, one bar a series, one panel beside the other.

    Args:
        panels: ``{title: {series: one value a layer}}``, up to four series.
        level: a dashed line across each group, one value a layer.
        top: upper end of the axis. digits: after the point, in the sentence.
    """
    figure, row = plt.subplots(
        1, len(panels), figsize=(7.5, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    middle, sentences = np.arange(len(layers)), []
    for axes, (title, series) in zip(row[0], panels.items(), strict=True):
        width, said = 0.8 / len(series), []
        styles = zip((BLUE, ORANGE, GREEN, PURPLE), ("", "///", "...", "xx"), strict=True)
        for i, ((name, values), (colour, hatch)) in enumerate(zip(series.items(), styles)):  # noqa: B905
            left = middle - 0.4 + (i + 0.5) * width
            bars = axes.bar(
                left, values, width, color=colour, hatch=hatch, edgecolor="white", label=name
            )
            numbers = [f"{value:,.{digits}f}" for value in values]
            said.append(f"  {name}: {', '.join(numbers)}")
            if len(series) == 1:
                axes.bar_label(bars, numbers, fontsize=9, padding=2)
                axes.margins(y=0.1)
        if level is not None:
            axes.hlines(level, middle - 0.45, middle + 0.45, BLACK, "--", label=level_name)
        sentences += [f"{title}, {ylabel} for {', '.join(layers)}:", *said]
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(middle, layers)
        axes.set_ylim(top=top)
    row[0][0].set_ylabel(ylabel)
    handles, names = row[0][0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(
            handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False
        )
    return figure, "\n".join(sentences)


def winner_bars(g: Tensor, winners: Tensor, title: str = "") -> tuple[Figure, str]:
    """Predicted saliencies ``g [C]`` of one image as bars, and which of them win, bool ``[C]``."""
    values, won = g.detach().numpy(), winners.numpy()
    channels = np.arange(len(values))
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.bar(channels[won], values[won], color=BLUE, edgecolor=BLACK, label="wins: value kept")
    if not won.all():
        lost = {"color": "white", "edgecolor": GREY, "hatch": "///"}
        axes.bar(channels[~won], values[~won], label="loses: becomes 0", **lost)
    empty = won & (values == 0)
    if empty.any():
        axes.plot(channels[empty], 0 * channels[empty], "^", color=ORANGE, label="wins with g = 0")
    axes.axhline(0, color=BLACK, linewidth=0.8, zorder=0)
    axes.set(xlabel="channel", ylabel="saliency g (no unit)", title=title)
    axes.set_xticks(channels[:: 1 + len(channels) // 20])
    axes.set_ylim(min(values.min(), -0.03 * values.max()) * 1.1, max(values.max(), 0.1) * 1.35)
    axes.legend(loc="upper right", ncols=3, fontsize=9, frameon=False)
    names = "" if won.all() else ": " + ", ".join(map(str, channels[won]))
    sentence = (
        f"{won.sum()} of {len(values)} channels win, {empty.sum()} of them with g = 0{names}."
    )
    return figure, sentence


def winners_of_two(
    images: Tensor, winners: dict[str, Tensor], labels: Sequence[str]
) -> tuple[Figure, str]:
    """Two images ``[2, 1, H, W]`` and which channels of each layer won for them.

    Args:
        winners: ``{layer: bool [2, C]}``.
        labels: what stands above each image.
    """
    figure = plt.figure(figsize=(8, 0.7 * len(winners) + 1.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 4))
    for axes, image, label in zip(left.subplots(2, 1), images, labels, strict=True):
        axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(label, fontsize=9)
        axes.set_axis_off()
    differ = []
    rows = np.atleast_1d(right.subplots(len(winners), 1))
    for axes, (name, won) in zip(rows, winners.items(), strict=True):
        first, second = won.numpy()
        differ.append(f"{int((first ^ second).sum())} of {len(first)} in {name}")
        state = np.array([first, second]) * (1 + (first ^ second))  # 0 skipped, 1 both, 2 one
        axes.pcolormesh(
            state, cmap=ListedColormap(["white", BLUE, ORANGE]), vmin=0, vmax=2,
            edgecolors=GREY, linewidth=0.4,
        )  # fmt: skip
        y, x = np.nonzero(state == 2)
        axes.plot(x + 0.5, y + 0.5, "x", color=BLACK, markersize=4)
        axes.invert_yaxis()
        axes.set_yticks([0.5, 1.5], labels, fontsize=8)
        axes.set_xticks([])
        axes.set_title(f"{name}: {len(first)} channels", fontsize=9, loc="left", pad=2)
        axes.spines[:].set_visible(False)
    right.legend(
        [
            Patch(facecolor=BLUE),
            (Patch(facecolor=ORANGE), Line2D([], [], marker="x", color=BLACK, linestyle="")),
            Patch(facecolor="white", edgecolor=GREY),
        ],
        ["wins for both", "wins for this image only", "skipped"],
        loc="outside lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    sentence = f"Channels that win for one of the two images only: {'; '.join(differ)}."
    return figure, sentence


def accuracy_lines(
    densities: Sequence[float], lines: dict[str, Sequence[Sequence[float]]], title: str = ""
) -> tuple[Figure, str]:
    """Accuracies 0..1 against density, one line for each name.

    Args:
        lines: ``{name: runs}``, a run being one accuracy a density. With several runs (seeds) the
            line is their median and a band runs from the lowest to the highest.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--"), (BLACK, "x", ":"), (GREEN, "^", "-.")]
    said = []
    for (name, runs), (colour, marker, line) in zip(lines.items(), styles, strict=False):
        rows = [
            [{"density": d, "value": v} for d, v in zip(densities, run, strict=True)]
            for run in runs
        ]
        values = _curve(axes, np.array(densities), rows, "value", name, colour, marker, line)
        said.append(f"{name} {values[int(np.abs(np.array(densities) - 0.5).argmin())]:.1f} %")
    axes.set(xlabel="density d (share of channels that win)", ylabel="accuracy (%)", title=title)
    axes.set(xlim=(max(densities) + 0.04, min(densities) - 0.04), ylim=(0, 104), xticks=densities)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    near = min(densities, key=lambda d: abs(d - 0.5))
    return figure, f"Right at density {near:g}: {'; '.join(said)}."


def winner_maps(winners: dict[str, Tensor], title: str = "") -> tuple[Figure, str]:
    """Which channels win for which image: one map of bool ``[N, C]`` for each name."""
    figure, rows = plt.subplots(
        len(winners), 1, figsize=(7.5, 1.7 * len(winners) + 0.6), layout="constrained"
    )
    said = []
    for axes, (name, won) in zip(np.atleast_1d(rows), winners.items(), strict=True):
        sets = len(won.unique(dim=0))
        axes.pcolormesh(won.numpy(), cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9, loc="left", pad=4)
        axes.set(ylabel="image", xlabel="channel")
        axes.label_outer()
        said.append(
            f"{name}: {int(won.sum(dim=1).max())} of {won.shape[1]} channels win, "
            f"{sets} different {'set' if sets == 1 else 'sets'} among {len(won)} images"
        )
    figure.suptitle(title, fontsize=11)
    return figure, "; ".join(said) + "."


def class_heat_map(chances: Tensor, title: str = "") -> tuple[Figure, str]:
    """How often each channel wins for the images of each class, 0..1, ``[classes, C]``.

    Channels are sorted by their mean over the classes, those that win least at the left.
    """
    mean = chances.mean(dim=0)
    chances = chances[:, mean.argsort(stable=True)]
    figure, axes = plt.subplots(figsize=(7.5, 2.9), layout="constrained")
    colours = axes.pcolormesh(chances.numpy(), cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(colours, label="share of images it wins for")
    axes.set(xlabel="channels, least used first", ylabel="class", title=title)
    axes.set_yticks(np.arange(len(chances)) + 0.5, range(len(chances)))
    axes.invert_yaxis()
    never, always = int((chances == 0).all(dim=0).sum()), int((chances == 1).all(dim=0).sum())
    apart = int((chances.amax(dim=0) - chances.amin(dim=0) > 0.5).sum())
    sentence = (
        f"Of {chances.shape[1]} channels {never} never win and {always} always win; for {apart} "
        "the share differs by more than 0.5 between two classes."
    )
    return figure, sentence


def class_heat_maps(
    layers: Mapping[str, Tensor], classes: Sequence[str], title: str = ""
) -> tuple[Figure, str]:
    """The heat maps of several layers: how often each channel wins for each class, in percent.

    Args:
        layers: ``{layer: [classes, C]}``. In each, channels are sorted as in `class_heat_map`.
    """
    figure, axes = plt.subplots(
        math.ceil(len(layers) / 2), 2, figsize=(8, 1.5 * math.ceil(len(layers) / 2) + 0.6),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    said = []
    for ax, (name, percent) in zip(axes.flat, layers.items(), strict=False):
        mean = percent.double().mean(dim=0)
        percent = percent[:, mean.argsort(stable=True)]
        colours = ax.imshow(
            percent.numpy(), cmap=plt.get_cmap("cividis", 10), vmin=0, vmax=100,
            aspect="auto", interpolation="nearest",
        )  # fmt: skip
        ax.set_title(f"{name}: {percent.shape[1]} channels", fontsize=9, loc="left", pad=3)
        ax.set_yticks(range(len(classes)), classes, fontsize=7)
        ax.tick_params(axis="x", labelsize=7)
        apart = int((percent.amax(dim=0) - percent.amin(dim=0) > 50).sum())
        said.append(f"{apart} of {percent.shape[1]} in {name}")
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    figure.colorbar(colours, ax=axes, label="images it wins for (%)", shrink=0.5)
    figure.supxlabel("channels, least used first", fontsize=9)
    figure.suptitle(title, fontsize=11)
    sentence = "Channels whose share differs by more than 50 points between two classes: "
    return figure, f"{sentence}{', '.join(said)}."


def depth_lines(panels: dict[str, dict[str, Sequence[float]]], ylabel: str) -> tuple[Figure, str]:
    """A size after each block of a deep stack, on a log axis: ``{panel: {name: values}}``.

    A line ends where its values are no longer finite; a cross marks the last finite one.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(8, 3.3), layout="constrained", sharex=True)
    styles = [(BLACK, ":"), (ORANGE, "--"), (BLUE, "-")]
    said = []
    for axes, (panel, lines) in zip(np.atleast_1d(row), panels.items(), strict=True):
        for (name, values), (colour, style) in zip(lines.items(), styles, strict=False):
            values = np.array(values, dtype=float)
            finite = int(np.isfinite(values).cumprod().sum())
            blocks = np.arange(1, len(values) + 1)[:finite]
            axes.semilogy(blocks, values[:finite], style, color=colour, label=name)
            if finite < len(values):
                axes.plot(blocks[-1:], values[finite - 1 : finite], "x", color=colour)
                said.append(f"{panel}, {name}: not finite from block {finite + 1} on")
            else:
                said.append(f"{panel}, {name}: {values[-1]:.2g} at the end")
        axes.set(title=panel, xlabel="block", ylabel=ylabel)
        axes.grid(alpha=0.3)
    np.atleast_1d(row)[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure, ".\n".join(said) + "."


def time_and_macs(results: dict) -> tuple[Figure, str]:
    """Time against executed MACs, both as shares of the best dense, from what `bench` returns.

    Filled markers are accelerated, one for each density, open ones the oracles; small grey ones
    are single layers. Float32 in full precision; where CUDA graphs were recorded, these.
    """
    rows = [row for row in results["rows"] if row["precision"] == "fp32"]
    rows = [row for row in rows if row["execution"] == "graph"] or rows
    networks = [row for row in rows if row["kind"] == "network"]
    layers = [row for row in rows if row["kind"] == "layer"]
    figure, axes = plt.subplots(figsize=(6.5, 6.5), layout="constrained")
    shares = [v["macs_share"] for row in rows for v in row["variants"]]
    axes.plot([min(shares), 1], [min(shares), 1], "-", color=BLACK, label="ideal: time as MACs")
    said = []
    for i, row in enumerate(networks):
        style = {"color": (BLUE, ORANGE, GREEN, PURPLE)[i % 4], "marker": "os^DvP"[i % 6]}
        name = f"{row['name']}, batch {row['batch']}"
        _time_points(axes, row, "accelerated", label=name, linestyle=":", **style)
        _time_points(axes, row, "oracle", linestyle="", markerfacecolor="white", **style)
        said += _said_times(row, name)
    for i, row in enumerate(layers):
        style = {"color": "#777777", "marker": ".", "linestyle": ""}
        _time_points(axes, row, "accelerated", label="" if i else "single layers", **style)
        _time_points(axes, row, "oracle", markerfacecolor="white", **style)
        said += [] if networks else _said_times(row, row["name"])
    axes.plot([], [], "o", color=BLACK, markerfacecolor="white", label="open: the oracle of each")
    ticks = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5]
    axes.set(xscale="log", yscale="log", title=f"{results['machine']['device']}, float32")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlabel("MACs executed, predictors included (share of dense)")
    axes.set_ylabel("time (share of the best dense)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure, "Share of the MACs executed and of the best dense time: " + "; ".join(said) + "."


def _time_points(axes: Axes, row: dict, variant: str, **style) -> None:
    """One point a density, with the quartiles as a bar."""
    points = [v for v in row["variants"] if v["variant"] == variant]
    if not points:
        return
    base = next(v for v in row["variants"] if v["variant"] == row["dense_best"])["median_ms"]
    middle = np.array([v["time_share"] for v in points])
    low = middle - [v["first_quartile_ms"] / base for v in points]
    high = [v["third_quartile_ms"] / base for v in points] - middle
    axes.errorbar([v["macs_share"] for v in points], middle, (low, high), **style)


def _said_times(row: dict, name: str) -> list[str]:
    """The accelerated network's shares, at the density nearest to a half."""
    points = [v for v in row["variants"] if v["variant"] == "accelerated"]
    if not points:
        return []
    v = min(points, key=lambda v: abs(v["density"] - 0.5))
    return [f"{name} at density {v['density']:g} {v['macs_share']:.3f} and {v['time_share']:.3f}"]


BARS = {"dense": GREY, "masked": ORANGE, "loops": PURPLE, "oracle": GREEN}  # others are blue


def time_bars(
    times: Mapping[str, Timing], ideal: float | None = None, title: str = ""
) -> tuple[Figure, str]:
    """Medians in milliseconds with their quartiles, one bar a way of doing the same thing.

    Args:
        times: the first is what the others are compared with.
        ideal: share of the first one's MACs that has to be done; a dashed line shows that share
            of its time.
    """
    names = list(times)
    first = 1000 * times[names[0]].median
    middle = 1000 * np.array([t.median for t in times.values()])
    low = middle - [1000 * t.first_quartile for t in times.values()]
    high = [1000 * t.third_quartile for t in times.values()] - middle
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(names) + 1.5), layout="constrained")
    colours = [BARS.get(name, BLUE) for name in names]
    bars = axes.barh(
        names, middle, xerr=(low, high), color=colours, edgecolor=BLACK, ecolor=BLACK, capsize=3
    )
    axes.bar_label(bars, [f"{three_digits(ms)} ms" for ms in middle], fontsize=9, padding=4)
    said = [
        f"{name} {three_digits(ms)} ms ({100 * ms / first:.0f} %)"
        for name, ms in zip(names, middle, strict=True)
    ]
    if ideal is not None:
        axes.axvline(ideal * first, color=BLACK, linestyle="--", label="ideal: time as MACs")
        figure.legend(loc="outside lower right", fontsize=9, frameon=False)
        said.append(f"ideal {three_digits(ideal * first)} ms ({100 * ideal:.0f} %, as the MACs)")
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds", title=title, xlim=(0, 1.2 * (middle + high).max()))
    return figure, "; ".join(said) + "."


def time_by_density(
    densities: Sequence[float], shares: Mapping[str, Sequence[float]], title: str = ""
) -> tuple[Figure, str]:
    """Time as a share of the dense time against density, a line for each name, up to six."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    colours = (BLUE, GREEN, PURPLE, ORANGE, BLACK, "#777777")
    said = []
    for (name, values), colour, marker in zip(shares.items(), colours, "os^DvP", strict=False):
        axes.plot(densities, values, color=colour, marker=marker, label=name)
        by_density = sorted(zip(densities, values, strict=True), reverse=True)  # as in the figure
        said.append(f"  {name}: " + ", ".join(f"{100 * value:.0f}" for _, value in by_density))
    squares = [d * d for d in densities]
    axes.plot(densities, squares, "--", color=BLACK, label="ideal: d²")
    axes.axhline(1, color=BLACK, linewidth=0.8)
    axes.text(min(densities) - 0.03, 1.06, "as slow as dense", fontsize=9, ha="right")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4]
    axes.set(xlabel="density d (share of channels that win)", ylabel="time (share of dense)")
    axes.set(yscale="log", title=title)
    axes.set_xticks(densities, [f"{d:g}" for d in densities])
    axes.set_xlim(max(densities) + 0.04, min(densities) - 0.04)
    axes.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_ticks([], minor=True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    at = ", ".join(f"{d:g}" for d in sorted(densities, reverse=True))
    return figure, "\n".join([f"Percent of the dense time at d = {at}:", *said])


def weight_reads(
    channels: Tensor, winners: Tensor, shape: tuple[int, int], sector: int, title: str = ""
) -> tuple[Figure, str]:
    """What one image reads of a weight ``[C_in, C_out]``, whose rows come in pieces of ``sector``.

    Args:
        channels, winners: the rows and columns that are needed, ``[k_in]`` and ``[k_out]``.
    """
    needed = np.zeros(shape, dtype=bool)
    needed[np.ix_(channels.numpy(), winners.numpy())] = True
    pieces = np.add.reduceat(needed, range(0, shape[1], sector), axis=1) > 0
    read = pieces.repeat(sector, axis=1)[:, : shape[1]]
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    axes.pcolormesh(
        read.astype(int) + needed, cmap=ListedColormap(["white", ORANGE, BLUE]), vmin=0, vmax=2,
        edgecolors="white", linewidth=0.3,
    )  # fmt: skip
    axes.vlines(range(0, shape[1] + 1, sector), 0, shape[0], BLACK, linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="output channel", ylabel="input channel", title=title)
    colours = [(BLUE, "needed"), (ORANGE, "read with it"), ("white", "not read")]
    figure.legend(
        [Patch(facecolor=colour, edgecolor=GREY) for colour, _ in colours],
        [name for _, name in colours],
        loc="outside lower center", ncols=3, fontsize=9, frameon=False,
    )  # fmt: skip
    sentence = (
        f"Needed are {100 * needed.mean():.0f} % of the {needed.size} weights, read are "
        f"{100 * read.mean():.0f} %."
    )
    return figure, sentence


def roofline(
    peaks: Mapping[str, float],
    bandwidth: float,
    intensities: Mapping[str, Mapping[str, tuple[float, float]]],
    shares: Mapping[str, Mapping[str, float]],
    ideal: float,
    measured: Mapping[str, Mapping[str, float]],
    title: str = "",
) -> tuple[Figure, str]:
    """Where layers lie under a GPU's roofs, and the shares of the dense time that follow.

    Args:
        peaks: FLOP/s, a roof for each precision, up to three. bandwidth: bytes/s.
        intensities: ``{precision: {layer: (dense, skipping)}}`` in FLOP a byte.
        shares: ``{precision: {layer: least time as a share of the dense layer's}}``.
        ideal: the density squared.
        measured: ``{precision: {layer: share}}``; any of it may be missing.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.4), width_ratios=(1.15, 1), layout="constrained"
    )
    layers = list(next(iter(shares.values())))
    grid, width, said = np.logspace(-0.3, 3.7, 200), 0.8 / len(peaks), []
    looks = zip((BLUE, ORANGE, GREEN), ("-", "--", ":"), ("", "///", "..."), strict=True)
    for i, ((name, peak), (colour, line, hatch)) in enumerate(zip(peaks.items(), looks)):  # noqa: B905
        roof = np.minimum(peak, grid * bandwidth) / 1e12
        left.loglog(
            grid, roof, line, color=colour, label=f"{name}: at most {peak / 1e12:g} TFLOP/s"
        )
        for layer, marker in zip(layers, "os^DvP", strict=False):
            at = np.array(intensities[name][layer])
            reached = np.minimum(peak, at * bandwidth) / 1e12
            left.plot(at, reached, color=colour, linewidth=3, alpha=0.3)
            left.plot(at[:1], reached[:1], marker, color=colour, markerfacecolor="white")
            left.plot(at[1:], reached[1:], marker, color=colour, markersize=7)
        place = np.arange(len(layers)) - 0.4 + (i + 0.5) * width
        values = [shares[name][layer] for layer in layers]
        right.bar(place, values, width, color=colour, hatch=hatch, edgecolor="white")
        if found := measured.get(name):
            points = [found.get(layer, np.nan) for layer in layers]
            right.plot(place, points, "Dos"[i], color=BLACK, label=f"measured, {name}")
        said.append(f"{name} " + ", ".join(f"{100 * value:.0f}" for value in values))
    for layer, marker in zip(layers, "os^DvP", strict=False):
        left.plot([], [], marker, color=BLACK, linestyle="", label=layer)
    left.plot([], [], "o", color=BLACK, markerfacecolor="white", linestyle="", label="open: dense")
    left.set(xlabel="arithmetic intensity (FLOP per byte moved)", ylabel="TFLOP/s at most")
    left.set(xlim=(grid[0], grid[-1]), ylim=(1, 2000))
    left.legend(fontsize=7, frameon=False, ncols=2, loc="lower right")
    right.axhline(ideal, color=BLACK, linestyle="--", label=f"ideal: d² = {ideal:.3g}")
    right.axhline(1, color=BLACK, linewidth=0.8)
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    right.set(ylabel="least time (share of dense)", yscale="log", ylim=(0.005, 12))
    right.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    right.yaxis.set_ticks([], minor=True)
    right.set_xticks(
        range(len(layers)), [layer.replace(", ", "\n") for layer in layers], fontsize=8
    )
    right.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    left.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    sentence = f"Least time in percent of the dense layer's, for {'; '.join(layers)}: "
    sentence += f"{'; '.join(said)}. d² is {100 * ideal:.3g} %."
    for name, found in measured.items():
        points = "; ".join(f"{layer} {100 * share:.0f}" for layer, share in found.items())
        sentence += f" Measured, {name}: {points}." if found else ""
    return figure, sentence


def image_row(images: Tensor, captions: Sequence[str], title: str = "") -> tuple[Figure, str]:
    """Colour images ``[N, 3, H, W]`` in [0, 1] side by side, each under its caption."""
    size = (1.7 * len(images), 1.8)
    figure, row = plt.subplots(1, len(images), figsize=size, layout="constrained")
    _image_row(np.atleast_1d(row), images, captions)
    figure.suptitle(title, fontsize=10)
    pixels = f"{images.shape[2]}×{images.shape[3]} pixels"
    return figure, f"{len(images)} images of {pixels}: {', '.join(captions)}."


def _image_row(row: np.ndarray, images: Tensor, captions: Sequence[str]) -> None:
    for axes, image, caption in zip(row, images, captions, strict=True):
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(caption, fontsize=8)
        axes.set_axis_off()


def layer_shares(
    names: Sequence[str],
    kinds: Sequence[str],
    gates: Sequence[float],
    zeros: Sequence[float],
    *,
    level: float,
    title: str = "",
) -> tuple[Figure, str]:
    """The share 0..1 of each layer's dense MACs that is left, a bar a layer, top to bottom.

    Args:
        kinds: what sort of layer each is, up to four; a bar's colour and hatch say it.
        gates, zeros: two counts, drawn as a bar and as a diamond.
        level: a dashed line, what a layer in the middle of a chain would have.
    """
    figure, axes = plt.subplots(figsize=(7, 0.2 * len(names) + 1.4), layout="constrained")
    gates, zeros = (100 * np.array(values) for values in (gates, zeros))
    place, said = np.arange(len(names)), []
    looks = zip((BLUE, GREY, ORANGE, GREEN), ("", "", "///", "xx"), strict=True)
    for kind, (colour, hatch) in zip(dict.fromkeys(kinds), looks, strict=False):
        of_kind = np.array([k == kind for k in kinds])
        axes.barh(
            place[of_kind], gates[of_kind], color=colour, hatch=hatch, edgecolor="white", label=kind
        )
        low, high = gates[of_kind].min(), gates[of_kind].max()
        span = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
        said.append(f"{kind} {span} %")
    axes.plot(zeros, place, "D", color=BLACK, markersize=4, label="by zeros")
    axes.axvline(100 * level, color=BLACK, linestyle="--", label=f"d² = {100 * level:.3g} %")
    axes.set_yticks(place, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="MACs left, bars by gates (% of the layer's dense MACs)", xlim=(0, 100))
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=8, loc="upper right")
    return figure, f"MACs left by gates: {'; '.join(said)}."


def beside_published(
    lines: Mapping[str, Sequence[dict]], published: Sequence[dict], title: str = ""
) -> tuple[Figure, str]:
    """Own test accuracies against density, and other people's, which are marked as published.

    Args:
        lines: ``{name: rows}`` with rows as in ``metrics.json``, up to three; the first names the
            MACs. A row without a density is the plain network, drawn apart at the left.
        published: ``[{"name", "rows"}]``, drawn with open markers.
    """
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    first = next(iter(lines.values()))
    best = 100 * max(row["test_accuracy"] for row in first)
    floor, said = 5 * math.floor((best - 25) / 5), []
    looks = [(BLUE, "o", "-"), (GREEN, "^", "-"), (PURPLE, "D", "-")]
    for (name, rows), look in zip(lines.items(), looks, strict=False):
        said.append(_accuracy_by_density(axes, rows, floor, name, *look))
    looks = [(ORANGE, "s", "--"), (BLACK, "v", ":"), ("#777777", "P", "-.")]
    for table, look in zip(published, looks, strict=False):
        name = f"published: {table['name']}"
        said.append(_accuracy_by_density(axes, table["rows"], floor, name, *look, fill="white"))
    ticks = {1.1 if row["density"] is None else row["density"]: row for row in first}
    labels = [
        f"{row['density'] or 'plain'}\n{row['macs_gates'] / 1e6:.3g} M" for row in ticks.values()
    ]
    axes.set_xticks(list(ticks), labels, fontsize=8)
    axes.set(xlim=(1.14, min(ticks) - 0.07), ylim=(floor, min(100.5, best + 5)), title=title)
    axes.set(xlabel="density d, and MACs of one image by gates", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return figure, f"Test accuracy, plain and at d = 0.5: {'; '.join(said)}."


def _accuracy_by_density(
    axes: Axes, rows: Sequence[dict], floor: float, name: str, colour: str, marker: str, line: str,
    fill: str | None = None,
) -> str:  # fmt: skip
    """A line over the densities and a single point for the plain network; what to say of it."""
    style = {"color": colour, "marker": marker, "markerfacecolor": fill or colour}
    known = {row["density"]: 100 * row["test_accuracy"] for row in rows}
    gated = {d: value for d, value in known.items() if d is not None}
    line = line if len(gated) > 1 else ""
    axes.plot(list(gated), list(gated.values()), linestyle=line, label=name, **style)
    for d, value in gated.items():
        if value < floor:  # below the picture
            axes.annotate(
                f"{value:.0f} % at {d:g}", (d, floor), (0, 3), textcoords="offset points",
                ha="center", color=colour, fontsize=8,
            )  # fmt: skip
    if None in known:
        axes.plot([1.1], [known[None]], linestyle="", **style)
    numbers = [f"{known[d]:.1f} %" if d in known else "not given" for d in (None, 0.5)]
    return f"{name} {numbers[0]} and {numbers[1]}"


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
    _image_row(np.atleast_1d(top.subplots(1, len(images))), images, captions)
    left, middle, right = bottom.subplots(1, 3, width_ratios=(1.3, 1, 1))

    left.plot(list(curve), [100 * value for value in curve.values()], "-", color=BLUE, marker=".")
    nearest = min(curve, key=lambda d: abs(d - density))
    left.plot([nearest], [100 * curve[nearest]], "o", color=BLUE, markersize=10, label="test set")
    said = [f"right on {100 * curve[nearest]:.1f} % of the test set"]
    if here is not None:
        left.plot([density], [100 * here], "D", color=ORANGE, markersize=8, label="images here")
        said.append(f"on {100 * here:.1f} % of the images here")
    left.set(xlabel="density d", ylabel="accuracy (%)", xlim=(1.05, 0.05), ylim=(0, 104))
    left.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower left")

    shares = [100 * share for share in macs.values()]
    bars = middle.bar(list(macs), shares, color=[BLUE, GREEN][: len(macs)], edgecolor=BLACK)
    middle.bar_label(bars, [f"{share:.1f} %" for share in shares], fontsize=8, padding=2)
    middle.set(ylabel="MACs (% of dense)", ylim=(0, 115))
    said.append("MACs " + ", ".join(f"{v:.1f} % {n}" for n, v in zip(macs, shares, strict=True)))

    spent = [1000 * t.median for t in times.values()]
    bars = right.bar(list(times), spent, color=[GREY, BLUE][: len(times)], edgecolor=BLACK)
    right.bar_label(bars, [three_digits(ms) for ms in spent], fontsize=8, padding=2)
    right.set(ylabel="milliseconds", ylim=(0, 1.2 * max(spent)))
    name, *others = times
    said += [
        f"{other} {three_digits(ms)} ms, {100 * ms / spent[0]:.0f} % of {name}"
        for other, ms in zip(others, spent[1:], strict=True)
    ]
    return figure, f"d = {density:.1f}: {'; '.join(said)}."


def number_line(
    question: str, low: float, high: float, unit: str, truth: float, guess: float | None
) -> tuple[Figure, str]:
    """A guess beside the truth on a line from ``low`` to ``high``."""
    figure, axes = plt.subplots(figsize=(6, 1.5), layout="constrained")
    axes.axhline(0, color=GREY, zorder=0)
    points = [(truth, "measured", "D", BLUE, 10)]
    points += [] if guess is None else [(guess, "your guess", "o", ORANGE, -18)]
    for value, name, marker, colour, offset in points:
        axes.plot([value], [0], marker, color=colour, markersize=10)
        axes.annotate(
            f"{name}: {value:.4g} {unit}", (value, 0), (0, offset), textcoords="offset points",
            ha="left" if value < (low + high) / 2 else "right", color=colour, fontsize=9,
        )  # fmt: skip
    margin = 0.03 * (high - low)
    axes.set(xlim=(low - margin, high + margin), ylim=(-1, 1), yticks=[], xlabel=unit)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_title(question, fontsize=10, loc="left")
    answer = f"The answer is {truth:.4g} {unit}".rstrip()
    if guess is None:
        return figure, f"{answer}. You did not guess; a guess first makes the answer stick."
    off = f"{abs(guess - truth):.3g} {'points' if unit == '%' else unit}".rstrip()
    side = "too low" if guess < truth else "too high"
    verdict = "exactly right" if math.isclose(guess, truth) else f"{off} {side}"
    return figure, f"{answer}; your guess of {guess:.4g} was {verdict}."
