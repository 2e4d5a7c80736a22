"""What the gates know: whose gates, which class, choice or scale, and a second look."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from ..plots.style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREY,
    ORANGE,
    PURPLE,
    WHITE,
    curve,
    ink,
    legend_below,
    name_ends,
)
from .draw import arrow, bars, box, canvas, frame, label, note, title

LIGHT_ORANGE = "#F0A878"
COLOURS = {  # of the course, whose gates a figure shows
    "its own gates": BLUE,
    "another image's gates": PURPLE,
    "both fixed": ORANGE,  # the mean gate
    "choice fixed": LIGHT_ORANGE,  # its winners, own values
    "random gates": DARK_GREY,
}


def whose_gates(
    image: Tensor, donor: Tensor, gates: Mapping[str, Tensor], right: Mapping[str, Sequence[float]]
) -> tuple[Figure, str]:
    """One layer's gates for one image, a row for each way to choose them, and what it costs.

    Args:
        image, donor: ``[1, H, W]``, the image, and the one whose gates the purple row holds.
        gates: ``{a key of COLOURS: [C]}``, in the order of the rows.
        right: ``{the same keys: accuracies 0..1}``, with such gates in every layer, one for each
            draw; a bar is their median, and a line goes from the lowest to the highest.
    """
    height = 10 * len(gates) + 9
    figure, axes = canvas(height)
    title(axes, 2, 2.5, "The image")
    title(axes, 20, 2.5, "Gates of its last layer, 64 channels" if _wide(gates) else "Its gates")
    title(axes, 82, 2.5, "Test images correct")
    _thumbnail(axes, image, 2, 6, 11)
    note(axes, 7.5, 19, "all rows gate\nthis image")
    if "another image's gates" in gates:
        row = list(gates).index("another image's gates")
        _thumbnail(axes, donor, 5, 6 + 10 * max(row, 2), 6, PURPLE)
        note(axes, 8, 14 + 10 * max(row, 2), "the donor", color=PURPLE)
    top, said = max(g.max().item() for g in gates.values()), []
    for i, (name, g) in enumerate(gates.items()):
        y, colour = 13 + 10 * i, COLOURS[name]
        frame(axes, 20, y - 6.3, 56, 6.3, edgecolor="none", facecolor="#FAFAFA", zorder=0)
        label(axes, 20, y - 7.3, name, ha="left", color=colour, fontsize=8.5, weight="bold")
        bars(axes, 20, y, g, 56 / len(g), 5.6, towards="up", colour=colour, won=g != 0, top=top)
        axes.plot([20, 76], [y, y], color=DARK_GREY, linewidth=0.8)
        arrow(axes, (77, y - 3), (81, y - 3), colour=colour)
        low, middle, high = 100 * np.quantile(right[name], (0, 0.5, 1))
        frame(axes, 82, y - 4.3, 0.12 * middle, 2.6, facecolor=colour, edgecolor="none")
        label(axes, 95, y - 3, f"{middle:.1f} %", ha="left", fontsize=9, color=BLACK)
        said.append(f"{name} {middle:.1f} %")
        if len(right[name]) > 1:
            ends = 82 + 0.12 * low, 82 + 0.12 * high
            axes.plot(ends, [y - 3] * 2, "|-", color=BLACK, linewidth=1.2, markersize=6)
            said[-1] += f" (median of {len(right[name])} draws, {low:.1f} to {high:.1f})"
    note(axes, 48, height - 1.5, "a bar for each channel; no bar: skipped")
    note(axes, 88, height - 1.5, "bar: median; line: all draws")
    return figure, f"Test images right, with such gates in every layer: {'; '.join(said)}."


def _wide(gates: Mapping[str, Tensor]) -> bool:
    return len(next(iter(gates.values()))) == 64


def _thumbnail(
    axes: Axes, image: Tensor, x: float, y: float, side: float, edge: str = BLACK
) -> None:
    extent = (x, x + side, y + side, y)
    axes.imshow(image[0].numpy(), extent=extent, aspect="auto", cmap="gray_r", vmin=0, vmax=1)
    frame(axes, x, y, side, side, edgecolor=edge, linewidth=1.2)


def by_density(
    found: Mapping[float, Mapping[str, Sequence[float]]], title: str
) -> tuple[Figure, str]:
    """Percent correct against density, a line for each kind of gates, its name beside it.

    Args:
        found: ``{density: {a key of LINES: percent, or one for each draw}}``; a line is their
            median, a band goes from the lowest to the highest.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    densities, said, ends, lowest = list(found), [], [], 100.0
    for name in next(iter(found.values())):
        draws = np.array([np.atleast_1d(found[d][name]) for d in densities]).T  # [draws, densities]
        middle = curve(axes, densities, draws / 100, name, LINES[name])
        lowest = min(lowest, draws.min())
        ends.append((name, middle[-1], LINES[name][0]))
        said.append(f"{name} {', '.join(f'{value:.1f}' for value in middle)} %")
    axes.set(xlabel="density d", ylabel="test accuracy (%)", xticks=densities)
    axes.set_ylim(0 if lowest < 60 else lowest - 4, 104 if lowest < 60 else 101)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.margins(x=0.03)
    low, high = axes.get_xlim()
    name_ends(axes, high + 0.01 * (high - low), ends[::-1])
    at = ", ".join(f"{density:g}" for density in densities)
    return figure, f"Correct at d = {at}:\n" + "\n".join(said)


