"""Data sets: the embedded digits, torchvision's, and any folder of class folders."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .files import DamagedImageError, unreadable

NAMES = ("digits", "cifar10", "fashion_mnist", "imagenette")
TEST_DIGITS = 500
IMAGENETTE = {"train": 9469, "val": 3925}  # pictures of the whole set
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = max(1, min(8, CORES // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))  # that read files


def load_data(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    size: int | None = None,
    augment: bool = False,
    download: bool = False,
) -> tuple[Dataset, Dataset]:
    """``(train, test)`` data sets of ``(image [C, H, W] in [0, 1], class index)``.

    Nothing is downloaded unless asked for.

    Args:
        name: ``"digits"``: 1,797 handwritten digits that come with scikit-learn, enlarged from 8x8
            to ``[1, 16, 16]``, 500 of them for test; ``"cifar10"``, ``"fashion_mnist"`` or
            ``"imagenette"`` as torchvision stores them under ``root``; or the path of a folder with
            ``train/`` and ``val/`` (or ``test/``), each with one folder of images per class. What
            of its files and folders is not read, hidden ones for example, is said in a warning.
        root: where torchvision's sets lie; the environment variable ``FBS_DATA`` when None, which
            a notebook may set at any time: ``%env FBS_DATA=folder``.
        size: of photographs (imagenette and folders): the shorter side is scaled to 8/7 of it, and
            the middle ``[3, size, size]`` cut out. None: 128 for imagenette, and the images of a
            folder as they are.
        augment: the training images are random crops of 35 to 100 % of a photograph, scaled to
            ``size`` and mirrored half of the time, drawn anew whenever one is read.
        download: fetch one of torchvision's sets into ``root`` if it is not there.

    Raises:
        TypeError: ``name``, ``root`` or ``size`` of a wrong type. ValueError: ``name`` is no known
            set and no folder; ``size`` does not fit.
        FileNotFoundError: the set is missing, partial or damaged; the message says what to do.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"name must be a data set's name or a folder, got {name!r}")
    if root is not None and not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be a folder or None, got {root!r}")
    _check_size(name, size, augment)
    if name == "digits":
        return _digits()
    if name == "imagenette":
        return _imagenette(root, size or 128, augment, download)
    if name in NAMES:
        return _torchvision(name, root, download)
    if Path(name).is_dir():
        return _folder(Path(name), size, augment)
    raise ValueError(f"name must be one of {', '.join(NAMES)} or an existing folder, got {name!r}")


class Files:
    """The images of a data set that is too large for memory: read when they are asked for.

    Args:
        dataset: of ``(image, class index)``, as from `load_data`.
        indices: which of its images, in this order; all when None.
    """

    def __init__(self, dataset: Dataset, indices: Tensor | None = None):
        self.dataset = dataset
        self.indices = torch.arange(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Tensor) -> "Files":
        return Files(self.dataset, self.indices[index])

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """The images ``[n, C, H, W]`` of each index tensor ``[n]`` of ``order``.

        A random crop depends on ``seed`` and on the image alone, not on who reads it when.

        Raises:
            DamagedImageError: a picture that cannot be read, by its name.
            OSError: a process that reads has died.
        """
        loader = DataLoader(
            _Reader(self.dataset, seed),
            batch_sampler=[self.indices[indices].tolist() for indices in order],
            num_workers=WORKERS,
        )
        try:
            yield from loader
        except DamagedImageError as error:  # from a worker: its traceback is in the message
            text = str(error).rpartition("DamagedImageError: ")[2]
            raise DamagedImageError(" ".join(text.split())) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise OSError(
                f"a process that reads images has died ({error}); in a container, give it more "
                "shared memory (--shm-size)"
            ) from None


