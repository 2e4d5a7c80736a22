"""Train a plain network, gate it, and walk it down the densities: the run behind the command."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from ..checkpoints import (
    CheckpointError,
    load_network,
    load_weights,
    pretrained,
    save_network,
    structure_of,
)
from ..console import note, progress_bar
from ..data import fingerprint
from ..files import file_fingerprint
from ..method.calibrate import calibrate
from ..method.convert import convert, random_predictor
from ..method.gated import evaluating, gated_layers, is_gated
from ..models import MODELS, wrap
from ..static.slimming import slim
from ..static.stripes import add_skeletons, prune_stripes
from .loop import fit, threads
from .measure import measure, measure_step
from .parallel import Team, join_team
from .recipes import Step
from .runs import Run
from .settings import RunError, Settings
from .splits import Splits, load_splits


@dataclass
class Work:
    """What every step of a run needs. The run is the first process's; the others hold a copy."""

    run: Run
    splits: Splits
    team: Team
    given: nn.Module | None  # the network that the run begins with, if it fine-tunes one
    width: float  # of that network
    teacher: nn.Module | None  # from a file, if there is one


def train(
    data: str | Path | Settings = "digits",
    out: str | Path | None = None,
    **options,
) -> dict:
    """Train as `Settings` say; return the contents of ``metrics.json``, and the run "folder".

    Usually a run is the schedule: plain, then each density from the one before. With
    ``any_density`` it is one network whose density is drawn anew for each image; with ``plain`` the
    plain network alone; with ``static``, for comparison, small plain networks with as many channels
    as win at each density. With ``checkpoint`` or ``pretrained`` it begins with a given network,
    for one ``density`` or any. With ``distill`` a plain network teaches: each density then starts
    from it, not from the density before. The weights of the last epoch are kept; nothing is chosen
    on the test set. Killed and called again with the same arguments, a run goes on, and on a CPU
    ends with the same numbers: its data and networks must still be the same, and the number of
    threads is kept. Under ``torchrun`` the processes share each batch, and the first of
    them keeps the run folder.

    Args:
        data: a key of ``RECIPES``, a folder as `load_data` takes it, or all `Settings`.
        out: the run folder; one under ``runs/`` when None.
        options: the other fields of `Settings`.

    Raises:
        RunError: arguments that do not fit, a folder that holds something else, or data or networks
            that have changed since its run began.
        CheckpointError: a checkpoint that is missing, damaged or not ours.
        FileNotFoundError: the data set is not there. TypeError, ValueError: a bad density, or an
            option that does not exist.
    """
    if isinstance(data, Settings):
        settings = replace(data, **options, **({} if out is None else {"out": out}))
    else:
        settings = Settings(data, out=out, **options)
    _check_widths(settings)
    with join_team() as team, threads(settings.recipe.threads):  # measuring, too
        run = team.from_first(lambda: Run(settings, team.device, team.size))
        splits = load_splits(settings.data, run.recipe, settings.seed, settings.download, team)
        work = Work(run, splits, team, *_given(settings, run, splits, team))
        team.from_first(partial(_begin, work, settings))
        if not run.finished:
            with run.locked(team), threads(run.metrics["threads"], exactly=True):
                _walk(work, settings.progress and team.first)
        return team.from_first(lambda: run.metrics | {"folder": str(run.folder)})


def _begin(work: Work, settings: Settings) -> None:
    """Make the run folder, or compare it with what there is; say so if nothing is left to do."""
    run = work.run
    files = {name: getattr(settings, name) for name in ("checkpoint", "teacher")}
    found = {"data": fingerprint(*work.splits.datasets)}
    found |= {name: file_fingerprint(path) for name, path in files.items() if path is not None}
    if run.begun:
        run.check_inputs(found)
    else:
        run.metrics["inputs"] = found
    run.begin()
    if run.finished:
        date = run.metrics.get("finished_on", run.metrics["date"])
        note(f"the run in {run.folder} was finished on {date}; nothing was trained")


def _check_widths(settings: Settings) -> None:
    """Raise where small networks are wanted of a model that has one width only."""
    for step in settings.steps:
        if step.kind == "small":
            with torch.device("meta"):
                MODELS[settings.recipe.model](2, step.width)


def _given(
    settings: Settings, run: Run, splits: Splits, team: Team
) -> tuple[nn.Module | None, float, nn.Module | None]:
    """The network to fine-tune, its width, and the teacher; None where there is none to read."""
    model, classes = run.recipe.model, splits.num_classes
    given, width, teacher = None, 1.0, None
    if settings.fine_tunes:
        given, width = team.from_first(lambda: _network_to_tune(settings, model, classes))
        check_fit(given, splits, model)
    else:  # whether the model takes these images
        check_fit(_new(run, splits, 1.0), splits, model)
    if settings.teacher is not None:
        teacher = team.from_first(lambda: load_weights(settings.teacher, model)[0])
        check_fit(teacher, splits, settings.teacher)
    elif settings.distill and given is not None and is_gated(given):
        raise RunError("{distill} needs a {teacher}: the network to fine-tune has gates already")
    return given, width, teacher


def _network_to_tune(settings: Settings, model: str, num_classes: int) -> tuple[nn.Module, float]:
    """The given network and its width."""
    if settings.pretrained:
        return pretrained(model, num_classes), 1.0
    path = settings.checkpoint
    network, header = load_weights(path, model)
    if header["model"] != model:
        raise CheckpointError(f"{path} holds {header['model']}, not {model}")
    if is_gated(network) and settings.kind == "tuned":
        raise RunError("{density} or {any_density} is missing: {file} has gates", {"file": path})
    kinds = set(structure_of(network)["gates"].values())
    if settings.saliency is not None and kinds and kinds != {settings.saliency}:
        text = "{saliency} must be that of the trained gates of {file}, {its}, got {got}"
        its = " and ".join(sorted(kinds))
        raise RunError(text, {"file": path, "its": its, "got": settings.saliency})
    return network, float(header["width"])


