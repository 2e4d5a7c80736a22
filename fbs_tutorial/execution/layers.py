"""What every way of executing a gated network has in common."""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..method.gated import ChannelPruning, Gated, GatedConv2d, check_dtype, nearest
from ..method.saliency import check_feature_maps
from ..method.wta import active_channels, strongest_channels
from .compact import Compact, float32_or_finer


class SparseConv(nn.Module):
    """``W x + bias`` of one convolution, of which a part can be done: what a backend implements.

    In eval mode batch norm multiplies every channel by a constant and adds another. Both go into
    the kernel and the bias here, once. The kernel is then rounded to the convolution's dtype, the
    bias stays in float32 or finer.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        super().__init__()
        fine = float32_or_finer(conv.weight.dtype)
        weight = conv.weight.detach().to(fine)
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        if norm is not None:
            scale = (norm.running_var.to(fine) + norm.eps).rsqrt()
            weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale
        weight = weight.to(conv.weight.dtype)
        self.dtype = conv.weight.dtype  # of the maps, also where a backend multiplies in another
        # [C_out, C_in / groups, k, k] and [C_out]
        self.register_buffer("weight", weight.clone(memory_format=torch.contiguous_format))
        self.register_buffer("bias", bias.to(fine, copy=True))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = _pair(conv.kernel_size), _pair(conv.stride)
        self.dilation, self.groups = _pair(conv.dilation), conv.groups
        (left, right, top, bottom), mode = padding_of(conv)
        self.padding, self.extra_padding = (top, left), None
        if mode != "constant" or (left, top) != (right, bottom):
            self.padding, self.extra_padding = (0, 0), ((left, right, top, bottom), mode)

    reads_saliency = True  # whether `forward` looks at `s`

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        """``pi * (W x + bias)`` of the winners, with ``relu`` its positive part.

        Args:
            x: the inputs, ``[N, C_in, H, W]``, of which ``width`` are stored.
            s: the measured saliency of those, ``[N, width]``; an input of saliency 0 is empty.
            winners: the output channels to compute, ``[N, k]`` int64, ascending.
            pi: their gates ``[N, k]``; 1 when None.
        """
        raise NotImplementedError

    def execute(self, layer: "SparseGatedConv2d", x: Compact) -> tuple[Tensor, Compact]:
        """All that a gated layer does: its saliencies ``g`` ``[N, C_out]``, and its output."""
        s, g, winners, pi = self.select(layer, x)
        if layer.ratio is not None:
            pi = pi * (layer.ratio if winners is None else layer.ratio[winners])
        y = self(x, s, winners, pi, relu=layer.activation is True)
        return g, layer.activation(y) if isinstance(layer.activation, nn.Module) else y

    def select(self, gate: Gated, x: Compact) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Measure, predict, choose: ``s`` ``[N, width]``, saliencies ``g`` ``[N, C_out]``, the
        winners and their gates, ``[N, k]`` each."""
        s = x.saliency(gate.reduce)
        g = gate.predict(x.among_all(s))
        if gate.reduce != "l1":  # which can be 0 where a map is not empty
            s = x.saliency()
        return s, g, *winners_and_gates(gate, g)

    def output(self, y: Tensor, winners: Tensor, relu: bool) -> Compact:
        """What `forward` returns: maps ``[N, k, H', W']`` of the winners among all outputs."""
        everything = y.shape[1] == self.out_channels  # and winners come in ascending order
        return Compact(y, None if everything else winners, self.out_channels, nonnegative=relu)

    def pad(self, maps: Tensor) -> Tensor:
        """Do the padding that ``F.conv2d`` cannot: uneven, or not with zeros."""
        return F.pad(maps, *self.extra_padding) if self.extra_padding else maps

    def output_size(self, maps: Tensor) -> tuple[int, int]:
        """Rows and columns of the output (the formula of ``nn.Conv2d``'s documentation)."""
        shapes = (maps.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride)
        size = tuple(
            (n + 2 * p - d * (k - 1) - 1) // step + 1
            for n, p, d, k, step in zip(*shapes, strict=True)
        )
        if min(size) < 1:
            raise ValueError(
                f"maps of {list(maps.shape[2:])} with padding {self.padding} are smaller than the "
                f"kernel {self.kernel_size}"
            )
        return size

    def adopt(self, predictor: nn.Linear) -> None:
        """Arrange the weights of a predictor as `execute` wants them."""

    def uncounted_macs(self, x: Compact, y: Compact) -> int:
        """MACs of ``forward(x, …) = y`` that PyTorch's ``FlopCounterMode`` does not see."""
        return 0