LINES = {  # colour, marker, line
    "its own gates": (BLUE, "o", "-"),
    "another image's gates": (PURPLE, "^", ":"),
    "random gates": (DARK_GREY, "x", ":"),
    "own": (BLUE, "o", "-"),
    "choice fixed": (LIGHT_ORANGE, "D", "-."),
    "values fixed": (BLACK, "v", ":"),
    "both fixed": (ORANGE, "s", "--"),
}


def donors_compared(found: Mapping[str, Sequence[float]], title: str) -> tuple[Figure, str]:
    """Percent correct with the gates of donors of each kind: a row a kind, a dot a donor.

    A tick stands at the median. The first row is the network as it is.
    """
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(found) + 0.9), layout="constrained")
    said = []
    for place, (name, percent) in enumerate(found.items()):
        colour = PURPLE if place else BLUE
        axes.plot(percent, [place] * len(percent), "o", color=colour, markersize=6, alpha=0.6)
        low, middle, high = np.quantile(percent, (0, 0.5, 1))
        axes.plot([middle], [place], "|", color=BLACK, markersize=15, markeredgewidth=1.5)
        span = f", {low:.1f} to {high:.1f}" if len(percent) > 1 else ""
        said.append(f"{name}: {middle:.1f} %{span}")
    axes.set_yticks(range(len(found)), found)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set(xlabel="test images correct (%)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3, axis="x")
    return figure, "\n".join(said)


def shared_by_class(
    panels: Mapping[str, Tensor], labels: Tensor, heading: str = ""
) -> tuple[Figure, str]:
    """How many channels each two images have in common, images sorted by class.

    Args:
        panels: ``{title: bool [N, C]}``, the channels of each image.
        labels: ``[N]`` classes. heading: over all panels, what they show.
    """
    order, said = labels.argsort(stable=True), []
    ends = labels.bincount().cumsum(0)
    size = (4.2 * len(panels) + 0.8, 4.5)
    figure, row = plt.subplots(1, len(panels), figsize=size, layout="constrained")
    for axes, (name, chosen) in zip(np.atleast_1d(row), panels.items(), strict=True):
        chosen = chosen[order].double()
        common, k = chosen @ chosen.T, int(chosen[0].sum())
        look = {"cmap": "cividis", "vmin": 0, "vmax": k, "interpolation": "nearest"}  # few colours
        picture = axes.imshow(common.numpy(), rasterized=True, **look)
        middles = (ends - labels.bincount() / 2).tolist()
        axes.set_xticks(middles, range(len(ends)))
        axes.set_yticks(middles, range(len(ends)))
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("digit")
        axes.set_ylabel("digit")
        said.append(f"{name}: {_in_common(common, labels[order], k, chosen.shape[1])}")
    figure.colorbar(picture, ax=row, shrink=0.75, label=f"channels in common, of {k}")
    figure.suptitle(heading, fontsize=11)
    return figure, "\n".join(said)


def _in_common(common: Tensor, labels: Tensor, k: int, channels: int) -> str:
    same = labels[:, None] == labels[None]
    within = (common[same].sum() - k * len(labels)) / (same.sum() - len(labels))  # not with itself
    between = common[~same].mean()
    return (
        f"images of one digit have {within:.1f} of {k} channels in common, of different digits "
        f"{between:.1f}; sets drawn at random have {k * k / channels:.1f}."
    )


def choice_and_scale(series: Mapping[str, Sequence[Sequence[dict]]]) -> tuple[Figure, str]:
    """Points lost when the choice alone is fixed, and when the values are fixed as well.

    Args:
        series: ``{name: runs}``, the rows of one or more runs with their controls. The first run's
            densities are drawn; bars are medians over the runs, dots the runs.
    """
    figure, row = plt.subplots(
        1, len(series), figsize=(9, 3.5), sharey=True, squeeze=False, layout="constrained"
    )
    said = []
    for axes, (name, runs) in zip(row[0], series.items(), strict=True):
        densities = sorted(r["density"] for r in runs[0])
        places, words = np.arange(len(densities)), []
        for offset, (key, colour, hatch) in enumerate(LOSSES):
            lost = np.array([[_lost(run, d, key) for d in densities] for run in runs])
            middle = np.median(lost, axis=0)
            x = places + 0.4 * offset - 0.2
            axes.bar(x, middle, 0.38, color=colour, hatch=hatch, edgecolor="white")
            if len(runs) > 1:
                axes.plot(np.tile(x, len(runs)), lost.flatten(), ".", color=BLACK, markersize=4)
            words.append(", ".join(f"{value:.1f}" for value in middle))
        axes.set_xticks(places, [f"{d:g}" for d in densities])
        axes.set(xlabel="density d", title=name)
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.grid(alpha=0.3, axis="y")
        at = ", ".join(f"{d:g}" for d in densities)
        who = f"{name}, median of {len(runs)} seeds" if len(runs) > 1 else name
        said.append(f"{who}, d = {at}: choice fixed {words[0]}, both fixed {words[1]}.")
    row[0][0].set_ylabel("points lost")
    figure.suptitle("What it costs to fix the choice, and to fix the values, too", fontsize=11)
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, hatch=h, ec="white") for _, c, h in LOSSES]
    names = ["choice fixed: the mean gate's winners, own values", "both fixed: the mean gate"]
    if any(len(runs) > 1 for runs in series.values()):
        handles.append(Line2D([], [], marker=".", color=BLACK, linestyle=""))
        names.append("a seed; the bar is their median")
    legend_below(figure, handles, names, ncols=3, fontsize=8)
    return figure, "\n".join(said)


