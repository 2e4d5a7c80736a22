"""The exercises of notebook 05, MAC accounting."""

from collections.abc import Callable, Iterator

import torch

from ...method.wta import active_channels
from .engine import Case, CheckResult, check


def check_grouped_macs(function: Callable) -> CheckResult:
    """``grouped_macs(live_inputs, winners, kernel_size, positions)``: with two counts per group."""

    def cases() -> Iterator[Case]:
        for groups in (1, 2, 3, 4):
            live, won = (torch.randint(0, 6, (groups,)).tolist() for _ in range(2))
            kernel, positions = (int(n) for n in torch.randint(2, 9, (2,)))
            expected = sum(a * b for a, b in zip(live, won, strict=True)) * kernel**2 * positions
            hint = "an output reads the inputs of its own group only: multiply group by group"
            yield Case((live, won, kernel, positions), expected, hint)

    return check(function, cases(), "right for 1 to 4 groups.")


def check_chain_macs(function: Callable) -> CheckResult:
    """``chain_macs(channels, densities, positions)``: active MACs of a chain of 3x3 layers."""

    def cases() -> Iterator[Case]:
        first = "the image is always complete: the first layer reads all of channels[0]"
        up = "winners are rounded up, and the winners of one layer are the live inputs of the next"
        slip = "0.55 * 100 is a little more than 55: use active_channels"
        for channels, densities, positions, hint in [
            ([3, 8], [0.5], [4], first),
            ([3, 8, 16], [0.5, 0.25], [16, 4], up),
            ([1, 10, 10, 7], [0.31, 0.55, 1.0], [9, 9, 4], up),
            ([3, 100, 100], [0.55, 0.07], [2, 2], slip),
        ]:
            won = [active_channels(c, d) for c, d in zip(channels[1:], densities, strict=True)]
            pairs = zip([channels[0], *won], won, positions, strict=False)
            yield Case(
                (channels, densities, positions), sum(9 * a * b * p for a, b, p in pairs), hint
            )

    return check(function, cases(), "right for 4 chains, the first layer and rounding included.")
