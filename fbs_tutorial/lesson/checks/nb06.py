"""The exercises of notebook 06, Training."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .engine import Case, Exercise, Mistake


def _schedules() -> Iterator[Case]:
    ends = "where does the list begin and end?"
    both = "both ends belong to the list"
    slip = "how exact is each entry?"
    adds = "subtracting again and again adds up rounding errors: 1 - 0.1 - 0.1 - 0.1 is not 0.7"
    for start, stop, step, hint, more in [
        (100, 50, 25, ends, both),
        (100, 10, 10, slip, adds),
        (80, 20, 20, slip, adds),
        (55, 5, 5, slip, adds),
        (100, 5, 5, slip, adds),
        (90, 30, 20, ends, both),
        (100, 30, 10, ends, both),
    ]:
        expected = [n / 100 for n in range(start, stop - 1, -step)]
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


def _layers() -> Iterator[Case]:
    one = "over what do you sum, and over what do you average?"
    images = "add up each image's saliencies, and take the mean over the images"
    many = "what becomes of several layers?"
    layers_add = "add up the layers; do not take their mean"
    for channels, hint, more in [
        ((4,), one, images),
        ((3, 7), many, layers_add),
        ((16, 32, 32), many, layers_add),
    ]:
        layers = [torch.rand(5, c) for c in channels]
        yield Case((layers,), sum(g.sum(dim=1).mean() for g in layers), hint, more)
    layers = [torch.rand(2, 2, requires_grad=True)]
    expected = torch.full((2, 2), 0.5)
    hint = "these are gradients with respect to g: a penalty without them changes nothing"
    yield Case((layers,), expected, hint, ask=_gradient)


def _gradient(function: Callable, layers: list[Tensor]) -> Tensor:
    """The gradient of the penalty with respect to the first layer's saliencies."""
    penalty = function(layers)
    if not (isinstance(penalty, Tensor) and penalty.requires_grad):
        return torch.zeros_like(layers[0])
    return torch.autograd.grad(penalty, layers[0])[0]


check_l1_penalty = Exercise(
    "l1_penalty(saliencies): sum over layers of the batch mean of ||g||_1",
    _layers,
    "right for one, two and three layers, and gradients flow.",
    (
        Mistake(
            lambda layers: sum(g.sum() for g in layers),
            "you sum over the images, so that the penalty grows with the batch",
        ),
        Mistake(
            lambda layers: sum(g.mean() for g in layers),
            "you average over the channels, too, so that wide layers are punished less",
        ),
        Mistake(
            lambda layers: sum(g.sum(1).mean() for g in layers) / len(layers),
            "you average over the layers",
        ),
        Mistake(lambda layers: layers[0].sum(1).mean(), "you look at the first layer only"),
        Mistake(
            lambda layers: sum(g.pow(2).sum(1).mean() for g in layers),
            "you sum squares: this is the l2 term",
        ),
        Mistake(
            lambda layers: sum(g.norm(dim=1).mean() for g in layers),
            "you take the length of g, its l2 norm",
        ),
        Mistake(
            lambda layers: torch.tensor(sum(g.sum(1).mean().item() for g in layers)),
            "the value is right, but .item() cuts it off from autograd: nothing would train",
        ),
    ),
)
