"""Which channels of a network can be removed, and how: for slimming and for stripes."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..method.gated import Gated, GatedConv2d, gated_layers, is_gated, restore_modes
from ..method.graph import (
    ACTIVATIONS,
    CHANNEL_MAP_MODULES,
    CHANNEL_MAPS,
    ELEMENTWISE_MODULES,
    Parts,
    is_counted,
    read_directly,
    trace,
)
from ..method.vouch import altered, tied
from .masks import check_module


@dataclass(frozen=True)
class Channels:
    """Channels that can be removed one by one without changing any other.

    Channel ``i`` is output ``i`` of the first convolution, which may be gated and then has its norm
    inside. Depthwise convolutions after it, each with a norm, hand it on. All that reads it can do
    without: dense convolutions, gated or not, and linear layers.
    """

    convs: tuple[nn.Conv2d | GatedConv2d, ...]
    norms: tuple[nn.BatchNorm2d, ...]
    readers: tuple[nn.Conv2d | GatedConv2d | nn.Linear, ...]

    @property
    def count(self) -> int:
        return self.convs[0].out_channels


def removable_channels(model: nn.Module, *kinds: type[nn.Conv2d]) -> list[Channels]:
    """The groups of channels that can be removed from ``model``, in the order they are computed.

    A convolution's channels are removable if only a batch norm with a scale reads them, and what
    follows works channel by channel, leaves 0 at 0 and ends in convolutions and linear layers. So
    the channels of a sum or a concatenation stay, and those of the network's output do. All of that
    in training and in eval mode alike.

    Args:
        kinds: types of convolution beside ``nn.Conv2d`` itself.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it is gated, or cannot be traced.
    """
    check_module(model)
    if is_gated(model):
        raise ValueError("model must be without gated layers; remove channels first, then convert")
    return _groups(model, kinds)


def gated_channels(model: nn.Module) -> list[Channels]:
    """The groups of channels that gates choose from and that can be removed from ``model``.

    As `removable_channels`, for the outputs of `GatedConv2d` layers of one group. Channels that
    meet in a sum or a concatenation stay, and so do those that a `ChannelPruning` block gates.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it has no gates, or cannot be traced.
    """
    gated_layers(model)
    return [g for g in _groups(model, (GatedConv2d,)) if isinstance(g.convs[0], GatedConv2d)]


def _groups(model: nn.Module, kinds: tuple[type, ...]) -> list[Channels]:
    """The groups of ``model``, the same in training and in eval mode."""
    if is_counted(model) or isinstance(model, Gated):
        return []  # a single layer
    modes = {module: module.training for module in model.modules()}
    in_training = _Flow(model.train(), kinds).groups()
    groups = [group for group in _Flow(model.eval(), kinds).groups() if group in in_training]
    restore_modes(modes)
    return groups


class _StaysError(Exception):
    """Something reads the channels that cannot do without them."""


class _Flow:
    """Follows channels through the traced model."""

    def __init__(self, model: nn.Module, kinds: tuple[type, ...]):
        graph = trace(model)
        self.kinds = (nn.Conv2d, *kinds)
        calls = [node for node in graph.nodes if node.op == "call_module"]
        self.module = {node: model.get_submodule(node.target) for node in calls}
        self.runs = Counter(self.module.values())
        self.read = read_directly(Parts({model: graph}, [])) | tied(model)

    def groups(self) -> list[Channels]:
        found = []
        for node, conv in self.module.items():
            if type(conv) in self.kinds and _is_dense(conv) and self.alone(node):
                try:
                    found.append(self.follow(node))
                except _StaysError:
                    continue
        return found

    def alone(self, node: fx.Node) -> bool:
        """True if the module runs once, as its type says, and nobody else reads its weights."""
        module = self.module[node]
        return self.runs[module] == 1 and not altered(module) and module not in self.read

    def follow(self, node: fx.Node) -> Channels:
        """The channels that the convolution of ``node`` makes; `_StaysError` if they must stay."""
        convs, norms, readers = [self.module[node]], [], []
        if not isinstance(convs[0], GatedConv2d):
            node = self.norm_after(node)
            norms.append(self.module[node])
        waiting = [(reader, node, False) for reader in node.users]  # reader, what it reads, is flat
        while waiting:
            node, value, flat = waiting.pop(0)
            module = self.module.get(node)
            if _is_size(node):
                continue
            if self.reads_any_width(node, convs[0].out_channels, flat):
                readers.append(module)
            elif not flat and self.is_depthwise(node):
                norm = self.norm_after(node)
                convs.append(module)
                norms.append(self.module[norm])
                waiting += [(reader, norm, flat) for reader in norm.users]
            elif _flattens(node, module, value) and not flat:
                waiting += [(reader, node, True) for reader in node.users]
            elif self.hands_on(node, value, flat):
                waiting += [(reader, node, flat) for reader in node.users]
            else:
                raise _StaysError
        return Channels(tuple(convs), tuple(norms), tuple(readers))

    def norm_after(self, node: fx.Node) -> fx.Node:
        """The batch norm with a scale that alone reads ``node``."""
        readers = list(node.users)
        norm = self.module.get(readers[0]) if len(readers) == 1 else None
        if type(norm) is not nn.BatchNorm2d or not norm.affine or not self.alone(readers[0]):
            raise _StaysError
        return readers[0]

    def reads_any_width(self, node: fx.Node, channels: int, flat: bool) -> bool:
        """True for a layer whose weights for single input channels can be left out."""
        module = self.module.get(node)
        if module is None or not self.alone(node):
            return False
        if flat:
            return type(module) is nn.Linear and module.in_features % channels == 0
        return type(module) in self.kinds and _is_dense(module)

    def is_depthwise(self, node: fx.Node) -> bool:
        module = self.module.get(node)
        if type(module) is not nn.Conv2d or not self.alone(node):
            return False
        return module.groups == module.in_channels == module.out_channels

    def hands_on(self, node: fx.Node, value: fx.Node, flat: bool) -> bool:
        """True if the operation works channel by channel and leaves a channel of zeros as it is."""
        module = self.module.get(node)
        if module is None:
            known = node.target in ACTIVATIONS or (node.target in CHANNEL_MAPS and not flat)
        else:
            known = type(module) in ELEMENTWISE_MODULES and not list(module.parameters())
            known |= type(module) in CHANNEL_MAP_MODULES and not flat
            known &= not altered(module)
        return known and node.all_input_nodes == [value] and _keeps_zero(node, module)


def _is_dense(conv: nn.Conv2d | GatedConv2d) -> bool:
    """True for a convolution of one group."""
    return getattr(conv, "conv", conv).groups == 1


def _keeps_zero(node: fx.Node, module: nn.Module | None) -> bool:
    zeros = torch.zeros(1, 1, 8, 8)
    args = fx.node.map_arg(node.args, lambda _: zeros)
    kwargs = fx.node.map_arg(node.kwargs, lambda _: zeros)
    if node.op == "call_method":
        result = getattr(args[0], node.target)(*args[1:], **kwargs)
    else:
        result = (module or node.target)(*args, **kwargs)
    return isinstance(result, Tensor) and not result.any()


def _is_size(node: fx.Node) -> bool:
    """True for ``x.size(0)`` and ``x.shape[0]``, which no channel changes."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,)
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] == "shape" and all(n.args[1:] == (0,) for n in node.users)
    return False


