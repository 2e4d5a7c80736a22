"""The course's pictures. Each function returns the figure and one sentence that says what it shows.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; markers and
hatches repeat what the colours say.
"""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

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
        _curve(top, densities, static, "test_accuracy", "small plain network", BLACK, "x", "--")
    medians = {}
    for key, label, colour, marker, line in CURVES:
        axes = [middle] if key in ("mean_gates", "shuffled_gates") else [top, middle]
        for ax in axes:
            medians[key] = _curve(ax, densities, runs, key, label, colour, marker, line)
    top.set(ylabel="test accuracy (%)", ylim=(84, 100.5), title=title)
    middle.set(ylabel="test accuracy (%)", ylim=(0, 104))
    top.legend(loc="lower left", fontsize=9, frameon=False, title="close-up")
    middle.legend(loc="lower left", fontsize=9, frameon=False, title="every image runs with")
    for ax in (top, middle):
        ax.grid(alpha=0.3)

    macs = np.median([[row["macs_gates"] / row["macs_dense"] for row in run] for run in runs], 0)
    bars = bottom.bar(densities, 100 * macs, width=0.06, color=GREY, edgecolor=BLACK)
    bottom.bar_label(bars, [f"1/{1 / share:.3g}" for share in macs], fontsize=8, padding=2)
    bottom.set(xlabel="density d (share of channels that win)", ylabel="MACs (% of dense)")
    bottom.set(ylim=(0, 128), xlim=(1.06, 0.04), xticks=densities)

    at = int(np.abs(densities - 0.5).argmin())
    own, mean, other = (medians[key][at] for key in ("own_gates", "mean_gates", "shuffled_gates"))
    sentence = (
        f"At density {densities[at]:g} the network needs {100 * macs[at]:.0f} % of its MACs and is "
        f"right on {own:.1f} % of the test images with their own gates, on {mean:.1f} % with the "
        f"mean gate, on {other:.1f} % with another image's."
    )
    return figure, sentence


def _curve(axes, densities, runs, key, label, colour, marker, line) -> np.ndarray:
    """Draw the median over the runs with a band from lowest to highest; returns the median."""
    rows = [[row for row in run if row["density"] is not None] for run in runs]
    values = 100 * np.array([[row[key] for row in run] for run in rows])  # [runs, densities]
    middle = np.median(values, axis=0)
    axes.plot(densities, middle, line, color=colour, marker=marker, label=label)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)
    return middle


def winner_bars(g: Tensor, winners: Tensor, title: str = "") -> tuple[Figure, str]:
    """Predicted saliencies ``g [C]`` of one image as bars, and which of them win, bool ``[C]``."""
    values, won = g.detach().numpy(), winners.numpy()
    channels = np.arange(len(values))
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.bar(channels[won], values[won], color=BLUE, edgecolor=BLACK, label="wins: value kept")
    axes.bar(
        channels[~won], values[~won], color="white", edgecolor=GREY, hatch="///",
        label="loses: becomes 0",
    )  # fmt: skip
    empty = won & (values == 0)
    if empty.any():
        axes.plot(channels[empty], 0 * channels[empty], "^", color=ORANGE, label="wins with g = 0")
    axes.axhline(0, color=BLACK, linewidth=0.8, zorder=0)
    axes.set(xlabel="channel", ylabel="saliency g (no unit)", title=title)
    axes.set_xticks(channels[:: 1 + len(channels) // 20])
    axes.set_ylim(min(values.min(), -0.03 * values.max()) * 1.1, max(values.max(), 0.1) * 1.35)
    axes.legend(loc="upper right", ncols=3, fontsize=9, frameon=False)
    names = ", ".join(map(str, channels[won]))
    sentence = (
        f"{won.sum()} of {len(values)} channels win, {empty.sum()} of them with g = 0: {names}."
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
