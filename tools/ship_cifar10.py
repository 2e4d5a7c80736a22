"""Ship the CIFAR-10 networks: their weights, numbers, tables and picture.

    python tools/ship_cifar10.py

Reads the finished runs of the README's section "CIFAR-10" under runs/, and the data set in
FBS_DATA; what is not under runs/ stays as it was shipped. The weights of seed 0 go to
fbs_tutorial/assets/cifar10 in half precision, if that changes the accuracy on validation images
by at most 0.05 points, with the numbers of every run; the tables to benchmarks/cifar10.md and
README.md; the picture to benchmarks/. Times of the any-density network are measured when it is
shipped, so the machine must be idle then.
"""

import copy
import itertools
import json
from pathlib import Path

import torch
from readme import ROOT
from readme import show as show_in_readme
from torch import Tensor, nn

from fbs_tutorial import accelerate, load_data, set_density
from fbs_tutorial.bench.timing import busy, machine, race
from fbs_tutorial.checkpoints import (
    ASSETS,
    load_metrics,
    load_network,
    save_network,
)
from fbs_tutorial.data import as_tensors, spread, stratified_split
from fbs_tutorial.files import write_atomically
from fbs_tutorial.lesson.plots import beside_published
from fbs_tutorial.method.dynamics import CONTROLS
from fbs_tutorial.method.gated import evaluating, gated_layers
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.tables import markdown
from fbs_tutorial.training.loop import accuracy
from fbs_tutorial.training.recipes import RECIPES
from fbs_tutorial.training.runs import markdown_table, provenance

RUNS, SHIPPED = ROOT / "runs", ASSETS / "cifar10"
NAME = "cifar10-mcifarnet"
HEAT_MAP_DENSITY = 0.5
TIMED = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2)
MOST_LOST = 0.0005  # of the accuracy, by half precision
KEPT = ("seed", "device", "threads", "date", "versions", "finished")  # of several runs, the last's


def main() -> None:
    train_set, test_set = load_data("cifar10")
    images, labels = as_tensors(train_set)
    held_out = stratified_split(labels, RECIPES["cifar10"].validation, 0)[1]
    validation, test = (images[held_out], labels[held_out]), as_tensors(test_set)

    for folder, metrics in finished("any"):
        if metrics["seed"] == 0:
            if reason := busy():
                raise SystemExit(f"times cannot be measured, the machine is busy: {reason}")
            ship_weights(folder, ("plain", "any"), validation)
            network = load_network(SHIPPED / "any.safetensors")[0]
            dense = load_network(SHIPPED / "plain.safetensors")[0]
            metrics["class_winners"] = class_winners(network, *test, test_set.classes)
            metrics["times"] = times(dense, network, test[0])
        write(f"any-seed{metrics['seed']}.json", metrics)

    steps = [step for step in finished("finetune-d*") if step[1]["seed"] == 0]
    if steps:  # a schedule in single steps, each from the network before
        steps.sort(key=lambda step: -step[1]["rows"][-1]["density"])
        rows = [row for row in load_metrics("cifar10", "any")[0]["rows"] if row["density"] is None]
        rows += [metrics["rows"][-1] for _, metrics in steps]
        command = " && ".join(metrics["command"] for _, metrics in steps)
        last = {key: steps[-1][1][key] for key in KEPT}
        write("schedule-seed0.json", {"command": command, **last, "rows": rows})
        for folder, metrics in steps:
            ship_weights(folder, (f"d{metrics['rows'][-1]['density']:g}",), validation)

    for _, metrics in finished("static"):
        write(f"static-seed{metrics['seed']}.json", metrics)
    show()


def finished(kind: str) -> list[tuple[Path, dict]]:
    """The finished runs of a kind under runs/, and their metrics."""
    paths = sorted(RUNS.glob(f"{NAME}-{kind}-seed*/metrics.json"))
    runs = [(path.parent, json.loads(path.read_text())) for path in paths]
    for run, metrics in runs:
        if not metrics["finished"]:
            print(f"{run} is not finished and stays out; its command goes on: {metrics['command']}")
    return [(run, metrics) for run, metrics in runs if metrics["finished"]]


def write(name: str, metrics: dict) -> None:
    write_atomically(SHIPPED / name, (json.dumps(metrics, indent=1) + "\n").encode())


def ship_weights(run: Path, names: tuple[str, ...], validation: tuple[Tensor, Tensor]) -> None:
    """Copy weights of a run in half precision, unless that costs accuracy."""
    for name in names:
        network, header = load_network(run / f"{name}.safetensors")
        rounded = copy.deepcopy(network).half().float()
        densities = {"plain": [None], "any": [1.0, 0.5, 0.3]}.get(name, [header["density"]])
        pairs = [[accuracy(at(n, d), *validation) for n in (network, rounded)] for d in densities]
        half = all(abs(after - before) <= MOST_LOST for before, after in pairs)
        said = ", ".join(f"{before:.2%} and {after:.2%}" for before, after in pairs)
        print(f"{name}: accuracy in float32 and rounded to half precision: {said}")
        model, classes = header.pop("model"), int(header.pop("num_classes"))
        width, _ = float(header.pop("width")), header.pop("gated")
        network = network.half() if half else network
        save_network(network, SHIPPED / f"{name}.safetensors", model, classes, width, **header)


