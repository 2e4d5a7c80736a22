"""What the browser needs of a digits network: weights, sample images, what was measured of it."""

import base64
import copy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...checkpoints import ASSETS, load_pretrained
from ...data import as_tensors, load_data
from ...method.dynamics import how_dynamic
from ...method.gated import GatedConv2d, evaluating, gated_layers, nearest, set_density
from ...method.wta import winner_mask
from ...models import Normalize
from ..plots import style

MEASURED = ASSETS / "digits" / "live.safetensors"  # made by tools/ship_live.py
DENSITIES = [round(0.05 * i, 2) for i in range(1, 21)]
CONTROLS = ("own", "shuffled", "mean")  # of `how_dynamic`: the curves under the density slider
COLOURS = {
    "blue": style.BLUE, "orange": style.ORANGE, "green": style.GREEN, "purple": style.PURPLE,
    "grey": style.GREY, "darkGrey": style.DARK_GREY, "black": style.BLACK,
    "pale": style.PALE, "faint": style.FAINT, "text": style.TEXT, "line": style.LINE,
    "panel": style.PANEL, "white": style.WHITE,
}  # fmt: skip
PER_DIGIT = 3  # sample images of each class, from the test images


def payload(
    network: nn.Module | None = None, *, python: bool = False, per_digit: int = PER_DIGIT
) -> dict:
    """All that ``engine.js`` and the drawing read, as JSON can hold it.

    Args:
        network: of the form of the any-density digits network, which is taken when None. Of
            another one the accuracies are measured now, which takes some seconds.
        python: whether Python will compute; then the weights stay there.
        per_digit: how many sample images of each class.

    Raises:
        TypeError, ValueError: a network of another form.
    """
    shipped = network is None
    network = load_pretrained("digits") if shipped else copy.deepcopy(network).cpu()
    layers = check_form(network, python=python)
    measured = load_file(MEASURED) if shipped else measure(network)
    tensors = {} if python else network_tensors(network)
    return basis(network, layers, tensors | {"mean_gates": measured["mean_gates"]}, per_digit) | {
        "densities": DENSITIES,
        "accuracy": {
            name: [round(value, 4) for value in measured[name].tolist()] for name in CONTROLS
        },
        "tested": len(load_data("digits")[1]),
    }


def basis(
    network: nn.Module, layers: dict[str, GatedConv2d], tensors: dict[str, Tensor], per_digit: int
) -> dict:
    """What the payload of every picture has: shapes, tensors, sample images, colours."""
    flat = [tensor.detach().float().flatten() for tensor in tensors.values()]
    ends = torch.tensor([0, *(len(part) for part in flat)]).cumsum(0).tolist()
    images, labels = samples(per_digit)
    return {
        "layers": [
            _shape(*layer, size) for layer, size in zip(layers.items(), SIZES, strict=False)
        ],
        "index": {
            name: [start, len(part)] for name, start, part in zip(tensors, ends, flat, strict=False)
        },
        "tensors": _base64(torch.cat([torch.zeros(0), *flat])),
        "normalize": {"mean": network.normalize.mean.item(), "std": network.normalize.std.item()},
        "classes": network.classifier.out_features,
        "samples": _base64(images),
        "labels": labels.tolist(),
        "colours": COLOURS,
    }


def _base64(tensor: Tensor) -> str:
    return base64.b64encode(tensor.numpy().tobytes()).decode()


