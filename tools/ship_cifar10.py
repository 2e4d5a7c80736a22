"""Ship the CIFAR-10 networks: their weights, numbers, tables and picture.

    python tools/ship_cifar10.py [--runs build/gpu] [--script FOLDER]

Takes the networks of seed 0 from the finished runs that ``tools/gpu.py`` left, and what no run has
made yet from the folder of a recipe script's weights; needs the data set in FBS_DATA. What neither
has stays as it was shipped; with neither, the tables and the picture are made again. Weights go to
fbs_tutorial/assets/cifar10, matrices in half precision if that changes the accuracy on validation
images by at most 0.05 points.
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch
from matplotlib.figure import Figure
from readme import ROOT
from readme import show as show_in_results
from torch import nn

from fbs_tutorial import calibrate, count_macs, load_data, set_density
from fbs_tutorial.checkpoints import ASSETS, load_metrics, load_network, save_network
from fbs_tutorial.data import spread
from fbs_tutorial.files import write_atomically
from fbs_tutorial.lesson.plots import accuracy_over_macs
from fbs_tutorial.method.dynamics import CONTROLS
from fbs_tutorial.method.gated import evaluating, gated_layers, is_gated
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.tables import markdown
from fbs_tutorial.training.loop import EVALUATED_AT_ONCE, accuracy
from fbs_tutorial.training.measure import measure
from fbs_tutorial.training.parallel import Team
from fbs_tutorial.training.recipes import RECIPES
from fbs_tutorial.training.runs import markdown_table, provenance
from fbs_tutorial.training.splits import Splits, load_splits

SHIPPED = ASSETS / "cifar10"
RUNS = {  # by the shipped name: the run of ``tools/gpu.py``, its step, and the script's file
    "d0.5": ("fbs0.5-seed0", "d0.5", "d0.5-distilled"),
    "plain": ("plain-seed0", "plain", "plain"),
    "static0.7": ("small0.7-seed0", "static0.7", None),
    "static0.5": ("small0.5-seed0", "static0.5", None),
    "static0.5-distilled": ("small0.5-distilled-seed0", "static0.5", None),
    "static0.3": ("small0.3-seed0", "static0.3", None),
}
OURS = "the package's command"
DENSE = 174_301_824  # MACs of M-CifarNet
LOWEST_SHOWN = 0.3  # density of the network for every density; all are in benchmarks/cifar10.md
MOST_LOST = 0.0005  # of the accuracy, by half precision
CALIBRATED = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # what the network for 0.5 gets statistics of
CALIBRATION_IMAGES = 2000
TRIED_ON = 1000  # test images, evenly spread, at each density
HEAT_MAP_DENSITY = 0.5
FIRST_LOOKS = ("d0.5", "static0.5-distilled")
LOOKED_TWICE = 0.1  # of the validation images, the least confident: they set the threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--script", type=Path, help="folder of a recipe script's weights")
    options = parser.parse_args()
    found = {name: sources(name, options) for name in RUNS}
    found = {name: source for name, source in found.items() if source}
    every = finished(options.runs / "any-seed0")
    if found or every:
        splits = load_splits("cifar10", RECIPES["cifar10"], 0, False, Team())
        if every:
            ship_every(options.runs / "any-seed0", every, splits)
        for name, (path, row) in found.items():
            keep(ship(name, path, row, splits))
        keep_looks([second_look(name, splits) for name in FIRST_LOOKS])
    show()


def finished(run: Path) -> dict | None:
    """The record of a run that has come to its end."""
    path = run / "metrics.json"
    record = json.loads(path.read_text()) if path.exists() else {"finished": False}
    return record if record["finished"] else None


def sources(name: str, options: argparse.Namespace) -> tuple[Path, dict] | None:
    """The weights to ship under this name, and what is known of them, as a row."""
    run, step, file = RUNS[name]
    if record := finished(options.runs / run):
        row = record["rows"][-1] | {"step": name, "made": by_the_command(record)}
        return options.runs / run / f"{step}.safetensors", row
    if options.script and file and (path := options.script / f"{file}.safetensors").exists():
        row = {"step": name, "method": "plain" if name == "plain" else "fbs"}
        row |= {"distilled": "distilled" in file, "made": by_the_script(load_network(path)[1])}
        return path, row
    return None


def by_the_command(record: dict) -> dict:
    """How a run of the package was made; the folder of its teacher as ``tools/gpu.py`` names it."""
    words = [f"build/gpu/{'/'.join(Path(w).parts[-2:])}" if w.startswith("/") else w
             for w in record["command"].split()]  # fmt: skip
    return {
        "by": OURS,
        "how": " ".join(words),
        "epochs": str(record["settings"]["steps"][-1]["epochs"]),
        "where": f"{record['device']}, torch {record['versions']['torch']}, {record['date']}",
    }


def by_the_script(header: dict[str, str]) -> dict:
    script, _, where = header["made"].partition(" on one ")
    return {
        "by": "the recipe script, not the package's command",
        "how": Path(script).name,
        "epochs": header["epochs"],
        "where": where,
    }


def ship_every(run: Path, record: dict, splits: Splits) -> None:
    """The network for every density: its weights as they are, its rows, and who wins where."""
    shutil.copy(run / "any.safetensors", SHIPPED)
    network = load_network(SHIPPED / "any.safetensors")[0]
    winners = class_winners(network, *splits.test, load_data("cifar10")[1].classes)
    write(SHIPPED / "any-seed0.json", record | {"class_winners": winners})


def class_winners(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, classes: list[str]
) -> dict:
    """For each layer and class, in how many percent of the class's images each channel wins."""
    set_density(network, HEAT_MAP_DENSITY)
    layers = gated_layers(network)
    won = {name: [] for name in layers}
    with evaluating(network):
        for batch in images.split(EVALUATED_AT_ONCE):
            network(batch)
            for name, layer in layers.items():
                won[name].append(winner_mask(layer.saliency, HEAT_MAP_DENSITY))
    shares = {}
    for name, masks in won.items():
        mask = torch.cat(masks).float()
        rows = [100 * mask[labels == c].mean(dim=0) for c in range(len(classes))]
        shares[name] = torch.stack(rows).round().int().tolist()
    return {"density": HEAT_MAP_DENSITY, "classes": classes, "layers": shares}


