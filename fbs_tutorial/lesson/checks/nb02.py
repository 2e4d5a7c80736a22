"""The exercises of notebook 02, Saliency."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...method.saliency import channel_saliency
from .engine import Case, Exercise, Mistake


def _gradient(function: Callable, x: Tensor) -> Tensor:
    """The gradient of the sum of the function's values."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def _maps() -> Iterator[Case]:
    values = "root, mean, square: in which order, and over which axes?"
    more = "the square root of the mean of the squares, over rows and columns"
    full = torch.randn(2, 3, 4, 5)
    yield Case((full,), channel_saliency(full, "l2"), values, more)
    yield Case((full / 1000,), channel_saliency(full / 1000, "l2"), "small values count, too", more)
    x = full * torch.tensor([[[[1.0]], [[0.0]], [[2.0]]]])
    size = (20 * channel_saliency(x, "l2")).clamp(min=1e-12)
    empty = "these are gradients: what is the slope of the square root at exactly 0?"
    away = "0 at an empty channel, not NaN: keep the square root away from exactly 0"
    yield Case((x,), x / size[:, :, None, None], empty, away, ask=_gradient)


def _root(x: Tensor, epsilon: float = 0.0) -> Tensor:
    return (x.pow(2).mean(dim=(2, 3)) + epsilon).sqrt()


check_safe_l2 = Exercise(
    "safe_l2(x): [N, C, H, W] -> [N, C] root mean square, with gradient 0 where a map is 0",
    _maps,
    "values and gradients are right, at zeros too.",
    (
        Mistake(_root, "the values are right, and at an empty channel 0 times infinity is NaN"),
        Mistake(lambda x: x.abs().mean(dim=(2, 3)), "this is the mean absolute value, l1"),
        Mistake(lambda x: x.pow(2).mean(dim=(2, 3)), "you forget the square root"),
        Mistake(
            lambda x: x.pow(2).sum(dim=(2, 3)).sqrt(), "you sum the squares, and do not average"
        ),
        Mistake(
            lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
            "you sum the squares, and do not average",
        ),
        Mistake(lambda x: x.pow(2).mean().sqrt(), "you average over all channels and images"),
        Mistake(lambda x: x.pow(2).mean(dim=1).sqrt(), "you average over the channels"),
        Mistake(lambda x: _root(x, 1e-6), "your epsilon is so large that it changes the values"),
        Mistake(lambda x: _root(x.detach()), "you detached the values: no gradient is left"),
    ),
)


def _predictors() -> Iterator[Case]:
    for n, c_in, c_out in ((2, 3, 5), (4, 4, 4), (1, 6, 2)):
        s, weight, bias = torch.rand(n, c_in), torch.randn(c_out, c_in), torch.randn(c_out)
        expected = (s @ weight.T + bias).relu()
        hint = "which axis of weight belongs to s? Can a saliency be negative?"
        more = "each output channel: the sum of s times its row of weight, plus its bias, >= 0"
        yield Case((s, weight, bias), expected, hint, more)


check_predicted_saliency = Exercise(
    "predicted_saliency(s, weight, bias): [N, C_in] -> [N, C_out], linear and ReLU",
    _predictors,
    "it is what nn.Linear and ReLU compute, for 3 sizes.",
    (
        Mistake(lambda s, w, b: s @ w.T + b, "you leave the ReLU out"),
        Mistake(lambda s, w, b: (s @ w.T).relu(), "you leave the bias out"),
        Mistake(lambda s, w, b: (s @ w.T).relu() + b, "you add the bias after the ReLU"),
        Mistake(lambda s, w, b: (s @ w + b).relu(), "you multiply with weight untransposed"),
        Mistake(lambda s, w, b: (s @ w.T + b).abs(), "you take the absolute value, not the ReLU"),
        Mistake(lambda s, w, b: (s @ w.T + b).sigmoid(), "you use a sigmoid, which bounds g by 1"),
    ),
)
