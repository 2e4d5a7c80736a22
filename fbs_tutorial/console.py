"""What a command says while it works, on standard error; nothing breaks where nobody reads it."""

import os
import sys
from contextlib import suppress
from typing import TextIO

from tqdm.auto import tqdm


class Quiet:
    """A stream that drops what it cannot write, such as to a pipe whose reader is gone."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            send_into_nothing(self.stream)

    def flush(self) -> None:
        """Nothing to do: `write` does."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def send_into_nothing(stream: TextIO) -> None:
    """From here on what is written to a stream is lost; so Python can end without an error."""
    with suppress(OSError, ValueError):  # those that are no files
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def open_streams() -> None:
    """Give a process that was started with closed streams (``2>&-``) streams into nothing.

    Without, the next file that is opened would take the place of standard error, and with it
    whatever a library prints there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def note(line: str) -> None:
    """Print a line on standard error, above the progress bar if there is one."""
    if sys.stderr is not None:
        tqdm.write(line, file=Quiet(sys.stderr))


def progress_bar(total: int, done: int, wanted: bool) -> tqdm:
    """A bar of batches on standard error, which draws nothing where it is not wanted or cannot."""
    there = wanted and not getattr(sys.stderr, "closed", sys.stderr is None)
    file = Quiet(sys.stderr) if there else None
    return tqdm(total=total, initial=done, unit="batch", delay=1, disable=not there, file=file)
