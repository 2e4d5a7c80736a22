"""Measure a network that is there: ``python -m fbs_tutorial evaluate``.

It need not be one that this package trained. What it can do, what it costs, whether its gates look
at the image, and how long a call takes: all from its file, on the test images of a data set.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import load_weights
from ..data import spread
from ..files import check_writable, write_atomically
from ..method.dynamics import CONTROLS
from ..method.gated import is_gated, set_density
from ..method.wta import check_density
from ..static.stripes import stripe_storage
from ..tables import markdown
from ..training.measure import controls, outputs_and_macs
from ..training.parallel import Team
from ..training.settings import RunError, Settings
from ..training.splits import Splits, load_splits
from ..training.train import check_fit
from .cases import IMAGES, Case, from_file, settings_of, trained_density
from .report import find, milliseconds
from .run import time_variants
from .timing import busy, check_device, machine
from .variants import precision_of, variants_of

SHOWN_CLASSES = 20  # in the table, at most; all are in the file


def evaluate(
    weights: str | Path,
    data: str | Path | None = None,
    *,
    model: str | None = None,
    densities: Sequence[float] | None = None,
    batch: int = 1,
    size: int | None = None,
    device: str = "cpu",
    out: Path | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Measure; returns provenance and a row for each density, one row for a plain network.

    Accuracies are of the whole test part. The controls are those of a run's ``metrics.json``: the
    mean gate is that of the same training images, if the file tells the seed of the run.

    Args:
        weights: a file as `load_weights` takes it, with ``model`` if it does not tell.
        data: whose test images, see `load_data`; None for what the network was trained on.
        densities: of a gated network. None for the density it was trained at; if that is any, or
            not known, 1.
        batch: images in a call that is timed.
        size: of photographs in pixels; None for that of the training, or the recipe's.
        out: a JSON file for the results, written at the end. Whether it can be is tried first.
        command: what to record as the command that measured.
        say: gets a line of progress for each row.

    Raises:
        ValueError, TypeError: arguments that do not fit each other or the network; a
            CheckpointError for its file. OSError: ``out`` cannot be written, or the data set is not
            there.
    """
    if out is not None:
        check_writable(out)
    check_device(device)
    if batch < 1:
        raise RunError("{batch} must be at least 1, got {got}", {"got": batch})
    network, header = load_weights(weights, model)
    wanted = _densities(weights, network, header, densities)
    settings = settings_of(header, None if data is None else str(data), size)
    team = Team(device=torch.device(device))
    splits = load_splits(settings.data, settings.recipe, settings.seed, False, team)
    check_fit(network, splits, str(weights))
    case = from_file(Path(weights), network, header, spread(splits.test, IMAGES)[0])
    results = {"command": command, "header": header, "batch": batch}
    results |= _facts(weights, settings, splits, device)
    results["stripes"] = {name: asdict(kept) for name, kept in stripe_storage(network).items()}
    for density in wanted:
        results["rows"].append(_row(case, density, splits, batch, device))
        say(_progress(results["rows"][-1]))
    if out is not None:
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
    return results


def _densities(
    weights: str | Path,
    network: nn.Module,
    header: Mapping[str, str],
    wanted: Sequence[float] | None,
) -> list[float | None]:
    """The densities to measure at; None for that of a plain network."""
    if not is_gated(network):
        if wanted is not None:
            text = "{density} is for networks with gates, and {file} has none"
            raise RunError(text, {"file": weights})
        return [None]
    if wanted is None:
        return [trained_density(header) or 1.0]
    for density in wanted:
        check_density(density)
    if not wanted or len(set(wanted)) < len(wanted):
        text = "{density} must be one number in (0, 1] or several that differ, got {got}"
        raise RunError(text, {"got": wanted})
    return [float(density) for density in wanted]


def _facts(weights: str | Path, settings: Settings, splits: Splits, device: str) -> dict:
    """What is measured with what, and an empty list for the rows."""
    import torchvision

    facts, labels = machine(device), splits.test[1]
    facts["versions"]["torchvision"] = torchvision.__version__
    return {
        "weights": str(weights),
        "bytes": Path(weights).stat().st_size,
        "data": settings.data,
        "size": settings.recipe.size,
        "machine": facts,
        "busy": busy(device),
        "test_images": len(labels),
        "classes": {name: int((labels == i).sum()) for i, name in enumerate(splits.classes)},
        "rows": [],
    }


