"""Measure what skipping saves: ``python -m fbs_tutorial bench``.

Networks and single layers with random weights, or a network from a file, run by turns in one
process, in seven ways:

- *dense*: the plain network, in PyTorch's two layouts, as it is and with its batch norms folded
  into the convolutions. The fastest of these four is the *best dense*, and all shares refer to it.
- *compiled*: the plain network through ``torch.compile``; it is not among those four.
- *masked*: the gated network as it is, which computes every channel and multiplies losers by 0.
- *accelerated*: `accelerate` of the gated network, with saliencies, predictors and selection.
- *native*: the same on a CPU with the C++ kernel that gathers nothing, where it can be built;
  *accelerated* there is the backend that gathers.
- *oracle*: a small plain network with only ``active_channels(C, d)`` channels in each layer, its
  batch norms folded. It need not choose nor gather. In ResNet-18 only the inside of each block is
  narrow, since the sums need their channels; it does more MACs than the gated network, so compare
  each with its own MACs.
- *ideal*: not run; the share of MACs by gates, about d squared.

On a GPU float32 comes first, its products in full precision, then a second table: TF32 and
bfloat16, or float16 where the GPU has neither. All ways have the same precision each time, and
predictors stay in float32. cuDNN chooses its routines by trying. Networks run kernel by kernel and
as CUDA graphs; layers, and the second table, as graphs alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from math import inf
from pathlib import Path

import torch

from ..checkpoints import load_weights
from ..execution import native
from ..method.gated import is_gated
from ..method.wta import check_density
from ..training.settings import RunError
from .cases import Case, choose, from_file, settings_of, test_images, trained_density
from .record import Record
from .report import case_name, progress
from .timing import (
    NEVER,
    Deadline,
    TimeOverError,
    Timing,
    busy,
    check_device,
    cpu_seconds_of_others,
    machine,
    race,
)
from .variants import (
    DENSE,
    OTHER_ORACLE,
    Variant,
    compile_kernels,
    executions,
    in_a_line,
    precision_of,
    precisions,
    variants_of,
    with_compiled,
)

DENSITIES = (0.8, 0.6, 0.5, 0.25)
RANDOM = (
    "random, seed 0; batch norms set by smooth random images: times and MACs count, accuracy does "
    "not"
)
ROUNDS = {"cpu": (5.0, 20), "cuda": (1.0, 5)}  # of a race: at least so many seconds and rounds
QUICK_ROUNDS = (1.0, 3)
TIME = {"cuda": 390}  # seconds after which no other case begins
QUICK_TIME = {"cuda": 50}  # seconds after which a case that is under way is given up
BEGINNING = 0.6  # of that time, in which cases begin
COMPILING = 0.5  # of those again, at most, for compiling beforehand


def bench(
    models: Sequence[str] | None = None,
    *,
    weights: Path | None = None,
    data: str | None = None,
    layers: bool = False,
    device: str = "cpu",
    batches: Sequence[int] | None = None,
    densities: Sequence[float] | None = None,
    quick: bool = False,
    seconds: float | None = None,
    threads: int | None = None,
    anyway: bool = False,
    out: Path | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Measure; returns provenance and one row per case, batch, precision and way of execution.

    Args:
        models: names from `NETWORKS`. Without ``models`` and ``layers``, all networks and layers.
        weights: a file as `load_weights` takes it, whose network is measured, in place of those;
            ``models`` then names the one it is of, if the file does not tell.
        data: images for ``weights``, as `load_data` takes it; random ones when None.
        batches: images at a time, instead of each case's own.
        densities: when None, those that ``weights`` were trained at, none if they have no gates,
            and else 0.8, 0.6, 0.5 and 0.25. A plain network gets random gates for them.
        quick: less than a minute: M-CifarNet and the small layers, densities 0.5 and 0.25, few
            rounds, nothing compiled, on a GPU only the largest batch. There no case begins after
            30 seconds, and no further step of one after 50.
        seconds: the time there is, in place of those 50.
        threads: of PyTorch on the CPU; None leaves them as they are.
        anyway: measure on a busy machine too, and record that it was.
        out: a JSON file that holds the results after each row. Whether it can be written is tried
            first. If it holds an unfinished benchmark of the same kind, this one goes on there.
        command: what to record as the command that measured.
        say: gets a line of progress for each row.

    Raises:
        ValueError, TypeError: an unknown name or device, bad numbers, a busy machine, a file that
            holds something else; CheckpointError is one for ``weights``.
        OSError: ``out`` cannot be written.
    """
    end = _deadline(device, quick, seconds)
    check_device(device)
    _check_numbers(batches or (), densities, threads)
    cases, own, about = _cases(models, weights, data, layers, quick)
    densities = own if densities is None else tuple(densities)
    plan = list(_plan(cases, batches, device, quick))
    with _threads(threads):
        facts = {"command": command} if command else {}
        facts |= _provenance(device, quick) | {"weights": about, "densities": list(densities)}
        record = Record(out, facts, [case_name(c.name, b, p) for p, c, b in plan])
        reason = busy(device)
        if reason and not anyway:
            text = "the machine is busy, {reason}: wait, or measure with {anyway} all the same"
            raise RunError(text, {"reason": reason})
        record.begin(reason, say)
        _measure(record, plan, device, densities, quick, say, end)
    return record.results


