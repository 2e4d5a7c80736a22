"""What has been measured of this package, shipped with it, with machine, date and versions."""

import json

from ..checkpoints import ASSETS

H100 = ASSETS / "h100"


def stored(name: str) -> dict:
    """Measurements on one H100: ``"networks"``, ``"layers"``, or ``"single_kernel"``.

    Of whole networks; of the parts of single layers, which the rule of `execution.roofline` is
    fitted to; and of the package's first kernel, which gathered weights while it multiplied.

    Returns:
        ``{"made by", "machine", "date", "unit", "rows": [...]}``; times are in microseconds.

    Raises:
        ValueError: there are no results of this name.
    """
    names = sorted(path.stem for path in H100.glob("*.json"))
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return json.loads((H100 / f"{name}.json").read_text())
