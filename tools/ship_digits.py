"""Train the digits networks that the package ships, with its own command, and draw their picture.

    python tools/ship_digits.py

Three seeds of the schedule, of the any-density network and of small plain networks of the same
cost. The weights of seed 0 (but not the small ones) and the numbers of all seeds go to
fbs_tutorial/assets/digits, the picture to benchmarks/, the table to the page of results.
"""

import shutil
from statistics import median

from readme import RESULTS, ROOT, between_marks

from fbs_tutorial.checkpoints import ASSETS, load_metrics
from fbs_tutorial.lesson.plots import accuracy_and_macs
from fbs_tutorial.method.dynamics import CONTROLS
from fbs_tutorial.tables import markdown
from fbs_tutorial.training.train import train

RUNS = ROOT / "build" / "digits"


def main() -> None:
    shutil.rmtree(RUNS, ignore_errors=True)
    assets = ASSETS / "digits"
    for seed in (0, 1, 2):
        for kind in ("schedule", "any", "static"):
            run = RUNS / f"{kind}-seed{seed}"
            train("digits", run, seed=seed, any_density=kind == "any", static=kind == "static")
            shutil.copy(run / "metrics.json", assets / f"{run.name}.json")
            if seed == 0 and kind != "static":
                for weights in run.glob("*.safetensors"):
                    shutil.copy(weights, assets)
    RESULTS.write_text(with_table(RESULTS.read_text()))
    runs = [metrics["rows"] for metrics in load_metrics("digits")]
    static = [metrics["rows"] for metrics in load_metrics("digits", "static")]
    figure, sentence = accuracy_and_macs(
        runs, static, "Handwritten digits, median and range of 3 seeds"
    )
    figure.savefig(ROOT / "benchmarks" / "digits.png", dpi=130)
    print(sentence)


def with_table(page: str) -> str:
    """``page`` with the table of the shipped numbers, medians and ranges of the seeds."""
    runs = [metrics["rows"] for metrics in load_metrics("digits")]
    small = [metrics["rows"] for metrics in load_metrics("digits", "static")]
    head = ["density", *(control.label for control in CONTROLS), "small plain network"]
    head += ["MACs, and predictors", "most winner sets in a layer"]
    fields = ["test_accuracy", *(control.field for control in CONTROLS[1:])]
    lines = []
    for rows in zip(*runs, strict=True):
        d = rows[0]["density"]
        cells = ["plain" if d is None else f"{d:g}"]
        for key in fields:
            cells.append(spread([row[key] for row in rows if key in row]))
        cells.append(
            spread([r["test_accuracy"] for run in small for r in run if r["density"] == d])
        )
        cells.append(f"{rows[0]['macs_gates']:,.0f} + {rows[0]['macs_predictors']:,}")
        sets = [max(row["distinct_sets"].values()) for row in rows if "distinct_sets" in row]
        lines.append([*cells, f"{median(sets)}" if sets else ""])
    return between_marks(page, "digits", markdown(head, lines))


def spread(shares: list[float]) -> str:
    """The median in percent, with the range if it is wider than a point."""
    if not shares:
        return ""
    low, high = 100 * min(shares), 100 * max(shares)
    spread = f" ({low:.0f} to {high:.0f})" if high - low > 1 else ""
    return f"{100 * median(shares):.1f}{spread}"


if __name__ == "__main__":
    main()
