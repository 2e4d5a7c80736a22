"""Stored results that the notebooks show, so that they need no folder beside them."""

import json

from ..bench.stored import LESSON as FOLDER
from ..checkpoints import load_metrics


def result(name: str) -> dict | list:
    """What was measured, with the command, the machine and the date.

    Args:
        name: ``"ablation"`` (`tools/ablation.py`), ``"budget-cifar10"`` (the command ``budget``),
            ``"gains"`` (`tools/gains.py`), ``"stability-digits"`` (the command ``stability``) or
            ``"tiny-imagenet-50"`` (the command ``train``). Those that functions of `bench` read are
            here, too.

    Raises:
        ValueError: there is no result of this name.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return json.loads((FOLDER / f"{name}.json").read_text())


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
