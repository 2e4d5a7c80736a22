"""Checks for the exercises: they say what is wrong, where, and what to think of. They never raise.

Each takes the reader's function, runs it on random inputs that it draws itself, and returns a
`CheckResult`, whose text is what a notebook shows.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .._version import __version__
from ..method.gated import ChannelPruning, forced_gates
from ..method.macs import count_macs
from ..method.saliency import channel_saliency
from ..method.wta import active_channels, winner_mask, winner_take_all

NEEDED = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "ipywidgets", "tqdm")


@dataclass(frozen=True)
class CheckResult:
    """``passed``, and a message for the reader; true when passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return ("✔ " if self.passed else "✘ ") + self.message


class _WrongError(Exception):
    """What a case found wrong, in words."""


@dataclass(frozen=True)
class _Case:
    """One call ``function(*arguments)``, what it should return, and a hint if it does not.

    ``entry``: what a place in a vector stands for. ``unit``: of an expected number.
    """

    arguments: tuple
    expected: Tensor | int | list
    hint: str
    entry: str = "channel"
    unit: str = ""


def environment() -> CheckResult:
    """Versions and device of this notebook's Python, and what to do if something is missing."""
    found, missing = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    device = f"GPU ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "CPU"
    text = (
        f"fbs_tutorial {__version__}, Python {platform.python_version()}, device: {device}\n"
        f"  {', '.join(found)}"
    )
    if missing:
        remedy = f"run  %pip install {' '.join(missing)}  in a cell, then restart the kernel"
        return CheckResult(False, f"missing: {', '.join(missing)}; {remedy}\n  {text}")
    return CheckResult(True, f"everything is here: {text}")


def check_conv_macs(function: Callable) -> CheckResult:
    """``conv_macs(live_inputs, winners, kernel_size, height, width)``: MACs of one convolution."""

    def cases() -> Iterator[_Case]:
        for _ in range(8):
            a, b, k, h, w = (int(n) for n in torch.randint(2, 9, (5,)))
            yield _Case(
                (a, b, k, h, w),
                a * b * k * k * h * w,
                "every value of every winner's output map sums kernel_size * kernel_size products "
                "for each live input",
            )

    return _check(function, cases(), "it agrees with the definition on 8 random layers.")


def check_shared_winners(function: Callable) -> CheckResult:
    """``shared_winners(first, second)``: channels that win for both images, from bool ``[C]``."""

    def cases() -> Iterator[_Case]:
        for channels in (4, 16, 33):
            first, second = winner_mask(torch.rand(2, channels), 0.5)
            expected = int((first & second).sum())
            yield _Case((first, second), expected, "count the places where both are True")

    return _check(function, cases(), "it counts right on 3 random pairs of winner sets.")


def check_distinct_sets(function: Callable) -> CheckResult:
    """``count_sets(winners)``: how many different rows the bool ``[N, C]`` has."""

    def cases() -> Iterator[_Case]:
        for images in (1, 6, 40):
            winners = winner_mask(torch.rand(images, 4), 0.5)  # six sets at most
            expected = len({tuple(row) for row in winners.tolist()})
            yield _Case((winners,), expected, "two images with equal rows share one set")

    return _check(function, cases(), "it counts right on 3 random masks.")


def check_static_choice(function: Callable) -> CheckResult:
    """``static_choice(gates, density)``: the mean gate's winners, bool ``[C]``, of ``[N, C]``."""

    def cases() -> Iterator[_Case]:
        for density in (0.25, 0.3, 1.0):
            gates = winner_take_all(torch.rand(6, 8), 0.5)
            expected = winner_mask(gates.mean(dim=0, keepdim=True), density)[0]
            hint = "average over the images first, dim=0, then keep the ceil(d * C) largest"
            yield _Case((gates, density), expected, hint)

    return _check(function, cases(), "the same channels as the mean gate's, at 3 densities.")


def check_active_channels(function: Callable) -> CheckResult:
    """``active_channels(channels, density)``: ceil(density * channels), without a float slip."""

    def cases() -> Iterator[_Case]:
        slip = "density * channels in floating point can land a hair above a whole number"
        up = "round up: a density never gives fewer channels than its share"
        few = "even the smallest density leaves one channel"
        for channels, hundredths, hint in [
            (8, 50, up),
            (10, 31, up),
            (3, 1, few),
            (100, 55, slip),
            (100, 7, slip),
            (50, 14, slip),
            *((int(c), int(h), slip) for c, h in zip(_draw(1, 200), _draw(1, 101), strict=True)),
        ]:
            expected = max(1, ceil(Fraction(hundredths, 100) * channels))
            yield _Case((channels, hundredths / 100), expected, hint)

    return _check(function, cases(), "k is right for 26 pairs of channels and density.")


