"""FBS against rivals of equal MACs: the jobs, and the table of what has finished."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import opponents
from test_any_density import settings_of

from fbs_tutorial import count_macs
from fbs_tutorial.models import MODELS

ROOT = Path(__file__).parents[1]
STORED = ROOT / opponents.STORED


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(opponents, "OUT", tmp_path)
    monkeypatch.setattr(opponents, "TINY", tmp_path)  # a folder that is there
    return tmp_path


def finish(folder, name, rows, epochs, done=True):
    facts = {"device": "a processor", "date": "2026-11-28", "threads": 2, "seed": 0}
    facts |= {"versions": {"torch": "2.14"}, "command": "train", "finished": done, "rows": rows}
    facts["settings"] = {"steps": [{"epochs": epochs}]}
    (folder / name).mkdir()
    (folder / name / "metrics.json").write_text(json.dumps(facts))


def row(density, right, macs, step="d"):
    keys = ("val_accuracy", "test_accuracy")
    keys += () if density is None else ("own_gates", *opponents.CONTROLS)
    costs = {"macs_gates": macs, "macs_predictors": 0 if density is None else 1e6}
    return {"step": step, "density": density, **costs} | dict.fromkeys(keys, right)


def test_cut_and_gated_network_have_the_same_start_teacher_and_epochs(out):
    made = {job.name: job for job in opponents.taught("cifar10")}
    prune = made["cut"].command
    assert prune[prune.index("--from") + 1] == str(opponents.CIFAR) and "50" in prune
    cut, fbs = (settings_of(made[f"cifar10-{name}"]) for name in ("cut", "fbs0.5"))
    assert cut.checkpoint == str(out / "cut.safetensors") and fbs.checkpoint == cut.teacher
    assert (cut.epochs, cut.lr, cut.teacher) == (fbs.epochs, fbs.lr, fbs.teacher)
    assert (cut.kind, fbs.kind, fbs.density) == ("tuned", "finetune", 0.5)
    assert made["cifar10-cut"].after == ["cut"]


def test_a_narrow_rival_has_the_macs_and_the_epochs_of_what_it_is_compared_with(out):
    first, gated = opponents.taught("resnet18")
    assert gated.after == [first.name]
    assert list(opponents.rivals("resnet18")) == []  # before its MACs are known
    finish(out, "resnet18-fbs0.4", [row(None, 0.6, 148e6, "given"), row(0.4, 0.5, 34e6)], 4)
    (rival,) = opponents.rivals("resnet18")
    settings, plain = settings_of(rival), settings_of(first)
    assert rival.name == "resnet18-narrow0.4" and settings.kind == "static"
    assert settings.teacher == settings_of(gated).teacher
    assert settings.epochs == plain.epochs + settings_of(gated).epochs
    (width,) = settings.densities
    net = MODELS["resnet18"](50, width).eval()
    cost = count_macs(net, torch.rand(1, 3, 64, 64)).dense
    assert cost == pytest.approx(35e6, rel=0.01)


def test_cifar_has_no_narrow_rival_here(out):
    finish(out, "cifar10-fbs0.5", [row(0.5, 0.9, 44e6)], 2)
    assert list(opponents.rivals("cifar10")) == []


def test_the_table_has_what_has_finished(out, tmp_path):
    finish(out, "cifar10-cut", [row(None, 0.9, 174e6, "given"), row(None, 0.91, 44e6)], 2)
    finish(out, "cifar10-fbs0.5", [row(0.5, 0.92, 44e6)], 2, done=False)
    finish(out, "resnet18-fbs0.4", [row(0.4, 0.5, 34e6)], 4)
    finish(out, "resnet18-narrow0.4", [row(None, 0.55, 35e6)], 10)
    opponents.write(list(opponents.finished(out)), tmp_path / "table")
    lines = (tmp_path / "table" / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[2:7]] for line in lines if "| CIFAR" in line]
    assert rows == [["cut to half the channels", "2", "44.0 M", "91.0%", "91.0%"]]
    assert "| FBS, d = 0.4" in lines[-2] and "| 35.0 M | 50.0%" in lines[-2]
    assert "narrow, of equal MACs" in lines[-1] and "| 35.0 M | 55.0%" in lines[-1]


def test_rows_of_other_machines_stay_unless_they_are_made_anew(out, tmp_path):
    finish(out, "cifar10-cut", [row(None, 0.9, 44e6)], 2)
    finish(out, "resnet18-plain", [row(None, 0.5, 148e6)], 6)
    first = list(opponents.finished(out))
    opponents.write(first, tmp_path / "table")
    again = [first[1] | {"test_accuracy": 0.6, "device": "another processor"}]
    found = opponents.beside(again, tmp_path / "table")
    assert found == [first[0], again[0]]
    opponents.write(found, tmp_path / "table")
    text = (tmp_path / "table" / "table.md").read_text()
    assert "a processor with 2" in text and "another processor with 2" in text


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        opponents.main(["--only", "resnet19"])
    assert "--only takes cifar10, resnet18, mobilenet_v2" in capsys.readouterr().err


@pytest.mark.parametrize("path", list(STORED.glob("rows.json")), ids=lambda path: path.parent.name)
def test_what_is_stored_is_what_is_shown(path, tmp_path):
    opponents.write(json.loads(path.read_text()), tmp_path)
    table = (STORED / "table.md").read_text()
    assert (tmp_path / "table.md").read_text() == table
    assert table.strip() in (STORED.parent / "README.md").read_text()