def padding_of(conv: nn.Conv2d) -> tuple[tuple[int, ...], str]:
    """What the convolution pads when it runs, as `F.pad` takes it: left, right, top, bottom."""
    if conv.padding_mode != "zeros":  # which is set once, when the convolution is made
        return tuple(conv._reversed_padding_repeated_twice), conv.padding_mode
    if conv.padding == "valid":
        return (0, 0, 0, 0), "constant"
    if conv.padding == "same":  # what the kernel takes off, the odd pixel at the end
        sizes = zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True)
        rows, columns = (d * (k - 1) for d, k in sizes)
        half = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
        return half, "constant"
    rows, columns = _pair(conv.padding)
    return (columns, columns, rows, rows), "constant"


winners_of = lru_cache(maxsize=4096)(active_channels)  # which checks its arguments every time
Backend = Callable[..., SparseConv]  # makes one from a convolution and its batch norm


class SparseGatedConv2d(Gated):
    """A `GatedConv2d` that computes its winners only, from the inputs that are not empty.

    Its density can be set like the layer's. It returns a `Compact` tensor.
    """

    def __init__(self, layer: GatedConv2d, backend: Backend):
        super().__init__(layer.in_channels, layer.out_channels, layer.density, layer.reduce)
        # in float32 or finer, which `predict` would else make of it again at every call
        self.predictor = layer.predictor.to(float32_or_finer(layer.predictor.weight.dtype))
        self.conv = backend(layer.conv, layer.norm)
        self.conv.bias += layer.beta.detach()
        self.activation = layer.activation
        self.conv.adopt(self.predictor)
        self.ratio: Tensor | None = None  # [C_out], see `hold_statistics`
        if layer.stored_densities is not None:
            self.hold_statistics(layer)
        self.eval()

    def hold_statistics(self, layer: GatedConv2d) -> None:
        """Take over the statistics of `calibrate`.

        The kernel is scaled for one density. For another its outputs are ``ratio`` times as large,
        which the gates make up for, and the bias is divided by it.
        """
        fine, eps = self.conv.bias.dtype, layer.norm.eps
        own = (layer.norm.running_var.to(fine) + eps).rsqrt()
        ratios = (layer.stored_vars.to(fine) + eps).rsqrt() / own  # [D, C_out]
        biases = layer.beta.detach() / ratios - layer.stored_means.to(fine) * own
        self.register_buffer("stored_densities", layer.stored_densities)
        self.register_buffer("stored_ratios", ratios)
        self.register_buffer("stored_biases", biases)
        self.take_density(self.density)

    def take_density(self, density: float | Tensor) -> None:
        """Set a density that has been checked, and what the stored statistics make of it."""
        if getattr(self, "stored_densities", None) is not None:
            if isinstance(density, Tensor):
                raise ValueError(
                    "density must be one number for all images, as this accelerated network has "
                    f"statistics of its own per density, got a tensor {list(density.shape)}"
                )
            (row,) = nearest(self.stored_densities, density)
            self.ratio = self.stored_ratios[row]
            self.conv.bias.copy_(self.stored_biases[row])
        super().take_density(density)

    @property
    def gate(self) -> Tensor | None:
        """The gate ``[N, out_channels]`` of the last batch; None before a forward."""
        return None if self.saliency is None else self.select(self.saliency)

    @gate.setter
    def gate(self, gate: Tensor | None) -> None:
        """Nothing: the gate follows from the saliency."""

    def forward(self, input: Tensor) -> Tensor:
        x = check_input(self, input, self.in_channels)
        # past setattr, which would look for parameters
        self.__dict__["saliency"], y = self.conv.execute(self, x)
        return y

    def predict(self, s: Tensor) -> Tensor:
        linear = self.predictor
        if torch.is_autocast_enabled(s.device.type):  # a context costs time
            with torch.autocast(s.device.type, enabled=False):
                return super().predict(s)
        if linear.weight.dtype != s.dtype:
            return super().predict(s)
        return F.linear(s, linear.weight, linear.bias).relu_()


