"""Kernel-level pruning: single k x k kernels become 0 and stay 0."""

from dataclasses import dataclass
from math import prod
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SCORES = {
    "max": lambda weight: weight.abs().amax(dim=(2, 3)),
    "l1": lambda weight: weight.abs().sum(dim=(2, 3)),
    "l2": lambda weight: weight.square().sum(dim=(2, 3)).sqrt(),
}
SLIP = 1e-6  # 0.55 * 100 is a little above 55 in floating point


@dataclass
class KernelPruning:
    """What `prune_kernels` returns; prints as shares of the weights and of the kernels.

    A kernel has ``k * k`` weights, so the two shares differ. Pruning a 1x1 kernel is pruning one
    weight: ``single`` and ``pruned_single`` count those.
    """

    weights: int  # of all convolutions
    pruned_weights: int
    kernels: int
    pruned_kernels: int
    single: int  # kernels of one weight
    pruned_single: int
    layers: dict[str, int]  # pruned kernels by the name of the convolution

    def __str__(self) -> str:
        lines = [
            f"convolution weights {_share(self.pruned_weights, self.weights)}",
            f"kernels             {_share(self.pruned_kernels, self.kernels)}",
        ]
        if self.single:
            lines.append(f"  1x1: one weight   {_share(self.pruned_single, self.single)}")
        return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part:>12,} of {whole:>12,} pruned ({part / whole:.1%})"


class Mask(nn.Module):
    """Parametrization that reads a tensor as exact zeros where ``mask`` is False.

    The gradient is 0 there too. Whatever an optimizer does to the stored tensor, by momentum from
    before the mask or by weight decay, what the layer reads there stays 0.
    """

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, value: Tensor) -> Tensor:
        mask = self.mask.view(self.mask.shape + (1,) * (value.ndim - self.mask.ndim))
        return torch.where(mask, value, 0.0)

    def right_inverse(self, value: Tensor) -> Tensor:
        """What is stored when a value is assigned: the masked one."""
        return self(value)


def prune_kernels(model: nn.Module, percent: float, score: str = "max") -> KernelPruning:
    """Mask, in place, the kernels of smallest score until ``percent`` of the weights are 0.

    A kernel is the ``[k, k]`` slice of a convolution for one pair of input and output channels.
    All convolutions share one threshold. Of equal kernels the earlier layer's goes first, then
    that of the lower index. The last kernel that would exceed ``percent`` stays. A second call can
    only mask more: kernels masked before count first and do not come back.

    ``layer.weight`` then reads exact zeros and cannot be trained away from them. The masks are in
    the model's ``state_dict`` (see `add_masks`). Masked kernels are not faster: they are counted
    as not computed, but PyTorch multiplies their zeros.

    Args:
        model: any network with ``nn.Conv2d`` layers; those of 1x1 kernels lose single weights.
        percent: share of all convolution weights, from 0 (none) to 100 (all).
        score: of a kernel: ``"max"`` its largest \\|w\\|, as in CNN-Pruning, ``"l1"`` their sum,
            ``"l2"`` the root of the sum of squares.

    Raises:
        TypeError: ``model`` is not a module, ``percent`` not a number. ValueError: ``percent``
            outside 0 to 100, ``score`` unknown, no convolution, or weights that are not finite.
    """
    check_module(model)
    check_percent(percent)
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    convs = _convolutions(model)
    scores = torch.cat([_scores(conv, name, score) for name, conv in convs.items()])
    areas = torch.cat([_areas(conv) for conv in convs.values()])
    pruned = lowest(scores, areas, percent)
    parts = pruned.split([prod(conv.weight.shape[:2]) for conv in convs.values()])
    layers = {}
    for (name, conv), part in zip(convs.items(), parts, strict=True):
        layers[name] = part.sum().item()
        if layers[name]:
            _set_mask(conv, ~part.view(conv.weight.shape[:2]).to(conv.weight.device))
    single = areas == 1
    return KernelPruning(
        weights=areas.sum().item(),
        pruned_weights=areas[pruned].sum().item(),
        kernels=len(areas),
        pruned_kernels=pruned.sum().item(),
        single=single.sum().item(),
        pruned_single=(single & pruned).sum().item(),
        layers=layers,
    )


