"""Skipping on a GPU: a plain form in PyTorch, one fused Triton kernel, and CUDA graphs.

A GPU is slow to answer: asking it how many channels are empty would cost more than skipping those
saves. So nothing here looks at a value. All shapes follow from the densities alone, which is also
what a CUDA graph asks for.
"""

import os
from math import ceil, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.gated import Gated
from .compact import Compact, full
from .layers import SparseConv

try:
    import triton
    import triton.language as tl
except ImportError:  # there are no wheels for macOS and Windows
    triton = None

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run in numpy, on a CPU
KERNELS_AT_ONCE = 2**28  # weights that `TorchCudaConv` gathers at a time, 1 GiB of float32
PROGRAMS = 256  # that a launch of `TritonConv` should have, some two for each multiprocessor

# The least compute capability of a GPU for which Triton has instructions for these products, and
# numbers of no other dtype go into the kernel. On older ones it would make 16 bits out of float32,
# while PyTorch's convolutions use tensor cores for float16.
KERNEL_FROM = {torch.float32: (7, 5), torch.float16: (8, 0), torch.bfloat16: (8, 0)}


def cuda_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> SparseConv:
    """The backend ``"cuda"``: the Triton kernel where it can run, else the form in PyTorch."""
    dtype, gpu = conv.weight.dtype, capability(conv.weight)
    if gpu is None:  # the interpreter's products of bfloat16 are wrong
        runs = INTERPRETING and dtype in (torch.float32, torch.float16)
    else:
        runs = dtype in KERNEL_FROM and gpu >= KERNEL_FROM[dtype]
    if runs and triton is not None and conv.groups == 1:
        return TritonConv(conv, norm)
    plain = TorchCudaConv(conv, norm)
    if dtype == torch.bfloat16 and gpu is not None and gpu < (8, 0):
        plain.float()  # nor has cuDNN products of bfloat16 there; those of float32 are the same
    return plain


