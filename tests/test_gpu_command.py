"""`make gpu` rehearsed without a GPU: the queue with small commands, real ones with tiny sizes."""

import itertools
import json
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from fbs_tutorial.bench import run

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import gpu
from gpu import Job, Queue, comparisons, main, trainings


def job(name, code, part="train", after=()):
    return Job(name, part, [sys.executable, "-c", code], after)


def queue(jobs, out, at_once=2):
    return Queue(jobs, out, at_once, "cpu")


def states(report):
    return {name: entry["state"] for name, entry in report["jobs"].items()}


WRITE = "import pathlib, time; pathlib.Path({!r}).open('a').write({!r}); time.sleep({})"


def test_jobs_wait_for_those_they_need_and_other_parts_run_alone(tmp_path):
    diary = str(tmp_path / "diary")
    jobs = [
        job("timed", WRITE.format(diary, "t", 0.5), "bench"),
        job("b", WRITE.format(diary, "b", 0), after=["a"]),
        job("a", WRITE.format(diary, "a", 0.5)),
    ]
    report = queue(jobs, tmp_path).run(60)
    assert states(report) == {"timed": "finished", "a": "finished", "b": "finished"}
    assert Path(diary).read_text() == "tab"
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_stops_at_its_limit_and_goes_on_when_it_is_called_again(tmp_path):
    marker = tmp_path / "second"
    code = f"import pathlib, time; pathlib.Path({str(marker)!r}).exists() or time.sleep(600)"
    jobs = [job("first", "pass"), job("long", code)]
    assert states(queue(jobs, tmp_path).run(3)) == {"first": "finished", "long": "stopped"}
    marker.touch()
    before = json.loads((tmp_path / "report.json").read_text())["jobs"]["first"]
    report = queue(jobs, tmp_path).run(60)
    assert states(report) == {"first": "finished", "long": "finished"}
    assert report["jobs"]["first"] == before  # it did not run again


def test_a_job_that_fails_stops_no_other_and_is_tried_again(tmp_path):
    marker = tmp_path / "marker"
    code = f"import pathlib; assert pathlib.Path({str(marker)!r}).exists()"
    jobs = [job("fails", code), job("waits", "pass", after=["fails"]), job("free", "pass")]
    report = queue(jobs, tmp_path).run(60)
    assert states(report) == {"fails": "failed", "free": "finished"}
    assert "AssertionError" in (tmp_path / "fails.log").read_text()
    marker.touch()
    assert set(states(queue(jobs, tmp_path).run(60)).values()) == {"finished"}


def test_a_benchmark_that_lacks_rows_goes_on_in_the_next_call(tmp_path):
    results = tmp_path / "times.json"
    code = (
        f"import json, pathlib; file = pathlib.Path({str(results)!r});"
        "missing = json.loads(file.read_text())['missing'][1:] if file.exists() else ['a', 'b'];"
        "file.write_text(json.dumps({'missing': missing}))"
    )
    timed = Job("timed", "bench", [sys.executable, "-c", code], results=results)
    jobs = [timed, job("other", "pass")]
    for state in "unfinished", "unfinished", "finished":
        assert states(queue(jobs, tmp_path).run(60)) == {"timed": state, "other": "finished"}


def test_no_more_trainings_side_by_side_than_asked(tmp_path):
    code = (
        "import os, pathlib, time; folder = pathlib.Path({!r}); mine = folder / str(os.getpid());"
        "mine.touch(); assert len(list(folder.iterdir())) <= 2; time.sleep(0.5); mine.unlink()"
    )
    (folder := tmp_path / "running").mkdir()
    jobs = [job(str(i), code.format(str(folder))) for i in range(4)]
    assert set(states(queue(jobs, tmp_path).run(60)).values()) == {"finished"}


def test_opponents_have_as_many_epochs_and_gated_networks_begin_from_the_plain_one(tmp_path):
    jobs = {job.name: job for job in trainings("cifar10", tmp_path)}
    assert next(iter(jobs)) == "plain-seed0"
    assert jobs["fbs0.5-seed1"].after == ["plain-seed1"]
    small = jobs["small0.5-distilled-seed0"].command
    assert small[small.index("--epochs") + 1] == "90"
    assert len(jobs) == len(gpu.SEEDS) * (2 + 3 * len(gpu.DENSITIES))


def jobs_of(tmp_path, *words):
    """The whole queue, in its order; nothing runs."""
    seen = []

    class Listed(Queue):
        def run(self, seconds):
            seen.extend(self.jobs)
            return {"jobs": {}}

    with patch.object(gpu, "Queue", Listed), patch.object(gpu, "machine", lambda device: {}):
        main(["--out", str(tmp_path), *words])
    return seen


def test_the_first_minutes_are_those_tests_that_need_a_gpu_and_the_networks(tmp_path):
    jobs = jobs_of(tmp_path)
    names = [job.name for job in jobs]
    first = ["tests", "bench-mcifarnet", "bench-vgg16", "bench-resnet18", "layers", "bench"]
    assert names[:6] == first and len(set(names)) == len(names)
    test = jobs[0].command
    assert test[test.index("-m", 2 + test.index("-m")) + 1] == "gpu"
    assert all(job.part == "train" for job in jobs[6:-3])
    assert all(job.part == "notebooks" for job in jobs[-3:])


def test_the_networks_have_all_rows_that_are_wanted_of_a_gpu(tmp_path, monkeypatch):
    """Batches, precisions, densities: every case of each command, as `bench` would plan it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr(run, "busy", lambda device: None)
    monkeypatch.setattr(run, "machine", lambda device: {"versions": {}, "device": "-"})
    monkeypatch.setattr(run, "compile_kernels", lambda *rest: None)
    rows = []

    def measured(case, batch, device, densities, quick, precision, end):
        rows.append((case.name, batch, precision, tuple(densities), quick))
        return []

    monkeypatch.setattr(run, "_rows", measured)
    for job in jobs_of(tmp_path)[1:4]:
        command = job.command[job.command.index("bench") + 1 :]
        value = dict(itertools.pairwise(command)).get
        densities = [float(d) for d in value("--densities").split(",")]
        assert "--quick" in command and value("--device") == "cuda"
        assert float(value("--seconds")) <= 150 and job.results == Path(value("--out"))
        run.bench([value("--model")], device="cuda", quick=True, densities=densities)
    networks = ("mcifarnet", 256), ("vgg16", 32), ("resnet18", 64)
    densities = (0.5, 0.25, 1.0, 0.8, 0.6)
    expected = itertools.product(networks, ("tf32", "bf16", "fp32"))
    assert rows == [(*network, p, densities, True) for network, p in expected]


def test_three_networks_are_compared_with_their_static_relatives(tmp_path):
    models = [job.command[job.command.index("--model") + 1] for job in comparisons(tmp_path)]
    assert models == ["mcifarnet", "vgg16_cifar", "resnet56"]


def test_an_unknown_part_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--only", "tests,training", "--out", str(tmp_path)])
    assert "tests, bench, train, notebooks, got training" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_once_without_a_gpu(tmp_path):
    assert main(["--rehearse", "--out", str(tmp_path), "--at-once", "2", "--seconds", "900"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(states(report).values()) == {"finished"} and len(report["jobs"]) == 3 + 6
    assert json.loads((tmp_path / "cpu.json").read_text())["rows"]
    rows = json.loads((tmp_path / "fbs0.5-seed0" / "metrics.json").read_text())["rows"]
    assert rows[-1]["density"] == 0.5
    assert (tmp_path / "03_winner_take_all.ipynb").exists()
