"""Guesses before answers: asked for in one cell, compared in a later one, kept beside the notebook.

Only what ipywidgets 7.7 (Colab) and 8 share.
"""

import html
import json
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

import ipywidgets as w
from IPython.display import display

from ..files import write_atomically

FILE = Path("guesses.json")  # a notebook's kernel starts in the notebook's folder
WIDGET = "application/vnd.jupyter.widget-view+json"
CLOSED = "The answer, for when you have guessed:"
FIRST = "Type your guess above, and the answer appears here."
KEPT = ("question", "low", "high", "unit", "step", "guess", "truth")
CELLS = 40  # letters of the line on which guess and answer are marked


@dataclass
class Prediction:
    """A question and the reader's guess, a number from ``low`` to ``high``, or None.

    Attributes:
        step: how fine a guess is; answers are rounded to a tenth of it.
    """

    question: str
    low: float
    high: float
    unit: str = ""
    step: float = 1.0
    guess: float | None = None
    truth: float | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def take(self, guess: float) -> None:
        """Keep a guess, and show the answer where it was asked for already."""
        self.guess = plain_number(guess)
        self.keep()
        for tell in self.waiting:
            tell()

    def keep(self) -> None:
        """Write the guess into ``guesses.json``, unless nobody would find it there."""
        if self.guess is None or "PYTEST_VERSION" in os.environ:
            return
        kept = {guess["question"]: guess for guess in kept_guesses()}
        kept[self.question] = {name: getattr(self, name) for name in KEPT}
        content = json.dumps(list(kept.values()), indent=1, ensure_ascii=False) + "\n"
        with suppress(OSError):  # a folder that cannot be written
            set_aside()
            write_atomically(FILE.absolute(), content.encode())

    def reveal(self, truth: float, *, anyway: bool = False) -> None:
        """Show the answer, beside the guess; without a guess only when the reader asks for it.

        What is saved of the cell holds the answer; fold it with the metadata
        ``{"jupyter": {"outputs_hidden": true}}``.

        Args:
            anyway: show the answer at once, guess or not.

        Raises:
            TypeError, ValueError: ``truth`` is no number, or not finite.
        """
        check_number("truth", truth)
        self.truth = plain_number(truth)
        self.keep()
        if self.guess is not None or anyway:
            print(self.verdict())
        else:
            self._wait()

    def _wait(self) -> None:
        """A line that asks for a guess, and a button that shows the answer without one."""
        line, button = w.HTML(FIRST), w.Button(description="show me", tooltip="without a guess")
        view = w.HBox([line, button])

        def tell(_: object = None) -> None:
            line.value = f"<pre>{html.escape(self.verdict())}</pre>"
            button.layout.display = "none"

        button.on_click(tell)
        self.waiting.append(tell)
        answer = self.verdict()
        seen = {"version_major": 2, "version_minor": 0, "model_id": view.model_id}
        page = f"{CLOSED}\n<pre>{html.escape(answer)}</pre>"  # folded, its first line is seen
        saved = {"text/html": page, "text/plain": f"{CLOSED}\n{answer}"}
        display({WIDGET: seen, **saved}, raw=True)

    def verdict(self) -> str:
        """The answer, how far off the guess was, and a line with both."""
        answer = f"The answer is {self.told(self.truth)}"
        if self.guess is None:
            return f"{answer}."
        off = self.rounded(self.guess) - self.rounded(self.truth)
        if math.isclose(off, 0, abs_tol=1e-9):
            words = "that is right"
        else:
            unit = "points" if self.unit == "%" else self.unit
            side = "too high" if off > 0 else "too low"
            words = f"{self.told(abs(off), unit)} {side}"
        return f"{answer}. You guessed {self.told(self.guess)}: {words}.\n{self.line()}"

    def rounded(self, value: float) -> float:
        """``value`` to a tenth of a step; whole numbers stay as they are."""
        return value if isinstance(value, int) else round(value, self.digits)

    @property
    def digits(self) -> int:
        return max(0, 1 - math.floor(math.log10(self.step) + 1e-9))

    def told(self, value: float, unit: str | None = None) -> str:
        """``value`` in words: ``32.0 %``."""
        unit = self.unit if unit is None else unit
        whole = isinstance(value, int) or (self.step >= 1 and value == self.guess == int(value))
        return f"{value:,.{0 if whole else self.digits}f} {unit}".rstrip()

    def line(self) -> str:
        """Guess and answer on a line of letters from ``low`` to ``high``."""
        letters = ["─"] * CELLS
        for value, mark in ((self.guess, "○"), (self.truth, "◆")):
            share = (value - self.low) / (self.high - self.low)
            letters[min(max(int(share * CELLS), 0), CELLS - 1)] = mark
        line = "".join(letters)
        return f"{self.low:g} {line} {self.high:g} {self.unit}".rstrip() + "   ○ guess  ◆ answer"


EXAMPLE = Prediction("An example, and no result", 0, 100, "%", guess=70, truth=80.0)


