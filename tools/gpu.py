"""All that a GPU is wanted for, the most valuable first, for as long as there is time.

    python tools/gpu.py [--seconds 360] [--only tests,bench,train,notebooks] [--out build/gpu]

First the tests that need a GPU; then benchmarks of whole networks, in TF32, 16 bits and float32,
at all densities, each within a limit of time. Then the layers of `measure_layers.py`, the long
benchmark, the CIFAR-10 networks (data set in FBS_DATA), and the notebooks that have something to
say on a GPU. When the time is over, what still runs is ended; called again, the same command goes
on: finished jobs are left out, a stopped training resumes, a benchmark measures what it lacks.
``report.json`` in the folder tells how each job ended.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fbs_tutorial.bench.timing import machine  # noqa: E402
from fbs_tutorial.files import write_atomically  # noqa: E402

PARTS = ("tests", "bench", "train", "notebooks")
DENSITIES = (0.5, 0.3, 0.7, 0.2)  # in the order of their worth
NETWORKS = ("mcifarnet", "vgg16", "resnet18")  # with 256, 32 and 64 images, as `bench` has them
TIMED = "0.5,0.25,1.0,0.8,0.6"
LIMIT = 150  # seconds for each of them
SEEDS = (0, 1, 2)
NOW = " now"
OVER = ("finished", f"failed{NOW}", f"unfinished{NOW}")  # for this call
GRACE = 5.0  # seconds that an ended job has to write what it holds


@dataclass(frozen=True)
class Job:
    """A command, and the names of the jobs that must have finished before it.

    ``results``: a file of a benchmark, which names what it lacks.
    """

    name: str
    part: str
    command: Sequence[str]
    after: Sequence[str] = field(default=())
    results: Path | None = None

    def lacks_something(self) -> bool:
        found = self.results is not None and self.results.exists()
        return found and bool(json.loads(self.results.read_text()).get("missing"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=360.0, help="the time there is")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, in this order")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--at-once", type=int, default=4, help="trainings side by side")
    parser.add_argument("--quick", action="store_true", help="the short benchmark")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="without a GPU: one test, one small benchmark, trainings of digits, on the CPU",
    )
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only takes {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = sorted(all_jobs(options), key=lambda job: PARTS.index(job.part))
    jobs = [job for part in parts for job in jobs if job.part == part]
    device = "cpu" if options.rehearse else "cuda"
    report = Queue(jobs, options.out, options.at_once, device).run(options.seconds)
    print(table(report["jobs"]))
    return int(any(job["state"] == "failed" for job in report["jobs"].values()))


def all_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Every job, those of one part in the order of their worth."""
    python, out = sys.executable, options.out
    workers = str(max(1, min(6, (os.cpu_count() or 1) - 2)))
    tests = ["-n", workers, "-m", "gpu", "tests/test_cuda.py"]
    bench = ["--device", "cuda", "--out", str(out / "cuda.json"), *["--quick"] * options.quick]
    train = ["cifar10", out]
    notebooks = ("09_skipping_on_a_gpu", "10_timing_on_a_gpu", "11_real_networks")
    if options.rehearse:
        tests = ["tests/test_cuda.py", "-k", "test_tiles_fit"]
        bench = ["--device", "cpu", "--out", str(out / "cpu.json"), "--quick", "--anyway"]
        bench += ["--model", "mcifarnet", "--batch", "1", "--densities", "0.5"]
        train = ["digits", out, 1, (0.5,), (0,)]
        notebooks = ("03_winner_take_all",)
    yield Job("tests", "tests", [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests])
    if not options.rehearse:
        yield from networks(out)
        layers = ["--out", str(out / "layers.json")]  # what the per-layer rule is fitted to
        yield Job("layers", "bench", [python, "tools/measure_layers.py", *layers])
    bench = [python, "-m", "fbs_tutorial", "bench", *bench]
    yield Job("bench", "bench", bench, results=Path(bench[bench.index("--out") + 1]))
    yield from trainings(*train)
    yield from comparisons(out, options.rehearse)
    for name in notebooks:
        command = [python, "tools/run_notebooks.py", "--out", str(out), f"notebooks/{name}.ipynb"]
        yield Job(name, "notebooks", command)


def networks(out: Path) -> Iterator[Job]:
    """Whole networks as graphs, in every precision and at all densities, a file each."""
    command = [sys.executable, "-m", "fbs_tutorial", "bench", "--device", "cuda", "--quick"]
    for name in NETWORKS:
        results = out / f"{name}.json"
        what = ["--model", name, "--densities", TIMED, "--seconds", str(LIMIT)]
        what += ["--anyway", "--out", str(results)]
        yield Job(f"bench-{name}", "bench", [*command, *what], results=results)


