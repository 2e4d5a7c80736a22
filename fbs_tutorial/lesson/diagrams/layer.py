"""The FBS layer, drawn with the numbers of the image at hand."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...method.gated import GatedConv2d
from ...method.saliency import channel_saliency
from ...method.wta import mark_winners
from ..plots.style import BLACK, DARK_GREY
from . import draw

MOST = 32  # rows and columns that still can be told apart
MEASURED = {"l1": "mean |x|", "l2": "root mean square", "max": "max |x|", "avg": "mean of x"}


def losers(inside: Tensor, outside: Tensor) -> tuple[Figure, str]:
    """What the losers of a layer put out, with beta inside the gate and outside of it.

    Args:
        inside, outside: output maps ``[L, H, W]`` of the losers.
    """
    count = len(inside)
    figure, axes = draw.canvas(19)
    cell, top, said = 84 / count, max(inside.max().item(), outside.max().item()), []
    for y, name, maps in ((5, "beta inside", inside), (12, "beta outside", outside)):
        full = maps.flatten(1).any(dim=1)
        draw.label(axes, 13, y + 1.2, name, ha="right", weight="bold")
        for i in range(count):
            if full[i]:
                draw.feature_map(axes, 14.5 + i * cell, y, 0.9 * cell, maps[i], top=top)
            else:
                draw.skipped(axes, 14.5 + i * cell, y, 0.9 * cell, 0.9 * cell)
        said.append(f"{name}: {int(full.sum())} of {count} losers are not empty")
    draw.title(axes, 2, 2, "What the losers put out: a blue square is one constant value")
    draw.note(axes, 14.5, 17, "struck out: empty", ha="left")
    return figure, "; ".join(said) + "."


@dataclass
class Forward:
    """What one image makes of a layer: s, live inputs ``[C_in]``; g, winners ``[C_out]``; maps."""

    x: Tensor
    s: Tensor
    g: Tensor
    won: Tensor
    y: Tensor

    @property
    def live(self) -> Tensor:
        return self.x.abs().amax(dim=(1, 2)) > 0

    @property
    def computed(self) -> int:
        return int(self.won.sum() * self.live.sum())

    def first(self, most: int) -> "Forward":
        """The part that is drawn."""
        parts = (self.x, self.s, self.g, self.won, self.y)
        return Forward(*(part[:most] for part in parts))


@dataclass
class Place:
    """Where the kernels stand: their top left corner, and the size of one."""

    left: float
    top: float
    cell: float
    rows: int
    columns: int

    @property
    def right(self) -> float:
        return self.left + self.columns * self.cell

    @property
    def bottom(self) -> float:
        return self.top + self.rows * self.cell


def the_layer(
    layer: GatedConv2d, x: Tensor, image: Tensor | None = None, name: str = "the layer"
) -> tuple[Figure, str]:
    """A gated layer at work on one image: maps, s, predictor, g with its cut, kernels, outputs.

    The rows are the layer's output channels, the columns its input channels; of more than 32 the
    first 32 are drawn.

    Args:
        layer: with ``groups=1``; it is left as it is.
        x: the layer's input for this image, ``[1, C_in, H, W]``.
        image: what the network is looking at, ``[1, H, W]``; drawn in the corner.
        name: of the layer, for title and sentence.

    Raises:
        ValueError: ``x`` holds more than one image.
    """
    if len(x) != 1:
        raise ValueError(f"x must hold one image, [1, C_in, H, W], got {len(x)}")
    whole = _one_forward(layer, x)
    part = whole.first(MOST)
    cell = min(46 / len(part.g), 40 / len(part.s), 3.2)
    place = Place(27, 15 + 4 * cell, cell, len(part.g), len(part.s))
    figure, axes = draw.canvas(max(place.bottom + 4.5, 40))
    draw.title(axes, 2, 2.4, _title(name, whole))
    if image is not None:
        draw.feature_map(axes, 2, 4.2, 6.6, image[0], cmap="gray_r", top=1)
    _inputs(axes, part, place)
    _predictor(axes, place)
    _gates(axes, part, place)
    weights = layer.conv.weight if cell > 2 else None
    draw.kernels(axes, place.left, place.top, part.won, part.live, cell, weights=weights)
    draw.badge(axes, (place.left + place.right) / 2, place.bottom + 2.6, 5)
    _outputs(axes, part, place)
    side = place.right + 4.4 * cell + 4
    draw.steps(axes, side, 8, _steps(layer, whole), 98 - side)
    return figure, _said(name, whole)


def _one_forward(layer: GatedConv2d, x: Tensor) -> Forward:
    layer = deepcopy(layer).eval()
    with torch.no_grad():
        y = layer(x)
        won = mark_winners(layer.saliency, layer.density)
        return Forward(x[0], channel_saliency(x, layer.reduce)[0], layer.saliency[0], won[0], y[0])


def _shades(maps: Tensor) -> dict:
    """Colours for ``maps``, such that one bright pixel does not make the rest pale."""
    values = maps[maps != 0].abs()
    top = float(values.quantile(0.97)) if len(values) else 1.0
    signed = {"cmap": draw.SIGNED, "vmin": -top, "vmax": top}
    return {"top": top, **(signed if (maps < 0).any() else {})}


def _inputs(axes: Axes, part: Forward, place: Place) -> None:
    """Steps 1 and 2: the maps in two staggered rows, and a bar beneath each."""
    cell, one = place.cell, len(part.x) == 1
    for i in range(1 if one else 2):  # two rows, so that a map is as large as two columns
        left, side = place.left + (i - 0.4) * cell, (3.6 if one else 1.8) * cell
        live, step = part.live[i::2], (2 * cell, 0)
        at = left - one * 0.9 * cell, 7 + 2.1 * cell * i
        draw.maps(axes, *at, part.x[i::2], side, step, live=live, **_shades(part.x))
    draw.badge(axes, place.left - (6 if one else 3), 7 + 2 * cell, 1)
    base = place.top - 1.2
    draw.bars(axes, place.left, base, part.s, cell, 5.5, towards="up", colour=DARK_GREY)
    axes.plot([place.left, place.right], [base, base], color=BLACK, linewidth=0.8)
    draw.badge(axes, place.right + 1.6, base - 3.4, 2)


def _predictor(axes: Axes, place: Place) -> None:
    """Step 3, in the corner between s and g."""
    middle = place.top - 4.6
    draw.arrow(axes, (place.left - 0.5, middle), (20, middle), "s")
    draw.box(axes, 9, middle - 2.3, 11, 4.6, "predictor\nrelu(W s + b)", fontsize=8)
    draw.badge(axes, 9, middle - 2.3, 3)
    draw.arrow(axes, (14.5, middle + 2.3), (14.5, place.top + 0.2), "g", away=(1.2, -0.3))


def _gates(axes: Axes, part: Forward, place: Place) -> None:
    """Step 4: predicted saliencies grow to the left, and the cut crosses those that win."""
    base = place.left - 1
    unit = draw.bars(axes, base, place.top, part.g, place.cell, 17, towards="left", won=part.won)
    axes.plot([base, base], [place.top, place.bottom], color=BLACK, linewidth=0.8)
    if part.won.any() and not part.won.all():
        between = float(part.g[part.won].min() + part.g[~part.won].max()) / 2
        at = base - unit * between
        draw.cut(axes, (at, place.top - 0.4), (at, place.bottom + 0.8), "the cut", ha="left")
    draw.badge(axes, base - 15, place.bottom + 2.6, 4)


def _outputs(axes: Axes, part: Forward, place: Place) -> None:
    """Step 6: the outputs in two staggered columns, those of losers crossed out."""
    cell = place.cell
    for i in range(2):
        at = place.right + 1.2 + 2.1 * cell * i, place.top + (i - 0.4) * cell
        maps, live, step = part.y[i::2], part.won[i::2], (0, 2 * cell)
        draw.maps(axes, *at, maps, 1.8 * cell, step, live=live, **_shades(part.y))
    draw.badge(axes, place.right + 1.2 + 2 * cell, place.bottom + 2.6, 6)


def _steps(layer: GatedConv2d, whole: Forward) -> list[str]:
    empty = len(whole.s) - int(whole.live.sum())
    maps = f"x: {len(whole.s)} input maps" if len(whole.s) > 1 else "x: one input map"
    return [
        maps + (f", {empty} of them empty" if empty else ""),
        f"s: {MEASURED[layer.reduce]} of each map",
        "predictor: one small linear layer and a ReLU",
        f"g: the {int(whole.won.sum())} largest of {len(whole.g)} win; the orange line is the cut",
        f"kernels, one row per output channel: {whole.computed} of {len(whole.g) * len(whole.s)} "
        "are computed",
        "y: normalised, shifted and multiplied by the winners' g; losers stay 0",
    ]


def _title(name: str, whole: Forward) -> str:
    share = 100 * whole.computed / (len(whole.g) * len(whole.s))
    return f"One image in {name}: {share:.0f} % of the kernels are computed"


def _said(name: str, whole: Forward) -> str:
    kernels = len(whole.g) * len(whole.s)
    cropped = max(len(whole.g), len(whole.s)) > MOST
    only = f" At most {MOST} channels are drawn." if cropped else ""
    return (
        f"For this image {int(whole.won.sum())} of {len(whole.g)} output channels of {name} win, "
        f"and {int(whole.live.sum())} of its {len(whole.s)} inputs are not empty: {whole.computed} "
        f"of {kernels} kernels are computed, {100 * whole.computed / kernels:.0f} %.{only}"
    )