def _flattens(node: fx.Node, module: nn.Module | None, value: fx.Node) -> bool:
    """True if all that an image has comes into one row, channel after channel."""
    if module is not None:
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    if node.args[:1] != (value,) or node.kwargs:
        return False
    if node.target in (torch.flatten, "flatten"):
        return node.args[1:] == (1,)
    if node.target in ("view", "reshape", torch.reshape):
        sizes = node.args[1:] if len(node.args) == 3 else node.args[1]
        return len(sizes) == 2 and isinstance(sizes[0], fx.Node) and sizes[1] == -1
    return node.target in (torch.mean, "mean") and node.args[1:] in (([2, 3],), ((2, 3),))


# Surgery


def remove_channels(group: Channels, keep: Tensor) -> None:
    """Leave only the channels where ``keep`` ``[C]`` is True, in place, in every layer concerned.

    Raises:
        ValueError: ``keep`` is all False: no layer works without a channel.
    """
    if not keep.any():
        raise ValueError("keep must leave a channel, got none")
    for layer in (*group.convs, *group.norms):
        keep_outputs(layer, keep)
    for layer in group.readers:
        keep_inputs(layer, keep)


def keep_outputs(layer: nn.Conv2d | nn.BatchNorm2d | GatedConv2d, keep: Tensor) -> None:
    """Cut a convolution or batch norm down to the outputs where ``keep`` ``[C]`` is True.

    Of a gated layer its predictor too; its density then is another share of fewer channels.
    """
    if isinstance(layer, GatedConv2d):
        _keep_gated_outputs(layer, keep)
        return
    for name in ("weight", "bias", "running_mean", "running_var", "skeleton"):
        _cut(layer, name, lambda value: value[keep.to(value.device)])
    count = keep.sum().item()
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = count
        return
    layer.out_channels = count
    if layer.groups > 1:  # depthwise: its inputs are the same channels
        layer.in_channels = layer.groups = count


def _keep_gated_outputs(layer: GatedConv2d, keep: Tensor) -> None:
    keep_outputs(layer.conv, keep)
    keep_outputs(layer.norm, keep)
    for part, name in ((layer, "beta"), (layer.predictor, "weight"), (layer.predictor, "bias")):
        _cut(part, name, lambda value: value[keep.to(value.device)])
    layer.out_channels = layer.predictor.out_features = len(layer.beta)


def keep_inputs(layer: nn.Conv2d | nn.Linear | GatedConv2d, keep: Tensor) -> None:
    """Cut a layer down to the input channels where ``keep`` ``[C]`` is True.

    A linear layer reads each channel's map as so many features in a row.
    """
    if isinstance(layer, GatedConv2d):
        keep_inputs(layer.conv, keep)
        keep_inputs(layer.predictor, keep)
        layer.in_channels = layer.conv.in_channels
    elif isinstance(layer, nn.Conv2d):
        _cut(layer, "weight", lambda weight: weight[:, keep.to(weight.device)])
        layer.in_channels = layer.weight.shape[1]
    else:
        features = keep.repeat_interleave(layer.in_features // len(keep))
        _cut(layer, "weight", lambda weight: weight[:, features.to(weight.device)])
        layer.in_features = layer.weight.shape[1]


def _cut(layer: nn.Module, name: str, part) -> None:
    value = getattr(layer, name, None)
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(part(value.detach()), value.requires_grad))
    elif value is not None:
        setattr(layer, name, part(value))
