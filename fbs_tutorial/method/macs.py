"""Multiply-accumulate operations (MACs), dense and as dynamic pruning leaves them, per image."""

import operator
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .gated import ChannelPruning, Gated, GatedConv2d, evaluating
from .saliency import check_feature_maps
from .wta import winner_mask

# Modules that compute an output channel from the input channel of the same index alone.
CHANNELWISE = (
    nn.Identity,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
# Functions that do.
CHANNELWISE_FUNCTIONS = (operator.add, operator.iadd, torch.add, torch.relu, F.relu)


@dataclass
class LayerMacs:
    """The cost of one convolution or linear layer; units: MACs of one image."""

    name: str
    dense: int  # C_in / groups * C_out * k * k * H * W
    active: Tensor  # [N] live inputs * winners * k * k * H * W, int64
    overhead: int = 0  # the predictor: C_in * C_out
    scaling: int = 0  # the gate's multiplications: C_out * H * W, however many of them win


@dataclass
class MacReport:
    """What `count_macs` returns; prints as a table. Units: MACs of one image.

    Attributes:
        dense: convolutions and linear layers, everything computed, int.
        active: what is left for each image, ``[N]`` int64.
        overhead: the predictors, C_in * C_out a gated layer, int.
        scaling: multiplications by the gates, C_out * H * W a gated layer, int.
        layers: the same for each layer, in the order they ran.
    """

    layers: list[LayerMacs]

    @property
    def dense(self) -> int:
        return sum(layer.dense for layer in self.layers)

    @property
    def active(self) -> Tensor:
        return torch.stack([layer.active for layer in self.layers]).sum(dim=0)

    @property
    def overhead(self) -> int:
        return sum(layer.overhead for layer in self.layers)

    @property
    def scaling(self) -> int:
        return sum(layer.scaling for layer in self.layers)

    @property
    def speedup(self) -> float:
        """Dense MACs over the mean active MACs (predictors not counted in)."""
        return _ratio(self.dense, _mean(self.active))

    def __str__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [len("predictors")])
        lines = [f"{'layer':<{width}} {'dense':>14} {'active':>14} {'share':>7}"]
        for name, dense, active in [
            *((x.name, x.dense, x.active) for x in self.layers),
            ("total", self.dense, self.active),
        ]:
            mean = _mean(active)
            lines.append(f"{name:<{width}} {dense:>14,} {mean:>14,.0f} {mean / dense:>7.1%}")
        lines.append(f"{'predictors':<{width}} {'':>14} {self.overhead:>14,}")
        lines.append(f"{'scaling':<{width}} {'':>14} {self.scaling:>14,}")
        with_overhead = _ratio(self.dense, _mean(self.active) + self.overhead)
        lines.append(
            f"{self.speedup:.2f} times fewer MACs ({with_overhead:.2f} with the predictors), "
            f"mean of {len(self.active)} image{'s' * (len(self.active) > 1)}"
        )
        return "\n".join(lines)


def _mean(macs: Tensor) -> float:
    return macs.sum().item() / len(macs)


def _ratio(dense: float, active: float) -> float:
    return dense / active if active else inf


def count_macs(model: nn.Module, images: Tensor, by: str = "gates") -> MacReport:
    """Count the MACs of every ``nn.Conv2d`` and ``nn.Linear``, dense and active.

    An output channel is computed if it wins its gate. What differs is which inputs are live:

    - ``"gates"``: every gated layer hands on which channels won. This indicator flows through
      pooling, ReLU, dropout, sums, concatenation and shuffles; a module with weights or
      statistics of its own turns every channel live. The count the paper means.
    - ``"zeros"``: a channel is live if it is not all zero when the layer runs. ReLU empties
      winners too, so this is never more. The count of an execution that skips what is empty.

    A linear layer has a column for each of its inputs: it reads those of live channels ("gates") or
    those that are not 0 ("zeros"). Batch norm, pooling and activations count 0. In a
    `ChannelPruning` block the last convolution is skipped if all that follows it is channelwise.
    The model runs in eval mode without gradients and is left as it was.

    Args:
        model: any module; densities as they are set.
        images: a batch ``[N, C, H, W]``.
        by: ``"gates"`` or ``"zeros"``.

    Raises:
        TypeError: ``model`` is not a module, ``images`` not a floating-point tensor.
        ValueError: ``images`` is not 4-D or empty, ``by`` is unknown, nothing can be counted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_feature_maps(images, "images")
    if by not in ("gates", "zeros"):
        raise ValueError(f"by must be 'gates' or 'zeros', got {by!r}")
    for module in model.modules():
        if isinstance(module, Gated) and not isinstance(module, (GatedConv2d, ChannelPruning)):
            raise ValueError("count_macs takes the network itself, not what accelerate made of it")
    with evaluating(model):
        calls, winners = _run(model, images)
        if by == "gates":
            calls, _ = _run(model, images, winners)
    if not calls:
        raise ValueError("model ran no nn.Conv2d and no nn.Linear, so there is nothing to count")
    return MacReport([_cost(call, len(images)) for call in calls])


@dataclass
class _Call:
    """One call of a convolution or linear layer."""

    name: str
    module: nn.Module
    live: Tensor  # [N, C_in], or [N, ..., features] of a linear layer: which inputs are live
    positions: int  # of the output map, H * W
    won: Tensor | None = None  # [N, C_out]: the outputs that are computed, None for all
    overhead: int = 0
    scaling: int = 0


Winners = dict[Gated, list[Tensor]]  # [N, C_out] bool for each call of a gated layer


def _run(
    model: nn.Module, images: Tensor, winners: Winners | None = None
) -> tuple[list[_Call], Winners]:
    """Every call of a counted layer, and the winners of every call of a gated one.

    Given ``winners``, marks stand in for the images, 0 for an empty channel: gated layers hand on
    marks of these winners, other modules with a state of their own marks for every channel.
    """
    calls, chosen = [], defaultdict(list)
    skipped = {m: _skipped_by(m) for m in model.modules() if isinstance(m, Gated)}
    predictors = {gate.predictor for gate in skipped}
    if winners is not None:
        live = partial(_live, torch.Generator(images.device).manual_seed(0))
        images = live(images)

    def hook(module, inputs, output, name):
        if module in predictors:
            return None
        if isinstance(module, Gated):
            won = _winners(module) if winners is None else winners[module][len(chosen[module])]
            chosen[module].append(won)
            call = _last_call(calls, module)
            if call.module is skipped[module]:
                call.won = won
            call.overhead += module.in_channels * module.out_channels
            call.scaling += module.out_channels * output[0, 0].numel()
            if isinstance(module, GatedConv2d):
                call.name = name
            return None if winners is None else live(output) * won[:, :, None, None]
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            conv, read = isinstance(module, nn.Conv2d), inputs[0] != 0
            read, positions = (read.flatten(2).any(2), output[0, 0].numel()) if conv else (read, 1)
            calls.append(_Call(name, module, read, positions))
        if winners is not None and _has_state(module) and isinstance(output, Tensor):
            return live(output)
        return None

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(partial(hook, name=name)).remove)
        model(images)
    return calls, chosen


def _winners(gate: Gated) -> Tensor:
    """The outputs ``[N, C_out]`` that the gate's last run let through, forced ones included."""
    if gate.forced is None:
        return winner_mask(gate.saliency, gate.density)
    pi = gate.select(gate.saliency)
    return winner_mask(pi, gate.density) | (pi != 0)


