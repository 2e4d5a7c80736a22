"""Guesses start empty, 0 counts, the answer waits for them; they are kept beside the notebook."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fbs_tutorial.lesson import guesses, widgets
from fbs_tutorial.lesson.guesses import FILE, WIDGET


@pytest.fixture(autouse=True)
def shown(monkeypatch, tmp_path):
    """What is displayed; and a folder of its own, in which guesses are kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    displayed = []
    monkeypatch.setattr(guesses, "display", lambda what, **options: displayed.append(what))
    return displayed


def asked(shown, *arguments, **options):
    """A prediction and the box for its guess."""
    prediction = widgets.predict("How many?", *arguments, **options)
    box, said = shown[-1].children
    return prediction, box, said


def test_a_guess_starts_empty_and_zero_is_one(shown):
    prediction, box, said = asked(shown, 0, 10)
    assert prediction.guess is None and box.value == ""
    box.value = "0"
    assert prediction.guess == 0 and said.value == "kept: 0"
    prediction.reveal(4)
    assert not isinstance(shown[-1], dict)  # no question any more


@pytest.mark.parametrize(
    ("typed", "guess"),
    [("80", 80), ("80 %", 80), ("80%", 80), ("0,5", 0.5), (" 7. ", 7), ("1e1", 10), ("0", 0)],
)
def test_numbers_are_read_as_people_write_them(shown, typed, guess):
    prediction, box, _ = asked(shown, 0, 100, "%")
    box.value = typed
    assert prediction.guess == guess


@pytest.mark.parametrize("typed", ["many", "101", "-1", "nan", "inf", "8 0"])
def test_what_is_no_guess_is_answered_and_not_kept(shown, typed):
    prediction, box, said = asked(shown, 0, 100, "%")
    box.value = typed
    assert prediction.guess is None
    assert said.value == "a number from 0 to 100 %, please"


def test_the_answer_waits_for_the_guess(shown, capsys):
    prediction, box, _ = asked(shown, 0, 100, "%")
    prediction.reveal(31.98)
    assert "32" not in capsys.readouterr().out
    bundle = shown[-1]
    line, button = view_of(bundle).children
    assert line.value == guesses.FIRST and button.description == "show me"
    assert bundle["text/plain"] == f"{guesses.CLOSED}\nThe answer is 32.0 %."  # what is saved
    assert bundle["text/html"] == f"{guesses.CLOSED}\n<pre>The answer is 32.0 %.</pre>"
    box.value = "40"
    assert "You guessed 40 %: 8.0 points too high." in line.value
    assert button.layout.display == "none"
    box.value = "30"
    assert "2.0 points too low" in line.value


def view_of(bundle):
    from ipywidgets.widgets import widget

    instances = getattr(widget, "_instances", None) or widget.Widget.widgets
    return instances[bundle[WIDGET]["model_id"]]


def test_the_answer_comes_on_request(shown, capsys):
    prediction, _, _ = asked(shown, 0, 100, "%")
    prediction.reveal(98.6)
    line, button = view_of(shown[-1]).children
    button.click()
    assert line.value == "<pre>The answer is 98.6 %.</pre>"
    capsys.readouterr()
    prediction.reveal(98.6, anyway=True)
    assert capsys.readouterr().out == "The answer is 98.6 %.\n"


@pytest.mark.parametrize(
    ("unit", "step", "guess", "truth", "words"),
    [
        ("%", 1.0, 30, 50.04, "The answer is 50.0 %. You guessed 30 %: 20.0 points too low."),
        ("%", 1.0, 60, 50, "The answer is 50 %. You guessed 60 %: 10 points too high."),
        ("%", 1.0, 50, 50.04, "The answer is 50.0 %. You guessed 50 %: that is right."),
        ("ms", 0.1, 0.6, 0.5168, "The answer is 0.52 ms. You guessed 0.60 ms: 0.08 ms too high."),
        ("", 0.05, 0.5, 0.6549, "The answer is 0.655. You guessed 0.500: 0.155 too low."),
        ("", 1.0, 1200, 12345, "The answer is 12,345. You guessed 1,200: 11,145 too low."),
    ],
)
def test_answers_are_rounded_to_a_tenth_of_a_step(unit, step, guess, truth, words, capsys):
    prediction = widgets.predict("How many?", 0, 20000, unit, guess=guess, step=step)
    prediction.reveal(truth)
    assert words in capsys.readouterr().out


def test_guess_and_answer_are_marked_on_a_line(capsys):
    widgets.predict("How many?", 0, 40, guess=0).reveal(30)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("0 ○") and line.split()[1].index("◆") == 30
    widgets.predict("How many?", 0, 40, guess=40).reveal(90)  # beyond the line's end
    assert capsys.readouterr().out.splitlines()[-1].split()[1].endswith("◆")


def test_guesses_are_kept_with_their_answers(capsys):
    widgets.predict("How many?", 0, 10, guess=3).reveal(4)
    widgets.predict("What share?", 0, 100, "%", guess=0).reveal(25.0)
    widgets.predict("How many?", 0, 10, guess=4)  # a second thought
    kept = {guess["question"]: guess for guess in json.loads(FILE.read_text())}
    assert list(kept) == ["How many?", "What share?"]
    assert kept["What share?"]["guess"] == 0 and kept["What share?"]["truth"] == 25.0
    assert kept["How many?"]["guess"] == 4
    capsys.readouterr()
    widgets.show_guesses()
    said = capsys.readouterr().out
    assert "You guessed 0 %: 25.0 points too low." in said
    assert "1 guess with its answer" in said


