"""Image by image: who is answered correctly with its own channels only, who with the same for all?

    python tools/pairs.py [--densities 0.7,0.5,0.3,0.2]

The shipped any-density network runs twice on the test images of CIFAR-10 that `how_dynamic` was
given when it was trained. Its rows hold two accuracies; here are the images behind their
difference. The file is fbs_tutorial/assets/lesson/pairs-cifar10.json, and densities that it has
are not measured again.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fbs_tutorial import load_pretrained, set_density
from fbs_tutorial.bench.timing import machine
from fbs_tutorial.checkpoints import ASSETS
from fbs_tutorial.data import spread
from fbs_tutorial.files import write_atomically
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.training.parallel import join_team
from fbs_tutorial.training.recipes import RECIPES
from fbs_tutorial.training.splits import CONTROL_IMAGES, load_splits

FILE = ASSETS / "lesson" / "pairs-cifar10.json"
DENSITIES = "0.7,0.5,0.3,0.2"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--densities", default=DENSITIES, help=f"by default {DENSITIES}")
    wanted = [float(d) for d in parser.parse_args(arguments).densities.split(",")]
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    network = load_pretrained("cifar10")
    with join_team() as team:
        splits = load_splits("cifar10", RECIPES["cifar10"], 0, False, team)
    for density in sorted(set(wanted) - {row["density"] for row in rows}, reverse=True):
        part = spread(splits.test, CONTROL_IMAGES)
        rows.append({"density": density, **pairs(network, density, part, splits.reference)})
        write(sorted(rows, key=lambda row: row["density"]))
    return 0


def pairs(
    network: nn.Module, density: float, part: tuple[Tensor, Tensor], reference: Tensor
) -> dict[str, int]:
    """How many images are correct in both runs, in one only, and in neither."""
    set_density(network, density)
    images, labels = part
    own = correct(network, images, labels)
    gates: dict[str, Tensor] = dict.fromkeys(gated_layers(network), torch.zeros(()))
    for batch in reference.split(200):
        correct(network, batch, torch.zeros(len(batch)))
        for name, layer in gated_layers(network).items():
            gates[name] = gates[name] + layer.gate.sum(dim=0, keepdim=True)
    winners = {name: winner_mask(gate, density) for name, gate in gates.items()}
    with forced_gates(network, winners):
        same = correct(network, images, labels)
    return {
        "both": int((own & same).sum()), "own_only": int((own & ~same).sum()),
        "same_only": int((same & ~own).sum()), "neither": int((~own & ~same).sum()),
    }  # fmt: skip


@torch.no_grad()
def correct(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images get the correct answer, bool ``[N]``."""
    answers = [network(batch).argmax(dim=1) for batch in images.split(200)]
    return torch.cat(answers) == labels


def write(rows: list[dict]) -> None:
    facts = {"command": "python tools/pairs.py", "data": "cifar10", "network": "any", "seed": 0}
    text = json.dumps({**facts, "machine": machine(), "rows": rows}, indent=1)
    write_atomically(FILE, f"{text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
