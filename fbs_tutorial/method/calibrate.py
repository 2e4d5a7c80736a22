"""Batch-norm statistics for more than one density."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .gated import GatedConv2d, at_density, evaluating, gated_layers
from .saliency import check_feature_maps
from .wta import check_density

BATCH = 256


def calibrate(model: nn.Module, images: Tensor, densities: Sequence[float]) -> nn.Module:
    """Collect batch-norm statistics at each density, and store them with the gated layers.

    Fewer channels win at a lower density, so what a layer's convolution puts out has another mean
    and variance, and a network trained at one density is not itself at others. With statistics of
    their own, those *above* its own density come nearly for free. In eval mode `set_density` then
    takes the statistics of the nearest stored density, for a tensor per image; training uses those
    of the batch, as ever. They are saved, loaded and copied with the network. Statistics stored
    before are replaced; norms outside of gated layers keep theirs.

    Each stored mean and variance is the average over batches of up to 256 images, each normalised
    by its own statistics (Yu and Huang, "Universally Slimmable Networks", 2019, section 3.3).

    Args:
        model: a network with `GatedConv2d` layers, changed in place and returned.
        images: ``[N, C, H, W]``, a few thousand training images; no labels and no gradients.
        densities: numbers in (0, 1], with the one it was trained at among them.

    Raises:
        TypeError: ``model`` is not a module, ``images`` not a floating-point tensor, bad densities.
        ValueError: bad densities or two that are equal, ``images`` not 4-D or fewer than 2, no
            gated layer with a batch norm that keeps statistics.
    """
    layers = [layer for layer in gated_layers(model).values() if keeps_statistics(layer)]
    if not layers:
        raise ValueError("model has no GatedConv2d whose norm keeps statistics")
    check_feature_maps(images, "images")
    if len(images) < 2:
        raise ValueError(f"images must be at least 2, got {len(images)}")
    densities = _checked(densities)
    found = [_statistics(model, layers, images, density) for density in densities]
    for layer, rows in zip(layers, zip(*found, strict=True), strict=True):
        means, variances = (torch.stack(part) for part in zip(*rows, strict=True))
        layer.store_statistics(means.new_tensor(densities), means, variances)
    return model


def forget_statistics(model: nn.Module) -> nn.Module:
    """Take back `calibrate`: every layer's norm has its own statistics alone; returns the model."""
    for module in model.modules():
        if isinstance(module, GatedConv2d):
            module.store_statistics(None, None, None)
    return model


def keeps_statistics(layer: nn.Module) -> bool:
    """True for a `GatedConv2d` whose norm has statistics to take in eval mode."""
    return isinstance(layer, GatedConv2d) and layer.norm.running_mean is not None


def _checked(densities: Sequence[float]) -> list[float]:
    if isinstance(densities, (str, bytes)) or not isinstance(densities, Sequence):
        raise TypeError(f"densities must be a list of numbers in (0, 1], got {densities!r}")
    for density in densities:
        if isinstance(density, Tensor):
            raise TypeError(f"densities must be a list of numbers in (0, 1], got {density!r} in it")
        check_density(density)
    if not densities or len(set(densities)) < len(densities):
        raise ValueError(f"densities must be one or several that differ, got {densities!r}")
    return [float(density) for density in densities]


def _statistics(
    model: nn.Module, layers: list[GatedConv2d], images: Tensor, density: float
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance ``[C_out]`` of each layer when the whole network runs at ``density``."""
    with evaluating(model), at_density(model, density), _fresh_norms(layers):
        for batch in images.tensor_split(-(-len(images) // BATCH)):  # of nearly the same size
            model(batch)
        return [(layer.norm.running_mean, layer.norm.running_var) for layer in layers]


@contextmanager
def _fresh_norms(layers: list[GatedConv2d]) -> Iterator[None]:
    """Inside the ``with``, norms that use the batch's statistics, and average over the batches."""
    own = [layer.norm for layer in layers]
    try:
        for layer in layers:
            layer.norm = copy.deepcopy(layer.norm).train()
            layer.norm.reset_running_stats()
            layer.norm.momentum = None
        yield
    finally:
        for layer, norm in zip(layers, own, strict=True):
            layer.norm = norm
