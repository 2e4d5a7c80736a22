"""Weights on disk: written whole or not at all, with what they are beside them."""

import json
import os
from numbers import Real
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from .files import write_atomically
from .method.convert import convert
from .method.gated import ChannelPruning, is_gated, set_density
from .method.wta import check_density
from .models import MODELS

ASSETS = Path(__file__).parent / "assets"
PRETRAINED = ("digits", "cifar10")


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint, and why."""


def save_network(
    network: nn.Module, path: Path, model: str, num_classes: int, width: float = 1.0, **facts
) -> None:
    """Write the weights as safetensors; the header tells how to build the network again.

    Args:
        model: a key of ``MODELS``, called with ``num_classes`` and ``width``.
        facts: anything else worth knowing, stored as text.

    Raises:
        ValueError: the network has `ChannelPruning` blocks, which the header cannot describe.
    """
    if any(isinstance(module, ChannelPruning) for module in network.modules()):
        raise ValueError("save_network stores what convert makes; of blocks store state_dict()")
    gated = is_gated(network)
    header = {"model": model, "num_classes": num_classes, "width": width, "gated": gated, **facts}
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, save(state, {key: str(value) for key, value in header.items()}))


def load_network(path: str | os.PathLike) -> tuple[nn.Module, dict[str, str]]:
    """The network that `save_network` wrote, in eval mode, and its header.

    A gated network comes at density 1; `set_density` moves it.

    Raises:
        CheckpointError: no such file, damaged, or not written by this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        classes, width = int(header["num_classes"]), float(header["width"])
        network = MODELS[header["model"]](classes, width)
        if header["gated"] == "True":
            network = convert(network)
        network.load_state_dict(state)
    except KeyError as error:
        raise CheckpointError(
            f"{path} was not written by fbs_tutorial: no {error} in it"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not fit {header.get('model')}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return network.eval(), header


def load_pretrained(name: str, density: float | str | None = None) -> nn.Module:
    """A network trained by this project, in eval mode; it takes images in [0, 1].

    Args:
        name: ``"digits"`` or ``"cifar10"``, for the images of ``load_data`` of this name.
        density: None for the any-density network, set to density 1 (move it with `set_density`);
            a number for the network trained at that density; ``"plain"`` for the dense one.

    Raises:
        TypeError: bad density. ValueError: unknown name, or a density no network was trained at.
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {', '.join(PRETRAINED)}, got {name!r}")
    folder = ASSETS / name
    if density is None:
        return load_network(folder / "any.safetensors")[0]
    if density == "plain":
        return load_network(folder / "plain.safetensors")[0]
    if not isinstance(density, Real):
        raise TypeError(f"density must be None, 'plain' or a number in (0, 1], got {density!r}")
    check_density(density)
    there = sorted(p.stem[1:] for p in folder.glob("d*.safetensors"))
    if float(density) not in map(float, there):
        raise ValueError(f"density must be one of {', '.join(there)} for {name}, got {density}")
    network, _ = load_network(folder / f"d{float(density):g}.safetensors")
    return set_density(network, float(density))


def load_metrics(name: str, kind: str = "schedule") -> list[dict]:
    """The ``metrics.json`` of the shipped networks' training, one of each seed, seed 0 first.

    Args:
        kind: ``"schedule"`` (one network a density), ``"any"`` (one for all) or ``"static"``
            (small plain networks, with as many channels as win at each density).
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {', '.join(PRETRAINED)}, got {name!r}")
    if kind not in ("schedule", "any", "static"):
        raise ValueError(f"kind must be 'schedule', 'any' or 'static', got {kind!r}")
    return [json.loads(p.read_text()) for p in sorted((ASSETS / name).glob(f"{kind}-seed*.json"))]
