"""The exercises of notebook 07, What do the gates know?"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data, stratified_split
from ...method.budgets import Look, confidence, look_once, take_looks
from ...method.gated import set_density
from ...method.wta import winner_mask
from .engine import Case, Exercise, Experiment, Mistake, short

# Exercise 1: who looks again


def _answers() -> Iterator[Case]:
    what = "what is compared with the threshold: a score, a class, or a probability?"
    more = "the largest entry of each row after softmax, and `<`"
    for n, threshold in [(6, 0.5), (9, 0.9)]:
        logits = 3 * torch.randn(n, 4)
        yield Case((logits, threshold), confidence(logits) < threshold, what, more, axes=("row",))
    ties = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    edge = "an image exactly at the threshold is sure"
    yield Case((ties, 0.5), torch.tensor([False, False]), edge, axes=("row",))


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
            lambda x, t: x.softmax(dim=1).topk(2, dim=1).values.diff(dim=1)[:, 0].neg() < t,
            "you compare the lead over the second class: the largest probability is asked for",
        ),
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


def _usual_values(own: Tensor, reference: Tensor) -> Tensor:
    """Own winners ``[N, C]``; each value is the channel's mean over the images it won for."""
    won = (reference != 0).sum(dim=0).clamp(min=1)  # [C]
    return torch.where(own != 0, reference.sum(dim=0) / won, 0.0)


