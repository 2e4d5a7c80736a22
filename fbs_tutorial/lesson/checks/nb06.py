"""The exercises of notebook 06, Training."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data, stratified_split
from ...method.convert import convert, random_predictor
from ...method.dynamics import how_dynamic
from ...method.gated import GatedConv2d, gated_layers, saliency_penalty, set_density
from ...training.loop import fit
from ...training.losses import distillation_loss
from ...training.recipes import RECIPES, Step
from .engine import Case, Exercise, Experiment, Mistake, of_dictionary

# Exercise 1: the staircase


STAIRS = (  # start, stop, step in percent; in some of them errors add up
    (100, 50, 25),
    (100, 10, 10),
    (80, 20, 20),
    (55, 5, 5),
    (100, 5, 5),
    (90, 30, 20),
    (100, 30, 10),
)


def _schedules(stairs: Sequence[tuple[int, int, int]] = STAIRS) -> Iterator[Case]:
    ends = "where does the list begin and end?"
    both = "both ends belong to the list"
    slip = "how exact is each entry?"
    adds = "subtracting again and again adds up rounding errors: 1 - 0.1 - 0.1 - 0.1 is not 0.7"
    for start, stop, step in stairs:
        expected = [n / 100 for n in range(start, stop - 1, -step)]
        slips = _subtracted(start / 100, stop / 100, step / 100) != expected
        hint, more = (slip, adds) if slips else (ends, both)
        yield Case((start / 100, stop / 100, step / 100), expected, hint, more)


def _subtracted(start: float, stop: float, step: float) -> list[float]:
    densities = []
    while start >= stop:
        densities.append(start)
        start -= step
    return densities


def _multiplied(start: float, stop: float, step: float, more: int = 1) -> list[float]:
    return [start - i * step for i in range(round((start - stop) / step) + more)]


def _arange(start: float, stop: float, step: float) -> list[float]:
    return np.arange(start, stop, -step).tolist()


def _rounded(densities: list[float]) -> list[float]:
    return [round(density, 2) for density in densities]


check_density_schedule = Exercise(
    "density_schedule(start, stop, step): from start down to stop, both included",
    _schedules,
    "seven schedules, both ends included and no rounding slip.",
    (
        Mistake(_subtracted, "you subtract again and again, and the rounding errors add up"),
        Mistake(
            lambda a, b, s: _rounded(_subtracted(a, b, s)),
            "you round the entries, but the errors that add up decide whether stop is reached",
        ),
        Mistake(_multiplied, "the entries are not rounded: 0.7000000000000001 is among them"),
        Mistake(lambda a, b, s: _rounded(_multiplied(a, b, s, 0)), "stop is missing"),
        Mistake(lambda a, b, s: _rounded(_multiplied(a, b, s, 0))[1:], "both ends are missing"),
        Mistake(lambda a, b, s: _rounded(_multiplied(a, b, s))[1:], "start is missing"),
        Mistake(lambda a, b, s: _rounded(_multiplied(a, b, s))[::-1], "the list goes up, not down"),
        Mistake(
            lambda a, b, s: _rounded(
                [a - i * s for i in range(int((a - b) / s) + 1)],
            ),
            "int cuts off: (1 - 0.1) / 0.1 may come out a hair below a whole number",
        ),
        Mistake(_arange, "np.arange leaves stop out, or not, as the rounding falls"),
        Mistake(
            lambda a, b, s: _arange(a, b - s / 2, s),
            "np.arange does not round: 0.7000000000000001 is among its entries",
        ),
        Mistake(
            lambda a, b, s: _rounded(_arange(a, b, s)),
            "you round what np.arange gives, but it leaves stop out, or not, as the rounding falls",
        ),
    ),
)


# Exercise 2: the whole step

PENALTY = 1e-2  # large enough to see whether it is there
DENSITIES = 0.5, 0.25  # of two steps that follow each other: the second shows what is left behind
CALLED = "a tiny network, and twice with six images: d = {:g}, then d = {:g}".format(*DENSITIES)
ORDER = "gradients, then a step"
NO_GRADIENT = "no gradient in the teacher"
AT_REST = "the teacher in eval mode"


@dataclass
class _Trial:
    """What two steps with a reader's function leave behind."""

    network: nn.Module
    teacher: nn.Module
    returned: list
    orders: list[str]
    modes: set[str]  # of the teacher when it was asked


