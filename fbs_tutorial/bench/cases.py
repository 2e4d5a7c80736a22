"""What is timed: networks and single layers with random weights, and networks from files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import build
from ..data import load_data
from ..method.wta import active_channels
from ..models import TORCHVISION, digitsnet, mcifarnet
from ..training.settings import RunError, Settings, usual_recipe

IMAGES = 128  # of a data set, at most, that are timed
QUICK_SIZE = 2**16  # numbers in one image, at most, of what a quick benchmark measures


@dataclass(frozen=True)
class Case:
    """A network to measure, or the layer ``part`` inside one.

    ``make(width)`` gives the plain network with that share of its channels, in (0, 1]. With
    ``network``, plain or gated, that one is measured, where others have random weights.
    """

    name: str
    make: Callable[[float], nn.Module]
    shape: tuple[int, int, int]  # C, H, W of an image
    batches: dict[str, tuple[int, ...]]  # for each device where it is measured
    part: str = ""
    network: nn.Module | None = None
    images: Tensor | None = None  # [M, C, H, W] that it reads in turn; None: random ones
    narrow: bool = True  # whether make takes widths below 1

    def inputs(self, batch: int, count: int, device: str) -> list[Tensor]:
        """``count`` batches ``[batch, C, H, W]`` to measure with."""
        if self.images is None:
            return [smooth_images(batch, self.shape, device) for _ in range(count)]
        turns = torch.arange(count * batch).remainder(len(self.images)).split(batch)
        return [self.images[chosen].to(device) for chosen in turns]


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


def from_torchvision(name: str, width: float = 1.0) -> nn.Module:
    """A network of torchvision, always as wide as it is."""
    from torchvision import models

    return getattr(models, name)(weights=None)


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
        Case("digitsnet", partial(digitsnet, 10), (1, 16, 16), {"cpu": (1,)}),
        Case("resnet18", resnet18, (3, 224, 224), {"cpu": (1,), "cuda": (64,)}),
        Case("vgg16", vgg16, (3, 224, 224), {"cpu": (1,), "cuda": (1, 32)}),
        *(
            Case(name, partial(from_torchvision, name), (3, 224, 224), {"cpu": (1,)}, narrow=False)
            for name in ("resnet50", "mobilenet_v2")
        ),
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


def from_file(
    path: Path, network: nn.Module, header: Mapping[str, str], images: Tensor | None = None
) -> Case:
    """The case of a network that is there, called by its folder and file.

    Args:
        header: of its file, see `load_weights`. images: that it reads; random ones when None.
    """
    model, classes, own = header["model"], int(header["num_classes"]), float(header["width"])
    structure = json.loads(header.get("structure", "{}")) | {"gates": {}, "blocks": {}}
    static = structure.pop("static", {})
    static.pop("masks", None)  # zeros take as long as other weights
    narrow = model not in TORCHVISION and not static

    def make(width: float) -> nn.Module:
        return build(model, classes, own * width, structure | {"static": static})

    path, shape = Path(path).absolute(), usual_shape(model)
    shape = shape if images is None else tuple(images.shape[1:])
    large = prod(shape) > QUICK_SIZE
    batches = {"cpu": (1,), "cuda": (64,)} if large else {"cpu": (1, 32), "cuda": (1, 256)}
    name = f"{path.parent.name}/{path.stem}"
    return Case(name, make, shape, batches, network=network, images=images, narrow=narrow)


def usual_shape(model: str) -> tuple[int, int, int]:
    """C, H, W of the images that a key of ``MODELS`` is made for."""
    if model == "digitsnet":
        return (1, 16, 16)
    return (3, 224, 224) if model in TORCHVISION else (3, 32, 32)


def settings_of(
    header: Mapping[str, str], data: str | None = None, size: int | None = None
) -> Settings:
    """What a run would know of a network and its data; what is not given is read off the header.

    Raises:
        RunError: no data given, and none in the header; a name or a size that does not fit.
    """
    data = header.get("data") if data is None else data
    if data is None:
        raise RunError("{data} must be given: the weights do not tell what they were trained on")
    if size is None and "size" in header and usual_recipe(data).size is not None:
        size = int(header["size"])
    return Settings(data, model=header["model"], size=size, seed=int(header.get("seed", 0)))


def trained_density(header: Mapping[str, str]) -> float | None:
    """The density that a gated network was trained at, None if it was at any, or does not tell."""
    try:
        return float(header["density"]) if header["gated"] == "True" else None
    except (KeyError, ValueError):
        return None


def test_images(settings: Settings) -> Tensor:
    """Some images of the test part, evenly spread over it, ``[M, C, H, W]``."""
    test = load_data(settings.data, size=settings.recipe.size)[1]
    chosen = torch.linspace(0, len(test) - 1, min(IMAGES, len(test))).round().int().tolist()
    return torch.stack([test[i][0] for i in chosen])


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
