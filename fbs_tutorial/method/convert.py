"""Turn the convolutions of a trained network into gated ones."""

import copy
import warnings

import torch
from torch import Tensor, nn

from .gated import Gated, GatedConv2d, is_gated
from .graph import Chain, chains, replace, traceable_parts
from .wta import check_density

SMALLEST_SCALE = 1e-6  # stands in for a batch-norm scale of 0, so that shift / scale exists
RANDOM_GAIN = 5.0  # see `random_predictor`
DEEP_GAIN = 0.3  # the same for more than four layers, whose gates would grow and overflow


def convert(
    model: nn.Module, density: float | Tensor = 1.0, *, gates: str = "neutral"
) -> nn.Module:
    """A copy of ``model`` in which every Conv2d directly followed by a BatchNorm2d is gated.

    The data flow decides what follows what, not the order of attributes. The gated layer takes
    the convolution's name, an Identity the batch norm's; a ReLU or ReLU6 that reads nothing else
    moves into the layer. Modules that run more than once or have hooks are left alone.

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
    model, found = copy_with_chains(model)
    gain = RANDOM_GAIN if len(found) <= 4 else DEEP_GAIN
    for conv, norm, act in found:
        layer = gate_layer(conv, norm, False if act is None else act)
        layer.density = density
        if gates == "random":
            random_predictor(layer, gain)
        for old, new in ((norm, nn.Identity()), (act, nn.Identity()), (conv, layer)):
            if old is not None:
                replace(model, old, new)
    return model


def gate_layer(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: bool | nn.Module = False
) -> GatedConv2d:
    """The gated layer with neutral gates that equals ``activation(norm(conv(x)))`` at density 1.

    The scale ``gamma`` becomes the gate ``|gamma|``; the shift ``b`` becomes ``beta = b / |gamma|``
    because the gate multiplies it too; the sign of ``gamma`` goes into the kernel, and with a
    convolution's bias into the running mean. Where ``|gamma|`` is below ``SMALLEST_SCALE`` that is
    the gate, and kernel and mean are made smaller in proportion: else noise would pass, and a next
    norm with a small variance would enlarge it.
    """
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    ones, zeros = torch.ones(conv.out_channels, **like), torch.zeros(conv.out_channels, **like)
    gamma, shift = (norm.weight, norm.bias) if norm.affine else (ones, zeros)
    overflow = 2 * shift.detach().abs().max().item() / torch.finfo(gamma.dtype).max
    scale = gamma.abs().clamp(min=max(SMALLEST_SCALE, overflow))
    sign = gamma / scale  # 1 or -1, and less where gamma is next to 0

    layer = GatedConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        groups=conv.groups,
        activation=True if type(activation) is nn.ReLU else activation,
    ).to(**like)
    with torch.no_grad():
        layer.conv = copy.deepcopy(conv)  # stride, padding and dilation come along
        layer.conv.bias = None
        layer.conv.weight.mul_(sign[:, None, None, None])
        layer.norm = nn.BatchNorm2d(
            conv.out_channels,
            norm.eps,
            norm.momentum,
            affine=False,
            track_running_stats=norm.track_running_stats,
        ).to(**like)
        if norm.track_running_stats:
            bias = zeros if conv.bias is None else conv.bias
            layer.norm.running_mean.copy_(sign * (norm.running_mean - bias))
            layer.norm.running_var.copy_(norm.running_var)
            layer.norm.num_batches_tracked.copy_(norm.num_batches_tracked)
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


def copy_with_chains(model: nn.Module) -> tuple[nn.Module, list[Chain]]:
    """A copy of ``model``, and its `chains` that are so in training and in eval mode alike.

    Warns, with the line, where the data cannot be followed through all of ``model``: then the
    chains are those of its largest parts that can be.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it cannot be traced, or has no such chain;
            the message says why.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    model = copy.deepcopy(model)
    modes = {module: module.training for module in model.modules()}
    in_training = chains(traceable_parts(model.train()))
    parts = traceable_parts(model.eval())
    found = [chain for chain in chains(parts) if chain in in_training]
    for module, mode in modes.items():
        module.training = mode
    if parts.stopped and not parts.graphs:
        raise parts.stopped[0]
    if not found:
        stops = f"; {parts.stopped_at()}" if parts.stopped else ""
        raise ValueError(f"model has nothing to gate: {_why_no_chains(model)}{stops}")
    if parts.stopped:
        warnings.warn(f"only parts of model were looked at: {parts.stopped_at()}", stacklevel=3)
    return model, found


def _why_no_chains(model: nn.Module) -> str:
    inside = {m for gate in model.modules() if isinstance(gate, Gated) for m in gate.modules()}
    kinds = {type(module) for module in model.modules() if module not in inside}
    if nn.Conv2d not in kinds:
        return "its convolutions are gated already" if is_gated(model) else "it has no nn.Conv2d"
    if nn.BatchNorm2d not in kinds:
        return "it has no nn.BatchNorm2d, whose scale a gate stands in for"
    return "no nn.Conv2d whose only reader is an nn.BatchNorm2d, both run once and without hooks"