def check_winner_take_all(function: Callable) -> CheckResult:
    """``winner_take_all(g, density)``: ``[N, C] -> [N, C]``; density a number or a tensor [N]."""

    def cases() -> Iterator[_Case]:
        plain = "keep the ceil(d * C) largest values of each row, set the rest to 0"
        ties = "equal values: the lower index wins, so that k is exact (argsort(stable=True))"
        each = "density is a tensor [N] here: row i has its own k"
        g = torch.rand(3, 8)
        yield _Case((g, 0.5), winner_take_all(g, 0.5), plain)
        yield _Case((g, 0.3), winner_take_all(g, 0.3), plain)
        g = torch.randint(1, 4, (4, 10)).float()
        yield _Case((g, 0.3), winner_take_all(g, 0.3), ties)
        g, density = torch.rand(4, 10), torch.tensor([0.1, 0.55, 1.0, 0.3])
        yield _Case((g, density), winner_take_all(g, density), each)
        g = torch.rand(2, 100)
        slip = "k has a rounding slip: 0.55 * 100 is a little more than 55"
        yield _Case((g, 0.55), winner_take_all(g, 0.55), slip)
        few = "k is at least 1"
        density = torch.tensor([1e-8, 0.5], dtype=torch.float64)
        yield _Case((g, density), winner_take_all(g, density), few)

    return _check(function, cases(), "right on plain rows, ties and one density an image.")


def check_winner_take_all_backward(function: Callable) -> CheckResult:
    """``winner_take_all_backward(g, density, upstream)``: the gradient with respect to ``g``."""

    def cases() -> Iterator[_Case]:
        for density in (0.25, 0.5, 1.0):
            g, upstream = torch.rand(3, 8).sub(0.4).relu(), torch.randn(3, 8)  # zeros can win
            expected = torch.where(winner_mask(g, density), upstream, 0.0)
            hint = (
                "a winner is copied, so its gradient is copied; a loser does not reach the output"
            )
            yield _Case((g, density, upstream), expected, hint)

    return _check(function, cases(), "it is what autograd computes, at 3 densities.")


def check_gated_output(function: Callable) -> CheckResult:
    """``gated_output(z, pi, beta)``: the layer's last line, ``z [N, C, H, W]``, ``pi [N, C]``."""

    def cases() -> Iterator[_Case]:
        inside = "add beta to z first, then multiply by the gate, then ReLU"
        shapes = "give pi and beta size 1 in height and width: pi[:, :, None, None]"
        for shape in ([2, 3, 4, 5], [3, 3, 3, 3], [1, 4, 2, 2]):
            z, beta = torch.randn(shape), torch.randn(shape[1])
            pi = winner_take_all(2 * torch.rand(shape[:2]), 0.5)
            y = (pi[:, :, None, None] * (z + beta[:, None, None])).relu()
            yield _Case((z, pi, beta), y, shapes if shape[0] == shape[1] else inside)

    return _check(function, cases(), "it is the layer's last line, on 3 random batches.")


def check_mean_one_gate(function: Callable) -> CheckResult:
    """``mean_one_gate(g, density)``: winner-take-all, then every image's gates have mean 1."""

    def cases() -> Iterator[_Case]:
        after = "select first, then divide each row by its own mean over all C channels"
        g = torch.rand(3, 8)
        for density in (0.5, 1.0):
            pi = winner_take_all(g, density)
            yield _Case((g, density), pi / pi.mean(dim=1, keepdim=True), after)
        g = torch.stack([torch.rand(8), torch.zeros(8)])
        pi = winner_take_all(g, 0.25)
        pi[1, :2] = 1.0
        empty = "a row of zeros is 0 / 0: there its k winners (lower indices) share, C / k each"
        yield _Case((g, 0.25), pi / pi.mean(dim=1, keepdim=True), empty)

    return _check(function, cases(), "mean 1 in every row, a row of zeros included.")


