"""Stripe-wise pruning: of a filter, only some taps of its k x k kernel are left.

"Pruning Filter in Filter" (NeurIPS 2020). A stripe is one tap of a filter, ``[C_in, 1, 1]``: it
reads all input channels of one neighbour. Which stripes a filter has is its shape, the skeleton.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.gated import check_sizes, is_gated
from ..method.graph import replace
from ..method.saliency import check_feature_maps
from .channels import Channels, removable_channels, remove_channels
from .masks import check_module


class StripeConv2d(nn.Conv2d):
    """A convolution whose weight is multiplied by a skeleton, one number for each stripe.

    ``y = conv(x, weight * skeleton[:, None])``, ``[N, C_in, H, W] -> [N, C_out, H', W']``. An L1
    penalty on the skeleton empties stripes, while weights are free to be small.

    Attributes:
        weight: ``[C_out, C_in, k, k]``.
        skeleton: ``[C_out, k, k]``, starts at 1.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as ``nn.Conv2d``.

    Raises:
        TypeError, ValueError: bad arguments here; in ``forward``, an input that is not
            ``[N, in_channels, H, W]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        bias: bool = False,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels)
        check_sizes(pair=True, kernel_size=kernel_size, stride=stride)
        if not isinstance(padding, str):
            check_sizes(pair=True, smallest=0, padding=padding)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self._add_skeleton()

    def _add_skeleton(self) -> None:
        self.skeleton = nn.Parameter(self.weight.detach().new_ones(_shape_of_skeleton(self)))
        self.norms: tuple[nn.BatchNorm2d, ...] | None = None  # see `_find_norms`

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "StripeConv2d":
        """``conv`` itself, from now on with a skeleton of ones; its outputs stay."""
        conv.__class__ = cls
        conv._add_skeleton()
        return conv

    def forward(self, input: Tensor) -> Tensor:  # as nn.Conv2d calls it
        check_feature_maps(x := input, "x")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have {self.in_channels} channels, got {x.shape[1]}")
        return self._conv_forward(x, self.weight * self.skeleton[:, None], self.bias)

    def kept_pairs(self) -> Tensor:
        """``[C_out, C_in]``: stripes left of each filter, the same for all its inputs."""
        return _kept_pairs(self.skeleton != 0, self.in_channels)

    def dense_macs(self, positions: int) -> int:
        """MACs of all stripes at so many output positions."""
        return self.weight.numel() * positions


class StripewiseConv2d(nn.Module):
    """A convolution that computes only the stripes that are left, ``[N, C_in, H, W] -> ...``.

    Each tap is a 1x1 convolution for those filters that have it, of the input shifted by the tap's
    place. Shifting is padding: the padded input is read from another corner, and with a stride only
    at the places of the output. No tap computes what is thrown away.

    Args:
        conv: the convolution, of one group; it is not changed.
        kept: ``[C_out, k, k]`` bool, the stripes to keep.

    Attributes:
        weight: ``[stripes, C_in]``, tap by tap, and within one by filter.
        kept: the index that has to be stored: one bit for each stripe of the skeleton.
        unpruned: weights of the layer before anything was removed from the network.
    """

    def __init__(self, conv: nn.Conv2d, kept: Tensor, unpruned: int | None = None):
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding_mode = conv.padding_mode
        self.borders = _borders(conv)
        by_tap = kept.permute(1, 2, 0)  # [k, k, C_out]
        weight = conv.weight.detach().permute(2, 3, 0, 1)[by_tap]  # [stripes, C_in]
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.register_buffer("kept", kept.clone())
        self.register_buffer("unpruned", torch.tensor(unpruned or conv.weight.numel()))
        filters = by_tap.nonzero()[:, 2]  # [stripes]: the filter of each row
        self.register_buffer("filters", filters, persistent=False)
        self.counts = by_tap.flatten(0, 1).sum(dim=1).tolist()  # filters that have each tap

    def forward(self, input: Tensor) -> Tensor:  # as nn.Conv2d calls it
        check_feature_maps(x := input, "x")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have {self.in_channels} channels, got {x.shape[1]}")
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self.borders, mode) if any(self.borders) else x
        height, width = self.output_size(x.shape[2:])
        y = x.new_zeros(len(x), self.out_channels, height, width)
        for rows, columns, filters, weight in self.taps(height, width):
            stripes = F.conv2d(x[:, :, rows, columns], weight[:, :, None, None])
            y.index_add_(1, filters, stripes.to(y.dtype))
        return y if self.bias is None else y + self.bias[:, None, None]

    def output_size(self, padded: tuple[int, int]) -> tuple[int, int]:
        geometry = zip(padded, self.kernel_size, self.stride, self.dilation, strict=True)
        return tuple((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in geometry)

    def taps(self, height: int, width: int) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """For each tap that a filter has: where it reads, its filters, their weights."""
        filters, weights = self.filters.split(self.counts), self.weight.split(self.counts)
        for tap, (filter_, weight) in enumerate(zip(filters, weights, strict=True)):
            if len(filter_):
                row, column = divmod(tap, self.kernel_size[1])
                rows = _places(row * self.dilation[0], self.stride[0], height)
                columns = _places(column * self.dilation[1], self.stride[1], width)
                yield rows, columns, filter_, weight

    def kept_pairs(self) -> Tensor:
        """``[C_out, C_in]``: stripes left of each filter, the same for all its inputs."""
        return _kept_pairs(self.kept, self.in_channels)

    def dense_macs(self, positions: int) -> int:
        """MACs of the unpruned layer at so many output positions."""
        return self.unpruned.item() * positions

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, stripes={len(self.filters)} of {self.kept.numel()}"
        )


