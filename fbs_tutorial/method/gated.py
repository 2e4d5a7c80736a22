"""The FBS layer: a convolution whose output channels are boosted, damped or skipped, per image."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .saliency import channel_saliency, check_feature_maps, reduce_channels
from .wta import check_density, mark_winners


class Gated(nn.Module):
    """What every gated layer has: a predictor, a density, and the gate ``pi`` of the last batch.

    Attributes:
        predictor: ``nn.Linear(in_channels, out_channels)``, bias starting at 1.
        density: share of output channels that win, a number or a tensor ``[N]``.
        saliency: predicted saliency ``g`` ``[N, out_channels]`` of the last batch, with its graph.
        gate: the gate ``pi`` ``[N, out_channels]`` of the last batch. Both are None before a
            forward, and are not copied by ``copy.deepcopy``.
    """

    def __init__(self, in_channels: int, out_channels: int, density: float | Tensor, reduce: str):
        super().__init__()
        channel_saliency(torch.ones(1, 1, 1, 1), reduce)  # an unknown reduction is refused here
        self.in_channels, self.out_channels = in_channels, out_channels
        self.predictor = nn.Linear(in_channels, out_channels)
        nn.init.ones_(self.predictor.bias)
        self.density = density
        self.reduce = reduce
        self.saliency: Tensor | None = None
        self.gate: Tensor | None = None
        self.forced: Tensor | None = None  # see `forced_gates`

    @property
    def density(self) -> float | Tensor:
        return self._density

    @density.setter
    def density(self, density: float | Tensor) -> None:
        check_density(density)
        self.take_density(density)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == "density":  # which a parameter would otherwise hide
            check_density(param)
        super().register_parameter(name, param)

    def take_density(self, density: float | Tensor) -> None:
        """Set a density that has been checked."""
        self._density = density if isinstance(density, Tensor) else float(density)

    def predict_gate(self, x: Tensor) -> Tensor:
        """``[N, C_in, H, W] -> [N, C_out]``: steps 1 to 3 of the layer.

        Never under autocast: in bfloat16 a third of the images would tie at the cut.

        Raises:
            TypeError, ValueError: ``x`` is not ``[N, in_channels, H, W]``.
        """
        check_feature_maps(x, "x")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have {self.in_channels} channels, got {x.shape[1]}")
        dtype = torch.promote_types(self.predictor.weight.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            s = reduce_channels(x.to(dtype), self.reduce)  # [N, C_in]
            g = self.saliency = self.predict(s)  # [N, C_out]
            return self.select(g)  # [N, C_out]

    def predict(self, s: Tensor) -> Tensor:
        """``relu(predictor(s))``, ``[N, C_in] -> [N, C_out]``, in float32 or finer."""
        linear = self.predictor
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        return F.relu(F.linear(s.to(dtype), linear.weight.to(dtype), linear.bias.to(dtype)))

    def select(self, g: Tensor) -> Tensor:
        """The gate ``pi`` ``[N, C_out]``: the winners of ``g``, or what `forced_gates` says."""
        if self.forced is None:
            check_density(self.density, images=len(g), values=False)  # they were, when it was set
            return torch.where(mark_winners(g, self.density), g, 0.0)
        if self.forced.dtype == torch.bool:
            return torch.where(self.forced, g, 0.0)
        return self.forced.to(g).expand_as(g)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "saliency": None, "gate": None}

    def extra_repr(self) -> str:
        density = "per image" if isinstance(self.density, Tensor) else f"{self.density:g}"
        return f"density={density}, reduce={self.reduce!r}"


def _of_the_convolution(name: str) -> property:
    """A setting that a gated layer and its convolution have in common."""

    def set_it(layer: "GatedConv2d", value: object) -> None:
        setattr(layer.conv, name, value)

    return property(lambda layer: getattr(layer.conv, name), set_it)


class GatedConv2d(Gated):
    """Convolution with feature boosting and suppression ("Dynamic Channel Pruning", ICLR 2019).

    ``y = act(pi * (norm(conv(x)) + beta))``, ``[N, C_in, H, W] -> [N, C_out, H', W']``, where
    ``pi = winner_take_all(relu(predictor(channel_saliency(x))), density)`` ``[N, C_out]``.
    The norm has no scale of its own: the gate takes its place. Channels that lose are exactly 0.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups: as ``nn.Conv2d``.
        density: share of output channels that win, in ``(0, 1]``; a tensor ``[N]`` sets one for
            each image of a batch.
        activation: True for ReLU, False for none, or a module that maps 0 to 0 (``nn.ReLU6()``).
        reduce: the measured saliency, see `channel_saliency`.

    Raises:
        TypeError, ValueError: bad arguments here; in ``forward``, an input that is not
            ``[N, in_channels, H, W]`` of the weights' dtype, or other than one density per
            image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        *,
        groups: int = 1,
        density: float | Tensor = 1.0,
        activation: bool | nn.Module = True,
        reduce: str = "l1",
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, groups=groups)
        check_sizes(pair=True, kernel_size=kernel_size, stride=stride)
        if not isinstance(padding, str):
            check_sizes(pair=True, smallest=0, padding=padding)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels {in_channels} and out_channels {out_channels}, "
                f"got {groups}"
            )
        super().__init__(in_channels, out_channels, density, reduce)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, affine=False)
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.activation = check_activation(activation, out_channels)
        self.store_statistics(None, None, None)

    kernel_size, stride = map(_of_the_convolution, ("kernel_size", "stride"))
    padding, dilation, groups = map(_of_the_convolution, ("padding", "dilation", "groups"))

    def forward(self, input: Tensor) -> Tensor:  # as nn.Conv2d calls it
        self.gate = self.predict_gate(input)  # [N, C_out], before the convolution
        if input.dtype != self.beta.dtype:
            check_dtype(input, self.conv.weight)
        y = self.normalize(self.conv(input))  # [N, C_out, H', W']
        pi, beta = self.gate.to(y.dtype)[:, :, None, None], self.beta.to(y.dtype)[:, None, None]
        y = pi * (y + beta)
        if isinstance(self.activation, nn.Module):
            return self.activation(y)
        return F.relu(y) if self.activation else y

    def normalize(self, y: Tensor) -> Tensor:
        """``norm(y)``, in eval mode with the statistics of the layer's density."""
        if self.norm.training or self.stored_densities is None:
            return self.norm(y)
        mean, var = self.statistics(self.density)
        if mean.ndim == 1:
            return F.batch_norm(y, mean, var, eps=self.norm.eps)
        scale = (var + self.norm.eps).rsqrt()  # [N, C_out]
        shift = -mean * scale
        return y * scale.to(y.dtype)[:, :, None, None] + shift.to(y.dtype)[:, :, None, None]

    def statistics(self, density: float | Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Mean and variance of the norm in eval mode, ``[C_out]``, for a tensor ``[N, C_out]``.

        Those of the stored density that is nearest, see `calibrate`; the norm's own where none is
        stored, None where it keeps none.
        """
        if self.stored_densities is None:
            return self.norm.running_mean, self.norm.running_var
        row = nearest(self.stored_densities, density)
        mean, var = self.stored_means[row], self.stored_vars[row]
        return (mean, var) if isinstance(density, Tensor) else (mean[0], var[0])

    def store_statistics(
        self, densities: Tensor | None, means: Tensor | None, variances: Tensor | None
    ) -> None:
        """Keep statistics for ``densities`` ``[D]``: ``[D, C_out]`` each; None forgets them."""
        self.register_buffer("stored_densities", densities)
        self.register_buffer("stored_means", means)
        self.register_buffer("stored_vars", variances)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """As many stored densities as the file has, none if it has none."""
        names = ("stored_densities", "stored_means", "stored_vars")
        found = [state_dict.get(prefix + name) for name in names]
        self.store_statistics(*(v if v is None else self.beta.new_empty(v.shape) for v in found))
        super()._load_from_state_dict(state_dict, prefix, *args)


class ChannelPruning(Gated):
    """Gate the output of any block of layers; used like ``nn.Sequential``.

    Predicts from the block's input ``[N, C_in, H, W]`` how much each channel of its output
    ``[N, C_out, H', W']`` will matter, and multiplies. C_in is read off the block's first
    convolution, C_out off its last. Only the last convolution can be skipped in execution, and
    only if what follows it works channel by channel.

    Args:
        modules: the layers of the block, with at least one ``nn.Conv2d``.
        density: as in `GatedConv2d`.
        normalize: scale the gates of an image to mean 1. Gates that multiply one another in a deep
            residual stack otherwise grow without bound. An image whose gates are all 0 gets
            ``C / k`` for every winner.

    Raises:
        TypeError: an argument that is not a module. ValueError: no convolution; a bad density.
    """

    def __init__(self, *modules: nn.Module, density: float | Tensor = 1.0, normalize: bool = True):
        for module in modules:
            if not isinstance(module, nn.Module):
                raise TypeError(f"ChannelPruning takes modules, got {module!r}")
        convs = [m for m in nn.Sequential(*modules).modules() if isinstance(m, nn.Conv2d)]
        if not convs:
            raise ValueError("ChannelPruning needs a block with at least one nn.Conv2d, got none")
        if not isinstance(normalize, bool):
            raise TypeError(f"normalize must be True or False, got {normalize!r}")
        super().__init__(convs[0].in_channels, convs[-1].out_channels, density, "l1")
        self.block = nn.Sequential(*modules)
        self.normalize = normalize

    def forward(self, input: Tensor) -> Tensor:
        pi = self.predict_gate(input)  # [N, C_out]
        pi = self.gate = self.scale_to_mean_1(pi) if self.normalize else pi
        y = self.block(input)  # [N, C_out, H', W']
        return pi.to(y.dtype)[:, :, None, None] * y

    def scale_to_mean_1(self, pi: Tensor) -> Tensor:
        """``[N, C] -> [N, C]``; a row of zeros becomes one of equal winners, so no 0 / 0."""
        empty = pi.mean(dim=1, keepdim=True) < torch.finfo(pi.dtype).tiny
        pi = torch.where(empty, mark_winners(pi, self.density).to(pi), pi)
        return pi / pi.mean(dim=1, keepdim=True)

    def __len__(self) -> int:
        return len(self.block)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.block)

    def __getitem__(self, index: int | slice) -> nn.Module:
        return self.block[index]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, normalize={self.normalize}"


def nearest(stored: Tensor, density: float | Tensor) -> Tensor:
    """Index ``[N]`` of the stored density, of ``[D]``, that is nearest to each; ``[1]`` for one."""
    wanted = density.to(stored) if isinstance(density, Tensor) else stored.new_tensor([density])
    return (wanted[:, None] - stored).abs().argmin(dim=1)


def check_sizes(*, smallest: int = 1, pair: bool = False, **sizes: int | tuple[int, int]) -> None:
    """Raise unless every size is an int of at least ``smallest``, or with ``pair`` two of them."""
    for name, size in sizes.items():
        for part in size if pair and isinstance(size, tuple) and len(size) == 2 else (size,):
            if not isinstance(part, int) or isinstance(part, bool):
                raise TypeError(f"{name} must be an int >= {smallest}, got {size!r}")
            if part < smallest:
                raise ValueError(f"{name} must be an int >= {smallest}, got {size!r}")


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise unless maps have the dtype of the weights that they meet, or autocast sees to it."""
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"x must have the dtype of the layer's weights, {weight.dtype}, got {x.dtype}: "
            "convert the images with images.to(dtype), or the network with model.to(dtype)"
        )