LOSSES = (("mean_winners", LIGHT_ORANGE, ""), ("mean_gates", ORANGE, "///"))


def _lost(run: Sequence[dict], density: float, key: str) -> float:
    row = next(row for row in run if row["density"] == density)
    return 100 * (row["own_gates"] - row[key])


def rank_dots(
    measures: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]], layers: Sequence[str]
) -> tuple[Figure, str]:
    """Rank correlations of g with several measures: trained, and beneath it predictors that know
    nothing.

    A grey band goes, for each layer, from the lowest to the highest of these, with a tick at their
    median. A dot within the band is hollow.

    Args:
        measures: ``{name: (one value per layer, the same of each untrained predictor)}``.
        layers: their names.
    """
    rows = len(layers) + 1.6  # of each measure, with its name above
    figure, axes = plt.subplots(
        figsize=(8.5, 0.27 * rows * len(measures) + 1), layout="constrained"
    )
    said, ticks = [], []
    for i, (name, (trained, untrained)) in enumerate(measures.items()):
        places, drawn = -rows * i - np.arange(len(layers)), np.array(untrained)  # [draws, layers]
        axes.text(-1, places[0] + 1, name, weight="bold", fontsize=10, va="center")
        axes.hlines(places, drawn.min(axis=0), drawn.max(axis=0), color=GREY, linewidth=6)
        axes.plot(np.median(drawn, axis=0), places, "|", color=BLACK, markersize=7)
        within = (drawn.min(axis=0) <= trained) & (trained <= drawn.max(axis=0))
        for x, y, inside in zip(trained, places, within, strict=True):
            axes.plot(
                x, y, "o", color=BLUE, markersize=6, markerfacecolor=WHITE if inside else BLUE
            )
        ticks.extend(zip(places, layers, strict=True))
        values = ", ".join(f"{value:.2f}" for value in trained)
        said.append(f"{name}: {values}; beyond all draws {_beyond(trained, drawn, layers)}.")
    axes.set_title("What contains the gate agrees with it, even if g is random", fontsize=11)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(top=1.8)
    axes.set(xlim=(-1.02, 1.02), xlabel="rank correlation with g: 1 same order, −1 the reverse")
    axes.grid(alpha=0.3, axis="x")
    marks = [
        Line2D([], [], marker="o", color=BLUE, linestyle="", markersize=6),
        Line2D([], [], marker="o", color=BLUE, linestyle="", markersize=6, markerfacecolor=WHITE),
        Line2D([], [], marker="|", color=GREY, linewidth=5, markeredgecolor=BLACK),
    ]
    names = [
        "trained network, beyond all draws",
        "within them",
        f"{len(untrained)} random predictors: range and median",
    ]
    legend_below(figure, marks, names, ncols=3)
    return figure, "\n".join(said)


