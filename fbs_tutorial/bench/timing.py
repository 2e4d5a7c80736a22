"""Time several ways of doing the same thing fairly: in one process, by turns, with quartiles.

A clock says little alone. Processors change their speed, other programs come and go, and a first
call pays for caches and memory. So all candidates run in short turns, again and again, and what
counts is the ratio of their medians.
"""

import os
import platform
import random
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import torch

from .._version import __version__
from ..machine import processor

WARM_UP = 3  # calls, before anything is timed
TURN = 0.015  # seconds of calls in a turn
MOST_CALLS = 1000  # in a turn
FLUSH_BYTES = 256 * 2**20  # more than the second-level cache of any GPU holds
BUSY_SHARE = 0.1  # of all cores, used by others


class TimeOverError(Exception):
    """A measurement is given up because it would take too long."""


class Deadline:
    """A moment after which no further step begins.

    Args:
        seconds: from now; infinite: never.
        clock: tells the time in seconds; None for `time.monotonic`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] | None = None):
        self.seconds, self.clock = seconds, clock or time.monotonic
        self.end = self.clock() + seconds

    def left(self) -> float:
        """Seconds until then; negative afterwards."""
        return self.end - self.clock()

    def check(self) -> None:
        """Raise `TimeOverError` afterwards."""
        if self.left() < 0:
            raise TimeOverError(f"{self.seconds:g} s were over")


NEVER = Deadline(inf)


@dataclass(frozen=True)
class Timing:
    """How long one call takes, in seconds; prints in milliseconds.

    Attributes:
        median, first_quartile, third_quartile: of the timed calls.
        count: how many calls were timed. seconds: how long they took together.
    """

    median: float
    first_quartile: float
    third_quartile: float
    count: int
    seconds: float

    @classmethod
    def of(cls, times: list[float]) -> "Timing":
        first, median, third = np.percentile(times, (25, 50, 75)).tolist()
        return cls(median, first, third, len(times), sum(times))

    def __str__(self) -> str:
        times = self.first_quartile, self.median, self.third_quartile
        low, middle, high = (three_digits(1000 * t) for t in times)
        return f"{middle} ms ({low} to {high})"


def three_digits(number: float) -> str:
    """Three digits that mean something, never an exponent for a large number."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def race(
    variants: Mapping[str, Callable[[], object]],
    seconds: float = 2.0,
    device: str = "cpu",
    *,
    rounds: int = 10,
    flush: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    deadline: Deadline = NEVER,
) -> dict[str, Timing]:
    """Time every variant, by turns, without gradients.

    Each is warmed up. Then, in every round, each has one turn, in a new random order: a call that
    is not counted, which brings the caches into the state that this variant leaves them in, then as
    many timed calls as fit in about 15 ms, at least one.

    Args:
        variants: functions without arguments. What has to be ready before a call, such as its
            input in a certain place, an attribute ``prepare`` of the function does off the clock.
        seconds: how long all of them together run, at least, once they are warm.
        device: ``"cuda"`` times each call with a pair of events, and synchronises after a round.
        rounds: how many at least.
        flush: on CUDA, overwrite the second-level cache before each call.
        clock: seconds, for a CPU.
        deadline: after it no further round begins.

    Raises:
        TimeOverError: the deadline passed before every variant had a turn.
        ValueError: no variant, fewer than 1 round, negative seconds, an unknown device, or
            ``"cuda"`` where there is none.
    """
    if not variants:
        raise ValueError("variants must hold at least one function, got none")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    if not seconds >= 0:
        raise ValueError(f"seconds must be a number >= 0, got {seconds}")
    watch = CudaWatch(flush) if check_device(device) == "cuda" else CpuWatch(clock)
    times: dict[str, list[float]] = {name: [] for name in variants}
    shuffle = random.Random(0).shuffle
    with torch.inference_mode():
        calls = {}
        for name, call in variants.items():
            deadline.check()
            calls[name] = _calls_a_turn(call, watch)
        began, done, order = clock(), 0, list(variants)
        while done < rounds or clock() - began < seconds:
            if done and deadline.left() < 0:
                break
            shuffle(order)
            for name in order:
                if not done:  # of what is timed, each has a turn
                    deadline.check()
                variants[name]()
                for _ in range(calls[name]):
                    watch.time(variants[name], times[name])
            watch.finish()
            done += 1
    return {name: Timing.of(taken) for name, taken in times.items()}


