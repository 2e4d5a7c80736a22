"""The exercises of notebook 07, What do the gates know?"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from ...checkpoints import load_pretrained
from ...method.budgets import Look, confidence, look_once
from ...method.wta import winner_mask
from .engine import Case, Exercise, Experiment, Mistake, digits_to_judge

# Exercise 1: who looks again


def _answers() -> Iterator[Case]:
    what = "what is compared with the threshold: a score, a class, or a probability?"
    more = "the largest entry of each row after softmax, and `<`"
    for n, threshold in [(6, 0.5), (9, 0.9)]:
        logits = 3 * torch.randn(n, 4)
        yield Case((logits, threshold), confidence(logits) < threshold, what, more)
    ties = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    edge = "an image exactly at the threshold is sure"
    yield Case((ties, 0.5), torch.tensor([False, False]), edge)


def _largest(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1).amax(dim=1)


check_unsure = Exercise(
    "unsure(logits, threshold): bool [N], which images are looked at again",
    _answers,
    "right for clear and for doubtful answers, and exactly at the threshold.",
    (
        Mistake(lambda x, t: _largest(x) >= t, "you mark the images that are sure"),
        Mistake(lambda x, t: _largest(x) <= t, "an image exactly at the threshold looks again"),
        Mistake(lambda x, t: x.amax(dim=1) < t, "you compare logits, not probabilities"),
        Mistake(
            lambda x, t: x.softmax(dim=0).amax(dim=1) < t,
            "your softmax runs over the images instead of the classes",
        ),
        Mistake(
            lambda x, t: x.softmax(dim=1) < t,
            "you compare every class, so that there is a row per image instead of one answer",
        ),
    ),
)

# Exercise 2: a better control


def choice_only(own: Tensor, reference: Tensor) -> Tensor:
    """Own winners ``[N, C]``; each value is the channel's mean over the images it won for."""
    won = (reference != 0).sum(dim=0).clamp(min=1)  # [C]
    return torch.where(own != 0, reference.sum(dim=0) / won, 0.0)


def _gates() -> Iterator[Case]:
    values = "over which images do you average a channel's value?"
    winners = "over those of the reference for which the channel wins: elsewhere it is not used"
    for n, m, c, density in [(4, 6, 5, 0.4), (3, 8, 6, 0.5)]:
        own, reference = (_some_gates(rows, c, density) for rows in (n, m))
        yield Case((own, reference), choice_only(own, reference), values, winners)
    own = torch.tensor([[0.0, 2.0, 1.0]])
    reference = torch.tensor([[4.0, 0.0, 6.0], [2.0, 0.0, 0.0]])
    never = "channel 1 wins for no reference image: its value should be 0, not NaN"
    yield Case((own, reference), torch.tensor([[0.0, 0.0, 6.0]]), never, "clamp the count at 1")


def _some_gates(rows: int, channels: int, density: float) -> Tensor:
    g = torch.rand(rows, channels) + 0.1
    return g * winner_mask(g, density)


def _won_mean(gates: Tensor) -> Tensor:
    return gates.sum(dim=0) / (gates != 0).sum(dim=0).clamp(min=1)


check_choice_only = Exercise(
    "choice_only(own, reference): [N, C], own winners, each with its channel's usual value",
    _gates,
    "own choice, nobody's own values, and a channel that never won is 0.",
    (
        Mistake(
            lambda own, ref: torch.where(own != 0, ref.mean(dim=0), 0.0),
            "your mean counts images for which the channel lost: a rare winner gets far too little",
        ),
        Mistake(
            lambda own, ref: torch.where(own != 0, ref.sum(0) / (ref != 0).sum(0), 0.0),
            "a channel that never won is divided by 0",
        ),
        Mistake(
            lambda own, ref: torch.where(own != 0, _won_mean(own), 0.0),
            "the values come from the images under test: they are still partly their own",
        ),
        Mistake(
            lambda own, ref: _won_mean(ref).expand_as(own),
            "every channel has a value: the choice is gone",
        ),
        Mistake(
            lambda own, ref: own * _won_mean(ref),
            "you multiply own values by the usual ones, instead of replacing them",
        ),
        Mistake(
            lambda own, ref: (
                torch.where(own != 0, own.sum(1) / (own != 0).sum(1), 0.0)
                if len(own) == own.shape[1]
                else torch.where(own != 0, (own.sum(1) / (own != 0).sum(1))[:, None], 0.0)
            ),
            "you average over the channels of an image, not over images",
        ),
    ),
)

# Exercise 3: beat the threshold

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
FIRST, SECOND = 0.2, 0.5  # densities of the any-density network


