"""Multiply-accumulate operations (MACs), dense and as dynamic pruning leaves them, per image.

Convolutions and linear layers are counted from their weights. Any other layer, and a convolution
that leaves out part of its kernel for good, says what it multiplies with two methods; nothing else
of it is read:

- ``kept_pairs()``: ``[C_out, C_in / groups]``, for each pair of an output and an input channel the
  number of kernel taps that are multiplied, from 0 to k * k.
- ``dense_macs(positions)``: the MACs of the layer with nothing left out, int, for that number
  of positions of the output map.

Its input and output are maps ``[N, C, H, W]``, channels in groups like those of ``nn.Conv2d``.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf, prod

import torch
from torch import Tensor, nn

from .gated import ChannelPruning, Gated, GatedConv2d, evaluating, is_gated
from .graph import Parts, is_counted, last_convolution, traceable_parts
from .liveness import Liveness, winners
from .saliency import check_feature_maps


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
        overhead: the predictors, C_in * C_out for each gated layer, int.
        scaling: multiplications by the gates, C_out * H * W for each gated layer, int.
        layers: the same for each layer, in the order they ran.
        stopped_at: where ``torch.fx`` could not follow the data, so that between the parts of the
            network all channels count as live; empty if it could follow all.
    """

    layers: list[LayerMacs]
    stopped_at: str = ""

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
        if self.stopped_at:
            lines.append(f"all channels count as live where {self.stopped_at}")
        return "\n".join(lines)


def _mean(macs: Tensor) -> float:
    return macs.sum().item() / len(macs)


def _ratio(dense: float, active: float) -> float:
    return dense / active if active else inf


