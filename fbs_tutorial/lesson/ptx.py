"""The kernel of notebook 09 with lists and without: its loads, and calls to be timed on a GPU.

What Triton makes of a kernel for an H100 can be read without one.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil

import torch
from torch import Tensor

TILE = {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32}
HOPPER = 90  # the H100's compute capability
ALIGNED = [["tt.divisibility", 16]]  # addresses and sizes are multiples of 16, as in large layers


def loads(kernel: Callable, types: Mapping[str, str], **constants: object) -> Counter[str]:
    """Instructions that load from memory in the compiled kernel, by kind and bytes, most first.

    Args:
        kernel: a Triton kernel, before ``triton.jit``.
        types: of its tensors, such as ``{"x": "*bf16"}``; all other arguments are 32-bit integers.
        constants: of the arguments that are ``constexpr``.
    """
    return counted(for_an_h100(kernel, types, **constants).asm["ptx"])


def shared_bytes(kernel: Callable, types: Mapping[str, str], **constants: object) -> int:
    """Memory beside the arithmetic in which a program of `loads` keeps what is under way."""
    return for_an_h100(kernel, types, **constants).metadata.shared


def for_an_h100(kernel: Callable, types: Mapping[str, str], **constants: object) -> object:
    """The compiled kernel of Triton; arguments as `loads` has them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    function = JITFunction(kernel)
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    hints = {(i,): ALIGNED for i, name in enumerate(names) if name not in constants}
    source = ASTSource(function, signature, constants, hints)
    options = {"num_warps": 4, "num_stages": 3}
    return triton.compile(source, GPUTarget("cuda", HOPPER, 32), options)


def counted(ptx: str) -> Counter[str]:
    """The loads in a program: ``cp.async`` goes on beside the arithmetic, ``ld`` waits for it."""
    found = Counter()
    for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, (0x\w+|\d+)[,;]", ptx):
        found[f"cp.async {int(size, 0)} B"] += 1
    for vector, bits in re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[bufs](\d+)\s", ptx):
        found[f"ld {int(vector or 1) * int(bits) // 8} B"] += 1
    return Counter(dict(found.most_common()))


def pair(
    kernel: object,
    dtype: torch.dtype,
    images: int = 128,
    channels: int = 128,
    side: int = 56,
    device: str = "cuda",
) -> dict[str, Callable[[], Tensor]]:
    """Calls of one layer at d = 0.5, with lists and without; shapes, tile and numbers are the same.

    Args:
        kernel: notebook 09's, after ``triton.jit``. dtype: of maps and weights.
        channels: in and out. side: of the square map.

    Returns:
        Functions without arguments, which return the sums ``[images, side * side, k]``.
    """
    pixels, k = side * side, channels // 2
    x = torch.randn(images, pixels, k, device=device).to(dtype)
    weight = torch.randn(9, channels, channels, device=device).to(dtype)
    random = (torch.rand(images, channels, device=device).argsort(1) for _ in range(2))
    live, winners = (order[:, :k].sort(1).values for order in random)
    y = torch.empty(images, pixels, k, device=device)
    grid = images, ceil(pixels / TILE["BLOCK_M"]), ceil(k / TILE["BLOCK_N"])

    def call(lists: bool) -> Tensor:
        sizes = side, side, k, k, channels, channels
        kernel[grid](x, live, weight, winners, y, *sizes, LISTS=lists, **TILE)
        return y

    return {"with lists": partial(call, True), "without lists": partial(call, False)}
