"""What all pictures share: colours, curves with bands, legends under the picture.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; markers and
hatches repeat what the colours say.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW = "#E69F00"
GREY, DARK_GREY, BLACK = "#BBBBBB", "#777777", "#222222"
PALE, FAINT = "#DFE7EE", "#F1F1F1"  # kernels that are skipped: for one reason, for both
TEXT, LINE, PANEL, WHITE = "#555555", "#DDDDDD", "#F6F7F8", "#FFFFFF"  # what stands around

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
