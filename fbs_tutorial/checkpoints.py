"""Weights on disk: written whole or not at all, with what they are beside them."""

import json
import os
import re
from http.client import HTTPException
from numbers import Real
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ._version import ADDRESS, __version__
from .files import damaged, write_atomically
from .method.convert import convert
from .method.gated import ChannelPruning, gated_layers, is_gated, set_density
from .method.wta import check_density
from .models import MODELS, TORCHVISION, wrap
from .static.masks import add_masks
from .static.structure import describe, rebuild

ASSETS = Path(__file__).parent / "assets"
PRETRAINED = ("digits", "cifar10")


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint, and why."""


def save_network(
    network: nn.Module, path: Path, model: str, num_classes: int, width: float = 1.0, **facts
) -> None:
    """Write the weights as safetensors; the header tells how to build the network again.

    Args:
        network: what ``MODELS[model]`` makes, or what `convert` or `wrap` makes of it.
        model: a key of ``MODELS``, called with ``num_classes`` and ``width``.
        facts: anything else worth knowing, stored as text.

    Raises:
        ValueError: the network has `ChannelPruning` blocks that are not those of `wrap`.
    """
    structure = structure_of(network)
    if model in MODELS:
        with torch.device("meta"):  # its shapes alone are compared
            structure["static"] = describe(network, MODELS[model](num_classes, width))
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    if structure["blocks"] and not _is_rebuilt((model, num_classes, width, structure), state):
        raise ValueError(
            f"network must be what wrap makes of {model}, to be built again; of other networks "
            "with ChannelPruning store state_dict()"
        )
    header = {"model": model, "num_classes": num_classes, "width": width}
    header |= {"gated": is_gated(network), "structure": json.dumps(structure), **facts}
    write_atomically(path, save(state, {key: str(value) for key, value in header.items()}))


def structure_of(network: nn.Module) -> dict:
    """What sets ``network`` apart from the model it was made of, as JSON can hold it.

    ``gates``: how each gated layer measures its inputs; ``blocks``: which of them are
    `ChannelPruning` blocks, and whether their gates have mean 1.
    """
    gates = gated_layers(network) if is_gated(network) else {}
    return {
        "gates": {name: gate.reduce for name, gate in gates.items()},
        "blocks": {n: g.normalize for n, g in gates.items() if isinstance(g, ChannelPruning)},
    }


def build(model: str, num_classes: int, width: float, structure: dict) -> nn.Module:
    """A network with new weights, of the structure that `structure_of` found.

    Args:
        width: the share of the model's channels.

    Raises:
        ValueError: the model has no such layers.
    """
    static = structure.get("static", {})
    network = rebuild(MODELS[model](num_classes, width), static)
    if structure["blocks"]:
        network = wrap(network, normalize=all(structure["blocks"].values()))
    elif structure["gates"]:
        network = convert(network)
    gates = gated_layers(network) if is_gated(network) else {}
    if gates.keys() != structure["gates"].keys():
        raise ValueError(f"its gated layers are not those of {model}")
    for name, reduce in structure["gates"].items():
        gates[name].reduce = reduce
    return add_masks(network, static["masks"]) if "masks" in static else network


def _is_rebuilt(form: tuple[str, int, float, dict], state: dict[str, Tensor]) -> bool:
    """Whether `build` makes a network of these weights."""
    try:
        own = build(*form).state_dict()
    except ValueError:
        return False
    return {n: v.shape for n, v in own.items()} == {n: v.shape for n, v in state.items()}


def load_network(path: str | os.PathLike) -> tuple[nn.Module, dict[str, str]]:
    """The network that `save_network` wrote, in eval mode, and its header.

    A gated network comes at density 1; `set_density` moves it.

    Raises:
        CheckpointError: no such file, damaged, or not written by this package.
    """
    header, state = _read_safetensors(path)
    missing = [key for key in ("model", "num_classes", "width", "gated") if key not in header]
    if missing:
        raise CheckpointError(f"{path} was not written by fbs_tutorial: no {missing[0]!r} in it")
    model = header["model"]
    if model not in MODELS:
        raise CheckpointError(f"{path} does not hold a known model: {model!r}")
    try:
        classes, width = int(header["num_classes"]), float(header["width"])
        if "structure" in header:
            network = build(model, classes, width, json.loads(header["structure"]))
        else:  # as 0.1.0 wrote it
            network = MODELS[model](classes, width)
            network = convert(network) if header["gated"] == "True" else network
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of an edited header
        raise CheckpointError(f"{path} does not fit {model}: {error}") from error
    return _filled(network, state, path, model), header


def load_weights(
    path: str | os.PathLike, model: str | None = None
) -> tuple[nn.Module, dict[str, str]]:
    """A network from a file of this package, or from a plain state dict of ``model``.

    A state dict is what ``torch.save`` or safetensors stored of ``state_dict()``, of a network of
    this package or of torchvision's network of that name; the number of classes is read off it.

    Args:
        model: a key of ``MODELS``, for files that do not tell.

    Returns:
        The network in eval mode, and the header that `save_network` would have written.

    Raises:
        CheckpointError: no such file, damaged, or weights of another network.
    """
    if not _is_torch_file(path):
        header, state = _read_safetensors(path)
        if "model" in header or model is None:
            return load_network(path)
    else:
        state = _read_torch(path)
    if model is None:
        raise CheckpointError(f"{path} does not tell of which network it is: give its model")
    return _from_state_dict(state, model, path)


def pretrained(model: str, num_classes: int) -> nn.Module:
    """torchvision's weights of ``model``, fetched if they are not there, in eval mode.

    The classifier is new where ``num_classes`` is not that of the weights.

    Raises:
        CheckpointError: they cannot be fetched.
    """
    from torchvision.models import get_model_weights  # here: it takes a second to import

    try:
        state = get_model_weights(model).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"the weights of {model} cannot be fetched: {error}") from error
    network, head = MODELS[model](num_classes), _classifier(state)
    if len(state[head]) != num_classes:
        own = network.state_dict()
        head = head.removesuffix("weight")
        for name in (name for name in state if name.startswith(head)):
            state[name] = own[f"network.{name}"]
    state = {f"network.{name}": value for name, value in state.items()}
    return _filled(network, state, f"torchvision's {model}", model)


def _is_torch_file(path: str | os.PathLike) -> bool:
    """Whether a file is one of ``torch.save``, by its first bytes: a zip archive or a pickle."""
    try:
        with open(path, "rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_safetensors(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, state
    except SafetensorError as error:
        raise CheckpointError(damaged(path, error, "give a file of weights")) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _read_torch(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors by name in a file of ``torch.save``; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
        why = str(error).partition("\n")[0]
        raise CheckpointError(damaged(path, why, "give a file of weights")) from error
    for name in ("state_dict", "model"):  # as training scripts often store it
        state = state[name] if isinstance(state, dict) and name in state else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict: tensors by name")
    return state


def _from_state_dict(
    state: dict[str, Tensor], model: str, path: str | os.PathLike
) -> tuple[nn.Module, dict[str, str]]:
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if model in TORCHVISION and not any(name.startswith("network.") for name in state):
        state = {f"network.{name}": value for name, value in state.items()}
    try:
        classes = len(state[_classifier(state)])
        network = MODELS[model](classes)
        if any(".predictor." in name for name in state):
            network = convert(network)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit {model}: {error}") from error
    header = {"model": model, "num_classes": classes, "width": 1.0, "gated": is_gated(network)}
    network = _filled(network, state, path, model)
    return network, {key: str(value) for key, value in header.items()}


def _classifier(state: dict[str, Tensor]) -> str:
    """The name of the last linear layer's weight ``[classes, features]``."""
    names = [name for name, value in state.items() if value.ndim == 2 and "predictor" not in name]
    if not names:
        raise ValueError("no classifier in it")
    return names[-1]


