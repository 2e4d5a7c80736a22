"""One network for every density: the candidates' jobs, and the table of what has finished."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from any_density import ARMS, DEDICATED, EPOCHS, START, finished, jobs, write

from fbs_tutorial.__main__ import _parser
from fbs_tutorial.training.settings import Settings

STORED = Path(__file__).parents[1] / "benchmarks" / "any-density"


def settings_of(job):
    arguments = job.command[job.command.index("fbs_tutorial") + 1 :]
    return Settings.from_options(_parser().parse_args(arguments))


def test_every_candidate_begins_with_the_same_plain_network_and_has_as_many_epochs(tmp_path):
    made = {job.name: job for job in jobs(tmp_path)}
    assert len(made) == 3 * (3 + len(ARMS))
    for number, arm in enumerate(ARMS):
        job = made[f"any{number}-seed1"]
        settings, first = settings_of(job), made[job.after[0]]
        (step,) = settings.steps
        before = settings_of(first).steps[0].epochs if arm == START else 0
        assert step.kind == "any" and step.epochs + before == EPOCHS
        assert first.name == ("d0.5-first-seed1" if arm == START else "plain-seed1")
    assert settings_of(made["d0.5-seed2"]).steps[0].epochs == EPOCHS


def test_candidates_differ_in_what_they_are_called(tmp_path):
    made = {job.name: settings_of(job) for job in jobs(tmp_path)}
    kept = ("draw", "lowest_density", "calibrated", "distill")
    found = [tuple(getattr(made[f"any{n}-seed0"], key) for key in kept) for n in range(len(ARMS))]
    assert len(set(found)) == len(ARMS) - 1  # the last differs by where it starts
    assert found[list(ARMS).index("distilled")][-1] is True


def test_the_table_has_what_has_finished(tmp_path):
    def run(name, rows, done=True):
        facts = {"device": "a processor", "date": "2026-11-27", "threads": 1, "seed": int(name[-1])}
        facts |= {"versions": {"torch": "2.14"}, "command": "train", "finished": done, "rows": rows}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(facts))

    def row(density, right):
        keys = ("val_accuracy", "test_accuracy", "own_gates", "mean_gates")
        return {"density": density} | dict.fromkeys(keys, right)

    run("plain-seed0", [row(None, 0.99)])
    run("d0.5-seed0", [row(None, 0.99), row(0.5, 0.98)])
    for seed, right in enumerate((0.90, 0.94)):
        run(f"any0-seed{seed}", [row(1.0, right), row(0.5, right)])
    run("any1-seed0", [row(1.0, 0.5)], done=False)
    write(list(finished(tmp_path)), tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"| {DEDICATED} | 1 |  |  | 98.0 |" in table
    assert f"| {next(iter(ARMS))} | 2 | 92.0 ± 2.0 | 92.0 | 92.0 |" in table
    assert table.count("\n|") == 4


@pytest.mark.parametrize("path", list(STORED.glob("rows.json")), ids=lambda path: path.parent.name)
def test_what_is_stored_is_what_is_shown(path, tmp_path):
    write(json.loads(path.read_text()), tmp_path)
    table = (STORED / "table.md").read_text()
    assert (tmp_path / "table.md").read_text() == table
    assert table.strip() in (STORED.parent / "README.md").read_text()
