"""The static relatives, drawn: what each cuts, a mask that leaks, and a block cut inside."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..plots.style import BLUE, DARK_GREY, FAINT, GREEN, ORANGE, PURPLE
from . import draw

Picture = tuple[Figure, str]
Choice = tuple[Tensor, Tensor]  # inputs that are live, [C_in], and winners, [C_out]


def four_cuts(
    weight: Tensor, scales: tuple[Tensor, Tensor], won: Sequence[Choice], shown: int = 6
) -> Picture:
    """What four methods leave of one weight tensor: three keep a quarter, and FBS what won.

    Args:
        weight: ``[C_out, C_in, k, k]``. scales: of the batch norms of its inputs ``[C_in]`` and
            its outputs ``[C_out]``. won: for each of two images, bool, the live inputs ``[C_in]``
            and the winners ``[C_out]``. shown: so many outputs and inputs are drawn, half of them
            such as only one of the two images keeps, if there are so many.
    """
    weight = weight.detach()
    inputs, outputs = (_some(*pair, shown) for pair in zip(*won, strict=True))
    columns, rows = (_largest(scale.detach().abs(), 0.5) for scale in scales)
    kernels = _largest(weight.abs().amax(dim=(2, 3)), 0.25)
    cuts = [
        ("kernel masks", kernels[:, :, None, None], GREEN),
        ("network slimming", _pairs(columns, rows), GREEN),
        ("stripes", _largest(weight.abs().sum(dim=1, keepdim=True), 0.25), GREEN),
        ("FBS, one image", _pairs(*won[0]), BLUE),
        ("FBS, another image", _pairs(*won[1]), PURPLE),
    ]
    figure, axes = draw.canvas(30)
    draw.title(axes, 2, 2.4, "Three cuts are made once, for all images; FBS cuts anew for each")
    draw.note(axes, 1.6, 16, "outputs", rotation=90)
    said = []
    for place, (name, kept, colour) in enumerate(cuts):
        kept, x = kept.expand(weight.shape), 3.4 + 19.6 * place
        draw.label(axes, x + 8.6, 6, name, color=colour, weight="bold")
        _taps(axes, x, 8, kept[outputs][:, inputs], 17.2 / shown, colour)
        said.append(f"{name} {kept.float().mean():.0%}")
    draw.note(axes, 12, 27, "inputs")
    return figure, (
        f"Drawn are {shown} outputs and {shown} inputs, some of which only one of the two images "
        "keeps. A small square is a weight, and pale ones are gone. "
        f"What is left of the whole layer: {', '.join(said)}."
    )


def _some(first: Tensor, second: Tensor, count: int) -> list[int]:
    """Channels to draw: half of them such as only one of the two keeps, then the first others."""
    differ = (first != second).nonzero()[:, 0].tolist()[: count // 2]
    others = [c for c in range(len(first)) if c not in differ]
    return sorted(differ + others[: count - len(differ)])


def _largest(values: Tensor, share: float) -> Tensor:
    """Bool, True for this share of all values, the largest."""
    kept = torch.zeros(values.numel(), dtype=torch.bool)
    best_first = values.flatten().sort(descending=True, stable=True).indices
    kept[best_first[: int(share * values.numel())]] = True
    return kept.view(values.shape)


def _pairs(inputs: Tensor, outputs: Tensor) -> Tensor:
    """``[C_out, C_in, 1, 1]``: both the input and the output stay."""
    return (outputs[:, None] & inputs)[:, :, None, None]


def _taps(axes: Axes, x: float, y: float, kept: Tensor, cell: float, colour: str) -> None:
    """A square for each weight of ``[O, I, k, k]``, filled where it is kept."""
    size = 0.9 * cell / kept.shape[-1]
    for o, i, a, b in torch.cartesian_prod(*map(torch.arange, kept.shape)).tolist():
        fill = colour if kept[o, i, a, b] else FAINT
        place = x + i * cell + b * size, y + o * cell + a * size
        draw.frame(axes, *place, size, size, facecolor=fill, edgecolor="white", linewidth=0.4)


def leak(mask: Tensor, leaky: Tensor, held: Tensor, shown: int = 8) -> Picture:
    """Masked kernels one training step later: zeros that were written, and a mask that holds.

    Args:
        mask: bool ``[C_out, C_in]``, True where a kernel stays. leaky, held: the two weights,
            ``[C_out, C_in, k, k]``. shown: so many outputs and inputs are drawn.
    """
    leaky, held = leaky.detach(), held.detach()
    figure, axes = draw.canvas(37)
    draw.title(axes, 2, 2.4, "One step of training, and what was cut is back")
    parts = [("zeros written once", leaky), ("a mask in the layer", held)]
    said = []
    for place, (name, weight) in enumerate(parts):
        x = 8 + 46 * place
        back = (weight != 0).any(dim=3).any(dim=2) & ~mask
        draw.label(axes, x + 14, 6.2, name, weight="bold")
        _kernels(axes, x, 8.4, weight[:shown, :shown], mask, back, 28 / shown)
        said.append(f"{name}: {int(back.sum())} of {int((~mask).sum())} masked kernels are back")
    draw.frame(axes, 38, 20, 1.6, 1.6, edgecolor=ORANGE, linewidth=2)
    draw.note(axes, 40.4, 20.8, "masked, and\nalive again,\neach on a scale\nof its own", ha="left",
              va="top")  # fmt: skip
    revived = (leaky.abs() * ~mask[:, :, None, None]).max().item()
    return figure, (
        "; ".join(said) + f". The largest weight that is back is {revived:.1g}, the largest of all "
        f"{leaky.abs().max().item():.1g}. The first {shown} outputs and inputs are drawn."
    )


def _kernels(
    axes: Axes, x: float, y: float, weight: Tensor, mask: Tensor, back: Tensor, cell: float
) -> None:
    """Kernels with their weights; a dead one is struck out, one that is back has a frame."""
    top, size = weight.abs().max().item(), 0.88 * cell
    for o, i in torch.cartesian_prod(*map(torch.arange, weight.shape[:2])).tolist():
        place = x + i * cell, y + o * cell
        if not mask[o, i] and not back[o, i]:
            draw.skipped(axes, *place, size, size)
            continue
        scale = weight[o, i].abs().max().item() if back[o, i] else top
        signed = {"cmap": draw.SIGNED, "vmin": -scale, "vmax": scale}
        draw.feature_map(axes, *place, size, weight[o, i], **signed)
        if back[o, i]:
            draw.frame(axes, *place, size, size, edgecolor=ORANGE, linewidth=1.6, zorder=4)


def cut_block(keep: Tensor) -> Picture:
    """A residual block in which only channels between its two convolutions are removed.

    Args:
        keep: bool ``[C]``, the channels in the middle that stay.
    """
    count, kept = len(keep), int(keep.sum())
    everything = torch.ones(count, dtype=torch.bool)
    cell = 22 / count
    figure, axes = draw.canvas(42)
    draw.title(axes, 2, 2.4, "Inside is free: conv1 loses rows, conv2 loses columns")
    top, middle = 13, 24
    draw.label(axes, 4, middle, "x", weight="bold")
    draw.arrow(axes, (6, middle), (11, middle))
    draw.kernels(axes, 12, top, keep, everything, cell, colour=GREEN)
    draw.arrow(axes, (36, middle), (49, middle), f"{kept} of {count}\nchannels", away=(0, -2.8))
    draw.kernels(axes, 50.5, top, everything, keep, cell, colour=GREEN)
    for x, name in ((23, "conv1, then bn1"), (61.5, "conv2, then bn2")):
        draw.label(axes, x, 37.4, name, weight="bold")
    draw.note(axes, 23, 39.8, "a row per output")
    draw.note(axes, 61.5, 39.8, "a column per input")
    words = f"all {count}\nchannels"
    draw.arrow(axes, (74, middle), (86, middle), words, away=(0, -2.8))
    draw.box(axes, 86.4, middle - 2, 4, 4, "+", fontsize=13)
    corners = [(8, middle), (8, 8.6), (88.4, 8.6), (88.4, middle - 2.2)]
    draw.path(axes, corners, colour=DARK_GREY)
    draw.note(axes, 48, 7, "shortcut: it brings all channels, so the sum must keep them")
    draw.arrow(axes, (90.6, middle), (97, middle))
    gone = count - kept
    return figure, (
        f"{gone} of the {count} channels in the middle are removed: {gone} rows of conv1 and "
        f"{gone} columns of conv2. What conv2 puts out is added to the shortcut and stays whole."
    )