def check_density_schedule(function: Callable) -> CheckResult:
    """``density_schedule(start, stop, step)``: from start down to stop, both included."""

    def cases() -> Iterator[_Case]:
        ends = "both ends belong to the list"
        slip = "subtracting again and again adds up rounding errors: 1 - 0.1 - 0.1 - 0.1 is not 0.7"
        for start, stop, step, hint in [
            (100, 50, 25, ends),
            (100, 10, 10, slip),
            (80, 20, 20, slip),
            (55, 5, 5, slip),
            (100, 5, 5, slip),
            (90, 30, 20, ends),
            (100, 30, 10, ends),
        ]:
            expected = [n / 100 for n in range(start, stop - 1, -step)]
            yield _Case((start / 100, stop / 100, step / 100), expected, hint)

    return _check(function, cases(), "seven schedules, both ends included and no rounding slip.")


def check_l1_penalty(function: Callable) -> CheckResult:
    """``l1_penalty(saliencies)``: sum over layers of the batch mean of ``||g||_1``."""

    def cases() -> Iterator[_Case]:
        one = "add up each image's saliencies, and take the mean over the images"
        many = "add up the layers; do not take their mean"
        for channels, hint in [((4,), one), ((3, 7), many), ((16, 32, 32), many)]:
            layers = [torch.rand(5, c) for c in channels]
            yield _Case((layers,), sum(g.sum(dim=1).mean() for g in layers), hint)

    return _check(function, cases(), "right for one, two and three layers.")


def check_safe_l2(function: Callable) -> CheckResult:
    """``safe_l2(x)``: ``[N, C, H, W] -> [N, C]`` root mean square, gradient 0 where a map is 0."""

    def value_or_gradient(x: Tensor) -> Tensor:
        if (x != 0).flatten(2).any(dim=2).all():  # no empty channel: look at the values
            return function(x)
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]

    value_or_gradient.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[_Case]:
        values = "the square root of the mean of the squares, over rows and columns"
        empty = "these are gradients: 0 at an empty channel, not NaN; keep sqrt away from exactly 0"
        full = torch.randn(2, 3, 4, 5)
        yield _Case((full,), channel_saliency(full, "l2"), values)
        yield _Case((full / 1000,), channel_saliency(full / 1000, "l2"), values)
        x = full * torch.tensor([[[[1.0]], [[0.0]], [[2.0]]]])
        size = (20 * channel_saliency(x, "l2")).clamp(min=1e-12)
        yield _Case((x,), x / size[:, :, None, None], empty)

    return _check(value_or_gradient, cases(), "values and gradients are right, at zeros too.")


def check_predicted_saliency(function: Callable) -> CheckResult:
    """``predicted_saliency(s, weight, bias)``: ``[N, C_in] -> [N, C_out]``, linear and ReLU."""

    def cases() -> Iterator[_Case]:
        for n, c_in, c_out in ((2, 3, 5), (4, 4, 4), (1, 6, 2)):
            s, weight, bias = torch.rand(n, c_in), torch.randn(c_out, c_in), torch.randn(c_out)
            expected = (s @ weight.T + bias).relu()
            hint = "each output channel: the sum of s times its row of weight, plus its bias, >= 0"
            yield _Case((s, weight, bias), expected, hint)

    return _check(function, cases(), "it is what nn.Linear and ReLU compute, for 3 sizes.")


def check_grouped_macs(function: Callable) -> CheckResult:
    """``grouped_macs(live_inputs, winners, kernel_size, positions)``: one count a group in each."""

    def cases() -> Iterator[_Case]:
        for groups in (1, 2, 3, 4):
            live, won = (torch.randint(0, 6, (groups,)).tolist() for _ in range(2))
            kernel, positions = (int(n) for n in torch.randint(2, 9, (2,)))
            expected = sum(a * b for a, b in zip(live, won, strict=True)) * kernel**2 * positions
            hint = "an output reads the inputs of its own group only: multiply group by group"
            yield _Case((live, won, kernel, positions), expected, hint)

    return _check(function, cases(), "right for 1 to 4 groups.")


def check_chain_macs(function: Callable) -> CheckResult:
    """``chain_macs(channels, densities, positions)``: active MACs of a chain of 3x3 layers."""

    def cases() -> Iterator[_Case]:
        first = "the image is always complete: the first layer reads all of channels[0]"
        up = "winners are rounded up, and the winners of one layer are the live inputs of the next"
        slip = "0.55 * 100 is a little more than 55: use active_channels"
        for channels, densities, positions, hint in [
            ([3, 8], [0.5], [4], first),
            ([3, 8, 16], [0.5, 0.25], [16, 4], up),
            ([1, 10, 10, 7], [0.31, 0.55, 1.0], [9, 9, 4], up),
            ([3, 100, 100], [0.55, 0.07], [2, 2], slip),
        ]:
            won = [active_channels(c, d) for c, d in zip(channels[1:], densities, strict=True)]
            pairs = zip([channels[0], *won], won, positions, strict=False)
            yield _Case(
                (channels, densities, positions), sum(9 * a * b * p for a, b, p in pairs), hint
            )

    return _check(function, cases(), "right for 4 chains, the first layer and rounding included.")


