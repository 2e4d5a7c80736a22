"""The exercises of notebook 01, Static or dynamic."""

from collections.abc import Callable, Iterator

import torch

from ...method.wta import winner_mask, winner_take_all
from .engine import Case, CheckResult, check


def check_distinct_sets(function: Callable) -> CheckResult:
    """``count_sets(winners)``: how many different rows the bool ``[N, C]`` has."""

    def cases() -> Iterator[Case]:
        for images in (1, 6, 40):
            winners = winner_mask(torch.rand(images, 4), 0.5)  # six sets at most
            expected = len({tuple(row) for row in winners.tolist()})
            yield Case((winners,), expected, "two images with equal rows share one set")

    return check(function, cases(), "it counts right on 3 random masks.")


def check_static_choice(function: Callable) -> CheckResult:
    """``static_choice(gates, density)``: the mean gate's winners, bool ``[C]``, of ``[N, C]``."""

    def cases() -> Iterator[Case]:
        for density in (0.25, 0.3, 1.0):
            gates = winner_take_all(torch.rand(6, 8), 0.5)
            expected = winner_mask(gates.mean(dim=0, keepdim=True), density)[0]
            hint = "average over the images first, dim=0, then keep the ceil(d * C) largest"
            yield Case((gates, density), expected, hint)

    return check(function, cases(), "the same channels as the mean gate's, at 3 densities.")