def _cases(
    models: Sequence[str] | None, weights: Path | None, data: str | None, layers: bool, quick: bool
) -> tuple[list[Case], tuple[float, ...], str]:
    """What to measure; at which densities if nobody says; what the weights are."""
    usual = (0.5, 0.25) if quick else DENSITIES
    if weights is None:
        if data is not None:
            raise ValueError(f"data is for a network from a file, got {data!r} without weights")
        return choose(models, layers, quick), usual, RANDOM
    if models and len(models) > 1:
        raise ValueError(f"model must be the one network of weights, got {', '.join(models)}")
    network, header = load_weights(weights, models[0] if models else None)
    images = None if data is None else test_images(settings_of(header, data))
    case = from_file(weights, network, header, images)
    about = f"{weights}, sha256 {sha256(Path(weights).read_bytes()).hexdigest()}; images: "
    about += "random" if data is None else f"test images of {data}"
    own = trained_density(header)
    if own is not None:
        usual = (own,)
    elif not is_gated(network) and not layers:
        usual = ()
    return [case, *(choose(None, True, quick) if layers else [])], usual, about


def _measure(
    record: Record,
    plan: Sequence[tuple[str, Case, int]],
    device: str,
    densities: Sequence[float],
    quick: bool,
    say: Callable[[str], None],
    end: Deadline,
) -> None:
    """Measure what the record lacks of the plan, and keep each row as it comes."""
    limit = TIME.get(device, inf) if end.seconds == inf else BEGINNING * end.left()
    begin = Deadline(limit, end.clock)
    missing = [job for job in plan if record.lacks(_name(job))]
    if device == "cuda" and torch.cuda.is_available():
        compile_kernels(missing, densities, COMPILING * begin.left())
    for job in missing:
        name, (precision, case, batch) = _name(job), job
        try:
            begin.check()
            rows = _rows(case, batch, device, densities, quick, precision, end)
            for row in _or_why(device, rows):
                if isinstance(row, str):
                    record.leave_out(name, row)
                else:
                    record.add(row)
                    say(progress(row))
        except TimeOverError as error:
            record.leave_out(name, str(error))
            continue  # still missing: the same command goes on from here
        record.done(name)


def _name(job: tuple[str, Case, int]) -> str:
    precision, case, batch = job
    return case_name(case.name, batch, precision)


def _plan(
    cases: Sequence[Case], batches: Sequence[int] | None, device: str, quick: bool
) -> Iterator[tuple[str, Case, int]]:
    """What to measure one after the other: the precision, the case, the batch.

    Networks come before single layers, in every precision. What does not belong to the first
    precision has only its largest batch; a quick benchmark has one batch, on a GPU the largest.
    There it begins with what tensor cores multiply.
    """
    first, *others = precisions(device)
    short = quick and device == "cuda"
    for layers in False, True:
        for precision in (*others, first) if short else (first, *others):
            for case in (case for case in cases if bool(case.part) == layers):
                own = case.batches.get(device, ())
                if short or precision != first:
                    own = own[-1:]
                for batch in batches or (own[:1] if quick else own):
                    yield precision, case, batch


def _or_why(device: str, rows: Iterator[dict]) -> Iterator[dict | str]:
    """The rows; on a GPU what fails, such as for too little memory, ends them with the reason."""
    try:
        yield from rows
    except TimeOverError:
        raise
    except Exception as error:
        if device == "cpu":
            raise
        yield in_a_line(error)