def check_pair_index(function: Callable) -> CheckResult:
    """``pair_index(winners, live, in_channels)``: ``[N, k]``, ``[N, i]`` -> rows ``[N, k, i]``."""

    def cases() -> Iterator[_Case]:
        row = "the table has C_in rows for each output: row o * C_in + i; the result is [N, k, i]"
        each = "every image has its own winners and live inputs; the result is [N, k, i]"
        for n, k, i, channels, hint in [(1, 2, 3, 5, row), (3, 4, 2, 7, each), (4, 4, 4, 9, each)]:
            winners, live = (
                torch.rand(n, channels).argsort(dim=1)[:, :size].sort(dim=1).values
                for size in (k, i)
            )
            expected = winners[:, :, None] * channels + live[:, None, :]
            yield _Case((winners, live, channels), expected, hint)

    return _check(function, cases(), "every pair has its row, for 1, 3 and 4 images.")


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

    def cases() -> Iterator[_Case]:
        one = "a 3x3 convolution with padding 1"
        own = "image n with kernels n: fold the images into the channels, and give each its group"
        calls = "this is the number of convolutions that ran: one call for the batch, not one each"
        for n, k, i, hint in [(1, 2, 3, one), (2, 3, 3, own), (4, 5, 2, own), (5, 2, 2, calls)]:
            sizes = [(n, i, 4, 6), (n, k, i, 3, 3)]
            x, kernels = (torch.randint(-3, 4, size).float() for size in sizes)  # sums are exact
            each = [F.conv2d(x[[m]], kernels[m], padding=1) for m in range(n)]
            expected = 1 if n == 5 else torch.cat(each)
            yield _Case((x, kernels), expected, hint, unit=" convolution")

    return _check(answer_or_calls, cases(), "each image has its own kernels, all in one call.")


class _CountConvolutions(TorchDispatchMode):
    """Counts the convolutions that PyTorch runs inside the ``with``."""

    calls = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.calls += operator is torch.ops.aten.convolution.default
        return operator(*arguments, **(keywords or {}))


def check_break_even(function: Callable) -> CheckResult:
    """``break_even(dense, fixed, growing)``: ``[L]`` each; where fixed + growing d² = dense."""

    def cases() -> Iterator[_Case]:
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
            yield _Case(times, d, hint, entry="layer")

    return _check(function, cases(), "right for six layers, never and always included.")


def check_weight_addresses(function: Callable) -> CheckResult:
    """``weight_addresses(tap, channels, winners, in_channels, out_channels)``: ``[k_in, k_out]``.

    Places in the flat copy of a weight ``[taps, in_channels, out_channels]``.
    """

    def as_lists(*arguments: object) -> object:  # a message can show them whole
        got = function(*arguments)
        return got.tolist() if isinstance(got, Tensor) else got

    as_lists.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[_Case]:
        row = "a row for each channel, a column for each winner; one channel further is " + (
            "out_channels numbers further, one winner further is the next number"
        )
        taps = "one tap further is in_channels * out_channels numbers further"
        for tap, k_in, k_out, hint in [(0, 2, 3, row), (0, 2, 2, row), (5, 3, 2, taps)]:
            channels, winners = (torch.rand(6).argsort()[:k].sort().values for k in (k_in, k_out))
            expected = torch.arange(9 * 6 * 7).view(9, 6, 7)[tap][channels[:, None], winners]
            yield _Case((tap, channels, winners, 6, 7), expected.tolist(), hint)

    return _check(as_lists, cases(), "every weight is found, for three pairs of lists.")


def check_tile_count(function: Callable) -> CheckResult:
    """``tile_count(images, pixels, winners, block_m, block_n)``: programs of one launch."""

    def cases() -> Iterator[_Case]:
        up = "a tile that is only partly filled is a tile: round up, in both directions"
        own = "a tile belongs to one image: round up for each image, then multiply"
        for images, pixels, winners, m, n, hint in [
            (1, 64, 32, 32, 16, up),
            (1, 50, 24, 16, 16, up),
            (3, 49, 40, 64, 32, own),
            (128, 225, 64, 128, 64, own),
        ]:
            expected = images * ceil(Fraction(pixels, m)) * ceil(Fraction(winners, n))
            yield _Case((images, pixels, winners, m, n), expected, hint)

    return _check(function, cases(), "right for 4 layers, tiles at the edges included.")


