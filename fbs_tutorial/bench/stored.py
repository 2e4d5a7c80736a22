"""What was measured and is shipped with the package; and one's own benchmark in the same form."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..checkpoints import ASSETS
from .variants import OPPONENTS

H100 = ASSETS / "h100"
LESSON = ASSETS / "lesson"  # copies of files in benchmarks/ that notebooks read


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


def as_stored(results: Mapping) -> dict:
    """Whole networks of a benchmark, in the form of ``stored("networks")``.

    Args:
        results: what `bench` returns, or its JSON file holds. Of several executions the last one
            counts, on a GPU the graph. A row's ``"dense"`` names its fastest dense network, and so
            tells whether batch norms were folded into it.

    Raises:
        ValueError: there is no whole network among the rows.
    """
    facts = results["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    rows = {}
    for row in results["rows"]:
        if row["kind"] == "network":
            rows[row["name"], row["batch"], row["precision"]] = _network(row)
    if not rows:
        raise ValueError("results must hold a whole network, got none in their rows")
    return {
        "made by": results.get("command", "a benchmark"),
        "machine": f"{facts['device']}, {versions}",
        "date": facts["date"],
        "unit": "microseconds per call, median",
        "rows": list(rows.values()),
    }


def _network(row: Mapping) -> dict:
    """One row: the fastest dense network of each layout, and the accelerated one per density."""
    found = {"network": row["name"], "images": row["batch"], "products": row["precision"]}
    found["dense"] = row["dense_best"]
    for variant in row["variants"]:
        kind, microseconds = variant["variant"], round(1000 * variant["median_ms"], 2)
        if kind in OPPONENTS:
            key = "dense_nhwc" if kind.endswith(("channels_last", "compiled")) else "dense_nchw"
            found[key] = min(microseconds, found.get(key, microseconds))
        elif kind == "accelerated":
            found[f"accelerated {float(variant['density'])}"] = microseconds
    return found


def course_file(*parts: str, remedy: str) -> Path:
    """A file of the course's folder, beside the package or above or below the working folder.

    Args:
        parts: its path in that folder. remedy: what to do if it is not there.

    Raises:
        FileNotFoundError: the course's folder is not around here, or has no such file.
    """
    here, file = Path.cwd(), Path(*parts)
    for place in (Path(__file__).parents[2], here, *here.parents, *here.glob("*/")):
        if os.path.isfile(place / file):  # False, not an error, where nobody may look
            return place / file
    raise FileNotFoundError(f"no {file} beside the package or above {here}; {remedy}")


def benchmark_file(*parts: str, remedy: str) -> Path:
    """A file of ``benchmarks/``: its copy in the package, or where there is none the course's.

    Arguments and errors as `course_file`.
    """
    copy = LESSON / "-".join(parts)
    return copy if copy.is_file() else course_file("benchmarks", *parts, remedy=remedy)


def cpu_times() -> dict:
    """What ``bench`` measured on a CPU that did nothing else: ``benchmarks/cpu.json``."""
    return json.loads(benchmark_file("cpu.json", remedy="run `bench` first").read_text())
