"""The options of a training run. Each is one field here; the command line is derived from them."""

import argparse
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

from ..method.saliency import REDUCTIONS
from ..method.wta import check_density
from ..models import MODELS, TORCHVISION
from .recipes import RECIPES, Recipe, Step

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
DATA = ", ".join(name for name in RECIPES if name != "folder")


class RunError(ValueError):
    """A run that cannot start or go on, and what to do about it.

    Args:
        text: with names of settings in braces, which the command line turns into its flags.
        values: for any other braces in ``text``.
    """

    def __init__(self, text: str, values: Mapping[str, object] | None = None):
        super().__init__(text, dict(values or {}))

    def __str__(self) -> str:
        return self.with_names({})

    def with_names(self, names: Mapping[str, str]) -> str:
        """The message with ``names`` for the settings, and their own where none is given."""
        text, values = self.args
        return text.format_map(_Names(names) | values)


class DivergedError(RunError, FloatingPointError):
    """A loss that is no longer finite."""


class _Names(dict):
    def __missing__(self, name: str) -> str:
        return name

    def __or__(self, other: dict) -> "_Names":
        return _Names({**self, **other})


class Takes(NamedTuple):
    """Which values an option takes, in words and as a test."""

    text: str
    test: Callable[[object], bool]


def whole(least: int, most: float = math.inf, text: str = "") -> Takes:
    text = text or f"an int of at least {least}"
    return Takes(text, lambda value: type(value) is int and least <= value <= most)


def number(least: float, most: float, text: str) -> Takes:
    def test(value: object) -> bool:
        return isinstance(value, Real) and type(value) is not bool and least <= value <= most

    return Takes(text, test)


def one_of(*names: str) -> Takes:
    return Takes(f"one of {', '.join(names)}", lambda value: value in names)


SMALLEST, LARGEST = math.ulp(0.0), math.nextafter(math.inf, 0)  # above 0, and finite
YES_NO = Takes("True or False", lambda value: type(value) is bool)
TEXT = Takes("a text or a path", lambda value: isinstance(value, str))
RATE = number(SMALLEST, LARGEST, "a number above 0")


def option(
    default: object,
    help: str,
    takes: Takes,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    recorded: bool = True,
    before: object = None,
) -> Field:
    """A field of `Settings`.

    Args:
        default: of the function and of the command line; None stands for the recipe's value.
        takes: which values it takes; None always if it is the default.
        flag: on the command line, the field's name when None.
        recorded: whether it belongs to what a run is, so that the same folder needs the same value.
        before: its value in run folders that were written before there was this option.
    """
    metadata = {"help": help, "takes": takes, "flag": flag, "metavar": metavar}
    return field(default=default, metadata=metadata | {"recorded": recorded, "before": before})