def check_least_time(function: Callable) -> CheckResult:
    """``least_time(macs, moved, peak, bandwidth)``: the roofline's bound in seconds, ``[L]``."""

    def cases() -> Iterator[_Case]:
        flops = "a MAC is two FLOPs: 2 * macs / peak seconds of arithmetic"
        longer = "both go on at the same time: the longer of the two decides, for each layer"
        for moved, hint in [([1.0, 1.0], flops), ([9e9, 1.0], longer), ([3e9, 8e9], longer)]:
            macs, moved = torch.tensor([4e9, 1e9]), torch.tensor(moved)
            bound = torch.maximum(2 * macs / 4e9, moved / 1e9)
            yield _Case((macs, moved, 4e9, 1e9), bound, hint, entry="layer")

    return _check(function, cases(), "right for layers on both sides of the ridge.")


def check_live_in_sum(function: Callable) -> CheckResult:
    """``live_in_sum(branches)``: bool ``[N, C]`` of each branch -> live channels ``[N]``."""

    def cases() -> Iterator[_Case]:
        both = "a channel of the sum is empty only if it is empty in every branch; count the others"
        each = "count for each image, over its channels: the result is [N]"
        for branches, images, density, hint in [
            (2, 1, 0.5, both),
            (2, 4, 0.5, each),
            (3, 5, 0.25, both),
            (1, 3, 0.5, "with one branch its own channels are the live ones"),
        ]:
            won = [winner_mask(torch.rand(images, 12), density) for _ in range(branches)]
            expected = torch.stack(won).any(dim=0).sum(dim=1)
            yield _Case((won,), expected, hint, entry="image")

    return _check(function, cases(), "right for one, two and three branches.")


def check_inverted_macs(function: Callable) -> CheckResult:
    """``inverted_macs(channels, expansion, positions, density)``: four counts of one block."""

    def cases() -> Iterator[_Case]:
        dense = "at d = 1: C·tC·P, 9·tC·P and tC·C·P, with t = expansion and P = positions"
        half = "a depthwise output reads one input, its own: k·9·P for its k winners"
        up = "round up: the winners are active_channels(C, d) and active_channels(t·C, d)"
        for channels, expansion, positions, density, hint in [
            (8, 4, 16, 1.0, dense),
            (16, 6, 49, 0.5, half),
            (10, 3, 9, 0.25, up),
        ]:
            wide = channels * expansion
            k, wide_k = active_channels(channels, density), active_channels(wide, density)
            counts = [k * wide_k, wide_k * 9, wide_k * k]
            predictors = channels * wide + wide * wide + wide * channels
            expected = [count * positions for count in counts] + [predictors]
            hint += "; the list is [expansion, depthwise, projection, predictors]"
            yield _Case((channels, expansion, positions, density), expected, hint)

    return _check(function, cases(), "right for 3 blocks, predictors and rounding included.")


