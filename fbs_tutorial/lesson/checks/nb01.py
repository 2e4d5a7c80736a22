"""The exercises of notebook 01, Static or dynamic."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from math import comb

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import one_hot as one_hot_of

from ...checkpoints import load_pretrained
from ...data import load_data, stratified_split
from ...method.wta import winner_mask
from .engine import Case, CheckResult, Exercise, Experiment, Mistake

# Exercise 1: how few channels can be in common


def fewest_shared(sets: int, size: int, channels: int) -> float:
    """The least mean number of channels that two of several sets have in common."""
    often, more = divmod(sets * size, channels)  # so often is a channel used, `more` once more
    pairs = more * comb(often + 1, 2) + (channels - more) * comb(often, 2)
    return pairs / comb(sets, 2)


def _rounded(function: Callable, *arguments: int) -> float:
    return round(float(function(*arguments)), 4)


SIZES = ((3, 2, 3), (10, 16, 64), (4, 5, 30), (5, 6, 7))  # sets, size, channels


def _sets(all_sizes: Sequence[tuple[int, int, int]] = SIZES) -> Iterator[Case]:
    often = "how often is each channel used, if all are used equally often or nearly so?"
    pairs = "a channel that r sets use is shared by r * (r - 1) / 2 pairs of them"
    for sizes in all_sizes:
        expected = _rounded(fewest_shared, *sizes)
        yield Case(sizes, expected, often, pairs, ask=_rounded)


check_fewest_shared = Exercise(
    "fewest_shared(sets, size, channels): the least mean number that two sets have in common",
    _sets,
    "no sets can share fewer.",
    (
        Mistake(
            lambda s, k, c: k * k / c,
            "you return what sets drawn at random share: they can share fewer",
        ),
        Mistake(
            lambda s, k, c: c * (s * k / c) * (s * k / c - 1) / s / (s - 1),
            "you let a channel be used two and a half times: it is used a whole number of times",
        ),
        Mistake(lambda s, k, c: 0.0, "you hope that the sets need not overlap"),
        Mistake(
            lambda s, k, c: c * comb(s * k // c, 2) / comb(s, 2),
            "you let all channels be used equally often, and forget the uses that are left over",
        ),
        Mistake(
            lambda s, k, c: max(0, 2 * k - c),
            "you look at two sets alone: the others take up room as well",
        ),
        Mistake(
            lambda s, k, c: fewest_shared(s, k, c) * comb(s, 2),
            "you add up over all pairs, and do not divide by their number",
        ),
        Mistake(
            lambda s, k, c: fewest_shared(s, k, c) * comb(s, 2) / s,
            "you divide by the number of sets, not of pairs",
        ),
    ),
)

# Exercise 2: channels in common, of every two classes


def in_common(chosen: Tensor, labels: Tensor) -> Tensor:
    """Mean number of common channels of two images, one of each of two classes: ``[K, K]``."""
    return _means(_shared(chosen), labels)


def _choices() -> Iterator[Case]:
    pairs = "which pairs of images belong to which place of [K, K]?"
    itself = "no image is a pair with itself: n images of a class make n * (n - 1) ordered pairs"
    for n, c in [(9, 8), (14, 12)]:
        labels = torch.randint(0, 3, (n,))
        labels[:6] = torch.tensor([0, 0, 1, 2, 1, 2])
        chosen = winner_mask(torch.rand(n, c), 0.5)
        chosen[: n // 3] = winner_mask(torch.rand(n // 3, c), 0.25)  # sets of two sizes
        expected = in_common(chosen, labels)
        yield Case((chosen, labels), expected, pairs, itself, axes=("class", "class"), ask=_doubles)


def _doubles(function: Callable, *arguments: Tensor) -> object:
    try:
        found = function(*arguments)
    except RuntimeError as error:
        if "'Bool'" not in str(error):
            raise
        raise TypeError("PyTorch multiplies no matrices of True and False: .double()") from error
    return found.double() if isinstance(found, Tensor) else found


def _shared(chosen: Tensor) -> Tensor:
    return chosen.double() @ chosen.double().T


def _sums(shared: Tensor, labels: Tensor) -> Tensor:
    one_hot = one_hot_of(labels).double()  # [N, K]
    return one_hot.T @ shared @ one_hot


def _pairs(labels: Tensor) -> Tensor:
    """How many ordered pairs of two different images there are of every two classes."""
    return _sums(1.0 - torch.eye(len(labels), dtype=torch.float64), labels)


def _means(shared: Tensor, labels: Tensor) -> Tensor:
    others = 1.0 - torch.eye(len(labels), dtype=torch.float64)
    return _sums(shared * others, labels) / _pairs(labels)


def _with_itself(chosen: Tensor, labels: Tensor) -> Tensor:
    return _sums(_shared(chosen), labels) / _sums(torch.ones_like(_shared(chosen)), labels)


def _by_squares(chosen: Tensor, labels: Tensor) -> Tensor:
    return (
        in_common(chosen, labels) * _pairs(labels) / _sums(torch.ones_like(_shared(chosen)), labels)
    )


def _doubled(chosen: Tensor, labels: Tensor) -> Tensor:
    means = in_common(chosen, labels)
    return means + torch.diag(means.diagonal())


def _shared_as_masks(chosen: Tensor, labels: Tensor) -> Tensor:
    """What a matrix product of ``bool`` gives where PyTorch has one: any, instead of how many."""
    return _means((_shared(chosen) > 0).double(), labels)


class _InCommon(Exercise):
    """The exercise, which tells in the end what the digits have in common."""

    def __call__(self, function: Callable, hint: int = 1) -> CheckResult:
        found = super().__call__(function, hint)
        return replace(found, message=f"{found.message}\n{_of_the_digits()}") if found else found


@cache
def _of_the_digits() -> str:
    """Which two digits share most of their 16 busiest channels, and which share least."""
    activity, labels, _ = _everything()
    shared = in_common(winner_mask(activity, 0.25), labels)
    pairs = sorted((shared[i, j].item(), i, j) for i in range(10) for j in range(i))
    (least, a, b), (most, c, d) = pairs[0], pairs[-1]
    return (
        f"  Of their 16 busiest channels {d} and {c} share most, {most:.1f} on average, and "
        f"{b} and {a} least, {least:.1f} (training digits)."
    )


check_in_common = _InCommon(
    "in_common(chosen, labels): [K, K], mean number of common channels of every two classes",
    _choices,
    "every pair of two images once, and none of an image with itself.",
    (
        Mistake(_with_itself, "you pair every image with itself: it shares all of its channels"),
        Mistake(
            _by_squares,
            "you divide a class's own pairs by n² instead of n(n − 1): none is with itself",
        ),
        Mistake(
            _doubled, "you count a class's own pairs in both orders, and divide by them in one"
        ),
        Mistake(
            lambda c, y: in_common(c, y) * _pairs(y),
            "you add up, and do not divide by the number of pairs",
        ),
        Mistake(
            lambda c, y: in_common(c, y) / c.shape[1],
            "you return a share of all channels, not a number of channels",
        ),
        Mistake(
            lambda c, y: in_common(c, y) / c.double().sum(dim=1).mean(),
            "you return a share of the chosen channels, not a number of channels",
        ),
        Mistake(
            _shared_as_masks,
            "a matrix product of masks says whether two images share any channel, not how many",
        ),
        Mistake(
            lambda c, y: _means(_shared(c) + _shared(~c), y),
            "you also count channels that neither of the two chose",
        ),
        Mistake(
            lambda c, y: _means(_shared(c) / (c.shape[1] - _shared(~c)), y),
            "you divide by how many channels the two chose together, and a number was asked for",
        ),
        Mistake(
            lambda c, y: in_common((~c), y),
            "you count channels that neither image chose",
        ),
    ),
)

# Exercise 3: beat the static cut


def greedy_scores(activity: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Scores ``[C]``: channels are taken one by one, each the one that lowers the loss most."""
    parts = activity[:, :, None] * weight.T  # [N, C, classes]: what each channel adds
    logits, scores = parts.new_zeros(len(labels), len(weight)), parts.new_zeros(len(weight.T))
    left = list(range(len(scores)))
    while left:
        answers = (logits[:, None] + parts[:, left]).transpose(1, 2)  # [N, classes, left]
        truth = labels[:, None].expand(-1, len(left))
        loss = cross_entropy(answers, truth, reduction="none").mean(dim=0)  # [left]
        best = left.pop(int(loss.argmin()))
        logits, scores[best] = logits + parts[:, best], len(left) + 1
    return scores


