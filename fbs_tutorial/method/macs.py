"""Multiply-accumulate operations (MACs), dense and as dynamic pruning leaves them, per image.

Convolutions and linear layers are counted from their weights; what else multiplies, as PyTorch
does it (`products.py`). A layer that leaves out part of its kernel for good says what it multiplies
with two methods; nothing else of it is read:

- ``kept_pairs()``: ``[C_out, C_in / groups]``, for each pair of an output and an input channel the
  number of kernel taps that are multiplied, from 0 to k * k.
- ``dense_macs(positions)``: the MACs of the layer with nothing left out, int, for that number
  of positions of the output map.

Its input and output are maps ``[N, C, H, W]``, channels in groups like those of ``nn.Conv2d``.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod

import torch
from torch import Tensor, fx, nn

from .gated import ChannelPruning, Gated, GatedConv2d, evaluating, is_gated
from .graph import Parts, is_counted, last_convolution, traceable_parts
from .liveness import Liveness, winners
from .products import Products, unfused_attention
from .saliency import check_feature_maps
from .vouch import shortened


@dataclass
class LayerMacs:
    """The cost of one call of a layer; units: MACs of one image."""

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
        layers: the same for each layer, in the order they ran; last the ``whole`` ones.
        stopped_at: where ``torch.fx`` could not follow the data, so that between the parts of the
            network all channels count as live; empty if it could follow all.
        whole: the layers of which all channels count as live and are computed: they multiply in
            another way than a convolution or a linear layer.
        uncounted: what multiplies in a way that nothing is known of, and where.
    """

    layers: list[LayerMacs]
    stopped_at: str = ""
    whole: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

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
        if self.whole:
            lines.append(f"all channels count as live in {shortened(self.whole)}")
        if self.uncounted:
            lines.append(f"not counted: {shortened(self.uncounted)}")
        return "\n".join(lines)


def _mean(macs: Tensor) -> float:
    return macs.sum().item() / len(macs)


def _ratio(dense: float, active: float) -> float:
    return dense / active if active else inf


def count_macs(model: nn.Module, images: Tensor, by: str = "gates") -> MacReport:
    """Count the MACs of a network, dense and active.

    Of ``nn.Conv2d`` and ``nn.Linear`` an output channel is computed if it wins its gate. What
    differs is which inputs are live:

    - ``"gates"``: every gated layer hands on which channels won, not their values. This flows
      through pooling, ReLU, dropout, sums, concatenation and shuffles, by the rules of `Liveness`.
      An operation that has no rule, or makes something of 0, turns every channel live. The count
      the paper means.
    - ``"zeros"``: a channel is live if it is not all zero when the layer runs. ReLU empties
      winners too, so this is never more. The count of an execution that skips what is empty.

    A linear layer has a column for each of its inputs: it reads those of live channels ("gates") or
    those that are not 0 ("zeros"). Batch norm, pooling and activations count 0. In a
    `ChannelPruning` block the last convolution is skipped if all that follows it is channelwise.
    What else multiplies matrices counts in full: transposed convolutions, attention, recurrent
    layers, products in the model's own code. The report names it, and what it could not count.

    A model may make several rows of one image, such as frames or views; their costs add up. Then,
    and where something counts in full, the images run one by one.
    The model runs in eval mode without gradients and is left as it was.

    Where ``torch.fx`` cannot follow the data through the whole model, its largest parts that it can
    follow are counted so, between them every channel is live, and the report names the line.

    Args:
        model: any module; densities as they are set.
        images: a batch ``[N, C, H, W]``.
        by: ``"gates"`` or ``"zeros"``.

    Raises:
        TypeError: ``model`` is not a module, ``images`` not a floating-point tensor.
        ValueError: ``images`` is not 4-D or empty, ``by`` is unknown, nothing can be counted, a
            layer makes one row of several images, or by gates no part of the model can be followed.
    """
    _check_arguments(model, images, by)
    with torch.inference_mode(False), evaluating(model):  # there, changes in place are not noted
        parts = traceable_parts(model, blocks=True) if by == "gates" else Parts({}, [])
        if parts.stopped and not parts.graphs and not is_gated(model):
            raise parts.stopped[0]
        counts = _counts(model, images.clone() if images.is_inference() else images, by, parts)
    layers = _layers(counts)
    whole = dict.fromkeys(name for count in counts for name in count.products.outside)
    unknown = dict.fromkeys(text for count in counts for text in count.products.unknown)
    stopped_at = parts.stopped_at() if parts.stopped else ""
    return MacReport(layers, stopped_at, list(whole), list(unknown))