class _Smaller:
    """A layer that lost channels when stripes were pruned, and knows the MACs it had before."""

    def kept_pairs(self) -> Tensor:
        """``[C_out, C_in / groups]``: taps of each pair of channels, all of them."""
        return self.weight.new_full(self.weight.shape[:2], prod(self.weight.shape[2:]))

    def dense_macs(self, positions: int) -> int:
        """MACs of the unpruned layer at so many output positions."""
        return self.unpruned.item() * positions


class SmallerConv2d(_Smaller, nn.Conv2d):
    """A convolution that lost channels."""


class SmallerLinear(_Smaller, nn.Linear):
    """A linear layer that lost inputs."""


SMALLER = {nn.Conv2d: SmallerConv2d, nn.Linear: SmallerLinear}


def remember(layer: nn.Conv2d | nn.Linear, unpruned: int) -> nn.Module:
    """``layer`` itself, from now on with the number of weights it had before it lost channels."""
    layer.__class__ = SMALLER[type(layer)]
    layer.register_buffer("unpruned", torch.tensor(unpruned, device=layer.weight.device))
    return layer


def add_skeletons(model: nn.Module) -> nn.Module:
    """A copy in which every convolution of one group and k > 1 is a `StripeConv2d`; same outputs.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it is gated, or has no such convolution.
    """
    check_module(model)
    if is_gated(model):
        raise ValueError("model must be without gated layers; prune stripes first, then convert")
    model = copy.deepcopy(model)
    convs = [m for m in model.modules() if type(m) is nn.Conv2d and m.groups == 1]
    convs = [conv for conv in convs if prod(conv.kernel_size) > 1]
    if not convs:
        raise ValueError("model must have an nn.Conv2d of one group and k > 1, got none")
    for conv in convs:
        StripeConv2d.of(conv)
    return model


