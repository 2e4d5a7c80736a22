import argparse
import csv
import json
import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import WeightsEnum, get_model

import fbs_tutorial
from fbs_tutorial import convert, count_macs, load_data, set_density
from fbs_tutorial.__main__ import main
from fbs_tutorial.checkpoints import ASSETS, load_network, save_network
from fbs_tutorial.data import as_tensors
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.models import MODELS, wrap
from fbs_tutorial.training.loop import (
    accuracy,
)
from fbs_tutorial.training.parallel import Team
from fbs_tutorial.training.recipes import RECIPES, Recipe, Step
from fbs_tutorial.training.runs import Run, read_log
from fbs_tutorial.training.settings import RunError, Settings, option, read_recipe, whole
from fbs_tutorial.training.train import train

pytestmark = pytest.mark.slow
ROOT = Path(fbs_tutorial.__file__).parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SHORT = ["--densities", "1.0,0.5", "--epochs", "3"]
PLAIN, GATED = ASSETS / "digits" / "plain.safetensors", ASSETS / "digits" / "d0.5.safetensors"


def start(*arguments):
    command = [sys.executable, "-m", "fbs_tutorial", "train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, **pipes)


def run(*arguments):
    """The command in this process; its exit code."""
    try:
        return main(["train", *map(str, arguments)])
    except SystemExit as stop:  # argparse
        return stop.code


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nothing broke."""
    folder = tmp_path_factory.mktemp("unbroken") / "new" / "run"
    process = start("--out", folder, *SHORT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert "| 0.5 |" in output.decode() and str(folder) in output.decode()
    return folder


def test_a_run_writes_its_weights_and_numbers(finished):
    assert set(contents(finished)) == {
        "metrics.json", "table.md", "log.csv", "accuracy_macs.png", "curve.png",
        "plain.safetensors", "d1.safetensors", "d0.5.safetensors",
    }  # fmt: skip
    metrics = metrics_of(finished)
    assert metrics.keys() >= {"command", "seed", "device", "versions", "rows"}
    assert metrics["seed"] == 0 and metrics["versions"]["torch"] == torch.__version__
    plain, dense, half = metrics["rows"]
    assert [row["density"] for row in metrics["rows"]] == [None, 1.0, 0.5]
    assert [row["step"] for row in metrics["rows"]] == ["plain", "d1", "d0.5"]
    assert [row["method"] for row in metrics["rows"]] == ["plain", "fbs", "fbs"]
    assert not any(row["distilled"] for row in metrics["rows"])
    assert {row["precision"] for row in metrics["rows"]} == {"float32"}
    for row in metrics["rows"]:
        size = (finished / f"{row['step']}.safetensors").stat().st_size
        assert row["bytes"] < size < row["bytes"] + 4000, "the header is small"
        assert row["parameters"] < row["bytes"] / 4, "statistics of norms are no parameters"
    assert plain["macs_gates"] == dense["macs_gates"] == dense["macs_dense"] == 1217152
    assert half["macs_zeros"] <= half["macs_gates"] == 313664
    for row in (dense, half):
        assert row["own_gates"] == row["test_accuracy"]
        assert row.keys() >= {"shuffled_gates", "mean_gates", "mean_winners", "distinct_sets"}
    table = (finished / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["plain", "1", "0.5"]


def test_the_digits_are_trained_and_measured_in_one_thread(tmp_path, monkeypatch):
    module, seen = sys.modules["fbs_tutorial.training.train"], []
    measure = module.measure_step

    def watched(*arguments):
        seen.append(torch.get_num_threads())
        return measure(*arguments)

    monkeypatch.setattr(module, "measure_step", watched)
    torch.set_num_threads(2)
    try:
        assert run("--plain", "--epochs", 1, "--out", tmp_path / "run") == 0
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert metrics_of(tmp_path / "run")["threads"] == 1


def log_of(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_has_a_row_per_epoch(finished):
    log = log_of(finished)
    assert [(row["step"], row["epoch"]) for row in log] == [
        (step, epoch) for step in ("plain", "d1", "d0.5") for epoch in "123"
    ]
    assert [row["density"] for row in log] == [""] * 3 + ["1.0"] * 3 + ["0.5"] * 3
    for row in log:
        assert float(row["loss"]) > 0 and float(row["lr"]) > 0 and float(row["seconds"]) > 0
    last = {row["step"]: float(row["val_accuracy"]) for row in log}
    again = read_log(finished)
    assert [row["val_accuracy"] for row in again] == [float(row["val_accuracy"]) for row in log]
    assert math.isnan(again[0]["density"]) and again[-1]["density"] == 0.5
    assert read_log(finished.parent) == []
    for row in metrics_of(finished)["rows"]:
        assert last[row["step"]] == pytest.approx(row["val_accuracy"], abs=1e-9)


def test_the_numbers_are_those_of_the_weights(finished):
    test = as_tensors(load_data("digits")[1])
    for row in metrics_of(finished)["rows"]:
        density = row["density"]
        name = "plain" if density is None else f"d{density:g}"
        network = load_network(finished / f"{name}.safetensors")[0]
        if density is not None:
            set_density(network, density)
        assert accuracy(network, *test) == row["test_accuracy"]


def test_a_finished_run_is_not_trained_again(finished, capfd):
    before = contents(finished)
    times = {path: path.stat().st_mtime_ns for path in finished.glob("*.safetensors")}
    assert run("--out", finished, *SHORT) == 0
    assert "batch" not in capfd.readouterr().err
    assert contents(finished) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_finished_run_says_so_and_when(finished, tmp_path, capfd):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "metrics.json").write_text(
        json.dumps(metrics_of(folder) | {"finished_on": "2026-01-31"})
    )
    assert run("--out", folder, *SHORT) == 0
    said = f"the run in {folder} was finished on 2026-01-31; nothing was trained"
    assert capfd.readouterr().err.splitlines() == [said]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("what", ["data", "checkpoint", "teacher"])
def test_a_run_is_not_that_of_other_data_or_another_network(
    what, ended, photographs, tmp_path, capfd, monkeypatch
):
    folder, out = photographs(tmp_path / "photographs", count=6), tmp_path / "run"
    nets = {name: tmp_path / name for name in ("checkpoint", "teacher")}
    for path in nets.values():
        save_network(MODELS["mcifarnet"](2), path, "mcifarnet", 2)
    options = ["--data", folder, "--model", "mcifarnet", "--size", "16", "--batch", "4"]
    options += ["--epochs", "1", "--from", nets["checkpoint"], "--teacher", nets["teacher"]]
    options += ["--density", "0.5", "--distill", "--out", out]
    if not ended:  # it breaks when its only step is trained
        monkeypatch.setattr(Run, "finish_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*options)
        monkeypatch.undo()
    else:
        assert run(*options) == 0
    if what == "data":
        path = folder / "val" / "dog" / "0.png"
        path.write_bytes(path.read_bytes() + b" ")
    else:
        save_network(MODELS["mcifarnet"](2), nets[what], "mcifarnet", 2)
    flag = {"data": "--data", "checkpoint": "--from", "teacher": "--teacher"}[what]
    before = contents(out)
    line = refused(capfd, *options)
    assert re.search(
        rf"error: {flag} has changed since the run in \S*run began .*another --out", line
    )
    assert contents(out) == before


def test_a_folder_without_a_fingerprint_is_taken_for_the_same_and_says_so(
    finished, killed, tmp_path, capfd
):
    for i, folder in enumerate((finished, killed)):
        folder = shutil.copytree(folder, tmp_path / str(i))
        metrics = metrics_of(folder)
        assert metrics.pop("inputs")["data"].startswith("1797 images, sha256 ")
        (folder / "metrics.json").write_text(json.dumps(metrics))
        before = contents(folder)
        assert run("--out", folder, *SHORT, "--no-progress") == 0
        line, *_ = capfd.readouterr().err.splitlines()
        assert line.startswith(f"{folder} does not tell which data and networks the run began with")
        if folder.name == "0":
            assert contents(folder) == before
        else:
            assert metrics_of(folder)["inputs"] == metrics_of(finished)["inputs"]


def test_two_runs_at_once_in_one_folder_are_refused(killed, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(killed, tmp_path / "run")
    monkeypatch.setattr("fbs_tutorial.training.runs.PATIENCE", 0.5)
    first = Run(Settings(out=folder, densities=(1.0, 0.5), epochs=3), torch.device("cpu"))
    with first.locked(Team()):
        before = contents(folder)
        line = refused(capfd, "--out", folder, *SHORT, "--no-progress")
        assert f"another process trains in {folder}: wait for it, or give another --out" in line
        assert contents(folder) == before
    assert run("--out", folder, *SHORT, "--no-progress") == 0


def test_a_full_disk_is_named_with_the_file(killed, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(killed, tmp_path / "run")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run("--out", folder, *SHORT, "--no-progress") == 2
    error = f"error: [Errno 28] No space left on device: '{folder / 'log.csv'}'"
    assert capfd.readouterr().err.splitlines() == [error]
    assert not list(folder.glob(".*.tmp"))


def test_a_run_goes_on_with_the_threads_it_began_with(killed, tmp_path, monkeypatch, capfd):
    folder, seen = shutil.copytree(killed, tmp_path / "run"), []
    metrics = metrics_of(folder) | {"threads": 2}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    module = sys.modules["fbs_tutorial.training.train"]
    monkeypatch.setattr(
        module, "_train_step", lambda work, number, bar: seen.append(torch.get_num_threads())
    )
    assert run("--out", folder, *SHORT) == 0
    assert seen == [2, 2] and torch.get_num_threads() == 1
    assert "going on with 2 threads, as in the beginning" in capfd.readouterr().err


def test_where_a_run_goes_on_elsewhere_it_is_recorded_and_said(killed, tmp_path, capfd):
    folder = shutil.copytree(killed, tmp_path / "run")
    metrics = metrics_of(folder) | {"device": "an abacus"}
    metrics["versions"]["torch"] = "0.4"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert run("--out", folder, *SHORT, "--no-progress") == 0
    assert "going on with other device, versions than the run began" in capfd.readouterr().err
    after = metrics_of(folder)
    assert after["device"] == "an abacus" and after["versions"]["torch"] == "0.4"
    (entry,) = after["continued"]
    assert entry["device"] == fbs_tutorial.machine.processor()
    assert entry["versions"]["torch"] == torch.__version__ and "threads" not in entry


def test_the_recorded_command_is_that_of_the_run(finished):
    words = shlex.split(metrics_of(finished)["command"])
    assert words[:4] == ["python", "-m", "fbs_tutorial", "train"]
    assert run(*words[4:], "--out", finished) == 0


# The training command, killed when it has saved the state of a step for the first time.
DIE_WHEN_SAVED = """
import os, signal, sys
from fbs_tutorial.__main__ import main
from fbs_tutorial.training.runs import Run

save_state, step = Run.save_state, sys.argv.pop(1)

def save_and_die(run, state):
    save_state(run, state)
    if state["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)

Run.save_state = save_and_die
main(["train", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run killed in its first step, and after going on in its second again."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    for step in ("plain", "d1"):
        command = [sys.executable, "-c", DIE_WHEN_SAVED, step, "--out", str(folder), *SHORT]
        ended = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, timeout=300)
        assert ended.returncode == -9, f"it ended before it could be killed: {ended.stderr}"
    return folder


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(killed, finished, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    process = start("--out", folder, *SHORT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert metrics_of(folder)["rows"] == metrics_of(finished)["rows"]
    assert not (folder / "state.pt").exists()
    timeless = [[r | {"seconds": 0} for r in log_of(f)] for f in (folder, finished)]
    assert timeless[0] == timeless[1]
    for name in ("plain", "d1", "d0.5"):
        weights, expected = (load_file(f / f"{name}.safetensors") for f in (folder, finished))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in weights)


DIE_AT_THE_FIRST_RENAME = """
import os, signal
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
from fbs_tutorial.training.train import train
train(out={out!r}, densities=[1.0], epochs=1)
"""


def test_a_run_killed_at_its_very_first_write_can_be_started_again(tmp_path):
    code = DIE_AT_THE_FIRST_RENAME.format(out=str(tmp_path / "run"))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ONE_THREAD).returncode == -9
    assert run("--out", tmp_path / "run", "--densities", "1.0", "--epochs", "1") == 0


def refused(capfd, *arguments):
    """Assert that the command fails with exit code 2 and one line on stderr; that line."""
    capfd.readouterr()
    assert run(*arguments) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "other",
    [["--seed", "1"], ["--densities", "1.0,0.4"], ["--epochs", "2"], ["--any-density"]],
    ids=" ".join,
)
def test_other_settings_in_the_same_folder_are_refused(other, finished, capfd):
    before = contents(finished)
    line = refused(capfd, "--out", finished, *SHORT, *other)
    assert str(finished) in line and "other settings" in line
    assert contents(finished) == before


def cut_off(path):
    path.write_bytes(path.read_bytes()[:1000])


def not_a_run(path):
    path.write_text('["something else"]')


def not_utf_8(path):
    path.write_bytes(path.read_text().encode("utf-16"))


def of_another_form(path):
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"settings": {"kind": []}}))


