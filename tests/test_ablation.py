"""The ablation's jobs and its table; the trainings themselves are tested elsewhere."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from ablation import ARMS, DATA, ROWS, finished, jobs, table, verdict, with_table
from readme import RESULTS

from fbs_tutorial.training.settings import Settings


def run(folder, arm, seed, accuracy, done=True):
    """What a finished or halfway run leaves in its folder."""
    weight, ramp = ARMS[arm]
    row = dict.fromkeys(
        ("val_accuracy", "test_accuracy", "own_gates", "shuffled_gates", "mean_gates"), accuracy
    )
    settings = {"data": "digits", "teacher_weight": weight, "ramp": ramp, "steps": [{"epochs": 24}]}
    metrics = {"finished": done, "settings": settings, "rows": [row | {"density": 0.5}]}
    metrics |= {"seed": seed, "device": "a processor", "date": "2026-11-27", "threads": 1}
    metrics |= {"versions": {"torch": "2.14"}, "command": "python -m fbs_tutorial train"}
    place = folder / f"digits-d0.5-{arm}-seed{seed}"
    place.mkdir()
    (place / "metrics.json").write_text(json.dumps(metrics))


def test_every_arm_of_a_seed_starts_from_the_same_plain_network(tmp_path):
    made = {job.name: job for job in jobs(tmp_path)}
    arms = [job for name, job in made.items() if name.startswith("digits-d0.5-")]
    assert len(arms) == 4 * 3 and {tuple(job.after) for job in arms} == {
        (f"digits-plain-seed{seed}",) for seed in range(3)
    }
    command = made["digits-d0.5-both-seed1"].command
    assert command[command.index("--teacher-weight") + 1] == "0.7"


def test_an_arm_is_a_command_that_settings_accept(tmp_path):
    weight, ramp = ARMS["density lowered"]
    settings = Settings(
        "digits", checkpoint="plain", density=0.5, distill=True, teacher_weight=weight, ramp=ramp
    )
    assert (settings.recipe.teacher_weight, settings.recipe.ramp) == (0.0, 0.3)


def test_the_table_gives_mean_and_range_and_leaves_out_what_has_not_finished(tmp_path):
    for seed, accuracy in enumerate((0.9, 0.95)):
        run(tmp_path, "both", seed, accuracy)
    run(tmp_path, "neither", 0, 0.5, done=False)
    run(tmp_path, "density lowered", 0, 0.5)
    rows = list(finished(tmp_path))
    assert len(rows) == 3
    text = table(rows)
    assert "| digits | 0.5 | both | 24 | 2 | 92.5 (90.0 to 95.0) |" in text
    assert "| digits | 0.5 | schedule | 16 | 3 | " in text and "neither" not in text


@pytest.mark.parametrize(("both", "how"), [((0.9, 0.95), "more"), ((0.5, 0.95), "no more")])
def test_a_lead_counts_if_it_is_more_than_seeds_differ_by(both, how, tmp_path):
    for seed, accuracy in enumerate(both):
        run(tmp_path, "both", seed, accuracy)
        run(tmp_path, "neither", seed, 0.7)
    lead = 100 * (sum(both) / 2 - 0.7)
    assert f"digits at *d* = 0.5: both, {lead:.1f} points above neither, {how} than" in verdict(
        list(finished(tmp_path))
    )


def test_the_page_of_results_has_the_table_of_the_stored_rows():
    rows, page = json.loads(ROWS.read_text()), RESULTS.read_text()
    assert with_table(page, rows) == page
    for data, (densities, _) in DATA.items():
        found = {(r["density"], r["arm"], r["seed"]) for r in rows if r["data"] == data}
        seeds = {seed for *_, seed in found}
        assert len(seeds) > 1, "each with all arms"
        assert found == {(d, arm, seed) for d in densities for arm in ARMS for seed in seeds}
