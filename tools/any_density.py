"""One network for every density: what closes its distance to the network trained for 0.5.

    python tools/any_density.py [--seconds 3600] [--out build/any-density]

Candidates on the digits, three seeds, as many epochs for each: a density drawn for each image or
for each batch, statistics for each density or one for all, the plain network as teacher, and a
start from the network for 0.5. Stopped and called again it goes on. What has finished is written to
benchmarks/any-density: ``rows.json`` and ``table.md``; choices are made by the validation column.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gpu import Job, Queue  # noqa: E402

from fbs_tutorial.files import write_atomically  # noqa: E402
from fbs_tutorial.tables import markdown  # noqa: E402

DENSITIES = "1,0.7,0.5,0.3"
BATCH, OWN = ["--draw", "batch"], ["--calibrated"]
START = "from the network for 0.5"
ARMS = {  # options beside those of the any-density run
    "a density per image": [],
    "the same, statistics per density": OWN,
    "a density per batch, statistics per density": [*BATCH, *OWN],
    "distilled": ["--distill"],
    START: [],
}
DEDICATED = "the network for 0.5 alone"
SEEDS = (0, 1, 2)
EPOCHS, FIRST = 24, 8  # with gates; of those the network for 0.5 has before it serves all


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="the time there is")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "any-density")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report = Queue(list(jobs(options.out)), options.out, 1, "cpu").run(options.seconds)
    failed = any(job["state"] == "failed" for job in report["jobs"].values())
    if rows := list(finished(options.out)):
        write(rows, ROOT / "benchmarks" / "any-density")
    return int(failed)


def jobs(out: Path) -> Iterator[Job]:
    """For each seed a plain network, the one for 0.5, and every candidate."""
    train = [sys.executable, "-m", "fbs_tutorial", "train", "--data", "digits"]
    for seed in SEEDS:

        def job(
            name: str, options: Sequence[object], after: Sequence[str], seed: int = seed
        ) -> Job:
            place = ["--seed", str(seed), "--out", str(out / name)]
            return Job(name, "train", [*train, *map(str, options), *place], list(after))

        plain, half, short = (f"{name}-seed{seed}" for name in ("plain", "d0.5", "d0.5-first"))
        yield job(plain, ["--plain"], [])
        start = ["--from", out / plain / "plain.safetensors"]
        yield job(half, [*start, "--density", 0.5, "--epochs", EPOCHS], [plain])
        yield job(short, [*start, "--density", 0.5, "--epochs", FIRST], [plain])
        every = ["--any-density", "--densities", DENSITIES]
        for number, (arm, options) in enumerate(ARMS.items()):
            begin, after, epochs = start, plain, EPOCHS
            if arm == START:
                begin, after = ["--from", out / short / "d0.5.safetensors"], short
                epochs = EPOCHS - FIRST
            name = f"any{number}-seed{seed}"
            yield job(name, [*begin, *every, *options, "--epochs", epochs], [after])


def finished(out: Path) -> Iterator[dict]:
    """One row for each density of every finished run."""
    for path in sorted(out.glob("*-seed*/metrics.json")):
        run = json.loads(path.read_text())
        kind = path.parent.name.partition("-seed")[0]
        if not run["finished"] or kind in ("plain", "d0.5-first"):
            continue
        arm = DEDICATED if kind == "d0.5" else list(ARMS)[int(kind.removeprefix("any"))]
        facts = {key: run[key] for key in ("device", "date", "versions", "threads", "seed")}
        facts |= {"arm": arm, "command": run["command"].replace(f"{out}/", "")}
        for row in run["rows"]:
            if row["density"] is not None:
                kept = ("density", "val_accuracy", "test_accuracy", "own_gates", "mean_gates")
                yield facts | {key: row[key] for key in kept}


def write(rows: list[dict], folder: Path) -> None:
    """The rows as JSON, and their means over the seeds as a table."""
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "rows.json", (json.dumps(rows, indent=1) + "\n").encode())
    densities = sorted({row["density"] for row in rows}, reverse=True)
    lines = []
    for arm in [DEDICATED, *ARMS]:
        mine = [row for row in rows if row["arm"] == arm]
        if not mine:
            continue
        seeds = len({row["seed"] for row in mine})
        cells = [arm, str(seeds), "" if arm == DEDICATED else _curve(mine)]
        for density in densities:
            here = [100 * row["test_accuracy"] for row in mine if row["density"] == density]
            cells.append(f"{mean(here):.1f}" if here else "")
        lines.append(cells)
    head = ["network", "seeds", "validation, mean of the densities"]
    head += [f"test at {density:g}" for density in densities]
    first = rows[0]
    text = (
        f"Digits, accuracy in percent, mean over the seeds and its standard error; {EPOCHS} epochs "
        "with gates for each network, after 20 without. Made by `tools/any_density.py` on "
        f"{first['device']}, torch {first['versions']['torch']}, {first['date']}; every row and "
        "its command is in `rows.json`.\n\n"
    )
    write_atomically(folder / "table.md", (text + markdown(head, lines) + "\n").encode())


def _curve(rows: list[dict]) -> str:
    """Mean validation accuracy over the densities, with its standard error over the seeds."""
    curves = [
        100 * mean(row["val_accuracy"] for row in rows if row["seed"] == seed)
        for seed in sorted({row["seed"] for row in rows})
    ]
    if len(curves) < 2:
        return f"{curves[0]:.1f}"
    return f"{mean(curves):.1f} ± {stdev(curves) / len(curves) ** 0.5:.1f}"


if __name__ == "__main__":
    sys.exit(main())
