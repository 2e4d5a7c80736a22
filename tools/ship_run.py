"""Show the numbers of one run: python tools/ship_run.py RUN NAME

A finished run folder's metrics.json, table and plot go to benchmarks/NAME, and the table to the
README between the marks ``<!-- run NAME: ... -->`` and ``<!-- /run NAME -->``. Weights stay where
they are.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from fbs_tutorial.training.runs import provenance

ROOT = Path(__file__).parents[1]


def main(run: Path, name: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    if not metrics["finished"]:
        raise SystemExit(f"{run} is not finished; its command goes on: {metrics['command']}")
    readme = (ROOT / "README.md").read_text()
    marks = re.compile(rf"(<!-- run {name}: .*? -->\n).*?(<!-- /run {name} -->)", re.S)
    table = (run / "table.md").read_text()
    text = f"{provenance(metrics)}\n\n{table}"
    readme, count = marks.subn(lambda found: f"{found[1]}{text}{found[2]}", readme)
    if count != 1:
        raise SystemExit(f"README.md needs the marks of {name} once")
    folder = ROOT / "benchmarks" / name
    folder.mkdir(exist_ok=True)
    for file in ("metrics.json", "table.md", "accuracy_macs.png"):
        shutil.copy(run / file, folder)
    (ROOT / "README.md").write_text(readme)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
