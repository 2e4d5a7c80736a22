"""The exercises of notebook 08, Skipping for real, on a GPU."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import torch

from .engine import Case, Exercise, Mistake


def _lists() -> Iterator[Case]:
    axes = ("live input", "winner")
    row = "how far apart in the list are two winners, and how far two channels?"
    far = "a row for each channel, a column for each winner; one channel further is out_channels "
    far += "numbers further, one winner further is the next number"
    taps = "how many numbers does one tap have?"
    tap_far = "one tap further is in_channels * out_channels numbers further"
    for tap, k_in, k_out, hint, more in [
        (0, 2, 3, row, far),
        (0, 2, 2, row, far),
        (5, 3, 2, taps, tap_far),
    ]:
        channels, winners = (torch.rand(6).argsort()[:k].sort().values for k in (k_in, k_out))
        expected = torch.arange(9 * 6 * 7).view(9, 6, 7)[tap][channels[:, None], winners]
        yield Case((tap, channels, winners, 6, 7), expected, hint, more, axes=axes)


check_weight_addresses = Exercise(
    "weight_addresses(tap, channels, winners, in_channels, out_channels): places [k_in, k_out] "
    "in the flat copy of a weight [taps, in_channels, out_channels]",
    _lists,
    "every weight is found, for three pairs of lists.",
    (
        Mistake(
            lambda t, i, o, c_in, c_out: (t * c_in + i) * c_out + o[:, None],
            "rows and columns have changed places",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: (t * c_in + i[:, None]) * c_in + o,
            "you step by in_channels from one channel to the next",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: (t + i[:, None]) * c_out + o,
            "you take one tap further for one channel further",
        ),
        Mistake(lambda t, i, o, c_in, c_out: i[:, None] * c_out + o, "you leave the tap out"),
        Mistake(
            lambda t, i, o, c_in, c_out: (i[:, None] * c_out + o) * 9 + t,
            "you let the taps of a weight be neighbours, but here a tap is the first axis",
        ),
        Mistake(
            lambda t, i, o, c_in, c_out: t * c_in * c_out + i[:, None] + o * c_in,
            "you let the inputs be neighbours, but here the outputs are",
        ),
    ),
)


def _tiles() -> Iterator[Case]:
    up = "what becomes of a tile that is only partly filled?"
    whole = "it is a tile: round up, in both directions"
    own = "can a tile hold pixels of two images?"
    each = "a tile belongs to one image: round up for each image, then multiply"
    for images, pixels, winners, m, n, hint, more in [
        (1, 64, 32, 32, 16, up, whole),
        (1, 50, 24, 16, 16, up, whole),
        (3, 49, 40, 64, 32, own, each),
        (128, 225, 64, 128, 64, own, each),
    ]:
        expected = images * ceil(Fraction(pixels, m)) * ceil(Fraction(winners, n))
        yield Case((images, pixels, winners, m, n), expected, hint, more)


check_tile_count = Exercise(
    "tile_count(images, pixels, winners, block_m, block_n): programs of one launch",
    _tiles,
    "right for 4 layers, tiles at the edges included.",
    (
        Mistake(lambda n, p, k, a, b: n * (p // a) * (k // b), "you leave out partly filled tiles"),
        Mistake(
            lambda n, p, k, a, b: -(-n * p // a) * -(-k // b),
            "you let a tile reach into the next image",
        ),
        Mistake(
            lambda n, p, k, a, b: -(-p // a) * -(-k // b), "you count the programs of one image"
        ),
        Mistake(
            lambda n, p, k, a, b: -(-n * p * k // (a * b)),
            "you divide areas, but tiles are rounded up in each direction",
        ),
        Mistake(
            lambda n, p, k, a, b: n * -(-p // b) * -(-k // a),
            "block_m and block_n have changed places",
        ),
    ),
)


def _layers() -> Iterator[Case]:
    flops = "how many FLOPs is a MAC?"
    two = "a MAC is two FLOPs: 2 * macs / peak seconds of arithmetic"
    longer = "arithmetic and reading go on at the same time: which of them decides?"
    maximum = "the longer of the two decides, for each layer"
    for moved, hint, more in [
        ([1.0, 1.0], flops, two),
        ([9e9, 1.0], longer, maximum),
        ([3e9, 8e9], longer, maximum),
    ]:
        macs, moved = torch.tensor([4e9, 1e9]), torch.tensor(moved)
        bound = torch.maximum(2 * macs / 4e9, moved / 1e9)
        yield Case((macs, moved, 4e9, 1e9), bound, hint, more, axes=("layer",))


check_least_time = Exercise(
    "least_time(macs, moved, peak, bandwidth): the roofline's bound in seconds, [L]",
    _layers,
    "right for layers on both sides of the ridge.",
    (
        Mistake(lambda f, b, p, r: torch.maximum(f / p, b / r), "you take a MAC for one FLOP"),
        Mistake(
            lambda f, b, p, r: 2 * f / p + b / r,
            "you add the two times, as if reading and multiplying waited for each other",
        ),
        Mistake(lambda f, b, p, r: 2 * f / p, "you leave the bytes out"),
        Mistake(lambda f, b, p, r: b / r, "you leave the arithmetic out"),
        Mistake(
            lambda f, b, p, r: torch.minimum(2 * f / p, b / r), "you take the shorter of the two"
        ),
        Mistake(
            lambda f, b, p, r: torch.maximum(2 * f / p, b / r).max().expand(2),
            "you let the slowest layer decide for all",
        ),
    ),
)
