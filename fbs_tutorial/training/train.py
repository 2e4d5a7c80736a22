"""Train a plain network, gate it, and walk it down the densities: the run behind the command."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checkpoints import CheckpointError, load_network, save_network
from ..data import (
    Files,
    Part,
    as_tensors,
    in_order,
    labels_of,
    load_data,
    photograph_transform,
    spread,
    stratified_split,
)
from ..method.convert import convert, random_predictor
from ..method.dynamics import how_dynamic
from ..method.gated import evaluating, gated_layers, is_gated, set_density
from ..method.macs import count_macs
from ..method.wta import check_density
from ..models import MODELS
from .loop import EVALUATED_AT_ONCE, accuracy, fit
from .parallel import Team, join_team
from .recipes import RECIPES, Recipe, Step
from .runs import Run, RunError

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CONTROL_IMAGES = 2000  # test images, at most, of `how_dynamic`; training images of its mean gate


@dataclass
class Splits:
    """The parts of a data set; tensors are on the device."""

    train: Part
    validation: Part
    test: Part
    reference: Tensor  # training images, not augmented, whose gates make the mean gate

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
    plain_epochs: int | None = None,
    batch: int | None = None,
    size: int | None = None,
    freeze_norms: bool = False,
    download: bool = False,
    progress: bool = True,
) -> dict:
    """Train on ``data``; return the contents of ``metrics.json``, and the run "folder".

    Four kinds of run: the schedule (plain, then each density from the one before); with
    ``any_density`` one network whose density is drawn anew for each image; with ``static``, for
    comparison, small plain networks with as many channels as win at each density; and with
    ``checkpoint`` the fine-tuning of a given network at one density. The weights of the last epoch
    are kept; nothing is chosen on the test set. Killed and called again with the same arguments,
    a run goes on, and on a CPU ends with the same numbers. Under ``torchrun`` the processes share
    each batch, and the first of them keeps the run folder.

    Args:
        data: a key of ``RECIPES``, or a folder as `load_data` takes it.
        out: the run folder; one under ``runs/`` when None.
        model: a key of ``MODELS``, the recipe's when None.
        seed: of weights, order and augmentation.
        densities: of the schedule, or at which the any-density network is measured;
            ``DENSITIES`` when None.
        checkpoint: a file written by this function; with ``density`` and optionally ``lr``.
        epochs: for every step, instead of the recipe's.
        plain_epochs: for the plain steps, instead of ``epochs``.
        batch: images a step, of all processes together; the recipe's learning rates change in
            proportion, ``lr`` does not.
        size: of photographs (imagenette and folders), instead of the recipe's.
        freeze_norms: batch norms keep the statistics they have, for fine-tuning in small batches.
        download: fetch the data set if it is not there.
        progress: draw a progress bar.

    Raises:
        RunError: arguments that do not fit, or a folder that holds something else.
        CheckpointError: a checkpoint that is missing, damaged or not ours.
        FileNotFoundError: the data set is not there. TypeError, ValueError: a bad density.
    """
    recipe = _recipe(data, batch, size, freeze_norms)
    model = model or recipe.model
    if model not in MODELS:
        raise RunError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    if any_density + static + (checkpoint is not None) > 1:
        raise RunError("--any-density, --static and --from do not go together")
    kind = (
        "any" if any_density else "static" if static else "finetune" if checkpoint else "schedule"
    )
    if freeze_norms and checkpoint is None:
        raise RunError("--freeze-norms goes with --from: new norms have no statistics to keep")
    if checkpoint is not None and densities is not None:
        raise RunError("--from goes with one --density, not with --densities")
    densities = DENSITIES if densities is None else densities
    steps = _steps(recipe, kind, densities, density, lr, epochs, plain_epochs)
    for step in steps:
        if step.kind == "small":  # raises where a model has one width only
            with torch.device("meta"):
                MODELS[model](2, step.width)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RunError(f"seed must be an int from 0 to 2**32 - 1, got {seed}")
    settings = {
        "data": str(data),
        "model": model,
        "seed": seed,
        "kind": kind,
        "densities": [float(d) for d in densities],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "epochs": epochs,
        "plain_epochs": plain_epochs,
        "batch": batch,
        "size": size,
        "freeze_norms": freeze_norms,
        "steps": [asdict(step) for step in steps],
        "recipe": asdict(recipe),
    }
    at = f"-d{density:g}" if density is not None else ""
    folder = Path(out or f"runs/{Path(data).name}-{model}-{kind}{at}-seed{seed}")
    with join_team() as team:
        splits = _load_splits(data, recipe, seed, download, team)
        network = (
            team.from_first(lambda: _given(checkpoint, model))
            if checkpoint
            else _new(model, splits, 1.0, seed)
        )
        _check_fit(network, model, splits)
        run = team.from_first(lambda: Run(folder, settings, team.device, team.size))
        if not run.metrics["finished"]:
            _walk(run, network, steps, recipe, splits, team, progress and team.first)
        return team.from_first(lambda: run.metrics | {"folder": str(run.folder)})


def _recipe(data: str, batch: int | None, size: int | None, freeze_norms: bool) -> Recipe:
    """The recipe of ``data`` with what the caller wants different."""
    if data not in RECIPES and not Path(data).is_dir():
        names = ", ".join(name for name in RECIPES if name != "folder")
        raise RunError(f"data must be one of {names}, or an existing folder, got {data!r}")
    recipe = RECIPES["folder" if data not in RECIPES else data]
    if size is not None and recipe.size is None:
        raise RunError(f"--size is for photographs; the images of {data} have one size")
    for name, value, least in (("batch", batch, 2), ("size", size, 8)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise RunError(f"{name} must be an int of at least {least}, got {value!r}")
    factor = 1 if batch is None else batch / recipe.batch  # as the batch, so the steps
    return replace(
        recipe,
        batch=batch or recipe.batch,
        plain_lr=recipe.plain_lr * factor,
        lr=recipe.lr * factor,
        any_lr=recipe.any_lr * factor,
        size=size or recipe.size,
        freeze_norms=freeze_norms,
    )


def _walk(
    run: Run,
    network: nn.Module,
    steps: list[Step],
    recipe: Recipe,
    splits: Splits,
    team: Team,
    progress: bool,
) -> None:
    """Do every step that the run has not done: plain ones from new weights, gated ones from the
    network of the step before. ``run`` is the first process's; the others hold a copy."""
    settings, done = run.metrics["settings"], list(run.metrics["steps_done"])
    model, seed = settings["model"], settings["seed"]
    if settings["checkpoint"] and not run.metrics["rows"] and not is_gated(network):
        run.metrics["rows"] += team.from_first(lambda: [measure(network, None, splits)])
    if done:
        network = team.from_first(lambda: _last_network(run, steps))
        _check_fit(network, model, splits)

    batches = math.ceil(len(splits.train[1]) / recipe.batch)
    total, before = (batches * sum(s.epochs for s in part) for part in (steps, steps[: len(done)]))
    with tqdm(total=total, initial=before, unit="batch", delay=1, disable=not progress) as bar:
        for number, step in list(enumerate(steps))[len(done) :]:
            if not step.gates:
                network = _new(model, splits, step.width, seed)
            elif not is_gated(network):
                network = _gate(network, recipe.gain, seed)
            state = team.from_first(partial(run.load_state, step.name))
            at = seed * 1_000_003 + number * 10_007
            parts = splits.train, splits.validation
            fit(
                network, step, recipe, *parts, at,
                state=state, save=run.save_state, bar=bar, team=team,
            )  # fmt: skip
            rows = _rows(network, step, settings["densities"], splits, team)
            team.from_first(partial(_finish_step, run, network, step, rows, splits.num_classes))
    team.from_first(run.finish)