def check_activation(activation: bool | nn.Module, channels: int) -> bool | nn.Module:
    """Return ``activation``, or raise unless it is a bool or a module that maps 0 to 0."""
    if isinstance(activation, bool):
        return activation
    if not isinstance(activation, nn.Module):
        raise TypeError(f"activation must be True, False or a module, got {activation!r}")
    like = next(activation.parameters(), torch.empty(0))
    with torch.no_grad():
        at_zero = activation(like.new_zeros(1, channels, 1, 1)).flatten()
    if at_zero.count_nonzero():
        raise ValueError(f"activation must map 0 to 0, got {activation!r}, {at_zero[0]:g} at 0")
    return activation


def gates_of(model: nn.Module) -> list[Gated]:
    """Every gated layer of ``model``, perhaps none."""
    return [module for module in model.modules() if isinstance(module, Gated)]


def is_gated(model: nn.Module) -> bool:
    """True if ``model`` has a gated layer."""
    return bool(gates_of(model))


def gated_layers(model: nn.Module) -> dict[str, Gated]:
    """Every gated layer of ``model`` by name, in the order of ``named_modules``.

    Raises:
        TypeError: ``model`` is not a module. ValueError: it has no gated layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Gated)}
    if not layers:
        raise ValueError("model has no gated layer; make one with convert(model) or GatedConv2d")
    return layers


def set_density(
    model: nn.Module, density: float | Tensor | Mapping[str, float | Tensor]
) -> nn.Module:
    """Set the density of every gated layer, or of the named ones; returns ``model``.

    Nothing but the densities changes: weights and batch-norm statistics stay. Of a network that
    `calibrate` has seen, each layer then normalises with the statistics of the nearest density.

    Args:
        density: a number in ``(0, 1]``, a tensor ``[N]`` with one density per image, or
            ``{layer name: density}`` with names as in ``model.named_modules()``.

    Raises:
        TypeError, ValueError: bad density, no gated layer, or an unknown name; then nothing is set.
    """
    layers = gated_layers(model)
    wanted = density if isinstance(density, Mapping) else dict.fromkeys(layers, density)
    for name in wanted:
        if name not in layers:
            raise ValueError(f"no gated layer is called {name!r}; there are {', '.join(layers)}")
    for value in {id(value): value for value in wanted.values()}.values():
        check_density(value)  # once: of a tensor on a GPU the values must be waited for
    for name, value in wanted.items():
        layers[name].take_density(value)
    return model


def saliency_penalty(model: nn.Module) -> Tensor:
    """The L1 term of the loss: sum over layers of the batch mean of ``||g||_1``, a scalar.

    Of the predicted saliency ``g`` of the last forward, before selection and normalising
    (the paper weighs it with 1e-8).

    Raises:
        ValueError: a gated layer has not run yet. TypeError: ``model`` is not a module.
    """
    layers = gated_layers(model)
    waiting = [name or "the model" for name, layer in layers.items() if layer.saliency is None]
    if waiting:
        raise ValueError(f"run the model on a batch first: {', '.join(waiting)} has no saliency")
    return sum(layer.saliency.abs().sum(dim=1).mean() for layer in layers.values())


@contextmanager
def at_density(model: nn.Module, density: float | Tensor) -> Iterator[None]:
    """Inside the ``with``, every gated layer has this density; after it, its own again."""
    before = {name: layer.density for name, layer in gated_layers(model).items()}
    try:
        set_density(model, density)
        yield
    finally:
        set_density(model, before)


@contextmanager
def forced_gates(model: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the ``with``, the named layers use these gates, ``[N, C]`` or ``[1, C]``.

    Bool tensors force the winners only: each image keeps its own values for them.
    """
    layers = gated_layers(model)
    try:
        for name, gate in gates.items():
            layers[name].forced = gate
        yield
    finally:
        for name in gates:
            layers[name].forced = None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the ``with``; after it the model is as it was before."""
    modes = {module: module.training for module in model.modules()}
    last = {m: (m.saliency, m.gate) for m in modes if isinstance(m, Gated)}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        restore_modes(modes)
        for gate, (saliency, pi) in last.items():
            gate.saliency, gate.gate = saliency, pi


def restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Give modules, parents first, the modes that they had.

    Those that do more in ``train`` than to set a flag are called: torchvision's feature extractors
    hold a graph for each mode.
    """
    for module, mode in modes.items():
        if type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes.items():
        module.training = mode