def check_device(device: str) -> str:
    """Return ``device``, or raise unless it is ``"cpu"``, or ``"cuda"`` where there is one."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but PyTorch finds no CUDA device here")
    return device


class CpuWatch:
    """Times calls that have done their work when they return."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock

    def time(self, call: Callable[[], object], times: list[float]) -> None:
        """Call once; append the seconds it took."""
        _prepare(call)
        began = self.clock()
        call()
        times.append(self.clock() - began)

    def finish(self) -> None:
        """Nothing is under way."""


class CudaWatch:
    """Times calls that only hand work to the GPU; the times are there after `finish`."""

    def __init__(self, flush: bool):
        self.pending: list[tuple[list[float], torch.cuda.Event, torch.cuda.Event]] = []
        size = FLUSH_BYTES if flush else 0
        self.cache = torch.empty(size, dtype=torch.uint8, device="cuda")

    def time(self, call: Callable[[], object], times: list[float]) -> None:
        """Call once; note the events around it."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        _prepare(call)
        if len(self.cache):
            self.cache.zero_()
        start.record()
        call()
        end.record()
        self.pending.append((times, start, end))

    def finish(self) -> None:
        """Wait for the GPU, then append the seconds that each call took."""
        torch.cuda.synchronize()
        for times, start, end in self.pending:
            times.append(start.elapsed_time(end) / 1000)
        self.pending.clear()


def _prepare(call: Callable[[], object]) -> None:
    getattr(call, "prepare", lambda: None)()


def _calls_a_turn(call: Callable[[], object], watch: CpuWatch | CudaWatch) -> int:
    """Warm up; how many calls fit in one turn, at least 1."""
    for _ in range(WARM_UP):
        call()
    watch.finish()
    times: list[float] = []
    for _ in range(2):
        watch.time(call, times)
    watch.finish()
    return max(1, min(int(TURN / max(min(times), 1e-9)), MOST_CALLS))


def machine(device: str = "cpu") -> dict:
    """What a time depends on: the machine, its load, the versions; ready for JSON."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    facts = {
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "load": [round(x, 2) for x in load],  # mean of 1, 5 and 15 minutes
        "versions": {
            "fbs_tutorial": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    if device == "cuda":
        facts |= {"host": facts["device"], "device": torch.cuda.get_device_name()}
        versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        facts["versions"] |= versions
        facts |= _nvidia_smi("driver_version", "clocks.sm", "clocks.mem", "power.draw")
    return facts


def busy(device: str = "cpu", meanwhile: Callable[[], object] | None = None) -> str | None:
    """Why timings taken now would be unreliable, or None; takes half a second to find out.

    On Linux others are busy if they use more than a tenth of all cores; elsewhere a load average
    over a tenth of the cores counts. A GPU is busy if more than a tenth of the time it works.

    Args:
        meanwhile: what to do instead of waiting, such as to take those times.
    """
    if device == "cuda":
        if meanwhile is not None:  # what this process did in the last second would count, too
            torch.cuda.synchronize()
            time.sleep(1.0)
        used = str(_nvidia_smi("utilization.gpu").get("utilization.gpu", "0")).split()[0]
        if used.isdigit() and int(used) > 100 * BUSY_SHARE:
            return f"the GPU is {used} % busy"
    cores = os.cpu_count() or 1
    before, began = cpu_seconds_of_others(), time.perf_counter()
    (meanwhile or partial(time.sleep, 0.5))()
    if before is not None:
        used = (cpu_seconds_of_others() - before) / (time.perf_counter() - began)
        what = f"other programs use {used:.1f} of {cores} cores"
    elif hasattr(os, "getloadavg"):
        own = torch.get_num_threads() if meanwhile else 0  # are part of the load
        used = os.getloadavg()[0] - own
        what = f"the load average of the last minute is {used:.1f} with {cores} cores"
    else:
        return None
    return what if used > BUSY_SHARE * cores else None


def cpu_seconds_of_others() -> float | None:
    """Processor time since the start of the machine that was not this process's.

    None where ``/proc/stat`` does not tell (proc(5): user, nice, system, idle, iowait, irq,
    softirq, steal, ...).
    """
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        ticks = sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    except (OSError, IndexError, ValueError):
        return None
    own = os.times()
    return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system if ticks else None


def _nvidia_smi(*fields: str) -> dict[str, str]:
    """What nvidia-smi says about the first GPU; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, done.stdout.partition("\n")[0].split(", "), strict=False))
