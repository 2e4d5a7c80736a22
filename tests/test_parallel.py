"""Training in two processes, started as a user starts them."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fbs_tutorial
from fbs_tutorial.checkpoints import ASSETS
from fbs_tutorial.training.parallel import Team, join_team

GATED = ASSETS / "digits" / "d0.5.safetensors"
FINE_TUNING = ["--from", GATED, "--density", "0.4", "--lr", "0.01", "--freeze-norms"]
UNEQUAL = [*FINE_TUNING, "--batch", "365", "--epochs", "1"]  # a last batch of 5, shared as 3 and 2
LONGER = [*FINE_TUNING, "--batch", "550", "--epochs", "4"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT["PYTHONPATH"] = str(Path(fbs_tutorial.__file__).parents[1])  # scripts lie elsewhere
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMAND = ["-m", "fbs_tutorial", "train"]

pytestmark = pytest.mark.slow

# The training command, but the second process kills itself, once, in the third epoch, when the
# first one has saved the second epoch. After that the first one comes late, so that the second
# finds what the dead first process had published.
KILLED = """
import os, pathlib, signal, sys, time
import torch
from fbs_tutorial.training import loop as fit
from fbs_tutorial.__main__ import main

epoch_as_it_is, marker = fit._epoch, pathlib.Path(sys.argv.pop(1))

def epoch(*arguments):
    number = next(value for value in arguments if isinstance(value, int))
    if number == 2 and os.environ.get("RANK") == "1" and not marker.exists():
        marker.touch()
        state = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]) / "state.pt"
        while torch.load(state)["epoch"] < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return epoch_as_it_is(*arguments)

fit._epoch = epoch
if os.environ.get("RANK") == "0" and marker.exists():
    time.sleep(2)
sys.exit(main(["train", *sys.argv[1:]]))
"""


@contextmanager
def started(*words):
    """A Python process; it is ended if the test does not wait for its end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, words)]
    process = subprocess.Popen(command, env=ENVIRONMENT, **pipes)
    try:
        yield process
    finally:
        process.terminate()  # torchrun ends its processes then
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def run(*words):
    """Exit code, output and errors of a Python process."""
    with started(*words) as process:
        try:
            output, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end in 300 s; it said {error.stderr}") from error
    return process.returncode, output, errors


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def largest_difference(one, other):
    one, other = (load_file(folder / "d0.4.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_two_processes_do_what_one_does_on_the_same_batches(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*COMMAND, "--out", one, *UNEQUAL)[0] == 0
    code, output, errors = run(*TORCHRUN, *COMMAND, "--out", two, *UNEQUAL)
    assert code == 0, errors
    assert output.count("the weights and all numbers are in") == 1, "one process speaks"
    assert largest_difference(one, two) < 1e-4 / 4
    start = load_file(GATED)["conv4.conv.weight"]
    assert (load_file(one / "d0.4.safetensors")["conv4.conv.weight"] - start).abs().max() > 1e-3
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    metrics = [metrics_of(folder) for folder in (one, two)]
    assert [m["processes"] for m in metrics] == [1, 2]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0]["settings"] == metrics[1]["settings"]


def test_a_run_whose_process_was_killed_starts_again_or_goes_on_with_one(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    again, alone = tmp_path / "again", tmp_path / "alone"
    restart = [*TORCHRUN, "--max-restarts", "1", script, tmp_path / "first"]
    code, _, errors = run(*restart, "--out", again, *LONGER)
    assert code == 0, errors
    assert (tmp_path / "first").exists(), "it was killed"
    assert metrics_of(again)["finished"]

    code, _, errors = run(*TORCHRUN, script, tmp_path / "second", "--out", alone, *LONGER)
    assert code != 0 and (tmp_path / "second").exists()
    assert not metrics_of(alone)["finished"]
    assert torch.load(alone / "state.pt")["epoch"] == 2
    code, _, errors = run(*COMMAND, "--out", alone, *LONGER)
    assert code == 0, errors
    assert metrics_of(alone)["processes"] == 1
    assert largest_difference(again, alone) < 1e-3, "both did the same eight steps"


def test_what_is_refused_is_refused_once(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    code, _, errors = run(*TORCHRUN, *COMMAND, "--out", tmp_path, *UNEQUAL)
    assert code != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "holds other files" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# The training command, but the second process alone can read no picture.
HALF_BLIND = """
import os, sys
import PIL.Image
from fbs_tutorial.__main__ import main

def cannot(file):
    raise OSError("cannot identify image file")

if os.environ["RANK"] == "1":
    PIL.Image.open = cannot
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("who", ["all", "the second process"])
def test_a_picture_that_cannot_be_read_is_named(who, tmp_path, photographs):
    folder, script = photographs(tmp_path / "photographs", count=10), tmp_path / "half_blind.py"
    script.write_text(HALF_BLIND)
    if who == "all":
        for path in sorted((folder / "train" / "dog").iterdir())[:5]:
            path.write_bytes(b"")
    options = ["--data", folder, "--model", "mcifarnet", "--size", "16", "--epochs", "1"]
    options += ["--batch", "4", "--out", tmp_path / "run"]
    code, _, errors = run(*TORCHRUN, *(COMMAND if who == "all" else [script]), *options)
    assert code != 0
    assert any(x.startswith("error:") and ".png is damaged" in x for x in errors.splitlines())


def test_more_processes_than_gpus_are_refused_by_all_of_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    sizes = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "run"}
    for name, value in {**sizes, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="at most the number of GPUs here, 2"), join_team():
        pass


LEFT_BEHIND = """
import pathlib, torch
from fbs_tutorial.training.parallel import join_team

with join_team() as team:
    network = team.averaging(torch.nn.Linear(2, 2))
    network(torch.ones(1, 2)).sum().backward()
    del network
names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks for threads in /proc")
def test_no_thread_outlives_the_team(tmp_path):
    """They would now and then crash a process that has done its work."""
    (tmp_path / "left.py").write_text(LEFT_BEHIND)
    code, _, errors = run(*TORCHRUN, tmp_path / "left.py")
    assert code == 0, errors


def test_a_batch_is_shared_out_whole():
    batch = torch.arange(7)
    shares = [Team(rank, 3).share(batch) for rank in range(3)]
    assert torch.cat(shares).sort().values.tolist() == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_a_process_does_everything_itself(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    network = torch.nn.Linear(1, 1)
    with join_team() as team:
        assert team.first and team.size == 1
        assert team.share(torch.arange(3)).tolist() == [0, 1, 2]
        assert team.sum(2.0) == 2.0 and team.from_first(lambda: 3) == 3
        assert team.averaging(network) is network
        team.wait()