def _network(gated: bool) -> nn.Sequential:
    conv = GatedConv2d if gated else partial(nn.Conv2d, bias=False)
    first, second = (conv(c, 4, 3, padding=1) for c in (1, 4))
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def _trial(function: Callable, seed: int) -> _Trial:
    """Two steps of a tiny network; what happens to gradients and weights is written down."""
    torch.default_generator.manual_seed(seed)
    network, teacher = _network(gated=True), _network(gated=False).eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    events: list[str] = []
    network[-1].bias.register_hook(lambda _: events.append("gradients"))

    def stepping(*_: object) -> None:
        ready = any(p.grad is not None and p.grad.any() for p in network.parameters())
        events.append("a step" if ready else "a step without gradients")

    optimizer.register_step_pre_hook(stepping)
    trial = _Trial(network, teacher, [], [], set())
    modes = {True: "the teacher in training mode", False: AT_REST}
    teacher.register_forward_pre_hook(lambda asked, _: trial.modes.add(modes[asked.training]))
    for density in DENSITIES:
        events.clear()
        x, labels = torch.rand(6, 1, 5, 5), torch.randint(3, (6,))
        trial.returned.append(function(network, teacher, optimizer, x, labels, density))
        happened = ", then ".join(event for event, _ in groupby(events))
        trial.orders.append(happened or "neither gradients nor a step")
    return trial


def _order(function: Callable, seed: int) -> str | None:
    trial = _trial(function, seed)
    if None in trial.returned:
        return None
    return next((order for order in trial.orders if order != ORDER), ORDER)


def _kind(function: Callable, seed: int) -> str:
    return f"a {type(_trial(function, seed).returned[0]).__name__}"


def _losses(function: Callable, seed: int) -> Tensor:
    return torch.tensor([float(loss) for loss in _trial(function, seed).returned])


def _in_the_teacher(function: Callable, seed: int) -> str:
    reached = any(p.grad is not None for p in _trial(function, seed).teacher.parameters())
    return "a gradient in the teacher" if reached else NO_GRADIENT


def _mode_of_the_teacher(function: Callable, seed: int) -> str:
    return " and ".join(sorted(_trial(function, seed).modes, reverse=True)) or AT_REST


def _afterwards(function: Callable, seed: int) -> Tensor:
    """Every parameter, and the density, after two steps."""
    network = _trial(function, seed).network
    state = [p.detach().flatten() for p in network.parameters()]
    return torch.cat([*state, torch.tensor([float(network[0].density)])])


def _steps(seeds: Sequence[int] = (0, 1)) -> Iterator[Case]:
    hint = "walk through the list: density, both answers, loss, gradients, step"
    more = "set_density, teacher under no_grad, 0.3 hard + 0.7 * 16 * soft + penalty, zero_grad"
    order = "zero_grad, backward, step: which comes first, and which is last?"
    number = "the graph of the step hangs on a tensor; .item() gives the plain number"
    free = "who computes the teacher's answers, and does anyone need their gradients?"
    case = partial(Case, called=CALLED)
    first = (seeds[0],)
    yield case(first, ORDER, order, ask=_order)
    yield case(first, "a float", number, ask=_kind)
    yield case(first, NO_GRADIENT, free, "torch.no_grad() around teacher(x)", ask=_in_the_teacher)
    mode = "the teacher came in eval mode: who switched it?"
    more_mode = "in training mode a real teacher's batch norms would move, and dropout would fall"
    yield case(first, AT_REST, mode, more_mode, ask=_mode_of_the_teacher)
    losses = _losses(_step, seeds[0])
    yield case(first, losses, hint, more, ask=_losses, axes=("loss of step",))
    for seed in seeds:
        ask = _afterwards
        yield case((seed,), ask(_step, seed), hint, more, ask=ask, axes=("parameter",))


def _step(
    network: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    density: float,
    *,
    loss: Callable = distillation_loss,
    penalty: Callable = lambda value: PENALTY * value,
    acts: Sequence[str] = ("clear", "backward", "step"),
    watching: Callable = torch.no_grad,
    returned: Callable = Tensor.item,
) -> object:
    """The step as it should be, and with a fault for each keyword."""
    set_density(network, density)
    with watching():
        answers = teacher(x)
    total = loss(network(x), answers, labels) + penalty(saliency_penalty(network))
    do = {"clear": optimizer.zero_grad, "backward": total.backward, "step": optimizer.step}
    for act in acts:
        do[act]()
    return returned(total)


