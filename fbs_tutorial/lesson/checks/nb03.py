"""The exercises of notebook 03, Winner-take-all."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil

import torch

from ...method.wta import winner_mask, winner_take_all
from .engine import Case, CheckResult, check, draw


def check_active_channels(function: Callable) -> CheckResult:
    """``active_channels(channels, density)``: ceil(density * channels), without a float slip."""

    def cases() -> Iterator[Case]:
        slip = "density * channels in floating point can land a hair above a whole number"
        up = "round up: a density never gives fewer channels than its share"
        few = "even the smallest density leaves one channel"
        for channels, hundredths, hint in [
            (8, 50, up),
            (10, 31, up),
            (3, 1, few),
            (100, 55, slip),
            (100, 7, slip),
            (50, 14, slip),
            *((int(c), int(h), slip) for c, h in zip(draw(1, 200), draw(1, 101), strict=True)),
        ]:
            expected = max(1, ceil(Fraction(hundredths, 100) * channels))
            yield Case((channels, hundredths / 100), expected, hint)

    return check(function, cases(), "k is right for 26 pairs of channels and density.")


def check_winner_take_all(function: Callable) -> CheckResult:
    """``winner_take_all(g, density)``: ``[N, C] -> [N, C]``; density a number or a tensor [N]."""

    def cases() -> Iterator[Case]:
        plain = "keep the ceil(d * C) largest values of each row, set the rest to 0"
        ties = "equal values: the lower index wins, so that k is exact (argsort(stable=True))"
        each = "density is a tensor [N] here: row i has its own k"
        g = torch.rand(3, 8)
        yield Case((g, 0.5), winner_take_all(g, 0.5), plain)
        yield Case((g, 0.3), winner_take_all(g, 0.3), plain)
        g = torch.randint(1, 4, (4, 10)).float()
        yield Case((g, 0.3), winner_take_all(g, 0.3), ties)
        g, density = torch.rand(4, 10), torch.tensor([0.1, 0.55, 1.0, 0.3])
        yield Case((g, density), winner_take_all(g, density), each)
        g = torch.rand(2, 100)
        slip = "k has a rounding slip: 0.55 * 100 is a little more than 55"
        yield Case((g, 0.55), winner_take_all(g, 0.55), slip)
        few = "k is at least 1"
        density = torch.tensor([1e-8, 0.5], dtype=torch.float64)
        yield Case((g, density), winner_take_all(g, density), few)

    return check(function, cases(), "right on plain rows, ties and one density per image.")


def check_winner_take_all_backward(function: Callable) -> CheckResult:
    """``winner_take_all_backward(g, density, upstream)``: the gradient with respect to ``g``."""

    def cases() -> Iterator[Case]:
        for density in (0.25, 0.5, 1.0):
            g, upstream = torch.rand(3, 8).sub(0.4).relu(), torch.randn(3, 8)  # zeros can win
            expected = torch.where(winner_mask(g, density), upstream, 0.0)
            hint = (
                "a winner is copied, so its gradient is copied; a loser does not reach the output"
            )
            yield Case((g, density, upstream), expected, hint)

    return check(function, cases(), "it is what autograd computes, at 3 densities.")
