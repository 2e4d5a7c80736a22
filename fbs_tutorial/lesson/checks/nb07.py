"""The exercises of notebook 07, Skipping for real, on a CPU."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .engine import Case, CheckResult, check


def check_pair_index(function: Callable) -> CheckResult:
    """``pair_index(winners, live, in_channels)``: ``[N, k]``, ``[N, i]`` -> rows ``[N, k, i]``."""

    def cases() -> Iterator[Case]:
        row = "the table has C_in rows for each output: row o * C_in + i; the result is [N, k, i]"
        each = "every image has its own winners and live inputs; the result is [N, k, i]"
        for n, k, i, channels, hint in [(1, 2, 3, 5, row), (3, 4, 2, 7, each), (4, 4, 4, 9, each)]:
            winners, live = (
                torch.rand(n, channels).argsort(dim=1)[:, :size].sort(dim=1).values
                for size in (k, i)
            )
            expected = winners[:, :, None] * channels + live[:, None, :]
            yield Case((winners, live, channels), expected, hint)

    return check(function, cases(), "every pair has its row, for 1, 3 and 4 images.")


def check_batch_as_groups(function: Callable) -> CheckResult:
    """``batch_as_groups(x, kernels)``: ``[N, i, H, W]``, ``[N, k, i, 3, 3]`` -> ``[N, k, H, W]``.

    Convolutions with padding 1, all images in one call.
    """

    def answer_or_calls(x: Tensor, kernels: Tensor) -> Tensor | int:
        if len(x) < 5:
            return function(x, kernels)
        with _CountConvolutions() as counter:
            function(x, kernels)
        return counter.calls

    answer_or_calls.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[Case]:
        one = "a 3x3 convolution with padding 1"
        own = "image n with kernels n: fold the images into the channels, and give each its group"
        calls = "this is the number of convolutions that ran: one call for the batch, not one each"
        for n, k, i, hint in [(1, 2, 3, one), (2, 3, 3, own), (4, 5, 2, own), (5, 2, 2, calls)]:
            sizes = [(n, i, 4, 6), (n, k, i, 3, 3)]
            x, kernels = (torch.randint(-3, 4, size).float() for size in sizes)  # sums are exact
            each = [F.conv2d(x[[m]], kernels[m], padding=1) for m in range(n)]
            expected = 1 if n == 5 else torch.cat(each)
            yield Case((x, kernels), expected, hint, unit=" convolution")

    return check(answer_or_calls, cases(), "each image has its own kernels, all in one call.")


def check_break_even(function: Callable) -> CheckResult:
    """``break_even(dense, fixed, growing)``: ``[L]`` each; where fixed + growing d² = dense."""

    def cases() -> Iterator[Case]:
        solve = "solve fixed + growing * d**2 = dense for d"
        never = "fixed alone costs more than dense: never worth it, say 0 (not NaN)"
        always = "cheaper than dense even at d = 1: a density is at most 1"
        for dense, fixed, growing, hint in [
            ([5.0, 2.0], [0.5, 0.2], [5.5, 2.5], solve),
            ([4.0, 0.02], [0.3, 0.05], [4.2, 0.03], never),
            ([4.0, 3.0], [0.3, 0.1], [3.1, 4.0], always),
        ]:
            times = tuple(torch.tensor(values) for values in (dense, fixed, growing))
            d = ((times[0] - times[1]) / times[2]).clamp(0, 1).sqrt()
            yield Case(times, d, hint, entry="layer")

    return check(function, cases(), "right for six layers, never and always included.")


class _CountConvolutions(TorchDispatchMode):
    """Counts the convolutions that PyTorch runs inside the ``with``."""

    calls = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.calls += operator is torch.ops.aten.convolution.default
        return operator(*arguments, **(keywords or {}))
