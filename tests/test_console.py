"""Commands whose output or errors nobody reads, or can be written nowhere."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fbs_tutorial
from fbs_tutorial import console
from fbs_tutorial.console import Quiet, note, progress_bar

pytestmark = pytest.mark.slow
ROOT = Path(fbs_tutorial.__file__).parents[1]
TRAIN = ["train", "--plain", "--epochs", "1"]


def shell(line, *arguments):
    """Run a line of bash in which ``$COMMAND`` is the program with its arguments."""
    command = [sys.executable, "-m", "fbs_tutorial", *map(str, arguments)]
    script = f"set -o pipefail; {line.replace('$COMMAND', chr(34) + '$@' + chr(34))}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(
        ["bash", "-c", script, "bash", *command], cwd=ROOT, env=environment, **pipes
    )


@pytest.mark.parametrize(
    "line",
    [
        "$COMMAND 2>&-",
        "$COMMAND 2> >(true)",
        "$COMMAND <&- >&- 2>&-",
        "$COMMAND | head -1",
    ],
)
def test_a_run_ends_well_though_nobody_listens(line, tmp_path):
    ended = shell(line, *TRAIN, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended
    assert "rror" not in ended.stderr and "Traceback" not in ended.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"metrics.json", "table.md", "log.csv", "curve.png", "plain.safetensors"}


def test_a_full_disk_for_the_output_is_one_line_after_everything_is_stored(tmp_path):
    ended = shell("$COMMAND >/dev/full", *TRAIN, "--no-progress", "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["error: [Errno 28] No space left on device"]
    assert (tmp_path / "run" / "curve.png").exists()


def test_help_ends_well_though_nobody_listens():
    ended = shell("$COMMAND | true", "train", "--help")
    assert ended.returncode == 0 and ended.stderr == "", ended


def test_a_mistake_has_its_exit_code_though_nobody_reads_why():
    assert shell("$COMMAND 2>&-", "train", "--densities", "0").returncode == 2


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("make", [Broken, io.StringIO, lambda: None])
def test_notes_and_bars_without_standard_error(make, monkeypatch):
    stream = make()
    if type(stream) is io.StringIO:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    note("anything")
    with progress_bar(3, 0, True) as bar:
        bar.update()
        note("above the bar")


def test_a_note_is_a_line_on_standard_error(capsys):
    note("one")
    note("two")
    assert capsys.readouterr() == ("", "one\ntwo\n")


def test_a_stream_is_as_it_was_but_for_errors():
    stream = io.StringIO()
    Quiet(stream).write("text")
    assert stream.getvalue() == "text" and Quiet(stream).writable()
    assert console.__doc__
