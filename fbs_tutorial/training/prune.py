"""Prune a trained network for all images alike: the work behind the ``prune`` command."""

import copy
import os
from pathlib import Path

from torch import nn

from ..checkpoints import load_weights, pretrained, save_network
from ..method.gated import is_gated
from ..models import TORCHVISION
from ..static.masks import prune_kernels
from ..static.slimming import mask_channels, slim
from .loop import accuracy
from .parallel import Team
from .settings import RunError, usual_recipe
from .splits import load_splits

METHODS = ("kernels", "slimming", "idle")
IMAGENET_CLASSES = 1000


def prune(
    method: str,
    percent: float,
    out: str | os.PathLike,
    *,
    checkpoint: str | os.PathLike | None = None,
    model: str | None = None,
    pretrained_weights: bool = False,
    score: str = "max",
    data: str | None = None,
) -> list[str]:
    """Write the pruned form of a network to ``out``; returns what there is to say, line by line.

    ``train --from`` then fine-tunes the file, masks and all.

    Args:
        method: ``"kernels"``, as `prune_kernels`, or ``"slimming"``, as `slim`.
        percent: as they take it.
        checkpoint, model: a file of weights, as `load_weights` takes them.
        pretrained_weights: take torchvision's weights of ``model`` instead, of 1000 classes.
        score: of kernels, as in `prune_kernels`.
        data: a data set, on whose validation images the accuracy before and after is measured.

    Raises:
        CheckpointError: a file that is not there, or of another network.
        ValueError, TypeError: arguments that do not fit, or a network with gates.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if (checkpoint is None) != pretrained_weights:
        raise RunError("prune takes one network: {checkpoint}, or {pretrained} with {model}")
    if pretrained_weights and model not in TORCHVISION:
        raise ValueError(f"model must be one of {', '.join(TORCHVISION)}, got {model!r}")
    if pretrained_weights:
        network = pretrained(model, IMAGENET_CLASSES)
        header = {"model": model, "num_classes": IMAGENET_CLASSES, "width": 1.0}
    else:
        network, header = load_weights(checkpoint, model)
    if is_gated(network):
        text = "{file} has gates; prune the plain network, then train at a {density}"
        raise RunError(text, {"file": checkpoint})
    forms, said = {"before": network}, []
    if method == "kernels":
        pruned = copy.deepcopy(network)
        said += str(prune_kernels(pruned, percent, score)).splitlines()
    else:
        forms["without the smallest scales"] = mask_channels(network, percent, shifts=False)
        pruned = slim(network, percent)
        sizes = [sum(p.numel() for p in net.parameters()) for net in (network, pruned)]
        said.append(f"parameters {sizes[0]:,} before, {sizes[1]:,} after")
    forms["pruned"] = pruned
    said += [] if data is None else _accuracies(forms, data)
    facts = {"method": method, "percent": percent} | ({} if data is None else {"data": data})
    classes, width = int(header["num_classes"]), float(header["width"])
    save_network(pruned, Path(out), header["model"], classes, width, **facts)
    return [*said, f"the weights are in {out}"]


def _accuracies(forms: dict[str, nn.Module], data: str) -> list[str]:
    splits = load_splits(data, usual_recipe(data), 0, False, Team())
    return [
        f"validation accuracy {name}: {accuracy(network, *splits.validation):.1%}"
        for name, network in forms.items()
    ]
