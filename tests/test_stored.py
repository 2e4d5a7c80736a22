"""Stored measurements are found, from wherever a notebook runs."""

import json
import os
from pathlib import Path

import pytest

from fbs_tutorial.bench import stored
from fbs_tutorial.bench.answer import NAMES
from fbs_tutorial.bench.compared import recorded

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
READ = [BENCHMARKS / "cpu.json"] + [
    path
    for place in ("budget", "compare", "choice")
    for path in sorted((BENCHMARKS / place).glob("*.json"))
    if path.stem in NAMES
]


@pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)
def test_what_the_notebooks_read_is_in_the_package(path):
    parts = path.relative_to(BENCHMARKS).parts
    copy = stored.benchmark_file(*parts, remedy="")
    assert copy.parent == stored.LESSON
    assert json.loads(copy.read_text()) == json.loads(path.read_text())


def test_the_notebooks_need_no_folder_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stored, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert stored.cpu_times()["rows"] and recorded("digits")["rows"]


def test_a_folder_in_which_nobody_may_look_is_passed_by(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    stat = os.stat

    def refuse(path, *arguments, **options):
        if "closed" in os.fspath(path) and not os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *arguments, **options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(FileNotFoundError, match=r"no .*own\.json beside the package.*; make it"):
        stored.course_file("benchmarks", "own.json", remedy="make it")


def test_the_cpu_times_are_of_whole_networks_and_of_layers():
    results = stored.cpu_times()
    assert {row["kind"] for row in results["rows"]} == {"network", "layer"}
    assert results["machine"]["device"] and results["machine"]["date"]


def test_a_file_is_found_below_and_above_the_working_folder(tmp_path, monkeypatch):
    file = tmp_path / "course" / "benchmarks" / "own.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for folder in (tmp_path, file.parent, file.parents[1]):
        monkeypatch.chdir(folder)
        assert stored.course_file("benchmarks", "own.json", remedy="") == file


def test_a_file_that_is_nowhere_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"no .*nothing\.json beside the package.*; make it"
    ):
        stored.course_file("benchmarks", "nothing.json", remedy="make it")
