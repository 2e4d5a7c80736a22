"""The exercises of notebook 12, Static relatives."""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .engine import Case, CheckResult, check
from .nb09 import _basic_block


def check_revived(function: Callable) -> CheckResult:
    """``revived(mask, weight)``: bool ``[O, I]``, ``[O, I, k, k]`` -> ``[[o, i], ...]``."""

    def look(mask: Tensor, weight: Tensor) -> object:
        found = function(mask, weight)
        found = found.tolist() if isinstance(found, Tensor) else found
        return [list(pair) if isinstance(pair, tuple) else pair for pair in found]

    def cases() -> Iterator[Case]:
        for change, hint in [
            ("nothing", "where no masked kernel has a weight other than 0, the list is empty"),
            ("one", "look at the kernels where mask is False"),
            ("a corner", "any of the k x k weights can be the one that is back"),
            ("cancels", "weights of both signs can add up to 0: look at each, or at abs"),
            ("negative", "a revived weight can be negative"),
        ]:
            yield _revived_case(change, hint)

    look.__name__ = getattr(function, "__name__", "the function")
    return check(look, cases(), "right, wherever in the kernel the weight is, whatever its sign.")


def _revived_case(change: str, hint: str) -> Case:
    mask = torch.rand(4, 3) < 0.5
    mask[1, 2] = mask[3, 0] = False
    weight = torch.randn(4, 3, 3, 3) * mask[:, :, None, None]
    expected = [] if change == "nothing" else [[1, 2], [3, 0]]
    for o, i in expected:
        weight[o, i, 0, 2] = -0.3 if change in ("negative", "cancels") else 0.2
        if change == "one":
            weight[o, i] = 0.1
        if change == "cancels":
            weight[o, i, 1, 1] = 0.3
    zeros = (~mask & (weight == 0).all(dim=(2, 3))).nonzero().tolist()
    mistakes = (
        (
            mask.nonzero().tolist(),
            "those are the kernels that were kept: mask is True where a kernel stays",
        ),
        (zeros, "those are masked and still 0, as they should be; list the others"),
        (mask.logical_not().nonzero().tolist(), "that is every masked kernel; list those not 0"),
    )
    return Case((mask, weight), expected, hint, mistakes=mistakes)


def check_stripe_sum(function: Callable) -> CheckResult:
    """``stripe_sum(x, weight, kept)``: ``[N, C, H, W]``, ``[O, C, 3, 3]``, bool ``[O, 3, 3]``."""

    def look(x: Tensor, weight: Tensor, kept: Tensor, question: str) -> object:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            y = function(x, weight, kept)
        return y if question == "the output" else counter.get_total_flops() // 2

    def cases() -> Iterator[Case]:
        for filters, density in ((1, 2.0), (4, 0.5), (5, 0.3)):
            sizes = (2, 5, 6), (filters, 3, 3)
            x, weight = (torch.randint(-4, 5, (n, 3, *size)) / 4 for n, *size in sizes)
            kept = torch.rand(filters, 3, 3) < density
            kept[0, 0, 1] = True
            hint = "pad x by 1 on each side; the tap in row i, column j reads from there on: "
            hint += "padded[:, :, i:i + H, j:j + W]"
            mistakes = _stripe_mistakes(x, weight, kept)
            left = weight * kept[:, None]
            expected = F.conv2d(x, left, padding=1)
            yield Case((x, weight, kept, "the output"), expected, hint, mistakes=mistakes)
            macs = int(kept.sum()) * 3 * 30 * 2
            hint = "multiply a tap with the filters alone that have it: weight[has, :, i, j]"
            yield Case((x, weight, kept, "the MACs"), macs, hint, unit=" MACs")

    look.__name__ = getattr(function, "__name__", "the function")
    return check(look, cases(), "right, and no stripe that is gone is multiplied.")


