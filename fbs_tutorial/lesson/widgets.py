"""Sliders around pure functions, and how a figure is shown. Guesses are in `guesses`.

Only what ipywidgets 7.7 (Colab) and 8 share.
"""

import inspect
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from io import BytesIO

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython.display import Image, display
from matplotlib.figure import Figure
from torch import Tensor

from .guesses import Prediction, predict, show_guesses
from .live import live_donor, live_layer, live_network, live_saliency, live_selection

__all__ = [
    "Prediction",
    "density_slider",
    "live_channels",
    "live_donor",
    "live_layer",
    "live_network",
    "live_saliency",
    "live_selection",
    "menus",
    "predict",
    "show",
    "show_guesses",
    "small_png",
    "with_controls",
]

FAST = 0.05  # seconds: a picture that follows the hand
MEASURING = "measuring…"
Picture = tuple[Figure, str]


def show(picture: Picture) -> None:
    """Display a figure and print the sentence that says what it shows."""
    figure, sentence = picture
    display(small_png(figure, sentence))
    plt.close(figure)  # the inline backend would show it a second time
    print("\n".join(_lines(sentence)))


def small_png(figure: Figure, alt: str = "") -> Image:
    """The figure in 256 colours: a third of the bytes, and notebooks keep their pictures.

    Args:
        alt: what a screen reader says instead of the picture.
    """
    small = BytesIO()
    _drawn(figure).convert("RGB").quantize(256).save(small, format="png")
    return Image(small.getvalue(), metadata={"alt": alt} if alt else {})  # alt= came with IPython 8


def _drawn(figure: Figure) -> PIL.Image.Image:
    """A figure that lays itself out needs one drawing; others are drawn twice, to be cropped."""
    if figure.get_layout_engine() is not None:
        figure.canvas.draw()
        return PIL.Image.fromarray(np.asarray(figure.canvas.buffer_rgba()))
    whole = BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight")
    return PIL.Image.open(whole)


def density_slider(
    draw: Callable[..., Picture],
    *,
    density: float = 0.5,
    step: float = 0.1,
    height: int = 0,
    label: str = "density d",
    **controls: w.Widget,
) -> tuple[w.FloatSlider, w.VBox]:
    """A slider over the density whose picture is drawn anew when it moves.

    Where a picture takes `FAST` seconds or less it follows while the slider is dragged, otherwise
    it is drawn when the slider is let go, and a sign says that it is at work.

    Args:
        draw: ``draw(density=..., **values of the controls)`` returns a figure and a sentence.
        density: where the slider starts. step: it runs from ``step`` to 1.
        height: the least height in pixels. The view is as high as the highest picture so far, so
            that the page does not jump and nothing is cut off.
        label: what stands before the slider, where the share is not one of winners.
        controls: more widgets, under the names that ``draw`` takes.

    Returns:
        The slider, for a later cell to move, and the whole view, to display.
    """
    slider = w.FloatSlider(
        value=density,
        min=step,
        max=1.0,
        step=step,
        description=label,
        readout_format=".2f",
        continuous_update=False,
    )
    return slider, with_controls(draw, height=height, density=slider, **controls)


def menus(draw: Callable[..., Picture], **options: Sequence) -> dict[str, w.Dropdown]:
    """A narrow menu for each of these arguments of ``draw``; it starts at the argument's default.

    Args:
        options: what each argument may be.

    Raises:
        TypeError: an argument that ``draw`` does not have, or that has no default.
    """
    parameters, found = inspect.signature(draw).parameters, {}
    for name, values in options.items():
        if name not in parameters or parameters[name].default is inspect.Parameter.empty:
            raise TypeError(f"options must be arguments of draw that have a default, got {name!r}")
        found[name] = w.Dropdown(
            options=list(values),
            value=parameters[name].default,
            description=name,
            layout=w.Layout(width="150px"),
            style={"description_width": "62px"},
        )
    return found


def with_controls(draw: Callable[..., Picture], *, height: int = 0, **controls: w.Widget) -> w.VBox:
    """A picture under the widgets that it depends on; `density_slider` has the rest."""
    redraw = _Redraw(draw, list(controls.values()), height)
    redraw.output = w.interactive_output(redraw, controls)
    redraw.make_room()
    row = w.HBox([*controls.values(), redraw.sign], layout=w.Layout(flex_flow="row wrap"))
    return w.VBox([row, redraw.output])


def live_channels(
    draw: Callable[[Tensor], Picture], kept: Sequence[bool] | Tensor, *, height: int = 0
) -> w.VBox:
    """A picture under a button for each channel: those that are pressed are kept.

    Args:
        draw: ``draw(mask)`` with a bool tensor ``[C]`` returns a figure and a sentence.
        kept: the channels that are pressed at first. height: as in `density_slider`.
    """
    buttons = {
        str(c): w.ToggleButton(value=bool(on), description=str(c), layout=w.Layout(width="42px"))
        for c, on in enumerate(kept)
    }

    def of_pressed(**pressed: bool) -> Picture:
        return draw(torch.tensor([pressed[name] for name in buttons]))

    return with_controls(of_pressed, height=height, **buttons)


class _Redraw:
    """Draws what the controls say, times it, and lets them follow the hand where that is fast."""

    def __init__(self, draw: Callable[..., Picture], controls: Sequence[w.Widget], height: int):
        self.draw, self.controls, self.height = draw, controls, height
        self.sign = w.Label(layout=w.Layout(width="90px"))
        self.seconds = math.inf
        self.output: w.Output | None = None

    def __call__(self, **values) -> None:
        self.sign.value = MEASURING if self.seconds > FAST else ""
        start = time.perf_counter()
        try:
            picture = self.draw(**values)
            self.height = max(self.height, _height(picture))
            self.make_room()
            show(picture)
        finally:
            self.sign.value = ""
        self.seconds = time.perf_counter() - start
        for control in self.controls:
            if control.has_trait("continuous_update"):
                control.continuous_update = self.seconds <= FAST

    def make_room(self) -> None:
        if self.output is not None:
            self.output.layout.min_height = f"{self.height}px"


def _height(picture: Picture) -> int:
    """Pixels that a figure and the sentence beneath it take."""
    figure, sentence = picture
    return round(figure.get_figheight() * figure.dpi) + 20 * len(_lines(sentence)) + 40


def _lines(sentence: str) -> list[str]:
    return [part for line in sentence.splitlines() for part in textwrap.wrap(line, 96) or [""]]
