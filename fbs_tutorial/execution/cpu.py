"""Skipping on a CPU: gather the kernels of the live pairs, then one ordinary convolution."""

import threading
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compact import Compact
from .layers import SparseConv

# Where one way becomes faster than another: measured on two cores with AVX-512, 3x3 kernels.
CHANNELS_LAST_FROM = 24 * 24  # pixels of one image
ONE_BY_ONE_FROM = 48 * 48  # pixels from which on the images of a batch are better off alone
KERNELS_AT_ONCE = 1_500_000  # weights of a batch gathered at a time: what the caches hold
TWO_HALVES_FROM = 16_384  # pairs of an input and a winner, see `CpuConv.run`
SMALL_INPUT = 20_480  # values of one image up to which PyTorch takes another routine


class Workspace(threading.local):
    """Memory of a thread, that all layers gather their kernels into, one after the other.

    A fresh block of some megabytes a layer would cost more than skipping saves: the system hands
    such blocks out in pages that are only made when they are first written to.
    """

    def __init__(self):
        self.memory: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape; its contents are undefined, and lost at the next call."""
        size, memory = prod(shape), self.memory.get(name)
        if memory is None or memory.numel() < size or memory.dtype != like.dtype:
            memory = self.memory[name] = None  # the old block goes before the new one is made
            with torch.inference_mode(False):  # so that it serves in any mode later
                memory = self.memory[name] = torch.empty(size, dtype=like.dtype)
        return memory[:size].view(shape)


WORKSPACE = Workspace()


class CpuConv(SparseConv):
    """Computes the winners from the live inputs in a few calls of PyTorch.

    All images have as many winners, so a batch is one convolution whose groups are the images.
    """

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        everything = x.channels is None and winners.shape[1] == self.out_channels
        if everything and live_places(s) is None:  # nothing to skip, so nothing to gather
            y = self.run(self.pad(x.maps), self.weight, self.bias, self.groups)
        elif self.groups > 1:
            y = self.convolve_groups(self.pad(x.dense()), x.among_all(s), winners)
        elif len(s) == 1:
            y = self.convolve(self.pad(x.maps), x.channels, s, winners)
        else:
            y = self.convolve_batch(self.pad(x.maps), x.channels, s, winners)
        if pi is not None:
            y.mul_(pi.view(*pi.shape, 1, 1))
        return self.output(y.relu_() if relu else y, winners, relu)

    def convolve_batch(
        self, maps: Tensor, channels: Tensor | None, s: Tensor, winners: Tensor
    ) -> Tensor:
        """As `convolve`, as many images at a time as is fast."""
        n, width, height, columns = maps.shape
        step = max(1, KERNELS_AT_ONCE // (winners.shape[1] * width * prod(self.kernel_size)))
        if height * columns >= ONE_BY_ONE_FROM:
            step = 1
        channels = [None] * n if channels is None else channels.split(step)
        parts = zip(maps.split(step), channels, s.split(step), winners.split(step), strict=False)
        y = [self.convolve(*part) for part in parts]
        return torch.cat(y) if len(y) > 1 else y[0]

    def convolve(self, maps: Tensor, channels: Tensor | None, s: Tensor, winners: Tensor) -> Tensor:
        """``W x + bias`` of the winners of some images, ``[n, k, H', W']``.

        ``maps`` ``[n, width, H, W]`` are the inputs ``channels`` ``[n, width]``; None: all.
        """
        live = live_places(s)
        if live is not None:
            if live.shape[1] == 0:  # F.conv2d of no input channels is not 0
                bias = self.bias[winners][:, :, None, None]
                return bias.expand(*winners.shape, *self.output_size(maps)).contiguous()
            maps = pick(maps, live)
            channels = live if channels is None else channels.gather(1, live)
        n, _, height, width = maps.shape
        kernels = self.gather_kernels(winners, channels)
        bias = self.bias.index_select(0, winners.flatten())
        if n > 1:
            maps = maps.reshape(1, -1, height, width)
        y = self.run(maps, kernels, bias, groups=n)
        return y if n == 1 else y.view(n, -1, *y.shape[2:])

    def run(self, maps: Tensor, kernels: Tensor, bias: Tensor, groups: int) -> Tensor:
        """``F.conv2d`` in the layout and by the routine that is fastest."""
        if groups == 1 == len(maps):
            _, _, height, width = maps.shape
            if height * width >= CHANNELS_LAST_FROM:
                maps = maps.contiguous(memory_format=torch.channels_last)
            else:
                maps = maps.contiguous()
                pairs = kernels.shape[0] * kernels.shape[1]
                slow = maps.numel() <= SMALL_INPUT and pairs >= TWO_HALVES_FROM
                if slow and len(kernels) % 2 == 0:
                    # The routine for small inputs is slow for many kernels, and is not taken if
                    # there are groups. Two halves of the winners, each with the inputs to itself,
                    # are the same convolution.
                    maps, groups = maps.expand(2, -1, -1, -1).reshape(1, -1, height, width), 2
        return F.conv2d(maps, kernels, bias, self.stride, self.padding, self.dilation, groups)

    def gather_kernels(self, winners: Tensor, channels: Tensor | None) -> Tensor:
        """The kernels from these inputs to the winners, ``[n * k, inputs, k, k]``."""
        if channels is None:
            table, rows = self.weight.reshape(self.out_channels, -1), winners.flatten()
        else:  # row o * C_in + i is the kernel from input i to output o: one gather, not two
            table = self.weight.reshape(-1, prod(self.kernel_size))
            rows = torch.add(channels.unsqueeze(1), winners.unsqueeze(2), alpha=self.in_channels)
            rows = rows.flatten()
        kernels = WORKSPACE.take("kernels", (len(rows), table.shape[1]), table)
        torch.index_select(table, 0, rows, out=kernels)
        return kernels.view(winners.numel(), -1, *self.kernel_size)

    def convolve_groups(self, x: Tensor, s: Tensor, winners: Tensor) -> Tensor:
        """The same for a convolution with groups of its own, image by image; all inputs given."""
        y = self.bias[winners][:, :, None, None].repeat(1, 1, *self.output_size(x))
        inputs_per_group = self.in_channels // self.groups
        group_of = winners // (self.out_channels // self.groups)  # [N, k]
        arguments = (None, self.stride, self.padding, self.dilation)
        for n in range(len(x)):
            live = s[n].view(self.groups, inputs_per_group) != 0
            if inputs_per_group == 1:  # depthwise: one call for all groups that have a winner
                places = live[group_of[n], 0].nonzero()[:, 0]
                if len(places):
                    maps = x[n, group_of[n, places]][None]
                    kernels = self.weight[winners[n, places]]
                    y[n, places] += F.conv2d(maps, kernels, *arguments, groups=len(places))[0]
                continue
            for group in group_of[n].unique().tolist():
                places = (group_of[n] == group).nonzero()[:, 0]
                inputs = live[group].nonzero()[:, 0]
                if len(inputs):
                    maps = x[n, group * inputs_per_group + inputs][None]
                    kernels = self.weight[winners[n, places]][:, inputs]
                    y[n, places] += F.conv2d(maps, kernels, *arguments)[0]
        return y


def live_places(s: Tensor) -> Tensor | None:
    """Where saliencies ``[n, width]`` are not 0, ``[n, live]``; None if that is everywhere.

    In a batch, every image gets as many places as the one with the most, empty ones at the end.
    """
    if len(s) == 1:
        places = s[0].nonzero()
        return None if len(places) == s.shape[1] else places.view(1, -1)
    empty = s == 0
    fewest = int(empty.sum(dim=1).min())
    if fewest == 0:
        return None
    return empty.to(torch.uint8).argsort(dim=1, stable=True)[:, : s.shape[1] - fewest]


def pick(maps: Tensor, places: Tensor) -> Tensor:
    """``[n, width, H, W] -> [n, live, H, W]``: each image's own channels."""
    n, width, *size = maps.shape
    if n == 1 and maps.is_contiguous():
        return maps.index_select(1, places[0])
    if n == 1:  # in channels_last; a plain index_select would leave that layout
        pixels = maps.permute(0, 2, 3, 1).reshape(-1, width)
        pixels = pixels.gather(1, places.expand(len(pixels), -1))
        return pixels.view(1, *size, -1).permute(0, 3, 1, 2)
    return maps.gather(1, places[:, :, None, None].expand(-1, -1, *size))