def trainings(
    data: str,
    out: Path,
    epochs: int | None = None,
    densities: Sequence[float] = DENSITIES,
    seeds: Sequence[int] = SEEDS,
) -> Iterator[Job]:
    """The plain network, FBS at each density, and the small plain networks of the same MACs.

    Gated networks are distilled from the plain one and begin from it; a small one is trained for
    as many epochs as the plain and the gated network together. ``epochs``: of each step, instead
    of the recipe's.
    """
    train = [sys.executable, "-m", "fbs_tutorial", "train", "--data", data, "--no-progress"]
    length = [] if epochs is None else ["--epochs", str(epochs)]
    for seed in seeds:

        def job(name: str, *words: object, after: Sequence[str] = (), seed: int = seed) -> Job:
            name = f"{name}-seed{seed}"
            after = [f"{other}-seed{seed}" for other in after]
            place = ["--seed", str(seed), "--out", str(out / name)]
            return Job(name, "train", [*train, *map(str, words), *place], after)

        plain = out / f"plain-seed{seed}" / "plain.safetensors"
        distilled = ["--distill", "--teacher", plain]
        yield job("plain", "--plain", *length)
        twice = ["--epochs", 2 * (epochs or 45)]
        for d in densities:
            gated = ["--from", plain, "--density", d]
            yield job(f"fbs{d:g}", *gated, *distilled, *length, after=["plain"])
            small = ["--static", "--densities", d]
            yield job(f"small{d:g}-distilled", *small, *distilled, *twice, after=["plain"])
        yield job("any", "--from", plain, "--any-density", *distilled, *length, after=["plain"])
        for d in densities:
            yield job(f"small{d:g}", "--static", "--densities", d, *twice)


def comparisons(out: Path, rehearse: bool = False) -> Iterator[Job]:
    """FBS beside its static relatives on each of three networks; one short one in a rehearsal."""
    command = [sys.executable, "-m", "fbs_tutorial", "compare"]
    short = ["--data", "digits", "--densities", "0.5", "--epochs", "1", "--images", "150"]
    for model in ("digitsnet",) if rehearse else ("mcifarnet", "vgg16_cifar", "resnet56"):
        what = short if rehearse else ["--data", "cifar10", "--model", model]
        name = f"compare-{model}"
        yield Job(name, "train", [*command, *what, "--out", str(out / f"{name}.json")])


class Queue:
    """Runs jobs, trainings side by side and everything else alone, and remembers how they end."""

    def __init__(self, jobs: Sequence[Job], out: Path, at_once: int, device: str):
        self.jobs, self.out, self.at_once = jobs, out, at_once
        self.running: dict[str, tuple[Job, subprocess.Popen, float]] = {}
        self.path = out / "report.json"
        self.report = json.loads(self.path.read_text()) if self.path.exists() else {"jobs": {}}
        if device == "cpu" or not self.report.get("machine"):
            self.report["machine"] = machine(device)

    def run(self, seconds: float) -> dict:
        """Work for at most ``seconds``; returns the report."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                self.collect()
                if not self.begin() and not self.running:
                    break
                time.sleep(0.1)
        finally:
            self.collect()
            self.stop()
        return self.report

    def state(self, name: str) -> str | None:
        return self.report["jobs"].get(name, {}).get("state")

    def begin(self) -> bool:
        """Start the first job that may run now; False if there is none."""
        busy = [job for job, *_ in self.running.values()]
        for job in self.jobs:
            if job.name in self.running or self.state(job.name) in OVER:
                continue
            if any(self.state(name) != "finished" for name in job.after):
                continue
            if busy and {job.part, *(other.part for other in busy)} != {"train"}:
                return False  # in their order: what is timed has the machine to itself
            if len(busy) >= self.at_once:
                return False
            with (self.out / f"{job.name}.log").open("a") as log:
                process = subprocess.Popen(job.command, cwd=ROOT, stdout=log, stderr=log)
            self.running[job.name] = (job, process, time.monotonic())
            print(f"{job.name} begins", flush=True)
            return True
        return False

    def collect(self) -> None:
        """Note the jobs that have ended."""
        for name, (job, process, began) in list(self.running.items()):
            if process.poll() is not None:
                good = f"unfinished{NOW}" if job.lacks_something() else "finished"
                self.note(name, good if process.returncode == 0 else f"failed{NOW}", began)

    def stop(self) -> None:
        """End what still runs; it goes on when it is called again."""
        for _, process, _ in self.running.values():
            process.terminate()
        for name, (_, process, began) in list(self.running.items()):
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.note(name, "stopped", began)
        for entry in self.report["jobs"].values():
            entry["state"] = entry["state"].removesuffix(NOW)  # the next call tries it again
        self.save()

    def note(self, name: str, state: str, began: float) -> None:
        job = self.running.pop(name)[0]
        seconds = time.monotonic() - began
        seconds += self.report["jobs"].get(name, {}).get("seconds", 0.0)
        entry = {"state": state, "seconds": round(seconds, 1), "command": list(job.command)}
        self.report["jobs"][name] = entry
        print(f"{name} {state}, {seconds:.0f} s", flush=True)
        self.save()

    def save(self) -> None:
        write_atomically(self.path, (json.dumps(self.report, indent=1) + "\n").encode())


def table(jobs: dict[str, dict]) -> str:
    """How each job ended, a line each."""
    return "\n".join(f"{job['state']:>9} {job['seconds']:7.0f} s  {n}" for n, job in jobs.items())


if __name__ == "__main__":
    sys.exit(main())
