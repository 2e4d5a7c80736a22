"""Train a plain network, gate it, and walk it down the densities: the run behind the command."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from .checkpoints import CheckpointError, load_network, save_network
from .convert import convert, random_predictor
from .data import as_tensors, load_data, stratified_split
from .dynamics import how_dynamic
from .fit import RECIPES, Labelled, Recipe, Step, accuracy, fit
from .gated import evaluating, gated_layers, is_gated, set_density
from .macs import count_macs
from .models import MODELS
from .runs import Run, RunError
from .wta import check_density

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
REFERENCE_IMAGES = 2000  # training images, at most, whose gates make the mean gate


@dataclass
class Splits:
    """The three parts of a data set, on the device."""

    train: Labelled
    validation: Labelled
    test: Labelled

    @property
    def num_classes(self) -> int:
        return int(self.train[1].max()) + 1


def train(
    data: str = "digits",
    out: str | Path | None = None,
    *,
    model: str | None = None,
    seed: int = 0,
    densities: Sequence[float] | None = None,
    any_density: bool = False,
    static: bool = False,
    checkpoint: str | Path | None = None,
    density: float | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    progress: bool = True,
) -> dict:
    """Train on ``data``; return the contents of ``metrics.json``, and the run "folder".

    Four kinds of run: the schedule (plain, then each density from the one before); with
    ``any_density`` one network whose density is drawn anew for each image; with ``static``, for
    comparison, small plain networks with as many channels as win at each density; and with
    ``checkpoint`` the fine-tuning of a given network at one density. The weights of the last epoch
    are kept; nothing is chosen on the test set. Killed and called again with the same arguments,
    a run goes on and ends with the same numbers.

    Args:
        data: a key of ``RECIPES``.
        out: the run folder; one under ``runs/`` when None.
        model: a key of ``MODELS``, the recipe's when None.
        seed: of weights, order and augmentation.
        densities: of the schedule, or at which the any-density network is measured;
            ``DENSITIES`` when None.
        checkpoint: a file written by this function; with ``density`` and optionally ``lr``.
        epochs: for every step, instead of the recipe's.
        progress: draw a progress bar.

    Raises:
        RunError: arguments that do not fit, or a folder that holds something else.
        CheckpointError: a checkpoint that is missing, damaged or not ours.
        FileNotFoundError: the data set is not there. TypeError, ValueError: a bad density.
    """
    if data not in RECIPES:
        raise RunError(f"there is a recipe for {', '.join(RECIPES)}, not for {data!r}")
    recipe = RECIPES[data]
    model = model or recipe.model
    if model not in MODELS:
        raise RunError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    if any_density + static + (checkpoint is not None) > 1:
        raise RunError("--any-density, --static and --from do not go together")
    kind = (
        "any" if any_density else "static" if static else "finetune" if checkpoint else "schedule"
    )
    if checkpoint is not None and densities is not None:
        raise RunError("--from goes with one --density, not with --densities")
    densities = DENSITIES if densities is None else densities
    steps = _steps(recipe, kind, densities, density, lr, epochs)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RunError(f"seed must be an int from 0 to 2**32 - 1, got {seed}")
    settings = {
        "data": data,
        "model": model,
        "seed": seed,
        "kind": kind,
        "densities": [float(d) for d in densities],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "epochs": epochs,
        "steps": [asdict(step) for step in steps],
        "recipe": asdict(recipe),
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = _load_splits(data, recipe, seed, device)
    network = _given(checkpoint, model) if checkpoint else _new(model, splits, 1.0, seed)
    _check_fit(network, model, splits)
    at = f"-d{density:g}" if density is not None else ""
    run = Run(Path(out or f"runs/{data}-{model}-{kind}{at}-seed{seed}"), settings, device)
    if not run.metrics["finished"]:
        _walk(run, network, steps, recipe, splits, progress)
    return run.metrics | {"folder": str(run.folder)}


def _walk(
    run: Run, network: nn.Module, steps: list[Step], recipe: Recipe, splits: Splits, progress: bool
) -> None:
    """Do every step that the run has not done: plain ones from new weights, gated ones from the
    network of the step before."""
    settings, done = run.metrics["settings"], run.metrics["steps_done"]
    model, seed = settings["model"], settings["seed"]
    if settings["checkpoint"] and not run.metrics["rows"] and not is_gated(network):
        run.metrics["rows"].append(measure(network, None, splits))
    if done:
        path = run.weights(done[-1])
        network, header = load_network(path)
        if header.get("density") != str(steps[len(done) - 1].density):
            raise CheckpointError(f"{path} is not of this run")
        _check_fit(network, model, splits)

    batches = math.ceil(len(splits.train[1]) / recipe.batch)
    total, before = (batches * sum(s.epochs for s in part) for part in (steps, steps[: len(done)]))
    with tqdm(total=total, initial=before, unit="batch", delay=1, disable=not progress) as bar:
        for number, step in list(enumerate(steps))[len(done) :]:
            if step.density is None:
                network = _new(model, splits, step.width or 1.0, seed)
            elif not is_gated(network):
                network = _gate(network, recipe.gain, seed)
            fit(
                network,
                step,
                recipe,
                splits.train,
                splits.validation,
                seed * 1_000_003 + number * 10_007,
                state=run.load_state(step.name),
                save=run.save_state,
                bar=bar,
            )
            rows = _rows(network, step, settings["densities"], splits)
            facts = {"density": step.density, "data": settings["data"], "seed": seed}
            path, classes = run.weights(step.name), splits.num_classes
            save_network(network, path, model, classes, step.width or 1.0, **facts)
            run.finish_step(step.name, rows)
    run.finish()


def _rows(network: nn.Module, step: Step, densities: Sequence[float], splits: Splits) -> list[dict]:
    """The rows of one step: one, or one a density for the any-density network."""
    if step.density is None:
        row = measure(network, None, splits)
        return [row if step.width is None else row | {"density": step.width}]
    wanted = densities if step.density == "any" else [step.density]
    return [measure(set_density(network, d), d, splits) for d in wanted]


def measure(network: nn.Module, density: float | None, splits: Splits) -> dict:
    """One row of ``metrics.json``: accuracies 0..1 and mean MACs an image on the test images."""
    images, labels = splits.test
    batches = images.split(500)
    gates = [count_macs(network, batch, by="gates") for batch in batches]
    zeros = [count_macs(network, batch, by="zeros") for batch in batches]
    row = {
        "density": density,
        "val_accuracy": accuracy(network, *splits.validation),
        "test_accuracy": accuracy(network, images, labels),
        "macs_dense": gates[0].dense,
        "macs_gates": sum(report.active.sum().item() for report in gates) / len(images),
        "macs_zeros": sum(report.active.sum().item() for report in zeros) / len(images),
        "macs_predictors": gates[0].overhead,
    }
    if density is not None:
        control = how_dynamic(network, images, labels, reference=splits.train[0][:REFERENCE_IMAGES])
        row |= {
            "own_gates": control.own,
            "shuffled_gates": control.shuffled,
            "mean_gates": control.mean,
            "mean_winners": control.mean_winners,
            "distinct_sets": control.distinct_sets,
        }
    return row


def _steps(
    recipe: Recipe,
    kind: str,
    densities: Sequence[float],
    density: float | None,
    lr: float | None,
    epochs: int | None,
) -> list[Step]:
    """The networks to train, one after the other."""
    for d in [*densities, *([] if density is None else [density])]:
        check_density(d)
    if not densities or len(set(densities)) < len(densities):
        raise RunError(
            f"densities must be one number in (0, 1] or several that differ: {densities}"
        )
    if lr is not None and not 0 < lr < math.inf:
        raise RunError(f"lr must be a number above 0, got {lr}")
    if epochs is not None and epochs < 1:
        raise RunError(f"epochs must be at least 1, got {epochs}")
    if (kind == "finetune") != (density is not None):
        raise RunError("--from CHECKPOINT and --density D go together")
    if kind != "finetune" and lr is not None:
        raise RunError("--lr goes with --from")

    def gated(d: float, rate: float) -> Step:
        return Step(f"d{d:g}", float(d), epochs or recipe.epochs, rate)

    plain = Step("plain", None, epochs or recipe.plain_epochs, recipe.plain_lr)
    if kind == "finetune":
        return [gated(density, lr or recipe.lr)]
    if kind == "any":
        return [plain, Step("any", "any", epochs or recipe.any_epochs, recipe.any_lr)]
    if kind == "static":
        count, rate = epochs or recipe.plain_epochs, recipe.plain_lr
        return [Step(f"static{d:g}", None, count, rate, width=float(d)) for d in densities]
    return [plain, *(gated(d, recipe.lr) for d in densities)]


def _load_splits(data: str, recipe: Recipe, seed: int, device: torch.device) -> Splits:
    train_set, test_set = load_data(data)
    images, labels = as_tensors(train_set)
    rest, held_out = stratified_split(labels, recipe.validation, seed)

    def on_device(images, labels) -> Labelled:
        return images.to(device), labels.to(device)

    return Splits(
        on_device(images[rest], labels[rest]),
        on_device(images[held_out], labels[held_out]),
        on_device(*as_tensors(test_set)),
    )


def _new(model: str, splits: Splits, width: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[model](splits.num_classes, width).to(splits.train[0].device)


def _given(checkpoint: str | Path, model: str) -> nn.Module:
    network, header = load_network(checkpoint)
    if header["model"] != model:
        raise CheckpointError(f"{checkpoint} holds {header['model']}, not {model}")
    return network


def _check_fit(network: nn.Module, model: str, splits: Splits) -> None:
    """Move the network to the device; raise unless it takes these images and their classes."""
    shape = list(splits.test[0].shape[1:])
    network.to(splits.test[0].device)
    try:
        with evaluating(network):
            classes = network(splits.test[0][:1]).shape[1]
    except RuntimeError as error:
        raise RunError(f"{model} cannot take images {shape}: {error}") from error
    if classes != splits.num_classes:
        raise RunError(f"the network knows {classes} classes, the data {splits.num_classes}")


def _gate(network: nn.Module, gain: float, seed: int) -> nn.Module:
    torch.manual_seed(seed + 1)
    network = convert(network)
    for layer in gated_layers(network).values():
        random_predictor(layer, gain)
    return network
