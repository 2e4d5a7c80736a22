"""Train a plain network, gate it, and walk it down the densities; one folder a run, resumable."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import __version__
from .checkpoints import CheckpointError, load_network, save_network, write_atomically
from .convert import convert, random_predictor
from .data import as_tensors, load_data, stratified_split
from .dynamics import how_dynamic
from .gated import Gated, gated_layers, saliency_penalty, set_density
from .macs import count_macs, evaluating
from .models import MODELS
from .wta import check_density

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CONTROL_IMAGES = 2000  # at most so many images for MAC counts and the control of the dynamics


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained. Learning rates are the peak of a warm-up and a cosine."""

    model: str
    plain_epochs: int
    epochs: int  # at each density of the schedule
    any_epochs: int  # of the any-density network
    batch: int
    plain_lr: float
    lr: float
    any_lr: float
    gain: float  # of the predictors' initial weights, see `random_predictor`
    lowest_density: float  # of the any-density training: a little below the range of use
    validation: int  # images held out of the training set
    shift: int  # augmentation: pixels moved at most, each way
    flip: bool  # augmentation: left and right
    weight_decay: float = 5e-4  # on convolutions and the classifier, never on predictors
    penalty: float = 1e-8  # the paper's lambda, see `saliency_penalty`
    smoothing: float = 0.0  # of the labels
    bfloat16: bool = False  # for the convolutions; gates are never computed in it


RECIPES = {
    "digits": Recipe(
        model="digitsnet",
        plain_epochs=20,
        epochs=16,
        any_epochs=60,
        batch=64,
        plain_lr=0.05,
        lr=0.015,
        any_lr=0.05,
        gain=5.0,
        lowest_density=0.08,
        validation=197,
        shift=1,
        flip=False,
    ),
    "fashion_mnist": Recipe(
        model="digitsnet",
        plain_epochs=12,
        epochs=4,
        any_epochs=20,
        batch=128,
        plain_lr=0.05,
        lr=0.02,
        any_lr=0.05,
        gain=3.0,
        lowest_density=0.15,
        validation=5000,
        shift=2,
        flip=True,
    ),
    "cifar10": Recipe(
        model="mcifarnet",
        plain_epochs=30,
        epochs=8,
        any_epochs=30,
        batch=256,
        plain_lr=0.2,
        lr=0.05,
        any_lr=0.2,
        gain=0.3,
        lowest_density=0.15,
        validation=5000,
        shift=4,
        flip=True,
        smoothing=0.05,
        bfloat16=True,
    ),
}


class RunError(ValueError):
    """A run that cannot start or go on, and what to do about it."""


@dataclass(frozen=True)
class Step:
    """One network of a run: what it is called, and how it is trained."""

    name: str  # of its weights file: "plain", "d0.5", "any"
    density: float | str | None  # None: plain; a number: that density; "any": one an image
    epochs: int
    lr: float


