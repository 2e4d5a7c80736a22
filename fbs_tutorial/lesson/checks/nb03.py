"""The exercises of notebook 03, Winner-take-all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from numbers import Real

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...method.wta import winner_mask, winner_take_all
from .engine import Case, Exercise, Experiment, Mistake, Operators, plainly


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


def _plainly(function: Callable, *arguments: object) -> Tensor:
    """What it returns; and where argsort refuses an axis without a name, that in plain words."""
    try:
        return function(*arguments)
    except TypeError as error:
        if "argsort() takes" not in str(error):
            raise
        told = "with stable=, argsort wants its axis by name: argsort(dim=1, stable=True, ...)"
        raise TypeError(told) from error


def _batches() -> Iterator[Case]:
    for case in _budgets():
        yield replace(case, ask=_plainly) if case.ask is plainly else case


def _budgets() -> Iterator[Case]:
    """Budgets first, then ties: k must be right before anybody can say who wins at the cut."""
    keep = "what becomes of a winner's value, and of a loser's?"
    plain = "keep the ceil(d * C) largest values of each row, set the rest to 0"
    ties = "here values are equal at the cut: which of them win, and how many?"
    lower = "the lower index wins, so that k is exact: argsort(stable=True)"
    each = "density is a tensor [N] here: row i has its own k"
    g = torch.rand(3, 8)
    yield Case((g, 0.5), winner_take_all(g, 0.5), keep, plain)
    yield Case((g, 0.3), winner_take_all(g, 0.3), keep, plain)
    slip = "k has a rounding slip: what should be whole is a little more, and ceil lets one in"
    for channels, density in ((100, 0.55), (25, 0.6), (50, 0.3)):
        wide = torch.rand(2, channels)
        hair = f"{density} * {channels} can be a hair too large: take a ten-millionth off first"
        yield Case((wide, density), winner_take_all(wide, density), slip, hair)
    rows, density = torch.rand(4, 10), torch.tensor([0.1, 0.55, 1.0, 0.3])
    yield Case((rows, density), winner_take_all(rows, density), each, f"{each}, a tensor [N, 1]")
    wide, hair = torch.rand(2, 100), "0.07 * 100 and 0.55 * 100 can be a hair too large"
    for kind in (torch.float32, torch.float64):
        density = torch.tensor([0.07, 0.55], dtype=kind)
        yield Case((wide, density), winner_take_all(wide, density), slip, hair)
    yield Case((wide, density), winner_take_all(wide, density), slip, hair)
    density = torch.tensor([1e-8, 0.5], dtype=torch.float64)
    yield Case((wide, density), winner_take_all(wide, density), "k is at least 1")
    tied = torch.randint(1, 4, (4, 10)).float()
    yield Case((tied, 0.3), winner_take_all(tied, 0.3), ties, lower)
    more = torch.arange(1.0, 9) * winner_mask(g, 0.5)
    yield Case((g, 0.5), more, "these are gradients: a winner must keep its own", ask=_gradient)
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


def _single(g: Tensor, density: float | Tensor) -> Tensor:
    k = (torch.as_tensor(density, dtype=torch.float32).reshape(-1, 1) * g.shape[1]).ceil()
    return torch.where(_places(g) < k.clamp(min=1), g, 0.0)


def _widened(g: Tensor, density: float | Tensor) -> Tensor:
    k = (torch.as_tensor(density).reshape(-1, 1).double() * g.shape[1]).ceil()
    return torch.where(_places(g) < k.clamp(min=1), g, 0.0)


def _one_argsort(g: Tensor, density: float | Tensor) -> Tensor:
    order = g.argsort(dim=1, descending=True, stable=True)
    return torch.where(order < _k(g, density), g, 0.0)


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
        Mistake(_single, "you round k up in float32, where 0.6 * 25 is a little more than 15"),
        Mistake(
            _widened,
            "you widen a float32 density to float64: 0.3 is then 0.30000001, and k one too many",
        ),
        Mistake(
            _one_argsort,
            "you take the order for the places: an argsort says who is first, its argsort says "
            "at which place each one stands",
        ),
        Mistake(_one_density, "you use the first density for all rows"),
        Mistake(
            lambda g, d: torch.where(_places(g.flip(1)).flip(1) < _k(g, d), g, 0.0),
            "of equal values you let the higher index win: the lower one does",
        ),
        Mistake(
            lambda g, d: winner_take_all(g, d) * g.shape[1] / _k(g, d).float(),
            "you scale the winners up to make up for the losers, as dropout does",
        ),
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


# An experiment: who may compete while the predictor learns?

KINDS, CHANNELS, WINNERS = 6, 12, 2
SEEDS, CHEAP = 3, 0.2  # of the mean density over a training


def learn_the_choice(
    schedule: Callable[[float], float], seed: int = 0, steps: int = 300
) -> tuple[Tensor, Tensor, list[float]]:
    """Train the predictor of a small layer under a schedule of densities.

    There are six kinds of images, and each needs two of the layer's twelve channels for itself.
    Measured saliency says only which kind it is. In the end the two winners alone count.

    Args:
        schedule: ``progress`` from 0 to 1 -> the density at that point of the training.

    Returns:
        Which channels each kind needs, bool ``[kinds, C]``, which of them win for it in the end,
        and all densities.
    """
    start = torch.Generator().manual_seed(seed)
    needed = torch.eye(KINDS).repeat_interleave(WINNERS, dim=1)  # [kinds, channels]
    weight = (0.1 * torch.randn(CHANNELS, KINDS, generator=start)).requires_grad_()
    bias = torch.full((CHANNELS,), 0.3, requires_grad=True)
    densities = [schedule(step / steps) for step in range(steps)]
    for density in densities:
        pi = winner_take_all((weight.T + bias).relu(), density)  # s is 1 for the image's kind
        loss = (pi - needed).pow(2).sum(dim=1).mean()
        slopes = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.1 * slopes[0]
            bias -= 0.1 * slopes[1]
    pi = winner_take_all((weight.T + bias).relu(), WINNERS / CHANNELS)
    return needed > 0, (pi > 0.5) & (needed > 0), densities


def _tried(schedule: Callable, first: int = 0) -> tuple[int, list[float]]:
    """Channels found in all seeds together, and the densities of the training."""
    runs = [learn_the_choice(schedule, seed) for seed in range(first, first + SEEDS)]
    return sum(int(found.sum()) for _, found, _ in runs), runs[0][2]


@cache
def _from_the_start(first: int) -> int:
    return _tried(lambda progress: WINNERS / CHANNELS, first)[0]


def _is_schedule(function: Callable, progress: list[float]) -> str | None:
    values = [function(at) for at in progress]
    if None in values:
        return None
    for at, value in zip(progress, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= 1:
            return f"{value!r} at progress {at}, which is no number above 0 and at most 1"
    return "densities"


def _schedules(progress: Sequence[float] = (0.0, 0.1, 0.5, 0.9)) -> Iterator[Case]:
    hint = "progress goes from 0 to 1, and a density is above 0 and at most 1"
    more = "for example: return 1.0 if progress < 0.5 else 2 / 12"
    yield Case((list(progress),), "densities", hint, more, ask=_is_schedule)


def _how_many_found(function: Callable, first: int = 0, missing: int = 0) -> tuple[bool, str]:
    """What three small layers find with this schedule, and at what density.

    ``first``: seed of the first of them; ``missing``: so many channels need not be found.
    """
    (found, densities), flat = _tried(function, first), _from_the_start(first)
    total, cost = SEEDS * CHANNELS, sum(densities) / len(densities)
    said = (
        f"{found} of {total} channels found at a mean density of {cost:.2f}.\n"
        f"  Two winners from the first step on: {flat} of {total} at {WINNERS / CHANNELS:.2f}."
    )
    if (
        found < total - missing
        and (last := int(_k(torch.empty(1, CHANNELS), densities[-1]))) < WINNERS
    ):
        return False, f"{said} In the end {WINNERS} may win, and you let {last}."
    if found < total - missing:
        return False, f"{said} Who never got a chance?"
    least = WINNERS / CHANNELS
    more = f"That is {(cost - least) / least:.0%} more work than two winners all along."
    if cost > CHEAP:
        return False, f"{said} All found. {more} Now with a mean below {CHEAP}!"
    return True, f"{said} {more} How low can you go?"


check_my_schedule = Experiment(
    "my_schedule(progress): the density at this point of the training, from 0 to 1",
    _schedules,
    "a schedule.",
    (
        Mistake(lambda progress: 1 - progress / 0.9, "the density reaches 0, or falls below it"),
        Mistake(lambda progress: progress, "the density rises from 0 instead of falling from 1"),
        Mistake(
            lambda progress: 12 - 10 * progress, "you return a number of channels, not a share"
        ),
        Mistake(lambda progress: torch.tensor(0.5), "you return a tensor, not a number"),
    ),
    judge=_how_many_found,
)


# A puzzle: the places without a sort


SORTS = {"sort", "argsort", "topk", "kthvalue", "msort", "unique", "_unique2"}


def _unsorted(function: Callable, g: Tensor) -> str:
    with Operators() as ran:
        got = function(g)
    if not torch.equal(got, _places(g)):
        return "other places"
    return "right, but sorted" if ran.names & SORTS else "right, without a sort"


def _rows() -> Iterator[Case]:
    count = "how many channels are ahead of this one?"
    more = "those that are larger; and of those that are equal, the ones with a lower index"
    g = torch.rand(3, 6)
    yield Case((g,), _places(g), count, more)
    tied = torch.randint(0, 3, (4, 9)).float()
    yield Case((tied,), _places(tied), "here some are equal: which of them is ahead?", more)
    plain = "compare every channel with every other: [N, C, 1] with [N, 1, C]"
    yield Case((tied,), "right, without a sort", "no sort and no topk here", plain, ask=_unsorted)


def _ahead(g: Tensor, equal: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Larger ones, and of the equal ones those that ``equal`` keeps of a matrix [C, C]."""
    mine, other = g[:, :, None], g[:, None, :]
    ahead = other > mine
    if equal is not None:
        ahead = ahead | ((other == mine) & equal(torch.ones(g.shape[1], g.shape[1])).bool())
    return ahead.sum(dim=2)


check_places = Exercise(
    "place_of(g): [N, C] -> [N, C], 0 for the largest of each row, without sorting",
    _rows,
    "every channel knows its place, and nothing was sorted.",
    (
        Mistake(_ahead, "equal channels share a place: the lower index should be ahead"),
        Mistake(lambda g: _ahead(g, torch.ones_like), "a channel is ahead of itself"),
        Mistake(lambda g: _ahead(g, lambda one: one.triu(1)), "of equal channels the higher wins"),
        Mistake(lambda g: (g[:, None] < g[:, :, None]).sum(2), "you count those that are smaller"),
        Mistake(_places, "you sort: compare the channels with each other instead"),
        Mistake(
            lambda g: g.argsort(dim=1, descending=True, stable=True),
            "this is the order of the channels; their places are its inverse",
        ),
    ),
)