def values_fixed(own: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gates of the control in section 3: in each layer own winners, usual values."""
    return {name: _usual_values(gate, reference[name]) for name, gate in own.items()}


def _gates() -> Iterator[Case]:
    values = "over which images do you average a channel's value?"
    winners = "over those of the reference for which the channel wins: elsewhere it is not used"
    for n, m, c, density in [(4, 6, 5, 0.4), (3, 8, 6, 0.5)]:
        own, reference = (_some_gates(rows, c, density) for rows in (n, m))
        yield Case((own, reference), _usual_values(own, reference), values, winners)
    own = torch.tensor([[0.0, 2.0, 1.0]])
    reference = torch.tensor([[4.0, 0.0, 6.0], [2.0, 0.0, 0.0]])
    never = "channel 1 wins for no reference image: its value should be 0, not NaN"
    yield Case((own, reference), torch.tensor([[0.0, 0.0, 6.0]]), never, "clamp the count at 1")


def _some_gates(rows: int, channels: int, density: float) -> Tensor:
    g = torch.rand(rows, channels) + 0.1
    return g * winner_mask(g, density)


def _won_mean(gates: Tensor) -> Tensor:
    return gates.sum(dim=0) / (gates != 0).sum(dim=0).clamp(min=1)


def _won_median(gates: Tensor) -> Tensor:
    return gates.where(gates != 0, torch.nan).nanmedian(dim=0).values.nan_to_num()


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
            lambda own, ref: torch.where(own != 0, ref.amax(dim=0), 0.0),
            "you take the largest value a channel ever had, not its usual one",
        ),
        Mistake(lambda own, ref: own, "you return the image's own values: nothing is fixed"),
        Mistake(
            lambda own, ref: _won_mean(ref).expand_as(own),
            "every channel has a value: the choice is gone",
        ),
        Mistake(
            lambda own, ref: (own != 0).float(),
            "you give every winner the value 1: it should have its channel's usual value",
        ),
        Mistake(
            lambda own, ref: torch.where(own != 0, _won_median(ref), 0.0),
            "you take the median over the images for which a channel wins: the mean is asked for",
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

# Exercise 3: beat the dial

RIVAL = {"first": 0.2, "second": 0.4, "share": 0.1}  # of section 5
SAVED = 0.05  # of its MACs, at least
LAYERS = ("conv1", "conv2", "conv3", "conv4")
A_DIAL = "two looks and a share"


def _is_dial(function: Callable) -> str | None:
    """What is wrong with the reader's dial in words, or `A_DIAL`."""
    dial = function()
    if dial is None:
        return None
    if not isinstance(dial, Mapping) or set(dial) != set(RIVAL):
        return f"{short(dial)} instead of a dictionary with first, second and share"
    if type(dial["share"]) not in (int, float) or not 0 <= dial["share"] <= 1:
        return f"the share {short(dial['share'])}: it goes from 0 to 1"
    for name in ("first", "second"):
        if isinstance(dial[name], Mapping) and set(dial[name]) != set(LAYERS):
            return f"a {name} look with densities for {', '.join(map(str, dial[name]))} only"
        try:
            _look(dial[name])
        except (TypeError, ValueError) as error:
            return f"a {name} look that cannot run: {error}"
    return A_DIAL


def _look(densities: float | Mapping) -> Look:
    """The any-density network with one density, or one for each layer."""
    given = dict(densities) if isinstance(densities, Mapping) else densities
    return Look(set_density(load_pretrained("digits"), given))


def _digits(part: str) -> tuple[Tensor, Tensor]:
    """The images and labels that "validation" or "test" means here."""
    train, test = load_data("digits")
    images, labels = as_tensors(test if part == "test" else train)
    if part == "validation":
        _, held_out = stratified_split(labels, 197, seed=0)
        images, labels = images[held_out], labels[held_out]
    return images, labels


def _score(dial: Mapping, part: str) -> tuple[Tensor, float]:
    """Who is right, bool ``[N]``, and mean MACs; the threshold is chosen on validation images."""
    first, second = _look(dial["first"]), _look(dial["second"])
    sure = confidence(look_once(first, _digits("validation")[0], counted=False)[0])
    threshold = sure.quantile(dial["share"]).item() if dial["share"] else 0.0
    images, labels = _digits(part)
    looks = take_looks(first, second, images, threshold, average=True)
    return looks.logits.argmax(dim=1) == labels, looks.macs.double().mean().item()


def _how_good(function: Callable, test: bool = False, slack: float = 0.0) -> tuple[bool, str]:
    """Whether this dial is correct as often as that of section 5, for fewer MACs."""
    part = "test" if test else "validation"
    (mine, macs), (theirs, dear) = (_score(dial, part) for dial in (function(), RIVAL))
    right, usual = (each.double().mean().item() for each in (mine, theirs))
    lines = [f"two looks at the {part} images, mean MACs with predictors:"]
    for name, share, cost in (("yours", right, macs), ("section 5", usual, dear)):
        lines.append(f"{100 * share:6.2f} % correct with {cost / 1000:5.1f} k MACs  {name}")
    lines.append(
        f"Only yours is right on {int((mine & ~theirs).sum())} images, and only that of section 5 "
        f"on {int((theirs & ~mine).sum())}."
    )
    saved = 1 - macs / dear
    if right < usual - slack:
        lines.append("Fewer images are correct.")
    elif saved < SAVED:
        lines.append(
            f"As many are correct, but it saves {saved:.1%} of the MACs: {SAVED:.0%} are wanted."
        )
    else:
        lines.append(
            f"As many are correct or more, and {saved:.1%} of the MACs are saved: you have won."
        )
    return right >= usual - slack and saved >= SAVED, "\n  ".join(lines)


def _dial_of(**changes: object) -> Callable:
    return lambda: RIVAL | changes


check_my_dial = Experiment(
    "my_dial(): {first, second, share}, two looks that beat those of section 5",
    lambda: iter([Case((), A_DIAL, f"for example {RIVAL}", ask=_is_dial)]),
    "a dial.",
    (
        Mistake(_dial_of(share=10), "you give the share in percent: a tenth is 0.1"),
        Mistake(lambda: (0.2, 0.4, 0.1), "you return three numbers without their names"),
        Mistake(_dial_of(first=20, second=40), "you give densities in percent: a fifth is 0.2"),
        Mistake(
            _dial_of(first=[0.2] * 4),
            "you give a list of densities: a dictionary says which layer each is for",
        ),
        Mistake(
            _dial_of(first={"conv2": 0.2, "conv3": 0.2}),
            "you leave layers out: a dictionary needs a density for each of conv1 to conv4",
        ),
        Mistake(lambda: {"first": 0.2, "second": 0.4}, "you do not say how many look again"),
    ),
    judge=_how_good,
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
    exact = "divide whole numbers by whole numbers: a rounded share can be one image too small"
    for n, first, second, budget in [(10, 10, 10, 12), (10, 10, 10, 14), (100, 10, 100, 39)]:
        c = torch.rand(n).clamp(0.1, 0.99)
        expected = threshold_for(c, first, second, budget)
        yield Case((c, first, second, budget), expected, exact, "(budget - first) * N // second")
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
            lambda c, f, s, b: 0.0 if b < f else _sorted_at(c, int((b / s - f / s) * len(c))),
            "you count images with rounded shares: 2 of 10 can become 1.9999, and int makes it 1",
        ),
        Mistake(
            lambda c, f, s, b: 0.0 if b < f else _sorted_at(c, int((b - f) / s * len(c))),
            "you count images with a rounded share: 29 of 100 becomes 28.9999, and int makes it 28",
        ),
        Mistake(
            lambda c, f, s, b: (
                0.0 if b < f else _sorted_at(c, (b - f) * len(c) // (s - f) if s > f else len(c))
            ),
            "you charge only the difference for a second look: both looks are paid for in full",
        ),
        Mistake(
            lambda c, f, s, b: _sorted_at(c, (b - f) * len(c) // s),
            "you forget the budget that does not even pay for the first look",
        ),
        Mistake(
            lambda c, f, s, b: 0.0 if b < f else 1 - _sorted_at(1 - c, (b - f) * len(c) // s),
            "you sort downwards: the least sure images look again first",
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
