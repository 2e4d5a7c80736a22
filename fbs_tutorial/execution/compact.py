"""Feature maps of some channels that stand in for a tensor of all of them."""

import copy
import weakref
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


PLAIN_RELUS = (aten.relu.default, aten.relu_.default)
# Operations that compute an output channel from the input channel of the same index, and 0 from 0,
# and the arguments with which they do. Those that PyTorch is made of others, such as `max_pool2d`,
# are met in inference mode only.
RELUS = {
    **dict.fromkeys(PLAIN_RELUS, always),
    **dict.fromkeys((aten.relu6.default, aten.relu6_.default), always),
    **dict.fromkeys((aten.hardtanh.default, aten.hardtanh_.default), from_0_to_6),
}
ELEMENTWISE = {
    **RELUS,
    **dict.fromkeys((aten.silu.default, aten.silu_.default, aten.gelu.default), always),
    **dict.fromkeys((aten.hardswish.default, aten.hardswish_.default), always),
}
ON_MAPS = {
    **ELEMENTWISE,
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


def _settled(name: str) -> property:
    slot = getattr(Compact, name)

    def get(self: "LazySum"):
        self.settle()
        return slot.__get__(self)

    return property(get, slot.__set__)


class LazySum(Compact):
    """Compact maps to which others can be added later.

    Full maps that are added in place, as in a residual block, are not added at once: most often a
    ReLU follows, and then one pass fills in, adds, cuts off and measures. Whoever reads before that
    gets the sum.
    """

    __slots__ = ("addend", "lent", "reader")
    maps, channels, nonnegative = map(_settled, ("maps", "channels", "nonnegative"))

    def set_up(self) -> None:
        """What every new one starts with."""
        self.addend = None  # what is still to be added
        self.lent = False  # whether somebody else may write to the maps
        self.reader = None  # refers to the sum whose addend this is

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        x = args[0]
        if isinstance(x, LazySum) and not kwargs:
            if operation is aten.add_.Tensor and x.waits_for(args[1]):
                return x
            if operation in PLAIN_RELUS and x.addend is not None:
                return x.settle(relu=True) if operation is PLAIN_RELUS[1] else x.sum_of(relu=True)
        return super().__torch_dispatch__(operation, types, args, kwargs)

    def can_add(self, other: Compact) -> bool:
        """Whether `sum_of` can add ``other``, of the same type, shape and dtype."""
        return True

    def sum_with(self, other: "LazySum", relu: bool) -> "LazySum":
        """``self + other``, with ``relu`` its positive part, in one pass."""
        raise NotImplementedError

    def become(self, y: "LazySum") -> None:
        """Take over what ``y`` holds."""
        raise NotImplementedError

    def waits_for(self, other: object) -> bool:
        """Whether ``other`` will be added, later: nobody else can write to it in the meantime."""
        self.settle()
        self.settle_reader()
        if type(other) is not type(self) or other is self or other.shape != self.shape:
            return False
        other.settle()
        if other.lent or self.lent or other.dtype != self.dtype or not self.can_add(other):
            return False
        other.settle_reader()
        self.addend, other.reader = other, weakref.ref(self)
        return True

    def settle(self, relu: bool = False) -> "LazySum":
        """Add what is still to be added."""
        if self.addend is not None:
            y = self.sum_of(relu)
            self.addend = None
            self.become(y)
        return self

    def settle_reader(self) -> None:
        """Let the sum be made that these maps are to be part of, before they change."""
        reader = self.reader and self.reader()
        if reader is not None and reader.addend is self:
            reader.settle()
        self.reader = None

    def sum_of(self, relu: bool) -> "LazySum":
        addend, self.addend = self.addend, None
        try:
            return self.sum_with(addend, relu)
        finally:
            self.addend = addend

    def fill_in(self) -> Tensor:
        self.settle_reader()
        maps = super().fill_in()
        self.lent = True
        return maps


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
