"""Sliders around pure functions, and guesses that are kept until the answer is known.

Only what ipywidgets 7.7 (Colab) and 8 share.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from numbers import Real

import ipywidgets as w
import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, display
from matplotlib.figure import Figure

from .live import live_donor, live_layer, live_network, live_saliency, live_selection
from .plots import number_line

__all__ = [
    "Prediction",
    "density_slider",
    "live_donor",
    "live_layer",
    "live_network",
    "live_saliency",
    "live_selection",
    "predict",
    "show",
    "small_png",
]

Picture = tuple[Figure, str]


def show(picture: Picture) -> None:
    """Display a figure and print the sentence that says what it shows."""
    figure, sentence = picture
    display(small_png(figure, sentence))
    plt.close(figure)  # the inline backend would show it a second time
    print("\n".join(textwrap.fill(line, 96) for line in sentence.splitlines()))


def small_png(figure: Figure, alt: str = "") -> Image:
    """The figure in 256 colours: a third of the bytes, and notebooks keep their pictures.

    Args:
        alt: what a screen reader says instead of the picture.
    """
    whole, small = BytesIO(), BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight")
    PIL.Image.open(whole).convert("RGB").quantize(256).save(small, format="png")
    return Image(small.getvalue(), alt=alt or None)


def density_slider(
    draw: Callable[..., Picture],
    *,
    density: float = 0.5,
    step: float = 0.1,
    height: int = 420,
    **controls: w.Widget,
) -> tuple[w.FloatSlider, w.VBox]:
    """A slider over the density whose picture is drawn anew when it is let go.

    Args:
        draw: ``draw(density=..., **values of the controls)`` returns a figure and a sentence.
        density: where the slider starts. step: it runs from ``step`` to 1.
        height: of the picture in pixels, fixed so that the page does not jump.
        controls: more widgets, under the names that ``draw`` takes.

    Returns:
        The slider, for a later cell to move, and the whole view, to display.
    """
    slider = w.FloatSlider(
        value=density,
        min=step,
        max=1.0,
        step=step,
        description="density d",
        readout_format=".2f",
        continuous_update=False,
    )
    controls = {"density": slider, **controls}
    output = w.interactive_output(lambda **values: show(draw(**values)), controls)
    output.layout.height = f"{height}px"
    return slider, w.VBox([w.HBox(list(controls.values())), output])


@dataclass
class Prediction:
    """A question, and the reader's guess: a number between ``low`` and ``high``, or None."""

    question: str
    low: float
    high: float
    unit: str
    guess: float | None = None

    def reveal(self, truth: float) -> None:
        """Draw the guess beside the truth and print both."""
        _check_number("truth", truth, -math.inf, math.inf)
        show(number_line(self.question, self.low, self.high, self.unit, truth, self.guess))


def predict(
    question: str,
    low: float,
    high: float,
    unit: str = "",
    guess: float | None = None,
    step: float = 1.0,
) -> Prediction:
    """Ask for a guess before the answer is shown; ``.reveal(truth)`` shows it.

    Args:
        question: one sentence. low, high: the range of possible answers. unit: "%" for instance.
        guess: the guess as a plain number. Without one, a slider asks for it, in steps of
            ``step``, and a slider that was not moved counts as no guess.

    Raises:
        TypeError, ValueError: ``low < high`` does not hold, or ``guess`` is not between them.
    """
    _check_number("low", low, -math.inf, math.inf)
    _check_number("high", high, low, math.inf)
    if low == high:
        raise ValueError(f"high must be above low, got {low} and {high}")
    prediction = Prediction(question, low, high, unit)
    if guess is not None:
        _check_number("guess", guess, low, high)
        prediction.guess = guess
        print(f"{question} Your guess: {guess:g} {unit}".rstrip())
        return prediction

    slider = w.FloatSlider(
        value=low,
        min=low,
        max=high,
        step=step,
        description="my guess",
        readout_format=".0f" if step >= 1 else ".2f",
        continuous_update=False,
    )

    def record(change: dict) -> None:
        prediction.guess = change["new"]

    slider.observe(record, names="value")
    print(question)
    display(w.HBox([slider, w.Label(unit)]))
    return prediction


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