class _Reader(Dataset):
    """The images of ``dataset``; how one is cropped follows from ``seed`` and its index alone."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(crc32(f"{self.seed} {index}".encode()))
            try:
                return self.dataset[index][0]
            except DamagedImageError:
                raise
            except Exception as error:  # PIL raises many kinds for a damaged picture
                path = getattr(self.dataset, "imgs", getattr(self.dataset, "_samples", None))
                name = path[index][0] if path else f"image {index}"
                raise DamagedImageError(unreadable(name, error)) from error


Part = tuple[Tensor | Files, Tensor]  # images [N, C, H, W] and labels [N]


def batches(part: Part, order: Sequence[Tensor], seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """``(images, labels)`` of each index tensor of ``order``, on the device of the labels."""
    images, labels = part
    if isinstance(images, Tensor):
        # Moved at once: a copy to a GPU for each batch would wait for the batch before.
        sizes = [len(indices) for indices in order]
        for indices in torch.cat(list(order)).to(labels.device).split(sizes):
            yield images[indices], labels[indices]
        return
    for indices, x in zip(order, images.batches(order, seed), strict=True):
        x = x.to(labels.device, memory_format=torch.channels_last)
        yield x, labels[indices]


def in_order(part: Part, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole part, ``size`` images at a time."""
    return batches(part, torch.arange(len(part[1])).split(size))


def draw_moves(count: int, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """How to augment each image, ``[count, 3]``: pixels down, pixels right, mirrored or not."""
    moves = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count)
    return torch.stack([*moves, mirrored.long()], dim=1)