def count_macs(model: nn.Module, images: Tensor, by: str = "gates") -> MacReport:
    """Count the MACs of every ``nn.Conv2d`` and ``nn.Linear``, dense and active.

    An output channel is computed if it wins its gate. What differs is which inputs are live:

    - ``"gates"``: every gated layer hands on which channels won, not their values. This flows
      through pooling, ReLU, dropout, sums, concatenation and shuffles, by the rules of `Liveness`.
      An operation that has no rule, or makes something of 0, turns every channel live. The count
      the paper means.
    - ``"zeros"``: a channel is live if it is not all zero when the layer runs. ReLU empties
      winners too, so this is never more. The count of an execution that skips what is empty.

    A linear layer has a column for each of its inputs: it reads those of live channels ("gates") or
    those that are not 0 ("zeros"). Batch norm, pooling and activations count 0. In a
    `ChannelPruning` block the last convolution is skipped if all that follows it is channelwise.
    The model runs in eval mode without gradients and is left as it was.

    Where ``torch.fx`` cannot follow the data through the whole model, its largest parts that it can
    follow are counted so, between them every channel is live, and the report names the line.

    Args:
        model: any module; densities as they are set.
        images: a batch ``[N, C, H, W]``.
        by: ``"gates"`` or ``"zeros"``.

    Raises:
        TypeError: ``model`` is not a module, ``images`` not a floating-point tensor.
        ValueError: ``images`` is not 4-D or empty, ``by`` is unknown, nothing can be counted, or
            by gates no part of the model can be followed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_feature_maps(images, "images")
    if by not in ("gates", "zeros"):
        raise ValueError(f"by must be 'gates' or 'zeros', got {by!r}")
    for module in model.modules():
        if isinstance(module, Gated) and not isinstance(module, (GatedConv2d, ChannelPruning)):
            raise ValueError("count_macs takes the network itself, not what accelerate made of it")
    with torch.inference_mode(False), evaluating(model):  # there, changes in place are not noted
        parts = traceable_parts(model, blocks=True) if by == "gates" else Parts({}, [])
        if parts.stopped and not parts.graphs and not is_gated(model):
            raise parts.stopped[0]
        images = images.clone() if images.is_inference() else images
        layers = counted_calls(model, images, by, parts)
    return MacReport(layers, parts.stopped_at() if parts.stopped else "")


def counted_calls(model: nn.Module, images: Tensor, by: str, parts: Parts) -> list[LayerMacs]:
    """Run the model, whose ``parts`` can be followed; the cost of every call of a counted layer.

    Raises:
        ValueError: there is none, or it runs on other rows than those of the images.
    """
    calls = _run(model, images, by, parts)
    if not calls:
        raise ValueError("model ran no nn.Conv2d and no nn.Linear, so there is nothing to count")
    return [_cost(call, len(images)) for call in calls]


@dataclass
class _Call:
    """One call of a counted layer, on rows: the images of a batch, or the rows of a matrix."""

    name: str
    layer: nn.Module
    live: Tensor  # [rows, C_in] bool: which inputs are live
    positions: int  # of the output map of one row, H * W
    won: Tensor | None = None  # [rows, C_out] bool: the outputs that are computed, None for all
    overhead: int = 0
    scaling: int = 0


def _run(model: nn.Module, images: Tensor, by: str, parts: Parts) -> list[_Call]:
    """Run the model once; every call of a counted layer, in their order."""
    calls: list[_Call] = []
    reads: dict[nn.Module, Tensor] = {}  # the liveness of what a layer reads, see `Liveness`
    skipped = {m: _skipped_by(m) for m in model.modules() if isinstance(m, Gated)}
    predictors = {gate.predictor for gate in skipped}
    runs = {part: Liveness(part, graph, reads) for part, graph in parts.graphs.items()}

    def hook(module: nn.Module, inputs: tuple, output: Tensor, name: str) -> None:
        if isinstance(module, Gated):
            _add_gate(calls, module, name, output, len(images), skipped[module])
        elif module not in predictors:
            live = inputs[0] != 0 if by == "zeros" else reads.pop(module, None)
            live = inputs[0].new_ones(inputs[0].shape, dtype=torch.bool) if live is None else live
            calls.append(_call(name, module, live, output))

    with ExitStack() as stack:
        for part, run in runs.items():
            part.forward = run
            stack.callback(delattr, part, "forward")
        for name, module in model.named_modules():
            if isinstance(module, Gated) or is_counted(module):
                stack.callback(module.register_forward_hook(partial(hook, name=name)).remove)
        model(images)
    return calls


def _call(name: str, layer: nn.Module, live: Tensor, output: Tensor) -> _Call:
    """A linear layer reads rows of features; what else is counted reads maps."""
    if isinstance(layer, nn.Linear):
        return _Call(name, layer, live.flatten(0, -2), 1)
    return _Call(name, layer, live.flatten(2).any(dim=2), output[0, 0].numel())


def _add_gate(
    calls: list[_Call],
    gate: Gated,
    name: str,
    output: Tensor,
    images: int,
    skipped: nn.Module | None,
) -> None:
    """Add what a gated layer, which has just run, costs and spares its last convolution."""
    inside = set(gate.modules())
    call = next(call for call in reversed(calls) if call.layer in inside)
    if call.layer is skipped:
        call.won = winners(gate)
    times = len(output) // images
    call.overhead += gate.in_channels * gate.out_channels * times
    call.scaling += gate.out_channels * output[0, 0].numel() * times
    if isinstance(gate, GatedConv2d):
        call.name = name


def _skipped_by(gate: Gated) -> nn.Module | None:
    """The convolution whose losing channels need not be computed."""
    return gate.conv if isinstance(gate, GatedConv2d) else last_convolution(gate)


def _cost(call: _Call, images: int) -> LayerMacs:
    rows = len(call.live)
    if rows % images:
        raise ValueError(f"{call.name} runs on {rows} rows, not on a multiple of {images} images")
    active = (_pairs(call) * call.positions).reshape(images, -1).sum(dim=1)
    positions = call.positions * (rows // images)
    if hasattr(call.layer, "kept_pairs"):
        dense = call.layer.dense_macs(positions)
    else:
        dense = call.layer.weight.numel() * positions
    return LayerMacs(call.name, dense, active, call.overhead, call.scaling)


def _pairs(call: _Call) -> Tensor:
    """MACs at each position, ``[rows]`` int64: taps of the pairs of a live input and a winner."""
    own = hasattr(call.layer, "kept_pairs")
    taps = call.layer.kept_pairs() if own else call.layer.weight
    groups = call.live.shape[1] // taps.shape[1]
    won = call.live.new_ones(len(call.live), taps.shape[0]) if call.won is None else call.won
    inputs = call.live.unflatten(1, (groups, -1))  # [rows, groups, C_in / groups]
    outputs = won.unflatten(1, (groups, -1))  # [rows, groups, C_out / groups]
    if not own:
        return (inputs.sum(dim=2) * outputs.sum(dim=2)).sum(dim=1) * prod(taps.shape[2:])
    kept = taps.to(inputs.device, torch.float64).unflatten(0, (groups, -1))  # exact up to 2 ** 53
    return torch.einsum("ngi,goi,ngo->n", inputs.double(), kept, outputs.double()).long()