def _check_arguments(model: nn.Module, images: Tensor, by: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_feature_maps(images, "images")
    if len({t.is_meta for t in (images, *model.parameters(), *model.buffers())}) > 1:
        raise ValueError("model and images must be on one device, got some on the meta device")
    if by not in ("gates", "zeros"):
        raise ValueError(f"by must be 'gates' or 'zeros', got {by!r}")
    for module in model.modules():
        if isinstance(module, Gated) and not isinstance(module, (GatedConv2d, ChannelPruning)):
            raise ValueError("count_macs takes the network itself, not what accelerate made of it")


def counted_calls(model: nn.Module, images: Tensor, by: str, parts: Parts) -> list[LayerMacs]:
    """Run the model once, whose ``parts`` can be followed; the cost of every call of a layer.

    Several rows of an image must stand together, and what counts whole costs all images alike.

    Raises:
        ValueError: there is none, or it runs on other rows than those of the images.
    """
    count = _run(model, images, by, parts)
    _check_rows(count.calls, len(images))
    return _layers([count])


def _layers(counts: list["_Count"]) -> list[LayerMacs]:
    """What all counts say of each layer."""
    layers = _joined([count.layers() for count in counts])
    if not layers:
        raise ValueError("model ran nothing that multiplies matrices, so there is nothing to count")
    return layers


def _counts(model: nn.Module, images: Tensor, by: str, parts: Parts) -> list["_Count"]:
    """One count of all images, or where rows are not images one of each."""
    count = _run(model, images, by, parts)
    _check_rows(count.calls, len(images))
    alike = all(len(call.live) == len(images) for call in count.calls)
    if alike and not count.products.outside:
        return [count]
    return [_run(model, image, by, parts) for image in _one_by_one(model, images)]


def _check_rows(calls: list["_Call"], images: int) -> None:
    rows: Counter[str] = Counter()  # of all calls of a layer
    for call in calls:
        rows[call.name] += len(call.live)
    for name, count in rows.items():
        if count % images:
            raise ValueError(
                f"{name} runs on {count} rows, not on a multiple of {images} images: "
                "give one row of images per image, and let the model fold its frames into the batch"
            )


def _one_by_one(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Each image ``[1, C, H, W]``; meanwhile the model has its density."""
    densities = {m: m.density for m in model.modules() if isinstance(m, Gated)}
    own = {gate: d for gate, d in densities.items() if isinstance(d, Tensor)}
    for density in own.values():
        if len(density) != len(images):
            raise ValueError(
                f"count_macs takes one density per image, {len(images)}; model has {len(density)}"
            )
    try:
        for i in range(len(images)):
            for gate, density in own.items():
                gate.take_density(density[i : i + 1])
            yield images[i : i + 1]
    finally:
        for gate, density in own.items():
            gate.take_density(density)


def _joined(counts: list[list[LayerMacs]]) -> list[LayerMacs]:
    """One list of layers for all images, from those of some each.

    A layer that does not run for an image costs it nothing.
    """
    if len(counts) == 1:
        return counts[0]
    joined: dict[tuple[str, int], LayerMacs] = {}  # by name and number of call
    for i, layers in enumerate(counts):
        seen: Counter[str] = Counter()
        for layer in layers:
            key = layer.name, seen[layer.name]
            seen[layer.name] += 1
            active = layer.active.new_zeros(len(counts))
            first = LayerMacs(layer.name, layer.dense, active, layer.overhead, layer.scaling)
            entry = joined.setdefault(key, first)
            entry.active[i] = layer.active
            entry.dense = max(entry.dense, layer.dense)
    return list(joined.values())


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


@dataclass
class _Count:
    """What one run of the model has shown."""

    images: int
    calls: list[_Call]
    products: Products

    def layers(self) -> list[LayerMacs]:
        layers = [_cost(call, self.images) for call in self.calls]
        for name, macs in self.products.outside.items():
            each = macs // self.images
            layers.append(LayerMacs(name, each, torch.full((self.images,), each)))
        return layers


class _Following(Liveness):
    """Tells `Products` in whose code a traced operation stands."""

    def __init__(self, products: Products, *traced):
        super().__init__(*traced)
        self.products = products

    def run_node(self, node: fx.Node):
        own, _ = next(reversed(node.meta.get("nn_module_stack", {"": ("", None)}).values()))
        with self.products.inside_of(self.module.get_submodule(own)):
            return super().run_node(node)


def _run(model: nn.Module, images: Tensor, by: str, parts: Parts) -> _Count:
    """Run the model once: every call of a counted layer, in order, and what else multiplies."""
    calls: list[_Call] = []
    reads: dict[nn.Module, Tensor] = {}  # the liveness of what a layer reads, see `Liveness`
    skipped = {m: _skipped_by(m) for m in model.modules() if isinstance(m, Gated)}
    predictors = {gate.predictor for gate in skipped}
    products = Products({module: name for name, module in model.named_modules()})
    runs = {p: _Following(products, p, graph, reads) for p, graph in parts.graphs.items()}

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor, name: str) -> None:
        if isinstance(module, Gated):
            _add_gate(calls, module, name, output, len(images), skipped[module])
        elif module not in predictors:
            x = next(iter((*args, *kwargs.values())))
            live = x != 0 if by == "zeros" else reads.pop(module, None)
            live = x.new_ones(x.shape, dtype=torch.bool) if live is None else live
            calls.append(_call(name, module, live, output))
            _add_rest(products, calls[-1])

    with ExitStack() as stack:
        for part, run in runs.items():
            part.forward = run
            stack.callback(delattr, part, "forward")
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            stack.callback(module.register_forward_pre_hook(products.enter).remove)
            if isinstance(module, Gated) or is_counted(module):
                note = partial(hook, name=name)
                stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            leave = module.register_forward_hook(products.leave, always_call=True)
            stack.callback(leave.remove)
        stack.enter_context(unfused_attention())
        with products:
            model(images)
    return _Count(len(images), calls, products)


def _add_rest(products: Products, call: _Call) -> None:
    """What a layer multiplies beside its weight, as that of an adapter or a spectral norm."""
    if not hasattr(call.layer, "kept_pairs"):
        from_weight = call.layer.weight.numel() * call.positions * len(call.live)
        rest = products.inside[call.layer] - from_weight
        if rest > 0:
            products.outside[call.name] += rest


def _call(name: str, layer: nn.Module, live: Tensor, output: Tensor) -> _Call:
    """A linear layer reads rows of features; what else is counted reads maps, perhaps one alone."""
    if isinstance(layer, nn.Linear):
        return _Call(name, layer, live.reshape(-1, live.shape[-1]), 1)
    if live.ndim == 3:
        live, output = live[None], output[None]
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
    active = (_pairs(call) * call.positions).reshape(images, -1).sum(dim=1)
    positions = call.positions * (len(call.live) // images)
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
