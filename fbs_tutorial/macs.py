"""Multiply-accumulate operations (MACs), dense and as dynamic pruning leaves them, per image."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf, prod

import torch
from torch import Tensor, nn

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
            calls, _ = _run(model, _live(images), winners)
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

    Given ``winners``, the images are marks, 0 for an empty channel: gated layers hand on marks of
    these winners, other modules with a state of their own marks for every channel.
    """
    calls, chosen = [], defaultdict(list)
    predictors = {m.predictor for m in model.modules() if isinstance(m, Gated)}

    def hook(module, inputs, output, name):
        if module in predictors:
            return None
        if isinstance(module, Gated):
            won = (
                winner_mask(module.saliency, module.density)
                if winners is None
                else winners[module][len(chosen[module])]
            )
            chosen[module].append(won)
            _gate_last_call(calls, name, module, won, output[0, 0].numel())
            return None if winners is None else _live(output) * won[:, :, None, None]
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            conv, live = isinstance(module, nn.Conv2d), inputs[0] != 0
            live, positions = (live.flatten(2).any(2), output[0, 0].numel()) if conv else (live, 1)
            calls.append(_Call(name, module, live, positions))
        if winners is not None and _has_state(module) and isinstance(output, Tensor):
            return _live(output)
        return None

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(partial(hook, name=name)).remove)
        model(images)
    return calls, chosen


def _gate_last_call(
    calls: list[_Call], name: str, gate: Gated, won: Tensor, positions: int
) -> None:
    """A gate decides over the last convolution that ran inside it; an inner gate goes first."""
    inside = [module for module in gate.modules() if not list(module.children())]
    call = next(
        c for c in reversed(calls) if c.module in inside and isinstance(c.module, nn.Conv2d)
    )
    after = inside[inside.index(call.module) + 1 :]
    skips = isinstance(gate, GatedConv2d) or all(isinstance(m, CHANNELWISE) for m in after)
    if call.won is None and skips:
        call.won = won
    call.overhead += gate.in_channels * gate.out_channels
    call.scaling += gate.out_channels * positions
    if isinstance(gate, GatedConv2d):
        call.name = name


def _live(like: Tensor) -> Tensor:
    """Marks for "not empty": random in [1, 2], as equal ones would cancel in ``x - x.mean()``."""
    generator = torch.Generator(like.device).manual_seed(0)
    return 1 + torch.rand(like.shape, generator=generator, device=like.device).to(like)


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
