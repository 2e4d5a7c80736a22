"""Notebook 12: what its checks take, and its pictures, which say what they show."""

import torch
from torch import nn

from fbs_tutorial.lesson import checks, plots


def test_pairs_may_be_a_tensor_or_tuples():
    """The rest of what the checks do is in test_checks.py, with all exercises."""

    def found(mask, weight):
        return ((weight.abs().amax((2, 3)) > 0) & ~mask).nonzero()

    assert checks.check_revived(found)
    assert checks.check_revived(lambda m, w: [tuple(pair) for pair in found(m, w).tolist()])


def test_a_block_with_new_modules_is_as_good():
    def prune_block(block, keep):
        small = type(block)(block.conv1.in_channels, block.conv2.out_channels, block.stride)
        small.downsample = block.downsample
        small.conv1 = nn.Conv2d(
            block.conv1.in_channels, int(keep.sum()), 3, block.stride, 1, bias=False
        )
        small.bn1, small.bn2 = nn.BatchNorm2d(int(keep.sum())), block.bn2
        small.conv2 = nn.Conv2d(int(keep.sum()), len(keep), 3, padding=1, bias=False)
        small.conv1.weight.data = block.conv1.weight.data[keep]
        small.conv2.weight.data = block.conv2.weight.data[:, keep]
        state = {name: v[keep] for name, v in block.bn1.state_dict().items() if v.ndim}
        small.bn1.load_state_dict(state, strict=False)
        return small.eval()

    result = checks.check_prune_block(prune_block)
    assert result, result


def test_the_four_cuts_say_what_is_left():
    figure, sentence = plots.four_cuts()
    assert len(figure.axes) == 5 and sentence.count("%") == 5


def test_filter_shapes_show_what_is_kept():
    kept = {"conv1": torch.ones(4, 3, 3, dtype=torch.bool), "conv2": torch.zeros(40, 3, 3)}
    figure, sentence = plots.filter_shapes(kept)
    assert len(figure.axes) == 2
    assert "conv1 keeps 100% of its stripes; conv2 keeps 0%" in sentence


def test_the_slider_shows_the_nearest_level_of_a_method():
    def point(share, before, accuracy):
        same = {"share": share, "macs": share, "kB": 7.0, "layers": {"conv1": share}}
        return same | {"before": before, "accuracy": accuracy}

    points = {name: [point(0.2, 0.3, 0.5), point(0.9, 0.9, 0.98)] for name in "abc"}
    points["d"] = [point(0.2, 0.5, 0.5), point(0.9, 0.98, 0.98)]
    figure, sentence = plots.pruning_level(points, "c", 0.8)
    assert sentence == (
        "c at 0.9: 90.0% of the MACs, 7 kB stored, right on 90.0% after the cut and 98.0% in the "
        "end. Dashed lines: after the cut."
    )
    assert len(figure.axes[0].get_lines()) == 4 + 3 + 1
    assert "right on 50.0% in the end" in plots.pruning_level(points, "d", 0.1)[1]
