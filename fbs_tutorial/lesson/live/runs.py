"""What the layers of a network do with one image: measured, predicted, chosen, computed."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...method.gated import GatedConv2d, evaluating, forced_gates, gated_layers, set_density
from ...method.saliency import reduce_channels
from ...method.wta import active_channels

Gate = tuple[Tensor, Tensor]  # pi, and who wins with it (bool), both [C_out]
Forced = Mapping[int, str | float]  # {channel: "on", "off", or a number that replaces its g}


@dataclass(frozen=True)
class LayerRun:
    """One layer and one image: ``x [C_in, H, W]``, ``s [C_in]``, ``g``, ``pi`` and ``winners``
    (bool) ``[C_out]``, ``y [C_out, H', W']``."""

    x: Tensor
    s: Tensor
    g: Tensor
    pi: Tensor
    winners: Tensor
    y: Tensor

    def named(self, name: str) -> dict[str, Tensor]:
        """As ``assembleLayer`` of ``engine.js`` takes it."""
        parts = {"s": self.s, "g": self.g, "pi": self.pi, "winners": self.winners, "maps": self.y}
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}


@contextmanager
def recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inside the ``with``, ``{name: (input, output)}`` fills while the layers run."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
        for name, layer in layers.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def run_network(
    network: nn.Module,
    image: Tensor,
    density: float | Mapping[str, float],
    forced: Mapping[str, Forced] | None = None,
    elsewhere: Mapping[str, Gate] | None = None,
) -> tuple[dict[str, LayerRun], Tensor]:
    """Every gated layer's run of ``image [1, 16, 16]``, and the logits ``[10]``.

    Args:
        forced: channels that must win, must lose, or have another g, by layer.
        elsewhere: gates that are not chosen here, by layer.
    """
    layers, forced, elsewhere = gated_layers(network), forced or {}, elsewhere or {}
    gates = {name: pi[None] for name, (pi, _) in elsewhere.items()}
    set_density(network, density)
    with evaluating(network):
        for name in [name for name in layers if forced.get(name)]:
            with forced_gates(network, gates):
                network(image[None])
            gates[name] = forced_gate(layers[name].saliency, forced[name], layers[name].density)
        with forced_gates(network, gates), recorded(layers) as seen:
            logits = network(image[None])[0]
        runs = {
            name: layer_run(layer, *seen[name], forced.get(name, {}), elsewhere.get(name))
            for name, layer in layers.items()
        }
    return runs, logits


def layer_run(
    layer: GatedConv2d, x: Tensor, y: Tensor, forced: Forced, elsewhere: Gate | None = None
) -> LayerRun:
    """The run of a gated layer that has just made ``y`` of ``x``, both of one image."""
    s = reduce_channels(x, layer.reduce)[0]
    g, winners = forced_selection(layer.saliency, forced, layer.density)
    if elsewhere is not None:
        return LayerRun(x[0], s, g[0], *elsewhere, y[0])
    pi = layer.gate[0].clone()
    return LayerRun(x[0], s, g[0], pi, winners[0] & (g[0] == 0) | (pi != 0), y[0])


def forced_selection(g: Tensor, forced: Forced, density: float) -> tuple[Tensor, Tensor]:
    """``g [1, C]`` with the values that were set by hand, and who wins: bool ``[1, C]``.

    A channel forced on takes the place of the weakest winner.
    """
    g, rank = g.clone(), g.clone()
    for channel, how in forced.items():
        if isinstance(how, str):
            rank[0, channel] = math.inf if how == "on" else -1.0
        else:
            g[0, channel] = rank[0, channel] = how
    on, off = (list(forced.values()).count(word) for word in ("on", "off"))
    k = min(max(active_channels(g.shape[1], density), on), g.shape[1] - off)
    order = rank.sort(dim=1, descending=True, stable=True).indices  # signed: -1 comes last
    return g, torch.zeros_like(g, dtype=torch.bool).scatter(1, order[:, :k], True)


def forced_gate(g: Tensor, forced: Forced, density: float) -> Tensor:
    """The gate ``[1, C]`` of ``g [1, C]`` when channels must win, must lose, or have another g."""
    g, winners = forced_selection(g, forced, density)
    return torch.where(winners, g, 0.0)
