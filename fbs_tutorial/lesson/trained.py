"""A short training of the digits network, in one call; the loop itself is in notebook 06."""

import math

from torch import nn
from tqdm.auto import tqdm

from ..data import Part, as_tensors, load_data, stratified_split
from ..training.loop import fit
from ..training.losses import lowered_density
from ..training.recipes import RECIPES, Step


def digits_to_train() -> tuple[Part, Part]:
    """Images ``[N, 1, 16, 16]`` and labels ``[N]``: 1,100 to learn from, and 197 to validate on."""
    images, labels = as_tensors(load_data("digits")[0])
    rest, held_out = stratified_split(labels, RECIPES["digits"].validation, seed=0)
    return (images[rest], labels[rest]), (images[held_out], labels[held_out])


def train_digits(
    network: nn.Module, density: float, epochs: int, *, teacher: nn.Module | None = None
) -> list[dict]:
    """Train a gated digits network in place by the recipe of the digits, with a progress bar.

    Args:
        density: at the end; with a teacher it falls to it from 1, without it is there at once.
        teacher: the network to learn from, too.

    Returns:
        A row for each epoch, as `plots.learning_curve` takes them.
    """
    recipe, log = RECIPES["digits"], []
    data, validation = digits_to_train()
    lr = recipe.lr if teacher is None else recipe.distilled_lr
    step = Step("gated", "gated", density, epochs, lr, distilled=teacher is not None)
    batches = epochs * math.ceil(len(data[1]) / recipe.batch)
    with tqdm(total=batches, unit="batch") as bar:
        how = {"seed": 0, "teacher": teacher, "bar": bar}
        fit(network, step, recipe, data, validation, save=log.append, **how)
    falls = [
        lowered_density(epoch / epochs, density, recipe.ramp) if step.distilled else density
        for epoch in range(epochs)
    ]
    return [row | {"density": d} for row, d in zip(log[-1]["log"], falls, strict=True)]
