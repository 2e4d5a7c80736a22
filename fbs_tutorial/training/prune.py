"""Prune a trained network for all images alike: the work behind the ``prune`` command."""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..checkpoints import load_weights, pretrained, save_network
from ..files import check_writable
from ..method.gated import is_gated, set_density
from ..models import TORCHVISION
from ..static.idle import densities_of, remove_idle
from ..static.masks import prune_kernels
from ..static.slimming import mask_channels, slim
from ..static.storage import stored_bytes
from .loop import accuracy
from .parallel import Team
from .settings import RunError, usual_recipe
from .splits import load_splits

METHODS = ("kernels", "slimming", "idle")
IMAGENET_CLASSES = 1000


def prune(
    method: str,
    percent: float | None,
    out: str | os.PathLike,
    *,
    checkpoint: str | os.PathLike | None = None,
    model: str | None = None,
    pretrained_weights: bool = False,
    score: str = "max",
    per_layer: bool = False,
    data: str | None = None,
) -> list[str]:
    """Write the pruned form of a network to ``out``; returns what there is to say, line by line.

    ``train --from`` then fine-tunes the file, masks and all.

    Args:
        method: ``"kernels"``, as `prune_kernels`, ``"slimming"``, as `slim`, or for a network with
            gates ``"idle"``: without the channels that win for no training image of ``data`` at the
            density of the file, as `remove_idle`.
        percent: as the first two take it; None for the third.
        checkpoint, model: a file of weights, as `load_weights` takes them.
        pretrained_weights: take torchvision's weights of ``model`` instead, of 1000 classes.
        score: of kernels, as in `prune_kernels`.
        per_layer: with slimming, as `slim` takes it.
        data: a data set, on whose validation images the accuracy before and after is measured.

    Raises:
        CheckpointError: a file that is not there, or of another network.
        ValueError, TypeError: arguments that do not fit, or a network with gates where one without
            is wanted, or the other way round.
        OSError: ``out`` cannot be written.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if (percent is None) != (method == "idle"):
        raise RunError("{percent} goes with the methods kernels and slimming, which need one")
    if per_layer and method != "slimming":
        raise RunError("{per_layer} goes with the method slimming")
    network, header = _given(checkpoint, model, pretrained_weights)
    if method == "idle":
        check_writable(Path(out))
        return _idle(network, header, checkpoint, data, Path(out))
    if is_gated(network):
        text = "{file} has gates; prune the plain network, then train at a {density}"
        raise RunError(text, {"file": checkpoint})
    check_writable(Path(out))  # before what takes long
    facts = {"method": method, "percent": percent} | ({"per_layer": True} if per_layer else {})
    facts |= {} if data is None else {"data": data}
    if method == "kernels":
        forms, said = _kernels(network, percent, score)
    else:
        forms, said = _slimmed(network, percent, per_layer)
    said += [] if data is None else _accuracies(forms, data)
    return [*said, _save(forms["pruned"], Path(out), header, **facts)]


def _kernels(
    network: nn.Module, percent: float, score: str
) -> tuple[dict[str, nn.Module], list[str]]:
    """The networks before and after, and what to say."""
    pruned = copy.deepcopy(network)
    said = str(prune_kernels(pruned, percent, score)).splitlines()
    return {"before": network, "pruned": pruned}, said


def _slimmed(
    network: nn.Module, percent: float, per_layer: bool
) -> tuple[dict[str, nn.Module], list[str]]:
    """The networks before, with the scales at 0, and after, and what to say."""
    forms = {
        "before": network,
        "without the smallest scales": mask_channels(
            network, percent, shifts=False, per_layer=per_layer
        ),
        "pruned": slim(network, percent, per_layer=per_layer),
    }
    return forms, [_sizes(network, forms["pruned"])]


def _given(
    checkpoint: str | os.PathLike | None, model: str | None, pretrained_weights: bool
) -> tuple[nn.Module, Mapping[str, str]]:
    """The network to prune, and the header of its file or one that would fit."""
    if (checkpoint is None) != pretrained_weights:
        raise RunError("prune takes one network: {checkpoint}, or {pretrained} with {model}")
    if not pretrained_weights:
        return load_weights(checkpoint, model)
    if model not in TORCHVISION:
        raise ValueError(f"model must be one of {', '.join(TORCHVISION)}, got {model!r}")
    header = {"model": model, "num_classes": IMAGENET_CLASSES, "width": 1.0}
    return pretrained(model, IMAGENET_CLASSES), header


def _save(pruned: nn.Module, out: Path, header: Mapping[str, str], **facts) -> str:
    classes, width = int(header["num_classes"]), float(header["width"])
    save_network(pruned, out, header["model"], classes, width, **facts)
    return f"the weights are in {out}"


def _sizes(before: nn.Module, after: nn.Module) -> str:
    counts = [f"{sum(p.numel() for p in net.parameters()):,}" for net in (before, after)]
    sizes = [f"{stored_bytes(net) / 1e3:,.1f} kB" for net in (before, after)]
    return f"parameters {counts[0]} before, {counts[1]} after; {sizes[0]}, {sizes[1]}"


def _idle(
    network: nn.Module, header: Mapping[str, str], file: object, data: str | None, out: Path
) -> list[str]:
    """Remove what wins for no training image, at the density that the file was trained at."""
    if not is_gated(network) or data is None:
        text = "idle takes a network with gates and {data}; got {file}"
        raise RunError(text, {"file": file})
    try:
        set_density(network, float(header["density"]))
    except (KeyError, ValueError):
        text = "{file} does not tell one density that it was trained at"
        raise RunError(text, {"file": file}) from None
    splits = load_splits(data, usual_recipe(data), int(header.get("seed", 0)), False, Team())
    pruned = remove_idle(network, splits.seen)
    found = densities_of(pruned)
    said = [_sizes(network, pruned)]
    for name, net in (("before", network), ("pruned", pruned)):
        said.append(f"validation accuracy {name}: {accuracy(net, *splits.validation):.1%}")
    said.append(f"as many winners as before with set_density(network, {found})")
    facts = {"method": "idle", "data": data, "densities": json.dumps(found)}
    return [*said, _save(pruned, out, header, **facts)]


def _accuracies(forms: dict[str, nn.Module], data: str) -> list[str]:
    splits = load_splits(data, usual_recipe(data), 0, False, Team())
    return [
        f"validation accuracy {name}: {accuracy(network, *splits.validation):.1%}"
        for name, network in forms.items()
    ]
