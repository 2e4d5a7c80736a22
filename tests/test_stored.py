"""Stored measurements are found, from wherever a notebook runs."""

import pytest

from fbs_tutorial.bench import stored


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