def ship(name: str, path: Path, row: dict, splits: Splits) -> dict:
    """Write the weights under this name, and what is known of them with what is measured here.

    A run measured itself, before its matrices were rounded; only a script's network is measured.
    """
    network, header = load_network(path)
    network.to(memory_format=torch.channels_last)
    density = float(header["density"]) if is_gated(network) else None
    half = copy.deepcopy(network)
    for parameter in matrices(half):
        parameter.data = parameter.data.half().float()
    found = accuracy(at(half, density), *splits.validation)
    exact = row.get("val_accuracy", found if same(network, half) else None)
    exact = accuracy(at(network, density), *splits.validation) if exact is None else exact
    print(
        f"{name}: validation {exact:.2%}, with matrices in half precision {found:.2%}", flush=True
    )
    small = abs(found - exact) <= MOST_LOST
    network = half if small else network
    if name == "d0.5":
        row |= {"calibrated": calibrated(network, splits)}
    if "macs_gates" not in row:
        row |= measure(network, density, splits)
    save(name, network, row, float(header["width"]), small)
    return row


def save(name: str, network: nn.Module, row: dict, width: float, half: bool) -> None:
    facts = {"density": row["density"] if is_gated(network) else None}
    facts |= {key: row[key] for key in ("distilled", "test_accuracy")}
    facts |= {"made by": row["made"]["by"], "how": f"{row['made']['how']}; {row['made']['where']}"}
    for parameter in matrices(network) if half else ():
        parameter.data = parameter.data.half()
    file = SHIPPED / f"{name}.safetensors"
    save_network(network, file, "mcifarnet", 10, width, data="cifar10", seed=0, **facts)


def matrices(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


def at(network: nn.Module, density: float | None) -> nn.Module:
    return network if density is None else set_density(network, density)


def size(network: nn.Module) -> dict:
    """Parameters, and bytes of the weights in float32, as `measure` has them."""
    state = network.state_dict().values()
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in state),
    }


def accuracies(network: nn.Module, splits: Splits) -> dict[float, float]:
    """By density, on a tenth of the test images."""
    images = spread(splits.test, TRIED_ON)
    return {d: accuracy(at(network, d), *images) for d in CALIBRATED}


