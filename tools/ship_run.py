"""Show the numbers of one run: python tools/ship_run.py RUN NAME

A finished run folder's metrics.json, table and plot go to benchmarks/NAME, and the table to the
page of results between the marks of ``run NAME``. Weights stay where they are.
"""

import json
import shutil
import sys
from pathlib import Path

from readme import ROOT, show

from fbs_tutorial.training.runs import provenance


def main(run: Path, name: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    if not metrics["finished"]:
        raise SystemExit(f"{run} is not finished; its command goes on: {metrics['command']}")
    show(f"run {name}", f"{provenance(metrics)}\n\n{(run / 'table.md').read_text()}")
    folder = ROOT / "benchmarks" / name
    folder.mkdir(exist_ok=True)
    for file in ("metrics.json", "table.md", "accuracy_macs.png"):
        shutil.copy(run / file, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
