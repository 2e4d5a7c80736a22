"""What a run trains and how: a recipe for each data set, and the steps of a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained. Learning rates are the peak of a warm-up and a cosine."""

    model: str
    plain_epochs: int
    epochs: int  # at each density of the schedule
    any_epochs: int  # of the any-density network
    distilled_epochs: int  # at each density, from the plain network on
    batch: int  # images per update, of all processes together
    plain_lr: float
    lr: float
    any_lr: float
    distilled_lr: float
    gain: float  # of the predictors' initial weights, see `random_predictor`
    lowest_density: float  # of the any-density training: a little below the range of use
    validation: int | float  # images held out of the training set, or their share
    shift: int = 0  # augmentation: pixels moved at most, each way
    flip: bool = False  # augmentation: left and right
    size: int | None = None  # of images read from files, cropped at random; None: all in memory
    weight_decay: float = 5e-4  # on convolutions and the classifier, never on predictors
    penalty: float = 1e-8  # the paper's lambda, see `saliency_penalty`
    smoothing: float = 0.0  # of the labels
    dropout: float | None = None  # of every dropout layer; None: as the network has it
    bfloat16: bool = False  # for the convolutions; gates are never computed in it
    freeze_norms: bool = False  # batch norms keep the statistics they have
    threads: int | None = None  # of a CPU, at most: small networks are faster in one
    saliency: str = "l1"  # how gated layers measure their inputs, see `channel_saliency`
    temperature: float = 4.0  # distillation: of teacher and student
    teacher_weight: float = 0.7  # distillation: of the teacher's outputs, the labels have the rest
    slimming: float = 0.0  # of the norms' scales in plain networks, see `slimming_penalty`
    slim: float = 0.0  # percent of the channels that go before there are gates, see `slim`
    sr: float = 1e-5  # of the skeletons, see `skeleton_penalty`
    threshold: float = 0.01  # below it a stripe is pruned, see `update_skeletons`
    decay_skeletons: bool = False  # at 1 that is ten times ``sr``, or more
    draw: str = "image"  # any density: one drawn for each image, or for each "batch"
    ramp: float = 0.3  # share of a distilled step in which the density falls from 1 to its target


PHOTOGRAPHS = dict(
    model="resnet18",
    plain_epochs=20,
    epochs=6,
    any_epochs=30,
    distilled_epochs=20,
    batch=128,
    plain_lr=0.1,
    lr=0.03,
    any_lr=0.1,
    distilled_lr=0.1,
    gain=0.3,
    lowest_density=0.25,
    smoothing=0.1,
    bfloat16=True,
)

RECIPES = {
    "digits": Recipe(
        model="digitsnet",
        plain_epochs=20,
        epochs=16,
        any_epochs=60,
        distilled_epochs=24,
        batch=64,
        plain_lr=0.05,
        lr=0.015,
        any_lr=0.05,
        distilled_lr=0.05,
        gain=5.0,
        lowest_density=0.08,
        validation=197,
        shift=1,
        flip=False,
        threads=1,
    ),
    "fashion_mnist": Recipe(
        model="digitsnet",
        plain_epochs=12,
        epochs=4,
        any_epochs=20,
        distilled_epochs=12,
        batch=128,
        plain_lr=0.05,
        lr=0.02,
        any_lr=0.05,
        distilled_lr=0.05,
        gain=3.0,
        lowest_density=0.15,
        validation=5000,
        shift=2,
        flip=True,
    ),
    "cifar10": Recipe(
        model="mcifarnet",
        plain_epochs=45,
        epochs=8,
        any_epochs=45,
        distilled_epochs=45,
        batch=256,
        plain_lr=0.2,
        lr=0.05,
        any_lr=0.1,
        distilled_lr=0.1,
        gain=0.3,
        lowest_density=0.17,
        validation=5000,
        shift=4,
        flip=True,
        smoothing=0.05,
        dropout=0.0,  # few epochs and strong augmentation: nothing to hold back
        bfloat16=True,
    ),
    "imagenette": Recipe(size=128, validation=1000, **PHOTOGRAPHS),
    "folder": Recipe(size=128, validation=0.05, **PHOTOGRAPHS),
}


@dataclass(frozen=True)
class Step:
    """One network of a run: what it is called, and how it is trained."""

    name: str  # of its weights file: "plain", "d0.5", "any", "static0.5"
    kind: str  # "plain", "small" (plain with fewer channels), "gated", "any" (any density),
    # "stripes" (with skeletons), "slim" (the plain one, slimmed), or "tuned" (a network that is
    # given, as it is)
    density: float | None  # of a gated network; None where there is none or one is drawn per image
    epochs: int
    lr: float
    width: float = 1.0  # share of the channels that a small network has
    distilled: bool = False  # taught by the plain network

    @property
    def label(self) -> str:
        if self.kind == "gated":
            return f"d = {self.density:g}"
        if self.kind == "small":
            return f"small plain, {self.width:g}"
        return "any density" if self.kind == "any" else self.kind

    @property
    def gates(self) -> bool:
        """Whether the network has gates."""
        return self.kind in ("gated", "any")

    @property
    def method(self) -> str:
        """What the rows of ``metrics.json`` call it."""
        return "fbs" if self.kind == "gated" else self.kind
