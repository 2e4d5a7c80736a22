"""Channels that never win: a gated network without them stores less and computes the same."""

import copy

import torch
from torch import Tensor, nn

from ..method.gated import Gated, GatedConv2d, evaluating, gated_layers
from ..method.saliency import check_feature_maps
from ..method.wta import active_channels, mark_winners
from .channels import gated_channels, remove_channels

BATCH = 250  # images at a time


def winning_channels(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Which channels win for at least one of the images: ``{gated layer: [C] bool}``.

    Args:
        model: a gated network, at the density that it is set to, the same for all images.
        images: ``[N, C, H, W]``, as a rule those it was trained on.

    Raises:
        TypeError, ValueError: no gated layer, one density per image, or images that do not fit.
    """
    layers = gated_layers(model)
    check_feature_maps(images, "images")
    for name, layer in layers.items():
        if isinstance(layer.density, Tensor):
            raise ValueError(f"model must have one density for all images, got one each in {name}")
    with evaluating(model):
        parts = [_winning(model, layers, batch) for batch in images.split(BATCH)]
    return {name: torch.stack([part[name] for part in parts]).any(dim=0) for name in layers}


def _winning(model: nn.Module, layers: dict[str, Gated], images: Tensor) -> dict[str, Tensor]:
    """The same for one batch."""
    model(images)
    return {
        name: mark_winners(layer.saliency, layer.density).any(dim=0)
        for name, layer in layers.items()
    }


def remove_idle(model: nn.Module, images: Tensor) -> nn.Module:
    """A smaller gated network without the channels that win for none of the images.

    FBS itself stores every channel, since any could win for the next image. Those that never win
    for ``images`` are bet on never to win: on these the outputs are the same, on others they differ
    only where one of them would have won. Each layer keeps its number of winners, so its density,
    a share of fewer channels, becomes larger; see `densities_of`. Of the statistics of `calibrate`
    those of the present density stay. Channels that meet in a sum or a concatenation stay, too.

    Args, Raises:
        As `winning_channels`; ValueError too if the network cannot be traced. ``model`` is not
        changed.
    """
    winning = winning_channels(model, images)
    model = copy.deepcopy(model)
    names = {layer: name for name, layer in gated_layers(model).items()}
    winners = {layer: active_channels(layer.out_channels, layer.density) for layer in names}
    for group in gated_channels(model):
        layer = group.convs[0]
        keep = winning[names[layer]].cpu()
        if not keep.all():
            _keep_one_density(layer)
            remove_channels(group, keep)
            layer.density = winners[layer] / layer.out_channels
    return model


@torch.no_grad()
def _keep_one_density(layer: GatedConv2d) -> None:
    """Let the norm's own statistics be those of the layer's density, and forget the others."""
    if layer.stored_densities is not None:
        mean, var = layer.statistics(layer.density)
        layer.norm.running_mean.copy_(mean)
        layer.norm.running_var.copy_(var)
        layer.store_statistics(None, None, None)


def densities_of(model: nn.Module) -> dict[str, float]:
    """The density of each gated layer by name, as `set_density` takes them."""
    return {name: layer.density for name, layer in gated_layers(model).items()}
