"""Data sets: the embedded digits, torchvision's, and any folder of class folders."""

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, TensorDataset

NAMES = ("digits", "cifar10", "fashion_mnist")
TEST_DIGITS = 500


def load_data(name: str, root: str | os.PathLike | None = None) -> tuple[Dataset, Dataset]:
    """``(train, test)`` data sets of ``(image [C, H, W] in [0, 1], class index)``.

    Nothing is downloaded.

    Args:
        name: ``"digits"``: 1,797 handwritten digits that come with scikit-learn, enlarged from 8x8
            to ``[1, 16, 16]``, 500 of them for test; ``"cifar10"`` or ``"fashion_mnist"`` as
            torchvision stores them under ``root``; or the path of a folder with ``train/`` and
            ``val/`` (or ``test/``), each with one folder of images a class.
        root: where torchvision's sets lie; the environment variable ``FBS_DATA`` when None.

    Raises:
        TypeError: ``name`` is not a string or path. ValueError: it is no known set and no folder.
        FileNotFoundError: the set is missing, partial or damaged; the message says what to do.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"name must be a data set's name or a folder, got {name!r}")
    if name == "digits":
        return _digits()
    if name in NAMES:
        return _torchvision(name, root)
    if Path(name).is_dir():
        return _folder(Path(name))
    raise ValueError(f"name must be one of {', '.join(NAMES)} or an existing folder, got {name!r}")


def as_tensors(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The whole data set in memory: images ``[N, C, H, W]`` float32, labels ``[N]`` int64."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors
    images, labels = zip(*dataset, strict=True)
    return torch.stack(images), torch.tensor(labels)


def stratified_split(labels: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sorted indices ``(rest, held out)``: ``count`` held out, each class in proportion."""
    from sklearn.model_selection import train_test_split  # here: the method needs torch alone

    rest, held_out = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=count,
        stratify=labels.numpy(),
        random_state=seed,
    )
    return torch.from_numpy(rest).sort().values, torch.from_numpy(held_out).sort().values


def _digits() -> tuple[Dataset, Dataset]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
    images = interpolate(images, size=16, mode="bilinear", align_corners=False)
    labels = torch.tensor(digits.target)
    train, test = stratified_split(labels, TEST_DIGITS)
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def _torchvision(name: str, root: str | os.PathLike | None) -> tuple[Dataset, Dataset]:
    from torchvision import datasets, transforms

    kind = {"cifar10": datasets.CIFAR10, "fashion_mnist": datasets.FashionMNIST}[name]
    if root is not None and not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be a folder or None, got {root!r}")
    root = root or os.environ.get("FBS_DATA")
    remedy = (
        f"give the folder that holds it as root, or in FBS_DATA. To download it there once: "
        f"torchvision.datasets.{kind.__name__}(folder, download=True)"
    )
    if not root:
        raise FileNotFoundError(f"{name} needs a folder: {remedy}")
    try:
        return tuple(
            kind(root, train=train, transform=transforms.ToTensor()) for train in (True, False)
        )
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AssertionError) as error:
        raise FileNotFoundError(
            f"{name} is missing or damaged in {root} ({error}): {remedy}"
        ) from error


def _folder(folder: Path) -> tuple[Dataset, Dataset]:
    from torchvision import datasets, transforms

    test = next((folder / part for part in ("val", "test") if (folder / part).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"{folder} needs train/ and val/ (or test/), each with one folder of images a class"
        )
    to_tensor = transforms.ToTensor()
    try:
        train = datasets.ImageFolder(folder / "train", to_tensor)
        test = datasets.ImageFolder(test, to_tensor)
    except (FileNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{folder} is not a folder of class folders: {error}") from error
    if train.classes != test.classes:
        raise FileNotFoundError(f"{folder}: train/ and {Path(test.root).name}/ differ in classes")
    return train, test
