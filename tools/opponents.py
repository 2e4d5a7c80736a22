"""FBS against networks of equal MACs where training takes long: CIFAR-10 and Tiny ImageNet.

    python tools/opponents.py [--seconds 3600] [--only cifar10,resnet18,mobilenet_v2]

Three comparisons, one seed each, a network after the other. On CIFAR-10 the shipped plain network
gets gates for d = 0.5, or loses half the channels of every layer, those of the smallest scales;
both are then taught by it for as many epochs. On fifty classes of Tiny ImageNet, at 64 pixels,
ResNet-18 and MobileNetV2 get gates, taught by the plain one; the narrow network of the same MACs
has as many epochs as both together, taught by it too. The data sets lie in ``build/data``, which
may be a link.

Stopped and called again it goes on. What has finished is written to ``benchmarks/opponents``.
"""

import argparse
import json
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gpu import Job, Queue  # noqa: E402

from fbs_tutorial import count_macs  # noqa: E402
from fbs_tutorial.files import write_atomically  # noqa: E402
from fbs_tutorial.models import MODELS  # noqa: E402
from fbs_tutorial.tables import markdown  # noqa: E402

DATA, OUT, STORED = Path("build/data"), Path("build/opponents"), Path("benchmarks/opponents")
CIFAR = Path("fbs_tutorial/assets/cifar10/plain.safetensors")  # all of them from ROOT
TINY, CLASSES, SIZE = DATA / "tiny-imagenet-50", 50, 64
PLAIN, GATED, CUT_EPOCHS = 6, 4, 2  # epochs
DENSITIES = {"resnet18": (0.4,), "mobilenet_v2": (0.75, 0.5)}
PARTS = ("cifar10", *DENSITIES)
COMMAND = [sys.executable, "-m", "fbs_tutorial"]
ABOUT = {
    "cifar10": "CIFAR-10, M-CifarNet",
    "resnet18": "Tiny ImageNet, 50 classes, ResNet-18",
    "mobilenet_v2": "Tiny ImageNet, 50 classes, MobileNetV2",
}
FORMS = {"plain": "plain", "cut": "cut to half the channels", "narrow": "narrow, of equal MACs"}
CONTROLS = {
    "shuffled_gates": "another image's gates",
    "mean_gates": "mean gate",
    "mean_winners": "the mean gate's winners",
}
FACTS = ("device", "date", "versions", "threads", "seed", "command")
KEPT = ("density", "val_accuracy", "test_accuracy", "macs_gates", "macs_predictors")
KEPT += ("own_gates", *CONTROLS, "precision")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="the time there is")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, in this order")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    os.chdir(ROOT)
    os.environ["FBS_DATA"] = str(DATA)
    OUT.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    for make in (taught, rivals):  # a rival is as wide as the trained one is dear
        made = [job for part in options.only.split(",") for job in make(part)]
        report = Queue(made, OUT, 1, "cpu").run(end - time.monotonic())
    if rows := list(finished(OUT)):
        write(beside(rows, STORED), STORED)
    return int(any(job["state"] == "failed" for job in report["jobs"].values()))


def taught(part: str) -> Iterator[Job]:
    """The plain network, and those that it teaches: with gates, and cut ones on CIFAR-10."""
    if part == "cifar10":
        cut = OUT / "cut.safetensors"
        words = ["--method", "slimming", "--percent", "50", "--per-layer", "--from", str(CIFAR)]
        yield Job("cut", "prune", [*COMMAND, "prune", *words, "--out", str(cut)])
        words = ["--data", "cifar10", *teacher(CIFAR), "--epochs", CUT_EPOCHS, "--lr", 0.05]
        yield train("cifar10-cut", *words, "--from", cut, after=["cut"])
        yield train("cifar10-fbs0.5", *words, "--from", CIFAR, "--density", 0.5)
        return
    yield train(f"{part}-plain", *photographs(part), "--plain", "--epochs", PLAIN)
    for d in DENSITIES[part]:
        words = ["--from", plain(part), "--density", d, "--epochs", GATED]
        words = [*photographs(part), *teacher(plain(part)), *words]
        yield train(f"{part}-fbs{d:g}", *words, after=[f"{part}-plain"])


