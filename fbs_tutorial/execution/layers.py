"""What every way of executing a gated network has in common."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.gated import ChannelPruning, Gated, GatedConv2d
from ..method.saliency import channel_saliency, check_feature_maps
from ..method.wta import active_channels, rank_channels


@dataclass
class Compact:
    """Feature maps without the channels that were not computed, which are 0.

    Handed from layer to layer in place of ``[N, total, H, W]``, most of which would be zeros.
    """

    maps: Tensor  # [N, k, H, W]
    channels: Tensor | None  # [N, k] int64: which of the ``total`` channels they are; None: all
    total: int
    positive: bool = False  # True if no value is below 0
    sums: Tensor | None = None  # [N, parts, k]: of |maps| over parts of the pixels, if known

    def dense(self) -> Tensor:
        """``[N, total, H, W]``."""
        if self.channels is None:
            return self.maps
        n, k, height, width = self.maps.shape
        if self.maps.is_contiguous():
            full = self.maps.new_zeros(n, self.total, height, width)
            index = self.channels[:, :, None, None].expand_as(self.maps)
            return full.scatter_(1, index, self.maps)
        pixels = self.maps.permute(0, 2, 3, 1).reshape(n, -1, k)  # and stay in channels_last
        full = pixels.new_zeros(n, height * width, self.total)
        full.scatter_(2, self.channels[:, None].expand_as(pixels), pixels)
        return full.view(n, height, width, -1).permute(0, 3, 1, 2)

    def saliency(self, reduce: str = "l1") -> Tensor:
        """`channel_saliency` of the maps, ``[N, k]``, in float32 or finer."""
        dtype = float32_or_finer(self.maps.dtype)
        if self.positive and reduce in ("l1", "avg"):
            return self.maps.mean(dim=(2, 3), dtype=dtype)  # |x| would be a copy of all maps
        return channel_saliency(self.maps.to(dtype), reduce)

    def spread(self, s: Tensor) -> Tensor:
        """Values of the channels that are here, ``[N, k]``, among all: ``[N, total]``."""
        if self.channels is None:
            return s
        return s.new_zeros(len(s), self.total).scatter_(1, self.channels, s)


Maps = Tensor | Compact


def float32_or_finer(dtype: torch.dtype) -> torch.dtype:
    """What numbers stored as ``dtype`` are added and averaged in."""
    return torch.promote_types(dtype, torch.float32)


class SparseConv(nn.Module):
    """``W x + shift`` of one convolution, of which a part can be done: what a backend implements.

    In eval mode batch norm multiplies every channel by a constant and adds another. Both go into
    the kernel and the shift here, once. The kernel is then rounded to the convolution's dtype, the
    shift stays in float32 or finer.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        super().__init__()
        fine = float32_or_finer(conv.weight.dtype)
        weight = conv.weight.detach().to(fine)
        shift = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        if norm is not None:
            scale = (norm.running_var.to(fine) + norm.eps).rsqrt()
            weight, shift = weight * scale[:, None, None, None], -norm.running_mean * scale
        weight = weight.to(conv.weight.dtype)
        # [C_out, C_in / groups, k, k] and [C_out]
        self.register_buffer("weight", weight.clone(memory_format=torch.contiguous_format))
        self.register_buffer("shift", shift.to(fine, copy=True))
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.dilation, self.groups = conv.dilation, conv.groups
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        self.padding, self.extra_padding = (top, left), None
        if conv.padding_mode != "zeros" or (left, top) != (right, bottom):
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            self.padding, self.extra_padding = (0, 0), ((left, right, top, bottom), mode)

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        """``pi * (W x + shift)`` of the winners, with ``relu`` its positive part.

        Args:
            x: the inputs, ``[N, width, H, W]``.
            s: their measured saliency ``[N, width]``; an input of saliency 0 is empty.
            winners: the output channels to compute, ``[N, k]`` int64, ascending.
            pi: their gates ``[N, k]``; 1 when None.
        """
        raise NotImplementedError

    def select(self, gate: Gated, x: Compact) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``s`` ``[N, width]``, ``g`` ``[N, C_out]``, winners and their gates ``[N, k]``."""
        s = x.saliency(gate.reduce)
        g = gate.predict(x.spread(s))
        if gate.reduce != "l1":  # which can be 0 where a map is not empty
            s = x.saliency()
        return s, g, *choose(gate, g)

    def kernel_macs(self, x: Compact, y: Compact) -> int:
        """MACs from ``x`` to ``y`` in kernels of its own, which PyTorch's counter does not see."""
        return 0

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


ELEMENTWISE = (nn.ReLU, nn.ReLU6)  # activations that do not care which channels they are given

Backend = Callable[..., SparseConv]  # makes one from a convolution and its batch norm