def test_no_guess_leaves_no_file(shown):
    prediction, _, _ = asked(shown, 0, 10)
    prediction.reveal(3)
    assert not FILE.exists()


def test_under_tests_nothing_is_kept(monkeypatch):
    monkeypatch.setenv("PYTEST_VERSION", "8")
    widgets.predict("How many?", 0, 10, guess=3).reveal(4)
    assert not FILE.exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"question": "?"}]', "\xff"])
def test_a_file_of_something_else_is_no_obstacle(content, capsys):
    FILE.write_bytes(content.encode("latin-1"))
    assert guesses.kept_guesses() == []
    widgets.show_guesses()
    assert "No guess is kept here yet" in capsys.readouterr().out
    widgets.predict("How many?", 0, 10, guess=3)
    assert len(guesses.kept_guesses()) == 1


OLD = Path("guesses.json.old")


@pytest.mark.parametrize("content", ["{", "{}", "\xff"])
def test_a_file_that_cannot_be_read_is_set_aside(content):
    FILE.write_bytes(content.encode("latin-1"))
    widgets.predict("How many?", 0, 10, guess=3)
    assert OLD.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize(
    "change",
    [
        {"note": "mine"},
        {"question": ["?"]},
        {"unit": 1},
        {"low": "0"},
        {"high": 0},
        {"step": 0},
        {"guess": None},
        {"guess": float("nan")},
        {"truth": "4"},
        {"truth": 10**400},
    ],
)
def test_one_entry_that_is_no_guess_costs_none_of_the_others(change, capsys):
    widgets.predict("How many?", 0, 10, guess=3).reveal(4)
    (entry,) = json.loads(FILE.read_text())
    FILE.write_text(json.dumps([{"question": "?"} | change, entry | change, entry, 1]))
    assert guesses.kept_guesses() == [entry]
    widgets.show_guesses()
    widgets.predict("What share?", 0, 100, guess=7).reveal(9)
    assert [kept["question"] for kept in guesses.kept_guesses()] == ["How many?", "What share?"]
    assert not OLD.exists()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8, Fraction])
def test_numbers_of_numpy_are_numbers(kind, shown, capsys):
    widgets.predict("How many?", kind(0), kind(10), guess=kind(3), step=kind(1)).reveal(kind(4))
    assert "You guessed 3" in capsys.readouterr().out
    (kept,) = guesses.kept_guesses()
    assert (kept["guess"], kept["truth"], kept["low"], kept["high"]) == (3, 4, 0, 10)
    prediction, box, _ = asked(shown, 0, 1)
    prediction.reveal(kind(1))  # before the guess
    box.value = "0,5"
    assert guesses.kept_guesses()[0]["truth"] == 1


@pytest.mark.parametrize(
    ("typed", "high", "guess"),
    [
        ("1,200", 2000, 1200),
        ("1,200", 10, 1.2),
        ("1,234,567.5", 1e7, 1234567.5),
        ("12,5", 2000, 12.5),
        ("0,500", 2000, 0.5),
        ("1,200", 1, None),
    ],
)
def test_a_comma_is_of_thousands_where_that_fits_the_range(shown, typed, high, guess):
    prediction, box, _ = asked(shown, 0, high)
    box.value = typed
    assert prediction.guess == guess


def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(guesses, "write_atomically", refuse)
    widgets.predict("How many?", 0, 10, guess=3).reveal(4)
    assert os.listdir() == []


def test_guess_as_a_plain_argument(capsys):
    prediction = widgets.predict("How many?", 0, 100, "%", guess=80)
    assert prediction.guess == 80
    assert capsys.readouterr().out == "How many? Your guess: 80 %\n"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0), ValueError, "high must be above low, got 0 and 0"),
        ((5, 1), ValueError, "high must be a finite number from 5, got 1"),
        ((float("-inf"), 1), ValueError, "low must be a finite number, got -inf"),
        ((0, float("inf")), ValueError, "high must be a finite number from 0, got inf"),
        (
            (0, 1, "", None, float("inf")),
            ValueError,
            "step must be a finite number from .* got inf",
        ),
        (("0", 1), TypeError, "low must be a number, got '0'"),
        ((0, 10, "", 11), ValueError, "guess must be a finite number from 0 to 10, got 11"),
        ((0, 10, "", True), TypeError, "guess must be a number, got True"),
        (
            (0, 10, "", float("nan")),
            ValueError,
            "guess must be a finite number from 0 to 10, got nan",
        ),
        ((0, 10, "", 1, 0), ValueError, "step must be a finite number from .* got 0"),
    ],
)
def test_bad_predictions_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        widgets.predict("How many?", *arguments)


@pytest.mark.parametrize(
    ("truth", "error"),
    [
        (None, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (float("-inf"), ValueError),
    ],
)
def test_bad_truth_is_refused(truth, error):
    with pytest.raises(error, match=r"truth must be a (finite )?number"):
        widgets.predict("How many?", 0, 1, guess=1).reveal(truth)
