"""The exercises of notebook 06, Training."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data, stratified_split
from ...method.convert import convert, random_predictor
from ...method.gated import GatedConv2d, gated_layers, saliency_penalty, set_density
from ...training.loop import accuracy, fit
from ...training.losses import distillation_loss
from ...training.recipes import RECIPES, Step
from .engine import Case, Exercise, Experiment, Mistake

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
    ),
)


# Exercise 2: the whole step

PENALTY = 1e-2  # large enough to see whether it is there


def _network(gated: bool) -> nn.Sequential:
    conv = GatedConv2d if gated else partial(nn.Conv2d, bias=False)
    first, second = (conv(c, 4, 3, padding=1) for c in (1, 4))
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def _after_two_steps(function: Callable, seed: int) -> Tensor:
    """Every parameter, and the density, after two steps with the reader's function."""
    torch.default_generator.manual_seed(seed)
    network, teacher = _network(gated=True), _network(gated=False).eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        x, labels = torch.rand(6, 1, 5, 5), torch.randint(3, (6,))
        if function(network, teacher, optimizer, x, labels, 0.5) is None:
            return None
    state = [p.detach().flatten() for p in network.parameters()]
    return torch.cat([*state, torch.tensor([float(network[0].density)])])


def _step(
    network: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    density: float,
    *,
    loss: Callable = distillation_loss,
    penalty: float = PENALTY,
    forget: bool = False,
    early: bool = False,
) -> float:
    """The step as it should be, and with a fault for each keyword."""
    set_density(network, density)
    with torch.no_grad():
        answers = teacher(x)
    total = loss(network(x), answers, labels) + penalty * saliency_penalty(network)
    if not forget:
        optimizer.zero_grad()
    if early:
        optimizer.step()
    total.backward()
    if not early:
        optimizer.step()
    return total.item()


def _soft(student: Tensor, teacher: Tensor, t: float = 4.0, power: int = 2) -> Tensor:
    pair = (F.log_softmax(each / t, dim=1) for each in (student, teacher))
    return t**power * F.kl_div(*pair, reduction="batchmean", log_target=True)


def _steps(seeds: Sequence[int] = (0, 1)) -> Iterator[Case]:
    hint = "walk through the list: density, both answers, loss, gradients, step"
    more = "set_density, teacher under no_grad, 0.3 hard + 0.7 * 16 * soft + penalty, zero_grad"
    for seed in seeds:
        ask = _after_two_steps
        yield Case((seed,), ask(_step, seed), hint, more, ask=ask, axes=("parameter",))


def _without_density(network: nn.Module, *others: object) -> float:
    return _step(network, *others[:-1], 1.0)


check_training_step = Exercise(
    "training_step(network, teacher, optimizer, x, labels, density): the loss, a float",
    _steps,
    "two steps, and every parameter is where it should be.",
    (
        Mistake(partial(_step, forget=True), "the gradients of the step before are still there"),
        Mistake(partial(_step, early=True), "you take the step before the gradients are computed"),
        Mistake(_without_density, "the density is never set, and every channel runs"),
        Mistake(partial(_step, penalty=0.0), "the penalty is missing"),
        Mistake(
            partial(_step, loss=lambda s, t, y: F.cross_entropy(s, y)),
            "nobody listens to the teacher",
        ),
        Mistake(
            partial(_step, loss=lambda s, t, y: 0.3 * F.cross_entropy(s, y) + 0.7 * _soft(t, s)),
            "teacher and student are exchanged in the divergence",
        ),
        Mistake(
            partial(
                _step, loss=lambda s, t, y: 0.3 * F.cross_entropy(s, y) + 0.7 * _soft(s, t, 4, 0)
            ),
            "the factor T² is missing: softening makes the teacher's gradient 16 times smaller",
        ),
        Mistake(
            partial(_step, loss=lambda s, t, y: 0.7 * F.cross_entropy(s, y) + 0.3 * _soft(s, t)),
            "the weights of labels and teacher are exchanged",
        ),
        Mistake(
            partial(
                _step, loss=lambda s, t, y: 0.3 * F.cross_entropy(s, y) + 0.7 * _soft(s, t, 1.0)
            ),
            "the answers are not softened: T is 1",
        ),
    ),
)

# Exercise 3: a recipe of one's own

USUAL = {"gain": 5.0, "ramp": 0.3, "lr": 0.05, "penalty": 1e-8, "teacher_weight": 0.7}
USUAL |= {"temperature": 4.0}
EPOCHS, DENSITY = 6, 0.2
TAKES = f"a dictionary with some of {', '.join(USUAL)}"


def _is_recipe(function: Callable) -> str:
    """Whether what the function returns can be trained with, in words."""
    changes = function()
    if changes is None:
        return None
    if not isinstance(changes, Mapping):
        return f"{type(changes).__name__} instead of a dictionary"
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
def _trained(changes: tuple) -> float:
    """Validation accuracy of the digits network after a short training with these changes."""
    values = USUAL | dict(changes)
    lr, gain = values.pop("lr"), values.pop("gain")
    recipe = dataclasses.replace(RECIPES["digits"], **values)
    images, labels = as_tensors(load_data("digits")[0])
    rest, held_out = stratified_split(labels, recipe.validation, seed=0)
    data, validation = (images[rest], labels[rest]), (images[held_out], labels[held_out])
    plain = load_pretrained("digits", "plain")
    network = convert(plain)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for layer in gated_layers(network).values():
            random_predictor(layer, gain)
        step = Step("here", "gated", DENSITY, EPOCHS, lr, distilled=True)
        fit(network, step, recipe, data, validation, 0, teacher=plain)
    return accuracy(network, *validation)


def _how_far(function: Callable) -> tuple[bool, str]:
    """How far the recipe comes in a short training."""
    try:
        yours = _trained(tuple(sorted(function().items())))
    except FloatingPointError as error:
        return False, f"the training broke: {error}"
    said = f"{100 * yours:.1f} % of the 197 validation images at d = {DENSITY} after {EPOCHS}"
    usual = f"the course's recipe, as short, has {100 * _trained(()):.1f} %"
    return True, f"{said} epochs; {usual}."


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

# Exercise 4: densities for every budget


def _draws(lows: Sequence[float] = (0.1, 0.5)) -> Iterator[Case]:
    share = "the share of MACs is d²: which of the two should be spread evenly?"
    solve = "spread d² from lowest² to 1, and take the root"
    for lowest in lows:
        u = torch.rand(7, dtype=torch.float64)
        yield Case((u, lowest), (lowest**2 + u * (1 - lowest**2)).sqrt(), share, solve)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.2, 1.0], dtype=torch.float64)
    yield Case((ends, 0.2), expected, "0 should give the lowest density, and 1 should give 1")


check_uniform_in_macs = Exercise(
    "uniform_in_macs(u, lowest): densities, u uniform in 0..1, whose d² is spread evenly",
    _draws,
    "every budget comes equally often.",
    (
        Mistake(lambda u, low: low + u * (1 - low), "you spread the densities evenly, not d²"),
        Mistake(lambda u, low: low ** (1 - u), "you spread the logarithm of the density evenly"),
        Mistake(lambda u, low: u.sqrt(), "you forget the lowest density"),
        Mistake(lambda u, low: u.sqrt().clamp(min=low), "you cut off what is below the lowest"),
        Mistake(lambda u, low: low + u.sqrt() * (1 - low), "you take the root before the shift"),
        Mistake(lambda u, low: low**2 + u * (1 - low**2), "you return d² and forget the root"),
    ),
)
