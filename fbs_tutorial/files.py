"""Files that are written whole or not at all, and the words for one that cannot be read."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path


class DamagedImageError(FileNotFoundError):
    """An image of a data set that cannot be read."""


def damaged(path: str | os.PathLike, why: object, remedy: str) -> str:
    """The one sentence about a file that cannot be read."""
    return f"{path} is damaged ({' '.join(str(why).split())}): {remedy}"


def unreadable(path: str | os.PathLike, error: Exception) -> str:
    """The one sentence about a picture: the system's trouble with it, or what is wrong in it."""
    if isinstance(error, OSError) and error.errno is not None:
        link = f", a link to {os.readlink(path)}," if os.path.islink(path) else ""
        return f"{path}{link} cannot be read: {error.strerror}"
    return damaged(path, error or type(error).__name__, "replace it, or delete it and start again")


def file_fingerprint(path: str | os.PathLike) -> str:
    """What tells one content of a file from another."""
    return f"sha256 {sha256(Path(path).read_bytes()).hexdigest()}"


def check_writable(path: Path, *others: Path) -> None:
    """Make the folder of ``path``; see whether it can be written there, and ``others`` beside it.

    Raises:
        OSError: with the name of the file and the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in (path, *others):
            if file.is_dir():
                raise IsADirectoryError(0, "a folder of this name is in the way", str(file))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error} ({error.filename})"
        ) from error


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write ``content`` so that ``path`` holds either its old content or all of the new.

    ``sync``: wait until the disk has it, which takes some ten milliseconds. Without, a process may
    still be killed at any time; only a power cut can cost the new content, and the old.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
