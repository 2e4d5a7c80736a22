"""Folders of pictures: what is a picture of which class, what is skipped, how one is read."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from .files import DamagedImageError, unreadable
from .method.vouch import shortened

NAMES_SHOWN = 5


class Pictures(ImageFolder):
    """torchvision's ``ImageFolder``, told what a folder may hold beside its pictures.

    Hidden folders are no classes, hidden files no pictures, and no link is followed that leads back
    to where it came from. ``skipped`` says in words what was left out; it is empty if nothing was.
    Files are listed in the order of ``ImageFolder``.

    Raises:
        FileNotFoundError: no class folder, or one without a picture; it says what is there instead.
        OSError: a folder that cannot be read.
    """

    def __init__(self, root: Path, transform: Callable[[Image.Image], Tensor]):
        self.hidden: list[str] = []
        self.others: Counter[str] = Counter()  # files by the ends of their names
        self.loops: list[str] = []
        super().__init__(root, transform, loader=read_picture)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        folders, files = _list(directory)
        for name in files:
            _check_link(Path(directory, name))
        self._leave_out(files)
        classes = self._without_loops(Path(directory), self._visible(Path(directory), folders))
        if not classes:
            raise FileNotFoundError(
                f"{directory} has no class folders; it holds {holds(directory)}"
            )
        return classes, {name: i for i, name in enumerate(classes)}

    def _without_loops(self, directory: Path, names: list[str]) -> list[str]:
        """The folders that do not lead back to ``directory`` or what it lies in."""
        own = Path(os.path.realpath(directory))
        loops = {n for n in names if Path(os.path.realpath(directory / n)) in (own, *own.parents)}
        self.loops += sorted(loops)
        return [name for name in names if name not in loops]

    def make_dataset(
        self, directory: str | Path, class_to_idx: dict[str, int], **options
    ) -> list[tuple[str, int]]:
        samples = []
        for name, index in class_to_idx.items():
            found = list(self._pictures(Path(directory) / name))
            if not found:
                folder = Path(directory, name)
                raise FileNotFoundError(
                    f"class folder {folder} has no pictures ({', '.join(IMG_EXTENSIONS)}); "
                    f"it holds {holds(folder)}"
                )
            samples += [(path, index) for path in sorted(found, key=os.path.split)]
        return samples

    def _pictures(self, folder: Path) -> Iterator[str]:
        """The pictures in a class folder and the folders in it, in no order."""
        seen = {os.path.realpath(folder)}
        own = Path(os.path.abspath(folder)), Path(os.path.realpath(folder))
        above = {os.path.realpath(parent) for path in own for parent in path.parents}
        for place, folders, files in os.walk(folder, followlinks=True, onerror=_stop):
            folders[:] = self._visible(Path(place), folders)
            for name in list(folders):
                target = os.path.realpath(os.path.join(place, name))
                if target in seen or target in above:
                    folders.remove(name)
                    self.loops.append(os.path.relpath(os.path.join(place, name), self.root))
                seen.add(target)
            pictures = [name for name in files if _is_picture(name)]
            self._leave_out(set(files) - set(pictures))
            yield from (os.path.join(place, name) for name in pictures)

    def _visible(self, place: Path, folders: Iterable[str]) -> list[str]:
        """The folders that are not hidden, sorted."""
        hidden = [name for name in folders if name.startswith(".")]
        self.hidden += [os.path.relpath(place / name, self.root) for name in hidden]
        return sorted(set(folders) - set(hidden))

    def _leave_out(self, files: Iterable[str]) -> None:
        for name in files:
            kind = os.path.splitext(name)[1].lower() or name
            self.others["hidden files" if name.startswith(".") else kind] += 1

    @property
    def skipped(self) -> str:
        said = []
        if self.hidden:
            said.append(f"hidden folders ({shortened(self.hidden)})")
        if self.others:
            kinds = [f"{count} {kind}" for kind, count in sorted(self.others.items())]
            said.append(f"files that are no pictures of a class ({shortened(kinds)})")
        if self.loops:
            said.append(f"links to what is read already ({shortened(self.loops)})")
        return f"{self.root}: skipped {', '.join(said)}" if said else ""


def check_classes(train: Pictures, test: Pictures) -> str:
    """Raise unless both parts hold the same two classes or more.

    Returns:
        What is strange about the classes, in words; empty if nothing is.
    """
    root, name = Path(train.root), Path(test.root).name
    if train.classes != test.classes:
        raise FileNotFoundError(
            f"{root.parent}: train/ and {name}/ differ in classes ({len(train.classes)} and "
            f"{len(test.classes)}): {name}/ must hold the same class folders as train/ (Tiny "
            f"ImageNet comes without; sort val/ by its val_annotations.txt); {name}/ holds "
            f"{holds(test.root)}"
        )
    # the classes whose pictures all lie in folders of their own, whatever else lies beside those
    inside = [c for c in train.classes if not any(map(_is_picture, _list(root / c)[1]))]
    if len(train.classes) == 1:
        (only,) = train.classes
        advice = "two classes or more can be told apart"
        if inside:
            advice = f"move its class folders up into train/ and the same in {name}/"
        raise FileNotFoundError(
            f"{root} has one class folder, {only}, which holds {holds(root / only)}: {advice}"
        )
    if len(inside) == len(train.classes) and all(_folders(root / c) > 1 for c in inside):
        first = train.classes[0]
        return (
            f"{root}: the classes are {shortened(train.classes)}, which hold folders themselves, "
            f"such as {first} with {holds(root / first)}; all pictures in them count as that class"
        )
    return ""


def read_picture(path: str) -> Image.Image:
    """A picture in RGB with 8 bits per channel; of 16 bits the value is scaled to 8.

    Raises:
        DamagedImageError: with the file and the reason.
    """
    try:
        if os.stat(path).st_size == 0 or stat.S_ISFIFO(os.stat(path).st_mode):
            raise ValueError("it is empty")  # a pipe that nobody fills would wait for ever
        with Image.open(path) as picture:
            return _with_8_bits(picture).convert("RGB")
    except Exception as error:  # PIL raises many kinds for a damaged picture
        raise DamagedImageError(unreadable(path, error)) from error


def _with_8_bits(picture: Image.Image) -> Image.Image:
    """The picture itself, or scaled where PIL would cut all values above 255 off."""
    sixteen = picture.mode.startswith("I;16")
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):
        sixteen = True  # so older versions of PIL read 16 bits from these
    if sixteen:
        pixels = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "integers" if picture.mode == "I" else "floats"
        raise ValueError(f"32-bit {kind}, of which nothing says how bright they are: store it in 8")
    return picture


def holds(folder: str | Path) -> str:
    """What is in a folder, in a few words; of what is not hidden."""
    folders, files = ([n for n in names if not n.startswith(".")] for names in _list(folder))
    kinds = Counter(os.path.splitext(name)[1].lower() or "nameless" for name in files)
    said = [f"{name}/" for name in folders[:NAMES_SHOWN]]
    more = len(folders) - len(said)
    said += [f"{more} more folders"] if more else []
    said += [f"{count} {kind} file{'s' * (count > 1)}" for kind, count in sorted(kinds.items())]
    return ", ".join(said) or "nothing"


def _folders(folder: Path) -> int:
    return sum(not name.startswith(".") for name in _list(folder)[0])


def _check_link(path: Path) -> None:
    """Raise if a class folder may be missing: its place holds a link to what is not there."""
    if path.is_symlink() and not path.exists() and not path.name.startswith("."):
        raise FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which is not there")


def _list(folder: str | Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, sorted."""
    with os.scandir(folder) as entries:
        # os.path.isdir: a link to itself is no folder, and no error
        names = sorted((entry.name, os.path.isdir(entry.path)) for entry in entries)
    return [n for n, is_folder in names if is_folder], [
        n for n, is_folder in names if not is_folder
    ]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _stop(error: OSError) -> None:
    raise error
