"""What the benchmark runs, counts and writes. No test asserts on how long anything took,
but those of the peak, by a wide margin.
"""

import itertools
import json
import multiprocessing
import os
import re
import sys
import time
from functools import partial
from math import inf
from pathlib import Path
from threading import Semaphore
from unittest.mock import patch

import pytest
import torch

from fbs_tutorial import accelerate, active_channels, convert, count_macs
from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import cases, report, run, stages, timing, variants
from fbs_tutorial.bench.timing import Timing, race
from fbs_tutorial.execution import native
from fbs_tutorial.lesson import plots
from fbs_tutorial.models import digitsnet

ROOT = Path(__file__).parents[1]
TINY = cases.Case("tiny", partial(digitsnet, 10), (1, 16, 16), {"cpu": (1, 3)})
TINY_LAYER = cases.Case(
    "8 ch, 6x6", partial(cases.three_layers, 8), (8, 6, 6), {"cpu": (1,)}, part="1"
)


class Clock:
    """Seconds that pass only while a variant runs."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def variant(self, name, *durations):
        """A function that takes these seconds, one after the other, the last again and again."""
        left = list(durations)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return torch.is_inference_mode_enabled()

        return call


@pytest.fixture
def tiny(monkeypatch):
    """One small network and one small layer, on a machine that is idle."""
    monkeypatch.setattr(cases, "NETWORKS", {"tiny": TINY})
    monkeypatch.setattr(cases, "LAYERS", [TINY_LAYER])
    monkeypatch.setattr(run, "busy", lambda device: None)


@pytest.fixture
def small(tiny, monkeypatch):
    """The same, and every variant runs once only, with an invented time."""

    def quick_race(variants, seconds, device, *, rounds, flush, deadline):
        for call in variants.values():
            call()
        return {name: Timing(1.0 + i, 0.5, 2.0 + i, 3, 9.0) for i, name in enumerate(variants)}

    monkeypatch.setattr(run, "race", quick_race)


def test_race_takes_turns_and_measures_with_the_clock():
    clock = Clock()
    variants = {"fast": clock.variant("fast", 0.004), "slow": clock.variant("slow", 0.1)}
    timings = race(variants, 0, rounds=4, clock=clock)
    assert timings["slow"].median == pytest.approx(0.1) and timings["slow"].count == 4
    assert timings["fast"].median == pytest.approx(0.004) and timings["fast"].count == 4 * 3
    assert timings["slow"].seconds == pytest.approx(0.4)
    warm = 2 * (timing.WARM_UP + 2)
    turns = clock.calls[warm:]
    changes = sum(a != b for a, b in itertools.pairwise(turns))
    assert 4 <= changes <= 7  # 8 turns, of which two of the same can meet between rounds
    assert turns.count("slow") == 4 * 2 and turns.count("fast") == 4 * (1 + 3)


def test_race_goes_on_for_the_seconds_it_is_given():
    clock = Clock()
    timings = race({"a": clock.variant("a", 0.5)}, 10, rounds=2, clock=clock)
    assert timings["a"].count == 10  # an uncounted call and a timed one per second


def test_a_slow_call_moves_the_quartile_not_the_median():
    clock = Clock()
    slow_once = [0.02] * (timing.WARM_UP + 2) + [0.02, 5.0, 0.02]
    result = race({"a": clock.variant("a", *slow_once)}, 0, rounds=5, clock=clock)["a"]
    assert result.median == pytest.approx(0.02)
    assert result.first_quartile <= result.median <= result.third_quartile
    assert str(Timing.of([0.001, 0.002, 0.003])) == "2 ms (1.5 to 2.5)"


def test_what_a_call_needs_before_is_not_timed():
    clock = Clock()
    call = clock.variant("a", 0.02)
    call.prepare = lambda: clock.calls.append("ready") or setattr(clock, "now", clock.now + 5)
    timings = race({"a": call}, 0, rounds=3, clock=clock)
    assert timings["a"].median == pytest.approx(0.02)
    assert clock.calls.count("ready") == timings["a"].count + 2  # and when it was warmed up


def test_race_runs_without_gradients():
    seen = []
    race({"a": lambda: seen.append(torch.is_inference_mode_enabled())}, 0, rounds=1)
    assert all(seen)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({},), "variants"),
        (({"a": int}, -1.0), "seconds must be a number >= 0, got -1.0"),
        (({"a": int}, 1.0, "tpu"), "device must be 'cpu' or 'cuda', got 'tpu'"),
    ],
)
def test_race_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        race(*arguments)


def test_race_wants_a_round():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        race({"a": int}, rounds=0)


def test_busy_names_what_others_use(monkeypatch):
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 4)
    used = iter([0.0, 3600.0, 0.0, 0.0])
    monkeypatch.setattr(timing, "cpu_seconds_of_others", lambda: next(used))
    done = []
    assert "of 4 cores" in timing.busy(meanwhile=lambda: done.append(1))
    assert timing.busy(meanwhile=lambda: done.append(2)) is None and done == [1, 2]
    monkeypatch.setattr(timing, "cpu_seconds_of_others", lambda: None)
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (3.0, 0, 0), raising=False)
    assert "load average of the last minute is 3.0 with 4 cores" in timing.busy()
    monkeypatch.setattr(timing.torch, "get_num_threads", lambda: 3)
    assert timing.busy(meanwhile=lambda: done.append(3)) is None and done == [1, 2, 3]


@pytest.mark.parametrize(("used", "says"), [("55 %", "the GPU is 55 % busy"), ("3 %", None)])
def test_a_gpu_is_asked_once_its_own_work_is_over(used, says, monkeypatch):
    done = []
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(timing.time, "sleep", done.append)
    monkeypatch.setattr(timing, "cpu_seconds_of_others", lambda: 0.0)
    monkeypatch.setattr(timing, "_nvidia_smi", lambda *_: {"utilization.gpu": used})
    assert timing.busy("cuda", lambda: done.append("timed")) == says
    assert done == ["waited", 1.0, *["timed"] * (says is None)]


def test_machine_can_be_written_as_json():
    facts = json.loads(json.dumps(timing.machine()))
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"] and facts["versions"]["torch"] == torch.__version__


def test_command_measures_prints_and_stores(tiny, tmp_path, capsys):
    out = tmp_path / "new" / "times.json"
    assert main(["bench", "--quick", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert (out.parent / "times.png").stat().st_size > 1000
    assert results["command"].startswith("python -m fbs_tutorial bench --quick --out ")
    assert "random" in results["weights"] and results["densities"] == [0.5, 0.25]
    assert [row["name"] for row in results["rows"]] == ["tiny", "8 ch, 6x6"]
    for row in results["rows"]:
        kinds = [v["variant"] for v in row["variants"]]
        skipping = [kind for kind, _ in variants.executing("cpu")]
        assert kinds == [*variants.DENSE, *["masked", *skipping, "oracle"] * 2]
        for v in row["variants"]:
            assert v["efficiency"] == pytest.approx(v["macs_share"] / v["time_share"])
        best = report.find(row, row["dense_best"])
        assert best["time_share"] == best["macs_share"] == 1
        assert row["skipped"] == {}
    printed = capsys.readouterr().out
    assert "| tiny, batch 1 " in printed and str(out) in printed


def test_a_busy_machine_is_refused_unless_told(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "busy", lambda device: "other programs use 2.0 of 2 cores")
    out = tmp_path / "times.json"
    command = ["bench", "--model", "tiny", "--densities", "0.5", "--quick", "--out", str(out)]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "2.0 of 2 cores" in errors and "--anyway" in errors and errors.count("\n") == 1
    assert not out.exists()
    assert main([*command, "--anyway"]) == 0
    assert json.loads(out.read_text())["busy"] == "other programs use 2.0 of 2 cores"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "lenet"], "model must be one of tiny, got 'lenet'"),
        (["--seconds", "0"], "seconds must be a number > 0, got 0.0"),
        (["--device", "tpu"], "device must be 'cpu' or 'cuda', got 'tpu'"),
        (["--densities", "1.5"], "1.5"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--out", "times.txt"], "--out takes the name of a .json file, got 'times.txt'"),
    ],
)
def test_bad_options_end_with_one_line(small, options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *options]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1


def test_threads_are_set_for_the_measurement_only(small):
    before = torch.get_num_threads()
    results = run.bench(threads=before + 1, quick=True, say=lambda line: None)
    assert results["machine"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_batches_and_layers_can_be_chosen(small):
    def rows(**options):
        results = run.bench(quick=True, densities=(0.3,), say=lambda line: None, **options)
        return [(row["name"], row["batch"]) for row in results["rows"]]

    assert rows(models=["tiny"], batches=[2, 4]) == [("tiny", 2), ("tiny", 4)]
    assert rows(layers=True) == [("8 ch, 6x6", 1)]
    assert rows(models=["tiny"], layers=True) == [("tiny", 1), ("8 ch, 6x6", 1)]


@pytest.mark.parametrize("case", [TINY, TINY_LAYER], ids=lambda case: case.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_all_gated_variants_compute_the_same(case, batch):
    made = variants.variants_of(case, batch, "cpu", (1.0, 0.5))
    by_name = {v.name: v for v in made}
    with torch.inference_mode():
        dense = [by_name[name].module(by_name[name].inputs[0]) for name in variants.DENSE]
        for other in dense[1:]:
            torch.testing.assert_close(dense[0], other, rtol=1e-4, atol=1e-4)
        for d in ("1", "0.5"):
            masked = by_name[f"masked {d}"]
            for kind, _ in variants.executing("cpu"):
                fast = by_name[f"{kind} {d}"]
                for x, small_x in zip(masked.inputs, fast.inputs, strict=True):
                    y = fast.module(small_x)
                    y = y.dense() if hasattr(y, "dense") else y
                    torch.testing.assert_close(masked.module(x), y, rtol=1e-4, atol=1e-4)


def test_macs_of_a_layer_case_are_those_of_its_layer():
    made = variants.variants_of(TINY_LAYER, 1, "cpu", (0.5,))
    by_name = {v.name: v for v in made}
    full = 8 * 8 * 9 * 6 * 6
    assert by_name["dense"].macs == full
    assert by_name["masked 0.5"].macs == full + 64
    assert by_name["masked 0.5"].ideal == by_name["oracle 0.5"].macs == full / 4
    for kind, _ in variants.executing("cpu"):
        assert by_name[f"{kind} 0.5"].macs == by_name["accelerated 0.5"].macs <= full / 4 + 64
        assert by_name[f"{kind} 0.5"].inputs[0].maps.shape[1] == 4


@pytest.mark.needs(compiler=bool(native.compilers()))
def test_the_kernel_has_columns_of_its_own_and_a_table_of_rates(small):
    results = run.bench(quick=True, densities=(0.5,), say=lambda line: None)
    text = report.tables(results)
    assert re.search(r"\| masked +\| accelerated +\| native +\| oracle", text)
    peak = results["machine"]["peak_gmacs"]
    layer = next(row for row in results["rows"] if row["kind"] == "layer")
    rate = layer["dense_macs"] / report.find(layer, layer["dense_best"])["median_ms"] / 1e6
    assert 0 < rate < peak
    network = results["rows"][0]
    kernel, oracle = (report.find(network, kind, 0.5)["median_ms"] for kind in ("native", "oracle"))
    (line,) = re.findall(r"\| tiny, batch 1 +\| 0.5 .*", text)
    assert line.rstrip(" |").endswith(f"{oracle / kernel:.2f}")
    assert f"reaches {peak:.0f} here" in text and f"| {rate:.0f} " in text.split("GMAC/s")[1]


@pytest.mark.parametrize("part", ["0.0", "1.0"])
@pytest.mark.parametrize("images", [1, 2])
def test_stages_are_of_the_whole_layer(monkeypatch, part, images):
    """Every way has all stages; their times and the calls' add up to that of the layer."""
    net = convert(cases.three_layers(8), 0.5, gates="random")
    image = cases.smooth_images(images, (8, 6, 6))
    net, seen = cases.fit_norms(net, image), []

    def quick_race(variants, seconds):
        seen.append({name: call() for name, call in variants.items()})
        whole = {name for name in variants if "whole" in name}
        return {name: Timing(1e-3 if name in whole else 1e-5, 0, 0, 1, 0) for name in variants}

    monkeypatch.setattr(stages, "race", quick_race)
    found = stages.stages(net, image, part)
    ways = ["mask", "gather", *["native"] * native.available()]
    assert list(found) == ways
    for way, parts in found.items():
        assert tuple(parts) == stages.STAGES and min(parts.values()) >= 0
        assert sum(parts.values()) == pytest.approx(1000)
        whole, again = seen[0][way, "whole"], seen[0].get((way, "convolution"))
        if way == "mask":
            assert torch.equal(whole, again)
        if way == "gather":
            assert torch.equal(whole.dense(), again.dense())
    assert found["mask"]["gather"] == found["mask"]["selection"] == 0  # one call's price, at least
    if native.available():
        live = 8 if part == "0.0" else 4
        assert seen[0]["native", "convolution"] == images * live * 4 * 9 * 36
        assert ("native", "saliency") in seen[0] if part == "0.0" else True


