"""Show the times in benchmarks/ in the README: python tools/ship_bench.py, after `make bench`.

The tables of benchmarks/cpu.json stand between the marks ``<!-- bench cpu: ... -->`` and
``<!-- /bench cpu -->``, those of benchmarks/cuda.json between the same with ``cuda``.
"""

import json
import re
from pathlib import Path

from fbs_tutorial.bench import tables

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text()))


def with_tables(readme: str, folder: Path = ROOT / "benchmarks") -> str:
    """The README's text with the tables of every result in ``folder`` that it has marks for."""
    for path in sorted(folder.glob("*.json")):
        results, name = json.loads(path.read_text()), path.stem
        section = f"{provenance(results)}\n\n{tables(results)}"
        marks = rf"(<!-- bench {name}: .*? -->\n).*?(<!-- /bench {name} -->)"
        found = re.compile(marks, re.S)
        readme = found.sub(lambda m, text=section: f"{m[1]}{text}\n{m[2]}", readme)
    return readme


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
