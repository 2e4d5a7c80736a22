"""What a statically pruned network has that the plain one has not, for the header of its file."""

import torch
from torch import Tensor, nn

from ..method.graph import replace
from .channels import removable_channels, remove_channels
from .masks import masked_layers
from .stripes import SMALLER, StripeConv2d, StripewiseConv2d, remember


def describe(network: nn.Module, plain: nn.Module) -> dict:
    """What tells ``network`` from ``plain``, for JSON; `rebuild` takes it. ``{}`` if nothing does.

    Keys, where there is something to say: ``widths`` ``{convolution: output channels}``, ``masks``
    and ``skeletons`` ``[convolution]``, and of a network by `prune_stripes` ``stripes``
    ``{convolution: its stripes, as bits in hexadecimal}``. Weights and masks themselves are in the
    ``state_dict``. Of gated layers the widths are here, the gates are not.
    """
    modules = dict(network.named_modules())
    widths = {
        name: modules[name].out_channels
        for name, conv in plain.named_modules()
        if isinstance(conv, nn.Conv2d)
        and getattr(modules.get(name), "out_channels", conv.out_channels) != conv.out_channels
    }
    skeletons = [name for name, module in modules.items() if isinstance(module, StripeConv2d)]
    stripes = {n: _bits(m.kept) for n, m in modules.items() if isinstance(m, StripewiseConv2d)}
    masks = masked_layers(network)
    found = {"widths": widths, "masks": masks, "skeletons": skeletons, "stripes": stripes}
    pruned = any(isinstance(m, (StripewiseConv2d, *SMALLER.values())) for m in modules.values())
    return {key: value for key, value in found.items() if value or (key == "stripes" and pruned)}


def rebuild(plain: nn.Module, structure: dict) -> nn.Module:
    """``plain``, changed in place to what `describe` found, but for the masks.

    Those are for `add_masks`, once gates are there too; ``load_state_dict`` then fits.

    Raises:
        ValueError: a structure that does not fit ``plain``.
    """
    layers = {n: m for n, m in plain.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    unpruned = {name: layer.weight.numel() for name, layer in layers.items()}
    _narrow(plain, structure.get("widths", {}))
    for name in structure.get("skeletons", []):
        StripeConv2d.of(_convolution(layers, name))
    for name, bits in structure.get("stripes", {}).items():
        conv = _convolution(layers, name)
        kept = _kept(bits, (conv.out_channels, *conv.kernel_size)).to(conv.weight.device)
        replace(plain, layers.pop(name), StripewiseConv2d(conv, kept, unpruned[name]))
    if "stripes" in structure:
        for name, layer in layers.items():
            if layer.weight.numel() != unpruned[name]:
                remember(layer, unpruned[name])
    return plain


def _narrow(plain: nn.Module, widths: dict[str, int]) -> None:
    """Remove as many channels as it takes; which ones does not matter for shapes."""
    groups = {group.convs[0]: group for group in (removable_channels(plain) if widths else [])}
    for name, width in widths.items():
        group = groups.get(plain.get_submodule(name))
        if group is not None and 0 < width <= group.count:
            remove_channels(group, torch.arange(group.count) < width)
        elif plain.get_submodule(name).out_channels != width:  # depthwise ones follow their group
            raise ValueError(f"{name} cannot have {width} channels in this network")


def _convolution(layers: dict[str, nn.Module], name: str) -> nn.Conv2d:
    if not isinstance(layers.get(name), nn.Conv2d):
        raise ValueError(f"the network has no convolution called {name!r}")
    return layers[name]


def _bits(kept: Tensor) -> str:
    return f"{int(''.join('01'[bit] for bit in kept.flatten().tolist()), 2):x}"


def _kept(bits: str, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    values = [digit == "1" for digit in f"{int(bits, 16):0{count}b}"]
    if len(values) != count:
        raise ValueError(f"{len(values)} bits do not fit a skeleton of {list(shape)}")
    return torch.tensor(values).view(shape)