def calibrated(network: nn.Module, splits: Splits) -> dict:
    """Give one network statistics for each density, and tell what that is worth."""
    before = accuracies(network, splits)
    calibrate(network, spread(splits.train, CALIBRATION_IMAGES)[0], CALIBRATED)
    after = accuracies(network, splits)
    few = splits.test[0][:2]  # the count by gates is the same for all images
    macs = {d: count_macs(at(network, d), few).active.double().mean().item() for d in CALIBRATED}
    rows = [
        {"density": d, "before": before[d], "after": after[d], "macs_gates": macs[d]}
        for d in CALIBRATED
    ]
    return {"images": CALIBRATION_IMAGES, "tried_on": TRIED_ON, "rows": rows}


def second_look(name: str, splits: Splits) -> dict:
    """This network on every image, and the plain one on those that it is unsure about.

    Unsure is who is less confident than a tenth of the validation images; there the two networks'
    probabilities are averaged. The test images are scored once.
    """
    first, second = (load_network(SHIPPED / f"{n}.safetensors")[0] for n in (name, "plain"))
    first = at(first, 0.5 if is_gated(first) else None)
    confidence = probabilities(first, splits.validation[0]).amax(dim=1)
    threshold = confidence.quantile(LOOKED_TWICE).item()
    images, labels = splits.test
    found = probabilities(first, images)
    unsure = found.amax(dim=1) < threshold
    found[unsure] = (found[unsure] + probabilities(second, images[unsure])) / 2
    costs = [count_macs(network, images[:2]) for network in (first, second)]
    once, more = (cost.active.double().mean().item() + cost.overhead for cost in costs)
    share = unsure.double().mean().item()
    return {
        "first": name,
        "second": "plain",
        "threshold": threshold,
        "share": share,
        "test_accuracy": (found.argmax(dim=1) == labels).double().mean().item(),
        "macs": once + share * more,
        "macs_worst": once + more,
    }


