"""The exercises of notebook 08, Skipping for real, on a CPU."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .engine import Case, Exercise, Mistake


def _pairs() -> Iterator[Case]:
    axes = ("image", "winner", "live input")
    row = "in which row does a pair stand? Which axes has the result?"
    table = "the table has C_in rows for each output: row o * C_in + i; the result is [N, k, i]"
    each = "every image has its own winners and live inputs"
    own = f"{each}; the result is [N, k, i]"
    for n, k, i, channels, hint, more in [
        (1, 2, 3, 5, row, table),
        (3, 4, 2, 7, each, own),
        (4, 4, 4, 9, each, own),
    ]:
        winners, live = (
            torch.rand(n, channels).argsort(dim=1)[:, :size].sort(dim=1).values for size in (k, i)
        )
        expected = winners[:, :, None] * channels + live[:, None, :]
        yield Case((winners, live, channels), expected, hint, more, axes=axes)


check_pair_index = Exercise(
    "pair_index(winners, live, in_channels): [N, k] and [N, i] -> rows of a table, [N, k, i]",
    _pairs,
    "every pair has its row, for 1, 3 and 4 images.",
    (
        Mistake(
            lambda o, i, c: o[:, :, None] + i[:, None] * c,
            "you exchange the two: the table has C_in rows for each output",
        ),
        Mistake(
            lambda o, i, c: (o[:, :, None] * c + i[:, None]).transpose(1, 2),
            "live inputs and winners have changed places in the result",
        ),
        Mistake(
            lambda o, i, c: (o[0, :, None] * c + i[0])[None].expand(len(o), -1, -1),
            "you use the first image's lists for all images",
        ),
        Mistake(lambda o, i, c: (o[0, :, None] * c + i[0])[None], "you answer for one image only"),
        Mistake(
            lambda o, i, c: o[:, :, None] * i.shape[1] + i[:, None],
            "you count the live inputs, but the table has rows for all inputs",
        ),
        Mistake(
            lambda o, i, c: o[:, :, None] * float(c) + i[:, None],
            "the places are right, but they are no whole numbers",
        ),
        Mistake(lambda o, i, c: o[:, :, None] + i[:, None], "you do not multiply by C_in"),
        Mistake(
            lambda o, i, c: o[:, None] * c + i,
            "you meet the winners and the live inputs one by one, not each with each",
        ),
    ),
)


class _Convolutions(TorchDispatchMode):
    """Counts the convolutions that PyTorch runs inside the ``with``."""

    calls = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.calls += operator is torch.ops.aten.convolution.default
        return operator(*arguments, **(keywords or {}))


def _calls(function: Callable, x: Tensor, kernels: Tensor) -> int:
    with _Convolutions() as counter:
        function(x, kernels)
    return counter.calls


def _batches() -> Iterator[Case]:
    one = "which size has the result of one image?"
    padded = "a 3x3 convolution with padding 1, so that the maps keep their size"
    own = "whose kernels does an image meet?"
    fold = "image n with kernels n: fold the images into the channels, and give each its group"
    calls = "how many convolutions ran for this batch?"
    all_in_one = "one call for the batch, not one each: groups=N"
    for n, k, i, hint, more in [(1, 2, 3, one, padded), (2, 3, 3, own, fold), (4, 5, 2, own, fold)]:
        x, kernels = _whole_numbers(n, k, i)
        each = [F.conv2d(x[[m]], kernels[m], padding=1) for m in range(n)]
        yield Case((x, kernels), torch.cat(each), hint, more)
    many = _whole_numbers(5, 2, 2)
    yield Case(many, 1, calls, all_in_one, ask=_calls, unit=" convolution")


def _whole_numbers(n: int, k: int, i: int) -> tuple[Tensor, Tensor]:
    """Maps and kernels whose sums are exact."""
    sizes = [(n, i, 4, 6), (n, k, i, 3, 3)]
    return tuple(torch.randint(-3, 4, size).float() for size in sizes)


def _grouped(x: Tensor, kernels: Tensor, padding: int = 1) -> Tensor:
    n, _, height, width = x.shape
    one = x.reshape(1, -1, height, width)
    y = F.conv2d(one, kernels.flatten(0, 1), padding=padding, groups=n)
    return y.view(n, -1, *y.shape[2:])


check_batch_as_groups = Exercise(
    "batch_as_groups(x, kernels): [N, i, H, W] and [N, k, i, 3, 3] -> [N, k, H, W]",
    _batches,
    "each image has its own kernels, all in one call.",
    (
        Mistake(
            lambda x, w: torch.cat([F.conv2d(x[[n]], w[n], padding=1) for n in range(len(x))]),
            "you loop over the images: right, and one call each",
        ),
        Mistake(
            lambda x, w: F.conv2d(x, w[0], padding=1), "you use the first image's kernels for all"
        ),
        Mistake(lambda x, w: _grouped(x, w, 0), "you leave the padding out"),
        Mistake(lambda x, w: F.conv2d(x, w[0]), "you leave the padding out, and the other kernels"),
        Mistake(
            lambda x, w: _grouped(x, w).view(1, -1, *x.shape[2:]),
            "you leave all images in one: the result is [N, k, H, W]",
        ),
    ),
)


def _layers() -> Iterator[Case]:
    solve = "at which d does the model equal dense?"
    equation = "solve fixed + growing * d**2 = dense for d"
    never = "what if fixed alone costs more than dense?"
    zero = "never worth it: say 0, not NaN"
    always = "what if skipping is cheaper even at d = 1?"
    one = "a density is at most 1"
    for dense, fixed, growing, hint, more in [
        ([5.0, 2.0], [0.5, 0.2], [5.5, 2.5], solve, equation),
        ([4.0, 0.02], [0.3, 0.05], [4.2, 0.03], never, zero),
        ([4.0, 3.0], [0.3, 0.1], [3.1, 4.0], always, one),
    ]:
        times = tuple(torch.tensor(values) for values in (dense, fixed, growing))
        d = ((times[0] - times[1]) / times[2]).clamp(0, 1).sqrt()
        yield Case(times, d, hint, more, axes=("layer",))


check_break_even = Exercise(
    "break_even(dense, fixed, growing): [L] each; the d at which fixed + growing d² = dense",
    _layers,
    "right for six layers, never and always included.",
    (
        Mistake(lambda a, b, c: ((a - b) / c).clamp(0, 1), "you leave the root out: this is d²"),
        Mistake(lambda a, b, c: (a - b) / c, "you leave the root out: this is d²"),
        Mistake(
            lambda a, b, c: ((a - b) / c).sqrt().clamp(0, 1),
            "you take the root first, and the root of a negative number stays NaN",
        ),
        Mistake(lambda a, b, c: ((a - b) / c).sqrt(), "you let NaN and densities above 1 through"),
        Mistake(lambda a, b, c: ((a - b) / c).relu() ** 0.5, "some densities are above 1"),
        Mistake(lambda a, b, c: (a / c).clamp(0, 1).sqrt(), "you leave the fixed part out"),
        Mistake(
            lambda a, b, c: (a / (b + c)).clamp(0, 1).sqrt(),
            "you let the fixed part fall with d, too",
        ),
    ),
)