def capability(tensor: Tensor) -> tuple[int, int] | None:
    """The compute capability of the GPU that a tensor is on; None if it is on none."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else None


class TorchCudaConv(SparseConv):
    """Gathers the kernels of every image, then one convolution whose groups are the images.

    The plain form of `TritonConv`. It runs on any device, and multiplies in its weight's dtype.
    """

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        dtype = self.weight.dtype
        if self.groups > 1:
            y = self.convolve_groups(self.pad(x.dense()).to(dtype), winners)
        else:
            maps = self.pad(x.maps).to(dtype)
            n, width = maps.shape[:2]
            one = winners.shape[1] * width * prod(self.kernel_size)
            step = max(1, KERNELS_AT_ONCE // one)
            channels = [None] * n if x.channels is None else x.channels.split(step)
            parts = zip(maps.split(step), channels, winners.split(step), strict=False)
            y = [self.convolve(*part) for part in parts]
            y = torch.cat(y) if len(y) > 1 else y[0]
        y = y + self.bias[winners][:, :, None, None]  # from here on in float32 or finer
        if pi is not None:
            y = y.mul_(pi[:, :, None, None])
        y = (y.relu_() if relu else y).to(x.maps.dtype)
        return self.output(y, winners, relu)

    def convolve(self, maps: Tensor, channels: Tensor | None, winners: Tensor) -> Tensor:
        """``W x`` of the winners, ``[n, k, H', W']``, from maps ``[n, width, H, W]``."""
        n, width, height, columns = maps.shape
        if channels is None:
            kernels = self.weight[winners.flatten()]  # [n * k, C_in, k, k]
        else:  # row o * C_in + i is the kernel from input i to output o
            rows = winners[:, :, None] * self.in_channels + channels[:, None]  # [n, k, width]
            kernels = self.weight.flatten(0, 1)[rows.flatten()]
            kernels = kernels.view(-1, width, *self.kernel_size)  # [n * k, width, k, k]
        maps = maps.reshape(1, n * width, height, columns)
        y = F.conv2d(maps, kernels, None, self.stride, self.padding, self.dilation, groups=n)
        return y.view(n, -1, *y.shape[2:])

    def convolve_groups(self, x: Tensor, winners: Tensor) -> Tensor:
        """The same for a convolution with groups of its own, from all inputs.

        A depthwise one computes its winners alone. Of others it computes every channel, because
        the number of winners in a group differs from image to image.
        """
        arguments = (self.stride, self.padding, self.dilation)
        if self.in_channels > self.groups:
            return pick(F.conv2d(x, self.weight, None, *arguments, self.groups), winners)
        n, k = winners.shape
        inputs = pick(x, winners // (self.out_channels // self.groups))  # [n, k, H, W]
        kernels = self.weight[winners.flatten()]
        y = F.conv2d(inputs.flatten(0, 1)[None], kernels, None, *arguments, groups=n * k)
        return y.view(n, k, *y.shape[2:])


def pick(maps: Tensor, channels: Tensor) -> Tensor:
    """``[n, C, H, W], [n, k] -> [n, k, H, W]``: each image's own channels."""
    return maps.gather(1, channels[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


class TritonConv(SparseConv):
    """One fused kernel for gathering, convolution, shift, gate and ReLU; one group.

    In float32, float16 or bfloat16. Sums, shift and gate are in float32; only maps and weights are
    in 16 bits. Its maps are in channels_last memory: the inputs of a pixel lie side by side.

    Attributes:
        precision: of the products of float32 numbers; ``"ieee"``, or ``"tf32"``, which is faster
            and reads 10 bits behind the point of a factor.
        tile: how the work is divided; None for what `choose_tile` says.
    """

    precision = "ieee"
    tile: "Tile | None" = None

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        if conv.groups > 1:
            raise ValueError(f"TritonConv takes convolutions of one group, got {conv.groups}")
        super().__init__(conv, norm)
        self.weight = self.weight.flatten(2).permute(2, 1, 0).contiguous()  # [k * k, C_in, C_out]

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        if x.maps.dtype != self.weight.dtype or x.maps.dtype not in KERNEL_FROM:
            raise TypeError(
                f"TritonConv takes maps of its weight's dtype {self.weight.dtype}, not float64; "
                f"got {x.maps.dtype}"
            )
        maps = self.pad(x.maps).contiguous(memory_format=torch.channels_last)
        n, k = winners.shape
        if k == self.out_channels:  # all win, and winners come in ascending order
            winners = None
        size = (n, k, *self.output_size(maps))
        y = torch.empty(
            size, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last
        )
        self.launch(maps, x.channels, winners, pi, relu, y)
        return self.output(y, winners, relu)

    def launch(
        self,
        maps: Tensor,
        channels: Tensor | None,
        winners: Tensor | None,
        pi: Tensor | None,
        relu: bool,
        y: Tensor,
    ) -> None:
        """Write ``relu(pi * (W x + shift))`` into ``y``, ``[N, k, H', W']`` in channels_last."""
        n, k_in, height, width = maps.shape
        _, k_out, rows, columns = y.shape
        tile = self.tile or choose_tile(n, rows * columns, k_out, k_in, self.tensor_cores())
        programs = n * ceil(rows * columns / tile.pixels) * ceil(k_out / tile.outputs)
        with torch.cuda.device_of(maps):  # Triton launches on the current device
            sparse_conv_kernel[(programs,)](
                maps,
                maps if channels is None else channels.contiguous(),
                self.weight,
                self.bias,
                maps if winners is None else winners.contiguous(),
                maps if pi is None else pi.contiguous(),
                y,
                rows * columns,
                columns,
                height,
                width,
                k_in,
                k_out,
                self.in_channels,
                self.out_channels,
                *maps.stride(),
                *self.stride,
                *self.padding,
                *self.dilation,
                KERNEL_H=self.kernel_size[0],
                KERNEL_W=self.kernel_size[1],
                GATHER_INPUTS=channels is not None,
                GATHER_OUTPUTS=winners is not None,
                GATED=pi is not None,
                RELU=relu,
                PRECISION=self.precision,
                FLAT=tile.flat,
                BLOCK_M=tile.pixels,
                BLOCK_N=tile.outputs,
                BLOCK_K=tile.inputs,
                num_warps=tile.warps,
                num_stages=tile.stages if channels is not None else 3,
                enable_fp_fusion=True,
            )

    def allow_tf32(self, allow: bool) -> None:
        self.precision = "tf32" if allow else "ieee"

    def uncounted_macs(self, x: Compact, y: Compact) -> int:
        return x.maps.shape[1] * prod(self.kernel_size) * y.maps.numel()

    def tensor_cores(self) -> bool:
        """Whether the products are a tensor core's, and not those of plain float32 arithmetic."""
        return self.weight.dtype != torch.float32 or self.precision != "ieee"


class Tile(NamedTuple):
    """The part of an image's output that one program computes, and how it walks the inputs."""

    pixels: int
    outputs: int
    inputs: int  # input channels in one step
    flat: bool  # steps go over all pairs (tap, input), and not over the inputs of each tap
    warps: int
    stages: int  # steps under way at once, where a step waits for the index list first


def choose_tile(
    images: int, pixels: int, k_out: int, k_in: int, tensor_cores: bool = False
) -> Tile:
    """A tile for ``images`` products of ``[pixels, taps * k_in]`` and ``[taps * k_in, k_out]``.

    It depends on sizes only, so that a layer's kernel is compiled once and can be captured.
    """
    inputs = 32 if tensor_cores and k_in % 32 == 0 else 16
    flat = ceil(k_in / inputs) * inputs > 1.125 * k_in  # else every tap would end in a waste
    m, n = block(pixels), block(k_out)
    if flat and not tensor_cores:  # its bookkeeping would take registers from the sums
        n = min(n, 64)
    while images * ceil(pixels / m) * ceil(k_out / n) < PROGRAMS and max(m, n) > 32:
        m, n = (m // 2, n) if m >= n else (m, n // 2)
    largest = m * n == 128 * 128
    # Where it is flat, more threads share the work: fewer would keep some of it in memory.
    if tensor_cores:
        warps = 8 if largest or (flat and m * n >= 64 * 64) else 4
        return Tile(m, n, inputs, flat, warps, stages=5)
    # A thread sums 32 numbers, which lets two programs share a multiprocessor, or else 64.
    warps = m * n // (512 if flat else 1024)
    return Tile(m, n, inputs, flat, min(8, max(2, warps)), 5 if largest else 3)


def block(length: int) -> int:
    """16, 32, 64 or 128: what covers ``length`` with little over, large ones preferred.

    A block of ``b`` rows costs like ``b + 16``: what it reads does not grow with ``b`` alone.
    """
    return min((128, 64, 32, 16), key=lambda b: ceil(length / b) * (b + 16))


if triton is not None:

    @triton.jit
    def sparse_conv_kernel(
        x,  # [N, k_in, H, W]
        channels,  # [N, k_in] int64: which inputs x has; not read unless GATHER_INPUTS
        weight,  # [taps, in_channels, out_channels]
        shift,  # [out_channels], like pi in float32 also where maps and weights are not
        winners,  # [N, k_out] int64: the outputs to compute; not read unless GATHER_OUTPUTS
        pi,  # [N, k_out]; not read unless GATED
        y,  # [N, pixels, k_out]
        pixels,  # H' * W'
        columns,  # W'
        height,
        width,
        k_in,
        k_out,
        in_channels,
        out_channels,
        x_n,  # strides of x
        x_c,
        x_h,
        x_w,
        stride_h,
        stride_w,
        padding_h,
        padding_w,
        dilation_h,
        dilation_w,
        KERNEL_H: tl.constexpr,  # noqa: N803 (Triton's custom: capitals are known when compiling)
        KERNEL_W: tl.constexpr,  # noqa: N803
        GATHER_INPUTS: tl.constexpr,  # noqa: N803
        GATHER_OUTPUTS: tl.constexpr,  # noqa: N803
        GATED: tl.constexpr,  # noqa: N803
        RELU: tl.constexpr,  # noqa: N803
        PRECISION: tl.constexpr,  # noqa: N803
        FLAT: tl.constexpr,  # noqa: N803
        BLOCK_M: tl.constexpr,  # noqa: N803
        BLOCK_N: tl.constexpr,  # noqa: N803
        BLOCK_K: tl.constexpr,  # noqa: N803
    ):
        """One tile of one image's ``y = relu(pi * (W x + shift))``, an implicit matrix product.

        Rows are output pixels, columns winners; the sum goes over the kernel's taps and the inputs.
        """
        TAPS: tl.constexpr = KERNEL_H * KERNEL_W  # noqa: N806
        tiles_n = tl.cdiv(k_out, BLOCK_N)
        tiles = tl.cdiv(pixels, BLOCK_M) * tiles_n  # of one image, next to one another
        n = (tl.program_id(0) // tiles).to(tl.int64)  # a batch may have more than 2 ** 31 values
        tile = tl.program_id(0) % tiles
        m = tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
        j = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
        if GATHER_OUTPUTS:
            out = tl.load(winners + n * k_out + j, mask=j < k_out, other=0).to(tl.int32)
        else:
            out = j

        x += n * x_n
        channels += n * k_in
        top = m // columns * stride_h - padding_h  # of the window that a pixel is computed from
        left = m % columns * stride_w - padding_w
        steps = tl.cdiv(TAPS * k_in, BLOCK_K) if FLAT else TAPS * tl.cdiv(k_in, BLOCK_K)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            if FLAT:
                pair = step * BLOCK_K + tl.arange(0, BLOCK_K)
                tap = pair // k_in
                i = pair % k_in
                valid = tap < TAPS
            else:
                tap = tl.full((BLOCK_K,), step % TAPS, tl.int32)
                i = step // TAPS * BLOCK_K + tl.arange(0, BLOCK_K)
                valid = i < k_in
            row = top[:, None] + (tap // KERNEL_W * dilation_h)[None, :]
            column = left[:, None] + (tap % KERNEL_W * dilation_w)[None, :]
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            a = tl.load(
                x + (row * x_h + column * x_w + i[None, :] * x_c),
                mask=inside & (m < pixels)[:, None] & valid[None, :],
                other=0.0,
            )
            source = tl.load(channels + i, mask=valid, other=0).to(tl.int32) if GATHER_INPUTS else i
            b = tl.load(
                weight + ((tap * in_channels + source) * out_channels)[:, None] + out[None, :],
                mask=valid[:, None] & (j < k_out)[None, :],
                other=0.0,
            )
            total = tl.dot(a, b, total, input_precision=PRECISION)

        total += tl.load(shift + out, mask=j < k_out, other=0.0).to(tl.float32)[None, :]
        if GATED:
            gate = tl.load(pi + n * k_out + j, mask=j < k_out, other=0.0)
            total *= gate.to(tl.float32)[None, :]
        if RELU:
            total = tl.where(total < 0.0, 0.0, total)  # and NaN stays NaN
        tl.store(
            y + n * pixels * k_out + (m[:, None] * k_out + j[None, :]),
            total.to(y.dtype.element_ty),
            mask=(m < pixels)[:, None] & (j < k_out)[None, :],
        )


def graphed(model: nn.Module, images: Tensor) -> "Graphed":
    """``model`` as one CUDA graph: the same outputs, without the time to launch each kernel.

    Args:
        model: a network on a CUDA device whose operations do not depend on values, such as
            ``accelerate(model.cuda().eval())``.
        images: ``[N, C, H, W]`` on the same device, to record the graph with.

    Raises:
        ValueError: no CUDA device; a model in training mode; gates that are forced, or a tensor of
            densities, for which the shapes depend on values.
    """
    return Graphed(model).capture(images)


class Graphed(nn.Module):
    """A model that is recorded once and replayed; recorded anew for other shapes or densities."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.gates = [module for module in model.modules() if isinstance(module, Gated)]
        self.recorded: tuple | None = None  # what the graph is good for

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if self.conditions(images) != self.recorded:
            self.capture(images)
        self.load(images)
        self.replay()
        return self.outputs.clone()  # the next replay writes over the graph's own outputs

    def load(self, images: Tensor) -> None:
        """Put images of the recorded shape where the graph reads them."""
        self.images.copy_(images)

    def replay(self) -> None:
        """Compute ``outputs`` from the images that were loaded."""
        self.graph.replay()

    @torch.inference_mode(False)  # else nothing outside that mode could write to `images` later
    @torch.no_grad()
    def capture(self, images: Tensor) -> "Graphed":
        """Record the graph for images of this shape and the densities of now."""
        recorded = self.conditions(images)
        self.recorded = self.graph = self.outputs = None  # gives the last graph's memory back
        self.images = images.clone()
        with torch.cuda.device(images.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # kernels are compiled and libraries choose theirs
                    self.model(self.images)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = full(self.model(self.images))
        self.recorded = recorded
        return self

    def conditions(self, images: Tensor) -> tuple:
        """What the recorded kernels depend on; raise where that is values."""
        if not images.is_cuda:
            raise ValueError(f"a CUDA graph needs images on a CUDA device, got {images.device}")
        if self.model.training:
            raise ValueError("a CUDA graph is for inference only: call model.eval() first")
        if any(g.forced is not None or isinstance(g.density, Tensor) for g in self.gates):
            raise ValueError("a CUDA graph takes one density for all images and no forced gates")
        return images.shape, images.dtype, images.device, *(gate.density for gate in self.gates)