def _last_call(calls: list[_Call], gate: Gated) -> _Call:
    """The last convolution that ran inside the gated layer, which bears the gate's own cost."""
    inside = [module for module in gate.modules() if isinstance(module, nn.Conv2d)]
    return next(call for call in reversed(calls) if call.module in inside)


def _live(generator: torch.Generator, like: Tensor) -> Tensor:
    """Marks for "not empty": random in [1, 2], as equal ones would cancel in a difference."""
    return 1 + torch.rand(like.shape, generator=generator, device=like.device).to(like)


def _skipped_by(gate: Gated) -> nn.Conv2d | None:
    """The convolution whose losing channels need not be computed."""
    return gate.conv if isinstance(gate, GatedConv2d) else last_convolution(gate)


def last_convolution(block: ChannelPruning) -> nn.Conv2d | None:
    """The one convolution of a block whose losing channels need not be computed, if there is one.

    It is the last to run, runs once, and all that follows works channel by channel.
    """
    try:
        nodes = trace(block.block)
    except ValueError:
        return None
    modules = [block.block.get_submodule(n.target) if n.op == "call_module" else n for n in nodes]
    for node, module in reversed(list(zip(nodes, modules, strict=True))):
        if type(module) is nn.Conv2d:
            fits = module.out_channels == block.out_channels and not hooked(block.block)
            return module if fits and modules.count(module) == 1 else None
        known = isinstance(module, CHANNELWISE) and not hooked(module)
        if not known and node.op != "output" and node.target not in CHANNELWISE_FUNCTIONS:
            return None
    return None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Gated) or super().is_leaf_module(module, name)


def trace(model: nn.Module) -> list[fx.Node]:
    """The data flow of ``model`` as it is called; gated layers and PyTorch's are single nodes.

    Raises:
        ValueError: the flow depends on values, so that it cannot be followed.
    """
    try:
        return list(_Tracer().trace(model).nodes)
    except Exception as error:  # fx raises many kinds, from inside the model's own code
        raise ValueError(f"torch.fx cannot follow the data through model: {error}") from error


def hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _cost(call: _Call, images: int) -> LayerMacs:
    linear = isinstance(call.module, nn.Linear)
    dense, active = _linear(call, images) if linear else _conv(call)
    return LayerMacs(call.name, dense, active, call.overhead, call.scaling)


def _linear(call: _Call, images: int) -> tuple[int, Tensor]:
    """A linear layer runs once for each row of features; the rows belong to images in order."""
    rows, outputs = call.live.flatten(0, -2), call.module.out_features
    if len(rows) % images:
        raise ValueError(
            f"{call.name} runs on {len(rows)} rows, not on a multiple of {images} images"
        )
    rows = rows.reshape(images, -1)
    return rows.shape[1] * outputs, rows.sum(dim=1) * outputs


def _conv(call: _Call) -> tuple[int, Tensor]:
    conv, n = call.module, len(call.live)
    won = call.live.new_ones(n, conv.out_channels) if call.won is None else call.won
    inputs = call.live.view(n, conv.groups, -1).sum(dim=2)  # [N, groups]
    outputs = won.view(n, conv.groups, -1).sum(dim=2)  # [N, groups]
    per_pair = prod(conv.kernel_size) * call.positions
    dense = conv.in_channels // conv.groups * conv.out_channels * per_pair
    return dense, (inputs * outputs).sum(dim=1) * per_pair


def _has_state(module: nn.Module) -> bool:
    """True if weights or statistics of its own could turn a zero into something else."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(own) or isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm))