def _beyond(trained: Sequence[float], drawn: np.ndarray, layers: Sequence[str]) -> str:
    """In which layers the trained network lies above or below all draws, in words."""
    sides = {
        "above": np.array(trained) > drawn.max(axis=0),
        "below": np.array(trained) < drawn.min(axis=0),
    }
    found = [
        f"{side} in {', '.join(np.array(layers)[hits])}"
        for side, hits in sides.items()
        if hits.any()
    ]
    return "; ".join(found) or "in no layer"


def two_looks(first: str, second: str, share: float, costs: Sequence[float]) -> tuple[Figure, str]:
    """The way of an image through `look_again`, with shares and MACs.

    Args:
        first, second: what looks. share: of the images that look again.
        costs: MACs of the first and of the second look.
    """
    figure, axes = canvas(22)
    label(axes, 6, 9, "every\nimage", fontsize=10)
    arrow(axes, (10, 9), (16, 9))
    box(axes, 16, 5, 20, 8, f"first look\n{first}\n{_macs(costs[0])}", colour=BLUE)
    arrow(axes, (36, 9), (43, 9))
    box(axes, 43, 5, 19, 8, "largest probability\nbelow the\nthreshold?")
    arrow(axes, (62, 8), (87, 8), f"no: {100 * (1 - share):.0f} % are sure enough")
    label(axes, 93, 8, "answer", fontsize=10, weight="bold")
    arrow(axes, (52.5, 13), (52.5, 17.5))
    label(axes, 53.5, 15.2, f"yes: {100 * share:.0f} % are unsure", ha="left", fontsize=8)
    words = f"second look: {second}, {_macs(costs[1])}"
    box(axes, 32, 17.5, 41, 4, words, colour=BLUE)
    arrow(axes, (73, 19.5), (92, 11), bend=0.25)
    mean = costs[0] + share * costs[1]
    return figure, (
        f"Mean MACs: {_macs(costs[0])} for every image + {100 * share:.0f} % of "
        f"{_macs(costs[1])} = {_macs(mean)}; the worst case is {_macs(sum(costs))}."
    )


def _macs(macs: float) -> str:
    return f"{macs / 1e6:.3g} M MACs" if macs >= 1e6 else f"{macs / 1e3:.1f} k MACs"


def surest_and_least(
    images: Tensor, confidence: Tensor, captions: Sequence[str], count: int = 10
) -> tuple[Figure, str]:
    """The ``count`` images of least and of most confidence, each under its caption."""
    order = confidence.argsort(stable=True)
    rows = {"least sure": order[:count], "most sure": order.flip(0)[:count]}
    figure, grid = plt.subplots(2, count, figsize=(9, 2.7), layout="constrained")
    for line, (name, chosen) in zip(grid, rows.items(), strict=True):
        for axes, i in zip(line, chosen.tolist(), strict=True):
            axes.imshow(images[i, 0].numpy(), cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(captions[i], fontsize=8)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)
    least, most = (confidence[chosen] for chosen in rows.values())
    above = min(math.floor(1000 * most[-1]) / 10, 99.9)
    return figure, (
        f"Largest probability of the {count} least sure images: {100 * least[0]:.0f} to "
        f"{100 * least[-1]:.0f} %; of the {count} most sure: above {above:.1f} %."
    )