def nested_too_deep(path):
    path.write_text("[" * 100_000)


def foreign_state(path):
    torch.save({"something": "else"}, path)


def state_of_another_network(path):
    state = torch.load(path)
    torch.save({**state, "network": {"weight": torch.ones(3)}}, path)


def foreign_weights(path):
    save_file({"weight": torch.ones(3)}, path)


def weights_of_another_network(path):
    shutil.copy(GATED, path)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("state.pt", cut_off),
        ("state.pt", foreign_state),
        ("state.pt", state_of_another_network),
        ("plain.safetensors", cut_off),
        ("plain.safetensors", foreign_weights),
        ("plain.safetensors", weights_of_another_network),
        ("plain.safetensors", Path.unlink),
        ("metrics.json", cut_off),
        ("metrics.json", not_a_run),
        ("metrics.json", not_utf_8),
        ("metrics.json", of_another_form),
        ("metrics.json", nested_too_deep),
        ("log.csv", not_utf_8),
    ],
)
def test_a_spoiled_run_folder_is_refused_and_left_alone(name, spoil, killed, tmp_path, capfd):
    folder = shutil.copytree(killed, tmp_path / "run")
    spoil(folder / name)
    before = contents(folder)
    assert name in refused(capfd, "--out", folder, *SHORT)
    assert contents(folder) == before


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, capfd):
    (tmp_path / "thesis.txt").write_text("precious")
    assert str(tmp_path) in refused(capfd, "--out", tmp_path, *SHORT)
    assert contents(tmp_path) == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused(out, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert str(tmp_path / out) in refused(capfd, "--out", tmp_path / out, *SHORT)


FROM = ["--from", PLAIN, "--density", "0.5"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "mnist"], "'mnist'"),
        (["--data", "cifar10"], "cifar10 needs a folder.*FBS_DATA"),
        (["--model", "resnet19"], "model.*'resnet19'"),
        (["--model", "mcifarnet"], r"mcifarnet cannot take images \[1, 16, 16\]"),
        (["--densities", "0"], "density.*got 0"),
        (["--densities", "0.5,1.2"], "density.*got 1.2"),
        (["--densities", "nan"], "density.*got nan"),
        (["--densities", "half"], "densities.*'half'"),
        (["--densities", ""], "densities.*''"),
        (["--densities", "0.5,0.5"], "densities.*differ"),
        (["--densities", "0.33333333,0.33333334"], "densities.*differ"),
        (["--static", "--model", "vgg11_bn"], "width"),
        (["--epochs", "0"], "epochs.*0"),
        (["--plain-epochs", "0"], "--plain-epochs.*0"),
        ([*FROM, "--plain-epochs", "2"], "--plain-epochs does not go with --from"),
        (["--batch", "1"], "batch.*1"),
        (["--size", "64"], "--size is for photographs"),
        (["--freeze-norms"], "--freeze-norms goes with --from"),
        (["--data", "imagenette"], "imagenette needs a folder.*train --data imagenette --download"),
        (["--seed", "one"], "seed.*'one'"),
        (["--seed", "-1"], "seed.*-1"),
        (["--lr", "0.1"], "--lr goes with --from"),
        (["--density", "0.5"], "--density goes with --from or --pretrained"),
        (["--from", GATED], "--density or --any-density is missing: .*d0.5.safetensors has gates"),
        (["--from", PLAIN, "--distill"], "--distill with --from and no gates needs a --teacher"),
        (["--stripes", "--any-density"], "--plain and --stripes do not go together"),
        ([*FROM, "--stripes"], "--stripes train new networks, and do not go with --from"),
        (["--stripes", "--sr", "-1"], "--sr must be a number of at least 0, got -1"),
        (
            ["--stripes", "--threshold", "nan"],
            "--threshold must be a number of at least 0, got nan",
        ),
        (["--sr", "1e-5"], "--sr and --threshold go with --stripes"),
        (["--slimming", "1e-4"], "--slimming goes with --plain"),
        (["--decay-skeletons"], "--decay-skeletons goes with --stripes"),
        (["--stripes", "--penalty", "1"], "are for networks with gates, not for .*--stripes"),
        (["--from", PLAIN, "--density", "2"], "density.*got 2"),
        ([*FROM, "--lr", "0"], "lr.*0"),
        ([*FROM, "--lr", "-0.1"], "lr.*-0.1"),
        ([*FROM, "--lr", "nan"], "lr.*nan"),
        ([*FROM, "--lr", "inf"], "lr.*inf"),
        ([*FROM, "--lr", "fast"], "lr.*'fast'"),
        ([*FROM, "--model", "mcifarnet"], "holds digitsnet, not mcifarnet"),
        ([*FROM, "--any-density"], "--density goes with --from .*, and not with --any-density"),
        ([*FROM, "--static"], "--static.* not go with --from"),
        (["--plain", "--distill"], "--distill does not go with --plain"),
        (
            ["--plain", "--densities", "0.5"],
            "--plain and --stripes with none, not with --densities",
        ),
        (["--from", "nowhere", "--density", "0.5"], "nowhere"),
        (["--from", __file__, "--density", "0.5"], "test_training.py is damaged"),
        (["--pretrained", "--density", "0.5"], "--pretrained goes with --model, one of resnet18"),
        ([*FROM, "--pretrained"], "--from and --pretrained do not go together"),
        (["--teacher", PLAIN], "--teacher goes with --distill"),
        (["--teacher", "nowhere", "--distill"], "nowhere cannot be read"),
        (["--ramp", "0.5"], "--ramp goes with --distill"),
        (["--distill", "--ramp", "1.5"], "--ramp must be a number from 0 to 1, got 1.5"),
        (["--penalty", "-1"], "--penalty must be a number of at least 0, got -1"),
        (["--saliency", "l3"], "--saliency must be one of l1, l2, max, avg, got 'l3'"),
        (["--static", "--saliency", "l2"], "--saliency are for networks with gates, not for --sta"),
        (["--from", GATED, "--density", "0.5", "--distill"], "--distill needs a --teacher"),
        (
            ["--from", GATED, "--density", "0.5", "--saliency", "l2"],
            "--saliency must be that of the trained gates of .*d0.5.safetensors, l1, got l2",
        ),
        (["--speed", "9"], "--speed"),
    ],
    ids=lambda value: " ".join(Path(v).name for v in value) if isinstance(value, list) else "",
)
def test_a_bad_option_is_refused_before_anything_is_written(
    arguments, says, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("FBS_DATA", "")
    out = tmp_path / "run"
    line = refused(capfd, "--epochs", "1", "--out", out, *arguments)
    assert re.search(says, line), line
    assert not out.exists()


def test_fine_tuning_a_plain_checkpoint(tmp_path):
    out = tmp_path / "two words"
    shutil.copy(PLAIN, tmp_path / "my net")
    arguments = ["--from", tmp_path / "my net", "--density", "0.5", "--lr", "0.01"]
    assert run("--out", out, *arguments, "--epochs", "1") == 0
    metrics = metrics_of(out)
    plain, half = metrics["rows"]
    assert plain["density"] is None and plain["test_accuracy"] > 0.98
    assert half["density"] == 0.5 and half["macs_gates"] == 313664
    assert load_network(out / "d0.5.safetensors")[1]["gated"] == "True"
    words = shlex.split(metrics["command"])
    assert run(*words[4:], "--out", out) == 0


def test_fine_tuning_a_gated_checkpoint_starts_from_its_gates(tmp_path):
    out = tmp_path / "run"
    arguments = ["--from", GATED, "--density", "0.4", "--lr", "1e-3", "--epochs", "1"]
    assert run("--out", out, *arguments) == 0
    (row,) = metrics_of(out)["rows"]
    assert row["density"] == 0.4 and row["test_accuracy"] > 0.8
    before, after = load_file(GATED), load_file(out / "d0.4.safetensors")
    assert not torch.equal(before["conv1.conv.weight"], after["conv1.conv.weight"])


def test_any_density_trains_one_network_and_measures_it_at_each(tmp_path):
    out = tmp_path / "run"
    assert run("--out", out, "--any-density", "--densities", "1.0,0.3", "--epochs", "1") == 0
    assert {path.stem for path in out.glob("*.safetensors")} == {"plain", "any"}
    rows = metrics_of(out)["rows"]
    assert [row["density"] for row in rows] == [None, 1.0, 0.3]
    assert rows[1]["macs_gates"] > rows[2]["macs_gates"]


@pytest.fixture(scope="module")
def trained_on_photographs(tmp_path_factory, photographs):
    folder = photographs(tmp_path_factory.mktemp("photographs") / "cats or dogs", count=20)
    out = folder.parent / "run"
    options = ["--model", "mcifarnet", "--size", "16", "--batch", "8"]
    options += ["--epochs", "5", "--plain-epochs", "6"]
    assert run("--data", folder, "--out", out, *options, "--densities", "0.5") == 0
    return out


def test_training_on_a_folder_of_photographs(trained_on_photographs):
    plain, half = metrics_of(trained_on_photographs)["rows"]
    assert plain["test_accuracy"] > 0.6, "cats are dark and dogs are bright"
    assert half["macs_gates"] < 0.3 * half["macs_dense"]
    assert half["control_images"] == 40 and half["own_gates"] == half["test_accuracy"]


def test_a_run_on_photographs_can_be_repeated_from_its_command(trained_on_photographs):
    metrics = metrics_of(trained_on_photographs)
    assert [step["epochs"] for step in metrics["settings"]["steps"]] == [6, 5]
    words = shlex.split(metrics["command"])
    assert words[-8:] == ["--epochs", "5", "--plain-epochs", "6", "--batch", "8", "--size", "16"]
    assert run(*words[4:], "--out", trained_on_photographs) == 0


def test_learning_rates_follow_the_batch(trained_on_photographs):
    recipe = metrics_of(trained_on_photographs)["settings"]["recipe"]
    assert recipe["batch"] == 8
    for name in ("plain_lr", "lr", "any_lr"):
        usual = RECIPES["folder"]
        assert recipe[name] / recipe["batch"] == pytest.approx(getattr(usual, name) / usual.batch)


def test_a_damaged_photograph_ends_the_run_with_its_name(photographs, tmp_path, capfd):
    folder = photographs(tmp_path / "photographs", count=20)
    (folder / "train" / "dog" / "7.png").write_bytes(b"")
    options = ["--data", folder, "--model", "mcifarnet", "--size", "16", "--epochs", "1"]
    assert run(*options, "--out", tmp_path / "run", "--densities", "0.5") == 2
    assert re.search("error: .*dog/7.png is damaged.*replace it", capfd.readouterr().err)


@pytest.mark.parametrize(("size", "batch"), [("0", "8"), ("4", "8"), ("16", "0")])
def test_a_size_or_batch_that_is_too_small_is_refused(size, batch, photographs, tmp_path, capfd):
    folder = photographs(tmp_path / "photographs")
    line = refused(capfd, "--data", folder, "--size", size, "--batch", batch)
    assert re.search("--(size|batch) must be an int of at least", line)


def test_a_class_of_one_image_is_refused(photographs, tmp_path, capfd):
    folder = photographs(tmp_path / "photographs", count=1)
    options = ["--model", "mcifarnet", "--size", "16", "--out", tmp_path / "run"]
    assert "every class needs two" in refused(capfd, "--data", folder, *options)


def frozen(folder, name):
    """Whether the running statistics in the weights of step ``name`` are those of the start."""
    before, after = load_file(GATED), load_file(folder / f"{name}.safetensors")
    return all(torch.equal(before[k], after[k]) for k in before if "running" in k)


@pytest.mark.parametrize("option", [[], ["--freeze-norms"]])
def test_batch_norms_keep_their_statistics_only_when_asked_to(option, tmp_path):
    arguments = ["--from", GATED, "--density", "0.4", "--lr", "1e-3", "--epochs", "1", *option]
    assert run("--out", tmp_path / "run", *arguments) == 0
    assert frozen(tmp_path / "run", "d0.4") == bool(option)


def wrapped(network):
    """``network`` in blocks whose predictors look at the image."""
    return wrap(network, normalize=False)


@pytest.mark.parametrize("form", [None, convert, wrapped])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_every_form_of_network_is_fine_tuned_and_comes_back(form, width, tmp_path):
    network = MODELS["digitsnet"](10, width)
    network = network if form is None else form(network)
    save_network(network, tmp_path / "given", "digitsnet", 10, width)
    metrics = train(
        out=tmp_path / "run", checkpoint=tmp_path / "given", density=0.5, epochs=1, progress=False
    )
    tuned = load_network(tmp_path / "run" / "d0.5.safetensors")[0]
    layers = [type(layer).__name__ for layer in gated_layers(tuned).values()]
    assert layers == ["ChannelPruning" if form is wrapped else "GatedConv2d"] * 4
    set_density(tuned, 0.5)
    test = as_tensors(load_data("digits")[1])
    assert accuracy(tuned, *test) == metrics["rows"][-1]["test_accuracy"]
    assert count_macs(tuned, test[0]).active.double().mean() == metrics["rows"][-1]["macs_gates"]


def test_a_state_dict_of_torchvision_is_gated_and_fine_tuned(photographs, tmp_path, capfd):
    folder = photographs(tmp_path / "photographs", count=6)
    path, out = tmp_path / "resnet.pth", tmp_path / "run"
    torch.save({"state_dict": get_model("resnet18", num_classes=2).state_dict()}, path)
    options = ["--data", folder, "--model", "resnet18", "--size", "32", "--batch", "4"]
    options += ["--density", "0.5", "--epochs", "1", "--lr", "1e-3", "--out", out]
    assert run("--from", path, *options) == 0
    assert [row["method"] for row in metrics_of(out)["rows"]] == ["plain", "fbs"]
    other = ["--model", "resnet34", "--out", tmp_path / "other"]
    line = refused(capfd, "--from", path, *options, *other)
    assert "resnet.pth does not fit resnet34" in line


def test_torchvision_s_weights_are_fetched_only_when_asked_for(photographs, tmp_path, monkeypatch):
    folder = photographs(tmp_path / "photographs", count=6)
    state, fetched = get_model("resnet18").state_dict(), []

    def fetch(weights, **options):
        fetched.append(weights)
        return dict(state)

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetch)
    short = {"model": "resnet18", "size": 32, "batch": 4, "epochs": 1, "progress": False}
    train(folder, tmp_path / "0", plain=True, **short)
    assert not fetched
    train(folder, tmp_path / "1", pretrained=True, density=0.5, freeze_norms=True, **short)
    assert fetched
    tuned = load_file(tmp_path / "1" / "d0.5.safetensors")
    mean, expected = tuned["network.conv1.norm.running_mean"], state["bn1.running_mean"]
    assert torch.equal(mean, expected), "they start from those weights"
    assert tuned["network.fc.weight"].shape == (2, 512)


