"""Every matrix product and convolution that runs, so that a count overlooks none.

`count_macs` counts convolutions and linear layers from their weights. This file sees the rest:
transposed and other convolutions, attention, recurrent layers, and products that a model's own code
computes, each when PyTorch's dispatcher comes to it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .gated import Gated
from .graph import is_counted

aten = torch.ops.aten


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """``[N, heads, L, E]``, ``[N, heads, S, E]``, ``[N, heads, S, E_v]``: two products."""
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(x: Tensor, weights: Sequence[Tensor]) -> int:
    """``[T, N, C]``: each step of each image multiplies every matrix once."""
    return x[..., 0].numel() * sum(w.numel() for w in weights if w.ndim == 2)


def _bilinear(factors: Sequence[Tensor], new_axes: Sequence[Sequence[int]]) -> int:
    """``nn.Bilinear``: one product for each entry of the three factors' common shape."""
    shapes = []
    for factor, axes in zip(factors, new_axes, strict=True):
        for axis in axes:
            factor = factor.unsqueeze(axis)
        shapes.append(factor.shape)
    return prod(torch.broadcast_shapes(*shapes))


# The MACs of an operation from its arguments, where PyTorch's own registry has none.
MACS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, *_, **__: matrix.numel(),
    aten.addmv: lambda _, matrix, *__, **___: matrix.numel(),
    aten.dot: lambda left, *_, **__: left.numel(),
    aten.vdot: lambda left, *_, **__: left.numel(),
    aten._trilinear: lambda a, b, c, *axes, **_: _bilinear((a, b, c), axes[:3]),
    aten.mkldnn_rnn_layer: lambda x, *rest, **_: _recurrent(x, rest[:2]),
    aten._cudnn_rnn: lambda x, weights, *_, **__: _recurrent(x, weights),
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: _attention(q, k, v),
}
# What multiplies too, and is only named: operations of PyTorch, and all of other libraries.
UNKNOWN = {
    aten._cdist_forward, aten._euclidean_dist, aten._fft_r2c, aten._fft_c2c, aten._fft_c2r,
    aten._int_mm, aten._weight_int4pack_mm, aten._weight_int8pack_mm, aten._sparse_addmm,
    aten._native_multi_head_attention, aten._transformer_encoder_layer_fwd, aten.miopen_rnn,
}  # fmt: skip
KNOWN_SPACES = ("aten", "prim", "prims", "profiler", "inductor")


class Products(TorchDispatchMode):
    """Notes what multiplies while a model runs, by the module whose own code does it.

    Attributes:
        outside: MACs of what is outside of the layers that are counted from their weights.
        inside: MACs within each call of such a layer since it began.
        unknown: operations that multiply in a way that no formula tells, and where.
    """

    supports_higher_order_operators = True

    def __init__(self, names: dict[nn.Module, str]):
        super().__init__()
        self.names, self.running = names, []
        self.outside: Counter[str] = Counter()
        self.inside: Counter[nn.Module] = Counter()
        self.unknown: dict[str, None] = {}  # in order

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operation = getattr(function, "overloadpacket", function)
        if isinstance(function, OpOverload) and not _is_known(operation):
            with self:  # what it is made of is seen then
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        if operation in MACS:
            self._add(MACS[operation](*args, **kwargs))
        elif operation in flop_registry:
            self._add(flop_registry[operation](*args, **kwargs, out_val=result) // 2)
        elif operation in UNKNOWN or _space(function) not in KNOWN_SPACES:
            self.unknown[f"{operation} in {self._place()}"] = None
        return result

    def _add(self, macs: int) -> None:
        counted = [module for module in self.running if is_counted(module)]
        if counted:
            self.inside[counted[-1]] += macs
        elif not (self.running and isinstance(self.running[-1], Gated)):  # that is its predictor
            self.outside[self._place()] += macs

    def _place(self) -> str:
        return (self.names[self.running[-1]] if self.running else "") or "the model itself"

    @contextmanager
    def inside_of(self, module: nn.Module) -> Iterator[None]:
        """What runs in the ``with`` is the work of ``module``."""
        self.running.append(module)
        try:
            yield
        finally:
            self.running.pop()

    def enter(self, module: nn.Module, *call: Any) -> None:
        """For `register_forward_pre_hook`."""
        self.running.append(module)
        self.inside[module] = 0

    def leave(self, module: nn.Module, *call: Any) -> None:
        """For `register_forward_hook`, also after an error."""
        if module in self.running:
            del self.running[len(self.running) - 1 - self.running[::-1].index(module) :]


def _is_known(operation: Any) -> bool:
    return operation in MACS or operation in flop_registry or operation in UNKNOWN


def _space(function: Any) -> str:
    return getattr(function, "namespace", "higher order")


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Transformers without their fused way of eval mode, of which the dispatcher sees nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