def _last_network(run: Run, steps: list[Step]) -> nn.Module:
    """The network of the last step that the run has done."""
    done = run.metrics["steps_done"]
    path = run.weights(done[-1])
    network, header = load_network(path)
    if header.get("density") != _density_in_header(steps[len(done) - 1]):
        raise CheckpointError(f"{path} is not of this run")
    return network


def _finish_step(
    run: Run, network: nn.Module, step: Step, rows: list[dict], num_classes: int
) -> None:
    """Write the network's weights, then its rows: in this order nothing is lost."""
    settings = run.metrics["settings"]
    facts = {key: settings[key] for key in ("data", "seed")}
    facts["density"] = _density_in_header(step)
    path, model = run.weights(step.name), settings["model"]
    save_network(network, path, model, num_classes, step.width, **facts)
    run.finish_step(step.name, rows)


def _density_in_header(step: Step) -> str:
    return "any" if step.kind == "any" else str(step.density)


def _rows(
    network: nn.Module, step: Step, densities: Sequence[float], splits: Splits, team: Team
) -> list[dict]:
    """The rows of one step: one, or one a density for the any-density network."""
    if not step.gates:
        row = team.from_first(partial(measure, network, None, splits))
        return [row | {"density": step.width} if step.kind == "small" else row]
    wanted = densities if step.kind == "any" else [step.density]
    return [team.from_first(partial(measure, network, d, splits)) for d in wanted]


