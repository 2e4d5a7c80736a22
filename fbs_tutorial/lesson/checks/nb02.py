"""The exercises of notebook 02, Saliency."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...method.saliency import channel_saliency
from .engine import Case, CheckResult, check


def check_safe_l2(function: Callable) -> CheckResult:
    """``safe_l2(x)``: ``[N, C, H, W] -> [N, C]`` root mean square, gradient 0 where a map is 0."""

    def value_or_gradient(x: Tensor) -> Tensor:
        if (x != 0).flatten(2).any(dim=2).all():  # no empty channel: look at the values
            return function(x)
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]

    value_or_gradient.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[Case]:
        values = "the square root of the mean of the squares, over rows and columns"
        empty = "these are gradients: 0 at an empty channel, not NaN; keep sqrt away from exactly 0"
        full = torch.randn(2, 3, 4, 5)
        yield Case((full,), channel_saliency(full, "l2"), values)
        yield Case((full / 1000,), channel_saliency(full / 1000, "l2"), values)
        x = full * torch.tensor([[[[1.0]], [[0.0]], [[2.0]]]])
        size = (20 * channel_saliency(x, "l2")).clamp(min=1e-12)
        yield Case((x,), x / size[:, :, None, None], empty)

    return check(value_or_gradient, cases(), "values and gradients are right, at zeros too.")


def check_predicted_saliency(function: Callable) -> CheckResult:
    """``predicted_saliency(s, weight, bias)``: ``[N, C_in] -> [N, C_out]``, linear and ReLU."""

    def cases() -> Iterator[Case]:
        for n, c_in, c_out in ((2, 3, 5), (4, 4, 4), (1, 6, 2)):
            s, weight, bias = torch.rand(n, c_in), torch.randn(c_out, c_in), torch.randn(c_out)
            expected = (s @ weight.T + bias).relu()
            hint = "each output channel: the sum of s times its row of weight, plus its bias, >= 0"
            yield Case((s, weight, bias), expected, hint)

    return check(function, cases(), "it is what nn.Linear and ReLU compute, for 3 sizes.")