@dataclass(frozen=True)
class Settings:
    """What a training run is to do: the arguments of `train`, and the options of its command.

    Raises:
        RunError: a value that does not fit, or options that do not go together.
        TypeError, ValueError: a bad density.
    """

    data: str = option(
        "digits",
        f"{DATA} (FBS_DATA says where), or a folder with train/ and val/ folders of class folders",
        Takes(
            f"one of {DATA}, or an existing folder",
            lambda value: isinstance(value, str) and (value in RECIPES or Path(value).is_dir()),
        ),
    )
    model: str | None = option(None, "the recipe's when not given", one_of(*MODELS))
    out: str | None = option(
        None, "the run folder (default: one under runs/)", TEXT, recorded=False
    )
    seed: int = option(
        0,
        "of weights, order and augmentation",
        whole(0, 2**32 - 1, "an int from 0 to 2**32 - 1"),
    )
    densities: tuple[float, ...] | None = option(
        None,
        "of the schedule, or at which the any-density network is measured; 1.0 to 0.1 when not "
        "given",
        Takes(
            "a list of numbers in (0, 1] that differ, one or more",
            lambda value: (
                isinstance(value, tuple) and 0 < len(value) == len({f"{d:g}" for d in value})
            ),
        ),
        metavar="1.0,0.9,...",
    )
    any_density: bool = option(
        False, "one network, its density drawn for each image", YES_NO, before=False
    )
    draw: str | None = option(
        None,
        "with --any-density: a density is drawn for each image, or for each batch",
        one_of("image", "batch"),
    )
    lowest_density: float | None = option(
        None,
        "with --any-density: the lowest that is drawn",
        number(SMALLEST, 1, "a number in (0, 1]"),
    )
    calibrated: bool = option(
        False,
        "with --any-density: batch norms get statistics of each of --densities, see calibrate",
        YES_NO,
        before=False,
    )
    plain: bool = option(False, "the plain network alone", YES_NO, before=False)
    static: bool = option(
        False, "small plain networks of the same MACs, to compare", YES_NO, before=False
    )
    stripes: bool = option(
        False, "a network with skeletons, whose small stripes are pruned", YES_NO, before=False
    )
    checkpoint: str | None = option(
        None,
        "fine-tune this network, with gates where there is a density: a file of this package, or "
        "with --model a plain torch state dict",
        TEXT,
        flag="--from",
        metavar="FILE",
    )
    pretrained: bool = option(
        False,
        "fine-tune torchvision's weights of --model, fetched when needed",
        YES_NO,
        before=False,
    )
    density: float | None = option(
        None,
        "with --from or --pretrained, and without --any-density: the density to fine-tune at",
        number(0, 1, "a number in (0, 1]"),
    )
    lr: float | None = option(None, "with --from or --pretrained: the highest learning rate", RATE)
    epochs: int | None = option(None, "of every step, instead of the recipe's", whole(1))
    plain_epochs: int | None = option(None, "of the plain steps, instead of --epochs", whole(1))
    batch: int | None = option(
        None,
        "images per update, of all processes together, instead of the recipe's; the recipe's "
        "learning rates follow in proportion",
        whole(2),
    )
    size: int | None = option(
        None, "of photographs in pixels, instead of the recipe's 128", whole(8)
    )
    freeze_norms: bool = option(
        False,
        "batch norms keep their statistics, for fine-tuning in small batches",
        YES_NO,
        before=False,
    )
    distill: bool = option(
        False,
        "a plain network teaches the others, and each density is reached from 1",
        YES_NO,
        before=False,
    )
    teacher: str | None = option(
        None,
        "with --distill: the network that teaches (default: the run's own plain one)",
        TEXT,
        metavar="FILE",
    )
    ramp: float | None = option(
        None,
        "with --distill: the share of a step over which the density is lowered from 1",
        number(0, 1, "a number from 0 to 1"),
    )
    teacher_weight: float | None = option(
        None,
        "with --distill: the teacher's share of the loss, the labels have the rest",
        number(0, 1, "a number from 0 to 1"),
    )
    penalty: float | None = option(
        None,
        "weight of the L1 norm of the predicted saliency in the loss",
        number(0, LARGEST, "a number of at least 0"),
    )
    slimming: float | None = option(
        None,
        "with --plain or --slim: weight of the L1 norm of the batch norms' scales in the loss",
        number(0, LARGEST, "a number of at least 0"),
    )
    slim: float | None = option(
        None,
        "network slimming first: percent of the channels removed from the plain network, which is "
        "fine-tuned before it gets gates",
        number(0, 100, "a number from 0 to 100"),
    )
    sr: float | None = option(
        None,
        "with --stripes: weight of the L1 norm of the skeletons in the loss",
        number(0, LARGEST, "a number of at least 0"),
    )
    threshold: float | None = option(
        None,
        "with --stripes: skeleton entries up to it are pruned",
        number(0, LARGEST, "a number of at least 0"),
    )
    decay_skeletons: bool = option(
        False, "with --stripes: weight decay on skeletons too", YES_NO, before=False
    )
    saliency: str | None = option(
        None, f"how gated layers measure their inputs: {', '.join(REDUCTIONS)}", one_of(*REDUCTIONS)
    )
    blocks: bool = option(
        False, "gates around blocks of layers, see ChannelPruning and wrap", YES_NO, before=False
    )
    as_they_are: bool = option(
        False,
        "with --blocks: the gates of an image are not scaled to mean 1",
        YES_NO,
        flag="--no-normalize",
        before=False,
    )
    download: bool = option(
        False, "fetch the data set into FBS_DATA if not there", YES_NO, recorded=False
    )
    progress: bool = option(
        True, "draw no progress bar", YES_NO, flag="--no-progress", recorded=False
    )

    def __post_init__(self):
        for name in ("data", "out", "checkpoint", "teacher"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        if isinstance(self.densities, Iterable):
            object.__setattr__(self, "densities", tuple(self.densities))
        densities = self.densities if isinstance(self.densities, tuple) else ()
        for d in [*densities, *([] if self.density is None else [self.density])]:
            check_density(d)
        for entry in fields(self):
            value, takes = getattr(self, entry.name), entry.metadata["takes"]
            if not (takes.test(value) if value is not None else entry.default is None):
                text = f"{{{entry.name}}} must be {takes.text}, got {{got}}"
                raise RunError(text, {"got": repr(value)})
        for broken, text in RULES:
            if broken(self):
                raise RunError(text, {"set": self.data})

    @property
    def fine_tunes(self) -> bool:
        """Whether the run begins with a network that is there already."""
        return self.checkpoint is not None or self.pretrained

    @property
    def kind(self) -> str:
        """The kind of run: ``"any"``, ``"static"``, ``"plain"``, ``"stripes"``, ``"finetune"`` (at
        one density), ``"tuned"`` (as it is given) or ``"schedule"``."""
        wanted = {"any": self.any_density, "static": self.static, "plain": self.plain}
        wanted["stripes"] = self.stripes
        wanted["tuned" if self.density is None else "finetune"] = self.fine_tunes
        return next((name for name, on in wanted.items() if on), "schedule")

    @property
    def folder(self) -> Path:
        """The run folder: ``out``, or one under ``runs/`` that is named after the settings."""
        if self.out is not None:
            return Path(self.out)
        names = [Path(self.data).name, self.model or self.recipe.model, self.kind]
        names += [] if self.density is None else [f"d{self.density:g}"]
        names += ["distilled"] if self.distill else []
        return Path("runs", "-".join([*names, f"seed{self.seed}"]))

    @property
    def recipe(self) -> Recipe:
        """The recipe of the data set, with what is wanted different."""
        recipe = usual_recipe(self.data)
        factor = 1 if self.batch is None else self.batch / recipe.batch  # as the batch, so the step
        rates = ("plain_lr", "lr", "any_lr", "distilled_lr")
        changes = {name: getattr(recipe, name) * factor for name in rates}
        if self.epochs is not None:
            names = ("plain_epochs", "epochs", "any_epochs", "distilled_epochs")
            changes |= dict.fromkeys(names, self.epochs)
        if self.lr is not None:
            changes |= {"distilled_lr": self.lr, "any_lr": self.lr}
        for entry in fields(Recipe):  # options that are called as what they change
            if getattr(self, entry.name, None) is not None:
                changes[entry.name] = getattr(self, entry.name)
        return replace(recipe, **changes)

    @property
    def steps(self) -> list[Step]:
        """The networks to train, one after the other."""
        recipe, densities = self.recipe, self.densities or DENSITIES
        plain = Step("plain", "plain", None, recipe.plain_epochs, recipe.plain_lr)
        small = replace(plain, kind="small", distilled=self.distill)
        first = [plain] + [Step("slim", "slim", None, recipe.epochs, recipe.lr)] * (recipe.slim > 0)
        how = recipe.epochs, recipe.lr, 1.0, False
        if self.distill:
            how = recipe.distilled_epochs, recipe.distilled_lr, 1.0, True
        if self.kind == "plain":
            return [plain]
        if self.kind == "any":
            how = recipe.any_epochs, recipe.any_lr, 1.0, self.distill
            step = Step("any", "any", None, *how)
            return [step] if self.fine_tunes else [*first, step]
        if self.kind == "finetune":
            return [Step(f"d{self.density:g}", "gated", float(self.density), *how)]
        if self.kind == "tuned":
            return [Step("tuned", "tuned", None, *how)]
        if self.kind == "stripes":
            return [plain, replace(plain, name="stripes", kind="stripes")]
        if self.kind == "static":
            taught = self.distill and self.teacher is None  # by a plain network of this run
            steps = [replace(small, name=f"static{d:g}", width=float(d)) for d in densities]
            return [plain, *steps] if taught else steps
        return [*first, *(Step(f"d{d:g}", "gated", float(d), *how) for d in densities)]

    def record(self) -> dict:
        """What the run is, for ``metrics.json``: every recorded option, and what follows of it."""
        one = self.kind in ("finetune", "plain", "stripes", "tuned")
        densities = None if one else self.densities or DENSITIES
        complete = replace(self, model=self.model or self.recipe.model, densities=densities)
        record = {entry.name: getattr(complete, entry.name) for entry in self.recorded()}
        if densities is not None:
            record["densities"] = [float(d) for d in densities]
        steps = [asdict(step) for step in self.steps]
        return record | {"kind": self.kind, "steps": steps, "recipe": asdict(self.recipe)}

    @classmethod
    def recorded(cls) -> list[Field]:
        """The fields that belong to what a run is."""
        return [entry for entry in fields(cls) if entry.metadata["recorded"]]

    @classmethod
    def flags(cls) -> dict[str, str]:
        """The flag of each option by the name of its field."""
        return {
            entry.name: entry.metadata["flag"] or "--" + entry.name.replace("_", "-")
            for entry in fields(cls)
        }

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Give ``parser`` one option per field."""
        kinds, flags = get_type_hints(cls), cls.flags()
        for entry in fields(cls):
            words = {"dest": entry.name, "default": entry.default, "help": entry.metadata["help"]}
            kind = next(iter(get_args(kinds[entry.name])), kinds[entry.name])  # without None
            if kind is bool:
                words["action"] = f"store_{not entry.default}".lower()
            else:
                words["type"] = kind if kind in (str, int, float) else numbers(float)
                words["metavar"] = entry.metadata["metavar"]
            parser.add_argument(flags[entry.name], **words)

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "Settings":
        """The settings that a parser with these options has read."""
        return cls(**{entry.name: getattr(options, entry.name) for entry in fields(cls)})

    def command(self) -> str:
        """The command line that makes this run, in one process or more."""
        record, flags = self.record(), self.flags()
        words = ["python", "-m", "fbs_tutorial", "train"]
        for entry in self.recorded():
            value = record[entry.name]
            if value is None or value is False:
                continue
            words.append(flags[entry.name])
            if isinstance(value, list):
                words.append(",".join(map(repr, value)))
            elif value is not True:
                words.append(str(value))  # of a float the shortest text that reads back the same
        return shlex.join(words)


RULES: tuple[tuple[Callable[[Settings], bool], str], ...] = (
    (
        lambda s: s.any_density + s.static + s.plain + s.stripes > 1,
        "{any_density}, {static}, {plain} and {stripes} do not go together",
    ),
    (
        lambda s: s.fine_tunes and (s.static or s.plain or s.stripes),
        "{static}, {plain} and {stripes} train new networks, and do not go with {checkpoint} or "
        "{pretrained}",
    ),
    (
        lambda s: s.checkpoint is not None and s.pretrained,
        "{checkpoint} and {pretrained} do not go together: each gives the network",
    ),
    (
        lambda s: s.pretrained and s.model not in TORCHVISION,
        f"{{pretrained}} goes with {{model}}, one of {', '.join(TORCHVISION)}",
    ),
    (
        lambda s: s.freeze_norms and not s.fine_tunes,
        "{freeze_norms} goes with {checkpoint}: new norms have no statistics to keep",
    ),
    (
        lambda s: s.kind in ("finetune", "plain", "stripes", "tuned") and s.densities is not None,
        "{checkpoint} goes with one {density}, {plain} and {stripes} with none, not with "
        "{densities}",
    ),
    (
        lambda s: s.kind != "finetune" and s.density is not None,
        "{density} goes with {checkpoint} or {pretrained}, and not with {any_density}",
    ),
    (
        lambda s: not s.stripes and (s.sr is not None or s.threshold is not None),
        "{sr} and {threshold} go with {stripes}",
    ),
    (
        lambda s: s.slimming is not None and not s.plain and s.slim is None,
        "{slimming} goes with {plain} or {slim}",
    ),
    (
        lambda s: s.slim is not None and (s.fine_tunes or s.kind not in ("schedule", "any")),
        "{slim} comes before gates: it goes with a schedule or {any_density}, and without "
        "{checkpoint}",
    ),
    (lambda s: s.decay_skeletons and not s.stripes, "{decay_skeletons} goes with {stripes}"),
    (
        lambda s: s.stripes and s.distill,
        "{distill} teaches networks with gates and small ones, not those of {stripes}",
    ),
    (
        lambda s: s.kind == "tuned" and s.distill and s.teacher is None,
        "{distill} with {checkpoint} and no gates needs a {teacher}: a network cannot teach itself",
    ),
    (lambda s: s.lr is not None and not s.fine_tunes, "{lr} goes with {checkpoint}"),
    (
        lambda s: s.plain_epochs is not None and s.fine_tunes,
        "{plain_epochs} does not go with {checkpoint}: no plain network is trained",
    ),
    (
        lambda s: s.pretrained and s.distill and s.teacher is None,
        "{pretrained} with {distill} needs a {teacher}: a new classifier cannot teach",
    ),
    (lambda s: s.teacher is not None and not s.distill, "{teacher} goes with {distill}"),
    (lambda s: s.ramp is not None and not s.distill, "{ramp} goes with {distill}"),
    (
        lambda s: s.teacher_weight is not None and not s.distill,
        "{teacher_weight} goes with {distill}",
    ),
    (lambda s: s.plain and s.distill, "{distill} does not go with {plain}, which teaches itself"),
    (
        lambda s: (
            s.kind in ("static", "plain", "stripes", "tuned")
            and not (s.ramp is s.penalty is s.saliency is None)
        ),
        "{ramp}, {penalty} and {saliency} are for networks with gates, not for {static}, {plain} "
        "or {stripes}",
    ),
    (
        lambda s: (
            not s.any_density and not (s.draw is s.lowest_density is None and not s.calibrated)
        ),
        "{draw}, {lowest_density} and {calibrated} go with {any_density}",
    ),
    (
        lambda s: s.blocks and not any(step.gates for step in s.steps),
        "{blocks} is for networks with gates",
    ),
    (lambda s: s.as_they_are and not s.blocks, "{as_they_are} goes with {blocks}"),
    (
        lambda s: s.blocks and s.saliency is not None,
        "{saliency} does not go with {blocks}, which measure the mean of |x|",
    ),
    (
        lambda s: s.size is not None and usual_recipe(s.data).size is None,
        "{size} is for photographs; the images of {set} have one size",
    ),
)


def usual_recipe(data: str) -> Recipe:
    """The recipe of a data set, or of folders."""
    return RECIPES[data if data in RECIPES else "folder"]


def numbers(kind: type) -> Callable[[str], tuple]:
    """A reader of numbers with commas between them, for argparse."""

    def read(text: str) -> tuple:
        try:
            return tuple(kind(word) for word in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes numbers with commas, got {text!r}") from None

    return read


def read_record(record: dict, settings: Settings) -> dict:
    """What a run folder says of its settings, in the form of `Settings.record`.

    A setting that it lacks has the value that was the only one when the folder was written.
    """
    if "static" not in record:
        record = _record_of_0_1_0(record, settings)
    missing = {entry.name: entry.metadata["before"] for entry in settings.recorded()}
    return missing | record


def read_recipe(record: dict, now: Recipe) -> Recipe:
    """The recipe that a run folder holds; what it lacks has its default, or else is as ``now``."""
    values = asdict(now)
    values |= {
        entry.name: entry.default for entry in fields(Recipe) if entry.default is not MISSING
    }
    return Recipe(**values | {name: record[name] for name in values if name in record})


def _record_of_0_1_0(old: dict, settings: Settings) -> dict:
    """A run folder of version 0.1.0 had the kind of run, and hid two options in its steps."""
    kind = old["kind"]
    new = old | {"any_density": kind == "any", "static": kind == "static", "plain": False}
    new["steps"] = [_step_of_0_1_0(step) for step in old["steps"]]
    if kind == "finetune":
        step = new["steps"][0]
        usual = old["recipe"]["lr"]
        new |= {"densities": None, "density": step["density"]}
        new["lr"] = None if step["lr"] == usual and settings.lr is None else step["lr"]
    return new


def _step_of_0_1_0(old: dict) -> dict:
    density, width = old["density"], old["width"]
    kind = "small" if width is not None else "plain" if density is None else "gated"
    if density == "any":
        kind, density = "any", None
    new = {"kind": kind, "density": density, "width": width or 1.0, "distilled": False}
    return old | new
