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
