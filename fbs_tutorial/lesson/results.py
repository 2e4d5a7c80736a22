"""Stored results that the notebooks show, so that they need no folder beside them."""

import json

from ..bench.stored import LESSON as FOLDER


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
