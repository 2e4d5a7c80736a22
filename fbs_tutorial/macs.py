"""Multiply-accumulate operations (MACs), dense and as dynamic pruning leaves them, per image."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor, nn

from .gated import ChannelPruning, Gated, GatedConv2d, evaluating
from .saliency import check_feature_maps
from .wta import winner_mask


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
        return _ratio(self.dense, self.active.double().mean().item())

    def __str__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [len("scaling")])
        lines = [f"{'layer':<{width}} {'dense':>14} {'active':>14} {'share':>7}"]
        for name, dense, active in [
            *((x.name, x.dense, x.active) for x in self.layers),
            ("total", self.dense, self.active),
        ]:
            mean = active.double().mean().item()
            lines.append(f"{name:<{width}} {dense:>14,} {mean:>14,.0f} {mean / dense:>7.1%}")
        lines.append(f"{'predictors':<{width}} {'':>14} {self.overhead:>14,}")
        lines.append(f"{'scaling':<{width}} {'':>14} {self.scaling:>14,}")
        with_overhead = _ratio(self.dense, self.active.double().mean().item() + self.overhead)
        lines.append(
            f"{self.speedup:.2f} times fewer MACs ({with_overhead:.2f} with the predictors), "
            f"mean of {len(self.active)} image{'s' * (len(self.active) > 1)}"
        )
        return "\n".join(lines)


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

    A linear layer after a flatten reads only the columns of live channels. Batch norm, pooling and
    activations count 0. The model runs in eval mode without gradients and is left as it was.

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
    with evaluating(model):
        run = _Run.of(model, images)
        if by == "gates":
            run = _Run.of(model, torch.ones_like(images), winners=run.winners)
    if not run.calls:
        raise ValueError("model ran no nn.Conv2d and no nn.Linear, so there is nothing to count")
    return MacReport(run.costs(_gates_of(model)))


@dataclass
class _Call:
    """One call of a convolution or linear layer."""

    name: str
    module: nn.Module
    live: Tensor  # [N, C_in], or [N, ..., features] of a linear layer: which inputs are live
    positions: int  # of the output map, H * W


@dataclass
class _Run:
    """One forward: each call of a counted layer, and which channels each gate chose."""

    calls: list[_Call]
    winners: dict[str, list[Tensor]]  # gate: [N, C_out] for each of its calls
    gated_positions: dict[str, int]  # gate: H * W of the map that it multiplies

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, winners: dict | None = None) -> "_Run":
        """Run ``model`` with hooks. With ``winners`` the images are indicators, 1 live, 0 empty:
        gated layers hand on these winners, modules with a state of their own hand on ones."""
        run = cls([], defaultdict(list), {})

        def counted(name):
            def hook(module, inputs, output):
                live = inputs[0] != 0
                if isinstance(module, nn.Conv2d):
                    call = _Call(name, module, live.flatten(2).any(2), output[0, 0].numel())
                else:
                    call = _Call(name, module, live, 1)
                run.calls.append(call)

            return hook

        def gated(name):
            def hook(module, inputs, output):
                run.gated_positions[name] = output[0, 0].numel()
                if winners is None:
                    run.winners[name].append(winner_mask(module.saliency, module.density))
                    return None
                won = winners[name][len(run.winners[name])]
                run.winners[name].append(won)
                return torch.ones_like(output) * won[:, :, None, None]

            return hook

        def all_live(module, inputs, output):
            return torch.ones_like(output) if isinstance(output, Tensor) else None

        gates = {m for m in model.modules() if isinstance(m, Gated)}
        predictors = {gate.predictor for gate in gates}
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if module in predictors:
                    continue
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    stack.callback(module.register_forward_hook(counted(name)).remove)
                if module in gates:
                    stack.callback(module.register_forward_hook(gated(name)).remove)
                elif winners is not None and _has_state(module):
                    stack.callback(module.register_forward_hook(all_live).remove)
            model(images)
        return run

    def costs(self, gates_of: dict[nn.Module, list[tuple[str, Gated]]]) -> list[LayerMacs]:
        """The MACs of every call; ``gates_of`` says which gates multiply a convolution's outputs,
        the one that decides what is computed last."""
        layers, seen = [], defaultdict(int)
        for call in self.calls:
            gates = gates_of.get(call.module, [])
            won = None
            for name, _ in gates:
                won = self.winners[name][seen[name]]
                seen[name] += 1
            layer = _linear(call) if isinstance(call.module, nn.Linear) else _conv(call, won)
            layer.overhead = sum(gate.in_channels * gate.out_channels for _, gate in gates)
            layer.scaling = sum(g.out_channels * self.gated_positions[name] for name, g in gates)
            if gates and isinstance(gates[-1][1], GatedConv2d):
                layer.name = gates[-1][0]
            layers.append(layer)
        return layers


def _linear(call: _Call) -> LayerMacs:
    outputs = call.module.out_features
    return LayerMacs(
        call.name, call.live[0].numel() * outputs, call.live.flatten(1).sum(1) * outputs
    )


def _conv(call: _Call, won: Tensor | None) -> LayerMacs:
    """``won [N, C_out]``: the outputs that are computed, None for all."""
    conv, n = call.module, len(call.live)
    if won is None:
        won = call.live.new_ones(n, conv.out_channels)
    inputs = call.live.view(n, conv.groups, -1).sum(dim=2)  # [N, groups]
    outputs = won.view(n, conv.groups, -1).sum(dim=2)  # [N, groups]
    per_pair = prod(conv.kernel_size) * call.positions
    dense = conv.in_channels // conv.groups * conv.out_channels * per_pair
    return LayerMacs(call.name, dense, (inputs * outputs).sum(dim=1) * per_pair)


def _gates_of(model: nn.Module) -> dict[nn.Module, list[tuple[str, Gated]]]:
    """For every convolution the gates that multiply its outputs, outer ones first."""
    gates = defaultdict(list)
    for name, gate in model.named_modules():
        if isinstance(gate, ChannelPruning):
            convs = [m for m in gate.block.modules() if isinstance(m, nn.Conv2d)]
            gates[convs[-1]].append((name, gate))
        elif isinstance(gate, GatedConv2d):
            gates[gate.conv].append((name, gate))
    return gates


def _has_state(module: nn.Module) -> bool:
    """True if weights or statistics of its own could turn a zero into something else."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(own) or isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm))
