"""The rows of ``metrics.json``: what a trained network can do, and what it costs."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..data import Part, in_order, spread
from ..method.dynamics import CONTROLS, how_dynamic
from ..method.gated import evaluating, set_density
from ..method.macs import count_macs
from .loop import EVALUATED_AT_ONCE, accuracy
from .parallel import Team
from .recipes import Step
from .splits import CONTROL_IMAGES, Splits


def measure_step(
    network: nn.Module, step: Step, densities: Sequence[float], splits: Splits, team: Team
) -> list[dict]:
    """The rows of one step: one, or for the any-density network one per density."""
    about = {"step": step.name, "method": step.method, "distilled": step.distilled}
    wanted = densities if step.kind == "any" else [step.density]
    rows = [about | team.from_first(partial(measure, network, d, splits)) for d in wanted]
    if step.kind == "small":
        rows[0]["density"] = step.width
    return rows


def measure(network: nn.Module, density: float | None, splits: Splits) -> dict:
    """Accuracies 0..1, mean MACs per test image, parameters, and bytes of the stored weights.

    ``density`` is set first; None for a plain network.
    """
    if density is not None:
        set_density(network, density)
    outputs, macs = outputs_and_macs(network, splits.test)
    row = {
        "density": density,
        "val_accuracy": accuracy(network, *splits.validation),
        "test_accuracy": (outputs.argmax(dim=1) == splits.test[1]).sum().item() / len(outputs),
        **macs,
        "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in network.state_dict().values()),
    }
    return row if density is None else row | controls(network, splits)


def outputs_and_macs(network: nn.Module, part: Part) -> tuple[Tensor, dict]:
    """The outputs ``[N, classes]`` for a part of the data, and the mean MACs of one image."""
    count, outputs, macs = len(part[1]), [], {"gates": 0, "zeros": 0}
    for images, _ in in_order(part, EVALUATED_AT_ONCE):
        for by in macs:
            report = count_macs(network, images, by=by)
            macs[by] += report.active.sum().item()
        with evaluating(network):
            outputs.append(network(images))
    return torch.cat(outputs), {
        "macs_dense": report.dense,
        "macs_gates": macs["gates"] / count,
        "macs_zeros": macs["zeros"] / count,
        "macs_predictors": report.overhead,
    }


def controls(network: nn.Module, splits: Splits) -> dict:
    """The controls of `how_dynamic` on ``control_images`` test images, evenly spread."""
    images, labels = spread(splits.test, CONTROL_IMAGES)
    found = how_dynamic(network, images, labels, reference=splits.reference)
    accuracies = {control.field: getattr(found, control.key) for control in CONTROLS}
    return accuracies | {"distinct_sets": found.distinct_sets, "control_images": len(labels)}
