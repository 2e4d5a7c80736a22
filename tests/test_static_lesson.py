"""Notebook 12: what its checks take, and its pictures, which say what they show."""

import copy

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from fbs_tutorial.lesson import checks, diagrams, plots
from fbs_tutorial.lesson.diagrams import draw
from fbs_tutorial.lesson.plots.style import BLUE, GREEN, ORANGE, PURPLE


def test_pairs_may_be_tuples_and_a_tensor_is_told_that_a_list_is_asked_for():
    """The rest of what the checks do is in test_checks.py, with all exercises."""

    def found(mask, weight):
        return ((weight.abs().amax((2, 3)) > 0) & ~mask).nonzero()

    assert checks.check_revived(lambda m, w: [tuple(pair) for pair in found(m, w).tolist()])
    assert "a tensor, where a list is asked for" in repr(checks.check_revived(found))


def test_a_block_that_cannot_run_is_told_why():
    def without_its_norm(block, keep):
        small = copy.deepcopy(block)
        small.conv1.weight = nn.Parameter(block.conv1.weight[keep])
        small.conv2.weight = nn.Parameter(block.conv2.weight[:, keep])
        return small

    said = repr(checks.check_prune_block(without_its_norm))
    assert "a block that cannot run: conv1, bn1 and conv2 have weights of [[" in said


def test_a_block_with_new_modules_is_as_good():
    def prune_block(block, keep):
        small = type(block)(block.conv1.in_channels, block.conv2.out_channels, block.stride)
        small.downsample = block.downsample
        small.conv1 = nn.Conv2d(
            block.conv1.in_channels, int(keep.sum()), 3, block.stride, 1, bias=False
        )
        small.bn1, small.bn2 = nn.BatchNorm2d(int(keep.sum()), eps=block.bn1.eps), block.bn2
        small.conv2 = nn.Conv2d(int(keep.sum()), len(keep), 3, padding=1, bias=False)
        small.conv1.weight.data = block.conv1.weight.data[keep]
        small.conv2.weight.data = block.conv2.weight.data[:, keep]
        state = {name: v[keep] for name, v in block.bn1.state_dict().items() if v.ndim}
        small.bn1.load_state_dict(state, strict=False)
        return small.eval()

    result = checks.check_prune_block(prune_block)
    assert result, result


def legible(picture):
    figure, sentence = picture
    assert draw.collisions(figure) == []
    assert figure.get_size_inches()[0] * figure.dpi == pytest.approx(900)
    plt.close(figure)
    return figure, sentence


def fills(figure, colour):
    same = matplotlib.colors.to_rgba(colour)
    return sum(patch.get_facecolor() == same for patch in figure.axes[0].patches)


def test_the_four_cuts_keep_quarters_and_say_what_is_left():
    weight = torch.randn(8, 6, 3, 3)
    scales = torch.arange(1.0, 7), torch.arange(1.0, 9)
    live, won = torch.arange(6) < 3, torch.arange(8) % 2 == 0
    picture = diagrams.four_cuts(weight, scales, [(live, won), (~live, ~won)], shown=6)
    figure, sentence = legible(picture)
    assert "kernel masks 25%, network slimming 25%, stripes 25%" in sentence
    assert "FBS, one image 25%, FBS, another image 25%" in sentence
    assert fills(figure, BLUE) == 3 * 3 * 9 and fills(figure, PURPLE) == 3 * 3 * 9
    kernels = weight.abs().amax(dim=(2, 3))
    kept = kernels > kernels.flatten().sort().values[35]
    stripes = weight.abs().sum(dim=1)
    stay = stripes > stripes.flatten().sort().values[53]
    slimmed = 2 * 3  # outputs 4 and 5 of those drawn, inputs 3 to 5
    expected = 9 * int(kept[:6].sum()) + 9 * slimmed + 6 * int(stay[:6].sum())
    assert fills(figure, GREEN) == expected


def test_a_leak_frames_what_is_back():
    mask = torch.tensor([[True, False], [False, False]])
    weight = torch.randn(2, 2, 3, 3)
    held = weight * mask[:, :, None, None]
    figure, sentence = legible(diagrams.leak(mask, weight, held, shown=2))
    assert "zeros written once: 3 of 3 masked kernels are back" in sentence
    assert "a mask in the layer: 0 of 3" in sentence
    most = (weight * ~mask[:, :, None, None]).abs().max()
    assert f"largest weight that is back is {most:.1g}, the largest of all" in sentence
    orange = matplotlib.colors.to_rgba(ORANGE)
    frames = [patch for patch in figure.axes[0].patches if patch.get_edgecolor() == orange]
    assert len(frames) == 3 + 1  # and the legend
    assert len(figure.axes[0].images) == 4 + 1


@pytest.mark.parametrize("count", [4, 12])
def test_a_block_is_cut_inside(count):
    keep = torch.arange(count) < 3
    figure, sentence = legible(diagrams.cut_block(keep))
    assert f"{count - 3} of the {count} channels in the middle are removed" in sentence
    assert f"{count - 3} rows of conv1 and {count - 3} columns of conv2" in sentence
    assert fills(figure, GREEN) == 2 * 3 * count