def probabilities(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """``[N, 10]``"""
    with evaluating(network):
        found = [network(batch).softmax(dim=1) for batch in images.split(EVALUATED_AT_ONCE)]
    return torch.cat(found)


def keep(row: dict) -> None:
    """Put a row among those of its kind, in the place of one of the same step."""
    path = SHIPPED / f"{'static' if row['method'] == 'small' else 'schedule'}-seed0.json"
    metrics = json.loads(path.read_text()) if path.exists() else {"seed": 0, "finished": True}
    rows = [row, *(old for old in metrics.get("rows", []) if old["step"] != row["step"])]
    metrics["rows"] = sorted(rows, key=lambda row: (-(row["density"] or 2), row["step"]))
    write(path, metrics)


def write(path: Path, metrics: dict) -> None:
    write_atomically(path, (json.dumps(metrics, indent=1) + "\n").encode())


def keep_looks(found: list[dict]) -> None:
    path = SHIPPED / "schedule-seed0.json"
    write(path, json.loads(path.read_text()) | {"second_looks": found})


def show() -> None:
    """The tables and the picture, from what is shipped."""
    every, single, static = shipped()
    rows = [*single["rows"], *static["rows"]]
    texts = tables()
    for name, text in texts.items():
        show_in_results(name, text)
    made = [
        f"- `{row['step']}`, by {row['made']['by']}: {row['made']['how']}; {row['made']['where']}."
        for row in rows
    ]
    parts = [*texts.values(), "\n".join(made), provenance(every), markdown_table(every["rows"])]
    (ROOT / "benchmarks" / "cifar10.md").write_text("\n\n".join(parts))
    figure, sentence = picture()
    figure.savefig(ROOT / "benchmarks" / "cifar10.png", dpi=130)
    print(sentence)


def shipped() -> list[dict]:
    """The numbers of the network for every density, of those for one, and of the small plain."""
    return [load_metrics("cifar10", kind)[0] for kind in ("any", "schedule", "static")]


def tables() -> dict[str, str]:
    """What stands on the page of results, by the names of its marks."""
    single = shipped()[1]
    row = next(row for row in single["rows"] if "calibrated" in row)
    return {"cifar10": table(*shipped()), "cifar10 moved up": moved_up(row["calibrated"])}


def picture() -> tuple[Figure, str]:
    every, single, static = shipped()
    by_step = {row["step"]: row for row in single["rows"]}
    looks = {look["first"]: look for look in single["second_looks"]}
    small = {d: [row for row in static["rows"] if row["distilled"] == d] for d in (False, True)}
    lines = {
        "plain": with_macs([by_step["plain"]]),
        "FBS for d = 0.5, distilled": with_macs([by_step["d0.5"]]),
        "FBS, then plain for the unsure tenth": [looks["d0.5"]],
        "small plain": with_macs(small[False]),
        "small plain, distilled": with_macs(small[True]),
        "small plain, then plain for the unsure tenth": [looks["static0.5-distilled"]],
        "one FBS network for every density": with_macs(above(every["rows"], LOWEST_SHOWN)),
        "FBS for d = 0.3, not distilled": with_macs([by_step["d0.3"]]),
    }
    title = "CIFAR-10, M-CifarNet, one seed of each"
    return accuracy_over_macs(lines, {RELEASE: release(single["rows"])}, title)


RELEASE = "the authors' release"  # its documentation has these numbers


def release(rows: list[dict]) -> list[dict]:
    """The accuracies of the authors' release, at the MACs counted here for the same density."""
    published = json.loads((SHIPPED / "published.json").read_text())["tables"]
    macs = {row["density"]: row["macs"] for row in with_macs(rows)}
    found = next(table["rows"] for table in published if table["name"] == RELEASE)
    return [row | {"macs": macs[row["density"]]} for row in found]


def above(rows: list[dict], density: float) -> list[dict]:
    return [row for row in rows if row["density"] is not None and row["density"] >= density]


def with_macs(rows: list[dict]) -> list[dict]:
    """MACs by gates and those of the predictors together."""
    return [row | {"macs": row["macs_gates"] + row["macs_predictors"]} for row in rows]


def table(every: dict, single: dict, static: dict) -> str:
    """A line for each network: how it was made, accuracies in percent, costs, controls."""
    head = ["network", "made by", "epochs", "test accuracy", "MACs", "fewer", "parameters"]
    head += ["kB of weights", *(control.label for control in CONTROLS[1:]), "most winner sets"]
    plain, *gated = single["rows"]
    written = [cells("plain", plain)]
    written += [cells(f"FBS for d = {row['density']:g}", row) for row in gated]
    written += [cells(f"small plain, width {r['density']:g}", r) for r in static["rows"]]
    written += [looked_twice(look) for look in single["second_looks"]]
    network = load_network(SHIPPED / "any.safetensors")[0]
    steps = [str(step["epochs"]) for step in every["settings"]["steps"]]
    about = {"made": {"by": OURS, "epochs": " + ".join(steps)}, **size(network)}
    shown = above(every["rows"], LOWEST_SHOWN)
    written += [cells(f"one FBS network, at d = {r['density']:g}", r | about) for r in shown]
    for row in release(single["rows"]):
        name = "plain" if row["density"] is None else f"FBS for d = {row['density']:g}"
        written.append([f"{name}, published", RELEASE, "", *costs(row)])
    return markdown(head, [line + [""] * (len(head) - len(line)) for line in written])


def looked_twice(look: dict) -> list[str]:
    name = {"d0.5": "FBS for d = 0.5, distilled"}.get(look["first"], "small plain, distilled")
    return [
        f"{name}, then plain for {look['share']:.1%} of the images",
        "the two",
        "",
        *costs(look),
    ]


def costs(row: dict) -> list[str]:
    accuracy, macs = 100 * row["test_accuracy"], row["macs"]
    return [f"{accuracy:.2f}", f"{macs / 1e6:.1f} M", f"{DENSE / macs:.2f}x"]


def cells(name: str, row: dict) -> list[str]:
    line = [f"{name}, distilled" if row["distilled"] else name]
    line += [row["made"]["by"], row["made"]["epochs"], *costs(*with_macs([row]))]
    line += [f"{row['parameters']:,}", f"{row['bytes'] / 1e3:,.0f}"]
    if "own_gates" in row:
        line += [f"{100 * row[control.field]:.1f}" for control in CONTROLS[1:]]
        line.append(f"{max(row['distinct_sets'].values()):,}")
    return line


def moved_up(found: dict) -> str:
    head = ["density", "MACs by gates", "its own statistics", "those of the density"]
    rows = [
        [f"{row['density']:g}", f"{row['macs_gates'] / 1e6:.1f} M"]
        + [f"{100 * row[key]:.1f}" for key in ("before", "after")]
        for row in found["rows"]
    ]
    return markdown(head, rows)


if __name__ == "__main__":
    main()