class SparseGatedConv2d(Gated):
    """A `GatedConv2d` that computes its winners only, from the inputs that are not empty.

    Its density can be set like the layer's. With ``keep_compact`` it returns the winners' maps
    alone and not a tensor full of zeros.
    """

    def __init__(self, layer: GatedConv2d, backend: Backend, keep_compact: bool):
        super().__init__(layer.in_channels, layer.out_channels, layer.density, layer.reduce)
        # in float32 or finer, which `predict` would else make of it again at every call
        self.predictor = layer.predictor.to(float32_or_finer(layer.predictor.weight.dtype))
        self.conv = backend(layer.conv, layer.norm)
        self.conv.shift += layer.beta.detach()
        self.activation = layer.activation
        self.keep_compact = keep_compact
        self.eval()

    @property
    def gate(self) -> Tensor | None:
        """The gate ``[N, out_channels]`` of the last batch; None before a forward."""
        return None if self.saliency is None else self.select(self.saliency)

    @gate.setter
    def gate(self, gate: Tensor | None) -> None:
        """Nothing: the gate follows from the saliency."""

    def forward(self, x: Maps) -> Maps:
        x = check_input(self, x, self.in_channels)
        s, self.saliency, winners, pi = self.conv.select(self, x)
        y = self.conv(x, s, winners, pi, relu=self.activation is True)
        if type(self.activation) in ELEMENTWISE:
            y = Compact(self.activation(y.maps), y.channels, y.total, y.positive)
        elif isinstance(self.activation, nn.Module):
            y = Compact(self.activation(y.dense()), None, y.total)
        return y if self.keep_compact else y.dense()

    def predict(self, s: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(s.device.type):  # a context costs time
            return super().predict(s)
        with torch.autocast(s.device.type, enabled=False):
            return super().predict(s)


class SparseConv2d(nn.Module):
    """An ``nn.Conv2d`` without a gate of its own; it leaves out empty inputs.

    ``blocks``: the `ChannelPruning` block that is running, if this convolution can skip in it.
    """

    def __init__(self, conv: nn.Conv2d, backend: Backend, keep_compact: bool):
        super().__init__()
        self.conv = backend(conv)
        self.blocks: list[ChannelPruning] = []  # in a list, because it is not a part of this module
        self.keep_compact = keep_compact
        self.eval()

    def forward(self, input: Maps) -> Maps:
        x = check_input(self, input, self.conv.in_channels)
        s = x.saliency()
        if self.blocks:
            winners, _ = choose(self.blocks[0], self.blocks[0].saliency)
        else:
            winners = torch.arange(self.conv.out_channels, device=s.device).expand(len(s), -1)
        y = self.conv(x, s, winners)
        return y if self.keep_compact and not self.blocks else y.dense()

    def gate_by(self, block: ChannelPruning) -> None:
        """While ``block`` runs, compute only the channels that win its gate."""
        block.register_forward_pre_hook(self.begin)
        block.register_forward_hook(self.end, always_call=True)

    def begin(self, block: ChannelPruning, args: tuple) -> None:
        self.blocks.append(block)

    def end(self, block: ChannelPruning, args: tuple, output: Tensor) -> None:
        self.blocks.clear()


def accept_compact(module: nn.Module, keep_compact: bool) -> None:
    """Let a module that works channel by channel, and keeps 0 at 0, take maps in either form."""
    module.keep_compact = keep_compact
    module.register_forward_pre_hook(unwrap)
    module.register_forward_hook(wrap)


def unwrap(module: nn.Module, args: tuple[Maps]) -> tuple[Tensor] | None:
    (x,) = args
    if isinstance(x, Tensor):
        return None
    x.maps.left_out = x.channels, x.total, x.positive  # for `wrap`, which sees these maps again
    return (x.maps,)


def wrap(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Maps | None:
    left_out = vars(args[0]).pop("left_out", None)
    if left_out is None:
        return None
    y = Compact(output, *left_out)
    return y if module.keep_compact else y.dense()


def choose(gate: Gated, g: Tensor) -> tuple[Tensor, Tensor]:
    """The winners among saliencies ``g`` ``[N, C]``, and their gates: ``[N, k]``, ``[N, k]``.

    With one density an image, ``k`` is that of the densest; what an image then has too many has
    the gate 0. Winners are in the order of their index, so that memory is read in its order.
    """
    density = gate.density
    if isinstance(density, Tensor):
        density = density.double().max().item()
    k = active_channels(gate.out_channels, density)
    if gate.forced is not None or isinstance(gate.density, Tensor):
        g = gate.select(g)
    if gate.forced is not None:
        k = max(k, int((g != 0).sum(dim=1).max()))
    _, channels = rank_channels(g)
    winners, _ = channels[:, :k].sort(dim=1)
    return winners, g.gather(1, winners)


def check_input(module: nn.Module, x: Maps, channels: int) -> Compact:
    """``x`` as `Compact`; raise unless the module is in eval mode and ``x`` fits it."""
    if module.training:
        raise ValueError("an accelerated network is for inference only; call its eval()")
    if isinstance(x, Tensor):
        check_feature_maps(x, "x")
        x = Compact(x, None, x.shape[1])
    if x.total != channels:
        raise ValueError(f"x must have {channels} channels, got {x.total}")
    return x