def the_dial(
    curve: Sequence[tuple[float, float]],
    here: tuple[float, float, float],
    fixed: Mapping[float, tuple[float, float]],
    plain: Sequence[tuple[float, float]] = (),
    heading: str = "",
) -> tuple[Figure, str]:
    """Accuracy over mean MACs of two looks, where the dial stands, and one look for all.

    Args:
        curve: ``(mean MACs, accuracy 0..1)`` over all shares that look again.
        here: the same and the share, where the dial stands.
        fixed: ``{density: (MACs, accuracy)}`` of one look for all images.
        plain: ``(MACs, accuracy)`` of small plain networks, each trained for its size.
        heading: the title.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    macs, right, share = here
    x, y = zip(*curve, strict=True)
    axes.plot(np.array(x) / 1e3, 100 * np.array(y), "-", color=BLUE, label="two looks")
    costs, rights = np.array(list(fixed.values())).T
    axes.plot(costs / 1e3, 100 * rights, "s:", color=DARK_GREY, label="one density for all images")
    if plain:
        costs, rights = np.array(plain).T
        axes.plot(costs / 1e3, 100 * rights, "x", color=BLACK, label="small plain networks")
    for density, (cost, accuracy) in fixed.items():
        axes.annotate(
            f"d = {density:g}", (cost / 1e3, 100 * accuracy), (7, -12),
            textcoords="offset points", fontsize=8, color=ink(DARK_GREY),
        )  # fmt: skip
    axes.plot(macs / 1e3, 100 * right, "o", color=BLUE, markersize=12, label="the dial")
    axes.set(xlabel="mean MACs per image (thousands)", ylabel="test accuracy (%)")
    axes.set_title(heading, fontsize=11)
    axes.margins(x=0.1, y=0.15)
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=4, fontsize=8)
    return figure, (
        f"{100 * share:.0f} % of the test images look again: {100 * right:.1f} % correct with "
        f"{_macs(macs)} on average."
    )


def second_looks(lines: Mapping[str, Sequence[dict]], images: int) -> tuple[Figure, str]:
    """Test accuracy over mean MACs of two looks and of one, each line with its name beside it.

    Args:
        lines: ``{name: points}`` as `bench.budget.curves` gives them; the first also shows what
            as many second looks at images drawn at random give, the last looks once.
        images: of the test set; the bars are a standard error of a share of so many.

    An arrow leads from the most expensive single look to two looks for a third of its MACs at most.
    """
    figure, axes = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
    chosen = next(iter(lines.values()))
    series = {name: (points, "accuracy") for name, points in lines.items()}
    series["second looks at random"] = chosen, "random_accuracy"
    said = []
    for (name, (points, key)), (colour, look, shift) in zip(series.items(), LOOKS, strict=True):
        macs, right = np.array([(p["test"]["macs"] / 1e6, p["test"][key]) for p in points]).T
        order = macs.argsort()
        macs, right = macs[order], right[order]
        error = 100 * np.sqrt(right * (1 - right) / images)
        axes.errorbar(
            macs, 100 * right, error, fmt=look, color=colour, elinewidth=0.6, markersize=6
        )
        axes.annotate(
            name, (macs[-1], 100 * right[-1]), shift, textcoords="offset points",
            color=ink(colour), fontsize=9, weight="bold",
        )  # fmt: skip
        said.append(f"{name} up to {100 * right.max():.2f} %")
    axes.set_xscale("log")
    ticks = [20, 50, 100, 200]
    axes.set_xticks(ticks, [f"{tick} M" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="mean MACs per image, predictors included", ylabel="test accuracy (%)")
    axes.set_xlim(15, 330)
    axes.margins(y=0.06)
    axes.set_title(_saving(axes, chosen, *list(lines.items())[-1]), fontsize=11)
    axes.grid(alpha=0.3)
    return figure, f"{'; '.join(said)}. Bars: a standard error of {images:,} test images."


def _saving(axes: Axes, pairs: Sequence[dict], name: str, single: Sequence[dict]) -> str:
    """Draws how much less work two looks do than the dearest single look, a third at most; a title.

    Of such pairs it is the dearest.
    """
    dearest = max((point["test"] for point in single), key=lambda look: look["macs"])
    cheap = [p["test"] for p in pairs if p["test"]["macs"] <= dearest["macs"] / 3]
    if not cheap:
        return "Two looks, and one"
    pair = max(cheap, key=lambda look: look["macs"])
    start, end = ((look["macs"] / 1e6, 100 * look["accuracy"]) for look in (dearest, pair))
    axes.annotate(
        "", end, start,
        arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 2, "shrinkA": 7, "shrinkB": 6},
    )  # fmt: skip
    share, lead = end[0] / start[0], end[1] - start[1]
    beside = start[0] ** 0.55 * end[0] ** 0.45, 0.55 * start[1] + 0.45 * end[1]
    axes.annotate(
        f"{share:.0%} of its MACs, {lead:+.2f} points", beside, (0, -6),
        textcoords="offset points", ha="center", va="top", fontsize=9, color=ink(BLUE),
        weight="bold",
    )  # fmt: skip
    kept = "keep" if lead >= 0 else "come near to"
    return f"Two looks {kept} the accuracy of {name} with {share:.0%} of its MACs"


LOOKS = (  # colour, line, and where the name stands beside the last point
    (BLUE, "o-", (-30, 14)),
    (BLACK, "x--", (8, -4)),
    (BLACK, "D", (9, -4)),
    (DARK_GREY, ".:", (8, -14)),
)
