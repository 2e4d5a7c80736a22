"""Show the times in benchmarks/ as tables: python tools/ship_bench.py, after `make bench`.

All rows of benchmarks/cpu.json go to benchmarks/cpu.md; those of whole networks stand in the README
between the marks ``<!-- bench cpu: ... -->`` and ``<!-- /bench cpu -->``. The same with ``cuda``,
whose marks are put behind the others when there is a first result.
"""

import json
import re
from pathlib import Path

from fbs_tutorial.bench.run import tables

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        results = json.loads(path.read_text())
        path.with_suffix(".md").write_text(f"{provenance(results)}\n\n{tables(results)}\n")
    readme.write_text(with_tables(readme.read_text()))


def with_tables(readme: str, folder: Path = ROOT / "benchmarks") -> str:
    """The README's text with the networks' tables of the results in ``folder`` it has marks for."""
    for path in sorted(folder.glob("*.json")):
        results, name = json.loads(path.read_text()), path.stem
        results["rows"] = [row for row in results["rows"] if row["kind"] == "network"]
        section = f"{provenance(results)}\n\n{tables(results)}"
        marks = rf"(<!-- bench {name}: .*? -->\n).*?(<!-- /bench {name} -->)"
        found = re.compile(marks, re.S)
        if not found.search(readme):
            made = f"<!-- bench {name}: made by tools/ship_bench.py -->\n<!-- /bench {name} -->"
            readme = re.sub(r"(.*<!-- /bench \w+ -->\n)", rf"\1\n{made}\n", readme, flags=re.S)
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