class SparseConv2d(nn.Module):
    """An ``nn.Conv2d`` without a gate of its own; it leaves out empty inputs.

    Attributes:
        winners: the output channels to compute, ``[N, k]`` int64, ascending; None: all.
    """

    def __init__(self, conv: nn.Conv2d, backend: Backend):
        super().__init__()
        self.conv = backend(conv)
        self.winners: Tensor | None = None
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        x = check_input(self, input, self.conv.in_channels)
        s, winners = x.saliency() if self.conv.reads_saliency else None, self.winners
        if winners is None:
            winners = torch.arange(self.conv.out_channels, device=x.device).expand(len(x), -1)
        return self.conv(x, s, winners)


class SparseChannelPruning(ChannelPruning):
    """A `ChannelPruning` block whose last convolution computes only the channels that win.

    It has the parts of ``block`` and not copies of them; ``conv`` is the convolution among them.
    """

    def __init__(self, block: ChannelPruning, conv: SparseConv2d):
        Gated.__init__(self, block.in_channels, block.out_channels, block.density, block.reduce)
        self.predictor, self.block, self.normalize = block.predictor, block.block, block.normalize
        self.skipped = (conv,)  # in a tuple, because it has its place in the block already
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        pi = self.predict_gate(input)  # [N, C_out]
        pi = self.gate = self.scale_to_mean_1(pi) if self.normalize else pi
        (conv,) = self.skipped
        conv.winners, _ = winners_and_gates(self, self.saliency)  # [N, k]
        try:
            y = self.block(input)  # [N, C_out, H', W']
        finally:
            conv.winners = None
        return pi.to(y.dtype)[:, :, None, None] * y


def winners_and_gates(layer: Gated, g: Tensor) -> tuple[Tensor, Tensor]:
    """The winners of a layer among saliencies ``g`` ``[N, C]``, and their gates: ``[N, k]`` each.

    With one density per image, ``k`` is that of the densest; what an image then has too many has
    the gate 0. Winners are in the order of their index, so that memory is read in its order.
    """
    density = layer.density
    if isinstance(density, Tensor):
        density = density.double().max().item()
    k = winners_of(layer.out_channels, density)
    if layer.forced is not None or isinstance(layer.density, Tensor):
        g = layer.select(g)
    if layer.forced is not None:
        k = max(k, int((g != 0).sum(dim=1).max()))
    winners, _ = strongest_channels(g, k).sort(dim=1)
    return winners, g.gather(1, winners)


def check_input(layer: nn.Module, x: Tensor, channels: int) -> Compact:
    """``x`` as `Compact`; raise unless the layer is in eval mode and ``x`` fits it."""
    if layer.training:
        raise ValueError("an accelerated network is for inference only; call its eval()")
    if not isinstance(x, Compact):
        check_feature_maps(x, "x")
        if x.dtype not in (layer.conv.weight.dtype, layer.conv.dtype):
            check_dtype(x, layer.conv.weight)
        x = Compact(x.detach() if x.requires_grad else x, None, x.shape[1])
    if x.shape[1] != channels:
        raise ValueError(f"x must have {channels} channels, got {x.shape[1]}")
    return x