def train_shape_only(model: nn.Module) -> nn.Module:
    """Leave nothing but the skeletons to train, in place; returns ``model``.

    Weights, norms and classifier stay as they are, random for a new network. What it then learns
    is the shape of its filters alone.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it has no `StripeConv2d`.
    """
    skeletons = {conv.skeleton for conv in _stripe_convs(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in skeletons)
    return model


def skeleton_penalty(model: nn.Module) -> Tensor:
    """The L1 term of the loss: the sum of ``|I|`` over all skeletons, a scalar.

    The paper's equation 2 weighs it with alpha, 1e-5 for CIFAR-10. Its gradient is the sign of each
    entry; weight decay of 1e-4 on an entry of 1 is ten times that.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it has no `StripeConv2d`.
    """
    return sum(conv.skeleton.abs().sum() for conv in _stripe_convs(model))


@torch.no_grad()
def update_skeletons(model: nn.Module, threshold: float) -> nn.Module:
    """Set skeleton entries of ``|I| <= threshold`` and their gradients to 0, in place.

    Where all entries of a filter are 0, the scale and shift of the norm after it become 0 with
    their gradients, so that the channel is empty and not a constant. A norm that feeds a sum, or
    anything but channelwise operations, convolutions and linear layers, keeps them.

    Run it after each step of the optimizer and before each evaluation. An entry comes back only
    if one step moves it further from 0 than ``threshold``.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module, ``threshold`` not a number. ValueError: a threshold
            below 0 or not finite, a model without `StripeConv2d`, or one that cannot be traced.
    """
    _check_threshold(threshold)
    convs = _stripe_convs(model)
    _find_norms(model, convs)
    for conv in convs:
        small = conv.skeleton.abs() <= threshold
        _empty(conv.skeleton, small)
        for norm in conv.norms:
            for parameter in (norm.weight, norm.bias):
                _empty(parameter, small.flatten(1).all(dim=1))
    return model


def prune_stripes(model: nn.Module, threshold: float) -> nn.Module:
    """A new network that computes only stripes of ``|I| > threshold``.

    Its outputs are those of ``update_skeletons(model, threshold)``. A filter left without stripes
    is removed with the inputs that would read it, and so is what only empty filters read; where a
    sum needs its channel it stays, as the constant that its norm puts out. So a residual block
    left without stripes is ``relu(shortcut + constant)``. A layer that loses all its filters keeps
    one empty channel, which costs no MACs. Layers with all stripes of their filters are plain
    convolutions and need no index; the others are `StripewiseConv2d`.

    Raises:
        TypeError, ValueError: as `update_skeletons`; the model is not changed.
    """
    check_module(model)
    model = update_skeletons(copy.deepcopy(model), threshold)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    unpruned = {layer: layer.weight.numel() for layer in layers}
    for group in reversed(removable_channels(model, StripeConv2d)):
        remove_channels(group, _needed(group))
    for layer in layers:
        if isinstance(layer, StripeConv2d):
            replace(model, layer, _kept_part(layer, unpruned[layer]))
        elif layer.weight.numel() != unpruned[layer]:
            remember(layer, unpruned[layer])
    return model


@torch.no_grad()
def _needed(group: Channels) -> Tensor:
    """``[C]`` bool: the channels of a group that are made of stripes and read by some."""
    conv = group.convs[0]
    if all(_is_empty(reader) for reader in group.readers):
        conv = conv if isinstance(conv, StripeConv2d) else StripeConv2d.of(conv)
        conv.skeleton.zero_()
    keep = torch.ones(group.count, dtype=torch.bool, device=conv.weight.device)
    if isinstance(conv, StripeConv2d):
        keep = conv.skeleton.flatten(1).any(dim=1)
        keep[0] |= not keep.any()
    return keep


def _is_empty(layer: nn.Module) -> bool:
    return isinstance(layer, StripeConv2d) and not layer.skeleton.any()


@torch.no_grad()
def _kept_part(conv: StripeConv2d, unpruned: int) -> nn.Module:
    """What computes the stripes that are left: a plain convolution if all are."""
    kept = conv.skeleton != 0
    conv.weight.mul_(conv.skeleton[:, None])
    if not kept.all():
        return StripewiseConv2d(conv, kept, unpruned).train(conv.training)
    conv.__class__ = nn.Conv2d
    del conv.skeleton, conv.norms
    return conv if conv.weight.numel() == unpruned else remember(conv, unpruned)


@dataclass
class Storage:
    """What one `StripewiseConv2d` stores, and what it makes on the way to its outputs."""

    weights: int
    index_bits: int  # one for each stripe that its filters could have
    map_channels: int  # the most channels that one tap makes before they are added to the outputs


def stripe_storage(model: nn.Module) -> dict[str, Storage]:
    """The storage of every stripe-wise layer of a pruned network, by name."""
    check_module(model)
    return {
        name: Storage(layer.weight.numel(), layer.kept.numel(), max(layer.counts))
        for name, layer in model.named_modules()
        if isinstance(layer, StripewiseConv2d)
    }


def _stripe_convs(model: nn.Module) -> list[StripeConv2d]:
    check_module(model)
    convs = [module for module in model.modules() if isinstance(module, StripeConv2d)]
    if not convs:
        raise ValueError("model must have a StripeConv2d, got none; make them with add_skeletons")
    return convs


def _find_norms(model: nn.Module, convs: list[StripeConv2d]) -> None:
    """Let each convolution know the norms whose channels vanish with its filters.

    Once for a model, as following its data takes much longer than an update.
    """
    if any(conv.norms is None for conv in convs):
        norms = {group.convs[0]: group.norms for group in removable_channels(model, StripeConv2d)}
        for conv in convs:
            conv.norms = norms.get(conv, ())


def _empty(parameter: nn.Parameter, where: Tensor) -> None:
    parameter.masked_fill_(where, 0)
    if parameter.grad is not None:
        parameter.grad.masked_fill_(where, 0)


def _shape_of_skeleton(conv: nn.Conv2d) -> tuple[int, int, int]:
    return conv.out_channels, *conv.kernel_size


def _kept_pairs(kept: Tensor, in_channels: int) -> Tensor:
    return kept.flatten(1).sum(dim=1)[:, None].expand(-1, in_channels)


def _places(first: int, stride: int, count: int) -> slice:
    """Every ``stride``-th place from ``first`` on, ``count`` of them."""
    return slice(first, first + stride * (count - 1) + 1, stride)


def _borders(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Padding on the left, right, top and bottom."""
    borders = []
    for axis in (1, 0):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        if isinstance(conv.padding, str):
            before = reach // 2 if conv.padding == "same" else 0
            borders += [before, reach - before if conv.padding == "same" else 0]
        else:
            borders += [conv.padding[axis]] * 2
    return tuple(borders)


def _check_threshold(threshold: float) -> None:
    takes = "threshold must be a finite number >= 0"
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"{takes}, got {threshold!r}")
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"{takes}, got {threshold!r}")
