"""Diagrams show the numbers that they are given, and their words are legible."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fbs_tutorial.lesson.diagrams import draw
from fbs_tutorial.lesson.plots.style import BLUE, PALE


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def axes():
    return draw.canvas(50)[1]


def test_a_canvas_is_900_pixels_wide_and_its_y_runs_down():
    figure, axes = draw.canvas(40)
    np.testing.assert_allclose(figure.get_size_inches() * figure.dpi, (900, 360))
    assert axes.get_xlim() == (0, 100) and axes.get_ylim() == (40, 0)


def test_bars_are_as_long_as_their_values_and_those_of_losers_are_pale(axes):
    unit = draw.bars(axes, 10, 10, torch.tensor([0.5, 2.0]), 3, 20, won=[False, True])
    assert unit == 10
    assert [bar.get_width() for bar in axes.patches] == [5, 20]
    assert [plt.matplotlib.colors.to_hex(bar.get_facecolor()) for bar in axes.patches] == [
        PALE.lower(),
        BLUE.lower(),
    ]


@pytest.mark.parametrize(("towards", "sign"), [("right", 1), ("left", -1)])
def test_bars_run_to_their_side(axes, towards, sign):
    draw.bars(axes, 50, 10, [1.0], 3, 20, towards=towards)
    assert axes.patches[0].get_width() == 20 * sign


def test_bars_upwards_stand_on_the_line_and_bars_of_nothing_are_no_error(axes):
    draw.bars(axes, 10, 30, [1.0, 0.0], 3, 20, towards="up")
    assert [bar.get_height() for bar in axes.patches] == [-20, 0]
    draw.bars(axes, 10, 30, [0.0, 0.0], 3, 20)


def test_kernels_are_drawn_where_a_row_wins_and_a_column_is_live(axes):
    weights = torch.randn(3, 2, 3, 3)
    draw.kernels(axes, 0, 0, [True, False, True], [True, False], 4, weights=weights)
    assert len(axes.patches) == 6 and len(axes.images) == 2 and len(axes.lines) == 1
    np.testing.assert_allclose(axes.images[1].get_array(), weights[2, 0])


def test_maps_share_one_scale_and_those_that_are_skipped_are_crossed_out(axes):
    values = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.full((2, 2), 4.0)])
    draw.maps(axes, 0, 0, values, 4, (4, 0), live=[True, False, True])
    assert len(axes.images) == 2 and len(axes.lines) == 1
    assert {picture.get_clim() for picture in axes.images} == {(0, 4)}


def test_matrix_writes_every_value_and_dark_cells_in_white(axes):
    draw.matrix(axes, 0, 0, [[0.5, 3], ["a", 1.0]], fills=[["white", BLUE], ["white", "white"]])
    assert [text.get_text() for text in axes.texts] == ["0.50", "3", "a", "1.00"]
    assert axes.texts[1].get_color() == "white"


def test_collisions_finds_words_outside_the_page_over_others_and_wider_than_their_box():
    figure, axes = draw.canvas(20)
    draw.label(axes, 20, 10, "here")
    draw.box(axes, 40, 5, 20, 6, "in the box")
    assert draw.collisions(figure) == []
    draw.label(axes, 21, 10.5, "there")
    draw.label(axes, 99, 18, "far outside")
    draw.box(axes, 70, 5, 3, 6, "not in the box")
    found = " ".join(draw.collisions(figure))
    for words in ("'there'", "'far outside' is wider", "'not in the box' is wider"):
        assert words in found


def test_arrows_brackets_and_cuts_bring_their_words(axes):
    draw.arrow(axes, (0, 10), (10, 10), "goes")
    draw.path(axes, [(0, 20), (10, 20), (10, 30)])
    draw.bracket(axes, (20, 10), (40, 10), "below")
    draw.bracket(axes, (20, 10), (20, 20), "left", depth=-1)
    draw.cut(axes, (50, 5), (50, 15), "cut")
    draw.badge(axes, 60, 10, 3)
    assert [text.get_text() for text in axes.texts] == ["goes", "below", "left", "cut", "3"]
    assert draw.collisions(axes.figure) == []
