"""The exercises of notebook 05, MAC accounting."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import torch

from ...method.wta import active_channels
from .engine import Case, Exercise, Mistake


def _groups() -> Iterator[Case]:
    own = "an output reads the inputs of its own group only"
    by_group = f"{own}: multiply group by group, then add up; each pair needs k * k products"
    for groups in (1, 2, 3, 4):
        live, won = (torch.randint(1, 6, (groups,)).tolist() for _ in range(2))
        kernel, positions = (int(n) for n in torch.randint(2, 9, (2,)))
        expected = sum(a * b for a, b in zip(live, won, strict=True)) * kernel**2 * positions
        yield Case((live, won, kernel, positions), expected, own, by_group)


def _paired(live: Sequence[int], won: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(live, won, strict=True))


check_grouped_macs = Exercise(
    "grouped_macs(live_inputs, winners, kernel_size, positions): with two counts per group",
    _groups,
    "right for 1 to 4 groups.",
    (
        Mistake(lambda a, b, k, p: _paired(a, b) * p, "you leave the size of the kernel out"),
        Mistake(lambda a, b, k, p: _paired(a, b) * k * p, "you use one side of the kernel only"),
        Mistake(lambda a, b, k, p: _paired(a, b) * k * k, "you count one position only"),
        Mistake(
            lambda a, b, k, p: sum(a) * sum(b) * k * k * p,
            "you let every output read the inputs of all groups",
        ),
        Mistake(
            lambda a, b, k, p: sum(a) * sum(b) * k * k * p // len(a),
            "you take the same share for each group, but the counts differ",
        ),
        Mistake(
            lambda a, b, k, p: sum(x + y for x, y in zip(a, b, strict=True)) * k * k * p,
            "you add live inputs and winners",
        ),
        Mistake(
            lambda a, b, k, p: sum(b) * k * k * p,
            "you count one live input per output, as in a depthwise layer",
        ),
    ),
)


def _chains() -> Iterator[Case]:
    first = "what does the first layer read?"
    image = "the image is always complete: the first layer reads all of channels[0]"
    up = "which way are winners rounded, and whose live inputs are they?"
    next_one = "winners are rounded up, and those of one layer are the live inputs of the next"
    slip = "is d * C exact in floating point?"
    hair = "0.55 * 100 is a little more than 55: use active_channels"
    for channels, densities, positions, hint, more in [
        ([3, 8], [0.5], [4], first, image),
        ([3, 8, 16], [0.5, 0.25], [16, 4], up, next_one),
        ([1, 10, 10, 7], [0.31, 0.55, 1.0], [9, 9, 4], up, next_one),
        ([3, 100, 100], [0.55, 0.07], [2, 2], slip, hair),
    ]:
        expected = _chain(channels, densities, positions)
        yield Case((channels, densities, positions), expected, hint, more)


def _chain(
    channels: Sequence[int],
    densities: Sequence[float],
    positions: Sequence[int],
    count: Callable = active_channels,
    taps: int = 9,
    image_density: float | None = None,
) -> int:
    """Active MACs of a chain; the arguments after the first three make the mistakes."""
    won = [count(c, d) for c, d in zip(channels[1:], densities, strict=True)]
    first = channels[0] if image_density is None else count(channels[0], image_density)
    pairs = zip([first, *won], won, positions, strict=False)
    return sum(taps * a * b * p for a, b, p in pairs)


def _dense_inputs(channels: Sequence[int], densities: Sequence[float], areas: Sequence[int]) -> int:
    won = [active_channels(c, d) for c, d in zip(channels[1:], densities, strict=True)]
    return sum(9 * a * b * p for a, b, p in zip(channels, won, areas, strict=False))


def _own_density_twice(
    channels: Sequence[int], densities: Sequence[float], areas: Sequence[int]
) -> int:
    rows = list(zip(channels, channels[1:], densities, areas, strict=False))
    live = [channels[0], *(active_channels(c, d) for c, _, d, _ in rows[1:])]
    triples = zip(live, rows, strict=True)
    return sum(9 * a * active_channels(c, d) * p for a, (_, c, d, p) in triples)


check_chain_macs = Exercise(
    "chain_macs(channels, densities, positions): active MACs of a chain of 3x3 layers",
    _chains,
    "right for 4 chains, the first layer and rounding included.",
    (
        Mistake(
            lambda c, d, p: _chain(c, d, p, lambda n, share: ceil(n * share)),
            "a float slip makes one channel too many at 0.55 · 100",
        ),
        Mistake(
            lambda c, d, p: _chain(c, d, p, lambda n, share: max(1, int(n * share))),
            "you round the winners down",
        ),
        Mistake(
            lambda c, d, p: _chain(c, d, p, lambda n, share: int(n * share)),
            "you round the winners down",
        ),
        Mistake(
            lambda c, d, p: _chain(c, d, p, lambda n, share: n * share),
            "you do not round the winners: channels are whole",
        ),
        Mistake(_dense_inputs, "you let each layer read all channels of the one before"),
        Mistake(_own_density_twice, "you use a layer's own density for its inputs, too"),
        Mistake(
            lambda c, d, p: _chain(c, d, p, image_density=d[0]),
            "you gate the image as well, but it is always complete",
        ),
        Mistake(lambda c, d, p: _chain(c, d, p, taps=1), "you leave the 3x3 kernel out"),
        Mistake(lambda c, d, p: _chain(c, d, p, taps=3), "you use one side of the kernel only"),
        Mistake(
            lambda c, d, p: _chain(c, [1.0] * len(d), p), "you count the dense MACs, without gates"
        ),
    ),
)
