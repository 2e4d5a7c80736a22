"""From maps to one number each, and from those numbers to an opinion about every output."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ..plots.style import BLACK, BLUE, DARK_GREY, FAINT, GREEN, GREY, ORANGE, PURPLE, YELLOW
from . import draw

MOST, ROW = 16, 8  # maps that have room, and in one row
Picture = tuple[Figure, str]
AREAS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, DARK_GREY)


def maps_and_numbers(image: Tensor, maps: Tensor, s: Tensor) -> tuple[Figure, str]:
    """An image, its feature maps in rows, and beneath each the one number that stands for it.

    Args:
        image: ``[H, W]``. maps: ``[C, H, W]``, at most 16. s: ``[C]``, not negative.

    Raises:
        ValueError: more maps than have room, or other numbers than maps.
    """
    if len(maps) > MOST or len(s) != len(maps):
        raise ValueError(f"at most {MOST} maps and as many numbers, got {len(maps)} and {len(s)}")
    rows = -(-len(maps) // ROW)
    cell, high = 82 / ROW, 17.5
    figure, axes = draw.canvas(6 + high * rows)
    draw.title(axes, 2, 2.4, f"{len(s)} maps become {len(s)} numbers")
    draw.feature_map(axes, 2, 6.5, 9, image, cmap="gray_r", top=1)
    draw.note(axes, 6.5, 17.2, "image")
    draw.arrow(axes, (11.8, 11), (15.8, 11), "conv")
    most, least, top = int(s.argmax()), int(s.argmin()), float(maps.max())
    draw.label(axes, 15.8, 20.2, "channel: s", ha="right")
    for c, (one, value) in enumerate(zip(maps, s.tolist(), strict=True)):
        x, y = 17 + (c % ROW) * cell, 6 + high * (c // ROW)
        draw.feature_map(axes, x, y, 9.2, one, top=top)
        shade = BLUE if c == most else DARK_GREY
        draw.frame(axes, x, y + 10, 9.2, 2.4, facecolor=FAINT, edgecolor="none")
        long = 9.2 * value / float(s.max())
        draw.frame(axes, x, y + 10, long, 2.4, facecolor=shade, edgecolor="none")
        draw.label(axes, x + 4.6, y + 14.2, f"{c}: {value:.2f}")
    sentence = (
        f"Blue is large, white is 0, in one scale. Channel {most} is excited most "
        f"({s[most]:.2f}), channel {least} least ({s[least]:.2f})."
    )
    return figure, sentence


def reductions(maps: Tensor, names: Sequence[str], values: Mapping[str, Tensor]) -> Picture:
    """A few maps, and beneath each what every way of reducing makes of it; the largest is blue.

    Args:
        maps: ``[C, H, W]``, with signs. names: of the maps. values: ``{way: [C]}``.
    """
    across = 66 / len(maps)
    figure, axes = draw.canvas(23 + 5 * len(values))
    draw.title(axes, 2, 2.4, f"Which map is the strongest? {len(values)} ways to ask")
    top, middles = float(maps.abs().max()), [26 + (i + 0.5) * across for i in range(len(maps))]
    for one, name, x in zip(maps, names, middles, strict=True):
        signed = {"cmap": draw.SIGNED, "vmin": -top / 2, "vmax": top / 2}
        draw.feature_map(axes, x - 6, 6, 12, one, **signed)
        draw.note(axes, x, 19.6, name)
    said = []
    for row, (way, numbers) in enumerate(values.items()):
        y = 21.5 + 5 * row
        draw.label(axes, 24, y + 2, way, ha="right", weight="bold")
        most = numbers.max()
        for value, x in zip(numbers, middles, strict=True):
            fill, ink = (BLUE, "white") if value == most else (FAINT, BLACK)
            draw.frame(
                axes, x - 0.4 * across, y, 0.8 * across, 4, facecolor=fill, edgecolor="white"
            )
            draw.label(axes, x, y + 2, f"{value:.2f}", color=ink)
        said.append(f"{way} {', '.join(f'{value:.2f}' for value in numbers.tolist())}")
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return figure, f"Of {listed}: {'; '.join(said)}. Blue is positive, grey negative."


def predictor(s: Tensor, weight: Tensor, bias: Tensor) -> tuple[Figure, str]:
    """The predictor at work: s above its columns, what each input adds to each sum, g at the right.

    A square is weight times s. The rows are sorted, the output with the largest sum first.

    Args:
        s: ``[C_in]``. weight: ``[C_out, C_in]``. bias: ``[C_out]``.
    """
    s, weight, bias = s.detach(), weight.detach(), bias.detach()
    order = (weight @ s + bias).argsort(descending=True, stable=True)
    weight, bias = weight[order], bias[order]
    g = torch.relu(weight @ s + bias)
    across, down = 36 / len(s), 42 / len(g)
    figure, axes = draw.canvas(62)
    draw.title(axes, 2, 2.4, f"From {len(s)} numbers to {len(g)}: weight × s, one row per output")
    left, top = 8.0, 15.0
    draw.label(axes, left - 1, 12, "s", ha="right", weight="bold")
    draw.note(axes, left - 1, top + 1, "largest\nsum", ha="right", va="top")
    draw.note(axes, left - 1, top + 41, "smallest\nsum", ha="right", va="bottom")
    draw.bars(axes, left, top - 0.8, s, across, 7, towards="up", colour=DARK_GREY)
    if len(s) <= MOST:
        for i in range(len(s)):
            draw.note(axes, left + (i + 0.5) * across, 6.4, f"{i}", fontsize=7)
    added = weight * s
    most = float(added.abs().max())
    axes.imshow(
        added.numpy(), extent=(left, left + 36, top + 42, top), aspect="auto",
        cmap=draw.SIGNED, vmin=-most, vmax=most, interpolation="nearest",
    )  # fmt: skip
    draw.frame(axes, left, top, 36, 42)
    draw.note(axes, left + 18, top + 43.6, f"blue adds, grey takes away; the darkest is {most:.1f}")
    draw.arrow(axes, (45, 12), (48.5, 12))
    draw.label(axes, 50, 12, "g", weight="bold")
    draw.note(axes, 52, 12, "each row added up, and its bias; then the ReLU", ha="left")
    for row in range(1, len(g)):  # each bar beside its row
        line = [top + row * down] * 2
        axes.plot([left + 36, 47], line, color=GREY, linewidth=0.4)
    draw.bars(axes, 47, top, g, down, 40, won=g > 0)
    axes.plot([47, 47], [top, top + 42], color=BLACK, linewidth=0.8)
    best = int(order[0])
    draw.note(axes, 88, top + 0.5 * down, f"output {best}", ha="left", color=BLACK)
    reasons = added[0].sort(descending=True).indices[:2].tolist()
    sentence = (
        f"Output {best} has the largest g, {g[0]:.2f}: its row adds most for inputs "
        f"{reasons[0]} and {reasons[1]}. {int((g == 0).sum())} of {len(g)} sums are below 0, and "
        f"the ReLU makes them 0. The biases lie between {bias.min():.2f} and {bias.max():.2f}."
    )
    return figure, sentence


def new_winners(
    pulled: Tensor, other: Tensor, labels: Tensor, digit: int, k: int
) -> tuple[Figure, str]:
    """How many of a layer's winners are new: when one input is pulled to 0, and for another image.

    Args:
        pulled: ``[C_in, M]``, new winners for each input and each of M images of ``digit``.
        other: ``[N]``, for each of N images, compared with one of ``digit``. labels: ``[N]``.
        k: how many win.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.4), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    pulled, other = pulled.double(), other.double()
    places = range(len(pulled))
    left.vlines(places, pulled.amin(dim=1), pulled.amax(dim=1), color=DARK_GREY, linewidth=1.2)
    left.plot(places, pulled.mean(dim=1), "o", color=BLUE, markersize=5)
    left.set(xlabel="input channel that is pulled to 0", ylabel=f"new winners, of {k}")
    left.set_title(f"One input pulled, for {pulled.shape[1]} images of a {digit}", fontsize=10)
    scatter, middles = torch.Generator().manual_seed(0), []
    for one in range(10):
        new = other[labels == one]
        at = one + 0.5 * (torch.rand(len(new), generator=scatter) - 0.5)
        up = 0.3 * (torch.rand(len(new), generator=scatter) - 0.5)
        right.plot(at, new + up, ".", color=GREY if one != digit else DARK_GREY, markersize=4)
        middles.append(new.median().item())
        right.plot([one - 0.35, one + 0.35], [middles[-1]] * 2, color=BLUE, linewidth=2.5)
    right.set(xlabel="digit of the other image", xticks=range(10))
    right.set_title(f"Another image in place of one {digit}", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    none = int((pulled.amax(dim=1) == 0).sum())
    others = [middle for one, middle in enumerate(middles) if one != digit]
    return figure, (
        f"New winners, of {k}. One input pulled: none ever for {none} of {len(pulled)} inputs, at "
        f"most {pulled.mean(dim=1).max():.1f} on average. Another image: half of the images of a "
        f"{digit} bring {middles[digit]:.0f} or fewer, of other digits {min(others):.0f} to "
        f"{max(others):.0f}."
    )


def winner_plane(
    winner: Callable[[Tensor], Tensor],
    outputs: Sequence[str],
    inputs: Sequence[str] = ("s of input 0", "s of input 1"),
    top: float = 1.5,
) -> tuple[Figure, str]:
    """Who wins, for every pair of measured saliencies from 0 to ``top``: an area for each output.

    Args:
        winner: ``[N, 2] -> [N]``, the index of the output that wins; -1 for nobody.
        outputs: their names, at most six.
    """
    line = torch.linspace(0, top, 151)
    pairs = torch.cartesian_prod(line, line)
    area = winner(pairs).reshape(151, 151).T
    figure, axes = plt.subplots(figsize=(4.6, 3.9), layout="constrained")
    shades = ListedColormap([FAINT, *AREAS[: len(outputs)]])
    shown = {"extent": (0, top, 0, top), "origin": "lower", "alpha": 0.45}
    axes.imshow(area.numpy(), cmap=shades, vmin=-1.5, vmax=len(outputs) - 0.5, **shown)
    said = []
    for o, name in enumerate(outputs):
        here = area == o
        if here.any():
            y, x = (at.double().mean().item() * top / 150 for at in here.nonzero().T)
            axes.text(x, y, name, ha="center", va="center", color=BLACK)
        said.append(f"{name} {100 * here.double().mean():.0f} %")
    axes.set(xlabel=inputs[0], ylabel=inputs[1], title="Which output wins?")
    return figure, f"Shares of the plane: {', '.join(said)}."
