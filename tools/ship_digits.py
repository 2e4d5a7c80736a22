"""Train the digits networks that the package ships, with its own command, and draw their picture.

    python tools/ship_digits.py

Three seeds of the schedule and of the any-density network. The weights of seed 0 and the numbers
of all three go to fbs_tutorial/assets/digits, the picture to benchmarks/.
"""

import shutil
from pathlib import Path

from fbs_tutorial.checkpoints import ASSETS, load_metrics
from fbs_tutorial.plots import accuracy_and_macs
from fbs_tutorial.training import train

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "build" / "digits"


def main() -> None:
    shutil.rmtree(RUNS, ignore_errors=True)
    assets = ASSETS / "digits"
    for seed in (0, 1, 2):
        for kind in ("schedule", "any"):
            run = RUNS / f"{kind}-seed{seed}"
            train("digits", run, seed=seed, any_density=kind == "any")
            shutil.copy(run / "metrics.json", assets / f"{run.name}.json")
            if seed == 0:
                for weights in run.glob("*.safetensors"):
                    shutil.copy(weights, assets)
    runs = [metrics["rows"] for metrics in load_metrics("digits")]
    figure, sentence = accuracy_and_macs(runs, "Handwritten digits, median and range of 3 seeds")
    figure.savefig(ROOT / "benchmarks" / "digits.png", dpi=130)
    print(sentence)


if __name__ == "__main__":
    main()