def rivals(part: str) -> Iterator[Job]:
    """For each network with gates that has been trained, the narrow one of the same MACs."""
    rows = [row for row in finished(OUT) if row["part"] == part and row["density"] is not None]
    for row in rows if part in DENSITIES else ():
        width = width_for(part, row["macs_gates"] + row["macs_predictors"])
        words = ["--static", "--densities", width, "--epochs", PLAIN + GATED]
        words = [*photographs(part), *teacher(plain(part)), *words]
        yield train(row["name"].replace("fbs", f"{part}-narrow"), *words)


def train(name: str, *words: object, after: Sequence[str] = ()) -> Job:
    place = ["--no-progress", "--seed", "0", "--out", str(OUT / name)]
    return Job(name, "train", [*COMMAND, "train", *map(str, words), *place], list(after))


def plain(part: str) -> Path:
    return OUT / f"{part}-plain" / "plain.safetensors"


def photographs(part: str) -> list[object]:
    return ["--data", TINY, "--model", part, "--size", SIZE]


def teacher(file: Path) -> list[object]:
    return ["--distill", "--teacher", file]


def width_for(model: str, target: float) -> float:
    """The width, to a thousandth, of the narrow network with so many MACs, or as near as it is."""
    image = torch.rand(1, 3, SIZE, SIZE)

    def macs(thousandths: int) -> int:
        return count_macs(MODELS[model](CLASSES, thousandths / 1000).eval(), image).dense

    above = bisect_left(range(1001), target, lo=50, hi=1000, key=macs)
    return min(above - 1, above, key=lambda width: abs(macs(width) - target)) / 1000


def finished(out: Path) -> Iterator[dict]:
    """One row for each network of every run that has finished."""
    for part in PARTS:
        for path in sorted(out.glob(f"{part}-*/metrics.json")):
            run = json.loads(path.read_text())
            facts = {"part": part, "name": path.parent.name.removeprefix(f"{part}-")}
            facts |= {key: run[key] for key in FACTS}
            facts["epochs"] = sum(step["epochs"] for step in run["settings"]["steps"])
            for row in run["rows"] if run["finished"] else ():
                if row["step"] != "given":
                    yield facts | {key: row[key] for key in KEPT if key in row}


def beside(rows: list[dict], folder: Path) -> list[dict]:
    """The rows, and the stored ones of runs that are not among them, perhaps of other machines."""
    made, path = {(row["part"], row["name"]) for row in rows}, folder / "rows.json"
    stored = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in stored if (row["part"], row["name"]) not in made]
    return sorted(kept + rows, key=lambda row: (PARTS.index(row["part"]), row["name"]))


def write(rows: list[dict], folder: Path) -> None:
    """The rows as JSON, and as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "rows.json", (json.dumps(rows, indent=1) + "\n").encode())
    lines = []
    for row in rows:
        macs = row["macs_gates"] + row["macs_predictors"]
        lines.append(
            [
                ABOUT[row["part"]],
                called(row),
                str(row["epochs"]),
                f"{macs / 1e6:.1f} M",
                f"{row['val_accuracy']:.1%}",
                f"{row['test_accuracy']:.1%}",
                *(f"{row[key]:.1%}" if key in row else "" for key in CONTROLS),
            ]
        )
    head = ["data and network", "form", "epochs", "MACs", "validation", "test", *CONTROLS.values()]
    machines = dict.fromkeys(
        f"{row['device']} with {row['threads']} threads, convolutions in "
        f"{row.get('precision', 'float32')}, torch {row['versions']['torch']}, {row['date']}"
        for row in rows
    )
    text = (
        f"One seed. Made by `tools/opponents.py` on {'; '.join(machines)}; `rows.json` has the "
        "command of each network. Epochs are those of the row's own run: networks with gates and "
        "the cut one "
        "begin with the plain network, after its epochs.\n\n"
    )
    write_atomically(folder / "table.md", (text + markdown(head, lines) + "\n").encode())


def called(row: dict) -> str:
    """The form of a row's network in words."""
    if row["density"] is not None:
        return f"FBS, d = {row['density']:g}"
    return FORMS[row["name"].rstrip("0123456789.")]


if __name__ == "__main__":
    sys.exit(main())
