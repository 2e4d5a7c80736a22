"""Network slimming: channels with a small batch-norm scale are removed for all images."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .channels import Channels, removable_channels, remove_channels
from .masks import Mask, check_module, check_percent, lowest


def slimming_penalty(model: nn.Module) -> Tensor:
    """The L1 term of the loss: the sum of ``|gamma|`` over the batch norms, a scalar.

    "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017) weighs it with
    1e-4 or 1e-5. Its gradient is the sign of each scale.

    Raises:
        TypeError: ``model`` is not a module. ValueError: no batch norm of it has a scale.
    """
    check_module(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    scales = [norm.weight for norm in norms if norm.weight is not None]
    if not scales:
        raise ValueError("model must have a batch norm with a scale to penalise, got none")
    return sum(scale.abs().sum() for scale in scales)


def slim(model: nn.Module, percent: float, *, per_layer: bool = False) -> nn.Module:
    """A smaller network without the ``percent`` of removable channels of smallest ``|gamma|``.

    One threshold for all layers, or with ``per_layer`` one for each, so that every layer loses the
    same share and its largest channels stay; of equal scales the earlier layer's goes first, then
    that of the lower index. Channels are removable where a convolution, a batch norm and what
    follows it work channel by channel up to the next convolutions or linear layers: the widths
    inside residual blocks, all but the output of a chain of layers. The channels of sums and
    concatenations stay. Where depthwise convolutions hand a channel on, it counts once, with the
    mean of its scales. A layer that would lose all its channels keeps the one of largest scale.

    The removed channels' shifts go too. A channel with ``gamma = 0`` still puts out
    ``act(beta)``, so the outputs are those of `mask_channels`, not those of ``model``; fine-tune
    after it. The new network has plain PyTorch layers of smaller sizes.

    Args:
        model: a network that ``torch.fx`` can trace, not gated; it is not changed.
        percent: share of the removable channels, from 0 (a copy) to 100 (one a layer is left).

    Raises:
        TypeError: ``model`` is not a module, ``percent`` not a number. ValueError: ``percent``
            outside 0 to 100; a model that is gated, cannot be traced, or has no removable channel.
    """
    model, groups, keeps = _chosen(model, percent, per_layer)
    for group, keep in zip(groups, keeps, strict=True):
        if not keep.all():
            remove_channels(group, keep)
    return model


def mask_channels(
    model: nn.Module, percent: float, *, shifts: bool = True, per_layer: bool = False
) -> nn.Module:
    """A copy of ``model`` in which the channels that `slim` removes are 0 and stay 0.

    Their scales and shifts, and the gradients of both, read as exact zeros. Arguments and errors as
    `slim`; with ``shifts`` False the shifts stay, as in the network that chose the channels: the
    difference is what dropping them costs.
    """
    model, groups, keeps = _chosen(model, percent, per_layer)
    for group, keep in zip(groups, keeps, strict=True):
        for norm in group.norms if not keep.all() else ():
            for name in ("weight", "bias") if shifts else ("weight",):
                mask = Mask(keep.to(norm.weight.device))
                parametrize.register_parametrization(norm, name, mask)
    return model


def _chosen(
    model: nn.Module, percent: float, per_layer: bool
) -> tuple[nn.Module, list[Channels], list[Tensor]]:
    """A copy of the model, its removable channels, and which of each group stay, ``[C]`` bool."""
    check_module(model)
    check_percent(percent)
    model = copy.deepcopy(model)
    groups = removable_channels(model)
    if not groups:
        raise ValueError(
            "model has no channels to remove: it takes a Conv2d whose only reader is a BatchNorm2d "
            "with a scale, followed channel by channel by other convolutions or linear layers"
        )
    scores = [_scores(group) for group in groups]
    if per_layer:
        keeps = [~_lowest(score, percent) for score in scores]
    else:
        pruned = _lowest(torch.cat(scores), percent)
        keeps = [~part for part in pruned.split([len(score) for score in scores])]
    for keep, score in zip(keeps, scores, strict=True):
        if not keep.any():
            keep[score.sort(stable=True).indices[-1]] = True
    return model, groups, keeps


def _lowest(scores: Tensor, percent: float) -> Tensor:
    return lowest(scores, torch.ones_like(scores, dtype=torch.long), percent)


def _scores(group: Channels) -> Tensor:
    """``[C]``: the mean of ``|gamma|`` over the norms that a channel passes."""
    scales = [norm.weight.detach().abs().cpu() for norm in group.norms]
    return torch.stack(scales).mean(dim=0)
