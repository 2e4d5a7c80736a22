"""How a network learns: recipes, one step of training, and the randomness it needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .checkpoints import CheckpointError
from .gated import evaluating, saliency_penalty, set_density

Labelled = tuple[Tensor, Tensor]  # images [N, C, H, W] and labels [N]


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
    dropout: float | None = None  # of every dropout layer; None: as the network has it
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
        plain_epochs=24,
        epochs=8,
        any_epochs=36,
        batch=256,
        plain_lr=0.2,
        lr=0.05,
        any_lr=0.1,
        gain=0.3,
        lowest_density=0.17,
        validation=5000,
        shift=4,
        flip=True,
        smoothing=0.05,
        dropout=0.0,  # few epochs and strong augmentation: nothing to hold back
        bfloat16=True,
    ),
}


@dataclass(frozen=True)
class Step:
    """One network of a run: what it is called, and how it is trained."""

    name: str  # of its weights file: "plain", "d0.5", "any", "static0.5"
    density: float | str | None  # None: a plain network; a number; "any": drawn for each image
    epochs: int
    lr: float
    width: float | None = None  # of a small plain network, for comparison

    @property
    def label(self) -> str:
        if self.density is None:
            return "plain" if self.width is None else f"small plain, {self.width:g}"
        return "any density" if self.density == "any" else f"d = {self.density:g}"


def fit(
    network: nn.Module,
    step: Step,
    recipe: Recipe,
    data: Labelled,
    validation: Labelled,
    seed: int,
    *,
    state: dict | None = None,
    save: Callable[[dict], None] = lambda state: None,
    bar: tqdm | None = None,
) -> None:
    """Train ``network`` in place for one step.

    After each epoch ``save`` gets a state; given back as ``state`` it makes training go on from
    there and end with the same numbers. The randomness of an epoch depends on ``seed`` and its
    number alone.

    Raises:
        FloatingPointError: the loss is no longer finite.
        CheckpointError: the state is of another network.
    """
    optimizer = make_optimizer(network, recipe)
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if state is not None:
        try:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError("state.pt is of another network; delete it") from error
    if isinstance(step.density, float):
        set_density(network, step.density)
    bar = bar if bar is not None else tqdm(disable=True)
    first = state["epoch"] if state is not None else 0
    bar.update(first * math.ceil(len(data[1]) / recipe.batch))
    for epoch in range(first, step.epochs):
        bar.set_description(f"{step.label}, epoch {epoch + 1}/{step.epochs}")
        loss = _epoch(network, optimizer, step, epoch, recipe, data, seed + epoch, bar)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in {bar.desc}: try a smaller --lr")
        if step.density == "any":
            set_density(network, 0.5)  # the batch's densities do not fit the validation images
        bar.set_postfix(loss=f"{loss:.3f}", val=f"{accuracy(network, *validation):.3f}")
        save(
            {
                "step": step.name,
                "epoch": epoch + 1,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        )


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Step,
    epoch: int,
    recipe: Recipe,
    data: Labelled,
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the training images; returns the mean loss."""
    images, labels = data
    torch.manual_seed(seed)  # dropout
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randperm(len(labels), generator=generator).split(recipe.batch)
    network.train()
    total = 0.0
    for i, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = step.lr * learning_rate_factor((epoch + i / len(batches)) / step.epochs)
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
    return (outputs.argmax(dim=1) == labels).sum().item() / len(labels)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum. Predictors do not decay: that would pull every gate to its bias,
    and gates that are all bias are the same for every image."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim > 1 and "predictor" not in name
        (decayed if matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
