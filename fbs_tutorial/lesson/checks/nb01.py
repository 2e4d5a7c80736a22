"""The exercises of notebook 01, Static or dynamic."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...method.wta import active_channels, winner_mask, winner_take_all
from .engine import Case, Exercise, Mistake


def _masks() -> Iterator[Case]:
    for images in (1, 6, 40):
        winners = winner_mask(torch.rand(images, 4), 0.5)  # six sets at most
        expected = len({tuple(row) for row in winners.tolist()})
        hint = "when do two images share one set?"
        yield Case((winners,), expected, hint, "two images with equal rows share one set")


check_distinct_sets = Exercise(
    "count_sets(winners): how many different rows the mask [N, C] has",
    _masks,
    "it counts right on 3 random masks.",
    (
        Mistake(len, "you count images, equal rows included"),
        Mistake(lambda w: len(w.unique()), "you count different values, not different rows"),
        Mistake(lambda w: w.unique(dim=1).shape[1], "you count different columns, not rows"),
        Mistake(
            lambda w: len(w.sum(dim=1).unique()),
            "you compare how many channels win, not which",
        ),
    ),
)


def _gates() -> Iterator[Case]:
    first = "average over which axis, and what do you select then?"
    more = "average over the images first, dim=0, then keep the ceil(d * C) largest"
    for density in (0.25, 0.3, 1.0):
        gates = winner_take_all(torch.rand(6, 8), 0.5)
        expected = winner_mask(gates.mean(dim=0, keepdim=True), density)[0]
        yield Case((gates, density), expected, first, more)
    gates = torch.tensor([[0.0, 4, 1, 0], [0, 0, 1, 1]])
    expected = torch.tensor([False, True, False, False])
    yield Case((gates, 0.25), expected, "how large are the gates, not only how many?", more)
    ties = "equal means: the lower index wins, and k stays exact"
    gates = torch.tensor([[1.0, 2, 3, 3, 3, 0, 3, 1], [3.0, 2, 1, 1, 1, 4, 1, 3]])
    expected = winner_mask(gates.mean(dim=0, keepdim=True), 0.5)[0]
    yield Case((gates, 0.5), expected, ties, f"{ties}: winner_mask sorts stably")


def _at_least(gates: Tensor, density: float) -> Tensor:
    mean = gates.mean(dim=0)
    return mean >= mean.sort(descending=True).values[active_channels(len(mean), density) - 1]


def _rounded_down(gates: Tensor, density: float) -> Tensor:
    k = max(1, int(density * gates.shape[1]))
    return winner_mask(gates.mean(dim=0, keepdim=True), k / gates.shape[1])[0]


def _higher_index(gates: Tensor, density: float) -> Tensor:
    return winner_mask(gates.mean(dim=0).flip(0)[None], density)[0].flip(0)


check_static_choice = Exercise(
    "static_choice(gates, density): the mean gate's winners, a mask [C], of gates [N, C]",
    _gates,
    "the same channels as the mean gate's, at 3 densities and where means tie.",
    (
        Mistake(lambda g, d: winner_mask(g, d)[0], "you take the first image's winners"),
        Mistake(lambda g, d: winner_mask(g, d), "you select for each image, before averaging"),
        Mistake(
            lambda g, d: winner_mask((g > 0).float().mean(dim=0)[None], d)[0],
            "you count how often a channel wins, and forget how large its gate is",
        ),
        Mistake(
            lambda g, d: winner_mask(g.amax(dim=0)[None], d)[0],
            "you take the largest gate of each channel, not the mean",
        ),
        Mistake(_at_least, "you keep every channel that ties with the last winner"),
        Mistake(_rounded_down, "you round the number of channels down"),
        Mistake(_higher_index, "among equal means your choice takes the higher index"),
        Mistake(
            lambda g, d: winner_take_all(g.mean(dim=0, keepdim=True), d)[0],
            "you return the gates of the winners, not a mask",
        ),
    ),
)