def augment(images: Tensor, moves: Tensor, shift: int) -> Tensor:
    """Move each image by up to ``shift`` pixels, edges repeated, and mirror some: same shape.

    Args:
        images: ``[N, C, H, W]``.
        moves: ``[N, 3]`` of `draw_moves`, on the device of the images.
    """
    _, _, height, width = images.shape
    down, right, mirrored = moves.T
    padded = pad(images, (shift,) * 4, mode="replicate")
    rows = down[:, None] + torch.arange(height, device=moves.device)  # [N, H]
    columns = right[:, None] + torch.arange(width, device=moves.device)  # [N, W]
    columns = torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
    picture = torch.arange(len(images), device=moves.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # channels_last in memory, which convolutions like


def spread(part: Part, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` images of a part, evenly spread over it, in memory, and their labels."""
    total = len(part[1])
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long()
    parts = list(batches(part, chosen.split(100)))
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return images, labels


def as_tensors(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The whole data set in memory: images ``[N, C, H, W]`` float32, labels ``[N]`` int64."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors
    images, labels = zip(*dataset, strict=True)
    return torch.stack(images), torch.tensor(labels)


def labels_of(dataset: Dataset) -> Tensor:
    """The class indices ``[N]`` of a set of files, without reading the images."""
    if hasattr(dataset, "targets"):
        return torch.tensor(dataset.targets)
    return torch.tensor([label for _, label in dataset._samples])  # Imagenette has nothing public


def fingerprint(*datasets: Dataset) -> str:
    """What tells one state of data sets from another, in one line.

    Of images in memory their content counts, of files their names, sizes and classes.

    Raises:
        DamagedImageError: a file that is not there any more.
    """
    digest, count = sha256(), 0
    for dataset in datasets:
        count += len(dataset)
        files = getattr(dataset, "samples", getattr(dataset, "_samples", None))
        if files is not None:
            lines = (_file_line(path, label, str(dataset.root)) for path, label in files)
            digest.update("\n".join(lines).encode(errors="surrogateescape"))
            continue
        stored = getattr(dataset, "tensors", None) or (dataset.data, dataset.targets)
        for part in stored:  # [N, ...], of uint8 where torchvision stores them
            digest.update(torch.as_tensor(part).contiguous().numpy().tobytes())
    return f"{count} images, sha256 {digest.hexdigest()}"


def _file_line(path: str, label: int, root: str) -> str:
    """The class, the name in the data set's folder, and the size of a picture."""
    try:
        return f"{label} {str(path).removeprefix(root)} {os.path.getsize(path)}"
    except OSError as error:
        raise DamagedImageError(unreadable(path, error)) from error


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


def _check_size(name: str | os.PathLike, size: int | None, augment: bool) -> None:
    """Raise unless ``size`` and ``augment`` suit the set called ``name``."""
    if size is None:
        if augment and name != "imagenette":
            raise ValueError("augment=True needs a size, which only photographs take")
        return
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size must be an int >= 8 or None, got {size!r}")
    if size < 8:
        raise ValueError(f"size must be an int >= 8 or None, got {size}")
    if name in NAMES and name != "imagenette":
        raise ValueError(f"size is for photographs; the images of {name} have one size, got {size}")


def _torchvision(
    name: str, root: str | os.PathLike | None, download: bool
) -> tuple[Dataset, Dataset]:
    from torchvision import datasets, transforms

    kind = {"cifar10": datasets.CIFAR10, "fashion_mnist": datasets.FashionMNIST}[name]
    root, remedy = _root(name, root)
    try:
        return tuple(
            kind(root, train=train, transform=transforms.ToTensor(), download=download)
            for train in (True, False)
        )
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AssertionError) as error:
        raise FileNotFoundError(
            f"{name} is missing or damaged in {root} ({error}): {remedy}"
        ) from error


def _root(name: str, root: str | os.PathLike | None) -> tuple[str | os.PathLike, str]:
    """The folder of torchvision's sets, and what to do if ``name`` is not in it."""
    root = root or os.environ.get("FBS_DATA")
    remedy = (
        f"give the folder that holds it as root, or in FBS_DATA (in a notebook: "
        f"%env FBS_DATA=folder). To download it there once: "
        f"python -m fbs_tutorial train --data {name} --download, "
        f"or load_data({name!r}, folder, download=True)"
    )
    if not root:
        raise FileNotFoundError(f"{name} needs a folder: {remedy}")
    return root, remedy


def _imagenette(
    root: str | os.PathLike | None, size: int, augment: bool, download: bool
) -> tuple[Dataset, Dataset]:
    """The smallest of the three editions in ``root`` that is large enough, else any."""
    from torchvision import datasets

    root, remedy = _root("imagenette", root)
    folders = {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}
    fit = [e for e, side in (("160px", 160), ("320px", 320)) if size * 8 / 7 <= side] + ["full"]
    smaller = [e for e in ("320px", "160px") if e not in fit and not download]
    there = [e for e in fit + smaller if (Path(root) / folders[e]).is_dir()]
    edition = (there or fit)[0]
    folder = Path(root) / folders[edition]
    if folder.is_dir():
        remedy = f"delete {folder} and fetch it again: {remedy}"
    found = []
    for split, count in IMAGENETTE.items():
        transform = photograph_transform(size, augment and split == "train")
        try:
            part = datasets.Imagenette(
                root, split, edition, transform=transform, download=download and not folder.is_dir()
            )
        except (RuntimeError, OSError, LookupError) as error:
            raise FileNotFoundError(
                f"imagenette is missing or damaged in {root} ({error}): {remedy}"
            ) from error
        if len(part) != count:
            raise FileNotFoundError(
                f"imagenette is damaged: {folder / split} holds {len(part)} of {count} pictures; "
                f"{remedy}"
            )
        found.append(part)
    return tuple(found)


def _folder(folder: Path, size: int | None, augment: bool) -> tuple[Dataset, Dataset]:
    from .pictures import Pictures, check_classes, holds

    test = next((folder / part for part in ("val", "test") if (folder / part).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"{folder} needs train/ and val/ (or test/), each with one folder of images per class; "
            f"it holds {holds(folder)}"
        )
    try:
        train = Pictures(folder / "train", photograph_transform(size, augment))
        test = Pictures(test, photograph_transform(size, False))
    except OSError as error:
        raise FileNotFoundError(f"{folder} is not a folder of class folders: {error}") from error
    for note in (check_classes(train, test), train.skipped, test.skipped):
        if note:
            warnings.warn(note, stacklevel=3)
    return train, test


def photograph_transform(size: int | None, augment: bool) -> Callable[[object], Tensor]:
    """From a picture to ``[C, H, W]`` in [0, 1]; see `load_data`.

    Random crops hold at least 35 % of the picture, not 8 % as is usual: trainings here are short.
    """
    from torchvision import transforms

    if size is None:
        return transforms.ToTensor()
    if augment:
        cut = [
            transforms.RandomResizedCrop(size, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
        ]
    else:
        cut = [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)]
    return transforms.Compose([*cut, transforms.ToTensor()])
