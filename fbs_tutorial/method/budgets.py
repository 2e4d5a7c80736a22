"""Budgets per image: a cheap first look at every image, and a second one for the unsure."""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from .gated import (
    ChannelPruning,
    Gated,
    GatedConv2d,
    at_density,
    evaluating,
    gated_layers,
    gates_of,
)
from .graph import Parts, hooked, is_counted, memo_of, read_directly, traceable_parts
from .macs import MacReport, count_macs, counted_calls
from .saliency import check_feature_maps

BATCH = 256  # images at a time


@dataclass
class Looks:
    """What `look_again` returns, one row per image."""

    logits: Tensor  # [N, classes]
    second: Tensor  # [N] bool: whether it was looked at again
    macs: Tensor | None  # [N] int64: of all its looks, by gates, predictors included


@dataclass(frozen=True)
class Look:
    """One way of looking at images: a network, at this density or, with None, as it is set."""

    network: nn.Module
    density: float | None = None

    @contextmanager
    def ready(self) -> Iterator[nn.Module]:
        """Inside the ``with``, the network at its density, in eval mode and without gradients."""
        setting = nullcontext() if self.density is None else at_density(self.network, self.density)
        with setting, evaluating(self.network):
            yield self.network


def look_again(
    model: nn.Module,
    images: Tensor,
    first: float | nn.Module,
    second: float | nn.Module,
    threshold: float,
    *,
    average: bool = False,
) -> Looks:
    """Look at every image, and once more at those that the first look is unsure about.

    Unsure means that the largest probability is below ``threshold``. Choose it on images that are
    neither trained on nor tested with: the 0.2 quantile of their largest probabilities sends about
    a fifth of new images on. Both looks run in eval mode, without gradients, in batches of 256.
    Compare budgeted batch classification in "Multi-Scale Dense Networks" (Huang et al., ICLR 2018,
    section 3), whose exits are parts of one network.

    Args:
        model: a network ``[N, C, H, W] -> [N, classes]``, masked or accelerated. Its densities,
            modes and gates are afterwards as they were before, also after an error.
        images: ``[N, C, H, W]``.
        first, second: a density of ``model`` in (0, 1], or another network of the same classes,
            plain or gated, which runs as it is set.
        threshold: a probability from 0 to 1. At 0 no image is looked at again.
        average: an image that is looked at again takes the mean of both looks' probabilities, its
            logits being their logarithms; False: the second look's logits.

    Returns:
        `Looks`: ``.logits`` ``[N, classes]``, ``.second`` ``[N]`` bool, ``.macs`` ``[N]`` int64, as
        `count_macs` counts them by gates, from the winners that the layers keep. (A network that
        ``torch.fx`` cannot follow in whole, or in which a gated layer runs twice, is run once more
        to be counted; such a network cannot be an accelerated one.)

    Raises:
        TypeError: an argument of another kind. ValueError: a density or threshold out of range,
            ``images`` not 4-D or empty, a density for a network without gates, a network with a
            density per image, looks that differ in classes, or one that cannot be counted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_feature_maps(images, "images")
    looks = [checked_look(model, first, "first"), checked_look(model, second, "second")]
    check_threshold(threshold)
    if not isinstance(average, bool):
        raise TypeError(f"average must be True or False, got {average!r}")
    return take_looks(*looks, images, threshold, average=average)


def checked_look(model: nn.Module, wanted: float | nn.Module, name: str) -> Look:
    """The look that the argument ``name`` of `look_again` asks for; raise if it is none."""
    if isinstance(wanted, nn.Module):
        for layer_name, layer in wanted.named_modules():
            if isinstance(layer, Gated) and isinstance(layer.density, Tensor):
                takes = f"{name} must be a network with one density per layer"
                raise ValueError(f"{takes}, {layer_name or 'it'} has one per image")
        return Look(wanted)
    takes = f"{name} must be a density of model in (0, 1], or another network"
    if isinstance(wanted, bool) or not isinstance(wanted, Real):
        raise TypeError(f"{takes}, got {wanted!r}")
    if not 0 < wanted <= 1:
        raise ValueError(f"{takes}, got {wanted!r}")
    gated_layers(model)  # raises where it has none
    return Look(model, float(wanted))


def check_threshold(threshold: float) -> None:
    """Raise unless ``threshold`` is a probability."""
    takes = "threshold must be a probability from 0 to 1"
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"{takes}, got {threshold!r}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"{takes}, got {threshold!r}")


def take_looks(
    first: Look,
    second: Look,
    images: Tensor,
    threshold: float,
    *,
    average: bool = False,
    counted: bool = True,
) -> Looks:
    """`look_again` of arguments that were checked; ``.macs`` is None unless ``counted``."""
    logits, macs = look_once(first, images, counted)
    unsure = ~(confidence(logits) >= threshold)  # a NaN is not sure of anything
    if unsure.any():
        again, more = look_once(second, images[unsure], counted)
        if again.shape[1] != logits.shape[1]:
            raise ValueError(
                f"second must know the {logits.shape[1]} classes of the first look, it gives "
                f"{again.shape[1]}"
            )
        logits[unsure] = (mean_of(logits[unsure], again) if average else again).to(logits)
        if counted:
            macs[unsure] += more
    return Looks(logits, unsure, macs)


def confidence(logits: Tensor) -> Tensor:
    """The largest probability of each row: ``[N, classes] -> [N]``."""
    return logits.float().softmax(dim=1).amax(dim=1)


def mean_of(one: Tensor, other: Tensor) -> Tensor:
    """Logarithms of the mean of two looks' probabilities, ``[N, classes]``."""
    both = torch.stack([one.float(), other.float()]).log_softmax(dim=2)
    return both.logsumexp(dim=0) - both.new_tensor(2.0).log()