def _walk(work: Work, progress: bool) -> None:
    """Do every step that the run has not done."""
    run, team, splits = work.run, work.team, work.splits
    steps, done = run.steps, len(run.metrics["steps_done"])
    if work.given is not None and not run.metrics["rows"] and not is_gated(work.given):
        about = {"step": "given", "method": "plain", "distilled": False}
        run.metrics["rows"].append(
            about | team.from_first(lambda: measure(work.given, None, splits))
        )
    batches = math.ceil(len(splits.train[1]) / run.recipe.batch)
    total, before = (batches * sum(s.epochs for s in part) for part in (steps, steps[:done]))
    with progress_bar(total, before, progress) as bar:
        for number in range(done, len(steps)):
            _train_step(work, number, bar)
    team.from_first(run.finish)


def _train_step(work: Work, number: int, bar: tqdm) -> None:
    """Train one network and write its weights, then its rows: in this order nothing is lost."""
    run, team, splits = work.run, work.team, work.splits
    step, settings = run.steps[number], run.metrics["settings"]
    network = _start(work, number)
    precision = fit(
        network,
        step,
        run.recipe,
        splits.train,
        splits.validation,
        settings["seed"] * 1_000_003 + number * 10_007,
        teacher=_teacher(work) if step.distilled else None,
        state=team.from_first(partial(run.load_state, step.name)),
        save=run.save_state,
        bar=bar,
        team=team,
    )
    if step.kind == "stripes":
        network = prune_stripes(network, run.recipe.threshold)
    if settings["calibrated"] and step.kind == "any":
        calibrate(network, splits.reference, settings["densities"])
    rows = measure_step(network, step, settings["densities"] or (), splits, team)
    rows = [row | {"precision": precision} for row in rows]
    team.from_first(partial(_finish_step, work, network, step, rows))


def _start(work: Work, number: int) -> nn.Module:
    """The network that a step begins with: a new one; the plain one, slimmed; or the one given, the
    one without gates where a teacher teaches, or that of the step before, with gates."""
    step = work.run.steps[number]
    if step.kind == "tuned":
        return copy.deepcopy(work.given)
    if step.kind == "slim":
        return slim(_saved(work, number - 1), work.run.recipe.slim)
    if not step.gates:
        network = _new(work.run, work.splits, step.width)
        return add_skeletons(network) if step.kind == "stripes" else network
    if work.given is not None:
        network = copy.deepcopy(work.given)
    else:
        gateless = [i for i, other in enumerate(work.run.steps) if not other.gates]
        network = _saved(work, gateless[-1] if step.distilled else number - 1)
    return network if is_gated(network) else _gate(network, work.run)


def _teacher(work: Work) -> nn.Module:
    """The network that teaches, in eval mode: from a file, the one given, or this run's plain."""
    if work.teacher is not None:
        return work.teacher.eval()
    return (_saved(work, 0) if work.given is None else work.given).eval()


def _saved(work: Work, number: int) -> nn.Module:
    """The network of a step that the run has done."""
    run = work.run
    step, path = run.steps[number], run.weights(run.steps[number].name)

    def load() -> nn.Module:
        network, header = load_network(path)
        if header.get("density") != _density_in_header(step):
            raise CheckpointError(f"{path} is not of this run")
        return network

    network = work.team.from_first(load)
    check_fit(network, work.splits, str(path))
    return network


def _finish_step(work: Work, network: nn.Module, step: Step, rows: list[dict]) -> None:
    run, num_classes = work.run, work.splits.num_classes
    width = step.width if work.given is None else work.width
    facts = {key: run.metrics["settings"][key] for key in ("data", "seed")}
    facts |= {"density": _density_in_header(step), "distilled": step.distilled}
    facts |= {} if run.recipe.size is None else {"size": run.recipe.size}
    save_network(network, run.weights(step.name), run.recipe.model, num_classes, width, **facts)
    run.finish_step(step.name, rows)


def _density_in_header(step: Step) -> str:
    return "any" if step.kind == "any" else str(step.density)


def _new(run: Run, splits: Splits, width: float) -> nn.Module:
    torch.manual_seed(run.metrics["settings"]["seed"])
    return MODELS[run.recipe.model](splits.num_classes, width).to(splits.test[1].device)


def _gate(network: nn.Module, run: Run) -> nn.Module:
    """A copy with gates: of single layers, or around blocks where the settings say so."""
    settings = run.metrics["settings"]
    torch.manual_seed(settings["seed"] + 1)
    if settings["blocks"]:
        return wrap(network, normalize=not settings["as_they_are"])
    network = convert(network)
    for layer in gated_layers(network).values():
        layer.reduce = run.recipe.saliency
        random_predictor(layer, run.recipe.gain)
    return network


def check_fit(network: nn.Module, splits: Splits, name: str) -> None:
    """Move the network to the device; raise unless it takes these images and their classes."""
    image = splits.reference[:1]
    network.to(image.device)
    try:
        with evaluating(network):
            classes = network(image).shape[1]
    except RuntimeError as error:
        shape = list(image.shape[1:])
        values = {"name": name, "got": shape, "why": error}
        raise RunError("{name} cannot take images {got}: {why}", values) from error
    if classes != splits.num_classes:
        values = {"name": name, "its": classes, "got": splits.num_classes}
        raise RunError("{name} knows {its} classes, the data {got}", values)