def _filled(
    network: nn.Module, state: dict[str, Tensor], path: str | os.PathLike, model: str
) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not fit {model}: {line}") from error
    return network.eval()


def load_pretrained(name: str, density: float | str | None = None) -> nn.Module:
    """A network trained by this project, in eval mode; it takes images in [0, 1].

    Args:
        name: ``"digits"`` or ``"cifar10"``, for the images of ``load_data`` of this name.
        density: None for the any-density network, set to density 1 (move it with `set_density`);
            a number for the network trained at that density; ``"plain"`` for the dense one. The
            CIFAR-10 network for 0.5 holds statistics up to density 1, see `calibrate`.

    Raises:
        TypeError: bad density. ValueError: unknown name, or a density no network was trained at.
        CheckpointError: a small wheel is without these weights, and they cannot be fetched.
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {', '.join(PRETRAINED)}, got {name!r}")
    if density is None:
        return load_network(_weights(name, "any"))[0]
    if density == "plain":
        return load_network(_weights(name, "plain"))[0]
    if not isinstance(density, Real):
        raise TypeError(f"density must be None, 'plain' or a number in (0, 1], got {density!r}")
    check_density(density)
    files = {path.name for path in (ASSETS / name).glob("*.safetensors")} | {*_elsewhere(name)}
    there = sorted(f[1:].removesuffix(".safetensors") for f in files if re.match(r"d\d", f))
    if float(density) not in map(float, there):
        raise ValueError(f"density must be one of {', '.join(there)} for {name}, got {density}")
    network, _ = load_network(_weights(name, f"d{float(density):g}"))
    return set_density(network, float(density))


def _elsewhere(name: str) -> dict[str, str]:
    """The files of weights that a small wheel goes without, and the sha256 of each."""
    path = ASSETS / name / "elsewhere.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _weights(name: str, step: str) -> Path:
    """A file of shipped weights; one that a small wheel goes without is fetched, once.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    path = ASSETS / name / f"{step}.safetensors"
    if path.exists() or path.name not in _elsewhere(name):
        return path
    kept = Path(torch.hub.get_dir(), f"fbs_tutorial-{__version__}", name, path.name)
    if kept.exists():
        return kept
    lacks = f"this small edition of fbs_tutorial is without {name}/{path.name}"
    remedy = f"install the full wheel, or put the file into {path.parent}"
    if not ADDRESS:
        raise CheckpointError(f"{lacks}, and no address tells where to fetch it: {remedy}")
    address = f"{ADDRESS}/fbs_tutorial/assets/{name}/{path.name}"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fingerprint = _elsewhere(name)[path.name]
        torch.hub.download_url_to_file(address, str(kept), fingerprint, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise CheckpointError(
            f"{lacks}, and {address} cannot be fetched ({error}): {remedy}"
        ) from error
    return kept


def load_metrics(name: str, kind: str = "schedule") -> list[dict]:
    """The ``metrics.json`` of the shipped networks' training, one of each seed, seed 0 first.

    Args:
        name: as in `load_pretrained`.
        kind: ``"schedule"`` (one network per density), ``"any"`` (one for all) or ``"static"``
            (small plain networks, with as many channels as win at each density). Of ``"cifar10"``
            the rows of ``"schedule"`` and ``"static"`` come from several runs; each tells how its
            network was ``"made"``.

    Raises:
        ValueError: unknown name or kind.
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {', '.join(PRETRAINED)}, got {name!r}")
    if kind not in ("schedule", "any", "static"):
        raise ValueError(f"kind must be 'schedule', 'any' or 'static', got {kind!r}")
    runs = [json.loads(p.read_text()) for p in sorted((ASSETS / name).glob(f"{kind}-seed*.json"))]
    return [metrics | {"rows": named_rows(metrics["rows"], kind)} for metrics in runs]


def named_rows(rows: list[dict], kind: str) -> list[dict]:
    """The rows of a run of this kind, each with its step and method, which 0.1.0 did not write."""
    return [_step_and_method(row["density"], kind) | row for row in rows]


def _step_and_method(density: float | None, kind: str) -> dict:
    if density is None:
        step, method = "given" if kind == "finetune" else "plain", "plain"
    elif kind == "any":
        step, method = "any", "any"
    else:
        name, method = ("static", "small") if kind == "static" else ("d", "fbs")
        step = f"{name}{density:g}"
    return {"step": step, "method": method, "distilled": False}