def test_stages_refuse_what_is_no_gated_convolution():
    net = convert(cases.three_layers(8), 0.5).eval()
    for part in ("0.2", "nowhere"):
        with pytest.raises(ValueError, match=f"part must name a GatedConv2d, got '{part}'"):
            stages.stages(net, torch.rand(1, 8, 6, 6), part)


@pytest.mark.needs(compiler=bool(native.compilers()))
@pytest.mark.parametrize(("case", "chooses"), [(TINY, True), (TINY_LAYER, False)])
def test_single_layers_time_the_kernel_itself_and_networks_what_is_chosen(case, chooses):
    made = variants.variants_of(case, 1, "cpu", (0.5,))
    kernel = next(v for v in made if v.kind == "native").module
    convs = [m for m in kernel.modules() if isinstance(m, native.NativeConv)]
    assert convs and all(conv.chooses is chooses for conv in convs)


class Cores:
    """A library on a machine of so many cores, of which each does 0.1 GMAC/s."""

    def __init__(self, count):
        self.free = Semaphore(count)

    def lanes(self):
        return 8

    def peak(self, rounds):
        with self.free:
            time.sleep(12 * 8 * rounds / 1e8)


@pytest.mark.parametrize(("threads", "cores"), [(1, 1), (2, 2), (4, 2), (4, 1)])
def test_the_peak_is_of_all_threads_that_have_a_core(monkeypatch, threads, cores):
    lib = Cores(cores)
    monkeypatch.setattr(native, "library", lambda: lib)
    monkeypatch.setattr(native, "EACH", 10_000)
    share = native.peak(threads, 0.3) / (0.1 * min(threads, cores))
    assert 0.3 < share < 1.2


