"""Winner-take-all: keep the ``k = ceil(d * C)`` most salient channels of each image."""

import math
from numbers import Real

import torch
from torch import Tensor, nn

# 0.55 * 100 is 55.00000000000001 in floating point, and a float32 density is off by up to 3e-8.
# A density this little above a multiple of 1 / C means that multiple.
SLIP = 1e-7


def active_channels(channels: int, density: float) -> int:
    """Number of winners ``k = ceil(density * channels)``, at least 1, without a float slip.

    Raises:
        TypeError: ``channels`` is not an int, or ``density`` not a real number.
        ValueError: ``channels < 1``, or ``density`` outside ``(0, 1]``.
    """
    if not isinstance(channels, int) or isinstance(channels, bool):
        raise TypeError(f"channels must be an int >= 1, got {channels!r}")
    if channels < 1:
        raise ValueError(f"channels must be an int >= 1, got {channels}")
    if isinstance(density, Tensor):
        raise TypeError(f"density must be one number in (0, 1], got a tensor {list(density.shape)}")
    check_density(density)
    return max(1, math.ceil((density - SLIP) * channels))


def rank_channels(g: Tensor) -> tuple[Tensor, Tensor]:
    """The channels of each image, the most salient first: ``[N, C] -> [N, C], [N, C]``.

    Their magnitudes, and their indices (int64). The one function that selects: the masked layer,
    the MAC counter and the execution that skips all take their winners from the front of it.
    Larger magnitude wins; among equals the lower index does, which ``topk`` does not promise.
    """
    return g.detach().abs().sort(dim=1, descending=True, stable=True)


def strongest_channels(g: Tensor, k: int) -> Tensor:
    """The ``k`` most salient channels of each image, in that order: ``[N, C] -> [N, k]`` int64."""
    _, order = rank_channels(g)
    return order[:, :k]


def winner_mask(g: Tensor, density: float | Tensor) -> Tensor:
    """Which channels win: ``[N, C] -> [N, C]`` bool, exactly ``active_channels(C, density)`` a row.

    Arguments and errors as `winner_take_all`.
    """
    check_saliency(g)
    check_density(density, images=g.shape[0])
    return mark_winners(g, density)


def mark_winners(g: Tensor, density: float | Tensor) -> Tensor:
    """`winner_mask` of arguments that were checked; on a GPU it waits for nothing."""
    mask, channels = torch.zeros_like(g, dtype=torch.bool), g.shape[1]
    if not isinstance(density, Tensor):
        return mask.scatter(1, strongest_channels(g, active_channels(channels, density)), True)
    order = strongest_channels(g, channels)
    k = ((density.double() - SLIP) * channels).ceil().clamp(min=1)  # [N]
    place = torch.arange(channels, device=g.device).expand_as(order)  # 0 is the first place
    return mask.scatter(1, order, place < k.long().to(g.device)[:, None])


def winner_take_all(g: Tensor, density: float | Tensor) -> Tensor:
    """Keep the winners' values and set the rest to 0: ``[N, C] -> [N, C]`` (the paper's ``wta``).

    Exactly ``active_channels(C, density)`` entries of each row are kept, ties and zeros included.
    ``g`` itself is not changed. The gradient reaches ``g`` through the kept entries only.

    Args:
        g: saliencies ``[N, C]``, floating point.
        density: share of channels to keep, in ``(0, 1]``: one number, or a float tensor ``[N]``
            with one density per image.

    Raises:
        TypeError: ``g`` is not a floating-point tensor, or ``density`` not a number or tensor.
        ValueError: ``g`` is not 2-D or is empty, ``density`` is outside ``(0, 1]`` or its length
            is not ``N``.
    """
    return torch.where(winner_mask(g, density), g, 0.0)


def check_saliency(g: Tensor) -> None:
    """Raise unless ``g`` is a non-empty floating-point tensor ``[N, C]``."""
    if not isinstance(g, Tensor):
        raise TypeError(f"g must be a tensor [N, C], got {type(g).__name__}")
    if not g.is_floating_point():
        raise TypeError(f"g must be a floating-point tensor, got {g.dtype}")
    if g.ndim != 2 or 0 in g.shape:
        raise ValueError(f"g must be a non-empty tensor [N, C], got shape {list(g.shape)}")


def check_density(
    density: float | Tensor, images: int | None = None, *, values: bool = True
) -> None:
    """Raise unless ``density`` is a number in (0, 1] or a tensor [N] of such (N = ``images``).

    Without ``values`` those of a tensor are not looked at: on a GPU that waits for them.
    """
    takes = "density must be a number in (0, 1], or a float tensor [N] of such"
    if isinstance(density, nn.Parameter):  # which a layer would take for one of its weights
        raise TypeError(f"{takes}, got an nn.Parameter: give density.detach()")
    if isinstance(density, Tensor):
        if density.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{takes} in float32 or float64, got {density.dtype}")
        if density.ndim != 1 or len(density) == 0:
            raise ValueError(f"{takes}, got a tensor of shape {list(density.shape)}")
        if images is not None and len(density) != images:
            raise ValueError(f"{takes}, N = {images} images, got {len(density)} densities")
        if not values or torch.compiler.is_compiling():  # which a look would break
            return
        wrong = density[~((density > 0) & (density <= 1))]
        if len(wrong):
            raise ValueError(f"{takes}, got {wrong[0].item()} in the tensor")
    elif isinstance(density, bool) or not isinstance(density, Real):
        raise TypeError(f"{takes}, got {density!r}")
    elif not 0 < density <= 1:
        raise ValueError(f"{takes}, got {density!r}")