def _stripe_mistakes(x: Tensor, weight: Tensor, kept: Tensor) -> tuple[tuple[Tensor, str], ...]:
    """What typical mistakes return. Where two agree by chance, the first is told."""
    left = weight * kept[:, None]
    right = F.conv2d(x, left, padding=1)
    last = torch.zeros_like(left)
    last[:, :, 2, 2] = left[:, :, 2, 2]
    around = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), left)
    found = [
        (F.conv2d(x, weight, padding=1), "kept is not used: stripes that are gone are added too"),
        (F.conv2d(x, left.flip(2, 3), padding=1),
         "shifted the other way: the tap in row 0 reads the pixel above, which in the padded input "
         "is in row 0 + y"),
        (F.conv2d(x, left.transpose(2, 3), padding=1), "rows and columns are exchanged"),
        (around, "torch.roll brings pixels back on the other side; shift by padding with zeros"),
        (F.conv2d(x, last, padding=1), "each tap is added to the sum of those before: y += ..."),
    ]  # fmt: skip
    return tuple((wrong, hint) for wrong, hint in found if not torch.allclose(wrong, right))


def check_prune_block(function: Callable) -> CheckResult:
    """``prune_block(block, keep)``: torchvision's BasicBlock, bool ``[C]`` -> a smaller copy."""

    def look(kind: str, keep: Tensor, question: str) -> object:
        block, x = _basic_block(*_sizes(kind))
        plain = [tuple(value.shape) for value in block.state_dict().values()]
        smaller = function(block, keep)
        if not isinstance(smaller, torch.nn.Module):
            return smaller
        if question == "was the block changed":
            return [tuple(value.shape) for value in block.state_dict().values()] != plain
        if question == "channels inside":
            return smaller.conv1.weight.shape[0]
        with torch.no_grad():
            return smaller(x)

    def cases() -> Iterator[Case]:
        for kind in ("8 -> 8 stride 1", "8 -> 16 stride 2"):
            keep = torch.rand(_sizes(kind)[1]) < 0.6
            keep[0], keep[1] = False, True
            count = int(keep.sum())
            hint = "conv1 keeps the filters where keep is True: conv1.weight[keep]"
            yield Case((kind, keep, "channels inside"), count, hint, unit=" channels")
            hint = "cut conv1's outputs, bn1's four vectors and conv2's inputs, all at keep; what "
            hint += "conv2 and the shortcut put out meets in a sum and stays"
            expected, mistakes = _pruned_outputs(kind, keep)
            yield Case((kind, keep, "the output"), expected, hint, mistakes=mistakes, slip=1e-4)
            hint = "work on copy.deepcopy(block): the reader of this function may need the old one"
            yield Case((kind, keep, "was the block changed"), False, hint)

    look.__name__ = getattr(function, "__name__", "the function")
    return check(look, cases(), "smaller inside, the sum untouched, and equal to the masked block.")


def _sizes(kind: str) -> list[int]:
    return [int(word) for word in kind.split() if word.isdigit()]


@torch.no_grad()
def _pruned_outputs(kind: str, keep: Tensor) -> tuple[Tensor, tuple[tuple[Tensor, str], ...]]:
    """The masked block's output, and those of typical mistakes."""
    masked, x = _basic_block(*_sizes(kind))
    first = torch.arange(len(keep)) < keep.sum()
    wrong_norm, wrong_inputs, training = (copy.deepcopy(masked) for _ in range(3))
    for name in ("weight", "bias"):
        getattr(masked.bn1, name)[~keep] = 0
        getattr(training.bn1, name)[~keep] = 0
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(wrong_norm.bn1, name)[keep] = getattr(wrong_norm.bn1, name)[first]
    for name in ("weight", "bias"):
        getattr(wrong_norm.bn1, name)[~keep] = 0
        getattr(wrong_inputs.bn1, name)[~keep] = 0
    wrong_inputs.conv2.weight[:, keep] = wrong_inputs.conv2.weight[:, first]
    return masked(x), (
        (wrong_norm(x), "bn1's four vectors must be those of the kept channels: bn1.weight[keep], "
         "and the same for bias, running_mean and running_var"),
        (wrong_inputs(x), "conv2 must read the kept channels: conv2.weight[:, keep]"),
        (training.train()(x), "a new batch norm is in training mode: end with .eval()"),
    )  # fmt: skip