def measure(network: nn.Module, density: float | None, splits: Splits) -> dict:
    """One row of ``metrics.json``: accuracies 0..1 and mean MACs an image on the test images.

    The control of `how_dynamic` reads ``control_images`` of them, evenly spread.
    """
    if density is not None:
        set_density(network, density)
    count, right, macs = len(splits.test[1]), 0, {"gates": 0, "zeros": 0}
    for images, labels in in_order(splits.test, EVALUATED_AT_ONCE):
        for by in macs:
            report = count_macs(network, images, by=by)
            macs[by] += report.active.sum().item()
        with evaluating(network):
            right += (network(images).argmax(dim=1) == labels).sum().item()
    row = {
        "density": density,
        "val_accuracy": accuracy(network, *splits.validation),
        "test_accuracy": right / count,
        "macs_dense": report.dense,
        "macs_gates": macs["gates"] / count,
        "macs_zeros": macs["zeros"] / count,
        "macs_predictors": report.overhead,
    }
    if density is not None:
        images, labels = spread(splits.test, CONTROL_IMAGES)
        control = how_dynamic(network, images, labels, reference=splits.reference)
        row |= {
            "own_gates": control.own,
            "shuffled_gates": control.shuffled,
            "mean_gates": control.mean,
            "mean_winners": control.mean_winners,
            "distinct_sets": control.distinct_sets,
            "control_images": len(labels),
        }
    return row


def _steps(
    recipe: Recipe,
    kind: str,
    densities: Sequence[float],
    density: float | None,
    lr: float | None,
    epochs: int | None,
    plain_epochs: int | None,
) -> list[Step]:
    """The networks to train, one after the other."""
    for d in [*densities, *([] if density is None else [density])]:
        check_density(d)
    if not densities or len({f"{d:g}" for d in densities}) < len(densities):
        raise RunError(
            f"densities must be one number in (0, 1] or several that differ: {densities}"
        )
    if lr is not None and not 0 < lr < math.inf:
        raise RunError(f"lr must be a number above 0, got {lr}")
    for name, count in (("epochs", epochs), ("plain_epochs", plain_epochs)):
        if count is not None and count < 1:
            raise RunError(f"{name} must be at least 1, got {count}")
    if (kind == "finetune") != (density is not None):
        raise RunError("--from CHECKPOINT and --density D go together")
    if kind != "finetune" and lr is not None:
        raise RunError("--lr goes with --from")
    if kind == "finetune" and plain_epochs is not None:
        raise RunError("--plain-epochs does not go with --from: no plain network is trained")
    plain_epochs = plain_epochs or epochs or recipe.plain_epochs

    def gated(d: float, rate: float) -> Step:
        return Step(f"d{d:g}", "gated", float(d), epochs or recipe.epochs, rate)

    plain = Step("plain", "plain", None, plain_epochs, recipe.plain_lr)
    if kind == "finetune":
        return [gated(density, lr or recipe.lr)]
    if kind == "any":
        return [plain, Step("any", "any", None, epochs or recipe.any_epochs, recipe.any_lr)]
    if kind == "static":
        small = replace(plain, kind="small")
        return [replace(small, name=f"static{d:g}", width=float(d)) for d in densities]
    return [plain, *(gated(d, recipe.lr) for d in densities)]


