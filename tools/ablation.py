"""What distilling is worth, and what lowering the density step by step: small data, three seeds.

    python tools/ablation.py [--seconds 3600] [--out build/ablation]

Four arms from the same plain network: with and without its answers as targets, with and without
a density that falls from 1 to its target over the first 30 % of the epochs. Stopped and called
again it goes on (Fashion-MNIST in FBS_DATA). What has finished goes to benchmarks/ablation, the
table to the page of results; choices are made by its column "validation". Beside it stands the
schedule, which takes the densities one after the other and has no teacher.
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
from readme import RESULTS, between_marks  # noqa: E402

from fbs_tutorial.checkpoints import load_metrics  # noqa: E402
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
ROWS = ROOT / "benchmarks" / "ablation" / "rows.json"
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
        ROWS.parent.mkdir(exist_ok=True)
        write_atomically(ROWS, (json.dumps(rows, indent=1) + "\n").encode())
        RESULTS.write_text(with_table(RESULTS.read_text(), rows))
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


def with_table(page: str, rows: list[dict]) -> str:
    """The page of results with the table, where it comes from, and what is best."""
    first = rows[0]
    about = (
        f"Mean over the seeds in percent, and the range; {first['device']}, torch "
        f"{first['versions']['torch']}, {first['date']}, `tools/ablation.py`. *Schedule*: the "
        "shipped networks, each density from the one before, without a teacher."
    )
    return between_marks(page, "ablation", f"{about}\n\n{table(rows)}\n\n{verdict(rows)}")


def grouped(rows: list[dict]) -> dict[tuple[str, float], dict[str, list[dict]]]:
    """The rows of all seeds by data set and density, then by arm."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["data"], row["density"]][row["arm"]].append(row)
    order = sorted(groups, key=lambda key: (key[0], -key[1]))
    return {key: {arm: groups[key][arm] for arm in ARMS if arm in groups[key]} for key in order}


def table(rows: list[dict]) -> str:
    """A line for each arm at each density, and one of the schedule where there is one."""
    lines = []
    for (data, density), arms in grouped(rows).items():
        for arm, found in arms.items():
            lines.append([data, f"{density:g}", arm, str(found[0]["epochs"]), *cells(found)])
        if data == "digits":
            found = [r for m in load_metrics(data) for r in m["rows"] if r["density"] == density]
            epochs = load_metrics(data)[0]["settings"]["recipe"]["epochs"]
            lines.append([data, f"{density:g}", "schedule", str(epochs), *cells(found)])
    head = ["data", "density", "arm", "epochs", "seeds", "validation", "test"]
    return markdown([*head, "another image's gates", "the mean gate"], lines)


def cells(rows: list[dict]) -> list[str]:
    """How many seeds, and the accuracies over them."""
    shown = ("val_accuracy", "test_accuracy", "shuffled_gates", "mean_gates")
    return [str(len(rows)), *(spread([row[name] for row in rows]) for name in shown)]


def verdict(rows: list[dict]) -> str:
    """Which arm is best on validation images, and whether by more than the seeds of it differ."""
    said = []
    for (data, density), arms in grouped(rows).items():
        values = {arm: [row["val_accuracy"] for row in found] for arm, found in arms.items()}
        means = {arm: mean(accuracies) for arm, accuracies in values.items()}
        best = max(means, key=means.get)
        lead = means[best] - means["neither"]
        clear = lead > max(values[best]) - min(values[best])
        more = "more" if clear else "no more"
        ahead = f", {100 * lead:.1f} points above neither, {more} than its seeds differ by"
        said.append(f"{data} at *d* = {density:g}: {best}{ahead if best != 'neither' else ''}")
    return f"Best on validation images: {'; '.join(said)}."


def spread(values: list[float]) -> str:
    """Mean and range, in percent."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * mean(values):.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
