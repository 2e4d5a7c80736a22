"""Stored results that the notebooks show, so that they need no folder beside them."""

import json
from collections.abc import Sequence

from ..bench.stored import LESSON as FOLDER
from ..checkpoints import load_metrics


def result(name: str) -> dict | list:
    """What was measured, with the command, the machine and the date.

    Args:
        name: ``"ablation"`` (`tools/ablation.py`), ``"budget-cifar10"`` (the command ``budget``),
            ``"gains"`` (`tools/gains.py`), ``"pairs-cifar10"`` (`tools/pairs.py`),
            ``"stability-digits"`` (the command ``stability``) or ``"tiny-imagenet-50"`` (the
            command ``train``). Those that functions of `bench` read are here, too.

    Raises:
        ValueError: there is no result of this name.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return json.loads((FOLDER / f"{name}.json").read_text())


def cifar10_networks() -> dict[str, list[dict]]:
    """The networks for CIFAR-10 that were trained alone, by kind; gated ones are for one density.

    Returns:
        Rows as in a run's metrics.json, with "macs" per image, those of the predictors among them.
    """
    gated = {row["step"]: row for row in load_metrics("cifar10")[0]["rows"]}
    static = load_metrics("cifar10", "static")[0]["rows"]
    kinds = {
        "plain": [gated["plain"]],
        "gated, d = 0.5, with a teacher": [gated["d0.5"]],
        "gated, d = 0.3, no teacher": [gated["d0.3"]],
        "small plain, no teacher": [row for row in static if not row["distilled"]],
        "small plain, with the same teacher": [row for row in static if row["distilled"]],
    }
    return {
        kind: [row | {"macs": row["macs_gates"] + row["macs_predictors"]} for row in rows]
        for kind, rows in kinds.items()
    }


TEN, FIFTY = "CIFAR-10, ten classes", "Tiny ImageNet, fifty classes"


def with_and_without_choice() -> tuple[dict[str, list[list[dict]]], int, dict[str, list[dict]]]:
    """Two networks on photographs, with each image's own winners and with the same for all.

    Returns:
        ``{name: [rows]}`` with "own_gates" and "mean_winners" by density; on how many images; and
        the images in which the two differ, where they are known, as `tools/pairs.py` counts them.
    """
    any_density = load_metrics("cifar10", "any")[0]["rows"]
    ten = [row for row in any_density if row["density"] in (0.2, 0.3, 0.5, 0.7, 1.0)]
    fifty = [row for row in result("tiny-imagenet-50")["rows"] if row["density"] is not None]
    pairs = {TEN: result("pairs-cifar10")["rows"]}
    return {TEN: [ten], FIFTY: [fifty]}, ten[0]["control_images"], pairs


def digits_by_seed(densities: Sequence[float]) -> dict[str, list[list[float]]]:
    """Test accuracy in percent of networks for one density each, and of small plain ones.

    Returns:
        ``{name: a list for each of three seeds}``.
    """
    kinds = {"gated": "schedule", "small plain": "static"}
    found = {
        name: [{row["density"]: row["test_accuracy"] for row in run["rows"]} for run in runs]
        for name, runs in ((name, load_metrics("digits", kind)) for name, kind in kinds.items())
    }
    return {
        name: [[100 * run[d] for d in densities] for run in runs] for name, runs in found.items()
    }


KINDS = {  # of `load_metrics`
    "one for every density": "any",
    "gated, one for each": "schedule",
    "small plain, one for each": "static",
}


def every_density(data: str) -> dict[str, list[list[dict]]]:
    """One network for every density, and its rivals: ``{name: rows of each run}``, no teachers.

    Args:
        data: as in `load_metrics`.

    Raises:
        ValueError: no such networks.
    """
    found = {}
    for name, kind in KINDS.items():
        runs = [metrics["rows"] for metrics in load_metrics(data, kind)]
        found[name] = [
            [r for r in rows if r["density"] is not None and not r.get("distilled")]
            for rows in runs
        ]
    return found
