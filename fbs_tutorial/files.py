"""Files that are written whole or not at all, and the words for one that cannot be read."""

import os
import tempfile
from pathlib import Path


def damaged(path: str | os.PathLike, why: object, remedy: str) -> str:
    """The one sentence about a file that cannot be read."""
    return f"{path} is damaged ({' '.join(str(why).split())}): {remedy}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either its old content or all of the new."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
