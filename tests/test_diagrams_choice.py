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


def test_every_digit_has_a_row_and_the_first_to_fall_is_named():
    kept = {
        "own": [[90, 90], [99, 99], [99, 99]],
        "fixed": [[10, 20], [40, 80], [99, 99]],
        "chosen": [[40, 60], [90, 90], [99, 99]],
    }
    figure, sentence = diagrams.every_digit([0.25, 0.5, 0.75], kept)
    assert sentence == (
        "The first digit to fall below half, from the right. own: no digit; fixed: the 0s, at "
        "d = 0.5; chosen: the 0s, at d = 0.25."
    )
    panels = figure.axes[:3]
    shown = [axes.images[0].get_array().tolist() for axes in panels]
    assert shown[1] == [[10, 40, 99], [20, 80, 99]]
    assert [axes.get_title() for axes in panels] == list(kept)


def test_lost_without_choice_draws_medians_with_error_bars_on_one_axis():
    def run(*gaps):
        rows = zip((0.4, 0.8), gaps, strict=True)
        return [{"density": d, "own_gates": 0.9, "mean_winners": 0.9 - gap} for d, gap in rows]

    panels = {"few": [run(0.01, 0.0), run(0.02, 0.0), run(0.5, 0.0)], "many": [run(0.2, 0.1)]}
    pairs = {"many": [{"density": 0.4, "own_only": 250, "same_only": 50}]}
    figure, sentence = diagrams.lost_without_choice(panels, 1000, pairs)
    error = 100 * (300 - 200**2 / 1000) ** 0.5 / 1000  # of the pairs
    assert sentence == (
        "Points lost when all images get the same channels. few: 2.0 ± at most 1.4 at d = 0.4, "
        f"0.0 ± at most 1.3 at d = 0.8; many: 20.0 ± {error:.1f} at d = 0.4, 10.0 ± 1.6 at d = 0.8."
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
