"""The exercises of notebook 00, Start here."""

from collections.abc import Iterator

import torch

from ...method.wta import winner_mask
from .engine import Case, Exercise, Mistake


def _layers() -> Iterator[Case]:
    for _ in range(8):
        a, b, k, h, w = (int(n) for n in torch.randint(2, 9, (5,)))
        yield Case(
            (a, b, k, h, w),
            a * b * k * k * h * w,
            "how many products does one output value need? How many values are there?",
            "every value of every winner's output map sums kernel_size * kernel_size products "
            "for each live input",
        )


check_conv_macs = Exercise(
    "conv_macs(live_inputs, winners, kernel_size, height, width): MACs of one convolution",
    _layers,
    "it agrees with the definition on 8 random layers.",
    (
        Mistake(lambda a, b, k, h, w: a * b * k * h * w, "you use one side of the kernel only"),
        Mistake(lambda a, b, k, h, w: a * b * h * w, "you leave the size of the kernel out"),
        Mistake(lambda a, b, k, h, w: a * b * k * k, "you count one position of the map only"),
        Mistake(lambda a, b, k, h, w: b * k * k * h * w, "you count one input channel only"),
        Mistake(lambda a, b, k, h, w: a * k * k * h * w, "you count one output channel only"),
        Mistake(
            lambda a, b, k, h, w: 2 * a * b * k * k * h * w,
            "you count FLOPs: a MAC is a product and a sum together",
        ),
        Mistake(
            lambda a, b, k, h, w: (a + b) * k * k * h * w,
            "you add live inputs and winners, but every winner reads every live input",
        ),
    ),
)


def _pairs() -> Iterator[Case]:
    for channels in (4, 16, 33):
        first, second = winner_mask(torch.rand(2, channels), 0.5)
        expected = int((first & second).sum())
        hint = "at which places does a channel count?"
        yield Case((first, second), expected, hint, "count the places where both are True")


check_shared_winners = Exercise(
    "shared_winners(first, second): channels that win for both images, from two masks [C]",
    _pairs,
    "it counts right on 3 random pairs of winner sets.",
    (
        Mistake(
            lambda a, b: int((a == b).sum()),
            "you also count the channels that lose for both images",
        ),
        Mistake(lambda a, b: int((a | b).sum()), "you count channels that win for either image"),
        Mistake(lambda a, b: int(a.sum()), "you look at one of the two images only"),
        Mistake(lambda a, b: int((a ^ b).sum()), "you count where the two images differ"),
        Mistake(lambda a, b: (a & b).float().mean().item(), "you return a share, not a number"),
    ),
)
