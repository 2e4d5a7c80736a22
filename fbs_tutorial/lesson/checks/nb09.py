"""The exercises of notebook 09, Real networks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...method.gated import ChannelPruning, forced_gates
from ...method.macs import count_macs
from ...method.wta import active_channels, winner_mask
from .engine import Case, CheckResult, check


def check_live_in_sum(function: Callable) -> CheckResult:
    """``live_in_sum(branches)``: bool ``[N, C]`` of each branch -> live channels ``[N]``."""

    def cases() -> Iterator[Case]:
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
            yield Case((won,), expected, hint, entry="image")

    return check(function, cases(), "right for one, two and three branches.")


def check_inverted_macs(function: Callable) -> CheckResult:
    """``inverted_macs(channels, expansion, positions, density)``: four counts of one block."""

    def cases() -> Iterator[Case]:
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
            yield Case((channels, expansion, positions, density), expected, hint)

    return check(function, cases(), "right for 3 blocks, predictors and rounding included.")


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

    def cases() -> Iterator[Case]:
        names = "one ChannelPruning per convolution, with its batch norm"
        own = "each convolution needs its own gate, at this density: in ChannelPruning(conv1, bn1, "
        own += "conv2, bn2) the first convolution could not be skipped"
        once = "with gates of 1 nothing may change: run each batch norm once (put nn.Identity() in "
        once += "its old place), and leave ReLU and the sum where they are"
        for kind, count in (("8 -> 8 stride 1", 2), ("8 -> 16 stride 2", 3)):
            more = ", and one for the convolution of block.downsample" if count == 3 else ""
            c_in, c_out, stride = (int(n) for n in kind.split() if n.isdigit())
            k, positions = active_channels(c_out, 0.5), (6 // stride) ** 2
            macs = (9 * c_in * k + 9 * k * k + (count == 3) * c_in * k) * positions
            yield Case((kind, 0.5, "how many gates"), count, names + more, unit=" gates")
            block, x = _basic_block(c_in, c_out, stride)
            with torch.no_grad():
                yield Case((kind, 0.5, "the output with gates of 1"), block(x), once)
            yield Case((kind, 0.5, "active MACs"), macs, own, unit=" active MACs")
            hint = "work on copy.deepcopy(block): the reader of this function may need the old one"
            yield Case((kind, 0.5, "was the block changed"), False, hint)

    return check(look, cases(), "every convolution has its own gate, with and without downsample.")


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
