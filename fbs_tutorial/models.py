"""The plain networks that the course prunes. They take images in [0, 1] and normalise inside."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .wta import active_channels


class Normalize(nn.Module):
    """Shift and scale images: ``(x - mean) / std``, one pair a channel or one for all."""

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


def mcifarnet(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """M-CifarNet, the paper's CIFAR-10 network, ``[N, 3, 32, 32] -> [N, num_classes]``.

    Eight convolutions of 64 to 192 channels, the first without padding; 174.3 M MACs. Shapes
    after the authors' release (github deep-fry/mayo, models/cifarnet.yaml) with PyTorch's
    symmetric padding at stride 2. ``width`` as in `digitsnet`.
    """
    blocks = [(64, 1, 0), (64, 1, 1), (128, 2, 1), (128, 1, 1), (128, 1, 1), (192, 2, 1)]
    blocks += [(192, 1, 1), (192, 1, 1)]
    return _chain(3, blocks, num_classes, width, eps=1e-3, dropout_after=(4, 7))


def _chain(
    in_channels: int,
    blocks: list[tuple[int, int, int]],
    num_classes: int,
    width: float,
    eps: float = 1e-5,
    dropout_after: tuple[int, ...] = (),
) -> nn.Sequential:
    """3x3 convolutions of ``(channels, stride, padding)``, batch norm, ReLU; then one linear."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool):
        raise TypeError(f"num_classes must be an int >= 2, got {num_classes!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be an int >= 2, got {num_classes}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    for i, (channels, stride, padding) in enumerate(blocks, start=1):
        channels = active_channels(channels, width)
        layers[f"conv{i}"] = nn.Conv2d(in_channels, channels, 3, stride, padding, bias=False)
        layers[f"norm{i}"] = nn.BatchNorm2d(channels, eps=eps)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        if i in dropout_after:
            layers[f"dropout{i}"] = nn.Dropout(0.5)
        in_channels = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(in_channels, num_classes)
    return nn.Sequential(layers)


MODELS = {"digitsnet": digitsnet, "mcifarnet": mcifarnet}