def look_once(look: Look, images: Tensor, counted: bool) -> tuple[Tensor, Tensor | None]:
    """Logits ``[N, classes]``, and if ``counted`` MACs ``[N]`` int64, of one look at ``images``."""
    logits, macs = [], []
    count = KeptMacs(look.network) if counted else None
    with look.ready() as network:
        for batch in images.split(BATCH):
            logits.append(_checked_logits(network(batch), len(batch)))
            if counted:
                macs.append(count(batch))
    return torch.cat(logits), torch.cat(macs) if counted else None


def _checked_logits(logits: Tensor, count: int) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"a network must give logits [{count}, classes], got {got}")
    return logits


class KeptMacs:
    """Counts what a network's last run has cost each image, by gates, without another forward.

    The winners are those that the gated layers keep. They go through the network's `outline`, where
    they meet the rules of `count_macs` and nothing is multiplied.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.outline = vars(network).get("outline")  # of an accelerated network
        if self.outline is None:
            self.outline = outline(network)
        self.gates = {n: m for n, m in self.outline.named_modules() if isinstance(m, Gated)}
        self.parts = traceable_parts(self.outline, blocks=True)
        self.can_follow = not self.parts.stopped and not _runs_a_gate_twice(self.parts)
        masked = all(isinstance(m, (GatedConv2d, ChannelPruning)) for m in gates_of(network))
        if not (masked or self.can_follow):
            raise ValueError(
                "an accelerated network of this kind cannot be counted: give the one it was made of"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """MACs ``[N]`` int64 of the run on these images, predictors included."""
        if not self.can_follow:
            report = count_macs(self.network, images)
        else:
            for name, gate in self.gates.items():
                ran = self.network.get_submodule(name)
                gate.saliency, gate.forced = ran.saliency, ran.forced
                gate.take_density(ran.density)
            with torch.inference_mode(False), torch.no_grad():
                empty = torch.zeros(images.shape, dtype=images.dtype, device=images.device)
                report = MacReport(counted_calls(self.outline, empty, "gates", self.parts))
        return report.active + report.overhead


def _runs_a_gate_twice(parts: Parts) -> bool:
    """True if a gated layer has several runs in a forward, of which it keeps the last alone."""
    called = [
        part.get_submodule(node.target)
        for part, graph in parts.graphs.items()
        for node in graph.nodes
        if node.op == "call_module"
    ]
    return any(n > 1 for module, n in Counter(called).items() if gates_of(module))


def outline(model: nn.Module) -> nn.Module:
    """A copy of ``model`` to count with: the same layers, but convolutions give maps of zeros.

    Ordinary convolutions and linear layers have shapes and no numbers; other tensors are those of
    the model itself. `accelerate` keeps the outline of the network that it was given.
    """
    read = read_directly(traceable_parts(model, blocks=True))
    ordinary = [m for m in model.modules() if type(m) in (nn.Conv2d, nn.Linear) and m not in read]
    memo = memo_of(model, (*model.parameters(), *model.buffers()))
    for layer in ordinary:
        for p in layer.parameters():
            memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    copied = copy.deepcopy(model, memo).eval()
    for layer in copied.modules():
        if hooked(layer):  # it stays one of which nothing is known
            layer._forward_hooks.clear()
            layer._forward_pre_hooks.clear()
            layer.register_forward_hook(_nothing)
        if isinstance(layer, Gated) or is_counted(layer):
            stand_in = _run_through if isinstance(layer, Gated) else _empty_output
            layer.forward = partial(stand_in, layer)
            layer.forward.vouched_for = True  # for which channels are live, it is the layer's own
    return copied


def _nothing(module: nn.Module, inputs: tuple, output: object) -> None:
    """A hook that does nothing, in the place of one that is not to run on zeros."""


def _run_through(gate: Gated, input: Tensor) -> Tensor:
    """The forward of a gated layer in an `outline`: it has its saliency already."""
    return gate.conv(input) if isinstance(gate, GatedConv2d) else gate.block(input)


def _empty_output(layer: nn.Module, input: Tensor) -> Tensor:
    """The forward of a counted layer in an `outline`: zeros of the shape of its output.

    Of an ordinary layer it comes from the shapes; another kind has one image to find it by.
    """
    one = input[:1].to(next(layer.parameters(), input))
    return input.new_zeros(len(input), *type(layer).forward(layer, one).shape[1:])