@dataclass
class Splits:
    """Images ``[N, C, H, W]`` and labels ``[N]`` of the three parts, on the device."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def train(
    data: str = "digits",
    out: str | Path = "runs/digits",
    *,
    model: str | None = None,
    seed: int = 0,
    densities: Sequence[float] = DENSITIES,
    any_density: bool = False,
    checkpoint: str | Path | None = None,
    density: float | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    progress: bool = True,
) -> dict:
    """Train on ``data`` and return the contents of ``out/metrics.json``.

    Three kinds of run: the schedule (plain, then each density from the one before), with
    ``any_density`` one network whose density is drawn anew for each image, and with
    ``checkpoint`` the fine-tuning of a given network at one density. The weights of the last epoch
    are kept; nothing is chosen on the test set. Killed and called again with the same arguments,
    a run goes on and ends with the same numbers.

    Args:
        data: a key of ``RECIPES``.
        out: the run folder.
        model: a key of ``MODELS``, the recipe's when None.
        seed: of weights, order and augmentation.
        densities: of the schedule, or at which the any-density network is measured.
        checkpoint: a file written by this function; with ``density`` and optionally ``lr``.
        epochs: for every step, instead of the recipe's.
        progress: draw a progress bar.

    Raises:
        RunError: arguments that do not fit, or a folder that holds something else.
        CheckpointError: a checkpoint that is missing, damaged or not ours.
        FileNotFoundError: the data set is not there. TypeError, ValueError: a bad density.
    """
    recipe = _recipe(data)
    steps = _steps(recipe, densities, any_density, checkpoint, density, lr, epochs)
    model = model or recipe.model
    if model not in MODELS:
        raise RunError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    kind = "finetune" if checkpoint else "any" if any_density else "schedule"
    settings = {
        "data": data,
        "model": model,
        "seed": seed,
        "kind": kind,
        "densities": [float(d) for d in densities],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "steps": [asdict(step) for step in steps],
        "recipe": asdict(recipe),
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = _load_splits(data, recipe, seed, device)
    network = _start(model, splits, checkpoint, seed).to(device)
    run = Run(Path(out), settings, device)
    if not run.metrics["finished"]:
        total = sum(step.epochs for step in steps) * _batches(splits, settings)
        with tqdm(total=total, unit="batch", disable=not progress) as bar:
            _walk(run, network, steps, splits, bar)
    return run.metrics


class Run:
    """A run folder: ``metrics.json``, one weights file a step, and the state of a step halfway."""

    def __init__(self, folder: Path, settings: dict, device: torch.device):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "metrics.json").exists():
                if any(folder.iterdir()):
                    raise RunError(f"{folder} holds other files; give an empty folder as --out")
                self.metrics = _new_metrics(settings, device)
                self.save_metrics()
            self.metrics = json.loads((folder / "metrics.json").read_text())
        except OSError as error:
            raise RunError(
                f"cannot use {folder} as run folder: {error.strerror or error}"
            ) from error
        except json.JSONDecodeError as error:
            raise RunError(f"{folder}/metrics.json is damaged ({error}); move it away") from error
        if self.metrics.get("settings") != settings:
            raise RunError(f"{folder} holds a run with other settings; give another --out")

    def save_metrics(self) -> None:
        text = json.dumps(self.metrics, indent=1) + "\n"
        write_atomically(self.folder / "metrics.json", text.encode())

    def weights(self, step: Step) -> Path:
        return self.folder / f"{step.name}.safetensors"

    def save_state(self, step: Step, epoch: int, network: nn.Module, optimizer) -> None:
        state = {
            "step": step.name,
            "epoch": epoch,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        temporary = self.folder / "state.pt.new"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def load_state(self, step: Step) -> dict | None:
        """The state of ``step`` when it was last saved, None if it has not begun."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
            raise CheckpointError(f"{path} is damaged; delete it to redo its step") from error
        return state if state["step"] == step.name else None

    def finish(self) -> None:
        self.metrics["finished"] = True
        self.save_metrics()
        write_atomically(self.folder / "table.md", markdown_table(self.metrics["rows"]).encode())
        (self.folder / "state.pt").unlink(missing_ok=True)


def _walk(run: Run, network: nn.Module, steps: list[Step], splits: Splits, bar: tqdm) -> None:
    """Do every step that the run has not done, each from the network of the one before."""
    settings = run.metrics["settings"]
    if settings["checkpoint"] and not run.metrics["rows"] and not _is_gated(network):
        run.metrics["rows"].append(measure(network, None, splits))
    for number, step in enumerate(steps):
        if step.density is not None and not _is_gated(network):
            network = _gate(network, RECIPES[settings["data"]].gain, settings["seed"])
        if step.name in run.metrics["steps_done"]:
            network.load_state_dict(load_network(run.weights(step))[0].state_dict())
            bar.update(step.epochs * _batches(splits, settings))
            continue
        _fit(network, step, splits, run, settings["seed"] * 1_000_003 + number * 10_007, bar)
        rows = _measure(network, step, settings["densities"], splits)
        facts = {"density": step.density, "data": settings["data"], "seed": settings["seed"]}
        classes = int(splits.train[1].max()) + 1
        save_network(network, run.weights(step), settings["model"], classes, **facts)
        run.metrics["rows"] += rows
        run.metrics["steps_done"].append(step.name)
        run.save_metrics()
    run.finish()


def _fit(network: nn.Module, step: Step, splits: Splits, run: Run, seed: int, bar: tqdm) -> None:
    """Train one step, epoch by epoch; the state is on disk after each."""
    recipe = RECIPES[run.metrics["settings"]["data"]]
    optimizer = _optimizer(network, recipe)
    state = run.load_state(step)
    first = 0
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
        bar.update(first * _batches(splits, run.metrics["settings"]))
    if isinstance(step.density, float):
        set_density(network, step.density)
    label = {None: "plain", "any": "any density"}.get(step.density, f"d = {step.density}")
    for epoch in range(first, step.epochs):
        bar.set_description(f"{label}, epoch {epoch + 1}/{step.epochs}")
        loss = _epoch(network, optimizer, step, epoch, splits.train, recipe, seed + epoch, bar)
        if not math.isfinite(loss):
            raise RunError(f"the loss is {loss} at {label}, epoch {epoch + 1}: try a smaller --lr")
        if step.density == "any":
            set_density(network, 0.5)
        val = accuracy(network, *splits.validation)
        bar.set_postfix(loss=f"{loss:.3f}", val=f"{val:.3f}")
        run.save_state(step, epoch + 1, network, optimizer)


