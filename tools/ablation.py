"""What distilling is worth, and what lowering the density step by step: small data, three seeds.

    python tools/ablation.py [--seconds 3600] [--out build/ablation]

Four arms from the same plain network: with and without its answers as targets, with and without a
density that falls from 1 to its target over the first 30 % of the epochs. Stopped and called again
it goes on (Fashion-MNIST in FBS_DATA). What has finished is written to benchmarks/ablation:
``rows.json`` and ``table.md``; choices are made by the column "validation".
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gpu import Job, Queue  # noqa: E402

from fbs_tutorial.files import write_atomically  # noqa: E402
from fbs_tutorial.tables import markdown  # noqa: E402

ARMS = {  # share of the teacher in the loss, share of the epochs in which the density falls
    "neither": (0.0, 0.0),
    "density lowered": (0.0, 0.3),
    "distilled": (0.7, 0.0),
    "both": (0.7, 0.3),
}
DATA = {  # densities, and epochs where they are not the recipe's
    "digits": ((0.5, 0.3, 0.2), None),
    "fashion_mnist": ((0.3,), 6),
}
SEEDS = (0, 1, 2)
KEPT = ("val_accuracy", "test_accuracy", "own_gates", "shuffled_gates", "mean_gates")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="the time there is")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ablation")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report = Queue(list(jobs(options.out)), options.out, 1, "cpu").run(options.seconds)
    failed = any(job["state"] == "failed" for job in report["jobs"].values())
    if rows := list(finished(options.out)):
        write(rows, ROOT / "benchmarks" / "ablation")
    return int(failed)


def jobs(out: Path) -> Iterator[Job]:
    """A plain network for each data set and seed, and four arms at each density from it."""
    train = [sys.executable, "-m", "fbs_tutorial", "train"]
    for data, (densities, epochs) in DATA.items():
        length = [] if epochs is None else ["--epochs", str(epochs)]
        for seed in SEEDS:
            common = [*train, "--data", data, "--seed", str(seed), *length]
            plain = f"{data}-plain-seed{seed}"
            yield Job(plain, "train", [*common, "--plain", "--out", str(out / plain)])
            start = ["--from", str(out / plain / "plain.safetensors"), "--distill"]
            for d in densities:
                for arm, (weight, ramp) in ARMS.items():
                    name = f"{data}-d{d:g}-{arm.replace(' ', '-')}-seed{seed}"
                    how = ["--density", d, "--teacher-weight", weight, "--ramp", ramp]
                    command = [*common, *start, *map(str, how), "--out", str(out / name)]
                    yield Job(name, "train", command, [plain])


def finished(out: Path) -> Iterator[dict]:
    """One row per finished run of an arm."""
    for path in sorted(out.glob("*-d*/metrics.json")):
        run = json.loads(path.read_text())
        if not run["finished"]:
            continue
        settings, row = run["settings"], run["rows"][-1]
        how = settings["teacher_weight"], settings["ramp"]
        arm = next(name for name, values in ARMS.items() if values == how)
        command = run["command"].replace(f"{out}/", "")  # whoever made it, wherever
        facts = {key: run[key] for key in ("device", "date", "versions", "threads")}
        facts |= {"data": settings["data"], "density": row["density"], "seed": run["seed"]}
        facts |= {"epochs": settings["steps"][-1]["epochs"], "arm": arm}
        yield facts | {key: row[key] for key in KEPT} | {"command": command}


def write(rows: list[dict], folder: Path) -> None:
    """The rows as JSON, and their means over the seeds as a table."""
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "rows.json", (json.dumps(rows, indent=1) + "\n").encode())
    groups = defaultdict(list)
    for row in rows:
        groups[row["data"], row["density"], row["epochs"], row["arm"]].append(row)
    order = list(ARMS)
    keys = sorted(groups, key=lambda key: (key[0], -key[1], order.index(key[3])))
    head = ["data", "density", "epochs", "arm", "seeds", "validation", "test"]
    head += ["another image's gates", "the mean gate"]
    shown = ("val_accuracy", "test_accuracy", "shuffled_gates", "mean_gates")
    lines = [
        [key[0], f"{key[1]:g}", str(key[2]), key[3], str(len(groups[key]))]
        + [spread([row[name] for row in groups[key]]) for name in shown]
        for key in keys
    ]
    first = rows[0]
    text = (
        "Accuracy in percent: mean over the seeds, and their range. Made by `tools/ablation.py` on "
        f"{first['device']}, torch {first['versions']['torch']}, {first['date']}; every row and "
        "its command is in `rows.json`.\n\n"
    )
    write_atomically(folder / "table.md", (text + markdown(head, lines) + "\n").encode())


def spread(values: list[float]) -> str:
    """Mean and range, in percent."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * mean(values):.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