def _load_splits(data: str, recipe: Recipe, seed: int, download: bool, team: Team) -> Splits:
    if download:
        team.from_first(lambda: load_data(data, size=recipe.size, download=True) and None)
        if team.local_rank == 0:  # on a disk of its own
            load_data(data, size=recipe.size, download=True)
        team.wait()
    train_set, test_set = load_data(data, size=recipe.size)
    if recipe.size is None:
        images, labels = as_tensors(train_set)
        augmented, test = images, as_tensors(test_set)
    else:
        images, labels = Files(train_set), labels_of(train_set)
        cropped = copy.copy(train_set)  # shares the list of files
        cropped.transform = photograph_transform(recipe.size, augment=True)
        augmented, test = Files(cropped), (Files(test_set), labels_of(test_set))
    rest, held_out = stratified_split(labels, _held_out(labels, recipe.validation), seed)
    if team.size > 1 and min(len(rest), recipe.batch) < 2 * team.size:  # two each, for batch norms
        raise RunError(
            f"{team.size} processes are too many for {len(rest)} training images in batches of "
            f"{recipe.batch}"
        )

    def on_device(images: Tensor | Files, labels: Tensor) -> Part:
        images = images.to(team.device) if isinstance(images, Tensor) else images
        return images, labels.to(team.device)

    return Splits(
        train=on_device(augmented[rest], labels[rest]),
        validation=on_device(images[held_out], labels[held_out]),
        test=on_device(*test),
        reference=spread(  # the first process alone measures; the others try one image
            on_device(images[rest], labels[rest]), CONTROL_IMAGES if team.first else 1
        )[0],
    )


def _held_out(labels: Tensor, wanted: int | float) -> int:
    """How many training images are held out for validation: as many as classes at least."""
    counts = labels.bincount()
    if counts.min() < 2:
        raise RunError(f"every class needs two training images or more, one has {counts.min()}")
    if isinstance(wanted, float):
        wanted = math.ceil(wanted * len(labels))
    return max(wanted, len(counts))


def _new(model: str, splits: Splits, width: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[model](splits.num_classes, width).to(splits.test[1].device)


def _given(checkpoint: str | Path, model: str) -> nn.Module:
    network, header = load_network(checkpoint)
    if header["model"] != model:
        raise CheckpointError(f"{checkpoint} holds {header['model']}, not {model}")
    if float(header["width"]) != 1:
        raise CheckpointError(f"{checkpoint} holds a small plain network, made for comparison only")
    return network


def _check_fit(network: nn.Module, model: str, splits: Splits) -> None:
    """Move the network to the device; raise unless it takes these images and their classes."""
    image = splits.reference[:1]
    network.to(image.device)
    try:
        with evaluating(network):
            classes = network(image).shape[1]
    except RuntimeError as error:
        shape = list(image.shape[1:])
        raise RunError(f"{model} cannot take images {shape}: {error}") from error
    if classes != splits.num_classes:
        raise RunError(f"the network knows {classes} classes, the data {splits.num_classes}")


def _gate(network: nn.Module, gain: float, seed: int) -> nn.Module:
    torch.manual_seed(seed + 1)
    network = convert(network)
    for layer in gated_layers(network).values():
        random_predictor(layer, gain)
    return network
