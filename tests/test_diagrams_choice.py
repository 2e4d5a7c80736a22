"""The diagrams of notebook 01 show what they are given, and their words are legible."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex

from fbs_tutorial.lesson import diagrams
from fbs_tutorial.lesson.diagrams import draw
from fbs_tutorial.lesson.plots.style import BLUE


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_busiest_channels_are_dark_and_their_overlap_is_counted():
    activity = torch.tensor([[4.0, 3, 0, 1], [4, 0, 3, 1]])
    images = torch.rand(2, 1, 4, 4)
    figure, sentence = diagrams.busiest_channels(images, activity, ["a 3", "an 8"], 0.5)
    dark = [to_hex(patch.get_facecolor()) == BLUE.lower() for patch in figure.axes[0].patches]
    assert sum(dark) == 4
    assert sentence == "Channels in common, of the 2 busiest: a 3 and an 8 1."
    assert draw.collisions(figure) == []


def test_what_a_cut_keeps_marks_where_the_slider_stands():
    by_class = [[98, 99, 97], [100, 40, 0], [96, 95, 94]]
    curves = {"own": [98, 99], "busiest": [60, 99], "chosen": [95, 99]}
    figure, sentence = diagrams.what_a_cut_keeps([0.5, 1.0], curves, 0.5, by_class)
    lines = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in lines[:3]] == list(curves.values())
    assert list(lines[-1].get_xdata()) == [0.5, 0.5]
    marks = [line for line in figure.axes[1].lines if line.get_marker() != "None"]
    assert [line.get_ydata().tolist() for line in marks] == by_class
    assert [line.get_marker() for line in marks] == [line.get_marker() for line in lines[:3]]
    assert sentence == (
        "Correct at d = 0.50: own 98.0 %; busiest 60.0 %, fewer than half of the 1s and 2s; "
        "chosen 95.0 %."
    )
    _, sentence = diagrams.what_a_cut_keeps([0.5, 1.0], curves, 1.0, [[99] * 3] * 3)
    assert sentence.endswith("busiest 99.0 %; chosen 99.0 %.")


def test_lost_without_choice_draws_medians_with_error_bars_on_one_axis():
    def run(*gaps):
        rows = zip((0.4, 0.8), gaps, strict=True)
        return [{"density": d, "own_gates": 0.9, "mean_winners": 0.9 - gap} for d, gap in rows]

    panels = {"few": [run(0.01, 0.0), run(0.02, 0.0), run(0.5, 0.0)], "many": [run(0.2, 0.1)]}
    figure, sentence = diagrams.lost_without_choice(panels, 1000)
    assert sentence == (
        "Lost when all images get the same channels: few: 2.0 points at d = 0.4, error below 1.4; "
        "many: 20.0 points at d = 0.4, error below 1.7."
    )
    (axes,) = figure.axes
    few, many = (box[0].get_ydata() for box in axes.containers)
    assert few == pytest.approx([2, 0]) and many == pytest.approx([20, 10])
    assert all(box.has_yerr for box in axes.containers)


def test_the_map_of_related_work_is_legible_and_fbs_stands_out():
    figure, sentence = diagrams.related_work()
    assert draw.collisions(figure) == []
    colours = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colours.count(BLUE.lower()) == 1 and "FBS" in sentence


def test_losers_are_struck_out_where_their_maps_are_empty():
    inside, outside = torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)
    outside[1:3] = torch.tensor([0.5, 2.0])[:, None, None]
    figure, sentence = diagrams.losers(inside, outside)
    assert sentence == (
        "beta inside: 0 of 4 losers are not empty; beta outside: 2 of 4 losers are not empty."
    )
    assert len(figure.axes[0].lines) == 6 and len(figure.axes[0].images) == 2
    assert draw.collisions(figure) == []
