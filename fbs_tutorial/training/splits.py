"""The parts of a data set that a run trains on, validates with, and measures."""

import copy
import math
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from ..data import (
    Files,
    Part,
    as_tensors,
    labels_of,
    load_data,
    photograph_transform,
    spread,
    stratified_split,
)
from .parallel import Team
from .recipes import Recipe
from .settings import RunError

CONTROL_IMAGES = 2000  # test images, at most, of `how_dynamic`; training images of its mean gate


@dataclass
class Splits:
    """The parts of a data set; tensors are on the device."""

    train: Part
    validation: Part
    test: Part
    reference: Tensor  # training images, not augmented, whose gates make the mean gate
    classes: list[str]  # their names
    datasets: tuple[Dataset, Dataset]  # what all of them come from, training and test

    @property
    def num_classes(self) -> int:
        return int(self.train[1].max()) + 1

    @property
    def seen(self) -> Tensor:
        """The training images; where they are in files, the reference ones among them."""
        return self.train[0] if isinstance(self.train[0], Tensor) else self.reference


def load_splits(data: str, recipe: Recipe, seed: int, download: bool, team: Team) -> Splits:
    """The data set, its training images split by ``seed``.

    Raises:
        FileNotFoundError: the data set is not there. RunError: too few images.
    """
    if download:
        _download(data, recipe, team)
    datasets = load_data(data, size=recipe.size)
    images, augmented, labels, test, classes = _read(*datasets, recipe)
    rest, held_out = stratified_split(labels, held_out_count(labels, recipe.validation), seed)
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
        classes=classes,
        datasets=datasets,
    )


def _download(data: str, recipe: Recipe, team: Team) -> None:
    team.from_first(lambda: load_data(data, size=recipe.size, download=True) and None)
    if team.local_rank == 0:  # on a disk of its own
        load_data(data, size=recipe.size, download=True)
    team.wait()


def _read(
    train_set: Dataset, test_set: Dataset, recipe: Recipe
) -> tuple[Tensor | Files, Tensor | Files, Tensor, Part, list[str]]:
    """Training images as they are and as they are trained on, their labels, the test part, and the
    names of the classes."""
    if recipe.size is None:
        images, labels = as_tensors(train_set)
        return images, images, labels, as_tensors(test_set), _classes(test_set, labels)
    cropped = copy.copy(train_set)  # shares the list of files
    cropped.transform = photograph_transform(recipe.size, augment=True)
    labels, test = labels_of(train_set), (Files(test_set), labels_of(test_set))
    return Files(train_set), Files(cropped), labels, test, _classes(test_set, labels)


def _classes(dataset: Dataset, labels: Tensor) -> list[str]:
    """What a data set calls its classes, or their numbers."""
    names = getattr(dataset, "classes", range(int(labels.max()) + 1))
    return [name[0] if isinstance(name, tuple) else str(name) for name in names]


def held_out_count(labels: Tensor, wanted: int | float) -> int:
    """How many training images are held out for validation: as many as classes at least."""
    counts = labels.bincount()
    if counts.min() < 2:
        raise RunError(f"every class needs two training images or more, one has {counts.min()}")
    if isinstance(wanted, float):
        wanted = math.ceil(wanted * len(labels))
    return max(wanted, len(counts))
