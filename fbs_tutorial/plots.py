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
    ("own_gates", "its own gates", BLUE, "o", "-"),
    ("mean_winners", "the mean gate's channels, its own values", PURPLE, "D", "-."),
    ("mean_gates", "the mean gate", ORANGE, "s", "--"),
    ("shuffled_gates", "another image's gates", GREEN, "^", ":"),
)


def accuracy_and_macs(runs: Sequence[Sequence[dict]], title: str = "") -> tuple[Figure, str]:
    """Accuracy with own, mean and another's gates, and the MACs, against density.

    Args:
        runs: the ``rows`` of one or more ``metrics.json`` with the same densities. With several
            (seeds), lines are medians and bands run from the smallest to the largest.
    """
    rows = [[row for row in run if row["density"] is not None] for run in runs]
    densities = np.array([row["density"] for row in rows[0]])
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7, 5.4), sharex=True, height_ratios=(3, 1.4), layout="constrained"
    )
    medians = {}
    for key, label, colour, marker, line in CURVES:
        values = 100 * np.array([[row[key] for row in run] for run in rows])  # [runs, densities]
        medians[key] = np.median(values, axis=0)
        top.plot(densities, medians[key], line, color=colour, marker=marker, label=label)
        if len(rows) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            top.fill_between(densities, low, high, color=colour, alpha=0.15, linewidth=0)
    plain = [row["test_accuracy"] for run in runs for row in run if row["density"] is None]
    if plain:
        accuracy = 100 * np.median(plain)
        top.axhline(accuracy, color=BLACK, linewidth=0.8)
        top.annotate(
            f"plain network {accuracy:.1f} %", (0.99, accuracy), (0, 3), fontsize=8,
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
        )  # fmt: skip
    top.set(ylabel="test accuracy (%)", ylim=(0, 104), title=title)
    top.legend(title="every image runs with", loc="lower left", fontsize=9, frameon=False)
    top.grid(alpha=0.3)

    macs = np.median([[row["macs_gates"] / row["macs_dense"] for row in run] for run in rows], 0)
    bars = bottom.bar(densities, 100 * macs, width=0.06, color=GREY, edgecolor=BLACK)
    bottom.bar_label(bars, [f"{1 / share:.3g}x" for share in macs], fontsize=8, padding=2)
    bottom.set(xlabel="density d (share of channels that win)", ylabel="MACs (% of dense)")
    bottom.set(ylim=(0, 128), xlim=(1.06, 0.04), xticks=densities)

    at = int(np.abs(densities - 0.5).argmin())
    own, _, mean, other = (medians[key][at] for key, *_ in CURVES)
    sentence = (
        f"At density {densities[at]:g} the network needs {100 * macs[at]:.0f} % of its MACs and is "
        f"right on {own:.1f} % of the test images with their own gates, on {mean:.1f} % with the "
        f"mean gate, on {other:.1f} % with another image's."
    )
    return figure, sentence


def winner_bars(g: Tensor, gate: Tensor, title: str = "") -> tuple[Figure, str]:
    """Predicted saliencies ``g [C]`` of one image as bars, the winners of ``gate [C]`` marked."""
    values, won = g.detach().numpy(), gate.detach().numpy() != 0
    channels = np.arange(len(values))
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.bar(channels[won], values[won], color=BLUE, edgecolor=BLACK, label="wins: value kept")
    axes.bar(
        channels[~won], values[~won], color="white", edgecolor=GREY, hatch="///",
        label="loses: becomes 0",
    )  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set(xlabel="channel", ylabel="saliency g (no unit)", title=title)
    axes.set_xticks(channels[:: 1 + len(channels) // 20])
    top = max(values.max(), 0.1)
    axes.set_ylim(min(values.min(), 0) * 1.1, top * 1.35)
    axes.legend(loc="upper right", ncols=2, fontsize=9, frameon=False)
    names = ", ".join(map(str, channels[won])) or "none"
    sentence = f"{won.sum()} of {len(values)} channels keep a value that is not 0: {names}."
    return figure, sentence


def winners_of_two(
    images: Tensor, gates: dict[str, Tensor], labels: Sequence[str]
) -> tuple[Figure, str]:
    """Two images ``[2, 1, H, W]`` and which channels of each layer won for them.

    Args:
        gates: ``{layer: [2, C]}``, a channel counts as won where the gate is not 0.
        labels: what stands above each image.
    """
    figure = plt.figure(figsize=(8, 0.62 * len(gates) + 1.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 4))
    for axes, image, label in zip(left.subplots(2, 1), images, labels, strict=True):
        axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(label, fontsize=9)
        axes.set_axis_off()
    differ = []
    for axes, (name, gate) in zip(
        np.atleast_1d(right.subplots(len(gates), 1)), gates.items(), strict=True
    ):
        first, second = (gate != 0).numpy()
        differ.append(f"{int((first ^ second).sum())} of {len(first)} in {name}")
        state = np.array([first, second]) * (1 + (first ^ second))  # 0 skipped, 1 both, 2 one
        axes.pcolormesh(
            state, cmap=ListedColormap(["white", BLUE, ORANGE]), vmin=0, vmax=2,
            edgecolors=GREY, linewidth=0.4,
        )  # fmt: skip
        rows, columns = np.nonzero(state == 2)
        axes.plot(columns + 0.5, rows + 0.5, "x", color=BLACK, markersize=4)
        axes.invert_yaxis()
        axes.set_yticks([0.5, 1.5], labels, fontsize=7)
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