def _behaves(function: Callable, logits: Tensor) -> str:
    """What is wrong with a measure of sureness, in words."""
    got = function(logits)
    if got is None:
        return None
    if not isinstance(got, Tensor) or got.shape != (len(logits),):
        shape = list(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return f"{shape} instead of one number per image"
    if got.dtype == torch.bool or not got.is_floating_point():
        return "whole numbers, which cannot rank images finely"
    if not got.isfinite().all():
        return "a number that is not finite"
    return GOOD if got[0] > got[1] else "a lower number for the surer image"


GOOD = "one finite number per image, higher for the surer"


def _clear_cases(top: float = 8.0, near: float = 1.9, far: float = 200.0) -> Iterator[Case]:
    shape = "what comes out for one row of logits?"
    sure = "the first image's answer is clear, the second's is not: which should get more?"
    clear, torn = torch.zeros(10), torch.zeros(10)
    clear[3], torn[3], torn[5] = top, 2.0, near
    yield Case((torch.stack([clear, torn]),), GOOD, shape, sure, ask=_behaves)
    clear, torn = torch.full((10,), -far), torch.zeros(10)
    clear[0] = far
    extreme = "logits may be large: 0 times the logarithm of 0 is NaN"
    yield Case((torch.stack([clear, torn]),), GOOD, extreme, "log_softmax is finite", ask=_behaves)


@cache
def _looks(part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both looks ``[N, 10]`` and labels, of "validation" or "test" digits."""
    images, labels = digits_to_judge(test=part == "test")
    network = load_pretrained("digits")
    logits = [look_once(Look(network, d), images, counted=False)[0] for d in (FIRST, SECOND)]
    return *logits, labels


def mean_accuracy(sureness: Tensor, first: Tensor, second: Tensor) -> float:
    """Mean over `SHARES` of the accuracy when the least sure of the images look again.

    ``first``, ``second``: bool ``[N]``, whether each look is right.
    """
    order, total = sureness.argsort(stable=True), 0.0
    for share in SHARES:
        again = torch.zeros_like(first)
        again[order[: round(share * len(order))]] = True
        total += torch.where(again, second, first).double().mean().item()
    return total / len(SHARES)


def _how_right(function: Callable, test: bool = False) -> tuple[bool, str]:
    """How right the second looks are that this measure chooses, beside three others."""
    part = "test" if test else "validation"
    first, second, labels = _looks(part)
    right = [look.argmax(dim=1) == labels for look in (first, second)]
    best = right[0].double() - right[1].double()  # the oracle: who gains goes first
    chance = torch.rand(len(labels), generator=torch.Generator().manual_seed(0))
    scores = {"yours": function(first.clone()), "the largest probability": confidence(first)}
    scores |= {"by chance": chance, "who knows the labels": best}
    said = [f"{100 * mean_accuracy(s, *right):6.2f} %  {name}" for name, s in scores.items()]
    head = f"{part} images right, mean over six shares that look again:"
    return True, "\n  ".join([head, *said])


check_sureness = Experiment(
    "sureness(logits): [N], higher for the images that need no second look",
    _clear_cases,
    "a measure of sureness.",
    (
        Mistake(
            lambda x: -(x.softmax(1) * x.log_softmax(1)).sum(1),
            "you return the entropy itself, which is highest for the unsure: turn its sign",
        ),
        Mistake(lambda x: x.argmax(1), "you return the class that is answered"),
        Mistake(lambda x: x.softmax(1), "you return a probability for every class"),
        Mistake(lambda x: x.softmax(1).amax(), "you return one number for the whole batch"),
        Mistake(
            lambda x: (x.softmax(1) * x.softmax(1).log()).sum(1),
            "you take the logarithm of a probability that may be 0",
        ),
    ),
    judge=_how_right,
)

# Exercise 4: a dial


def threshold_for(confidence: Tensor, first: int, second: int, budget: int) -> float:
    """The highest threshold, at most 1, that keeps the mean MACs within the budget."""
    if budget < first:
        return 0.0
    looks = (budget - first) * len(confidence) // second  # so many may look again
    ordered = confidence.sort().values.tolist()
    return ordered[looks] if looks < len(ordered) else 1.0


def _budgets() -> Iterator[Case]:
    pays = "who pays for the first look, and who for the second?"
    count = "how many images can be looked at again? The next one must not be below the threshold"
    for n, first, second, budget in [(20, 40, 50, 80), (8, 10, 100, 60), (12, 7, 30, 20)]:
        c = torch.rand(n).clamp(0.1, 0.99)
        yield Case((c, first, second, budget), threshold_for(c, first, second, budget), pays, count)
    tied = torch.tensor([0.5, 0.75, 0.75, 0.75, 0.875])
    tie = "three images are equally sure: they look again together, or none of them does"
    yield Case((tied, 10, 10, 16), 0.75, tie, "below, not at: `<` leaves tied images out")
    rich = "the budget is larger than both looks of every image"
    yield Case((tied, 10, 10, 50), 1.0, rich)
    yield Case((tied, 10, 10, 5), 0.0, "the budget does not even pay for the first look")


def _sorted_at(confidence: Tensor, place: int) -> float:
    ordered = confidence.sort().values.tolist()
    return ordered[max(place, 0)] if place < len(ordered) else 1.0


def _dial(c: Tensor, first: int, second: int, budget: int, change: int = 0) -> float:
    looks = (budget - first) * len(c) // second
    return 0.0 if budget < first else _sorted_at(c, looks + change)


check_threshold_for = Exercise(
    "threshold_for(confidence, first, second, budget): the highest threshold within the budget",
    _budgets,
    "within the budget, ties and empty purses included: a dial for any network.",
    (
        Mistake(lambda c, f, s, b: _dial(c, f, s, b, -1), "one image less than you can pay for"),
        Mistake(lambda c, f, s, b: _dial(c, f, s, b, 1), "one image more than you can pay for"),
        Mistake(
            lambda c, f, s, b: _sorted_at(c, b * len(c) // s),
            "you forget that the first look is paid for by every image",
        ),
        Mistake(
            lambda c, f, s, b: 0.0 if b < f else _sorted_at(c, (b - f) * len(c) // (f + s)),
            "you charge the first look twice to those who look again",
        ),
        Mistake(
            lambda c, f, s, b: c.quantile(min(max((b - f) / s, 0.0), 1.0)).item(),
            "a quantile lies between two images, and rounds to whichever side it likes",
        ),
        Mistake(
            lambda c, f, s, b: 0.0 if b < f else c.sort().values.tolist()[(b - f) * len(c) // s],
            "a budget that pays for all images makes you look for one more than there is",
        ),
    ),
)
