"""Pictures of which channels win: for one image, for two, for each class, and what that reads."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from .style import BLACK, BLUE, GREY, ORANGE, legend_below


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
    legend_below(
        right,
        [
            Patch(facecolor=BLUE),
            (Patch(facecolor=ORANGE), Line2D([], [], marker="x", color=BLACK, linestyle="")),
            Patch(facecolor="white", edgecolor=GREY),
        ],
        ["wins for both", "wins for this image only", "skipped"],
        ncols=3,
        fontsize=8,
    )
    sentence = f"Channels that win for one of the two images only: {'; '.join(differ)}."
    return figure, sentence


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


def class_heat_maps(
    layers: Mapping[str, Tensor],
    classes: Sequence[object] = range(10),
    title: str = "",
) -> tuple[Figure, str]:
    """How often each channel wins for the images of each class: a map for each layer.

    Args:
        layers: ``{layer: shares 0..1 [classes, C]}``. In each, channels are sorted by their mean
            over the classes, those that win least at the left.
    """
    one, lines = len(layers) == 1, math.ceil(len(layers) / 2)
    figure, axes = plt.subplots(
        lines, 1 if one else 2, figsize=(7.5, 2.9) if one else (8, 1.5 * lines + 0.6),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for ax, (name, shares) in zip(axes.flat, layers.items(), strict=False):
        colours = _class_heat_map(ax, shares, classes)
        ax.set_title(title if one else f"{name}: {shares.shape[1]} channels")
    for ax in axes.flat[len(layers) :]:
        ax.set_visible(False)
    if one:
        figure.colorbar(colours, label="share of images it wins for")
        axes[0, 0].set(xlabel="channels, least used first", ylabel="class")
    else:
        _small(figure, axes)
        figure.colorbar(colours, ax=axes, label="share of images it wins for", shrink=0.5)
        figure.supxlabel("channels, least used first", fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure, _said_shares(layers)


def _class_heat_map(axes: Axes, shares: Tensor, classes: Sequence[object]) -> QuadMesh:
    shares = shares[:, shares.mean(dim=0).argsort(stable=True)]
    axes.set_yticks(np.arange(len(classes)) + 0.5, classes)
    colours = axes.pcolormesh(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    axes.set_ylim(len(classes), 0)
    return colours


def _small(figure: Figure, axes: np.ndarray) -> None:
    """Small letters, where many pictures share a page."""
    for ax in axes.flat:
        ax.set_title(ax.get_title(), fontsize=9, pad=3)
        ax.tick_params(labelsize=7)


def _said_shares(layers: Mapping[str, Tensor]) -> str:
    half = 0.5 + 1e-6  # 0.83 - 0.33 is a little more than 0.5
    apart = [int((s.amax(dim=0) - s.amin(dim=0) > half).sum()) for s in layers.values()]
    if len(layers) > 1:
        said = [
            f"{count} of {shares.shape[1]} in {name}"
            for count, (name, shares) in zip(apart, layers.items(), strict=True)
        ]
        what = "Channels whose share differs by more than 50 points between two classes"
        return f"{what}: {', '.join(said)}."
    (shares,) = layers.values()
    never, always = int((shares == 0).all(dim=0).sum()), int((shares == 1).all(dim=0).sum())
    return (
        f"Of {shares.shape[1]} channels {never} never win and {always} always win; for {apart[0]} "
        "the share differs by more than 0.5 between two classes."
    )
