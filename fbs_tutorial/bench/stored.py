"""What has been measured of this package, shipped with it, with machine, date and versions."""

import json
from pathlib import Path

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


def course_file(*parts: str, remedy: str) -> Path:
    """A file of the course's folder, beside the package or above or below the working folder.

    Args:
        parts: its path in that folder. remedy: what to do if it is not there.

    Raises:
        FileNotFoundError: the course's folder is not around here, or has no such file.
    """
    here, file = Path.cwd(), Path(*parts)
    for place in (Path(__file__).parents[2], here, *here.parents, *here.glob("*/")):
        if (place / file).is_file():
            return place / file
    raise FileNotFoundError(f"no {file} beside the package or above {here}; {remedy}")


def cpu_times() -> dict:
    """What ``bench`` measured on a CPU that did nothing else: ``benchmarks/cpu.json``.

    Raises:
        FileNotFoundError: the course's folder is not around here.
    """
    return json.loads(course_file("benchmarks", "cpu.json", remedy="run `bench` first").read_text())