def _row(case: Case, density: float | None, splits: Splits, batch: int, device: str) -> dict:
    """What a network does and costs at one density."""
    network = case.network
    if density is not None:
        set_density(network, density)
    outputs, macs = outputs_and_macs(network, splits.test)
    row = {
        "density": density,
        **_accuracies(outputs, splits.test[1], splits.classes),
        **macs,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    if density is not None:
        row |= controls(network, splits)
    with precision_of("fp32"):
        made = variants_of(case, batch, device, [] if density is None else [density])
        timed = [v for v in made if not v.kind.startswith("oracle")]
        row["times"] = time_variants(timed, device, False, quick=True)
    return row


def _accuracies(outputs: Tensor, labels: Tensor, classes: Sequence[str]) -> dict:
    """Shares 0..1 of outputs ``[N, C]`` that are right; per class None where it has no image."""
    first = outputs.argmax(dim=1) == labels
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    per_class = {}
    for i, name in enumerate(classes):
        own = first[labels == i]
        per_class[name] = own.double().mean().item() if len(own) else None
    return {
        "top1": first.double().mean().item(),
        "top5": (best == labels[:, None]).any(dim=1).double().mean().item(),
        "per_class": per_class,
    }


def _name(row: dict) -> str:
    return "plain" if row["density"] is None else f"{row['density']:g}"


def _progress(row: dict) -> str:
    return f"{_name(row)}: top-1 {row['top1']:.1%}, {row['macs_gates'] / 1e6:.3f} M MACs by gates"


def evaluation(results: dict) -> str:
    """Markdown tables of what `evaluate` returns, and where it comes from."""
    rows = results["rows"]
    return "\n\n".join(
        [
            _origin(results),
            _costs(rows, results["bytes"]),
            *([_stripes(results["stripes"])] if results["stripes"] else []),
            *([_controls(rows)] if "own_gates" in rows[0] else []),
            _per_class(rows, results["classes"]),
            _times(rows, results["batch"]),
            *_notes(results),
        ]
    )


def _origin(results: dict) -> str:
    header, facts = results["header"], results["machine"]
    model = header["model"] + (f", made by {header['made by']}" if "made by" in header else "")
    size = "" if results["size"] is None else f", {results['size']} pixels"
    return (
        f"{results['weights']} ({model}) on {results['test_images']:,} test images of "
        f"{results['data']}{size}: {facts['date']}, {facts['device']}, {facts['threads']} "
        f"thread{'s' * (facts['threads'] > 1)}, torch {facts['versions']['torch']}."
    )


def _costs(rows: Sequence[dict], size: int) -> str:
    head = ["density", "top-1", "top-5", "MACs by gates", "by zeros", "predictors", "fewer MACs"]
    lines = [
        [
            _name(row),
            f"{row['top1']:.2%}",
            f"{row['top5']:.2%}",
            *(f"{row[f'macs_{what}'] / 1e6:.3f} M" for what in ("gates", "zeros", "predictors")),
            f"{row['macs_dense'] / row['macs_gates']:.2f}x",
            f"{row['parameters']:,}",
            f"{size / 1e3:,.0f}",
        ]
        for row in rows
    ]
    return markdown([*head, "parameters", "kB of the file"], lines, padded=True)


def _stripes(layers: Mapping[str, Mapping[str, int]]) -> str:
    """What each stripe-wise layer stores, and makes on the way, and all of them together."""
    lines = [
        [name, f"{kept['weights']:,}", f"{kept['index_bits']:,}", f"{kept['map_channels']:,}"]
        for name, kept in layers.items()
    ]
    weights, bits = (sum(k[key] for k in layers.values()) for key in ("weights", "index_bits"))
    largest = max(kept["map_channels"] for kept in layers.values())
    lines.append(["all", f"{weights:,}", f"{bits:,}", f"{largest:,} at most"])
    head = ["layer", "weights", "bits of the index", "channels of an intermediate map"]
    title = (
        "Stripe-wise layers store the weights of the stripes that are left, and a bit for each "
        "stripe there could be; a tap makes a map of so many channels before they are added to "
        "the outputs:\n\n"
    )
    return title + markdown(head, lines, padded=True)


def _controls(rows: Sequence[dict]) -> str:
    """Accuracies with other gates, and how many sets of winners each layer has."""
    head = ["density", *(control.label for control in CONTROLS), "distinct sets of winners"]
    lines = [
        [
            _name(row),
            *(f"{row[control.field]:.1%}" for control in CONTROLS),
            ", ".join(f"{name} {count}" for name, count in row["distinct_sets"].items()),
        ]
        for row in rows
    ]
    title = f"Top-1 with these gates, on {rows[0]['control_images']:,} test images:\n\n"
    return title + markdown(head, lines, padded=True)


def _per_class(rows: Sequence[dict], classes: Mapping[str, int]) -> str:
    """The accuracy of each class; of many the classes that the first row does worst."""
    first = {name: share for name, share in rows[0]["per_class"].items() if share is not None}
    shown = list(first)
    title = "Top-1 of each class:"
    if len(shown) > SHOWN_CLASSES:
        shown = sorted(shown, key=first.get)[:SHOWN_CLASSES]
        title = f"Top-1 of the {SHOWN_CLASSES} worst of {len(first)} classes:"
    head = ["class", "images", *(_name(row) for row in rows)]
    lines = [
        [name, f"{classes[name]:,}", *(f"{row['per_class'][name]:.1%}" for row in rows)]
        for name in shown
    ]
    return f"{title}\n\n{markdown(head, lines, padded=True)}"


def _times(rows: Sequence[dict], batch: int) -> str:
    head = ["density", "dense", "masked", "accelerated", "accelerated / dense"]
    lines = []
    for row in rows:
        times, d = row["times"], row["density"]
        found = [
            find(times, "masked", d),
            find(times, "native", d) or find(times, "accelerated", d),
        ]
        cells = [milliseconds(v) if v else "" for v in found]
        share = f"{found[1]['time_share']:.2f}" if found[1] else ""
        lines.append([_name(row), milliseconds(find(times, times["dense_best"])), *cells, share])
    title = (
        f"Milliseconds per call of {batch} image{'s' * (batch > 1)}, median (quartiles); dense is "
        "the plain network of this shape, its layout and folding the fastest of four:\n\n"
    )
    return title + markdown(head, lines, padded=True)


def _notes(results: dict) -> Iterator[str]:
    if results["busy"]:
        yield f"The machine was busy ({results['busy']}): its times say little."