def check_gate_block(function: Callable) -> CheckResult:
    """``gate_block(block, density)``: torchvision's BasicBlock -> a copy that is gated."""

    def look(kind: str, density: float, question: str) -> object:
        in_channels, out_channels, stride = (int(n) for n in kind.split() if n.isdigit())
        block, x = _basic_block(in_channels, out_channels, stride)
        plain = [type(module) for module in block.modules()]
        gated = function(block, density)
        if not isinstance(gated, torch.nn.Module):
            return gated
        layers = {n: m for n, m in gated.named_modules() if isinstance(m, ChannelPruning)}
        if question == "how many gates":
            return len(layers)
        if question == "was the block changed":
            return [type(module) for module in block.modules()] != plain
        if question == "active MACs":
            return int(count_macs(gated, x).active[0])
        ones = {name: torch.ones(1, layer.out_channels) for name, layer in layers.items()}
        with torch.no_grad(), forced_gates(gated, ones):
            return gated(x)

    look.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[_Case]:
        names = "one ChannelPruning a convolution, with its batch norm"
        own = "each convolution needs its own gate, at this density: in ChannelPruning(conv1, bn1, "
        own += "conv2, bn2) the first convolution could not be skipped"
        once = "with gates of 1 nothing may change: run each batch norm once (put nn.Identity() in "
        once += "its old place), and leave ReLU and the sum where they are"
        for kind, count in (("8 -> 8 stride 1", 2), ("8 -> 16 stride 2", 3)):
            more = ", and one for the convolution of block.downsample" if count == 3 else ""
            c_in, c_out, stride = (int(n) for n in kind.split() if n.isdigit())
            k, positions = active_channels(c_out, 0.5), (6 // stride) ** 2
            macs = (9 * c_in * k + 9 * k * k + (count == 3) * c_in * k) * positions
            yield _Case((kind, 0.5, "how many gates"), count, names + more, unit=" gates")
            block, x = _basic_block(c_in, c_out, stride)
            with torch.no_grad():
                yield _Case((kind, 0.5, "the output with gates of 1"), block(x), once)
            yield _Case((kind, 0.5, "active MACs"), macs, own, unit=" active MACs")
            hint = "work on copy.deepcopy(block): the reader of this function may need the old one"
            yield _Case((kind, 0.5, "was the block changed"), False, hint)

    return _check(look, cases(), "every convolution has its own gate, with and without downsample.")


def _basic_block(
    in_channels: int, out_channels: int, stride: int
) -> tuple[torch.nn.Module, Tensor]:
    """torchvision's residual block in eval mode, the same one each time, and an input for it."""
    from torchvision.models.resnet import BasicBlock  # here: it takes a second to import

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(in_channels + out_channels)
        conv = torch.nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(out_channels))
        block = BasicBlock(in_channels, out_channels, stride, downsample if stride > 1 else None)
        for norm in block.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):  # such that running it twice shows
                torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
                torch.nn.init.normal_(norm.bias)
        return block.eval(), torch.rand(1, in_channels, 6, 6)


def _draw(low: int, high: int) -> list[int]:
    return torch.randint(low, high, (20,)).tolist()


def _check(function: Callable, cases: Iterator[_Case], praise: str) -> CheckResult:
    name = getattr(function, "__name__", "the function")
    with torch.random.fork_rng(devices=[]):  # the notebook's random numbers are left alone
        torch.manual_seed(2019)
        try:
            for case in cases:
                _run_case(function, case)
        except _WrongError as wrong:
            return CheckResult(False, f"{name}: {wrong}")
    return CheckResult(True, f"{name}: {praise}")


def _run_case(function: Callable, case: _Case) -> None:
    """Call the reader's function on copies and raise `_WrongError` with an explanation."""
    copies = [a.clone() if isinstance(a, Tensor) else a for a in case.arguments]
    call = ", ".join(_short(argument) for argument in case.arguments)
    how = f"\n  called with {call}\n  hint: {case.hint}"
    try:
        got = function(*copies)
    except Exception as error:  # whatever a reader's code may raise
        if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's have a text
            raise _WrongError("not written yet: replace the line that raises") from None
        raise _WrongError(f"raised {type(error).__name__}: {error}{how}") from None
    if got is None:
        raise _WrongError("returned None; is there a return?")
    for before, after in zip(case.arguments, copies, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise _WrongError("changed its input in place; work on a new tensor")
    difference = _difference(got, case)
    if difference:
        raise _WrongError(f"{difference}{how}")


def _difference(got: object, case: _Case) -> str:
    """What is wrong with ``got``, empty if nothing is."""
    expected = case.expected
    if isinstance(expected, (int, list)):
        try:
            return "" if got == expected else f"expected {expected}{case.unit}, got {_short(got)}"
        except Exception:
            return f"expected {expected}{case.unit}, got {type(got).__name__}"
    if not isinstance(got, Tensor):
        return f"expected a tensor {list(expected.shape)}, got {type(got).__name__}"
    if got.shape != expected.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    wrong = ~torch.isclose(got.detach().to(expected.dtype), expected)
    if not wrong.any():
        return ""
    place = tuple(wrong.nonzero()[0].tolist())  # () for a single number
    names = ("image", "channel", "row", "column") if len(place) > 1 else (case.entry,)
    where = ", ".join(f"{name} {index}" for name, index in zip(names, place, strict=False))
    values = f"expected {_short(expected[place].item())}, got {_short(got[place].item())}"
    return f"first wrong value: {where}: {values}" if where else values


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return "[" + ", ".join(_short(part) for part in value) + "]"
    if isinstance(value, Tensor):
        shape = list(value.shape)
        if value.numel() > 10:
            return f"tensor {shape}"
        return f"tensor {[round(v, 3) for v in value.flatten().tolist()]}"
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
