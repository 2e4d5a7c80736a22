"""Feature maps of some channels that stand in for a tensor of all of them."""

import copy

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from ..method.saliency import channel_saliency

aten = torch.ops.aten

RELUS = {  # what they return is not negative
    *(aten.relu.default, aten.relu_.default, aten.relu6.default, aten.relu6_.default),
    *(aten.hardtanh.default, aten.hardtanh_.default),
}
# Operations that compute an output channel from the input channel of the same index, and 0 from 0.
# Those without a kernel of their own, such as `max_pool2d`, arrive in inference mode only.
CHANNELWISE = RELUS | {
    *(aten.silu.default, aten.silu_.default, aten.gelu.default),
    *(aten.hardswish.default, aten.hardswish_.default),
    *(aten.max_pool2d.default, aten.max_pool2d_with_indices.default),
    *(aten.adaptive_max_pool2d.default, aten.avg_pool2d.default),
    *(aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default),
}
DROPOUTS = {aten.dropout.default, aten.feature_dropout.default}


class Compact(Tensor):
    """Feature maps ``[N, C, H, W]`` of which ``k`` channels are stored; the others are 0.

    Layers of an accelerated network hand it on in place of a tensor full of zeros. To everybody
    else it is that tensor: ReLU and pooling work on the stored channels, and any other operation
    gets the full maps, which are made at that moment and kept in the place of the compact ones.

    Args:
        maps: ``[N, k, H, W]``.
        channels: ``[N, k]`` int64, which of the ``total`` channels they are; None: all.
        total: the number of channels, ``C``.
        nonnegative: True if no value is below 0.
        empty: ``[1, 1, H, W]``, what a channel that is not stored holds; zeros when None.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # it would only cost time

    @staticmethod
    def __new__(
        cls,
        maps: Tensor,
        channels: Tensor | None,
        total: int,
        nonnegative: bool = False,
        empty: Tensor | None = None,
    ) -> "Compact":
        n, _, height, width = maps.shape
        if channels is None:
            strides = maps.stride()
        elif maps.is_contiguous():
            strides = (total * height * width, height * width, width, 1)
        else:
            strides = (total * height * width, 1, total * width, total)
        self = Tensor._make_wrapper_subclass(
            cls, (n, total, height, width), strides, dtype=maps.dtype, device=maps.device
        )
        self.maps, self.channels, self.nonnegative, self.empty = maps, channels, nonnegative, empty
        return self

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        x = args[0]
        known = isinstance(x, Compact) and (x.channels is not None or x.nonnegative)
        if known and is_channelwise(operation, args):
            return x.on_maps(operation, args[1:], kwargs)
        result = operation(*full(args), **full(kwargs))
        if torch.Tag.inplace_view in operation.tags:  # as `squeeze_`; this object's own shape too
            with no_dispatch():
                operation(*args, **kwargs)
        return result

    def on_maps(self, operation, args: tuple, kwargs: dict) -> "Compact | tuple[Compact, Compact]":
        """The result of an operation that `is_channelwise`, computed of the stored channels."""
        y = operation(self.maps, *args, **kwargs)
        nonnegative = self.nonnegative or operation in RELUS
        if y is self.maps:  # in place
            self.nonnegative = nonnegative
            return self
        rest = self.channels, self.shape[1]
        if isinstance(y, Tensor):
            return Compact(y, *rest, nonnegative)
        values, indices = y  # those of a maximum in an empty map are not 0
        empty = self.maps.new_zeros(1, 1, *self.maps.shape[2:])
        _, empty = operation(empty, *args, **kwargs)
        return Compact(values, *rest, nonnegative), Compact(indices, *rest, empty=empty)

    def dense(self) -> Tensor:
        """All channels as an ordinary tensor, ``[N, C, H, W]``; this object stays as it is."""
        if self.channels is None:
            return self.maps
        n, k, height, width = self.maps.shape
        maps = self.maps if self.empty is None else self.maps - self.empty
        if self.maps.is_contiguous():
            index = self.channels[:, :, None, None].expand_as(maps)
            y = maps.new_zeros(self.shape).scatter_(1, index, maps)
        else:
            pixels = maps.permute(0, 2, 3, 1).reshape(n, -1, k)  # and stay in channels_last
            y = pixels.new_zeros(n, height * width, self.shape[1])
            y.scatter_(2, self.channels[:, None].expand_as(pixels), pixels)
            y = y.view(n, height, width, -1).permute(0, 3, 1, 2)
        return y if self.empty is None else y + self.empty

    def fill_in(self) -> Tensor:
        """`dense`, which is from now on all there is: whoever has it may write to it."""
        self.maps, self.channels, self.nonnegative = self.dense(), None, False
        return self.maps

    def saliency(self, reduce: str = "l1") -> Tensor:
        """`channel_saliency` of the stored channels, ``[N, k]``, in float32 or finer."""
        dtype = float32_or_finer(self.maps.dtype)
        if self.nonnegative and reduce in ("l1", "avg"):
            return self.maps.mean(dim=(2, 3), dtype=dtype)  # |x| would be a copy of all maps
        return channel_saliency(self.maps.to(dtype), reduce)

    def among_all(self, values: Tensor) -> Tensor:
        """One number per stored channel, ``[N, k]``, among zeros for the others: ``[N, C]``."""
        if self.channels is None:
            return values
        return values.new_zeros(self.shape[:2]).scatter_(1, self.channels, values)

    def __deepcopy__(self, memo: dict) -> "Compact":
        maps, channels = copy.deepcopy(self.maps, memo), copy.deepcopy(self.channels, memo)
        return Compact(maps, channels, self.shape[1], self.nonnegative, self.empty)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.fill_in().__reduce_ex__(protocol)


def _of_the_full_maps(name: str):
    def method(self: Compact, *args, **kwargs):
        return getattr(self.fill_in(), name)(*args, **kwargs)

    return method


# Methods that read a tensor's memory without an operation.
for _name in ("numpy", "tolist", "data_ptr", "untyped_storage", "__array__", "__dlpack__"):
    setattr(Compact, _name, _of_the_full_maps(_name))
Compact.__repr__ = _of_the_full_maps("__repr__")


def is_channelwise(operation, args: tuple) -> bool:
    """True if an operation with these arguments turns every channel into one, and 0 into 0."""
    if operation in (aten.hardtanh.default, aten.hardtanh_.default):
        return args[1:3] == (0, 6)
    if operation is aten.mean.dim:  # which is adaptive pooling to one pixel
        return len(args) == 3 and sorted(i % 4 for i in args[1]) == [2, 3] and args[2]
    if operation in DROPOUTS:  # in eval mode, where they do nothing
        return not args[2]
    return operation in CHANNELWISE


def full(values: object) -> object:
    """A tensor or a nested structure of such, with ordinary tensors in the place of `Compact`."""
    return tree_map_only(Compact, Compact.fill_in, values)


def float32_or_finer(dtype: torch.dtype) -> torch.dtype:
    """What numbers stored as ``dtype`` are added and averaged in."""
    return torch.promote_types(dtype, torch.float32)
