"""What is timed: networks, and single layers inside a chain, with random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.wta import active_channels
from ..models import mcifarnet

QUICK_SIZE = 2**16  # numbers in one image, at most, of what a quick benchmark measures


@dataclass(frozen=True)
class Case:
    """A network to measure, or the layer ``part`` inside one.

    ``make(width)`` gives the plain network with that share of its channels, in (0, 1].
    """

    name: str
    make: Callable[[float], nn.Module]
    shape: tuple[int, int, int]  # C, H, W of an image
    batches: dict[str, tuple[int, ...]]  # for each device
    part: str = ""


def vgg16(width: float = 1.0) -> nn.Sequential:
    """The convolutions of torchvision's VGG-16 with batch norm, ``[N, 3, H, W]``."""
    from torchvision.models.vgg import cfgs, make_layers

    blocks = [c if c == "M" else active_channels(c, width) for c in cfgs["D"]]
    return make_layers(blocks, batch_norm=True)


def resnet18(width: float = 1.0) -> nn.Module:
    """torchvision's ResNet-18, narrow only between the two convolutions of each block."""
    from torchvision.models import resnet
    from torchvision.models.resnet import BasicBlock

    model = resnet.resnet18(weights=None)
    for block in model.modules():
        if isinstance(block, BasicBlock):
            first, second = block.conv1, block.conv2
            k = active_channels(first.out_channels, width)
            block.conv1 = nn.Conv2d(first.in_channels, k, 3, first.stride, 1, bias=False)
            block.bn1 = nn.BatchNorm2d(k)
            block.conv2 = nn.Conv2d(k, second.out_channels, 3, padding=1, bias=False)
    return model


def three_layers(channels: int, width: float = 1.0) -> nn.Sequential:
    """A layer (``"1"``) between its neighbours: 3x3 convolution, batch norm, ReLU each."""
    k, blocks = active_channels(channels, width), []
    for c_in in (channels, k, k):
        conv = nn.Conv2d(c_in, k, 3, padding=1, bias=False)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(k), nn.ReLU(inplace=True)))
    return nn.Sequential(*blocks)


NETWORKS = {
    case.name: case
    for case in (
        Case("mcifarnet", partial(mcifarnet, 10), (3, 32, 32), {"cpu": (1, 32), "cuda": (1, 256)}),
        Case("resnet18", resnet18, (3, 224, 224), {"cpu": (1,), "cuda": (64,)}),
        Case("vgg16", vgg16, (3, 224, 224), {"cpu": (1,), "cuda": (1, 32)}),
    )
}
LAYERS = [
    Case(
        f"{channels} ch, {size}x{size}",
        partial(three_layers, channels),
        (channels, size, size),
        {"cpu": (1,), "cuda": (128,)},
        part="1",
    )
    for channels, size in (
        (64, 112), (128, 56), (256, 28), (512, 14), (512, 7), (64, 32), (128, 16), (192, 8)
    )
]  # fmt: skip


def choose(models: Sequence[str] | None, layers: bool, quick: bool) -> list[Case]:
    """The cases to measure, the most useful ones first: networks, then layers.

    Quick leaves out large maps, unless a network is asked for by name.

    Raises:
        ValueError: a name that is not in `NETWORKS`.
    """
    for name in models or ():
        if name not in NETWORKS:
            raise ValueError(f"model must be one of {', '.join(NETWORKS)}, got {name!r}")
    everything = not models and not layers
    chosen = [NETWORKS[name] for name in (NETWORKS if everything else models or ())]
    chosen += LAYERS if everything or layers else []
    if quick:
        chosen = [c for c in chosen if c.name in (models or ()) or prod(c.shape) <= QUICK_SIZE]
    return chosen


def smooth_images(n: int, shape: tuple[int, int, int], device: str = "cpu") -> Tensor:
    """Random images in [0, 1] whose neighbouring pixels are alike, ``[n, C, H, W]``."""
    channels, height, width = shape
    coarse = torch.rand(n, channels, max(2, height // 8), max(2, width // 8)).to(device)
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)


def fit_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """Set the statistics of every batch norm to those of ``images``; returns it in eval mode."""
    model.eval().requires_grad_(False)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # then the statistics are a mean over batches, here of one
            norm.train()
    with torch.no_grad():
        model(images)
    return model.eval()
