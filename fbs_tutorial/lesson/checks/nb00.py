"""The exercises of notebook 00, Start here."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from ...checkpoints import load_pretrained
from ...method.gated import set_density
from ...method.macs import count_macs
from ...method.wta import active_channels
from .engine import Case, Exercise, Experiment, Mistake, digits_to_judge


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
        Mistake(lambda a, b, k, h, w: a * b * k * k * h * h, "you use the height of the map twice"),
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


# Exercise 2: what is left of a network


def network_share(channels: Sequence[int], positions: Sequence[int], density: float) -> float:
    """Share of the MACs left in a chain of 3x3 convolutions whose outputs keep ceil(d C)."""
    kept = [channels[0], *(active_channels(c, density) for c in channels[1:])]

    def macs(counts: Sequence[int]) -> int:
        return sum(9 * a * b * p for a, b, p in zip(counts, counts[1:], positions, strict=False))

    return macs(kept) / macs(channels)


CHAINS = (  # channels, positions, density
    ([1, 16, 32, 32, 64], [256, 64, 64, 16], 0.5),
    ([3, 10, 21, 33], [1024, 256, 64], 0.3),
    ([2, 7, 5], [9, 4], 0.55),
    ([1, 100, 20], [16, 4], 0.55),
)


def _networks(chains: Sequence[tuple] = CHAINS) -> Iterator[Case]:
    inputs = "which channels does the first layer read, and can they be skipped?"
    more = "count every layer twice, with all channels and with those that are left, then divide"
    for channels, positions, density in chains:
        share = round(network_share(channels, positions, density), 6)
        yield Case((channels, positions, density), share, inputs, more, ask=_rounded)


def _rounded(function: Callable, *arguments: object) -> object:
    got = function(*arguments)
    return round(float(got), 6) if isinstance(got, float | int | Tensor) else got


def _kept_share(kept: Callable, weight: Callable = lambda p: p) -> Callable:
    """A mistaken answer: ``kept(channels, density)`` counts the channels that are left."""

    def share(channels: Sequence[int], positions: Sequence[int], density: float) -> float:
        few = kept(channels, density)
        pairs = [
            [a * b * weight(p) for a, b, p in zip(c, c[1:], positions, strict=False)]
            for c in (few, channels)
        ]
        return sum(pairs[0]) / sum(pairs[1])

    return share


def _right(channels: Sequence[int], density: float) -> list[int]:
    return [channels[0], *(active_channels(c, density) for c in channels[1:])]


check_network_share = Exercise(
    "network_share(channels, positions, density): share of the MACs of a chain that is left",
    _networks,
    "right for four chains, the digits network among them.",
    (
        Mistake(lambda c, p, d: d * d, "d² forgets that the first layer reads its whole input"),
        Mistake(
            _kept_share(lambda c, d: [active_channels(n, d) for n in c]),
            "you also skip channels of the image, which is always there",
        ),
        Mistake(
            _kept_share(lambda c, d: [c[0], *(int(d * n) for n in c[1:])]),
            "you round the number of winners down: a layer keeps ceil(d * C)",
        ),
        Mistake(
            _kept_share(lambda c, d: [c[0], *(math.ceil(d * n) for n in c[1:])]),
            "0.55 * 100 is 55.000000000000007 on a computer, and you keep 56: active_channels "
            "keeps 55",
        ),
        Mistake(
            _kept_share(lambda c, d: [c[0], *(round(d * n) for n in c[1:])]),
            "you round to the nearest number of winners: a layer keeps ceil(d * C)",
        ),
        Mistake(lambda c, p, d: 100 * network_share(c, p, d), "you return percent, not a share"),
        Mistake(
            _kept_share(lambda c, d: [d * c[0], *(active_channels(n, d) for n in c[1:])]),
            "you also skip a share of the image, which is always there",
        ),
        Mistake(
            _kept_share(lambda c, d: [c[0], *(d * n for n in c[1:])]),
            "you keep a fraction of a channel: a layer keeps ceil(d * C), a whole number",
        ),
        Mistake(
            _kept_share(_right, lambda p: 1),
            "you count one position per layer: large maps cost more",
        ),
        Mistake(
            lambda c, p, d: (
                sum(
                    a * b / (m * n)
                    for a, b, m, n in zip(_right(c, d), _right(c, d)[1:], c, c[1:], strict=False)
                )
                / len(p)
            ),
            "you average the layers' shares, but large layers count for more",
        ),
        Mistake(
            lambda c, p, d: (
                sum(a * active_channels(b, d) * q for a, b, q in zip(c, c[1:], p, strict=False))
                / sum(a * b * q for a, b, q in zip(c, c[1:], p, strict=False))
            ),
            "you skip outputs only: the next layer does not read a channel that lost",
        ),
    ),
)

# Exercise 3: an experiment

GOAL = 0.97  # of the 197 held-out training images


def _at(network: nn.Module, density: float | dict, test: bool = False) -> tuple[float, float]:
    """Accuracy on the held-out images, or on those for testing, and MACs per image."""
    images, labels = digits_to_judge(test)
    with torch.no_grad():
        right = set_density(network, density)(images).argmax(dim=1) == labels
    return right.double().mean().item(), count_macs(network, images).active.double().mean().item()


@cache
def _uniform() -> tuple[float, float, float]:
    """The lowest density in steps of 0.05 that reaches the goal in all layers; accuracy, MACs."""
    network = load_pretrained("digits")
    return next(
        (density, *found)
        for density in (step / 20 for step in range(2, 21))
        if (found := _at(network, density))[0] >= GOAL
    )


def _how_cheap(function: Callable, goal: float = GOAL, test: bool = False) -> tuple[bool, str]:
    """How good the network is with these densities, and how cheap."""
    right, macs = _at(load_pretrained("digits"), function(), test)
    uniform, uniform_right, uniform_macs = _uniform()
    images, held_out = (len(digits_to_judge(which)[1]) for which in (test, False))
    said = (
        f"{right * images:.0f} of the {images} {'test' if test else 'held-out'} images correct "
        f"with {macs / 1000:,.0f} k MACs.\n"
        f"  One density for all, d = {uniform:g}: {uniform_right * held_out:.0f} of the {held_out} "
        f"held-out images with {uniform_macs / 1000:,.0f} k."
    )
    if right < goal:
        least = math.ceil(round(goal * images, 9))
        return False, f"{said} At least {least} of {images} are wanted."
    if macs >= uniform_macs:
        return False, f"{said} Good enough, but not cheaper."
    return True, f"{said} You need {macs / uniform_macs:.0%} of its MACs."


def _fits(function: Callable) -> str | None:
    """What is wrong with the densities in words, or `FITS`."""
    densities = function()
    if densities is None:
        return None
    if not isinstance(densities, Mapping) or set(densities) != {f"conv{i}" for i in range(1, 5)}:
        return f"{densities!r} instead of one density for each of conv1 to conv4"
    try:
        set_density(load_pretrained("digits"), dict(densities))
    except (TypeError, ValueError) as error:
        return str(error)
    return FITS


FITS = "a density in (0, 1] for each of conv1 to conv4"

check_cheapest = Experiment(
    "my_densities(): {layer: density}, with at least 97 % right and as few MACs as you can",
    lambda: iter([Case((), FITS, "return a dict of four numbers", ask=_fits)]),
    "densities that fit.",
    (
        Mistake(lambda: 0.3, "you return one density: here each layer has its own"),
        Mistake(
            lambda: {"conv1": 0, "conv2": 0.2, "conv3": 0.2, "conv4": 0.3},
            "you leave a layer without any channel, and nothing would arrive at the end",
        ),
        Mistake(lambda: [0.3] * 4, "you return a list: a dict says which layer a density is of"),
        Mistake(
            lambda: dict.fromkeys(["conv1", "conv2", "conv3", "conv4"], 30),
            "you give percent: a density is a share, 0.3 and not 30",
        ),
    ),
    judge=_how_cheap,
)