@cache
def well_chosen() -> Tensor:
    """Scores ``[1, 64]`` of the better static cut of section 2, from the training images."""
    activity, labels, classifier = _everything()
    return greedy_scores(activity, labels, classifier.weight.detach())[None]


KEPT, GOAL, DRAWS = 8, 80, 25  # channels of 64; percent at once; rivals drawn at random


@cache
def _everything() -> tuple[Tensor, Tensor, nn.Linear]:
    """Activity of the last layer for all training images, their labels, and the classifier."""
    images, labels = load_data("digits")[0].tensors
    plain = load_pretrained("digits", "plain")
    with torch.no_grad():
        return plain[:-3](images).mean(dim=(2, 3)), labels, plain.classifier  # [1297, 64]


@cache
def _parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], nn.Linear]:
    """Activity of the last layer and labels, to choose with and to judge with; the classifier."""
    activity, labels, classifier = _everything()
    rest, held_out = stratified_split(labels, 197, seed=0)
    return (activity[rest], labels[rest]), (activity[held_out], labels[held_out]), classifier


def after_cut(scores: Tensor, again: bool) -> float:
    """Percent of held-out digits that are right with the ``KEPT`` channels of highest score.

    Args:
        scores: ``[64]``. again: the classifier is trained again on what is left.
    """
    (activity, labels), (held_out, truth), classifier = _parts()
    mask = _kept(scores)
    if again:
        classifier = _trained_again(activity * mask, labels, classifier)
    with torch.no_grad():
        right = classifier(held_out * mask).argmax(dim=1) == truth
    return 100 * right.double().mean().item()


