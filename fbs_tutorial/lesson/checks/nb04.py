"""The exercises of notebook 04, Gated convolution."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...method.wta import winner_mask, winner_take_all
from .engine import Case, Exercise, Mistake


def _lines() -> Iterator[Case]:
    order = "in which order do shift, gate and ReLU come?"
    inside = "add beta to z first, then multiply by the gate, then ReLU"
    shapes = "which axes of z do pi and beta belong to?"
    axes = "give pi and beta size 1 in height and width: pi[:, :, None, None]"
    for shape in ([2, 3, 4, 5], [3, 3, 3, 3], [1, 4, 2, 2]):
        z, beta = torch.randn(shape), torch.randn(shape[1])
        pi = winner_take_all(2 * torch.rand(shape[:2]), 0.5)
        y = (pi[:, :, None, None] * (z + beta[:, None, None])).relu()
        square = shape[0] == shape[1]
        yield Case((z, pi, beta), y, shapes if square else order, axes if square else inside)


def _wide(pi: Tensor) -> Tensor:
    return pi[:, :, None, None]


def _tall(beta: Tensor) -> Tensor:
    return beta[:, None, None]


check_gated_output = Exercise(
    "gated_output(z, pi, beta): the layer's last line, z [N, C, H, W], pi [N, C], beta [C]",
    _lines,
    "it is the layer's last line, on 3 random batches.",
    (
        Mistake(
            lambda z, pi, beta: (_wide(pi) * z + _tall(beta)).relu(),
            "you add beta after the gate, so that losers are not 0",
        ),
        Mistake(
            lambda z, pi, beta: _wide(pi) * (z + _tall(beta)),
            "you leave the ReLU out",
        ),
        Mistake(lambda z, pi, beta: (_wide(pi) * z).relu(), "you leave beta out"),
        Mistake(lambda z, pi, beta: (z + _tall(beta)).relu(), "you leave the gate out"),
        Mistake(
            lambda z, pi, beta: (_wide((pi > 0).float()) * (z + _tall(beta))).relu(),
            "you use which channels won, and forget how large their gates are",
        ),
        Mistake(
            lambda z, pi, beta: (_wide(pi[:1]) * (z + _tall(beta))).relu(),
            "you use the first image's gate for all",
        ),
        Mistake(
            lambda z, pi, beta: (pi * (z + beta)).relu(),
            "you lay pi and beta along the columns of the maps",
        ),
    ),
)


def _gates() -> Iterator[Case]:
    first = "which comes first, selecting or scaling? The mean of what becomes 1?"
    after = "select first, then divide each row by its own mean over all C channels"
    g = torch.rand(3, 8)
    for density in (0.5, 1.0):
        pi = winner_take_all(g, density)
        yield Case((g, density), pi / pi.mean(dim=1, keepdim=True), first, after)
    g = torch.stack([torch.rand(8), torch.zeros(8)])
    pi = winner_take_all(g, 0.25)
    pi[1, :2] = 1.0
    zeros = "a row of zeros is 0 / 0: what shall its winners have?"
    share = "there its k winners (the lower indices) share: C / k each"
    yield Case((g, 0.25), pi / pi.mean(dim=1, keepdim=True), zeros, share)


def _mean_one(pi: Tensor) -> Tensor:
    return pi / pi.mean(dim=1, keepdim=True)


def _filled(g: Tensor, density: float, with_what: Tensor) -> Tensor:
    pi = winner_take_all(g, density)
    return torch.where(pi.sum(dim=1, keepdim=True) > 0, pi, with_what)


check_mean_one_gate = Exercise(
    "mean_one_gate(g, density): winner-take-all, then the gates of each image have mean 1",
    _gates,
    "mean 1 in every row, a row of zeros included.",
    (
        Mistake(lambda g, d: _mean_one(winner_take_all(g, d)), "a row of zeros becomes 0 / 0, NaN"),
        Mistake(
            lambda g, d: torch.nan_to_num(_mean_one(winner_take_all(g, d))),
            "a row of zeros stays 0: such an image loses the whole layer",
        ),
        Mistake(
            lambda g, d: (
                winner_take_all(g, d) / (winner_take_all(g, d).mean(dim=1, keepdim=True) + 1e-8)
            ),
            "a row of zeros stays 0: such an image loses the whole layer",
        ),
        Mistake(
            lambda g, d: winner_take_all(_mean_one(g), d),
            "you scale before you select, so that the mean is 1 only at first",
        ),
        Mistake(
            lambda g, d: (
                _filled(g, d, winner_mask(g, d).float())
                / _filled(g, d, winner_mask(g, d).float()).sum(dim=1, keepdim=True)
            ),
            "the gates of an image sum to 1, but it is their mean that should be 1",
        ),
        Mistake(
            lambda g, d: _mean_one(_filled(g, d, winner_mask(g, d).float())) * d,
            "you take the mean over the winners, not over all channels",
        ),
        Mistake(
            lambda g, d: winner_take_all(g, d) / winner_take_all(g, d).mean(),
            "you use one mean for the whole batch, and each image should have its own",
        ),
        Mistake(
            lambda g, d: _mean_one(_filled(g, d, torch.ones_like(g))),
            "in a row of zeros you let all channels win, not k",
        ),
        Mistake(lambda g, d: winner_take_all(g, d), "you select, and do not scale"),
    ),
)
