"""Feature maps of some channels that stand in for a tensor of all of them."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from ..method.saliency import reduce_channels

aten = torch.ops.aten


def always(args: tuple) -> bool:
    return True


def from_0_to_6(args: tuple) -> bool:
    return args[1:3] == (0, 6)


def over_pixels(args: tuple) -> bool:
    return len(args) == 3 and sorted(i % 4 for i in args[1]) == [2, 3] and args[2]


def in_eval_mode(args: tuple) -> bool:
    return not args[2]


# Operations that compute an output channel from the input channel of the same index, and 0 from 0,
# and the arguments with which they do. Those that PyTorch is made of others, such as `max_pool2d`,
# are met in inference mode only.
RELUS = {
    **dict.fromkeys((aten.relu.default, aten.relu_.default), always),
    **dict.fromkeys((aten.relu6.default, aten.relu6_.default), always),
    **dict.fromkeys((aten.hardtanh.default, aten.hardtanh_.default), from_0_to_6),
}
ON_MAPS = {
    **RELUS,
    **dict.fromkeys((aten.silu.default, aten.silu_.default, aten.gelu.default), always),
    **dict.fromkeys((aten.hardswish.default, aten.hardswish_.default), always),
    **dict.fromkeys((aten.max_pool2d.default, aten.max_pool2d_with_indices.default), always),
    **dict.fromkeys((aten.avg_pool2d.default, aten.adaptive_max_pool2d.default), always),
    aten.adaptive_avg_pool2d.default: always,
    aten._adaptive_avg_pool2d.default: always,
    aten.mean.dim: over_pixels,  # adaptive pooling to one pixel
    aten.dropout.default: in_eval_mode,
    aten.feature_dropout.default: in_eval_mode,
}


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
        empty: makes ``[1, 1, H, W]``, what a channel that is not stored holds; None: zeros.
    """

    __slots__ = ("channels", "empty", "maps", "nonnegative")
    __torch_function__ = torch._C._disabled_torch_function_impl  # it would only cost time

    @staticmethod
    def __new__(
        cls,
        maps: Tensor,
        channels: Tensor | None,
        total: int,
        nonnegative: bool = False,
        empty: Callable[[], Tensor] | None = None,
    ) -> "Compact":
        n, _, height, width = maps.shape
        strides = maps.stride() if channels is None else None
        if channels is not None and not maps.is_contiguous():  # as `dense` has them
            strides = (total * height * width, 1, total * width, total)
        self = Tensor._make_wrapper_subclass(
            cls, (n, total, height, width), strides, dtype=maps.dtype, device=maps.device
        )
        self.maps, self.channels, self.nonnegative, self.empty = maps, channels, nonnegative, empty
        return self

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        applies, x = ON_MAPS.get(operation), args[0]
        if applies and applies(args) and (x.channels is not None or x.nonnegative):
            return x.on_maps(operation, args[1:], kwargs)
        result = operation(*map(full, args), **{name: full(x) for name, x in kwargs.items()})
        if torch.Tag.inplace_view in operation.tags:  # as `squeeze_`; this object's own shape too
            with no_dispatch():
                operation(*args, **kwargs)
        return result

    def on_maps(
        self, operation: Callable, args: tuple, kwargs: dict
    ) -> "Compact | tuple[Compact, Compact]":
        """The result of one of `ON_MAPS`, computed from the stored channels."""
        y = operation(self.maps, *args, **kwargs)
        nonnegative = self.nonnegative or operation in RELUS
        if y is self.maps:  # in place
            self.nonnegative = nonnegative
            return self
        rest = self.channels, self.shape[1]
        if isinstance(y, Tensor):
            if y.shape[2:].numel() == 1:  # which costs more to keep apart than to fill in
                return self.among_all(y.flatten(1)).unflatten(1, (-1, 1, 1))
            return Compact(y, *rest, nonnegative)
        values, indices = y

        def in_an_empty_map() -> Tensor:  # where the maximum is
            return operation(indices.new_zeros(1, 1, *size, dtype=y[0].dtype), *args, **kwargs)[1]

        size = self.shape[2:]
        return Compact(values, *rest, nonnegative), Compact(indices, *rest, empty=in_an_empty_map)

    def dense(self) -> Tensor:
        """All channels as an ordinary tensor, ``[N, C, H, W]``; this object stays as it is."""
        if self.channels is None:
            return self.maps
        n, k, height, width = self.maps.shape
        empty = self.empty and self.empty()
        maps = self.maps if empty is None else self.maps - empty
        if self.maps.is_contiguous():
            index = self.channels[:, :, None, None].expand_as(maps)
            y = maps.new_zeros(self.shape).scatter_(1, index, maps)
        else:
            pixels = maps.permute(0, 2, 3, 1).reshape(n, -1, k)  # and stay in channels_last
            y = pixels.new_zeros(n, height * width, self.shape[1])
            y.scatter_(2, self.channels[:, None].expand_as(pixels), pixels)
            y = y.view(n, height, width, -1).permute(0, 3, 1, 2)
        return y if empty is None else y + empty

    def fill_in(self) -> Tensor:
        """`dense`, which is from now on all there is: whoever has it may write to it."""
        self.maps, self.channels, self.nonnegative = self.dense(), None, False
        return self.maps

    def saliency(self, reduce: str = "l1") -> Tensor:
        """`channel_saliency` of the stored channels, ``[N, k]``, in float32 or finer."""
        dtype = float32_or_finer(self.maps.dtype)
        if self.nonnegative and reduce in ("l1", "avg"):
            return self.maps.mean(dim=(2, 3), dtype=dtype)  # |x| would be a copy of all maps
        return reduce_channels(self.maps.to(dtype), reduce)

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


def full(value: object) -> object:
    """A tensor, or nested containers of such, with ordinary tensors in the place of `Compact`."""
    if isinstance(value, Compact):
        return value.fill_in()
    if isinstance(value, Tensor) or not isinstance(value, (tuple, list, dict)):
        return value
    return tree_map_only(Compact, Compact.fill_in, value)


def float32_or_finer(dtype: torch.dtype) -> torch.dtype:
    """What numbers stored as ``dtype`` are added and averaged in."""
    return torch.promote_types(dtype, torch.float32)
