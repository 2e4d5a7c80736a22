"""The control of the whole subject: are the gates dynamic, and does it pay?"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .gated import Gated, evaluating, forced_gates, gated_layers
from .saliency import check_feature_maps
from .wta import winner_mask, winner_take_all

BATCH = 256


class Control(NamedTuple):
    """One of the accuracies that `how_dynamic` compares."""

    key: str  # the attribute of `Dynamics`
    field: str  # in the rows of a run's metrics.json
    label: str  # in plain words


CONTROLS = (
    Control("own", "own_gates", "own gates"),
    Control("shuffled", "shuffled_gates", "another image's gates"),
    Control("mean", "mean_gates", "the mean gate"),
    Control("mean_winners", "mean_winners", "the mean gate's winners, own values"),
)


@dataclass
class Dynamics:
    """What `how_dynamic` returns: four accuracies in 0..1 (see `CONTROLS`), a count per layer."""

    own: float  # each image with its own gates
    shuffled: float  # each image with another image's gates
    mean: float  # every image with the mean gate: a static network of the same MACs
    mean_winners: float  # the same channels for every image, but each with its own values for them
    distinct_sets: dict[str, int]  # different winner sets among the images, by layer

    def __str__(self) -> str:
        width = max(len(control.label) for control in CONTROLS)
        lines = [f"{label:<{width}}   {getattr(self, key):6.1%}" for key, _, label in CONTROLS]
        sets = ", ".join(f"{count} in {name}" for name, count in self.distinct_sets.items())
        return "\n".join([*lines, f"different winner sets: {sets}"])


def how_dynamic(
    model: nn.Module, images: Tensor, labels: Tensor, *, reference: Tensor | None = None
) -> Dynamics:
    """Compare the gates a network chooses for each image with gates that do not look at it.

    If another image's gates do as well, they do not matter; if the mean gate does as well, a static
    cut would have done. A gate both chooses channels and scales them: ``mean_winners`` fixes the
    choice alone. At density 1 nothing is chosen, so there it equals ``own``.

    Args:
        model: a network with gated layers, each with one density for all images, each run once or
            not at all, which returns ``[N, classes]``.
        images: ``[N, C, H, W]``, N at least 2.
        labels: ``[N]`` class indices.
        reference: the images whose gates are averaged, training images as a rule; ``images``
            themselves when None.

    Raises:
        TypeError, ValueError: no gated layer, or none that runs; fewer than two images; labels that
            do not match; outputs that are not ``[N, classes]``; a gated layer that runs more than
            once, or not on one row per image.
    """
    layers = gated_layers(model)
    check_feature_maps(images, "images")
    if reference is not None:
        check_feature_maps(reference, "reference")
    takes = f"labels must be a tensor [{len(images)}], one class index per image"
    if not isinstance(labels, Tensor):
        raise TypeError(f"{takes}, got {type(labels).__name__}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{takes}, got shape {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{takes}, got {labels.dtype}")
    if len(images) < 2:
        raise ValueError("images must be at least 2, to give each another's gates, got 1")
    for name, layer in layers.items():
        if isinstance(layer.density, Tensor):
            raise ValueError(f"how_dynamic takes one density per layer, {name} has one per image")

    with evaluating(model):
        gates, sets, own = _gates(model, images)
        _check_outputs(own, images, labels)
        means = gates if reference is None else _gates(model, reference)[0]
        donor = derangement(len(images)).to(images.device)
        other = {name: gate[donor] for name, gate in gates.items()}
        static = {
            name: winner_take_all(gate.mean(dim=0, keepdim=True), layers[name].density)
            for name, gate in means.items()
        }
        winners = {name: winner_mask(gate, layers[name].density) for name, gate in static.items()}
        shuffled, mean, mean_winners = (
            _outputs(model, images, forced) for forced in (other, static, winners)
        )

    def accuracy(outputs: Tensor) -> float:
        return (outputs.argmax(dim=1) == labels).sum().item() / len(labels)

    return Dynamics(accuracy(own), accuracy(shuffled), accuracy(mean), accuracy(mean_winners), sets)


def _check_outputs(outputs: Tensor, images: Tensor, labels: Tensor) -> None:
    """Raise unless ``outputs`` are classes ``[N, classes]``, and ``labels`` among them."""
    takes = f"how_dynamic takes a model that returns [{len(images)}, classes]"
    if outputs.ndim != 2 or len(outputs) != len(images) or outputs.shape[1] < 2:
        raise ValueError(f"{takes}, two classes or more, got {list(outputs.shape)}")
    if not 0 <= labels.min() <= labels.max() < outputs.shape[1]:
        raise ValueError(
            f"labels must be from 0 to {outputs.shape[1] - 1}, the model's classes, "
            f"got {labels.min()} to {labels.max()}"
        )


def _gates(model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], dict[str, int], Tensor]:
    """The gates ``[N, C]`` of every layer that runs, its number of distinct winner sets, and the
    outputs."""
    layers = gated_layers(model)
    gates, winners, outputs = {n: [] for n in layers}, {n: [] for n in layers}, []
    for batch in images.split(BATCH):
        with _runs(layers) as runs:
            outputs.append(_run(model, batch))
        for name, layer in layers.items():
            _check_runs(name, layer, runs[name], len(batch))
            if runs[name]:
                gates[name].append(layer.gate)
                winners[name].append(winner_mask(layer.saliency, layer.density))
    gates = {name: torch.cat(parts) for name, parts in gates.items() if parts}
    if not gates:
        raise ValueError(f"no gated layer of model runs: {', '.join(layers)}")
    for name, gate in gates.items():
        if len(gate) != len(images):
            raise ValueError(f"{name} runs for {len(gate)} of {len(images)} images only")
    sets = {name: len(torch.cat(winners[name]).unique(dim=0)) for name in gates}
    return gates, sets, torch.cat(outputs)


@contextmanager
def _runs(layers: Mapping[str, Gated]) -> Iterator[Counter[str]]:
    """How often each layer runs inside the ``with``; a gate of before says nothing."""
    runs: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
            stack.callback(hook.remove)
        yield runs


def _check_runs(name: str, layer: Gated, runs: int, images: int) -> None:
    """Raise unless the layer has one gate for each image, if it has any."""
    if runs > 1:
        raise ValueError(f"how_dynamic takes layers that run once, {name} runs {runs} times")
    if runs and len(layer.gate) != images:
        raise ValueError(
            f"{name} has {len(layer.gate)} gates for {images} images, it needs one each"
        )


def _run(model: nn.Module, images: Tensor) -> Tensor:
    outputs = model(images)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"model must return a tensor [N, classes], got {type(outputs).__name__}")
    return outputs


def _outputs(model: nn.Module, images: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
    """The outputs for ``images`` with these gates, ``[N, C]`` or ``[1, C]`` for all, forced."""
    outputs = []
    for i, batch in enumerate(images.split(BATCH)):
        part = slice(i * BATCH, i * BATCH + len(batch))
        here = {name: gate if len(gate) == 1 else gate[part] for name, gate in gates.items()}
        with forced_gates(model, here):
            outputs.append(_run(model, batch))
    return torch.cat(outputs)


def derangement(n: int, seed: int = 0) -> Tensor:
    """A random permutation of ``n`` indices, fixed by ``seed``, that leaves none in its place."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(1))