def _check_numbers(
    batches: Sequence[int], densities: Sequence[float] | None, threads: int | None
) -> None:
    if densities is not None and not densities:
        raise ValueError("densities must hold at least one number in (0, 1], got none")
    for density in densities or ():
        check_density(density)
    for name, number in [*(("batch", b) for b in batches), ("threads", threads)]:
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _deadline(device: str, quick: bool, seconds: float | None) -> Deadline:
    """When a case that is under way is given up."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be a number > 0, got {seconds}")
    usual = QUICK_TIME if quick else {}
    return Deadline(usual.get(device, inf) if seconds is None else seconds)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """PyTorch with so many threads on the CPU; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _provenance(device: str, quick: bool) -> dict:
    import torchvision

    facts = machine(device)
    facts["versions"]["torchvision"] = torchvision.__version__
    if device == "cpu" and native.available():
        facts["peak_gmacs"] = native.peak(facts["threads"])
    return {
        "machine": facts,
        "device": device,
        "backend": device,
        "dtype": "float32" if device == "cpu" else ", ".join(precisions(device)),
        "quick": quick,
        "shares": "of the best dense median; MACs of dense MACs",
        "macs_executed": "of the convolutions and linear layers that run, and the predictors",
        "efficiency": "speed-up / reduction of executed MACs = macs_share / time_share",
    }


def _rows(
    case: Case,
    batch: int,
    device: str,
    densities: Sequence[float],
    quick: bool,
    precision: str,
    end: Deadline = NEVER,
) -> Iterator[dict]:
    """The measurements of one case: on CUDA kernel by kernel and as a graph."""
    if precision != "fp32" and tuple(densities) == DENSITIES:
        densities = densities[-2:]
    with precision_of(precision):
        variants = variants_of(case, batch, device, densities, precision, end)
        ways = list(executions(variants, device, end))
        if case.part or precision != "fp32" or (quick and device == "cuda"):
            ways = ways[-1:]  # the graph, where there is one
        for execution, ready, missing in ways:
            compiled = {}
            if not case.part and not quick and execution == "eager" and precision == "fp32":
                ready, compiled = with_compiled(ready)
            yield {
                "name": case.name,
                "kind": "layer" if case.part else "network",
                "batch": batch,
                "shape": list(case.shape),
                "precision": precision,
                "execution": execution,
                "skipped": missing | compiled,
                **time_variants(ready, device, bool(case.part), quick, end),
            }


def time_variants(
    variants: list[Variant], device: str, layer: bool, quick: bool, end: Deadline = NEVER
) -> dict:
    """Time the variants by turns; their times and MACs, absolute and as shares."""
    seconds, rounds = QUICK_ROUNDS if quick else ROUNDS[device]
    others, began = cpu_seconds_of_others(), time.perf_counter()
    timings = race(
        {v.name: v.call() for v in variants},
        seconds,
        device,
        rounds=rounds,
        flush=layer and device == "cuda",  # inside a network, other layers have used the cache
        deadline=end,
    )
    took = time.perf_counter() - began
    if others is not None:
        others = (cpu_seconds_of_others() - others) / took
    best = min((v for v in variants if v.kind in DENSE), key=lambda v: timings[v.name].median)
    base = timings[best.name].median
    return {
        "dense_best": best.kind,
        "dense_macs": best.macs,
        "cores_used_by_others": others,
        "variants": [
            _measured(v, timings[v.name], best.macs, base)
            for v in _faster_oracles(variants, timings)
        ],
    }


def _measured(v: Variant, t: Timing, dense_macs: float, dense_seconds: float) -> dict:
    """What a row holds of one variant."""
    time_share, macs_share = t.median / dense_seconds, v.macs / dense_macs
    return {
        "variant": v.kind,
        "density": v.density,
        "median_ms": 1000 * t.median,
        "first_quartile_ms": 1000 * t.first_quartile,
        "third_quartile_ms": 1000 * t.third_quartile,
        "count": t.count,
        "time_share": time_share,
        "macs": v.macs,
        "macs_share": macs_share,
        "ideal_share": None if v.ideal is None else v.ideal / dense_macs,
        "efficiency": macs_share / time_share,
    }


def _faster_oracles(variants: list[Variant], timings: dict[str, Timing]) -> Iterator[Variant]:
    """The variants; of the two oracles of a density only the faster one, called ``"oracle"``."""
    other = {v.density: v for v in variants if v.kind == OTHER_ORACLE}
    for v in variants:
        rival = other.get(v.density)
        if v.kind == "oracle" and rival and timings[rival.name].median < timings[v.name].median:
            timings[v.name] = timings[rival.name]
        if v.kind != OTHER_ORACLE:
            yield v
