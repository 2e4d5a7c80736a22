"""Turn the convolutions of a trained network into gated ones."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .gated import GatedConv2d, is_gated, restore_modes
from .graph import Chain, Parts, copied, pairs, traceable_parts
from .rebuild import Exchange, rebuild
from .vouch import check_network, gated_parts, print_left, tied
from .wta import check_density

SMALLEST_SCALE = 1e-6  # stands in for a batch-norm scale of 0, so that shift / scale exists
LARGEST_SHIFT = 1000.0  # of beta = shift / scale: the most that 16 bits hold well enough
RANDOM_GAIN = 5.0  # see `random_predictor`
DEEP_GAIN = 0.3  # the same for more than four layers, whose gates would grow and overflow


def convert(
    model: nn.Module, density: float | Tensor = 1.0, *, gates: str = "neutral"
) -> nn.Module:
    """A copy of ``model`` in which every Conv2d directly followed by a BatchNorm2d is gated.

    The data flow decides what follows what, not the order of attributes. The gated layer takes
    the convolution's name, an Identity the batch norm's; a ReLU or ReLU6 that reads nothing else
    moves into the layer. What cannot be vouched for stays as it is, and a printed line names it
    with the reason: classes of one's own made from these, hooks, masks, parametrizations, shared
    weights, a ``forward`` that was replaced, modules that run more than once or are followed by
    something else when an optional argument is given, and those whose type the model's own code
    asks for. Optional arguments that say how often have their defaults.

    Args:
        model: a network; it is not changed. Where ``torch.fx`` cannot trace all of it, its largest
            parts that can be traced are converted, and a warning names the line that stopped it.
        density: as in `GatedConv2d`.
        gates: ``"neutral"``: the predictor gives the batch-norm scale ``|gamma|`` whatever the
            image, so at density 1 nothing changes; below 1 all images share their winners, and
            fine-tuning hardly leaves that. ``"random"``: predictor weights are drawn anew, the
            start of training that makes gates dynamic (see `random_predictor`).

    Raises:
        TypeError: ``model`` is not a module; bad density. ValueError: bad density, ``gates``
            unknown, a model that cannot be traced, or one with nothing to gate.
    """
    check_density(density)
    if gates not in ("neutral", "random"):
        raise ValueError(f"gates must be 'neutral' or 'random', got {gates!r}")

    def gate(conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module | None) -> GatedConv2d:
        layer = gate_layer(conv, norm, False if act is None else act)
        layer.density = density
        return layer

    model, layers = exchange_chains(model, gate, "convert")
    for layer in layers if gates == "random" else ():
        random_predictor(layer, RANDOM_GAIN if len(layers) <= 4 else DEEP_GAIN)
    return model


def gate_layer(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: bool | nn.Module = False
) -> GatedConv2d:
    """The gated layer with neutral gates that equals ``activation(norm(conv(x)))`` at density 1.

    The scale ``gamma`` becomes the gate ``|gamma|``; the shift ``b`` becomes ``beta = b / |gamma|``
    because the gate multiplies it too; the sign of ``gamma`` goes into the kernel, and with a
    convolution's bias into the running mean. Where ``|gamma|`` is below ``SMALLEST_SCALE``, or so
    small that ``beta`` would exceed ``LARGEST_SHIFT``, the gate is larger, and kernel and mean are
    made smaller in proportion: else noise would pass, a next norm with a small variance would
    enlarge it, and 16 bits would not hold ``beta``.
    """
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    gamma = torch.ones(conv.out_channels, **like) if norm.weight is None else norm.weight.detach()
    shift = torch.zeros_like(gamma) if norm.bias is None else norm.bias.detach()
    bias = torch.zeros_like(gamma) if conv.bias is None else conv.bias.detach()
    scale = gamma.abs().maximum(shift.abs() / LARGEST_SHIFT).clamp(min=SMALLEST_SCALE)
    sign = gamma / scale  # 1 or -1, and less where gamma is next to 0

    layer = GatedConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        groups=conv.groups,
        activation=True if type(activation) is nn.ReLU else activation,
    ).to(**like)
    with torch.no_grad():
        layer.conv = copy.deepcopy(conv)  # with all settings as they are now
        layer.conv.bias = None
        layer.conv.weight.mul_(sign[:, None, None, None])
        layer.norm = copy.deepcopy(norm)
        layer.norm.affine, layer.norm.weight, layer.norm.bias = False, None, None
        if norm.running_mean is not None:
            layer.norm.running_mean.copy_(sign * (norm.running_mean - bias))
        layer.beta.copy_(shift / scale)
        layer.predictor.weight.zero_()
        layer.predictor.bias.copy_(scale)
    return layer.train(norm.training)


def random_predictor(layer: GatedConv2d, gain: float = RANDOM_GAIN) -> None:
    """Draw the predictor anew for training: Kaiming uniform times ``gain``, bias 1.

    Where the weights are small against the bias, the bias decides who wins, all images share one
    winner set, and training may never leave it. How large a gain that takes depends on how much the
    measured saliencies differ between images; the recipes of `fit` hold a tuned one for each data
    set. In deep networks it must be small: a gate is in proportion to its inputs, which are in
    proportion to the gates before, and so on (with 5, a fresh ResNet-18 starts at outputs of 1e13).
    ``beta`` keeps its value: with gates near 1 instead of ``|gamma|`` each channel is scaled
    by a positive number, which the next layer learns to undo.
    """
    nn.init.kaiming_uniform_(layer.predictor.weight, nonlinearity="relu")
    with torch.no_grad():
        layer.predictor.weight.mul_(gain)
        layer.predictor.bias.fill_(1.0)
        layer.beta.clamp_(-10, 10)  # a channel whose scale was near 0 has a beta near infinity


def exchange_chains(
    model: nn.Module, make: Callable[..., nn.Module], doing: str
) -> tuple[nn.Module, list[nn.Module]]:
    """A copy of ``model`` in which what ``make`` makes of each of its `chains` takes their place.

    Those are chains in training and in eval mode alike, and in every way that data can go. The new
    layer gets the convolution's name, Identities those of the others. Warns, with the line, where
    the data cannot be followed through all of ``model``: then the chains are those of its largest
    parts that can be. Prints what is left as it was, and why.

    Returns:
        The copy, and the new layers.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it cannot be traced, or has no such chain;
            the message says why.
    """
    check_network(model)
    model = copied(model)
    modes = {module: module.training for module in model.modules()}
    names = {module: name for name, module in model.named_modules()}
    in_training = traceable_parts(model.train(), every_way=True)
    in_eval = traceable_parts(model.eval(), every_way=True)
    restore_modes(modes)
    if in_eval.stopped and not in_eval.graphs:
        raise in_eval.stopped[0]
    found = _sure_and_doubtful(in_eval, in_training, tied(model))
    exchanges = [_exchange(chain, make(*chain)) for chain, why in found.items() if not why]
    followed = [(True, in_training), (False, in_eval)]
    model, went_back = rebuild(model, exchanges, followed)
    left = {
        f"{names[conv]} with {names[norm]}": why or went_back[conv]
        for (conv, norm, _), why in found.items()
        if why or conv in went_back
    }
    layers = [e[conv] for e in exchanges for conv in (next(reversed(e)),) if conv not in went_back]
    _say_what_is_left(model, layers, left, in_eval, doing)
    return model, layers


def _sure_and_doubtful(
    in_eval: Parts, in_training: Parts, tied_modules: set[nn.Module]
) -> dict[Chain, str]:
    """The chains in eval mode, and why each may not be exchanged; empty if it may."""
    found, other = pairs(in_eval), pairs(in_training)
    for chain, why in found.items():
        if not why and not tied_modules.isdisjoint(chain):
            found[chain] = "another module has the same weights"
        elif not why:
            found[chain] = other.get(chain, "in training other modules follow it")
    return found


def _exchange(chain: Chain, new: nn.Module) -> Exchange:
    """The new layer comes last, because a block has the modules of the chain inside it."""
    conv, *others = chain
    gone = [module for module in others if module is not None]
    return {old: nn.Identity().train(old.training) for old in gone} | {conv: new}


def _say_what_is_left(
    model: nn.Module, layers: list[nn.Module], left: dict[str, str], parts: Parts, doing: str
) -> None:
    """Print it, or raise if nothing was exchanged."""
    stops = f"; {parts.stopped_at()}" if parts.stopped else ""
    if not layers:
        reasons = "".join(f"; {name}: {why}" for name, why in left.items())
        raise ValueError(f"model has nothing to gate: {_why_no_chains(model)}{reasons}{stops}")
    if parts.stopped:
        warnings.warn(f"only parts of model were looked at: {parts.stopped_at()}", stacklevel=5)
    print_left(doing, left)


def _why_no_chains(model: nn.Module) -> str:
    inside = gated_parts(model)
    modules = [module for module in model.modules() if module not in inside]
    if not any(isinstance(module, nn.Conv2d) for module in modules):
        return "its convolutions are gated already" if is_gated(model) else "it has no nn.Conv2d"
    if not any(isinstance(module, nn.BatchNorm2d) for module in modules):
        return "it has no nn.BatchNorm2d, whose scale a gate stands in for"
    return "no nn.Conv2d whose only reader is an nn.BatchNorm2d, both run once and without hooks"
