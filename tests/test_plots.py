"""Figures come with a true sentence, labelled axes, and curves that differ beyond colour."""

import matplotlib.pyplot as plt
import pytest
import torch

from fbs_tutorial import plots
from fbs_tutorial.checkpoints import load_metrics


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def runs():
    return [metrics["rows"] for metrics in load_metrics("digits")]


def test_accuracy_and_macs_says_the_medians_of_the_runs():
    figure, sentence = plots.accuracy_and_macs(runs())
    rows = [next(row for row in run if row["density"] == 0.5) for run in runs()]
    for key in ("own_gates", "mean_gates", "shuffled_gates"):
        assert f"{100 * sorted(row[key] for row in rows)[1]:.1f} %" in sentence
    assert all("%" in axes.get_ylabel() for axes in figure.axes)
    assert "density" in figure.axes[-1].get_xlabel()


def test_accuracy_and_macs_takes_one_run_and_one_density():
    one = [row for row in runs()[0] if row["density"] in (None, 0.3)]
    small = [row for row in load_metrics("digits", "static")[0]["rows"] if row["density"] == 0.3]
    _, sentence = plots.accuracy_and_macs([one], [small])
    assert sentence.startswith("At density 0.3 the network needs 10 % of its MACs")


def test_curves_differ_in_colour_marker_and_line():
    for column in zip(*plots.CURVES, strict=True):
        assert len(set(column)) == len(plots.CURVES)


def test_winner_bars_name_the_winners_empty_ones_too():
    g = torch.tensor([0.5, 0.0, 2.0, 1.0])
    figure, sentence = plots.winner_bars(g, torch.tensor([False, True, True, True]))
    assert sentence == "3 of 4 channels win, 1 of them with g = 0: 1, 2, 3."
    assert len(figure.axes[0].patches) == 4


def test_winners_of_two_counts_the_differences():
    first = torch.tensor([[True, False, True, False], [True, True, False, False]])
    winners = {"first": first, "last": torch.ones(2, 3, dtype=torch.bool)}
    _, sentence = plots.winners_of_two(torch.rand(2, 1, 8, 8), winners, ["a", "b"])
    assert sentence.endswith("images only: 2 of 4 in first; 0 of 3 in last.")


@pytest.mark.parametrize(
    ("guess", "verdict"),
    [
        (30.0, "your guess of 30 was 20 points too low."),
        (60.0, "your guess of 60 was 10 points too high."),
        (50.0, "your guess of 50 was exactly right."),
        (None, "You did not guess; a guess first makes the answer stick."),
    ],
)
def test_number_line_compares_guess_and_truth(guess, verdict):
    _, sentence = plots.number_line("How many?", 0, 100, "%", 50.0, guess)
    assert sentence.startswith("The answer is 50 %") and sentence.endswith(verdict)