def mean_gates_at(data: dict, density: dict[str, float]) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean gate of the training images, and who wins with it, for each layer ``[C_out]``.

    Of the stored density that is nearest to the layer's own; `meanGates` of ``engine.js``.
    """
    start, length = data["index"]["mean_gates"]
    floats = np.frombuffer(base64.b64decode(data["tensors"]), dtype=np.float32)
    rows = torch.tensor(floats[start : start + length]).view(len(DENSITIES), -1)
    parts = rows.split([layer["outputs"] for layer in data["layers"]], dim=1)
    gates = {}
    for (name, d), part in zip(density.items(), parts, strict=True):
        row = part[nearest(torch.tensor(DENSITIES), d)]  # [1, C_out]
        won = winner_mask(row, d)
        gates[name] = torch.where(won, row, 0.0)[0], won[0]
    return gates


SIZES = ((16, 16), (16, 8), (8, 8), (8, 4))  # of the input and output maps of each layer


def check_form(network: nn.Module, *, python: bool = False) -> dict[str, GatedConv2d]:
    """The four gated layers by name, or an error that says what the picture can show.

    Where Python computes, only the numbers of channels count.

    Raises:
        TypeError, ValueError: anything but the chain that ``convert(digitsnet())`` makes.
    """
    layers = gated_layers(network)
    takes = "the living picture shows networks of the form convert(digitsnet())"
    shapes = [(m.in_channels, m.out_channels) for m in layers.values()]
    ends = isinstance(getattr(network, "normalize", None), Normalize)
    if not ends or shapes != [(1, 16), (16, 32), (32, 32), (32, 64)]:
        raise ValueError(f"{takes}, got gated layers of {shapes} channels")
    for name, layer in ({} if python else layers).items():
        if layer.reduce != "l1" or layer.stored_densities is not None:
            raise ValueError(f"{takes} with reduce='l1' and one set of statistics, not {name}")
    return layers


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights by the names that ``readNetwork`` of ``engine.js`` knows; the norm as two vectors."""
    tensors = {}
    for name, layer in gated_layers(network).items():
        scale = (layer.norm.running_var.double() + layer.norm.eps).rsqrt()
        tensors[f"{name}.weight"] = layer.conv.weight
        tensors[f"{name}.predictor.weight"] = layer.predictor.weight
        tensors[f"{name}.predictor.bias"] = layer.predictor.bias
        tensors[f"{name}.scale"] = scale
        tensors[f"{name}.shift"] = layer.beta.double() - layer.norm.running_mean.double() * scale
    tensors["classifier.weight"] = network.classifier.weight
    tensors["classifier.bias"] = network.classifier.bias
    return tensors


def _shape(name: str, layer: GatedConv2d, sizes: tuple[int, int]) -> dict:
    shape = {"name": name, "inputs": layer.in_channels, "outputs": layer.out_channels}
    return shape | {"stride": layer.conv.stride[0], "sizeIn": sizes[0], "sizeOut": sizes[1]}


def samples(per_digit: int = PER_DIGIT) -> tuple[Tensor, Tensor]:
    """The first test images of each class, ``[N, 64]`` uint8 counts of 0 to 16, and labels."""
    images, labels = as_tensors(load_data("digits")[1])
    chosen = torch.cat([(labels == digit).nonzero()[:per_digit, 0] for digit in range(10)])
    return shrink(images[chosen]).flatten(1), labels[chosen]


def shrink(images: Tensor) -> Tensor:
    """Images ``[N, 1, 16, 16]`` of `load_data` to the 8x8 counts they were enlarged from.

    Along one axis, pixels 2i and 2i + 1 are 3/4 of count i and 1/4 of its neighbour on either side
    (at the ends of itself), so a linear system gives the counts back.
    """
    weights = torch.zeros(16, 8, dtype=torch.float64)
    for place in range(16):
        first = max(0.0, (place + 0.5) / 2 - 0.5)
        low = int(first)
        weights[place, low] += 1 - (first - low)
        weights[place, min(7, low + 1)] += first - low
    inverse = torch.linalg.pinv(weights)  # [8, 16]
    return (16 * inverse @ images[:, 0].double() @ inverse.T).round().to(torch.uint8)


def measure(network: nn.Module) -> dict[str, Tensor]:
    """At each of `DENSITIES`: the mean gate of the training images, and accuracies on the test's.

    ``{"mean_gates": [20, 144], "own": [20], "shuffled": [20], "mean": [20]}``.
    """
    train, test = (as_tensors(part) for part in load_data("digits"))
    rows = {name: [] for name in ("mean_gates", *CONTROLS)}
    for density in DENSITIES:
        set_density(network, density)
        control = how_dynamic(network, *test, reference=train[0])
        rows["mean_gates"].append(mean_gates(network, train[0]))
        for name in CONTROLS:
            rows[name].append(torch.tensor(getattr(control, name)))
    set_density(network, 1.0)
    return {name: torch.stack(values) for name, values in rows.items()}


def mean_gates(network: nn.Module, images: Tensor) -> Tensor:
    """The gates of all layers, one after the other, averaged over ``images``: ``[144]``."""
    with evaluating(network):
        network(images)
        return torch.cat([layer.gate.mean(dim=0) for layer in gated_layers(network).values()])


def text_of(name: str) -> str:
    """The text of a file of the picture, such as ``app.js``."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
