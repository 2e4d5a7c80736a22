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
    by_class = [[100, 40, 0], [98, 99, 97]]
    figure, sentence = diagrams.what_a_cut_keeps([0.5, 1.0], [60, 99], [98, 99], 0.5, by_class)
    static, dynamic = (line.get_ydata().tolist() for line in figure.axes[0].lines[1::-1])
    assert (static, dynamic) == ([60, 99], [98, 99])
    assert list(figure.axes[0].lines[-1].get_ydata()) == [60.0, 98.0]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [*by_class[0], *by_class[1]]
    assert sentence == (
        "d = 0.50: own channels 98.0 %, the same channels for all images 60.0 %, where fewer than "
        "half of the 1s and 2s are right."
    )
    _, sentence = diagrams.what_a_cut_keeps([0.5, 1.0], [60, 99], [98, 99], 1.0, [[99] * 3] * 2)
    assert sentence.endswith("99.0 %, where no digit loses half.")


def test_where_choice_pays_draws_medians_on_axes_of_one_span():
    def run(*gaps):
        rows = zip((0.4, 0.8), gaps, strict=True)
        return [{"density": d, "own_gates": 0.9, "mean_winners": 0.9 - gap} for d, gap in rows]

    panels = {"few": [run(0.01, 0.0), run(0.02, 0.0), run(0.5, 0.0)], "many": [run(0.2, 0.1)]}
    figure, sentence = diagrams.where_choice_pays(panels)
    assert sentence == (
        "What the choice per image is worth: few: 2.0 points at d = 0.4; "
        "many: 20.0 points at d = 0.4."
    )
    spans = [axes.get_ylim()[1] - axes.get_ylim()[0] for axes in figure.axes]
    assert spans[0] == pytest.approx(spans[1]) and spans[0] > 20
    for axes in figure.axes:
        lowest = min(line.get_ydata().min() for line in axes.lines)
        assert axes.get_ylim()[0] < lowest


def test_the_map_of_related_work_is_legible_and_fbs_stands_out():
    figure, sentence = diagrams.related_work()
    assert draw.collisions(figure) == []
    colours = [to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colours.count(BLUE.lower()) == 1 and "FBS" in sentence
