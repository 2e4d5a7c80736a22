"""The plain networks that the course prunes. They take images in [0, 1] and normalise inside."""

from collections import OrderedDict
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from .method.convert import exchange_chains
from .method.gated import ChannelPruning, check_sizes
from .method.wta import active_channels

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of red, green and blue


class Normalize(nn.Module):
    """Shift and scale images: ``(x - mean) / std``, one pair per channel or one for all."""

    def __init__(self, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.25,)):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def digitsnet(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Four convolutions for grey images, ``[N, 1, 16, 16] -> [N, num_classes]``.

    16, 32, 32 and 64 channels, 1.2 M MACs: small enough to train in a lesson. With ``width`` below
    1, in (0, 1], it has that share of the channels only, as many as win at this density.
    """
    return _chain(1, [(16, 1, 1), (32, 2, 1), (32, 1, 1), (64, 2, 1)], num_classes, width)


def widenet(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """A pool of channels for small grey images, ``[N, 1, H, W] -> [N, num_classes]``.

    Four convolutions of 32, 64, 64 and 128 channels, three of them with stride 2; 3.9 M MACs for
    28 x 28 pixels. ``width`` as in `digitsnet`.
    """
    return _chain(1, [(32, 2, 1), (64, 2, 1), (64, 1, 1), (128, 2, 1)], num_classes, width)


def mcifarnet(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """M-CifarNet, the paper's CIFAR-10 network, ``[N, 3, 32, 32] -> [N, num_classes]``.

    Eight convolutions of 64 to 192 channels, the first without padding; 174.3 M MACs. Shapes
    after the authors' release (github deep-fry/mayo, models/cifarnet.yaml) with PyTorch's
    symmetric padding at stride 2. ``width`` as in `digitsnet`.

    Raises TypeError or ValueError unless ``num_classes`` is an int of at least 2 and ``width`` a
    number in ``(0, 1]``.
    """
    blocks = [(64, 1, 0), (64, 1, 1), (128, 2, 1), (128, 1, 1), (128, 1, 1), (192, 2, 1)]
    blocks += [(192, 1, 1), (192, 1, 1)]
    return _chain(3, blocks, num_classes, width, eps=1e-3, dropout_after=(4, 7))


def vgg16_cifar(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """VGG-16 for CIFAR-10 with batch norm and one linear layer, ``[N, 3, 32, 32] -> [N, classes]``.

    Thirteen 3x3 convolutions of 64 to 512 channels, 313.2 M MACs: the network of "Pruning Filter
    in Filter" (NeurIPS 2020). ``width`` as in `digitsnet`.
    """
    channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    blocks = [(count, 1, 1) for count in channels]
    return _chain(3, blocks, num_classes, width, halve_after=(2, 4, 7, 10))


def resnet56(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """ResNet-56 for CIFAR-10, ``[N, 3, 32, 32] -> [N, num_classes]``; 125.7 M MACs.

    Three stages of nine blocks, of 16, 32 and 64 channels ("Deep Residual Learning", section 4.2),
    with 1x1 convolutions as shortcuts where the size changes. ``width`` as in `digitsnet`.
    """
    from torchvision.models.resnet import BasicBlock  # here: it takes a second to import

    check_arguments(num_classes, width)
    channels = active_channels(16, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    layers["conv1"] = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    layers["norm1"] = nn.BatchNorm2d(channels)
    layers["relu1"] = nn.ReLU(inplace=True)
    for stage, full in enumerate((16, 32, 64), start=1):
        before, channels, stride = channels, active_channels(full, width), 1 if stage == 1 else 2
        smaller = nn.Conv2d(before, channels, 1, stride, bias=False)
        shortcut = None if stage == 1 else nn.Sequential(smaller, nn.BatchNorm2d(channels))
        blocks = [BasicBlock(before, channels, stride, shortcut)]
        blocks += [BasicBlock(channels, channels) for _ in range(8)]
        layers[f"stage{stage}"] = nn.Sequential(*blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)


def _chain(
    in_channels: int,
    blocks: list[tuple[int, int, int]],
    num_classes: int,
    width: float,
    eps: float = 1e-5,
    dropout_after: tuple[int, ...] = (),
    halve_after: tuple[int, ...] = (),
) -> nn.Sequential:
    """3x3 convolutions of ``(channels, stride, padding)``, batch norm, ReLU; then one linear."""
    check_arguments(num_classes, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    for i, (channels, stride, padding) in enumerate(blocks, start=1):
        channels = active_channels(channels, width)
        layers[f"conv{i}"] = nn.Conv2d(in_channels, channels, 3, stride, padding, bias=False)
        layers[f"norm{i}"] = nn.BatchNorm2d(channels, eps=eps)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        if i in dropout_after:
            layers[f"dropout{i}"] = nn.Dropout(0.5)
        if i in halve_after:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        in_channels = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(in_channels, num_classes)
    return nn.Sequential(layers)


def torchvision_network(name: str, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """torchvision's network of this name, untrained: ``[N, 3, H, W] -> [N, num_classes]``.

    Made for 224 x 224 pixels; smaller images work from 32 x 32 on. Images of one channel are taken
    as grey ones, three equal channels. With ``width`` below 1 ResNet-18 and -34 have that share of
    the channels in every layer, as `digitsnet`, and MobileNetV2 is torchvision's own narrow form:
    multiples of 8 channels, and 1280 before the classifier.

    Raises TypeError or ValueError as `mcifarnet`, and ValueError for a ``width`` below 1 of one
    that has no narrow form here.
    """
    from torchvision.models import get_model  # here: it takes a second to import

    check_arguments(num_classes, width)
    if width == 1 or name in BASIC_RESNETS:
        network = get_model(name, num_classes=num_classes)
    elif name == "mobilenet_v2":
        network = get_model(name, num_classes=num_classes, width_mult=width)
    else:
        raise ValueError(f"width must be 1, as {name} has no narrow form here, got {width}")
    if width != 1 and name in BASIC_RESNETS:
        _narrow_resnet(network, width)
    return nn.Sequential(OrderedDict(normalize=Normalize(*IMAGENET), network=network))


def _narrow_resnet(network: nn.Module, width: float) -> None:
    """Give a ResNet of basic blocks new layers with ``width`` of the channels, begun as its own."""
    from torchvision.models.resnet import BasicBlock

    counts = [active_channels(full, width) for full in (64, 128, 256, 512)]
    network.inplanes = counts[0]
    network.conv1 = nn.Conv2d(3, counts[0], 7, 2, 3, bias=False)
    network.bn1 = nn.BatchNorm2d(counts[0])
    for stage, count in enumerate(counts, start=1):
        blocks, stride = len(getattr(network, f"layer{stage}")), 1 if stage == 1 else 2
        setattr(network, f"layer{stage}", network._make_layer(BasicBlock, count, blocks, stride))
    network.fc = nn.Linear(counts[-1], network.fc.out_features)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def check_arguments(num_classes: int, width: float) -> None:
    """Raise unless ``num_classes`` is an int of at least 2 and ``width`` a number in (0, 1]."""
    check_sizes(smallest=2, num_classes=num_classes)
    if not isinstance(width, Real) or isinstance(width, bool):
        raise TypeError(f"width must be a number in (0, 1], got {width!r}")
    if not 0 < width <= 1:
        raise ValueError(f"width must be a number in (0, 1], got {width}")


def wrap(model: nn.Module, density: float | Tensor = 1.0, *, normalize: bool = True) -> nn.Module:
    """A copy of ``model`` in which every Conv2d directly followed by a BatchNorm2d is in a block.

    The block is ``ChannelPruning(conv, norm)``, or ``ChannelPruning(conv, norm, act)`` where a
    ReLU or ReLU6 reads nothing else. It takes the convolution's name (``conv1.weight`` becomes
    ``conv1.block.0.weight``) and Identities the other names; weights, statistics and modes stay.

    The predictors are new: their biases are 1, their weights are not 0. So even at density 1 gates
    are near 1 and not 1, with or without ``normalize``, and the network wants training before its
    outputs are those of ``model`` again. `convert` is the form that starts equal.

    Args:
        model: a network, looked at as by `convert`; it is not changed.
        density, normalize: as in `ChannelPruning`.

    Raises:
        TypeError: ``model`` is not a module; bad density or ``normalize``. ValueError: bad density,
            a model that cannot be traced, or one with nothing to gate.
    """

    def block(*chain: nn.Module | None) -> ChannelPruning:
        conv, norm, _ = chain
        layers = [layer for layer in chain if layer is not None]
        made = ChannelPruning(*layers, density=density, normalize=normalize)
        made.predictor.to(conv.weight)  # its dtype and device
        return made.train(norm.training)

    return exchange_chains(model, block, "wrap")[0]


BASIC_RESNETS = ("resnet18", "resnet34")
TORCHVISION = (*BASIC_RESNETS, "resnet50", "vgg11_bn", "vgg16_bn", "mobilenet_v2")
TORCHVISION += ("shufflenet_v2_x1_0",)
MODELS = {"digitsnet": digitsnet, "widenet": widenet, "mcifarnet": mcifarnet}
MODELS |= {"vgg16_cifar": vgg16_cifar, "resnet56": resnet56}
MODELS |= {name: partial(torchvision_network, name) for name in TORCHVISION}