def _trained_again(features: Tensor, labels: Tensor, start: nn.Linear) -> nn.Linear:
    new = nn.Linear(64, 10)
    new.load_state_dict(start.state_dict())
    optimizer = torch.optim.LBFGS(new.parameters(), max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(new(features), labels) + 1e-4 * new.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return new


SCORES = "64 finite numbers, one per channel"


def _behaves(function: Callable, step: int) -> str | None:
    """What is wrong with the scores from every ``step``-th image, in words."""
    (activity, labels), _, classifier = _parts()
    seen = activity[::step].clone(), labels[::step].clone()
    scores = function(*seen, classifier.weight.detach().clone())
    if scores is None:
        return None
    if not isinstance(scores, Tensor):
        return f"a {type(scores).__name__} instead of a tensor"
    if scores.shape != (64,):
        return f"shape {list(scores.shape)} instead of [64]"
    if scores.dtype == torch.bool or not scores.isfinite().all():
        return "a mask" if scores.dtype == torch.bool else "a score that is not finite"
    if len(scores.unique()) < KEPT + 1:
        return "scores that hardly differ"
    turned = function(seen[0].flip(1), seen[1], classifier.weight.detach().flip(1))
    return "the same scores for other channels" if torch.equal(scores, turned) else SCORES


def _scored(step: int = 1) -> Iterator[Case]:
    hint = "which axis of activity [N, 64] or weight [10, 64] has the channels?"
    more = "reduce over images or digits, dim=0, until one number per channel is left"
    yield Case((), SCORES, hint, more, ask=partial(_behaves, step=step))


def _after_the_cut(function: Callable) -> tuple[bool, str]:
    """How many digits are correct after the reader's cut, the obvious one, and random draws."""
    (activity, labels), _, classifier = _parts()
    scores = function(activity.clone(), labels.clone(), classifier.weight.detach().clone())
    rivals = {"yours": scores, "busiest on average": activity.mean(dim=0)}
    lines = [
        f"{after_cut(s, False):5.1f} %  {after_cut(s, True):5.1f} %   {name}"
        for name, s in rivals.items()
    ]
    lots = sorted(after_cut(torch.rand(64), False) for _ in range(DRAWS))
    middle, best = lots[DRAWS // 2], lots[-1]
    lot = (
        f"{middle:5.1f} %            the middle one of {DRAWS} random draws, the best: {best:.1f} %"
    )
    lost = [str(d) for d, right in enumerate(_by_digit(scores)) if right < 50]
    alike = _say_the_same(scores)
    pairs = "1 pair correlates" if alike == 1 else f"{alike} pairs correlate"
    help_ = (
        f"Of your {KEPT} channels, {pairs} above 0.8: they say much the same. "
        f"Fewer than half are left of: {', '.join(lost) or 'no digit'}."
    )
    head = f"percent of held-out digits correct with {KEPT} channels, at once and trained again:"
    passed = after_cut(scores, False) >= GOAL
    end = "Far above what luck would give." if passed else f"The goal is {GOAL} % at once. {help_}"
    return passed, "\n  ".join([head, *lines, lot, end])


def _kept(scores: Tensor) -> Tensor:
    return winner_mask((scores - scores.min() + 1e-3)[None].double(), KEPT / 64)[0]


def _by_digit(scores: Tensor) -> list[float]:
    """Percent of each digit's held-out images that are correct at once."""
    _, (held_out, truth), classifier = _parts()
    with torch.no_grad():
        hits = classifier(held_out * _kept(scores)).argmax(dim=1) == truth
    return [100 * hits[truth == digit].double().mean().item() for digit in range(10)]


def _say_the_same(scores: Tensor) -> int:
    """How many pairs of the kept channels have activities that correlate above 0.8."""
    (activity, _), _, _ = _parts()
    return int((activity[:, _kept(scores)].T.corrcoef().triu(1) > 0.8).sum())


check_channel_scores = Experiment(
    "channel_scores(activity, labels, weight): [64], which channels a static cut should keep",
    _scored,
    "a score for each channel.",
    (
        Mistake(lambda a, y, w: a.mean(dim=1), "you average over channels: a score per image"),
        Mistake(lambda a, y, w: w.abs().mean(dim=1), "you average over channels: one per digit"),
        Mistake(lambda a, y, w: a.mean(dim=0) > 0.1, "you return the choice, not the scores"),
        Mistake(
            lambda a, y, w: a.mean(dim=0) / torch.zeros(64),
            "you divide by 0 somewhere: not all channels are active in all images",
        ),
        Mistake(lambda a, y, w: well_chosen()[0], "you return numbers computed elsewhere"),
        Mistake(lambda a, y, w: a * 1, "you return a score for each image and channel"),
    ),
    judge=_after_the_cut,
)