def _epoch(network, optimizer, step, epoch, data, recipe, seed, bar) -> float:
    """One pass over the training images; returns the mean loss. All randomness is from ``seed``,
    so that an epoch does not depend on how the run came to it."""
    images, labels = data
    torch.manual_seed(seed)  # dropout
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randperm(len(labels), generator=generator).split(recipe.batch)
    network.train()
    total = 0.0
    for i, batch in enumerate(batches):
        rate = step.lr * learning_rate_factor((epoch + i / len(batches)) / step.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = augment(images[batch], recipe.shift, recipe.flip, generator)
        if step.density == "any":
            set_density(network, draw_densities(len(x), recipe.lowest_density, generator))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            outputs = network(x)
        loss = F.cross_entropy(outputs.float(), labels[batch], label_smoothing=recipe.smoothing)
        if step.density is not None:
            loss = loss + recipe.penalty * saliency_penalty(network)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        total += loss.item() * len(x)
        bar.update()
    return total / len(labels)


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 15 %, then half a cosine down to 0; ``progress`` in 0..1."""
    return min(1.0, 0.02 + progress / 0.15) * 0.5 * (1 + math.cos(math.pi * progress))


def draw_densities(count: int, lowest: float, generator: torch.Generator) -> Tensor:
    """One density an image, ``[count]``: 1 for a tenth, the rest log-uniform in ``[lowest, 1]``."""
    density = lowest ** torch.rand(count, generator=generator)
    density[torch.rand(count, generator=generator) < 0.1] = 1.0
    return density


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``shift`` pixels, edges repeated, and mirror half: same shape."""
    n, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    rows = down[:, None] + torch.arange(height)  # [N, H]
    columns = right[:, None] + torch.arange(width)  # [N, W]
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    picture = torch.arange(n)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # channels_last in memory, which convolutions like


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest output is at their label, 0..1."""
    with evaluating(network):
        outputs = torch.cat([network(batch) for batch in images.split(500)])
    return (outputs.argmax(dim=1) == labels).double().mean().item()


def _measure(
    network: nn.Module, step: Step, densities: Sequence[float], splits: Splits
) -> list[dict]:
    """The rows of one step: one, or one a density for the any-density network."""
    rows = []
    for density in densities if step.density == "any" else [step.density]:
        if density is not None:
            set_density(network, density)
        rows.append(measure(network, density, splits))
    return rows


def measure(network: nn.Module, density: float | None, splits: Splits) -> dict:
    """One row of ``metrics.json``: accuracies 0..1 and mean MACs an image on the test images."""
    some = slice(CONTROL_IMAGES)
    images, labels = splits.test[0][some], splits.test[1][some]
    batches = images.split(500)
    gates = [count_macs(network, batch, by="gates") for batch in batches]
    zeros = [count_macs(network, batch, by="zeros") for batch in batches]
    row = {
        "density": density,
        "val_accuracy": accuracy(network, *splits.validation),
        "test_accuracy": accuracy(network, *splits.test),
        "macs_dense": gates[0].dense,
        "macs_gates": torch.cat([report.active for report in gates]).double().mean().item(),
        "macs_zeros": torch.cat([report.active for report in zeros]).double().mean().item(),
        "macs_predictors": gates[0].overhead,
    }
    if density is not None:
        control = how_dynamic(network, images, labels, reference=splits.train[0][some])
        row |= {
            "own_gates": control.own,
            "shuffled_gates": control.shuffled,
            "mean_gates": control.mean,
            "mean_winners": control.mean_winners,
            "distinct_sets": control.distinct_sets,
        }
    return row


def markdown_table(rows: list[dict]) -> str:
    """The rows of a run as a Markdown table; accuracies on the test set in percent."""
    head = [
        "density",
        "validation",
        "test",
        "MACs by gates",
        "MACs by zeros",
        "fewer MACs",
        "another image's gates",
        "mean gate",
        "mean gate's winners, own values",
        "most winner sets in a layer",
    ]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for row in rows:
        dense, active = row["macs_dense"], row["macs_gates"]
        cells = [
            "plain" if row["density"] is None else f"{row['density']:g}",
            f"{row['val_accuracy']:.1%}",
            f"{row['test_accuracy']:.1%}",
            f"{active / 1e6:.3f} M",
            f"{row['macs_zeros'] / 1e6:.3f} M",
            f"{dense / active:.2f}x",
        ]
        if row["density"] is None:
            cells += [""] * 4
        else:
            cells += [f"{row[key]:.1%}" for key in ("shuffled_gates", "mean_gates", "mean_winners")]
            cells += [str(max(row["distinct_sets"].values()))]
        lines.append(" | ".join(cells))
    return "".join(f"| {line} |\n" for line in lines)


def _recipe(data: str) -> Recipe:
    if data not in RECIPES:
        raise RunError(f"there is a recipe for {', '.join(RECIPES)}, not for {data!r}")
    return RECIPES[data]


def _steps(recipe, densities, any_density, checkpoint, density, lr, epochs) -> list[Step]:
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
    if (checkpoint is None) != (density is None):
        raise RunError("--from CHECKPOINT and --density D go together")
    if checkpoint is not None:
        return [Step(f"d{density:g}", float(density), epochs or recipe.epochs, lr or recipe.lr)]
    if lr is not None:
        raise RunError("--lr goes with --from")
    plain = Step("plain", None, epochs or recipe.plain_epochs, recipe.plain_lr)
    if any_density:
        return [plain, Step("any", "any", epochs or recipe.any_epochs, recipe.any_lr)]
    return [
        plain,
        *(Step(f"d{d:g}", float(d), epochs or recipe.epochs, recipe.lr) for d in densities),
    ]


def _load_splits(data: str, recipe: Recipe, seed: int, device: torch.device) -> Splits:
    train_set, test_set = load_data(data)
    images, labels = as_tensors(train_set)
    rest, held_out = stratified_split(labels, recipe.validation, seed)

    def on_device(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(device), labels.to(device)

    return Splits(
        on_device(images[rest], labels[rest]),
        on_device(images[held_out], labels[held_out]),
        on_device(*as_tensors(test_set)),
    )


def _start(model: str, splits: Splits, checkpoint: str | Path | None, seed: int) -> nn.Module:
    """The network before the first step: new, or the given one."""
    if checkpoint is None:
        torch.manual_seed(seed)
        network = MODELS[model](int(splits.train[1].max()) + 1)
    else:
        network, header = load_network(checkpoint)
        if header["model"] != model:
            raise CheckpointError(f"{checkpoint} holds {header['model']}, not {model}")
    try:
        accuracy(network, splits.test[0][:1], splits.test[1][:1])
    except RuntimeError as error:
        shape = list(splits.test[0].shape[1:])
        raise RunError(f"{model} cannot take images {shape}: {error}") from error
    return network


def _gate(network: nn.Module, gain: float, seed: int) -> nn.Module:
    torch.manual_seed(seed + 1)
    network = convert(network)
    for layer in gated_layers(network).values():
        random_predictor(layer, gain)
    return network


def _is_gated(network: nn.Module) -> bool:
    return any(isinstance(module, Gated) for module in network.modules())


def _batches(splits: Splits, settings: dict) -> int:
    return math.ceil(len(splits.train[1]) / settings["recipe"]["batch"])


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum. Predictors do not decay: that would pull every gate to its bias,
    and gates that are all bias are the same for every image."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim > 1 and "predictor" not in name
        (decayed if matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


def _new_metrics(settings: dict, device: torch.device) -> dict:
    import torchvision

    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {
        "command": _command(settings),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seed": settings["seed"],
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {
            "fbs_tutorial": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "settings": settings,
        "steps_done": [],
        "finished": False,
        "rows": [],
    }


def _command(settings: dict) -> str:
    """The command line that makes this run."""
    words = ["python -m fbs_tutorial train", f"--data {settings['data']}"]
    words += [f"--model {settings['model']}", f"--seed {settings['seed']}"]
    if settings["kind"] == "finetune":
        step = settings["steps"][0]
        words += [f"--from {settings['checkpoint']}", f"--density {step['density']:g}"]
        words += [f"--lr {step['lr']:g}"]
    else:
        words += ["--densities " + ",".join(f"{d:g}" for d in settings["densities"])]
        words += ["--any-density"] if settings["kind"] == "any" else []
    return " ".join(words)
