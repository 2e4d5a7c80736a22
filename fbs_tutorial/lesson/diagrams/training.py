"""How gates are trained: where the gradient goes, and the schedule of densities."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...method.wta import winner_take_all
from ..plots.style import (
    BLACK,
    BLUE,
    DARK_GREY,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    curve,
    label_lines,
    legend_below,
)
from . import draw

WIDEST = 12  # channels that have room for their values


def gradient_through_winners(g: Tensor, density: float) -> tuple[Figure, str]:
    """Winner-take-all on one image's ``g`` ``[C]``, forwards, and the gradient that comes back.

    Raises:
        ValueError: more channels than the picture has room for.
    """
    if g.ndim != 1 or len(g) > WIDEST:
        raise ValueError(f"g must be [C] of at most {WIDEST} channels, got {list(g.shape)}")
    g = g.detach().clone().requires_grad_()
    pi = winner_take_all(g[None], density)[0]
    (slope,) = torch.autograd.grad(pi.sum(), g)  # 1 where the gradient passes
    figure, axes = draw.canvas(9 + 3.6 * len(g) + 5)
    passes = int(slope.count_nonzero())
    draw.title(axes, 2, 2.4, f"The gradient reaches {passes} of {len(g)} channels: the winners")
    for x, words in ((20, "predicted saliency g"), (50, "winner-take-all"), (80, "gate pi")):
        draw.label(axes, x, 6.6, words, weight="bold")
    height = 3.6 * len(g) + 1
    draw.box(axes, 42, 8.5, 16, height, fill="#FAFAFA", colour=DARK_GREY)
    unit = float(g.detach().abs().max()) or 1.0
    for c in range(len(g)):
        row = float(g[c].detach()) / unit, float(pi[c].detach()), bool(slope[c])
        _channel(axes, 9 + 3.6 * c, c, float(g[c].detach()), *row)
    draw.arrow(axes, (22, height + 11), (28, height + 11), colour=BLACK)
    draw.note(axes, 29, height + 11, "forward: the value", ha="left")
    draw.arrow(axes, (58, height + 11), (52, height + 11), colour=ORANGE, line="--")
    draw.note(axes, 59, height + 11, "backward: the gradient", ha="left")
    won = ", ".join(str(c) for c in range(len(g)) if slope[c])
    sentence = (
        f"At density {density:g} channels {won} win. The gradient passes to these {passes} "
        f"unchanged; the other {len(g) - passes} get exactly 0 from this image."
    )
    return figure, sentence


def _channel(
    axes: Axes, y: float, channel: int, g: float, length: float, pi: float, passes: bool
) -> None:
    """One row: the bar of g, the way through the box and back, and the gate."""
    middle, colour = y + 1.5, BLUE if passes else DARK_GREY
    draw.note(axes, 3.5, middle, f"channel {channel}", ha="left")
    width = 12 * abs(length)
    fill = {"facecolor": BLUE if passes else PALE, "edgecolor": colour}
    draw.frame(axes, 14, y + 0.5, width, 2, **fill)
    draw.label(axes, 14 + width + 1, middle, f"{g:.2f}", ha="left", fontsize=8, color=colour)
    draw.label(axes, 80, middle, f"{pi:.2f}" if pi else "0", color=colour)
    if passes:
        draw.arrow(axes, (34, middle - 0.55), (74, middle - 0.55), colour=BLACK, size=9)
        draw.arrow(axes, (74, middle + 0.75), (34, middle + 0.75), colour=ORANGE, line="--", size=9)
        return
    axes.plot([34, 49], [middle - 0.55] * 2, color=DARK_GREY, linewidth=1)
    axes.plot([74, 51], [middle + 0.75] * 2, "--", color=ORANGE, linewidth=1)
    for x, dy, shade in ((49, -0.55, DARK_GREY), (51, 0.75, ORANGE)):
        axes.plot([x, x], [middle + dy - 0.6, middle + dy + 0.6], color=shade, linewidth=2)


def density_staircase(
    steps: Sequence[tuple[float, int]], accuracies: Sequence[float] | None = None
) -> tuple[Figure, str]:
    """A schedule: the density at each epoch, a stair per step, and how good each network ends.

    Args:
        steps: ``(density, epochs)`` in the order of training.
        accuracies: 0..1, at the end of each step; written under its stair.
    """
    total = sum(epochs for _, epochs in steps)
    left, right, top, height = 12.0, 97.0, 8.0, 26.0
    figure, axes = draw.canvas(top + height + (8 if accuracies is not None else 4))
    first, last = steps[0][0], steps[-1][0]
    draw.title(axes, 2, 2.4, f"Down a staircase: from d = {first:g} to {last:g} in {total} epochs")
    floor, x = top + height, left
    for i, (density, epochs) in enumerate(steps):
        width = (right - left) * epochs / total
        level = floor - height * density
        draw.frame(axes, x, level, width, floor - level, facecolor=PALE, edgecolor="none")
        axes.plot([x, x + width], [level, level], color=BLUE, linewidth=3, zorder=3)
        if i:
            before = floor - height * steps[i - 1][0]
            draw.arrow(axes, (x, before), (x, level), colour=BLUE, size=8)
        draw.label(axes, x + width / 2, level - 1.4, f"{density:g}", color=BLUE, weight="bold")
        draw.note(axes, x + width / 2, floor + 1.6, f"{epochs}")
        if accuracies is not None:
            draw.label(axes, x + width / 2, floor + 6, f"{100 * accuracies[i]:.1f}", fontsize=8)
        x += width
    axes.plot([left, right], [floor, floor], color=BLACK, linewidth=1)
    draw.note(axes, left - 1, floor + 1.6, "epochs", ha="right")
    draw.note(axes, left - 1, top, "density", ha="right")
    if accuracies is None:
        ending = ""
    else:
        draw.label(axes, left - 1, floor + 6, "correct, %", ha="right", fontsize=8)
        ending = (
            f" The network reads {100 * accuracies[0]:.1f} % of the images at the first stair "
            f"and {100 * accuracies[-1]:.1f} % at the last."
        )
    sentence = (
        f"The density falls from {first:g} to {last:g} in {len(steps)} steps of "
        f"{_epochs(steps)} epochs; each step starts from the weights of the one before.{ending}"
    )
    return figure, sentence


def _epochs(steps: Sequence[tuple[float, int]]) -> str:
    counts = sorted({epochs for _, epochs in steps})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def what_each_part_is_worth(
    rows: Sequence[Mapping], data: str = "digits", title: str = "The recipe and its parts"
) -> tuple[Figure, str]:
    """Validation accuracy of a recipe and its parts at each density, a mark for each seed.

    Args:
        rows: of ``result("ablation")``.
    """
    rows = [row for row in rows if row["data"] == data]
    densities = sorted({row["density"] for row in rows})
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    said = []
    for i, (arm, (name, colour, marker, fill)) in enumerate(ARMS.items()):
        runs = [_of(rows, "val_accuracy", density=d, arm=arm) for d in densities]
        x = np.arange(len(densities)) + 0.21 * (i - 1.5)
        means = [np.mean(values) for values in runs]
        beside = x[:, None] + np.linspace(-0.06, 0.06, len(runs[0]))  # two seeds may be equal
        axes.plot(
            beside.flatten(), np.array(runs).flatten(), marker, color=colour, label=name,
            markersize=8, markerfacecolor=colour if fill else "white", markeredgewidth=1.5,
        )  # fmt: skip
        said.append(f"{name} {', '.join(f'{mean:.1f}' for mean in means)} %")
    axes.set_xticks(range(len(densities)), [f"d = {d:g}" for d in densities])
    axes.set(ylabel="validation accuracy (%)", ylim=(0, 104))
    axes.set_title(f"{title} ({data}, {len(runs[0])} seeds each)")
    axes.grid(alpha=0.3, axis="y")
    legend_below(figure, ncols=4)
    at = ", ".join(f"{d:g}" for d in densities)
    return figure, f"Mean validation accuracy at d = {at}: {'; '.join(said)}."


ARMS = {  # of tools/ablation.py
    "neither": ("neither", DARK_GREY, "o", False),
    "distilled": ("a teacher", DARK_GREY, "s", True),
    "density lowered": ("density lowered slowly", BLUE, "^", False),
    "both": ("both", BLUE, "D", True),
}


def _of(rows: Sequence[Mapping], key: str, **wanted: object) -> list[float]:
    """In percent, one value per seed."""
    chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return [100 * row[key] for row in chosen]


def loss_curves(
    lines: Mapping[str, Sequence[float]], batches: int, title: str = ""
) -> tuple[Figure, str]:
    """The loss of every batch, on a logarithmic axis; a grey line after each epoch.

    Args:
        lines: ``{name: losses}``, up to four. batches: of an epoch.
    """
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    looks = [(BLUE, "-"), (BLACK, "--"), (DARK_GREY, "-."), (BLACK, ":")]
    said = []
    for (name, losses), (colour, line) in zip(lines.items(), looks, strict=False):
        axes.semilogy(range(1, len(losses) + 1), losses, line, color=colour, label=name)
        ends = np.mean(losses[:batches]), np.mean(losses[-batches:])
        said.append(
            f"{name}: mean loss {ends[0]:.2g} in the first epoch, {ends[1]:.2g} in the last"
        )
    for end in range(batches, max(map(len, lines.values())) + 1, batches):
        axes.axvline(end + 0.5, color=GREY, linewidth=0.8, zorder=0)
    axes.set(xlabel="batch; a grey line after each epoch", ylabel="loss", title=title)
    if len(lines) > 1:
        legend_below(figure, ncols=len(lines))
    return figure, ";\n".join(said) + "."


def soft_answers(
    image: Tensor, logits: Tensor, temperatures: Sequence[float], label: int
) -> tuple[Figure, str]:
    """What a teacher says of one image ``[1, H, W]``: its probabilities at each temperature."""
    figure, row = plt.subplots(
        1, len(temperatures) + 1, figsize=(9, 2.5), layout="constrained",
        width_ratios=[1] + [2] * len(temperatures),
    )  # fmt: skip
    row[0].imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    row[0].set_title(f"label: {label}", fontsize=9)
    row[0].set_axis_off()
    said = []
    for axes, temperature in zip(row[1:], temperatures, strict=True):
        shares = 100 * (logits / temperature).softmax(dim=0)
        bars = axes.bar(range(len(shares)), shares.numpy(), color=BLACK)
        axes.bar_label(bars, [f"{share:.0f}" for share in shares], fontsize=8, padding=1)
        axes.set(xlabel="digit", xticks=range(len(shares)), ylim=(0, 112))
        axes.set_title(f"T = {temperature:g}", fontsize=10)
        best, second = shares.topk(2).indices.tolist()
        said.append(
            f"at T = {temperature:g} {shares[best]:.1f} % for {best} and {shares[second]:.1f} % "
            f"for {second}"
        )
    row[1].set_ylabel("the teacher says (%)")
    return figure, f"The teacher's answer, softened: {'; '.join(said)}."


def gain_and_penalty(
    rows: Sequence[Mapping], gain: float, penalty: float, title: str = ""
) -> tuple[Figure, str]:
    """Accuracy with own and with another image's gates over the gain, and how much of g is 0.

    Args:
        rows: of ``result("gains")``. gain, penalty: the setting that is marked; the curves are of
            this penalty, the bars of both.
    """
    rows = [row for row in rows if row["penalty"] == penalty]
    gains = sorted({row["gain"] for row in rows})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.5), width_ratios=(1.5, 1), layout="constrained"
    )
    said = []
    for key, name, look in CONTROL_LINES:
        runs = [_of(rows, key, gain=each) for each in gains]
        curve(left, range(len(gains)), np.array(runs).T / 100, name, look)
        said.append(f"{name} {np.median(runs[gains.index(gain)]):.1f} %")
    left.axvline(gains.index(gain), color=GREY, linewidth=6, alpha=0.4, zorder=0)
    left.set_xticks(range(len(gains)), [f"{each:g}" for each in gains])
    left.set(xlabel="gain of the predictors' first weights", ylabel="validation accuracy (%)")
    left.set(ylim=(0, 104))
    left.set_title(f"λ = {penalty:g}", fontsize=10)
    left.grid(alpha=0.3)
    chosen = [row["share_above_zero"] for row in rows if row["gain"] == gain]
    shares = 100 * np.mean(chosen, axis=0)
    bars = right.bar([f"conv{i + 1}" for i in range(len(shares))], shares, color=BLUE)
    right.bar_label(bars, [f"{share:.0f}" for share in shares], fontsize=8, padding=1)
    right.set(ylabel="g above 0 (%)", ylim=(0, 112))
    right.set_title(f"gain {gain:g}, λ = {penalty:g}", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    legend_below(figure, *left.get_legend_handles_labels(), ncols=2)
    return figure, (
        f"Gain {gain:g}, λ = {penalty:g}, median of {len(chosen)} seeds: {', '.join(said)}; g is "
        f"above 0 for {shares.min():.0f} to {shares.max():.0f} % in the four layers."
    )


CONTROL_LINES = (
    ("own_gates", "own gates", (BLUE, "o", "-")),
    ("shuffled_gates", "another image's gates", (PURPLE, "^", ":")),
)


def price_of_every_density(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[dict]]]], title: str = ""
) -> tuple[Figure, str]:
    """Test accuracy against density: one network for all, one for each, small plain ones.

    Drawn from `LEAST_DRAWN` on; the sentence says what becomes of the accuracy below it.

    Args:
        panels: ``{data: {name: runs}}``, the rows of one or more runs with one set of densities,
            as `lesson.results.every_density` gives them; the names are those of `PRICE_LOOKS`.

    Raises:
        KeyError: a name that has no look.
    """
    figure, axes_of = plt.subplots(1, len(panels), figsize=(9, 3.8), layout="constrained")
    said = []
    for axes, (data, lines) in zip(axes_of, panels.items(), strict=True):
        for name, runs in lines.items():
            drawn = [[row for row in run if row["density"] >= LEAST_DRAWN] for run in runs]
            values = [[row["test_accuracy"] for row in run] for run in drawn]
            curve(axes, [row["density"] for row in drawn[0]], values, name, PRICE_LOOKS[name])
            told = (
                f"{100 * accuracy:.1f} % at {density:g}" for density, accuracy in _medians(runs)
            )
            said.append(f"{data}, {name}: {', '.join(told)}")
        axes.set(xlabel="density d", title=data, xlim=(0.15, 1.05), ylim=(80, 101))
        axes.set_yticks(range(80, 101, 5))
        axes.grid(alpha=0.3)
        label_lines(axes)
    axes_of[0].set_ylabel("test accuracy (%)")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, ".\n".join(said) + "."


PRICE_LOOKS = {
    "one for every density": (BLUE, "o", "-"),
    "gated, one for each": (ORANGE, "s", ":"),
    "small plain, one for each": (BLACK, "x", "--"),
}
LEAST_DRAWN = 0.2  # the density; below it accuracies leave the picture


def _medians(runs: Sequence[Sequence[dict]]) -> list[tuple[float, float]]:
    """(density, median accuracy) of those that the sentence says, from high to low."""
    rows = [each for each in zip(*runs, strict=True) if each[0]["density"] in (0.1, 0.3, 0.5)]
    found = [(e[0]["density"], float(np.median([r["test_accuracy"] for r in e]))) for e in rows]
    return sorted(found, reverse=True)