@pytest.mark.needs(compiler=bool(native.compilers()))
def test_more_threads_than_cores_do_not_do_more():
    assert native.peak(2, 0.0) > 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pairs = ((native.peak(2 * cores), native.peak(cores)) for _ in range(5))
    assert any(twice < 1.3 * once for twice, once in pairs)  # others may be busy meanwhile


def test_a_layer_can_run_on_maps_alone_as_a_graph_needs():
    made = variants.variants_of(TINY_LAYER, 1, "cpu", (0.5,))
    fast = next(v for v in made if v.kind == "accelerated")
    alone = variants.on_maps(fast)
    torch.testing.assert_close(
        alone.module(alone.inputs[0]), fast.module(fast.inputs[0]).maps, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "make", [cases.vgg16, cases.resnet18, *(case.make for case in cases.LAYERS[-1:])]
)
def test_oracles_have_the_winners_channels(make):
    channels = 192 if isinstance(make, partial) else 3
    x = torch.rand(1, channels, 32, 32)
    dense, small = (count_macs(make(width).eval(), x).layers for width in (1.0, 0.3))
    for big, little in zip(dense, small, strict=True):
        assert big.name == little.name
    share = sum(x.dense for x in small) / sum(x.dense for x in dense)
    if make is cases.resnet18:
        block = make(0.3).layer4[1]
        assert block.conv1.out_channels == active_channels(512, 0.3)
        assert block.conv2.out_channels == 512 and 0.3 < share < 0.4
    elif make is cases.vgg16:
        assert share == pytest.approx(0.3**2, rel=0.05)
    else:  # the first of three layers reads all channels
        k = active_channels(channels, 0.3)
        assert share == pytest.approx((channels * k + 2 * k * k) / (3 * channels**2))