def predict(
    question: str,
    low: float,
    high: float,
    unit: str = "",
    guess: float | None = None,
    step: float = 1.0,
) -> Prediction:
    """Ask for a guess before the answer is shown; ``.reveal(truth)`` shows it.

    The box is empty until the reader types a number and presses Enter, so that any number counts
    as a guess, 0 too.

    Args:
        question: one sentence. low, high: the range of possible answers. unit: "%" for instance.
        guess: the guess as a plain number, for who would rather write it into the cell.
        step: how fine a guess is meant to be; the answer is rounded to a tenth of it.

    Raises:
        TypeError, ValueError: a number is not finite, ``low < high`` does not hold, ``step`` is not
            above 0, or ``guess`` is not from ``low`` to ``high``.
    """
    check_number("low", low)
    check_number("high", high, low)
    if low == high:
        raise ValueError(f"high must be above low, got {low} and {high}")
    check_number("step", step, math.ulp(0.0))
    prediction = Prediction(question, *map(plain_number, (low, high)), unit, plain_number(step))
    if guess is None:
        print(question)
        display(_entry(prediction))
        return prediction
    check_number("guess", guess, low, high)
    print(f"{question} Your guess: {plain_number(guess):g} {unit}".rstrip())
    prediction.take(guess)
    return prediction


def _entry(prediction: Prediction) -> w.HBox:
    """An empty box for a number, and what became of the last that was typed."""
    low, high = f"{prediction.low:g}", f"{prediction.high:g}"
    range_ = f"{low} to {high} {prediction.unit}".rstrip()
    box = w.Text(
        description="my guess", placeholder=range_, continuous_update=False,
        layout=w.Layout(width="240px"),
    )  # fmt: skip
    said = w.Label("Enter keeps it")

    def record(change: dict) -> None:
        read = read_numbers(change["new"], prediction.unit)
        guess = next((n for n in read if prediction.low <= n <= prediction.high), None)
        if guess is None:
            said.value = f"a number from {range_}, please"
            return
        said.value = f"kept: {guess:g} {prediction.unit}".rstrip()
        prediction.take(guess)

    box.observe(record, names="value")
    return w.HBox([box, said])


def read_numbers(text: str, unit: str = "") -> list[float]:
    """What ``"80"``, ``"80 %"`` or ``"0,5"`` may mean, the likeliest first; nothing otherwise.

    ``"1,200"`` is 1200 before it is 1.2.
    """
    text = text.strip().removesuffix(unit).strip()
    thousands = re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", text)
    found = []
    for written in [text.replace(",", "")] * bool(thousands) + [text.replace(",", ".")]:
        with suppress(ValueError):
            number = float(written)
            found.append(int(number) if number.is_integer() else number)
    return found


def kept_guesses(file: Path = FILE) -> list[dict]:
    """What is in ``guesses.json``, oldest first, without entries that are no guess."""
    with suppress(OSError, ValueError):
        return [entry for entry in _entries(file) if _is_guess(entry)]
    return []


def set_aside(file: Path = FILE) -> None:
    """Rename a file that cannot be read to ``guesses.json.old``, so that nothing is overwritten.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        _entries(file)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        os.replace(file, f"{file}.old")


def _entries(file: Path) -> list:
    entries = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError(f"{file} must hold a list, got {type(entries).__name__}")
    return entries


def _is_guess(entry: object) -> bool:
    """Whether an entry is one that `Prediction.keep` may have written."""
    if not isinstance(entry, dict) or set(entry) != set(KEPT):
        return False
    if not isinstance(entry["question"], str) or not isinstance(entry["unit"], str):
        return False
    try:
        check_number("low", entry["low"])
        check_number("high", entry["high"], math.nextafter(entry["low"], math.inf))
        check_number("step", entry["step"], math.ulp(0.0))
        check_number("guess", entry["guess"])
        if entry["truth"] is not None:
            check_number("truth", entry["truth"])
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def show_guesses() -> None:
    """Every guess of this course that is kept beside the notebook, with its answer."""
    kept = [Prediction(**guess) for guess in kept_guesses() if guess["truth"] is not None]
    if not kept:
        print(f"No guess is kept here yet: {FILE} holds those of all notebooks in this folder.")
        print(f"This is what one looks like:\n   {EXAMPLE.verdict()}".replace("\n", "\n   "))
        return
    for guess in kept:
        print(guess.question)
        print("   " + guess.verdict().replace("\n", "\n   "))
    off = sorted(abs(guess.guess - guess.truth) / (guess.high - guess.low) for guess in kept)
    count = (
        f"{len(kept)} guesses with their answers" if len(kept) > 1 else "1 guess with its answer"
    )
    near = sum(distance <= 0.1 for distance in off)
    print(f"{count}; {near} of them within a tenth of the range.")


def check_number(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not low <= value <= high or not math.isfinite(value):
        ends = f" from {low:g}" * (low > -math.inf) + f" to {high:g}" * (high < math.inf)
        raise ValueError(f"{name} must be a finite number{ends}, got {value!r}")


def plain_number(value: float) -> float:
    """An int or a float, such as JSON takes, of any number, such as NumPy's."""
    return int(value) if isinstance(value, Integral) else float(value)
