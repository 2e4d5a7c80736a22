"""Show the times in benchmarks/ as tables: python tools/ship_bench.py, after `make bench`.

All rows of benchmarks/cpu.json go to benchmarks/cpu.md; those of whole networks stand in the README
between the marks of ``bench cpu``. The same with ``cuda``, whose marks are put after the others
when there is a first result. What one H100 measured of whole networks, benchmarks/h100, stands
between those of ``h100``.
"""

import json
from pathlib import Path

from readme import ROOT, between_marks, with_marks

from fbs_tutorial.bench.report import tables
from fbs_tutorial.tables import markdown


def main() -> None:
    readme = ROOT / "README.md"
    for path in results_in(ROOT / "benchmarks"):
        results = json.loads(path.read_text())
        if set(results.get("missing", ())) - results.get("left_out", {}).keys():
            raise SystemExit(f"{path} is not finished; its command goes on: {results['command']}")
        path.with_suffix(".md").write_text(f"{provenance(results)}\n\n{tables(results)}\n")
    readme.write_text(with_h100(with_tables(readme.read_text())))


def results_in(folder: Path) -> list[Path]:
    """The files with results, one for each device."""
    return sorted(folder.glob("*.json"))


def with_tables(readme: str, folder: Path = ROOT / "benchmarks") -> str:
    """The README's text with the tables of the whole networks in the results in ``folder``."""
    for path in results_in(folder):
        results, name = json.loads(path.read_text()), f"bench {path.stem}"
        results["rows"] = [row for row in results["rows"] if row["kind"] == "network"]
        readme = with_marks(readme, name, "tools/ship_bench.py", after=r"bench \w+")
        readme = between_marks(readme, name, f"{provenance(results)}\n\n{tables(results)}")
    return readme


def with_h100(readme: str, folder: Path = ROOT / "benchmarks" / "h100") -> str:
    """The README's text with the times of whole networks on one H100."""
    results = json.loads((folder / "networks.json").read_text())
    columns = [f"accelerated {d}" for d in ("1.0", "0.5", "0.25")]
    lines = []
    for row in results["rows"]:
        best = min(row["dense_nchw"], row["dense_nhwc"])
        name = [row["network"], str(row["images"]), row["products"], f"{best / 1000:.2f} ms"]
        lines.append([*name, *(f"{row[column] / best:.2f}" for column in columns)])
    head = ["network", "batch", "products", "best dense", "d = 1", "d = 0.5", "d = 0.25"]
    told = f"{results['machine']}; {results['date']}, {results['unit']}. {results['made by']}."
    told = told.replace(". a script", ". Made by a script")
    return between_marks(readme, "h100", f"{told}\n\n{markdown(head, lines)}")


def provenance(results: dict) -> str:
    """One line: where, when and with what the numbers were measured."""
    facts = results["machine"]
    where = "" if results["device"] == "cuda" else f", {facts['threads']} threads"
    versions = facts["versions"]
    busy = f"; the machine was busy: {results['busy']}" if results["busy"] else ""
    return (
        f"{facts['device']}{where}, {results['dtype']}, torch {versions['torch']}, "
        f"{facts['date']}; `{results['command']}`{busy}. Weights are {results['weights']}."
    )


if __name__ == "__main__":
    main()
