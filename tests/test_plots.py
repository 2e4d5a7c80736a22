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


def test_layer_bars_says_every_value():
    panels = {"MACs": {"dense": [4000, 20.0], "active": [1000, 5.0]}, "more": {"dense": [1, 2]}}
    figure, sentence = plots.layer_bars(["conv1", "conv2"], panels, level=[1, 2], ylabel="thousand")
    assert sentence == (
        "MACs, thousand for conv1, conv2:\n  dense: 4,000, 20\n  active: 1,000, 5\n"
        "more, thousand for conv1, conv2:\n  dense: 1, 2"
    )
    assert [len(axes.patches) for axes in figure.axes] == [4, 2]
    bars = figure.axes[0].containers
    assert len({(c[0].get_facecolor(), c[0].get_hatch()) for c in bars}) == len(bars)
    assert figure.axes[0].get_ylabel() == "thousand"


def test_winners_of_two_counts_the_differences():
    first = torch.tensor([[True, False, True, False], [True, True, False, False]])
    winners = {"first": first, "last": torch.ones(2, 3, dtype=torch.bool)}
    _, sentence = plots.winners_of_two(torch.rand(2, 1, 8, 8), winners, ["a", "b"])
    assert sentence.endswith("images only: 2 of 4 in first; 0 of 3 in last.")


def test_accuracy_lines_say_the_median_at_half_density():
    lines = {"one": [[0.9, 0.5]], "three": [[0.8, 0.1], [0.8, 0.3], [0.9, 0.2]]}
    figure, sentence = plots.accuracy_lines([1.0, 0.5], lines)
    assert sentence == "Right at density 0.5: one 50.0 %; three 20.0 %."
    first, second = figure.axes[0].lines
    assert first.get_marker() != second.get_marker()


def test_winner_maps_count_the_sets():
    won = torch.tensor([[True, False, False], [False, True, False], [True, False, False]])
    _, sentence = plots.winner_maps({"a": won, "b": won[:1]}, "title")
    assert sentence == (
        "a: 1 of 3 channels win, 2 different sets among 3 images; "
        "b: 1 of 3 channels win, 1 different set among 1 images."
    )


def test_class_heat_map_sorts_channels_and_counts_extremes():
    chances = torch.tensor([[1.0, 0.0, 0.9, 0.2], [1.0, 0.0, 0.1, 0.3]])
    figure, sentence = plots.class_heat_map(chances)
    assert sentence == (
        "Of 4 channels 1 never win and 1 always win; for 1 the share differs by more than 0.5 "
        "between two classes."
    )
    drawn = figure.axes[0].collections[0].get_array().reshape(2, 4)
    assert drawn.mean(0).argsort().tolist() == [0, 1, 2, 3]


def test_depth_lines_stop_where_values_overflow():
    panels = {"p": {"tame": [1.0, 2.0, 3.0], "wild": [1.0, float("inf"), float("nan")]}}
    figure, sentence = plots.depth_lines(panels, "size")
    assert sentence == "p, tame: 3 at the end.\np, wild: not finite from block 2 on."
    assert figure.axes[0].get_yscale() == "log"


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
