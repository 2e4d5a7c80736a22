"""The exercises of notebook 08, Skipping for real, on a GPU."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from .engine import Case, CheckResult, check


def check_weight_addresses(function: Callable) -> CheckResult:
    """``weight_addresses(tap, channels, winners, in_channels, out_channels)``: ``[k_in, k_out]``.

    Places in the flat copy of a weight ``[taps, in_channels, out_channels]``.
    """

    def as_lists(*arguments: object) -> object:  # a message can show them whole
        got = function(*arguments)
        return got.tolist() if isinstance(got, Tensor) else got

    as_lists.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[Case]:
        row = "a row for each channel, a column for each winner; one channel further is " + (
            "out_channels numbers further, one winner further is the next number"
        )
        taps = "one tap further is in_channels * out_channels numbers further"
        for tap, k_in, k_out, hint in [(0, 2, 3, row), (0, 2, 2, row), (5, 3, 2, taps)]:
            channels, winners = (torch.rand(6).argsort()[:k].sort().values for k in (k_in, k_out))
            expected = torch.arange(9 * 6 * 7).view(9, 6, 7)[tap][channels[:, None], winners]
            yield Case((tap, channels, winners, 6, 7), expected.tolist(), hint)

    return check(as_lists, cases(), "every weight is found, for three pairs of lists.")


def check_tile_count(function: Callable) -> CheckResult:
    """``tile_count(images, pixels, winners, block_m, block_n)``: programs of one launch."""

    def cases() -> Iterator[Case]:
        up = "a tile that is only partly filled is a tile: round up, in both directions"
        own = "a tile belongs to one image: round up for each image, then multiply"
        for images, pixels, winners, m, n, hint in [
            (1, 64, 32, 32, 16, up),
            (1, 50, 24, 16, 16, up),
            (3, 49, 40, 64, 32, own),
            (128, 225, 64, 128, 64, own),
        ]:
            expected = images * ceil(Fraction(pixels, m)) * ceil(Fraction(winners, n))
            yield Case((images, pixels, winners, m, n), expected, hint)

    return check(function, cases(), "right for 4 layers, tiles at the edges included.")


def check_least_time(function: Callable) -> CheckResult:
    """``least_time(macs, moved, peak, bandwidth)``: the roofline's bound in seconds, ``[L]``."""

    def cases() -> Iterator[Case]:
        flops = "a MAC is two FLOPs: 2 * macs / peak seconds of arithmetic"
        longer = "both go on at the same time: the longer of the two decides, for each layer"
        for moved, hint in [([1.0, 1.0], flops), ([9e9, 1.0], longer), ([3e9, 8e9], longer)]:
            macs, moved = torch.tensor([4e9, 1e9]), torch.tensor(moved)
            bound = torch.maximum(2 * macs / 4e9, moved / 1e9)
            yield Case((macs, moved, 4e9, 1e9), bound, hint, entry="layer")

    return check(function, cases(), "right for layers on both sides of the ridge.")
