"""What all pictures share: colours, curves with bands, legends under the picture.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; markers and
hatches repeat what the colours say.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW = "#E69F00"
DARK_GREEN, PALE_GREEN, PALE_BLUE = "#00523C", "#5FC7A6", "#56B4E9"  # where a colour has kin
GREY, DARK_GREY, BLACK = "#BBBBBB", "#777777", "#222222"
PALE, FAINT = "#DFE7EE", "#F1F1F1"  # kernels that are skipped: for one reason, for both
TEXT, LINE, PANEL, WHITE = "#555555", "#DDDDDD", "#F6F7F8", "#FFFFFF"  # what stands around

DARK_ENOUGH = 0.155  # luminance of words: their contrast with a pale ground is 4.5 or more

Look = tuple[str, str, str]  # colour, marker, line


def curve(
    axes: Axes,
    densities: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    look: Look,
) -> np.ndarray:
    """Draw shares 0..1, ``[runs, densities]``, in percent; returns their median over the runs.

    With several runs a band goes from the lowest to the highest.
    """
    colour, marker, line = look
    values = 100 * np.array(values)  # [runs, densities]
    middle = np.median(values, axis=0)
    axes.plot(densities, middle, line, color=colour, marker=marker, label=label)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)
    return middle


def ink(colour: str) -> str:
    """A colour for words: as dark as it must be to be read on a pale ground; white stays white."""
    parts = np.array(to_rgb(colour))
    if parts.min() > 0.95 or _luminance(parts) <= DARK_ENOUGH:
        return colour  # white words stand on dark grounds
    while _luminance(parts) > DARK_ENOUGH:
        parts = 0.97 * parts
    return to_hex(parts)


def _luminance(parts: np.ndarray) -> float:
    """The relative luminance of WCAG 2.1, of red, green and blue from 0 to 1."""
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def legend_below(figure: Figure, *entries: Sequence, ncols: int, fontsize: int = 9) -> None:
    """A legend without a frame under the whole picture."""
    figure.legend(
        *entries, loc="outside lower center", ncols=ncols, fontsize=fontsize, frameon=False
    )


def plain_ticks(axis: object, ticks: Sequence[float]) -> None:
    """Just these ticks, as plain numbers, on a logarithmic axis."""
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def draw_images(row: np.ndarray, images: Tensor, captions: Sequence[str]) -> None:
    """Colour images ``[N, 3, H, W]`` in a row of axes, each under its caption."""
    for axes, image, caption in zip(row, images, captions, strict=True):
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(caption, fontsize=8)
        axes.set_axis_off()
