"""Who lends gates to whom in notebook 07, and what is left when the choice or the values are fixed.

A donor is a tensor ``[N]``: for each image, the number of the one whose gates it gets.
"""

import torch
from torch import Tensor, nn

from ..method.dynamics import derangement
from ..method.gated import forced_gates, gated_layers, set_density
from ..method.wta import winner_mask, winner_take_all
from .checks.nb07 import values_fixed

FIXED = ("own", "choice fixed", "values fixed", "both fixed")


def another_image(count: int, seed: int) -> Tensor:
    """For each of ``count`` images another one, in `how_dynamic`'s way; ``seed`` says which."""
    return derangement(count, seed)


def same_class(labels: Tensor, shift: int) -> Tensor:
    """An image of the same class, so many places on among those of its class."""
    donor = torch.empty_like(labels)
    for one in labels.unique():
        members = (labels == one).nonzero()[:, 0]
        donor[members] = members.roll(shift)
    return donor


def places_on(labels: Tensor, shift: int) -> Tensor:
    """The image so many places on, where images are in the order of their classes.

    With a shift that is larger than every class it is one of another class.
    """
    donor, by_class = torch.empty_like(labels), labels.argsort(stable=True)
    donor[by_class] = by_class.roll(shift)
    return donor


def by_likeness(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The least similar image of the same class, and the most similar of another, by distance."""
    apart = torch.cdist(images.flatten(1), images.flatten(1))  # [N, N]
    same = labels[:, None] == labels[None]
    return (
        apart.where(same, -torch.inf).argmax(dim=1),
        apart.where(~same, torch.inf).argmin(dim=1),
    )


@torch.no_grad()
def choice_or_values(
    network: nn.Module, reference: Tensor, images: Tensor, labels: Tensor, density: float
) -> dict[str, float]:
    """Percent correct with own gates, and with choice, values or both the same for all images.

    Args:
        network: a gated one; its density is set. reference: images for the usual gates.

    Returns:
        ``{a name of FIXED: percent}``.
    """
    set_density(network, density)
    network(reference)
    usual = {name: layer.gate for name, layer in gated_layers(network).items()}
    network(images)
    own = {name: layer.gate for name, layer in gated_layers(network).items()}
    mean = {name: gate.mean(dim=0, keepdim=True) for name, gate in usual.items()}  # [1, C]
    choice = {name: winner_mask(gate, density) for name, gate in mean.items()}
    both = {name: winner_take_all(gate, density) for name, gate in mean.items()}
    percent = []
    for gates in (own, choice, values_fixed(own, usual), both):
        with forced_gates(network, gates):
            right = network(images).argmax(dim=1) == labels
        percent.append(100 * right.double().mean().item())
    return dict(zip(FIXED, percent, strict=True))
