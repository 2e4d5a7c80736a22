"""Turn the convolutions of a trained network into gated ones."""

import copy

import torch
from torch import Tensor, fx, nn

from .gated import Gated, GatedConv2d
from .wta import check_density

SMALLEST_SCALE = 1e-6  # stands in for a batch-norm scale of 0, so that shift / scale exists
RANDOM_GAIN = 5.0  # see `random_predictor`


def convert(
    model: nn.Module, density: float | Tensor = 1.0, *, gates: str = "neutral"
) -> nn.Module:
    """A copy of ``model`` in which every Conv2d directly followed by a BatchNorm2d is gated.

    The data flow decides what follows what, not the order of attributes. The gated layer takes
    the convolution's name, an Identity the batch norm's; a ReLU or ReLU6 that reads nothing else
    moves into the layer.

    Args:
        model: a network that ``torch.fx`` can trace; it is not changed.
        density: as in `GatedConv2d`.
        gates: ``"neutral"``: the predictor gives the batch-norm scale ``|gamma|`` whatever the
            image, so at density 1 nothing changes; below 1 all images share their winners, and
            fine-tuning hardly leaves that. ``"random"``: predictor weights are drawn anew, the
            start of training that makes gates dynamic (see `random_predictor`).

    Raises:
        TypeError: ``model`` is not a module; bad density. ValueError: bad density, ``gates``
            unknown, a model that cannot be traced, or one with nothing to gate.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_density(density)
    if gates not in ("neutral", "random"):
        raise ValueError(f"gates must be 'neutral' or 'random', got {gates!r}")
    model = copy.deepcopy(model)
    modes = {module: module.training for module in model.modules()}
    chains = _conv_norm_chains(model.train())
    chains = [chain for chain in _conv_norm_chains(model.eval()) if chain in chains]
    for module, mode in modes.items():
        module.training = mode
    if not chains:
        raise ValueError(
            "model has nothing to gate: no nn.Conv2d whose only reader is an nn.BatchNorm2d"
        )
    for conv, norm, act in chains:
        activation = model.get_submodule(act) if act else False
        layer = gate_layer(model.get_submodule(conv), model.get_submodule(norm), activation)
        layer.density = density
        if gates == "random":
            random_predictor(layer)
        for name, new in ((norm, nn.Identity()), (act, nn.Identity()), (conv, layer)):
            if name:
                replace(model, model.get_submodule(name), new)
    return model


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` in the place of ``old``, under every name that it has; returns the model."""
    if old is model:
        return new
    names = [n for n, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in names:
        model.set_submodule(name, new)
    return model


def gate_layer(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, activation: bool | nn.Module = False
) -> GatedConv2d:
    """The gated layer with neutral gates that equals ``activation(norm(conv(x)))`` at density 1.

    The scale ``gamma`` becomes the gate ``|gamma|``; the shift ``b`` becomes ``beta = b / |gamma|``
    because the gate multiplies it too; the sign of ``gamma`` goes into the kernel, and with a
    convolution's bias into the running mean.
    """
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    ones, zeros = torch.ones(conv.out_channels, **like), torch.zeros(conv.out_channels, **like)
    gamma, shift = (norm.weight, norm.bias) if norm.affine else (ones, zeros)
    sign = torch.where(gamma < 0, -1.0, 1.0).to(gamma.dtype)
    overflow = 2 * shift.detach().abs().max().item() / torch.finfo(gamma.dtype).max
    scale = gamma.abs().clamp(min=max(SMALLEST_SCALE, overflow))

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
    set. ``beta`` keeps its value: with gates near 1 instead of ``|gamma|`` each channel is scaled
    by a positive number, which the next layer learns to undo.
    """
    nn.init.kaiming_uniform_(layer.predictor.weight, nonlinearity="relu")
    with torch.no_grad():
        layer.predictor.weight.mul_(gain)
        layer.predictor.bias.fill_(1.0)
        layer.beta.clamp_(-10, 10)  # a channel whose scale was near 0 has a beta near infinity


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Gated) or super().is_leaf_module(module, name)


def trace(model: nn.Module) -> list[fx.Node]:
    """The data flow of ``model`` as it is called; gated layers and PyTorch's are single nodes.

    Raises:
        ValueError: the flow depends on values, so that it cannot be followed.
    """
    try:
        return list(_Tracer().trace(model).nodes)
    except Exception as error:  # fx raises many kinds, from inside the model's own code
        raise ValueError(f"torch.fx cannot follow the data through model: {error}") from error


def _conv_norm_chains(model: nn.Module) -> list[tuple[str, str, str | None]]:
    """Names of every (convolution, its batch norm, its activation or None) of ``model``."""
    if isinstance(model, Gated):
        return []
    nodes = trace(model)
    uses = [node.target for node in nodes if node.op == "call_module"]
    read = [node.target for node in nodes if node.op == "get_attr"]  # the model's own code does

    def sole_reader(node: fx.Node, kinds: tuple[type, ...]) -> fx.Node | None:
        """The one node that reads ``node``, if it is a module of these kinds used just once."""
        readers = list(node.users)
        if len(readers) != 1 or readers[0].op != "call_module":
            return None
        reader = readers[0]
        once = uses.count(reader.target) == 1
        return reader if once and type(model.get_submodule(reader.target)) in kinds else None

    chains = []
    for node in nodes:
        if node.op != "call_module" or type(model.get_submodule(node.target)) is not nn.Conv2d:
            continue
        norm = sole_reader(node, (nn.BatchNorm2d,))
        if norm is None or uses.count(node.target) > 1:
            continue
        if any(attribute.startswith((f"{node.target}.", f"{norm.target}.")) for attribute in read):
            continue
        act = sole_reader(norm, (nn.ReLU, nn.ReLU6))
        chains.append((node.target, norm.target, act.target if act else None))
    return chains