def _soft(student: Tensor, teacher: Tensor, t: float = 4.0, reduction: str = "batchmean") -> Tensor:
    pair = (F.log_softmax(each / t, dim=1) for each in (student, teacher))
    return F.kl_div(*pair, reduction=reduction, log_target=True)


def _with_loss(
    soft: Callable = _soft, hard: Callable = F.cross_entropy, **weights: float
) -> Callable:
    """The step with another loss: ``labels`` times ``hard`` plus ``teacher`` times ``soft``."""
    weights = {"labels": 0.3, "teacher": 0.7 * 16} | weights

    def loss(student: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        return weights["labels"] * hard(student, labels) + weights["teacher"] * soft(
            student, answers
        )

    return partial(_step, loss=loss)


def _teacher_in_training(network: nn.Module, teacher: nn.Module, *others: object) -> float:
    return _step(network, teacher.train(), *others)


def _two_steps(*arguments: object) -> float:
    loss = _step(*arguments)
    arguments[2].step()
    return loss


def _without_density(network: nn.Module, *others: object) -> float:
    return _step(network, *others[:-1], 1.0)


def _density_too_late(network: nn.Module, *others: object) -> float:
    loss = _step(network, *others[:-1], float(network[0].density))
    set_density(network, others[-1])
    return loss


check_training_step = Exercise(
    "training_step(network, teacher, optimizer, x, labels, density): the loss, a float",
    _steps,
    "two steps, and every parameter is where it should be.",
    (
        Mistake(
            partial(_step, acts=("backward", "step")),
            "the gradients of the step before are still there",
        ),
        Mistake(
            partial(_step, acts=("clear", "step", "backward")),
            "you take the step before the gradients are computed",
        ),
        Mistake(
            partial(_step, acts=("clear", "step")),
            "nobody calls loss.backward(): the optimizer has no gradients to go by",
        ),
        Mistake(
            partial(_step, acts=("clear", "backward")),
            "the gradients are computed, but the optimizer takes no step",
        ),
        Mistake(
            partial(_step, acts=("backward", "clear", "step")),
            "you clear the gradients after you have computed them, and the step has none",
        ),
        Mistake(_without_density, "the density is never set, and every channel runs"),
        Mistake(
            _density_too_late,
            "the density is set after the network has run: each step uses that of the one before",
        ),
        Mistake(
            partial(_step, penalty=lambda value: 0.0 * value),
            "the penalty is missing, or so small that it moves nothing",
        ),
        Mistake(
            partial(_step, penalty=lambda value: PENALTY * value.item()),
            "the penalty is a plain number, by .item() or detach(): it is in the loss, and moves "
            "nothing",
        ),
        Mistake(
            partial(_step, penalty=lambda value: value),
            "the penalty counts in full: its weight is 0.01",
        ),
        Mistake(_with_loss(labels=1.0, teacher=0.0), "nobody listens to the teacher"),
        Mistake(_with_loss(teacher=0.0), "the teacher's term is missing from the loss"),
        Mistake(_with_loss(labels=0.0), "nobody looks at the labels"),
        Mistake(
            _with_loss(lambda s, t: _soft(s, t).item()),
            "the teacher's term is a plain number, by .item() or detach(): it is in the loss, and "
            "moves nothing",
        ),
        Mistake(
            partial(_with_loss(), watching=nullcontext),
            "the teacher's answers are computed with gradients: torch.no_grad() is missing",
        ),
        Mistake(
            _with_loss(lambda s, t: _soft(t, s)),
            "teacher and student are exchanged in the divergence",
        ),
        Mistake(
            _with_loss(teacher=0.7),
            "the factor T² is missing: softening makes the teacher's gradient 16 times smaller",
        ),
        Mistake(_with_loss(teacher=0.7 * 4), "the factor is T, not T²"),
        Mistake(
            _with_loss(labels=0.7, teacher=0.3 * 16),
            "the weights of labels and teacher are exchanged",
        ),
        Mistake(
            _with_loss(labels=1.0, teacher=16.0),
            "labels and teacher both count in full: their weights are 0.3 and 0.7",
        ),
        Mistake(
            _with_loss(lambda s, t: _soft(s, t, 1.0), teacher=0.7),
            "the answers are not softened: T is 1",
        ),
        Mistake(
            _with_loss(lambda s, t: _soft(s, t, 1.0)),
            "the factor T² is there, but the answers are not softened",
        ),
        Mistake(
            _with_loss(lambda s, t: _soft(s, t, reduction="none").mean()),
            'reduction="mean" divides by the classes, too: it is "batchmean" that divides by the '
            "images",
        ),
        Mistake(
            _with_loss(
                lambda s, t: F.kl_div((s / 4).softmax(1), (t / 4).softmax(1), reduction="batchmean")
            ),
            "kl_div gets probabilities: its first argument has to be their logarithm",
        ),
        Mistake(
            _teacher_in_training,
            "you switch the teacher to training mode: batch norms would move, and dropout would "
            "change its answers",
        ),
        Mistake(_two_steps, "you take two steps with the same gradients"),
        Mistake(
            _with_loss(hard=lambda s, y: F.cross_entropy(s.softmax(dim=1), y)),
            "you take the softmax before cross_entropy, which takes one of its own",
        ),
        Mistake(
            _with_loss(hard=lambda s, y: F.cross_entropy(s / 4, y)),
            "the student is softened for the labels, too: T is for the teacher's term alone",
        ),
        Mistake(
            _with_loss(lambda s, t: F.cross_entropy(s, t.argmax(1)), teacher=0.7),
            "the teacher gives its first guess only, and what it says of the other classes is lost",
        ),
        Mistake(
            _with_loss(lambda s, t: F.cross_entropy(s / 4, (t / 4).softmax(1))),
            "you take a cross-entropy for the divergence: it trains the same, but is larger by "
            "the entropy of the teacher's answer, so that 0 no longer means agreement",
        ),
        Mistake(
            partial(_step, loss=lambda s, a, y: distillation_loss(s.detach(), a, y)),
            "the network's outputs are detached: nothing but the penalty trains it",
        ),
        Mistake(
            partial(_step, returned=Tensor.detach),
            "you return the loss as a tensor: .item() gives the number",
        ),
    ),
)

# Exercise 3: a recipe of one's own

USUAL = {"gain": 5.0, "ramp": 0.3, "lr": 0.05, "penalty": 1e-8, "teacher_weight": 0.7}
USUAL |= {"temperature": 4.0}
EPOCHS, DENSITY, SEEDS = 6, 0.2, (0, 1, 2)
LEAST = 5.0  # points that another image's gates have to cost, or the network is static in disguise
TAKES = f"a dictionary with some of {', '.join(USUAL)}"


@of_dictionary
def _is_recipe(changes: Mapping) -> str:
    """Whether these changes can be trained with, in words."""
    if not changes:
        return "an empty dictionary: nothing would be different"
    unknown = [str(name) for name in changes if name not in USUAL]
    if unknown:
        return f"the name {unknown[0]}, which the recipe does not have"
    numbers = all(type(value) in (int, float) and value >= 0 for value in changes.values())
    if not numbers or changes.get("lr", 1) == 0 or changes.get("temperature", 1) == 0:
        return "a value that is no number, or below 0, or 0 for lr or temperature"
    if max(changes.get(name, 0) for name in ("ramp", "teacher_weight")) > 1:
        return "a share above 1: ramp and teacher_weight go from 0 to 1"
    return "a recipe"


def _recipes() -> Iterator[Case]:
    yield Case((), "a recipe", f"it takes {TAKES}", 'for example {"ramp": 0.5}', ask=_is_recipe)


@cache
def _trained(changes: tuple, seed: int) -> tuple[float, float]:
    """The digits network after a short training with these changes.

    Percent of the validation images correct with own gates, and with another image's.
    """
    values = USUAL | dict(changes)
    lr, gain = values.pop("lr"), values.pop("gain")
    recipe = dataclasses.replace(RECIPES["digits"], **values)
    images, labels = as_tensors(load_data("digits")[0])
    rest, held_out = stratified_split(labels, recipe.validation, seed=0)
    data, validation = (images[rest], labels[rest]), (images[held_out], labels[held_out])
    plain = load_pretrained("digits", "plain")
    network = convert(plain)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in gated_layers(network).values():
            random_predictor(layer, gain)
        step = Step("gated", "gated", DENSITY, EPOCHS, lr, distilled=True)
        fit(network, step, recipe, data, validation, seed, teacher=plain)
    found = how_dynamic(network, *validation, reference=data[0])
    return 100 * found.own, 100 * found.shuffled


def _shown(name: str) -> tqdm:
    """The seeds, with a bar that goes when they are trained."""
    return tqdm(SEEDS, desc=name, unit="seed", leave=False)


def _how_far(function: Callable) -> tuple[bool, str]:
    """Whether the recipe beats the course's by more than seeds differ, with gates that matter."""
    changes = tuple(sorted(function().items()))
    try:
        yours = [_trained(changes, seed) for seed in _shown("your recipe")]
    except FloatingPointError as error:
        return False, f"the training broke: {error}"
    usual = [_trained((), seed) for seed in _shown("the course's recipe")]
    lines = [f"validation images correct at d = {DENSITY} after {EPOCHS} epochs, seeds 0, 1 and 2:"]
    for name, runs in (("yours", yours), ("the course's recipe", usual)):
        lines.append(f"{', '.join(f'{own:.1f}' for own, _ in runs)} %  {name}")
    cost = sum(own - other for own, other in yours) / len(yours)
    lines.append(f"another image's gates cost your networks {cost:.1f} points on average.")
    worst, best = min(own for own, _ in yours), max(own for own, _ in usual)
    if worst <= best:
        lines.append(f"Your worst, {worst:.1f} %, is not above its best: it could be luck.")
    elif cost < LEAST:
        lines.append(f"Accurate, but static in disguise: below {LEAST:g} points nobody chooses.")
    else:
        lines.append("Your worst is above its best, and the gates look at the image: well done.")
    return worst > best and cost >= LEAST, "\n  ".join(lines)


check_my_recipe = Experiment(
    f"my_recipe(): {TAKES}",
    _recipes,
    "a recipe.",
    (
        Mistake(lambda: {}, "you change nothing"),
        Mistake(lambda: {"epochs": 100}, "you buy accuracy with epochs: all recipes get as many"),
        Mistake(lambda: [5.0, 0.3], "you return values without their names"),
        Mistake(lambda: {"ramp": 30}, "you give a share in percent"),
    ),
    judge=_how_far,
)

# Exercise 4: how often luck leads


def _leads(
    seeds: Sequence[tuple[int, int]] = ((3, 3), (2, 2), (1, 4), (4, 2), (3, 5)),
) -> Iterator[Case]:
    order = "write down all orders of two results and two others: in how many does one side lead?"
    places = "only which places the first recipe has in the order counts, not who stands on which"
    for first, second in seeds:
        expected = _to_nine(_by_luck, first, second)
        yield Case((first, second), expected, order, places, ask=_to_nine)


def _by_luck(first: int, second: int) -> float:
    return 1 / math.comb(first + second, first)


def _to_nine(function: Callable, first: int, second: int) -> object:
    """What the function returns; a number with nine digits after the point."""
    luck = function(first, second)
    return round(luck, 9) if isinstance(luck, float) else luck


check_by_luck = Exercise(
    "by_luck(first, second): how probable it is that all of the first lie above all of the second",
    _leads,
    "you know what a clear lead is worth.",
    (
        Mistake(lambda m, n: 2 * _by_luck(m, n), "you count a lead of either side"),
        Mistake(
            lambda m, n: 0.5 ** (m * n),
            "you take the pairs for coins that know nothing of"
            " each other, but if a is above b and b above c, a is above c",
        ),
        Mistake(lambda m, n: 0.5**m, "you toss a coin for each seed of the first recipe"),
        Mistake(lambda m, n: 0.5 ** (m + n), "you toss a coin for each seed"),
        Mistake(lambda m, n: 0.5, "you ask which mean is higher, not whether all are"),
        Mistake(lambda m, n: 1 / (m + n), "you ask who is best, not whether all are above"),
        Mistake(lambda m, n: m / (m + n), "you ask whose seed is the best of all"),
        Mistake(
            lambda m, n: 1 / math.factorial(m + n),
            "you count one order, but seeds of one recipe may stand in any order among themselves",
        ),
        Mistake(
            lambda m, n: math.factorial(m) / math.factorial(m + n),
            "you forget that the seeds of the second recipe may stand in any order, too",
        ),
        Mistake(lambda m, n: math.comb(m + n, m), "you return how many ways there are"),
    ),
)
