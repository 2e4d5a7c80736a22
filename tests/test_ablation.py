"""The ablation's jobs and its table; the trainings themselves are tested elsewhere."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from ablation import ARMS, finished, jobs, write

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
    write(list(finished(tmp_path)), tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| digits | 0.5 | 24 | both | 2 | 92.5 (90.0 to 95.0) |" in table
    assert "neither" not in table
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 2
