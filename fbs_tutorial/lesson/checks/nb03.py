"""The exercises of notebook 03, Winner-take-all."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil, floor

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...method.wta import winner_mask, winner_take_all
from .engine import Case, Exercise, Mistake, draw


def _counts() -> Iterator[Case]:
    slip = "is density * channels exact in floating point?"
    hair = "density * channels in floating point can land a hair above a whole number"
    up = "which way does a density round?"
    never = "round up: a density never gives fewer channels than its share"
    few = "even the smallest density leaves one channel"
    for channels, hundredths, hint, more in [
        (8, 50, up, never),
        (10, 31, up, never),
        (3, 1, "what does a very small density leave?", few),
        (100, 55, slip, hair),
        (100, 7, slip, hair),
        (50, 14, slip, hair),
        *((int(c), int(h), slip, hair) for c, h in zip(draw(1, 200), draw(1, 101), strict=True)),
    ]:
        expected = max(1, ceil(Fraction(hundredths, 100) * channels))
        yield Case((channels, hundredths / 100), expected, hint, more)


check_active_channels = Exercise(
    "active_channels(channels, density): ceil(density * channels), without a float slip",
    _counts,
    "k is right for 26 pairs of channels and density.",
    (
        Mistake(lambda c, d: max(1, ceil(c * d)), "a float slip makes one channel too many"),
        Mistake(lambda c, d: max(1, floor(c * d)), "you round down, and keep at least one"),
        Mistake(lambda c, d: floor(c * d), "you round down, so that k can be 0"),
        Mistake(lambda c, d: round(c * d), "you round to the nearest, so that k can be too small"),
        Mistake(lambda c, d: max(1, round(c * d)), "you round to the nearest"),
        Mistake(lambda c, d: c * d, "you do not round: k is not a whole number"),
        Mistake(
            lambda c, d: floor(c * d) + 1, "you add 1 to the floor, also to what is whole already"
        ),
    ),
)


class _UnstableSorts(TorchDispatchMode):
    """Counts sorts and top-ks of rows with equal values, which may come out in any order."""

    count = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        keywords = keywords or {}
        aten = torch.ops.aten
        unstable = operator in (aten.sort.default, aten.topk.default)
        if operator is aten.sort.stable:
            unstable = not keywords.get("stable")
        self.count += unstable and _has_ties(arguments[0])
        return operator(*arguments, **keywords)


def _has_ties(values: Tensor) -> bool:
    return any(len(row.unique()) < len(row) for row in values.reshape(-1, values.shape[-1]))


def _sorts_safely(function: Callable, g: Tensor, density: float) -> str:
    """Right with ties, and not by luck: a plain sort may put equal values in any order."""
    with _UnstableSorts() as sorts:
        got = function(g, density)
    if torch.equal(got, winner_take_all(g, density)):
        return "ties are broken by chance" if sorts.count else SAFE
    return "another choice among ties"


SAFE = "ties go to the lower index"


def _gradient(function: Callable, g: Tensor, density: float) -> Tensor:
    """The gradient with respect to g of 1·y_0 + 2·y_1 + ..."""
    leaf = g.clone().requires_grad_()
    y = function(leaf, density)
    if not y.requires_grad:
        return torch.zeros_like(g)
    return torch.autograd.grad((y * torch.arange(1.0, g.shape[1] + 1)).sum(), leaf)[0]


def _batches() -> Iterator[Case]:
    keep = "what becomes of a winner's value, and of a loser's?"
    plain = "keep the ceil(d * C) largest values of each row, set the rest to 0"
    ties = "here values are equal at the cut: which of them win, and how many?"
    lower = "the lower index wins, so that k is exact: argsort(stable=True)"
    each = "density is a tensor [N] here: row i has its own k"
    g = torch.rand(3, 8)
    yield Case((g, 0.5), winner_take_all(g, 0.5), keep, plain)
    yield Case((g, 0.3), winner_take_all(g, 0.3), keep, plain)
    tied = torch.randint(1, 4, (4, 10)).float()
    yield Case((tied, 0.3), winner_take_all(tied, 0.3), ties, lower)
    more = torch.arange(1.0, 9) * winner_mask(g, 0.5)
    yield Case((g, 0.5), more, "these are gradients: a winner's value must keep its", ask=_gradient)
    rows, density = torch.rand(4, 10), torch.tensor([0.1, 0.55, 1.0, 0.3])
    yield Case((rows, density), winner_take_all(rows, density), each, f"{each}, a tensor [N, 1]")
    wide = torch.rand(2, 100)
    slip = "k has a rounding slip"
    hair = f"{slip}: 0.55 * 100 is a little more than 55"
    yield Case((wide, 0.55), winner_take_all(wide, 0.55), slip, hair)
    density = torch.tensor([0.07, 0.55], dtype=torch.float64)
    yield Case((wide, density), winner_take_all(wide, density), slip, hair)
    density = torch.tensor([1e-8, 0.5], dtype=torch.float64)
    yield Case((wide, density), winner_take_all(wide, density), "k is at least 1")
    yield Case((tied, 0.3), SAFE, "equal values may come in any order here", lower, _sorts_safely)


def _k(g: Tensor, density: float | Tensor) -> Tensor:
    exact = torch.as_tensor(density, dtype=torch.float64).reshape(-1, 1)
    return ((exact - 1e-7) * g.shape[1]).ceil().clamp(min=1)


def _places(g: Tensor, stable: bool = True, descending: bool = True) -> Tensor:
    return g.argsort(dim=1, descending=descending, stable=stable).argsort(dim=1, stable=True)


def _threshold(g: Tensor, density: float | Tensor) -> Tensor:
    ordered = g.sort(dim=1, descending=True, stable=True).values
    last = ordered.gather(1, _k(g, density).long().expand(len(g), 1) - 1)
    return torch.where(g >= last, g, 0.0)


def _slipping(g: Tensor, density: float | Tensor) -> Tensor:
    k = (torch.as_tensor(density, dtype=torch.float64).reshape(-1, 1) * g.shape[1]).ceil()
    return torch.where(_places(g) < k.clamp(min=1), g, 0.0)


def _one_density(g: Tensor, density: float | Tensor) -> Tensor:
    first = torch.as_tensor(density).reshape(-1)[0].item()
    return torch.where(_places(g) < _k(g, first), g, 0.0)


def _rounded_down(g: Tensor, density: float | Tensor) -> Tensor:
    k = (torch.as_tensor(density, dtype=torch.float64).reshape(-1, 1) * g.shape[1] + 1e-7).floor()
    return torch.where(_places(g) < k.clamp(min=1), g, 0.0)


def _across_images(g: Tensor, density: float | Tensor) -> Tensor:
    places = g.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return torch.where(places < _k(g, density), g, 0.0)


check_winner_take_all = Exercise(
    "winner_take_all(g, density): [N, C] -> [N, C]; density a number or a tensor [N]",
    _batches,
    "right on plain rows, ties and one density per image, and gradients flow.",
    (
        Mistake(lambda g, d: g, "you return g as it came"),
        Mistake(_threshold, "you keep all values as large as the k-th, so ties let in too many"),
        Mistake(_slipping, "a float slip gives some rows one winner too many"),
        Mistake(_one_density, "you use the first density for all rows"),
        Mistake(_rounded_down, "you round k down"),
        Mistake(_across_images, "you sort along the images, not along the channels"),
        Mistake(
            lambda g, d: torch.where(_places(g, descending=False) < _k(g, d), g, 0.0),
            "you keep the smallest values",
        ),
        Mistake(
            lambda g, d: winner_mask(g, d).float(),
            "you return who won, not the values",
        ),
        Mistake(
            lambda g, d: winner_take_all(g, d).detach(),
            "the result is cut off from autograd: with .detach() or .data nothing can train",
        ),
        Mistake(
            lambda g, d: torch.where(_places(g, stable=False) < _k(g, d), g, 0.0),
            "you sort without stable=True: equal values may come in any order",
        ),
    ),
)


def _upstreams() -> Iterator[Case]:
    for density in (0.25, 0.5, 1.0):
        g, upstream = torch.rand(3, 8).sub(0.4).relu(), torch.randn(3, 8)  # zeros can win
        expected = torch.where(winner_mask(g, density), upstream, 0.0)
        hint = "does a loser reach the output? What happens to a winner on its way there?"
        more = "a winner is copied, so its gradient is copied; a loser does not reach the output"
        yield Case((g, density, upstream), expected, hint, more)


check_winner_take_all_backward = Exercise(
    "winner_take_all_backward(g, density, upstream): the gradient with respect to g",
    _upstreams,
    "it is what autograd computes, at 3 densities.",
    (
        Mistake(lambda g, d, up: up, "you let the losers' gradients through, too"),
        Mistake(
            lambda g, d, up: up * (winner_take_all(g, d) != 0),
            "you take every zero of the output for a loser, but a winner can be 0",
        ),
        Mistake(lambda g, d, up: up * winner_take_all(g, d), "you multiply by the winners' values"),
        Mistake(lambda g, d, up: winner_take_all(up, d), "you select by upstream, not by g"),
        Mistake(
            lambda g, d, up: torch.where(winner_mask(g, d), 0.0, up),
            "you keep the losers' gradients, not the winners'",
        ),
        Mistake(lambda g, d, up: winner_mask(g, d).float(), "you leave upstream out"),
    ),
)