def lowest(scores: Tensor, sizes: Tensor, percent: float) -> Tensor:
    """Which items are pruned: ``[n] -> [n]`` bool, smallest scores first, lower index among equals.

    As many as fit into ``percent`` of the total of ``sizes``.
    """
    order = scores.sort(stable=True).indices
    filled = sizes[order].cumsum(0)  # weights gone once this item is pruned
    fits = filled <= percent * sizes.sum().item() / 100 + SLIP
    return torch.zeros_like(fits).scatter(0, order, fits)


def _scores(conv: nn.Conv2d, name: str, score: str) -> Tensor:
    """``[C_out * C_in / groups]``, -1 for kernels that are masked already."""
    weight = conv.weight.detach()
    if not weight.isfinite().all():
        raise ValueError(f"model must have finite weights, got inf or nan in {name or 'it'}")
    values = SCORES[score](weight.to(torch.promote_types(weight.dtype, torch.float32)))
    if (mask := mask_of(conv)) is not None:
        values = torch.where(mask, values, -1.0)
    return values.flatten().cpu()


def _areas(conv: nn.Conv2d) -> Tensor:
    """The number of weights of each kernel, ``[C_out * C_in / groups]``."""
    return torch.full((prod(conv.weight.shape[:2]),), prod(conv.kernel_size))


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    if not convs:
        raise ValueError("model must have an nn.Conv2d to prune, got none")
    return convs


def mask_of(conv: nn.Conv2d) -> Tensor | None:
    """The mask ``[C_out, C_in / groups]`` of a convolution's kernels, None without one."""
    if parametrize.is_parametrized(conv, "weight"):
        for parametrization in conv.parametrizations.weight:
            if isinstance(parametrization, Mask):
                return parametrization.mask
    return None


def _set_mask(conv: nn.Conv2d, mask: Tensor) -> None:
    if (old := mask_of(conv)) is not None:
        old.logical_and_(mask)
        return
    parametrize.register_parametrization(conv, "weight", Mask(mask))
    own = type(conv)  # a class for this layer alone, made by the line above
    own.kept_pairs, own.dense_macs = _kept_pairs, _dense_macs  # what `count_macs` asks


def _kept_pairs(conv: nn.Conv2d) -> Tensor:
    """``[C_out, C_in / groups]``: taps left of each kernel."""
    below = super(type(conv), conv)
    taps = below.kept_pairs() if hasattr(below, "kept_pairs") else prod(conv.kernel_size)
    return mask_of(conv) * taps


def _dense_macs(conv: nn.Conv2d, positions: int) -> int:
    below = super(type(conv), conv)
    own = hasattr(below, "dense_macs")
    return below.dense_macs(positions) if own else conv.weight.numel() * positions


def add_masks(model: nn.Module, names: list[str]) -> nn.Module:
    """Masks that prune nothing for the named convolutions; ``load_state_dict`` fills them.

    Raises:
        ValueError: a name of no convolution of ``model``.
    """
    convs = _convolutions(model)
    for name in names:
        if name not in convs:
            raise ValueError(f"names must be convolutions of the model, got {name!r}")
        weight = convs[name].weight
        _set_mask(convs[name], torch.ones(weight.shape[:2], dtype=torch.bool, device=weight.device))
    return model


def masked_layers(model: nn.Module) -> list[str]:
    """The names of the convolutions that have a mask."""
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return [name for name, conv in convs.items() if mask_of(conv) is not None]


def check_module(model: nn.Module) -> None:
    """Raise unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")


def check_percent(percent: float) -> None:
    """Raise unless ``percent`` is a number from 0 to 100."""
    if isinstance(percent, bool) or not isinstance(percent, Real):
        raise TypeError(f"percent must be a number from 0 to 100, got {percent!r}")
    if not 0 <= percent <= 100:
        raise ValueError(f"percent must be a number from 0 to 100, got {percent!r}")