def test_nothing_of_the_user_is_removed_from_a_folder_that_is_refused(tmp_path, capfd):
    (tmp_path / ".mine.tmp").write_text("precious")
    assert "holds other files" in refused(capfd, "--out", tmp_path)
    assert (tmp_path / ".mine.tmp").read_text() == "precious"


def test_a_finished_run_keeps_what_it_says_of_itself(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    metrics = metrics_of(folder) | {"processes": 2}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    again = train(out=folder, densities=[1.0, 0.5], epochs=3, progress=False)
    assert {k: v for k, v in again.items() if k != "folder"} == metrics


def test_a_density_with_many_digits_is_recorded_as_it_was():
    settings = Settings(checkpoint="a.safetensors", density=1 / 3, lr=0.05 * 37 / 256)
    words = shlex.split(settings.command())
    assert float(words[words.index("--density") + 1]) == 1 / 3
    assert float(words[words.index("--lr") + 1]) == 0.05 * 37 / 256


def test_a_loss_that_is_not_a_number_ends_the_run_and_says_what_to_try(tmp_path, capfd):
    assert run("--out", tmp_path / "run", *FROM, "--lr", "1e30", "--epochs", "1") == 2
    assert re.search("error: the loss is nan .*smaller --lr with --from", capfd.readouterr().err)
    assert not any(row["density"] == 0.5 for row in metrics_of(tmp_path / "run")["rows"])
    options = {"checkpoint": PLAIN, "density": 0.5, "lr": 1e30, "epochs": 1, "progress": False}
    with pytest.raises(FloatingPointError, match="try a smaller lr with checkpoint, or batch"):
        train(out=tmp_path / "again", **options)


@dataclass(frozen=True)
class More(Settings):
    """One made-up option: it takes this one field."""

    cups_of_tea: int | None = option(None, "to drink meanwhile", whole(0), before=3)


def read(kind, *words):
    parser = argparse.ArgumentParser()
    kind.add_options(parser)
    return kind.from_options(parser.parse_args([str(word) for word in words]))


def test_an_option_is_one_field(tmp_path):
    settings = read(More, "--cups-of-tea", 2, "--seed", 1)
    assert settings == More(seed=1, cups_of_tea=2) and settings.record()["cups_of_tea"] == 2
    assert read(More, *shlex.split(settings.command())[4:]).record() == settings.record()
    with pytest.raises(RunError, match="cups_of_tea must be an int of at least 0, got -1") as error:
        More(cups_of_tea=-1)
    assert error.value.with_names(More.flags()).startswith("--cups-of-tea must")

    short = {"out": tmp_path / "run", "densities": [0.5], "epochs": 1, "progress": False}
    before = train(**short)  # by a version that had no such option, and was never without its tea
    assert train(More(cups_of_tea=3), **short)["rows"] == before["rows"]
    with pytest.raises(RunError, match=r"other settings \(cups_of_tea\)"):
        train(More(cups_of_tea=4), **short)


SOME_SETTINGS = [
    {},
    {"data": "fashion_mnist", "seed": 2**32 - 1, "any_density": True, "densities": (1, 1 / 3)},
    {"static": True, "model": "mcifarnet", "distill": True, "teacher": "a b", "plain_epochs": 3},
    {"checkpoint": "it's here", "density": 0.1, "lr": 1e-9, "freeze_norms": True, "batch": 2},
    {"pretrained": True, "model": "resnet18", "density": 1.0, "saliency": "max"},
    {"plain": True, "epochs": 2},
    {"checkpoint": "x", "any_density": True, "densities": (0.5,), "lr": 0.1},
    {"distill": True, "ramp": 0.0, "penalty": 0.0, "epochs": 1},
]


@pytest.mark.parametrize("options", SOME_SETTINGS, ids=str)
def test_the_command_of_any_settings_reads_back_as_these_settings(options):
    settings = Settings(**options)
    again = read(Settings, *shlex.split(settings.command())[4:])
    assert again.record() == settings.record()
    assert json.loads(json.dumps(settings.record())) == settings.record()


def test_the_library_speaks_of_its_arguments():
    with pytest.raises(RunError, match=r"^any_density, static, plain and stripes do not go"):
        train(any_density=True, static=True)
    with pytest.raises(
        RunError, match=r"^densities must be a list of numbers .* differ.*, got 0\.5"
    ):
        train(densities=0.5)
    with pytest.raises(TypeError, match="speed"):
        train(speed=9)


def test_errors_go_from_one_process_to_another_as_they_are():
    error = pickle.loads(pickle.dumps(RunError("{out} is {what}", {"what": "{odd}"})))
    assert str(error) == "out is {odd}"
    assert error.with_names({"out": "--out"}) == "--out is {odd}"


OLD = Path(__file__).parent / "data"  # run folders that version 0.1.0 wrote


def test_a_finished_run_of_0_1_0_is_left_as_it_is_and_read_in_today_s_form(tmp_path):
    folder = shutil.copytree(OLD / "run-0.1.0-finished", tmp_path / "run")
    before = contents(folder)
    metrics = train(out=folder, densities=[0.5], epochs=1, progress=False)
    assert contents(folder) == before
    assert [(row["step"], row["method"]) for row in metrics["rows"]] == [
        ("plain", "plain"),
        ("d0.5", "fbs"),
    ]
    for row in metrics["rows"]:
        load_network(folder / f"{row['step']}.safetensors")
    for other in ({"distill": True}, {"seed": 1}, {"any_density": True}, {"saliency": "l2"}):
        with pytest.raises(RunError, match=f"other settings .*{next(iter(other))}"):
            train(out=folder, densities=[0.5], epochs=1, progress=False, **other)


def test_a_run_of_0_1_0_goes_on_from_halfway(tmp_path):
    folder = shutil.copytree(OLD / "run-0.1.0-halfway", tmp_path / "run")
    metrics = train(out=folder, densities=[0.8, 0.5], epochs=2, progress=False)
    assert [row["step"] for row in metrics["rows"]] == ["plain", "d0.8", "d0.5"]
    assert [row["method"] for row in metrics["rows"]] == ["plain", "fbs", "fbs"]
    assert [(row["step"], row["epoch"]) for row in log_of(folder)] == [
        ("d0.8", "2"), ("d0.5", "1"), ("d0.5", "2"),
    ]  # fmt: skip
    assert metrics["finished"] and not (folder / "state.pt").exists()


def test_the_hidden_options_of_a_fine_tuning_of_0_1_0_are_found(tmp_path):
    folder = shutil.copytree(OLD / "run-0.1.0-tuned", tmp_path / "run")
    metrics = metrics_of(folder)
    metrics["settings"]["checkpoint"] = str(PLAIN)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    options = {"checkpoint": PLAIN, "density": 0.5, "epochs": 1, "progress": False}
    rows = train(out=folder, lr=0.01, **options)["rows"]
    assert [row["step"] for row in rows] == ["given", "d0.5"]
    for other in ({"lr": 0.02}, {}):
        with pytest.raises(RunError, match=r"other settings \(lr\)"):
            train(out=folder, **options, **other)


def test_a_run_keeps_the_recipe_it_began_with():
    now = RECIPES["cifar10"]
    old = {name: value for name, value in asdict(now).items() if name not in ("saliency", "ramp")}
    old |= {"plain_epochs": 24, "flavour": "of another time"}
    then = read_recipe(old, replace(now, ramp=0.9, saliency="l2", gain=7.0))
    assert then == replace(now, plain_epochs=24)


def test_distilling_starts_every_density_from_the_plain_network(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    short = {"epochs": 1, "distill": True, "progress": False}
    metrics = train(out=one, densities=[0.8, 0.5], **short)
    assert [row["distilled"] for row in metrics["rows"]] == [False, True, True]
    train(out=two, densities=[0.6, 0.5], **short)  # the number of a step decides its random numbers
    networks = [load_file(folder / "d0.5.safetensors") for folder in (one, two)]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert load_network(one / "d0.5.safetensors")[1]["distilled"] == "True"


@pytest.mark.parametrize("teacher", [None, PLAIN])
def test_small_networks_can_be_distilled(teacher, tmp_path):
    metrics = train(
        out=tmp_path, static=True, densities=[0.5], epochs=1, progress=False,
        distill=True, teacher=teacher,
    )  # fmt: skip
    *plain, small = metrics["rows"]
    assert [(row["method"], row["density"]) for row in plain] == (
        [] if teacher else [("plain", None)]
    )
    assert (small["method"], small["step"], small["density"]) == ("small", "static0.5", 0.5)
    assert small["distilled"]


def test_one_network_for_any_density_from_a_given_one(tmp_path):
    metrics = train(
        out=tmp_path, checkpoint=PLAIN, any_density=True, densities=[1.0, 0.5], epochs=1,
        distill=True, progress=False,
    )  # fmt: skip
    assert [(row["step"], row["method"], row["density"]) for row in metrics["rows"]] == [
        ("given", "plain", None),
        ("any", "any", 1.0),
        ("any", "any", 0.5),
    ]


def test_the_plain_network_alone(tmp_path, capfd):
    assert run("--out", tmp_path, "--plain", "--epochs", "1", "--no-progress") == 0
    (row,) = metrics_of(tmp_path)["rows"]
    assert (row["step"], row["method"], row["density"]) == ("plain", "plain", None)
    assert "batch" not in capfd.readouterr().err


def test_what_teaches_is_what_was_asked_for(tmp_path, monkeypatch):
    teachers = []
    monkeypatch.setattr(
        sys.modules["fbs_tutorial.training.train"],
        "fit",
        lambda *_, teacher, **__: teachers.append(teacher),
    )
    short = {"epochs": 1, "distill": True, "progress": False}
    given = {"checkpoint": PLAIN, "density": 0.5}
    train(out=tmp_path / "1", densities=[0.5], teacher=GATED, **short)
    train(out=tmp_path / "2", **given, **short)
    train(out=tmp_path / "3", checkpoint=GATED, density=0.5, teacher=PLAIN, **short)
    train(out=tmp_path / "4", densities=[0.5], **short)
    names = [None, GATED, PLAIN, PLAIN, None, tmp_path / "4" / "plain.safetensors"]
    for teacher, name in zip(teachers, names, strict=True):
        assert (teacher is None) == (name is None)
        if name is not None:
            assert not teacher.training
            weights, expected = teacher.state_dict(), load_file(name)
            assert all(torch.equal(weights[key], expected[key]) for key in weights)


def test_the_way_to_measure_saliency_is_kept_with_the_network(tmp_path):
    metrics = train(
        out=tmp_path, densities=[0.5], epochs=1, saliency="max", penalty=1e-4, progress=False
    )
    assert metrics["settings"]["recipe"]["penalty"] == 1e-4
    network = load_network(tmp_path / "d0.5.safetensors")[0]
    assert {layer.reduce for layer in gated_layers(network).values()} == {"max"}
    set_density(network, 0.5)
    test = as_tensors(load_data("digits")[1])
    assert accuracy(network, *test) == metrics["rows"][1]["test_accuracy"]


def test_the_recipe_that_beats_the_paper():
    steps = Settings("cifar10", distill=True, densities=(0.5,)).steps
    assert steps == [
        Step("plain", "plain", None, 45, 0.2),
        Step("d0.5", "gated", 0.5, 45, 0.1, distilled=True),
    ]
    recipe = RECIPES["cifar10"]
    assert isinstance(recipe, Recipe) and recipe.batch == 256 and recipe.weight_decay == 5e-4
    assert (recipe.temperature, recipe.teacher_weight, recipe.ramp) == (4.0, 0.7, 0.3)


def test_blocks_of_resnet18_are_trained_and_come_back(tmp_path, photographs, capsys):
    """Gates around blocks, as `wrap` makes them, by the command."""
    data = photographs(tmp_path / "data", size=(40, 40))
    options = ["--model", "resnet18", "--size", "32", "--densities", "0.5", "--epochs", "1"]
    assert run("--data", data, *options, "--batch", "2", "--blocks", "--out", tmp_path / "run") == 0
    network, _ = load_network(tmp_path / "run" / "d0.5.safetensors")
    assert len(gated_layers(network)) == 20
    assert metrics_of(tmp_path / "run")["rows"][1]["method"] == "fbs"
    again = Settings(data, size=32, model="resnet18", densities=(0.5,), blocks=True).command()
    assert "--blocks" in again and "--no-normalize" not in again


@pytest.mark.parametrize("normalize", [True, False])
def test_gates_of_blocks_are_scaled_to_mean_1_or_as_they_are(normalize, tmp_path, capsys):
    options = ["--blocks", *([] if normalize else ["--no-normalize"])]
    options += ["--from", PLAIN, "--density", "0.5", "--epochs", "1"]
    assert run(*options, "--out", tmp_path / "run") == 0
    network, _ = load_network(tmp_path / "run" / "d0.5.safetensors")
    blocks = gated_layers(network).values()
    assert blocks and all(block.normalize is normalize for block in blocks)


def test_one_density_is_drawn_for_a_whole_batch(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "fbs_tutorial.training.loop.Update.__call__",
        lambda self, batch, *_: drawn.append(batch.densities),
    )
    train("digits", tmp_path / "a", any_density=True, draw="batch", lowest_density=0.4,
          densities=(0.5,), epochs=1, progress=False)  # fmt: skip
    mine = [densities for densities in drawn if densities is not None]
    assert len(mine) > 10 and all(len(densities.unique()) == 1 for densities in mine)
    assert len(torch.stack([d[0] for d in mine]).unique()) > 5
    assert min(d.min() for d in mine) >= 0.4


def test_statistics_are_collected_for_each_density(tmp_path):
    options = {"any_density": True, "densities": (1.0, 0.5), "epochs": 1, "progress": False}
    train("digits", tmp_path / "with", calibrated=True, **options)
    train("digits", tmp_path / "without", **options)
    kept = [load_network(tmp_path / name / "any.safetensors")[0] for name in ("with", "without")]
    stored, none = (next(iter(gated_layers(net).values())).stored_densities for net in kept)
    assert stored.tolist() == [0.5, 1.0] or stored.tolist() == [1.0, 0.5]
    assert none is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": True, "plain": True}, "blocks is for networks with gates"),
        ({"as_they_are": True}, "as_they_are goes with blocks"),
        ({"blocks": True, "saliency": "l2"}, "saliency does not go with blocks"),
        ({"draw": "batch"}, "draw, lowest_density and calibrated go with any_density"),
        ({"lowest_density": 0.3}, "draw, lowest_density and calibrated go with any_density"),
        ({"calibrated": True}, "draw, lowest_density and calibrated go with any_density"),
        ({"any_density": True, "draw": "day"}, "draw must be one of image, batch, got 'day'"),
    ],
)
def test_what_does_not_go_with_gates_of_this_kind(options, words):
    with pytest.raises(RunError, match=words):
        Settings("digits", **options)
