"""The exercises of notebook 06, Training."""

from collections.abc import Callable, Iterator

import torch

from .engine import Case, CheckResult, check


def check_density_schedule(function: Callable) -> CheckResult:
    """``density_schedule(start, stop, step)``: from start down to stop, both included."""

    def cases() -> Iterator[Case]:
        ends = "both ends belong to the list"
        slip = "subtracting again and again adds up rounding errors: 1 - 0.1 - 0.1 - 0.1 is not 0.7"
        for start, stop, step, hint in [
            (100, 50, 25, ends),
            (100, 10, 10, slip),
            (80, 20, 20, slip),
            (55, 5, 5, slip),
            (100, 5, 5, slip),
            (90, 30, 20, ends),
            (100, 30, 10, ends),
        ]:
            expected = [n / 100 for n in range(start, stop - 1, -step)]
            yield Case((start / 100, stop / 100, step / 100), expected, hint)

    return check(function, cases(), "seven schedules, both ends included and no rounding slip.")


def check_l1_penalty(function: Callable) -> CheckResult:
    """``l1_penalty(saliencies)``: sum over layers of the batch mean of ``||g||_1``."""

    def cases() -> Iterator[Case]:
        one = "add up each image's saliencies, and take the mean over the images"
        many = "add up the layers; do not take their mean"
        for channels, hint in [((4,), one), ((3, 7), many), ((16, 32, 32), many)]:
            layers = [torch.rand(5, c) for c in channels]
            yield Case((layers,), sum(g.sum(dim=1).mean() for g in layers), hint)

    return check(function, cases(), "right for one, two and three layers.")
