"""What the gain of the predictors' weights and the penalty do: digits, three seeds each.

    python tools/gains.py [--seconds 1200]

Each row is one network for one density, from the shipped plain one, distilled, its density lowered
from 1. Stopped and called again it goes on. What has finished is in
fbs_tutorial/assets/lesson/gains.json; all accuracies are of the 197 validation images, as they
serve to choose.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from itertools import product

import torch

from fbs_tutorial import convert, how_dynamic, load_data, load_pretrained
from fbs_tutorial.bench.timing import machine
from fbs_tutorial.checkpoints import ASSETS
from fbs_tutorial.data import stratified_split
from fbs_tutorial.files import write_atomically
from fbs_tutorial.method.convert import random_predictor
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.training.loop import fit
from fbs_tutorial.training.recipes import RECIPES, Step

FILE = ASSETS / "lesson" / "gains.json"
GAINS = (0.2, 1.0, 2.0, 5.0, 10.0)
PENALTIES = (1e-8, 1e-3, 1e-2)
SEEDS = (0, 1, 2)
DENSITY = 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=1200.0, help="the time there is")
    end = time.monotonic() + parser.parse_args(arguments).seconds
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    done = {(row["seed"], row["gain"], row["penalty"]) for row in rows}
    for key in product(SEEDS, GAINS, PENALTIES):
        if key not in done and time.monotonic() < end:
            rows.append(measured(*key))
            write(rows)
    return 0


def measured(seed: int, gain: float, penalty: float) -> dict:
    """Train one network and see what its gates know."""
    train, _ = load_data("digits")
    images, labels = train.tensors
    recipe = dataclasses.replace(RECIPES["digits"], gain=gain, penalty=penalty)
    rest, held_out = stratified_split(labels, recipe.validation, seed=0)
    data, validation = (images[rest], labels[rest]), (images[held_out], labels[held_out])
    plain = load_pretrained("digits", "plain")
    torch.manual_seed(seed)
    network = convert(plain)
    for layer in gated_layers(network).values():
        random_predictor(layer, gain)
    epochs, lr = recipe.distilled_epochs, recipe.distilled_lr
    step = Step(f"d{DENSITY:g}", "gated", DENSITY, epochs, lr, distilled=True)
    fit(network, step, recipe, data, validation, seed, teacher=plain)
    control = how_dynamic(network, *validation, reference=data[0])
    with torch.no_grad():
        network.eval()(validation[0])
    g = [layer.saliency for layer in gated_layers(network).values()]
    return {
        "seed": seed, "gain": gain, "penalty": penalty, "own_gates": control.own,
        "shuffled_gates": control.shuffled, "mean_gates": control.mean,
        "mean_winners": control.mean_winners, "distinct_sets": control.distinct_sets,
        "mean_g": [each.mean().item() for each in g],
        "share_above_zero": [(each > 0).double().mean().item() for each in g],
    }  # fmt: skip


def write(rows: list[dict]) -> None:
    facts = {"command": "python tools/gains.py", "data": "digits", "density": DENSITY}
    text = json.dumps({**facts, "machine": machine(), "rows": rows}, indent=1)
    write_atomically(FILE, (text + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
