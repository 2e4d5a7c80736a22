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


def test_a_cut_by_hand_names_the_digits_that_are_lost_and_the_channels_that_are_kept():
    kept, labels = torch.tensor([True, False, True, False]), torch.tensor([0, 0, 1, 1, 2, 2])
    hits = torch.tensor([True, True, True, False, False, False])
    excited = torch.rand(3, 4)
    figure, sentence = diagrams.cut_by_hand(kept, hits, labels, excited)
    assert sentence == (
        "With 2 of 4 channels 50.0 % of the digits are correct. Fewer than half are left of the 2s."
    )
    top, bottom = figure.axes[:2]
    assert [bar.get_height() for bar in top.patches] == [100, 50, 0]
    assert [bool(bar.get_hatch()) for bar in top.patches] == [False, False, True]
    bold = [label.get_text() for label in bottom.get_xticklabels() if label.get_weight() == "bold"]
    assert bold == ["0", "2"] and bottom.lines[0].get_xdata().tolist() == [0, 2]
    assert bottom.images[0].get_array().tolist() == excited.tolist()
    _, sentence = diagrams.cut_by_hand(~kept & False, hits | True, labels, excited)
    assert sentence.startswith("With 0 of 4") and sentence.endswith("No digit is lost.")


def test_every_digit_has_a_row_and_a_quarter_is_said():
    kept = {"own": [[90, 90], [99, 99], [99, 99]], "fixed": [[10, 20], [40, 80], [99, 99]]}
    figure, sentence = diagrams.every_digit([0.25, 0.5, 0.75], kept)
    assert sentence == (
        "Dark: lost. Percent correct of each digit, from 0 on, at d = 0.25: own 90, 90; "
        "fixed 10, 20."
    )
    panels = figure.axes[:2]
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
    words = [text.get_text().split("\n")[1] for text in axes.texts]
    assert words == ["bars: at most 1 standard error", "bars: 1 standard error"]


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
