"""The exercises of notebook 00, Start here."""

from collections.abc import Callable, Iterator

import torch

from ...method.wta import winner_mask
from .engine import Case, CheckResult, check


def check_conv_macs(function: Callable) -> CheckResult:
    """``conv_macs(live_inputs, winners, kernel_size, height, width)``: MACs of one convolution."""

    def cases() -> Iterator[Case]:
        for _ in range(8):
            a, b, k, h, w = (int(n) for n in torch.randint(2, 9, (5,)))
            yield Case(
                (a, b, k, h, w),
                a * b * k * k * h * w,
                "every value of every winner's output map sums kernel_size * kernel_size products "
                "for each live input",
            )

    return check(function, cases(), "it agrees with the definition on 8 random layers.")


def check_shared_winners(function: Callable) -> CheckResult:
    """``shared_winners(first, second)``: channels that win for both images, from bool ``[C]``."""

    def cases() -> Iterator[Case]:
        for channels in (4, 16, 33):
            first, second = winner_mask(torch.rand(2, channels), 0.5)
            expected = int((first & second).sum())
            yield Case((first, second), expected, "count the places where both are True")

    return check(function, cases(), "it counts right on 3 random pairs of winner sets.")