def test_images_are_smooth_and_norms_fit_them():
    images = cases.smooth_images(8, (3, 32, 32))
    assert images.shape == (8, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    steps = images.diff(dim=-1).abs().mean()
    assert steps < 0.5 * (images[..., :16] - images[..., 16:]).abs().mean()
    net = cases.fit_norms(cases.three_layers(3), images)
    assert not net.training
    seen = variants.inputs_of(net, [images], "0.2")[0]
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(seen.std(dim=(0, 2, 3)), torch.ones(3), rtol=0, atol=1e-2)


def on_a_gpu(monkeypatch, capability=(9, 0)):
    """As if there were a GPU; nothing that needs it may then be called."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    monkeypatch.setattr(run, "busy", lambda device: None)
    facts = {"device": "stand-in", "date": "-", "threads": 1, "versions": {"torch": "-"}}
    monkeypatch.setattr(run, "machine", lambda device: facts)


@pytest.mark.parametrize(
    ("capability", "precisions"),
    [
        ((7, 5), ("fp32", "fp16")),
        ((8, 0), ("fp32", "tf32", "bf16")),
        ((9, 0), ("fp32", "tf32", "bf16")),
    ],
)
def test_precisions_are_those_of_the_gpus_tensor_cores(monkeypatch, capability, precisions):
    on_a_gpu(monkeypatch, capability)
    assert variants.precisions("cuda") == precisions
    assert variants.precisions("cpu") == ("fp32",)


def test_a_precision_is_set_for_convolutions_and_never_for_predictors():
    def switches():
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark

    before = switches()
    for precision in ("fp32", "tf32", "bf16"):
        with variants.precision_of(precision):
            assert switches() == (precision == "tf32", "highest", True)
    assert switches() == before


def row(precision, name="tiny", batch=2, densities=(0.5,), execution="graph", kind="network"):
    """A row of results with made-up times."""
    made = [(kind, None, 1.0) for kind in variants.DENSE]
    made += [(k, d, 0.5) for d in densities for k in ("masked", "accelerated", "oracle")]
    keys = ("median_ms", "first_quartile_ms", "third_quartile_ms", "time_share", "macs_share")
    keys += ("efficiency", "ideal_share")
    return {
        "name": name,
        "kind": kind,
        "batch": batch,
        "precision": precision,
        "execution": execution,
        "dense_best": "dense",
        "variants": [
            {"variant": v, "density": d} | dict.fromkeys(keys, share) for v, d, share in made
        ],
    }


def measured_as_if(monkeypatch, rows, **options):
    on_a_gpu(monkeypatch)
    monkeypatch.setattr(run, "_rows", rows)
    chosen = [cases.Case(n, None, (1, 16, 16), {"cuda": (1, 8)}) for n in ("tiny", "small")]
    monkeypatch.setattr(cases, "NETWORKS", {case.name: case for case in chosen})
    monkeypatch.setattr(cases, "LAYERS", [])
    return run.bench(device="cuda", say=lambda line: None, **options)


def test_on_a_gpu_float32_comes_first_and_the_rest_with_the_largest_batch(monkeypatch):
    def rows(case, batch, device, densities, quick, precision, end):
        yield row(precision, case.name, batch, densities)

    results = measured_as_if(monkeypatch, rows)
    small, large = [(n, b) for n in ("tiny", "small") for b in (1, 8)], [("tiny", 8), ("small", 8)]
    expected = [("fp32", *case) for case in small]
    expected += [(p, *case) for p in ("tf32", "bf16") for case in large]
    assert [(r["precision"], r["name"], r["batch"]) for r in results["rows"]] == expected
    assert results["dtype"] == "fp32, tf32, bf16" and results["left_out"] == {}
    assert json.loads(json.dumps(results)) == results
    quick = measured_as_if(monkeypatch, rows, quick=True)["rows"]
    assert {r["batch"] for r in quick} == {8} and len(quick) == 6


def test_on_a_gpu_networks_come_before_layers_in_every_precision(monkeypatch):
    on_a_gpu(monkeypatch)
    some = [
        cases.Case(n, None, (1, 8, 8), {"cuda": (8,)}, part=p) for n, p in (("net", ""), ("l", "1"))
    ]
    for quick, order in (False, ("fp32", "tf32", "bf16")), (True, ("tf32", "bf16", "fp32")):
        plan = [(p, case.name) for p, case, _ in run._plan(some, None, "cuda", quick)]
        assert plan == [(p, name) for name in ("net", "l") for p in order]


def test_what_fails_on_a_gpu_costs_no_other_row_and_is_said(monkeypatch):
    def rows(case, batch, device, densities, quick, precision, end):
        if batch == 8 and case.name == "tiny":
            raise torch.OutOfMemoryError("CUDA out of\nmemory")
        yield row(precision, case.name, batch, densities)

    results = measured_as_if(monkeypatch, rows)
    assert len(results["rows"]) == 5
    assert results["left_out"]["tiny, batch 8"] == "OutOfMemoryError: CUDA out of memory"
    assert set(results["left_out"]) == {f"tiny, batch 8{p}" for p in ("", ", tf32", ", bf16")}
    assert "Not measured: tiny, batch 8 (OutOfMemoryError: CUDA out of" in report.tables(results)


@pytest.mark.parametrize("quick", [True, False])
def test_on_a_gpu_what_is_for_cpus_alone_is_left_out(monkeypatch, quick):
    on_a_gpu(monkeypatch)
    networks = cases.choose(list(cases.NETWORKS), False, quick)
    planned = {case.name for _, case, _ in run._plan(networks, None, "cuda", quick)}
    assert planned == {"mcifarnet", "resnet18", "vgg16"} < {case.name for case in networks}


def test_on_a_gpu_no_case_begins_when_the_time_is_over(monkeypatch, tmp_path):
    def rows(case, batch, device, densities, quick, precision, end):
        clock.now += 200
        yield row(precision, case.name, batch, densities)

    clock = Clock()
    monkeypatch.setattr(run.time, "monotonic", clock)
    out = tmp_path / "cuda.json"
    results = measured_as_if(monkeypatch, rows, out=out)
    assert len(results["rows"]) == 2 and len(results["left_out"]) == 6
    assert results["left_out"]["small, batch 8, bf16"] == "390 s were over"
    for count in (4, 6, 8):  # the same command goes on
        results = measured_as_if(monkeypatch, rows, out=out)
        assert len(results["rows"]) == count and len(results["missing"]) == 8 - count
        assert set(results["left_out"]) == set(results["missing"])


def slow_steps(monkeypatch, clock, seconds):
    """To make a variant and to record it take so long each, a call a tenth of it."""

    def variants_of(case, batch, device, densities, precision, deadline):
        made = []
        for d in (None, *densities):
            deadline.check()
            clock.now += seconds
            made.append(variants.Variant("dense" if d is None else "accelerated", None, [], 1.0, d))
        return made

    def executions(made, device, deadline):
        for _ in made:
            deadline.check()
            clock.now += seconds
        yield "graph", made, {}

    def run_by_turns(calls, *args, deadline, **named):
        calls = {name: clock.variant(name, seconds / 10) for name in calls}
        return race(calls, 0, rounds=9, clock=clock, deadline=deadline)

    monkeypatch.setattr(run, "variants_of", variants_of)
    monkeypatch.setattr(run, "executions", executions)
    monkeypatch.setattr(run, "race", run_by_turns)
    monkeypatch.setattr(run.time, "monotonic", clock)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("compiling", [0.0, 15.0])
def test_a_quick_benchmark_ends_within_a_minute_whatever_a_step_takes(
    monkeypatch, tmp_path, seconds, compiling
):
    """At most one step, here of up to nine seconds, goes on after the 50th."""
    clock, allowed = Clock(), []

    def compile_kernels(plan, densities, longest):
        allowed.append(longest)
        clock.now += min(compiling, longest)

    rows = run._rows
    slow_steps(monkeypatch, clock, seconds)
    monkeypatch.setattr(run, "compile_kernels", compile_kernels)
    out = tmp_path / "cuda.json"
    results = measured_as_if(monkeypatch, rows, quick=True, out=out)
    assert clock.now < 60 and allowed[0] <= 15
    assert json.loads(out.read_text()) == json.loads(json.dumps(results))
    done = [name for name in results["plan"] if name not in results["missing"]]
    assert len(results["rows"]) == len(done) and set(results["missing"]) == set(results["left_out"])
    assert (seconds > 3 or done) and (seconds > 0.01 or len(done) == 6)
    again = measured_as_if(monkeypatch, rows, quick=True, out=out)  # goes on where it ended
    assert seconds > 3 or len(again["missing"]) < max(1, len(results["missing"]))


def test_a_race_ends_with_the_round_in_which_its_time_is_over():
    clock = Clock()
    calls = {name: clock.variant(name, 1.0) for name in "ab"}
    result = race(calls, 100, rounds=50, clock=clock, deadline=timing.Deadline(20, clock))
    assert result["a"].count == result["b"].count == 3  # from 10 on, in rounds of 4 seconds
    with pytest.raises(timing.TimeOverError, match="5 s were over"):
        race(calls, clock=clock, deadline=timing.Deadline(5, clock))


def test_processes_that_compile_for_too_long_are_ended():
    before = set(multiprocessing.active_children())
    variants.run_for([(0.0,), (600.0,)], time.sleep, 2, 3.0)
    for process in set(multiprocessing.active_children()) - before:
        process.join(30)
        assert process.exitcode is not None
    variants.run_for([("no number",)], time.sleep, 1, inf)  # what fails is no failure here


def stopping_after(count, monkeypatch):
    """Measures ``count`` rows with made-up times, and is then stopped as by Ctrl-C; the cases."""
    measured = []

    def rows(case, batch, device, densities, quick, precision, end):
        if len(measured) == count:
            raise KeyboardInterrupt
        measured.append((case.name, batch))
        yield row(precision, case.name, batch, densities, execution="eager")

    monkeypatch.setattr(run, "_rows", rows)
    return measured


def test_a_stopped_benchmark_keeps_its_rows_and_the_same_command_goes_on(
    tiny, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "times.json"
    command = ["bench", "--densities", "0.5", "--out", str(out)]
    stopping_after(2, monkeypatch)
    assert main(command) == 130
    kept = json.loads(out.read_text())
    assert [(r["name"], r["batch"]) for r in kept["rows"]] == [("tiny", 1), ("tiny", 3)]
    assert kept["missing"] == ["8 ch, 6x6, batch 1"]
    assert "rows measured so far are kept" in capsys.readouterr().err

    measured = stopping_after(9, monkeypatch)
    monkeypatch.setattr(
        "fbs_tutorial.lesson.plots.time_and_macs", lambda r: (plots.plt.figure(), "")
    )
    assert main(command) == 0
    assert "has 2 of 3 cases; going on" in capsys.readouterr().err
    assert measured == [("8 ch, 6x6", 1)]
    whole = json.loads(out.read_text())
    assert whole["missing"] == [] and whole["rows"][:2] == kept["rows"] and len(whole["rows"]) == 3

    measured = stopping_after(9, monkeypatch)
    assert main(command) == 0 and len(measured) == 3  # a finished one is measured anew


def test_of_a_case_that_was_stopped_halfway_no_row_is_taken_over(small, tmp_path):
    out = tmp_path / "times.json"
    whole = run.bench(quick=True, out=out, say=lambda line: None)
    whole["missing"] = ["tiny, batch 1"]
    whole["rows"][0]["name"] = "tiny"
    out.write_text(json.dumps(whole))
    again = run.bench(quick=True, out=out, say=lambda line: None)
    assert [r["name"] for r in again["rows"]] == ["8 ch, 6x6", "tiny"]


def test_an_unfinished_benchmark_of_another_kind_is_left_alone(tiny, monkeypatch, tmp_path, capsys):
    out = tmp_path / "times.json"
    stopping_after(1, monkeypatch)
    assert main(["bench", "--out", str(out)]) == 130
    before = out.read_bytes()
    capsys.readouterr()
    assert main(["bench", "--densities", "0.5", "--batch", "2", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "unfinished benchmark that differs in densities, plan" in errors
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("a folder", "cannot write .*times.json: a folder of this name is in the way"),
        ("a folder for the plot", "cannot write .*a folder of this name is in the way .*times.png"),
        ("a file for the folder", "cannot write .*new.*times.json: "),
        ('{"name": "a package"}', "is not of a benchmark; move it away"),
        ('{"machine"', "is damaged"),
    ],
)
def test_where_it_cannot_write_it_says_so_before_it_measures(
    tiny, monkeypatch, tmp_path, capsys, there, words
):
    measured = stopping_after(0, monkeypatch)
    out = tmp_path / "new" / "times.json"
    if there == "a file for the folder":
        (tmp_path / "new").write_text("")
    elif there.startswith("a folder"):
        (out if there == "a folder" else out.with_suffix(".png")).mkdir(parents=True)
    else:
        out.parent.mkdir()
        out.write_text(there)
    assert main(["bench", "--quick", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert re.search(words, errors) and errors.count("\n") == 1 and measured == []


def test_a_finished_result_stays_until_the_first_new_row(small, monkeypatch, tmp_path):
    out = tmp_path / "times.json"
    run.bench(quick=True, out=out, say=lambda line: None)
    before = out.read_bytes()
    stopping_after(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run.bench(quick=True, out=out, say=lambda line: None)
    assert out.read_bytes() == before


def test_the_second_table_is_of_other_precisions():
    rows = [row("fp32", densities=(0.8, 0.5)), row("bf16"), row("tf32")]
    first, second = report.tables({"densities": [0.8, 0.5], "rows": rows}).split("Second table")
    assert "| tiny, batch 2, graph | 0.8 " in first
    for precision in ("bf16", "tf32"):
        assert f"| tiny, batch 2, {precision}, graph | 0.5 " in second and precision not in first
        assert f"{precision}, graph | 0.8" not in second
    assert "roofline" in second and second.count("efficiency is") == 1
    only = report.tables({"densities": [0.5], "rows": rows[:1]})
    assert "Second" not in only and "Not measured" not in only


class Recorded(torch.nn.Module):
    """Stands for a recorded graph."""

    def __init__(self, module, images):
        super().__init__()
        self.module, self.images, self.seen = module, images, []

    def load(self, images):
        self.images = images

    def replay(self):
        self.seen.append(self.images)


def test_layers_and_the_second_table_are_measured_as_graphs(small, monkeypatch):
    monkeypatch.setattr("fbs_tutorial.execution.graphs.graphed", Recorded)
    monkeypatch.setattr(run, "ROUNDS", {"cuda": (0, 1)})
    monkeypatch.setattr(run, "with_compiled", lambda variants: (variants, {"compiled": "no"}))

    def executions(case, precision, densities=run.DENSITIES):
        rows = run._rows(case, 1, "cuda", densities, False, precision)
        return [(r["execution"], sorted({v["density"] or 1 for v in r["variants"]})) for r in rows]

    made = variants.variants_of
    monkeypatch.setattr(
        run, "variants_of", lambda case, batch, device, *rest: made(case, batch, "cpu", *rest[:1])
    )
    four, two = [0.25, 0.5, 0.6, 0.8, 1], [0.25, 0.5, 1]
    assert executions(TINY, "fp32") == [("eager", four), ("graph", four)]
    assert executions(TINY, "bf16") == [("graph", two)]
    assert executions(TINY, "bf16", (0.9, 0.5, 0.3)) == [("graph", [0.3, 0.5, 0.9, 1])]  # as asked
    assert executions(TINY_LAYER, "fp32") == [("graph", four)]


def test_a_recorded_graph_is_timed_without_its_inputs_being_put_in_place():
    inputs = [torch.rand(1), torch.rand(1)]
    variant = variants.Variant("dense", Recorded(None, None), inputs, 1.0, graph=True)
    call = variant.call()
    for _ in range(3):
        call.prepare()
        call()
    assert [x.item() for x in variant.module.seen] == [x.item() for x in (*inputs, inputs[0])]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("case", [TINY, TINY_LAYER], ids=lambda case: case.name)
def test_variants_in_16_bits_are_those_in_float32_rounded(monkeypatch, case, precision):
    def on_cuda(net, device):
        with patch("fbs_tutorial.execution.plan.check_device"):
            return accelerate(net, "cuda")

    monkeypatch.setattr(variants, "accelerate", on_cuda)
    dtype, eps = variants.DTYPES[precision], torch.finfo(variants.DTYPES[precision]).eps
    made = [variants.variants_of(case, 2, "cpu", (1.0, 0.5), p) for p in ("fp32", precision)]
    for wide, narrow in zip(*made, strict=True):
        assert wide.name == narrow.name and wide.macs == narrow.macs and wide.ideal == narrow.ideal
        with torch.inference_mode():
            expected, y = (v.module(v.inputs[0]) for v in (wide, narrow))
            expected, y = (z.dense() if hasattr(z, "dense") else z for z in (expected, y))
        assert y.dtype == dtype
        if wide.density != 0.5:  # near the cut, rounding may choose another channel
            assert (y.float() - expected).abs().max() <= 16 * eps * expected.abs().max()


def test_of_two_oracles_the_faster_one_counts(monkeypatch):
    def times(calls, *args, **kwargs):
        seconds = {"dense": 4, "oracle 0.5": 2, "oracle 0.25": 1}
        seconds |= {f"{variants.OTHER_ORACLE} 0.5": 1.5, f"{variants.OTHER_ORACLE} 0.25": 3}
        return {name: Timing(seconds[name], 0.5, 2.0, 3, 9.0) for name in calls}

    monkeypatch.setattr(run, "race", times)
    made = [variants.Variant("dense", None, [], 8.0)]
    for d in (0.5, 0.25):
        made += [variants.Variant(k, None, [], 8 * d, d) for k in ("oracle", variants.OTHER_ORACLE)]
    results = run.time_variants(made, "cpu", False, True)["variants"]
    assert [(v["variant"], v["median_ms"]) for v in results] == [
        ("dense", 4000),
        ("oracle", 1500),
        ("oracle", 1000),
    ]


def test_a_failed_compilation_is_recorded(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", fail)
    made = variants.variants_of(TINY, 1, "cpu", (0.5,))
    same, skipped = variants.with_compiled(made)
    assert same == made and skipped == {"compiled": "RuntimeError: no compiler here"}


def test_plot_says_the_shares(small):
    results = run.bench(quick=True, say=lambda line: None)
    figure, sentence = plots.time_and_macs(results)
    kind = variants.executing("cpu")[-1][0]
    fast = report.find(results["rows"][0], kind, 0.5)
    assert f"density 0.5 {fast['macs_share']:.3f} and {fast['time_share']:.3f}" in sentence
    (axes,) = figure.axes
    assert "share" in axes.get_xlabel() and "share" in axes.get_ylabel()
    labels = axes.get_legend_handles_labels()[1]
    assert {"ideal: time as MACs", "tiny, batch 1", "single layers"} <= set(labels)
    plots.plt.close(figure)


def test_tables_go_between_the_marks_of_the_readme(small, tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    from ship_bench import with_tables

    results = {"command": "python …", **run.bench(quick=True, say=lambda line: None)}
    (tmp_path / "cpu.json").write_text(json.dumps(results))
    readme = "a\n<!-- bench cpu: made -->\nold\n<!-- /bench cpu -->\nb\n"
    once = with_tables(readme, tmp_path)
    assert "\nold\n" not in once and "| tiny, batch 1 " in once and once.endswith("-->\nb\n")
    assert with_tables(once, tmp_path) == once


def test_a_gpus_tables_go_after_the_cpus(tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    from ship_bench import with_tables

    facts = {"device": "stand-in", "date": "-", "versions": {"torch": "-"}}
    results = {"machine": facts, "device": "cuda", "dtype": "fp32, bf16", "busy": None}
    results |= {"command": "-", "weights": "-", "densities": [0.5]}
    results["rows"] = [row("fp32"), row("bf16"), row("fp32", "a layer", kind="layer")]
    (tmp_path / "cuda.json").write_text(json.dumps(results))
    readme = "a\n<!-- bench cpu: made -->\nold\n<!-- /bench cpu -->\nb\n"
    once = with_tables(readme, tmp_path)
    assert once.startswith(
        "a\n<!-- bench cpu: made -->\nold\n<!-- /bench cpu -->\n\n<!-- bench cuda"
    )
    assert once.endswith("\n<!-- /bench cuda -->\nb\n") and once.count("Second table") == 1
    assert "stand-in, fp32, bf16" in once and "tiny, batch 2, bf16" in once
    assert "a layer," not in once
    assert with_tables(once, tmp_path) == once


def test_pages_show_the_results_in_benchmarks():
    sys.path.insert(0, str(ROOT / "tools"))
    from readme import README, RESULTS
    from ship_bench import with_h100, with_speed, with_tables

    results, readme = RESULTS.read_text(), README.read_text()
    assert with_h100(with_tables(results)) == results
    assert with_speed(readme) == readme
