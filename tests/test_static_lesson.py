"""Notebook 12: its checks know typical mistakes, and its pictures say what they show."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fbs_tutorial.lesson import checks, plots


def revived(mask, weight):
    return ((weight != 0).any(dim=3).any(dim=2) & ~mask).nonzero().tolist()


def stripe_sum(x, weight, kept, pad=F.pad, step=1):
    """The stripe sum, and with other arguments what goes wrong with it."""
    height, width = x.shape[2:]
    padded = pad(x, (1, 1, 1, 1))
    y = x.new_zeros(len(x), len(weight), height, width)
    for i in range(3):
        for j in range(3):
            filters = kept[:, i, j]
            row, column = (i, j) if step == 1 else (2 - i, 2 - j)
            shifted = padded[:, :, row : row + height, column : column + width]
            if filters.any():
                y[:, filters] += F.conv2d(shifted, weight[filters, :, i, j, None, None])
    return y


def roll_sum(x, weight, kept):
    return stripe_sum(x, weight, kept, lambda x, sides: F.pad(x, sides, mode="circular"))


def last_tap(x, weight, kept):
    only = torch.zeros_like(kept)
    only[:, 2, 2] = kept[:, 2, 2]
    return stripe_sum(x, weight, only)


def prune_block(block, keep, norm=None, inputs=None, train=False):
    small = copy.deepcopy(block)
    own = keep if norm is None else norm(keep)
    small.conv1.weight = nn.Parameter(block.conv1.weight[keep])
    for name in ("weight", "bias"):
        setattr(small.bn1, name, nn.Parameter(getattr(block.bn1, name)[own]))
    for name in ("running_mean", "running_var"):
        setattr(small.bn1, name, getattr(block.bn1, name)[own])
    small.bn1.num_features = int(keep.sum())
    read = keep if inputs is None else inputs(keep)
    small.conv2.weight = nn.Parameter(block.conv2.weight[:, read])
    return small.train(train)


def first(keep):
    return torch.arange(len(keep)) < keep.sum()


def prune_in_place(block, keep):
    block.__dict__.update(prune_block(block, keep).__dict__)
    return block


def prune_everything(block, keep):
    small = prune_block(block, keep)
    small.conv2.weight = nn.Parameter(small.conv2.weight[keep])
    small.bn2 = nn.BatchNorm2d(int(keep.sum())).eval()
    return small


RIGHT = [
    (checks.check_revived, revived),
    (checks.check_revived, lambda m, w: ((w.abs().amax((2, 3)) > 0) & ~m).nonzero()),
    (checks.check_revived, lambda m, w: [tuple(pair) for pair in revived(m, w)]),
    (checks.check_stripe_sum, stripe_sum),
    (checks.check_prune_block, prune_block),
]
WRONG = [
    (checks.check_revived, lambda m, w: revived(~m, w), "mask is True where a kernel stays"),
    (checks.check_revived, lambda m, w: (~m).nonzero().tolist(), "masked"),
    (checks.check_revived, lambda m, w: ((w.sum((2, 3)) != 0) & ~m).nonzero().tolist(), "add up"),
    (checks.check_revived, lambda m, w: ((w > 0).any(3).any(2) & ~m).nonzero(), "add up|negative"),
    (
        checks.check_revived,
        lambda m, w: ((w[:, :, 1, 1] != 0) & ~m).nonzero().tolist(),
        "any of the k x k",
    ),
    (checks.check_stripe_sum, roll_sum, "torch.roll brings pixels back"),
    (checks.check_stripe_sum, last_tap, r"y \+= "),
    (checks.check_stripe_sum, lambda x, w, k: stripe_sum(x, w, k, step=-1), "the other way"),
    (
        checks.check_stripe_sum,
        lambda x, w, k: stripe_sum(x, w.transpose(2, 3), k.transpose(1, 2)),
        "rows and columns",
    ),
    (checks.check_stripe_sum, lambda x, w, k: F.conv2d(x, w, padding=1), "kept is not used"),
    (checks.check_stripe_sum, lambda x, w, k: F.conv2d(x, w * k[:, None]), "pad x by 1"),
    (
        checks.check_stripe_sum,
        lambda x, w, k: F.conv2d(x, w * k[:, None], padding=1),
        "with the filters alone that have it",
    ),
    (checks.check_prune_block, lambda b, k: copy.deepcopy(b), "keeps the filters"),
    (checks.check_prune_block, lambda b, k: prune_block(b, k, norm=first), "bn1's four vectors"),
    (checks.check_prune_block, lambda b, k: prune_block(b, k, inputs=first), "conv2.weight"),
    (checks.check_prune_block, lambda b, k: prune_block(b, k, train=True), "training mode"),
    (checks.check_prune_block, prune_in_place, "copy.deepcopy"),
    (checks.check_prune_block, prune_everything, "meets in a sum"),
]


@pytest.mark.parametrize(("check", "function"), RIGHT)
def test_right_answers_pass(check, function):
    result = check(function)
    assert result.passed, result


@pytest.mark.parametrize(("check", "function", "message"), WRONG)
def test_the_mistake_is_named(check, function, message):
    result = check(function)
    assert not result
    assert re.search(message, repr(result).partition("hint: ")[2] or repr(result)), result


@pytest.mark.parametrize("check", {check for check, _ in RIGHT}, ids=lambda check: check.__name__)
@pytest.mark.parametrize("junk", [None, 3, lambda: 1, lambda *a: None, lambda *a: object()])
def test_checks_never_raise(check, junk):
    assert not check(junk)


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