def test_filter_shapes_show_what_is_kept():
    kept = {"conv1": torch.ones(4, 3, 3, dtype=torch.bool), "conv2": torch.zeros(40, 3, 3)}
    figure, sentence = plots.filter_shapes(kept)
    assert len(figure.axes) == 2
    assert "conv1 keeps 100% of its stripes; conv2 keeps 0%" in sentence
    drawn = [(axes.collections[0].get_array() >= 0).sum() for axes in figure.axes]
    assert drawn == [4 * 9, 12 * 9]
    kept["conv2"][:3, 0, 1] = 1
    sentence = plots.filter_shapes(kept)[1]
    assert "Filters with a single tap: 3 of 44." in sentence
    assert "Of all filters 9% keep the middle tap, and 9% to 9% each corner." in sentence


def test_scales_that_faded_stand_layer_by_layer_under_a_cut_of_the_second_network():
    layers = [torch.tensor([-0.02, 0.01]), torch.tensor([0.3, -0.4])]
    scales = {"none": [torch.ones(2), torch.ones(2)], "penalty": layers}
    figure, sentence = plots.faded_scales(scales, 50, "title")
    assert sentence.endswith("penalty: 0.01 to 0.02, 0.30 to 0.40")
    *drawn, cut = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in drawn[2:]] == [
        pytest.approx([0.01, 0.02]), pytest.approx([0.3, 0.4])
    ]  # fmt: skip
    assert cut.get_ydata()[0] == pytest.approx(0.16)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["none", "penalty", "50 % of the squares are below"]
    plt.close(figure)


def test_the_slider_shows_the_nearest_level_of_a_method():
    def point(share, before, accuracy):
        same = {"share": share, "macs": share, "kB": 7.0, "layers": {"conv1": share}}
        return same | {"before": before, "accuracy": accuracy}

    static = ("kernel masks", "slimming", "stripes")
    points = {name: [point(0.2, 0.3, 0.5), point(0.9, 0.9, 0.98)] for name in static}
    figure, sentence = plots.pruning_level(points, "stripes", 0.8)
    assert sentence == (
        "stripes at 0.9: 90.0% of the MACs, 7 kB stored, right on 90.0% after the cut and 98.0% "
        "when repaired."
    )
    for axes, wrong in zip(figure.axes, (10, 2), strict=False):
        assert len(axes.get_lines()) == 3 + 1
        assert axes.get_lines()[-1].get_xydata().tolist() == [pytest.approx([90, wrong])]
        every = [y for line in axes.get_lines() for y in line.get_ydata()]
        assert axes.get_ylim()[0] < min(every) and max(every) < axes.get_ylim()[1], "nothing is cut"
    assert "50.0% when repaired" in plots.pruning_level(points, "slimming", 0.1)[1]


def test_a_contest_has_a_dot_per_seed_and_says_who_is_best():
    def rows(level, method, *right):
        return [
            {"seed": i, "level": level, "method": method, "test_accuracy": r, "bytes": 7000}
            for i, r in enumerate(right)
        ]

    found = [*rows(None, "plain", 0.99), *rows(0.5, "narrow", 0.9, 0.92)]
    found += [*rows(0.5, "kernels", 0.5, 0.91), *rows(0.5, "fbs", 0.92, 0.94)]
    found += rows(0.5, "fbs, idle removed", 0.92, 0.94)
    results = {"plan": {"densities": [0.5]}, "rows": found}
    figure, sentence = plots.contest({"digits": results}, "title")
    assert sentence == (
        "digits, d = 0.5: best FBS, 93.0 %; narrow 91.0 %; FBS minus narrow +2.0 points."
    )
    (axes,) = figure.axes
    dots = [len(x.get_xdata()) for x in axes.lines if x.get_marker() not in ("None", "", "<")]
    assert dots == [2, 1, 2]  # one lies far to the left
    words = [text.get_text() for text in axes.texts]
    assert words == ["−41.0"]
    assert axes.get_yticklabels()[0].get_text() == "narrow from the start"
    plt.close(figure)


def test_exchanged_gates_show_points_that_are_lost_and_say_what_is_stored():
    gates = {"own_gates": 0.9, "mean_winners": 0.88, "mean_gates": 0.85, "shuffled_gates": 0.6}
    stored = {"narrow": 14_000, "fbs": 149_000, "fbs, idle removed": 29_000}
    rows = [{"level": 0.3, "method": m, "bytes": b, **gates} for m, b in stored.items()]
    results = {"plan": {"densities": [0.3]}, "rows": [{"level": None, "method": "plain"}, *rows]}
    figure, sentence = plots.exchanged_gates({"clothes": results}, "title")
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([2, 5, 30])
    assert "another image's gates: 30.0" in sentence
    assert "clothes, 0.3: narrow 14 kB, FBS 149 kB, idle removed 29 kB" in sentence
    plt.close(figure)