class SparseLinear(nn.Module):
    """An ``nn.Linear`` that reads only the columns of inputs that are not 0.

    A batch reads the columns that some image of it needs.
    """

    COLUMNS = 256  # gathered at a time, so that they stay in the cache until they are used

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.register_buffer(
            "columns", linear.weight.detach().t().clone(memory_format=torch.contiguous_format)
        )
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:
        """As ``nn.Linear`` has it, ``[out_features, in_features]``."""
        return self.columns.t()

    def forward(self, input: Tensor) -> Tensor:
        in_features, out_features = self.columns.shape
        if input.shape[-1] != in_features:
            raise ValueError(f"x must have {in_features} features, got {input.shape[-1]}")
        x = input.reshape(-1, in_features)
        live = (x[0] if len(x) == 1 else (x != 0).any(dim=0)).nonzero()[:, 0]
        if len(live) == in_features:
            return F.linear(input, self.weight, self.bias)
        y = x.new_zeros(()) if self.bias is None else self.bias
        y = y.expand(len(x), out_features)
        for part in live.split(self.COLUMNS):
            columns = WORKSPACE.take("columns", (len(part), out_features), self.columns)
            torch.index_select(self.columns, 0, part, out=columns)
            y = torch.addmm(y, x.index_select(1, part), columns)
        return y.reshape(*input.shape[:-1], -1)
