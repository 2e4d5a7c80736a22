"""Diagrams show the numbers that they are given, and their words are legible."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fbs_tutorial import GatedConv2d
from fbs_tutorial.lesson import diagrams
from fbs_tutorial.lesson.diagrams import draw
from fbs_tutorial.lesson.plots.style import BLUE, PALE, YELLOW


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


def mask(text):
    """ "101" -> tensor [True, False, True]"""
    return torch.tensor([letter == "1" for letter in text])


def legible(picture):
    """The figure of a diagram, once nothing stands over anything and the sentence is one."""
    figure, sentence = picture
    assert draw.collisions(figure) == []
    assert sentence[0].isupper() or sentence[0].isdigit()
    assert sentence.endswith(".")
    return figure, sentence


def words(figure):
    return " | ".join(text.get_text().replace("\n", " ") for text in figure.axes[0].texts)


def a_layer(inputs, outputs, density=0.5):
    torch.manual_seed(0)
    layer = GatedConv2d(inputs, outputs, 3, padding=1, density=density)
    x = torch.rand(1, inputs, 8, 8)
    x[:, : inputs // 2] = 0  # as after a layer of density 0.5
    return layer, x


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 16), (4, 8), (16, 32), (32, 32), (8, 4)])
def test_the_layer_shows_the_numbers_of_its_image(inputs, outputs):
    layer, x = a_layer(inputs, outputs)
    figure, sentence = legible(diagrams.the_layer(layer, x, torch.rand(1, 16, 16), "conv2"))
    live, k = inputs - inputs // 2, outputs // 2
    share = f"{100 * live * k / (inputs * outputs):.0f} %"
    assert f"{k} of {outputs} output channels of conv2 win" in sentence and share in sentence
    assert f"{live} of its {inputs} inputs are not empty" in sentence
    assert f"the {k} largest of {outputs} win" in words(figure)
    assert f"{live * k} of {inputs * outputs} are computed" in words(figure)
    assert f"One image in conv2: {share}" in words(figure)


def test_the_layer_follows_the_density_and_leaves_the_layer_alone():
    layer, x = a_layer(4, 8, density=1.0)
    before = layer.norm.running_mean.clone()
    _, sentence = diagrams.the_layer(layer, x)
    assert "8 of 8 output channels of the layer win" in sentence and "50 %" in sentence
    assert layer.training and layer.gate is None
    assert torch.equal(layer.norm.running_mean, before)


def test_the_layer_draws_the_maps_that_the_layer_makes():
    layer, x = a_layer(4, 8)
    figure, _ = diagrams.the_layer(layer, x)
    with torch.no_grad():
        y = layer.eval()(x)[0]
    drawn = [picture.get_array() for picture in figure.axes[0].images]
    for one in (x[0, 2], x[0, 3], *y[layer.gate[0] != 0]):
        assert any(shown.shape == one.shape and np.allclose(shown, one) for shown in drawn)
    assert sum(shown.shape == (3, 3) for shown in drawn) == 4 * 2  # kernels of live inputs


def test_a_large_layer_is_cut_to_what_can_be_told_apart():
    layer, x = a_layer(4, 64)
    _, sentence = legible(diagrams.the_layer(layer, x))
    assert "32 of 64 output channels" in sentence and "At most 32 channels are drawn." in sentence


def test_the_layer_takes_one_image():
    layer, x = a_layer(4, 8)
    with pytest.raises(ValueError, match=r"x must hold one image, .* got 2"):
        diagrams.the_layer(layer, x.expand(2, -1, -1, -1))


@pytest.mark.parametrize("live", ["101100", "111111", "000000", "1"])
@pytest.mark.parametrize("won", ["01101001", "11111111", "10"])
def test_kernel_grid_multiplies_rows_and_columns(live, won):
    figure, sentence = legible(diagrams.kernel_grid(mask(live), mask(won)))
    k, alive = won.count("1"), live.count("1")
    assert f"{k} × {alive} = {k * alive} of {len(won) * len(live)} kernels" in sentence
    share = f"= {100 * k * alive / (len(won) * len(live)):.0f} %"
    assert share in sentence and share in words(figure)


def test_kernel_grid_of_a_wide_layer_stays_on_the_page():
    legible(diagrams.kernel_grid(torch.ones(64).bool(), torch.ones(32).bool()))


def test_gradient_passes_to_the_winners_only():
    g = torch.tensor([0.9, 0.1, 1.4, 0.0, 0.6, 0.3])
    figure, sentence = legible(diagrams.gradient_through_winners(g, 0.5))
    assert "channels 0, 2, 4 win" in sentence and "these 3 unchanged; the other 3" in sentence
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert [shown.count(value) for value in ("0.90", "0.10", "0")] == [2, 1, 3]  # g, and pi
    assert "reaches 3 of 6" in shown[0]
    _, sentence = legible(diagrams.gradient_through_winners(g, 1.0))
    assert "the other 0 get" in sentence


def test_gradient_picture_refuses_more_channels_than_it_can_show():
    with pytest.raises(ValueError, match=r"g must be \[C\] of at most 12 channels, got \[13\]"):
        diagrams.gradient_through_winners(torch.ones(13), 0.5)


def test_live_sum_is_an_or():
    figure, sentence = legible(diagrams.live_sum([mask("1100"), mask("0110")]))
    assert "Of 4 channels 2 and 2 are live before the sum and 3 after it" in sentence
    assert words(figure).endswith("3 live")
    picture = diagrams.live_sum(
        [mask("100"), mask("010"), mask("100")], ["x", "block 1", "block 2"]
    )
    figure, sentence = legible(picture)
    assert "1 and 1 and 1 are live before the sum and 2 after" in sentence
    assert "block 2" in words(figure)


def test_density_staircase_has_a_stair_per_step():
    steps = [(1.0, 16), (0.5, 16), (0.1, 32)]
    figure, sentence = legible(diagrams.density_staircase(steps, [0.99, 0.98, 0.886]))
    assert "from 1 to 0.1 in 3 steps of 16 to 32 epochs" in sentence
    assert "99.0 % of the images at the first stair and 88.6 % at the last" in sentence
    widths = [patch.get_width() for patch in figure.axes[0].patches if hasattr(patch, "get_width")]
    np.testing.assert_allclose(widths, [21.25, 21.25, 42.5])
    _, sentence = legible(diagrams.density_staircase([(d / 10, 8) for d in range(10, 0, -1)]))
    assert "steps of 8 epochs" in sentence and "reads" not in sentence


def test_a_residual_block_shows_what_the_sum_fills():
    picture = diagrams.residual_block(mask("1100"), mask("1010"), mask("0110"))
    figure, sentence = legible(picture)
    assert (
        "2 of 4 channels enter the block, 2 win in conv1 and 2 in conv2; after the sum 3"
        in sentence
    )
    assert "2 win, 3 are live after" in words(figure)
    assert words(figure).endswith("3 of 4")


def test_an_inverted_residual_marks_winners_that_have_nothing_to_read():
    parts = mask("10"), mask("11000000"), mask("01100000"), mask("01")
    figure, sentence = legible(diagrams.inverted_residual(*parts))
    assert "2 of 8 channels win in the expansion and 2 in the depthwise layer" in sentence
    assert "of which 1 read a channel that is not empty; after the sum 2 of 2" in sentence
    fills = [
        plt.matplotlib.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches
    ]
    assert fills.count(YELLOW.lower()) == 2  # the channel, and the legend


def test_maps_and_numbers_shows_every_map_above_its_number():
    s = torch.tensor([0.5, 0.25, 0.75])
    picture = diagrams.maps_and_numbers(torch.rand(16, 16), torch.rand(3, 16, 16), s)
    figure, sentence = legible(picture)
    assert "3 maps become 3 numbers" in words(figure) and len(figure.axes[0].images) == 4
    assert all(f"{value:.2f}" in words(figure) for value in s.tolist())
    assert "Channel 2 is excited most (0.75), channel 1 least (0.25)" in sentence


@pytest.mark.parametrize(("maps", "numbers"), [(17, 17), (3, 2)])
def test_maps_and_numbers_refuses_what_has_no_room(maps, numbers):
    with pytest.raises(ValueError, match=f"at most 16 maps .* got {maps} and {numbers}"):
        diagrams.maps_and_numbers(torch.rand(4, 4), torch.rand(maps, 4, 4), torch.rand(numbers))


def test_predictor_computes_g_and_says_who_is_strongest():
    s, bias = torch.tensor([1.0, 2.0]), torch.tensor([0.0, -5.0, 1.0])
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.5, 2.0]])
    figure, sentence = legible(diagrams.predictor(s, weight, bias))
    assert "Output 2 has the largest g, 5.50" in sentence and "inputs 1 and 0" in sentence
    assert "1 of 3 sums are below 0" in sentence
    assert "The biases lie between -5.00 and 1.00" in sentence
    in_order = weight[[2, 0, 1]] * s  # what is added, the largest sum first
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), in_order)


def test_reductions_mark_the_strongest_map_of_each_way():
    maps = torch.tensor([[[8.0, 0.0]], [[1.0, -1.0]]])
    values = {"max": torch.tensor([8.0, 1.0]), "avg": torch.tensor([4.0, 0.0])}
    figure, sentence = legible(diagrams.reductions(maps, ["spot", "board"], values))
    assert sentence.startswith("Of spot and board: max 8.00, 1.00; avg 4.00, 0.00.")
    fills = [plt.matplotlib.colors.to_hex(p.get_facecolor()) for p in figure.axes[0].patches]
    assert fills.count(BLUE.lower()) == 2 and len(figure.axes[0].images) == 2


def test_winner_plane_gives_each_output_its_share():
    def winner(s):
        return torch.where(s[:, 0] > 0.75, 1, 0)

    figure, sentence = diagrams.winner_plane(winner, ["left", "right"])
    assert "left 50 %, right 50 %" in sentence
    assert [text.get_text() for text in figure.axes[0].texts] == ["left", "right"]


def test_selections_counts_the_winners_of_each_way():
    g = torch.tensor([0.9, 0.4, 0.0, 0.4])
    ways = {"threshold": mask("1101"), "stable sort": mask("1100")}
    figure, sentence = legible(diagrams.selections(g, ways, k=2))
    assert "3 win" in words(figure) and "2 win" in words(figure)
    assert "threshold: channels 0, 1, 3; stable sort: channels 0, 1." in sentence
    with pytest.raises(ValueError, match=r"g must be \[C\] of at most 16 channels, got \[17\]"):
        diagrams.selections(torch.ones(17), {}, k=2)


def test_crossing_says_when_a_loser_wins_and_draws_the_cut_between():
    history = torch.tensor([[1.0, 0.5, 0.0], [0.8, 0.6, 0.0], [0.6, 0.7, 0.0]])
    figure, sentence = diagrams.crossing(history, 1 / 3, 1, "It wins")
    assert sentence.startswith("Channel 1 wins for the first time at step 2. By the end 1 of 1")
    cut = next(line for line in figure.axes[0].lines if line.get_label() == "the cut")
    np.testing.assert_allclose(cut.get_ydata(), [0.75, 0.7, 0.65])
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "-."]
    assert len(dashed) == 1  # channel 0
    assert {"channel 0", "channel 1", "channel 2", "the cut", "loses", "wins"} <= {
        text.get_text() for text in figure.axes[0].texts
    }
    assert "never wins" in diagrams.crossing(history, 1 / 3, 2)[1]
    figure, _ = diagrams.crossing(history, 1 / 3, 1, loss=[3.0, 2.0, 1.0])
    assert figure.axes[1].lines[0].get_ydata().tolist() == [3, 2, 1]
    wide = torch.cat([history, torch.full((3, 5), 0.1)], dim=1)
    figure, _ = diagrams.crossing(wide, 1 / 8, 1)
    assert len(figure.axes[0].collections) == 1 and not figure.legends  # the others are an area


def test_lifted_names_a_line_for_each_set_of_images():
    lines = {"all images": torch.tensor([0.5, 1.0, 2.0]), "no image": torch.full((3,), 0.5)}
    figure, sentence = diagrams.lifted(lines, torch.ones(3), 7, 1)
    assert sentence == (
        "g of channel 7 before training, at step 1 and at the last step, moved by: all images "
        "0.50, 1.00, 2.00; no image 0.50, 0.50, 0.50."
    )
    assert {text.get_text() for text in figure.axes[0].texts} == {*lines, "the cut"}


def test_new_winners_has_a_dot_for_each_image_and_says_the_medians():
    pulled = torch.tensor([[0, 0], [1, 4]])
    labels = torch.arange(10).repeat_interleave(3)
    other = torch.where(labels == 4, 1, 5)
    figure, sentence = diagrams.new_winners(pulled, other, labels, 4, 16)
    assert sentence == (
        "New winners, of 16. One input pulled: none ever for 1 of 2 inputs, at most 2.5 on average."
        " Another image: half of the images of a 4 bring 1 or fewer, of other digits 5 to 5."
    )
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [0, 2.5]
    dots = [line for line in right.lines if line.get_marker() == "."]
    assert len(dots) == 10 and all(len(line.get_xdata()) == 3 for line in dots)


def test_sleepers_are_needed_channels_that_do_not_win():
    needed = torch.eye(2).repeat_interleave(2, dim=1).bool()
    found = needed.clone()
    found[1, 3] = False
    figure, sentence = legible(diagrams.sleepers(needed, found))
    assert words(figure).count("wins") == 3 and "sleeps" in words(figure)
    assert sentence.startswith("3 of 4 needed channels win") and sentence.endswith("Asleep: 3.")
    assert diagrams.sleepers(needed, needed)[1].endswith("Asleep: none.")