def at(network: nn.Module, density: float | str | None) -> nn.Module:
    return network if density is None else set_density(network, float(density))


def class_winners(network: nn.Module, images: Tensor, labels: Tensor, classes: list[str]) -> dict:
    """For each layer and class, in how many percent of the class's images each channel wins."""
    set_density(network, HEAT_MAP_DENSITY)
    layers = gated_layers(network)
    won = {name: [] for name in layers}
    with evaluating(network):
        for batch in images.split(250):
            network(batch)
            for name, layer in layers.items():
                won[name].append(winner_mask(layer.saliency, HEAT_MAP_DENSITY))
    shares = {}
    for name, masks in won.items():
        mask = torch.cat(masks).float()
        rows = [100 * mask[labels == c].mean(dim=0) for c in range(len(classes))]
        shares[name] = torch.stack(rows).round().int().tolist()
    return {"density": HEAT_MAP_DENSITY, "classes": classes, "layers": shares}


def times(dense: nn.Module, network: nn.Module, images: Tensor) -> dict:
    """Milliseconds a call on this machine's CPU, medians and quartiles, on real test images."""
    measured = {"machine": machine()}
    nhwc = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    fast = {d: accelerate(set_density(copy.deepcopy(network), d)) for d in TIMED}
    masked = set_density(network.eval(), 0.5)
    for batch in (1, 32):
        inputs = spread((images, torch.zeros(len(images))), 64 * batch)[0].split(batch)
        variants = {"dense": run(dense, inputs), "masked 0.5": run(masked, inputs)}
        last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        variants["dense, channels_last"] = run(nhwc, last)
        variants |= {f"{d:g}": run(module, inputs) for d, module in fast.items()}
        timings = race(variants, seconds=20)
        measured[f"batch {batch}"] = {
            name: [1000 * t for t in (timing.first_quartile, timing.median, timing.third_quartile)]
            for name, timing in timings.items()
        }
    return measured


def run(network: nn.Module, inputs):
    """A function that runs the network on its inputs, one after the other, for ever."""
    turn = itertools.cycle(inputs)
    return lambda: network(next(turn))


def show() -> None:
    """The tables and the picture, from what is shipped."""
    any_density, schedule = load_metrics("cifar10", "any"), load_metrics("cifar10", "schedule")
    published = json.loads((SHIPPED / "published.json").read_text())
    lines = {"one network for every density": any_density[0]["rows"]}
    static = load_metrics("cifar10", "static")
    if schedule:
        lines["a network for each density"] = schedule[0]["rows"]
    if static:
        lines["small plain networks of the same MACs"] = static[0]["rows"]
    figure, sentence = beside_published(lines, published["tables"], "CIFAR-10, M-CifarNet")
    figure.savefig(ROOT / "benchmarks" / "cifar10.png", dpi=130)
    print(sentence)
    text = table(any_density[0], lines, published["tables"])
    runs = [*any_density, *schedule, *static]
    parts = [text, *(f"{provenance(m)}\n\n{markdown_table(m['rows'])}" for m in runs)]
    (ROOT / "benchmarks" / "cifar10.md").write_text("\n\n".join(parts))
    show_in_readme("cifar10", text)


def table(metrics: dict, lines: dict[str, list[dict]], published: list[dict]) -> str:
    """Accuracies in percent beside the published ones, MACs, the control, and times."""
    lines = lines | {f"published: {table['name']}": table["rows"] for table in published}
    by_density = [{row["density"]: row for row in rows} for rows in lines.values()]
    controls = CONTROLS[1:]  # the first, own gates, is the test accuracy
    head = ["density", *lines, "MACs by gates", "by zeros", "fewer"]
    head += [*(control.label for control in controls), "most winner sets", "ms, 1 image", "ms, 32"]
    written = []
    for row in metrics["rows"]:
        d = row["density"]
        accuracies = [f"{100 * t[d]['test_accuracy']:.2f}" if d in t else "" for t in by_density]
        macs, zeros = row["macs_gates"], row["macs_zeros"]
        costs = [f"{macs / 1e6:.1f} M", f"{zeros / 1e6:.1f} M", f"{row['macs_dense'] / macs:.2f}x"]
        control = [f"{100 * row[c.field]:.1f}" if c.field in row else "" for c in controls]
        sets = f"{max(row['distinct_sets'].values()):,}" if "distinct_sets" in row else ""
        clocks = [milliseconds(metrics["times"][f"batch {batch}"], d) for batch in (1, 32)]
        name = "plain" if d is None else f"{d:g}"
        written.append([name, *accuracies, *costs, *control, sets, *clocks])
    return markdown(head, written)


def milliseconds(measured: dict, density: float | None) -> str:
    """The median; of the dense network that of its faster memory layout."""
    dense = [measured["dense"], measured["dense, channels_last"]]
    key = min(dense, key=lambda q: q[1]) if density is None else measured.get(f"{density:g}")
    return f"{key[1]:.2f}" if key else ""


if __name__ == "__main__":
    main()
