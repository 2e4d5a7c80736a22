"""Measure what skipping saves: ``python -m fbs_tutorial bench``.

Networks and single layers with random weights run by turns in one process, in six ways:

- *dense*: the plain network, in PyTorch's two layouts, as it is and with its batch norms folded
  into the convolutions. The fastest of these four is the *best dense*, and all shares refer to it.
- *compiled*: the plain network through ``torch.compile``; it is not among those four.
- *masked*: the gated network as it is, which computes every channel and multiplies losers by 0.
- *accelerated*: `accelerate` of the gated network, with saliencies, predictors and selection.
- *oracle*: a small plain network with only ``active_channels(C, d)`` channels in each layer, its
  batch norms folded. It need not choose nor gather. In ResNet-18 only the inside of each block is
  narrow, since the sums need their channels; it does more MACs than the gated network, so compare
  each with its own MACs.
- *ideal*: not run; the share of MACs by gates, about d squared.

On a GPU float32 comes first, its products in full precision, then a second table: TF32 and
bfloat16, or float16 where the GPU has neither. All six ways have the same precision each time, and
predictors stay in float32. cuDNN chooses its routines by trying. Networks run kernel by kernel and
as CUDA graphs; layers, and the second table, as graphs alone.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from ..execution import accelerate
from ..execution.layers import Compact, SparseConv
from ..method.convert import convert, random_predictor
from ..method.gated import gated_layers, set_density
from ..method.macs import count_macs
from ..method.wta import active_channels, check_density
from ..models import mcifarnet
from .timing import (
    Timing,
    busy,
    check_device,
    cpu_seconds_of_others,
    machine,
    race,
    three_digits,
)

DENSITIES = (0.8, 0.6, 0.5, 0.25)
GAIN = 0.3  # of the random predictors: larger gates would grow from layer to layer and overflow
INPUTS = 4  # batches that every variant goes round, so that its winners change from call to call
CALIBRATION = 8  # images that set the batch norms' statistics
DENSE = ("dense", "dense channels_last", "dense folded", "dense folded channels_last")
OTHER_ORACLE = "oracle in the other layout"  # the slower of the two is not recorded
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # of maps and weights; else float32
ROUNDS = {"cpu": (5.0, 20), "cuda": (1.0, 5)}  # of a race: at least so many seconds and rounds
TIME = {"cuda": 390}  # seconds after which no other case begins


@dataclass(frozen=True)
class Case:
    """A network to measure, or the layer ``part`` inside one.

    ``make(width)`` gives the plain network with that share of its channels, in (0, 1].
    """

    name: str
    make: Callable[[float], nn.Module]
    shape: tuple[int, int, int]  # C, H, W of an image
    batches: dict[str, tuple[int, ...]]  # for each device
    part: str = ""


@dataclass(frozen=True)
class Variant:
    """One way of executing a case. ``macs``: what one image costs so; ``ideal``: MACs by gates."""

    kind: str
    module: nn.Module
    inputs: list
    macs: float
    density: float | None = None
    ideal: float | None = None

    @property
    def name(self) -> str:
        return self.kind if self.density is None else f"{self.kind} {self.density:g}"

    def call(self) -> Callable[[], object]:
        """A function that runs the module on its inputs, one after the other, for ever."""
        turn = itertools.cycle(self.inputs)
        if hasattr(self.module, "replay"):
            return Replay(self.module, turn)
        return lambda: self.module(next(turn))


class Replay:
    """A call of a recorded graph; its input is put in place before, as without a graph."""

    def __init__(self, graph: nn.Module, inputs: Iterator[Tensor]):
        self.graph, self.inputs = graph, inputs

    def prepare(self) -> None:
        self.graph.load(next(self.inputs))

    def __call__(self) -> None:
        self.graph.replay()


def vgg16(width: float = 1.0) -> nn.Sequential:
    """The convolutions of torchvision's VGG-16 with batch norm, ``[N, 3, H, W]``."""
    from torchvision.models.vgg import cfgs, make_layers

    blocks = [c if c == "M" else active_channels(c, width) for c in cfgs["D"]]
    return make_layers(blocks, batch_norm=True)


def resnet18(width: float = 1.0) -> nn.Module:
    """torchvision's ResNet-18, narrow only between the two convolutions of each block."""
    from torchvision.models import resnet
    from torchvision.models.resnet import BasicBlock

    model = resnet.resnet18(weights=None)
    for block in model.modules():
        if isinstance(block, BasicBlock):
            first, second = block.conv1, block.conv2
            k = active_channels(first.out_channels, width)
            block.conv1 = nn.Conv2d(first.in_channels, k, 3, first.stride, 1, bias=False)
            block.bn1 = nn.BatchNorm2d(k)
            block.conv2 = nn.Conv2d(k, second.out_channels, 3, padding=1, bias=False)
    return model


def three_layers(channels: int, width: float = 1.0) -> nn.Sequential:
    """A layer (``"1"``) between its neighbours: 3x3 convolution, batch norm, ReLU each."""
    k, blocks = active_channels(channels, width), []
    for c_in in (channels, k, k):
        conv = nn.Conv2d(c_in, k, 3, padding=1, bias=False)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(k), nn.ReLU(inplace=True)))
    return nn.Sequential(*blocks)


NETWORKS = {
    case.name: case
    for case in (
        Case("mcifarnet", partial(mcifarnet, 10), (3, 32, 32), {"cpu": (1, 32), "cuda": (1, 256)}),
        Case("resnet18", resnet18, (3, 224, 224), {"cpu": (1,), "cuda": (64,)}),
        Case("vgg16", vgg16, (3, 224, 224), {"cpu": (1,), "cuda": (1, 32)}),
    )
}
LAYERS = [
    Case(
        f"{channels} ch, {size}x{size}",
        partial(three_layers, channels),
        (channels, size, size),
        {"cpu": (1,), "cuda": (128,)},
        part="1",
    )
    for channels, size in (
        (64, 112), (128, 56), (256, 28), (512, 14), (512, 7), (64, 32), (128, 16), (192, 8)
    )
]  # fmt: skip


def bench(
    models: Sequence[str] | None = None,
    *,
    layers: bool = False,
    device: str = "cpu",
    batches: Sequence[int] | None = None,
    densities: Sequence[float] = DENSITIES,
    quick: bool = False,
    threads: int | None = None,
    anyway: bool = False,
    say: Callable[[str], None] = print,
) -> dict:
    """Measure; returns what ``--out`` stores: provenance, and one row a case, batch and precision.

    Args:
        models: names from `NETWORKS`. Without ``models`` and ``layers``, all networks and layers.
        batches: images at a time, instead of each case's own.
        quick: less than a minute: M-CifarNet and the small layers, densities 0.5 and 0.25, few
            rounds, nothing compiled.
        threads: of PyTorch on the CPU; None leaves them as they are.
        anyway: measure on a busy machine too, and record that it was.
        say: gets a line of progress for each row.

    Raises:
        ValueError, TypeError: an unknown name or device, bad numbers, a busy machine.
    """
    check_device(device)
    densities = (0.5, 0.25) if quick and tuple(densities) == DENSITIES else tuple(densities)
    _check(models or (), batches or (), densities, threads)
    cases = _cases(models, layers, quick)
    reason = busy(device)
    if reason and not anyway:
        raise ValueError(f"the machine is busy, {reason}: wait, or add --anyway to measure now")
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        results = _provenance(device, reason, quick) | {"densities": list(densities), "rows": []}
        results["left_out"] = left_out = {}
        began = time.monotonic()
        for precision, case, batch in _plan(cases, batches, device, quick):
            if time.monotonic() - began > TIME.get(device, inf):
                left_out[_what(case.name, batch, precision)] = f"{TIME[device]} s were over"
                continue
            try:
                for row in _rows(case, batch, device, densities, quick, precision):
                    results["rows"].append(row)
                    say(_progress(row))
            except Exception as error:  # such as too little memory on a GPU
                if device == "cpu":
                    raise
                left_out[_what(case.name, batch, precision)] = _in_a_line(error)
    finally:
        torch.set_num_threads(threads_before)
    return results


def _plan(
    cases: Sequence[Case], batches: Sequence[int] | None, device: str, quick: bool
) -> Iterator[tuple[str, Case, int]]:
    """What to measure one after the other: the precision, the case, the batch.

    What does not belong to the first precision has only its largest batch.
    """
    for i, precision in enumerate(_precisions(device)):
        for case in cases:
            own = case.batches[device]
            for batch in batches or (own[:1] if quick else own[-1:] if i else own):
                yield precision, case, batch


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check(
    models: Sequence[str],
    batches: Sequence[int],
    densities: Sequence[float],
    threads: int | None,
) -> None:
    for name in models:
        if name not in NETWORKS:
            raise ValueError(f"model must be one of {', '.join(NETWORKS)}, got {name!r}")
    if not densities:
        raise ValueError("densities must hold at least one number in (0, 1], got none")
    for density in densities:
        check_density(density)
    for name, number in [*(("batch", b) for b in batches), ("threads", threads)]:
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _cases(models: Sequence[str] | None, layers: bool, quick: bool) -> list[Case]:
    """What to measure. Quick leaves out large maps, unless a network is asked for by name."""
    everything = not models and not layers
    chosen = [NETWORKS[name] for name in (NETWORKS if everything else models or ())]
    chosen += LAYERS if everything or layers else []
    if quick:
        chosen = [c for c in chosen if c.name in (models or ()) or prod(c.shape) <= 2**16]
    return chosen


def _provenance(device: str, reason: str | None, quick: bool) -> dict:
    import torchvision

    facts = machine(device)
    facts["versions"]["torchvision"] = torchvision.__version__
    return {
        "machine": facts,
        "device": device,
        "backend": device,
        "dtype": "float32" if device == "cpu" else ", ".join(_precisions(device)),
        "busy": reason,
        "quick": quick,
        "weights": "random, seed 0; batch norms set by smooth random images: times and MACs count, "
        "accuracy does not",
        "shares": "of the best dense median; MACs of dense MACs",
        "macs_executed": "of the convolutions and linear layers that run, and the predictors",
        "efficiency": "speed-up / reduction of executed MACs = macs_share / time_share",
    }


def _rows(
    case: Case, batch: int, device: str, densities: Sequence[float], quick: bool, precision: str
) -> Iterator[dict]:
    """The measurements of one case: on CUDA kernel by kernel and as a graph."""
    if precision != "fp32":
        densities = densities[-2:]
    with _precision(precision):
        variants = variants_of(case, batch, device, densities, precision)
        executions = list(_executions(variants, device))
        if case.part or precision != "fp32":
            executions = executions[-1:]  # the graph, where there is one
        for execution, ready, missing in executions:
            compiled = {}
            if not case.part and not quick and execution == "eager" and precision == "fp32":
                ready, compiled = _with_compiled(ready)
            yield {
                "name": case.name,
                "kind": "layer" if case.part else "network",
                "batch": batch,
                "shape": list(case.shape),
                "precision": precision,
                "execution": execution,
                "skipped": missing | compiled,
                **_race(ready, device, bool(case.part), quick),
            }


def variants_of(
    case: Case, batch: int, device: str, densities: Sequence[float], precision: str = "fp32"
) -> list[Variant]:
    """Every variant of a case but the compiled one.

    Those in 16 bits are made and counted in float32, folded, and then rounded.
    """
    torch.manual_seed(0)
    dtype = DTYPES.get(precision, torch.float32)
    images = [smooth_images(batch, case.shape, device) for _ in range(INPUTS)]
    calibration = smooth_images(CALIBRATION, case.shape, device)
    plain = calibrate(case.make(1.0).to(device), calibration)
    gated = convert(plain, gates="random")
    for layer in gated_layers(gated).values():
        random_predictor(layer, GAIN)
    calibrate(gated, calibration)
    variants = list(_dense(plain, images, case.part, dtype))
    for d in densities:
        masked = calibrate(set_density(copy.deepcopy(gated), d), calibration)
        dense, ideal, overhead = count(masked, images, case.part)
        rounded = [x.to(dtype) for x in images]
        inputs = inputs_of(masked.to(dtype), rounded, case.part)
        module = masked.get_submodule(case.part)
        variants.append(Variant("masked", module, inputs, dense + overhead, d, ideal))
        fast = accelerate(masked, device)
        inputs = inputs_of(fast, rounded, case.part)
        module = fast.get_submodule(case.part)
        macs = executed_macs(module, inputs, batch)
        variants.append(Variant("accelerated", module, inputs, macs, d, ideal))
        small = calibrate(case.make(d).to(device), calibration)
        *_, nchw, nhwc = _dense(small, images, case.part, dtype)
        variants.append(replace(nhwc, kind="oracle", density=d))
        if device == "cuda":  # where either layout may be the faster one
            variants.append(replace(nchw, kind=OTHER_ORACLE, density=d))
    return variants


def _dense(
    plain: nn.Module, images: list[Tensor], part: str, dtype: torch.dtype
) -> Iterator[Variant]:
    """The plain network, or its part, in the four ways of `DENSE`."""
    macs = count(plain, images[:1], part)[0]
    inputs = [x.to(dtype) for x in inputs_of(plain, images, part)]
    as_it_is = copy.deepcopy(plain.get_submodule(part))
    nhwc = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    names = iter(DENSE)
    for module in (as_it_is, fuse(as_it_is)):  # folded before they are rounded
        yield Variant(next(names), module.to(dtype), inputs, macs)
        other = copy.deepcopy(module).to(memory_format=torch.channels_last)
        yield Variant(next(names), other, nhwc, macs)


def smooth_images(n: int, shape: tuple[int, int, int], device: str = "cpu") -> Tensor:
    """Random images in [0, 1] whose neighbouring pixels are alike, ``[n, C, H, W]``."""
    channels, height, width = shape
    coarse = torch.rand(n, channels, max(2, height // 8), max(2, width // 8)).to(device)
    return F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)


def calibrate(model: nn.Module, images: Tensor) -> nn.Module:
    """Set the statistics of every batch norm to those of ``images``; returns it in eval mode."""
    model.eval().requires_grad_(False)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # then the statistics are a mean over batches, here of one
            norm.train()
    with torch.no_grad():
        model(images)
    return model.eval()


def count(model: nn.Module, images: list[Tensor], part: str = "") -> tuple[float, float, float]:
    """MACs of one image in the part, by gates: dense, mean active, predictors."""
    reports = [count_macs(model, x) for x in images]
    layers = [x for r in reports for x in r.layers if f"{x.name}.".startswith(part and f"{part}.")]
    totals = (
        sum(x.dense for x in layers),
        sum(x.active.double().mean().item() for x in layers),
        sum(x.overhead for x in layers),
    )
    return tuple(total / len(reports) for total in totals)


def executed_macs(module: nn.Module, inputs: list, batch: int) -> float:
    """MACs of one image that an accelerated module really does, mean over the inputs.

    In a batch every image is computed with as many inputs as the one with the most needs.
    """
    in_kernels = 0  # PyTorch's counter does not see into a Triton kernel

    def add(conv: SparseConv, args: tuple, output: Compact) -> None:
        nonlocal in_kernels
        in_kernels += conv.kernel_macs(args[0], output)

    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, SparseConv)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for x in inputs:
            module(x)
    for hook in hooks:
        hook.remove()
    return (counter.get_total_flops() // 2 + in_kernels) / (len(inputs) * batch)


def inputs_of(model: nn.Module, images: list[Tensor], part: str) -> list:
    """What the part reads when the model runs on each batch; an accelerated one reads `Compact`."""
    if not part:
        return images
    seen = []
    module = model.get_submodule(part)
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(copy.deepcopy(args[0])))
    with torch.no_grad():
        for x in images:
            model(x)
    hook.remove()
    return seen


def _with_compiled(variants: list[Variant]) -> tuple[list[Variant], dict[str, str]]:
    """With the last dense variant compiled, its weights made constants; or why that failed."""
    dense = next(v for v in variants if v.kind == DENSE[-1])
    torch.compiler.reset()  # what earlier cases compiled counts against a limit
    try:
        # under inference_mode, as in the race: another mode would compile again there
        with torch.inference_mode():
            module = torch.compile(dense.module, options={"freezing": True})
            module(dense.inputs[0])
    except Exception as error:  # no compiler, no triton, a version that cannot
        return variants, {"compiled": _in_a_line(error)}
    return [*variants, replace(dense, kind="compiled", module=module)], {}


def _executions(
    variants: list[Variant], device: str
) -> Iterator[tuple[str, list[Variant], dict[str, str]]]:
    """Each way of starting the kernels: one by one, and on CUDA as a recorded graph."""
    yield "eager", variants, {}
    if device != "cuda":
        return
    from ..execution.graphs import graphed

    ready, missing = [], {}
    for v in variants:
        try:
            v = on_maps(v) if isinstance(v.inputs[0], Compact) else v
            ready.append(replace(v, module=graphed(v.module, v.inputs[0])))
        except Exception as error:  # such as a module that a graph cannot record
            missing[v.name] = _in_a_line(error)
    if any(v.kind in DENSE for v in ready):
        yield "graph", ready, missing


def on_maps(variant: Variant) -> Variant:
    """The same for a layer that reads `Compact`, with the maps alone as inputs, as graphs want.

    The inputs are then always of those channels that the first batch has.
    """
    return replace(
        variant,
        module=OnMaps(variant.module, variant.inputs[0]).eval(),
        inputs=[x.maps for x in variant.inputs],
    )


class OnMaps(nn.Module):
    """Calls a module that reads and returns `Compact`, with maps and for maps."""

    def __init__(self, module: nn.Module, like: Compact):
        super().__init__()
        self.module, self.like = module, like

    def forward(self, maps: Tensor) -> Tensor:
        y = self.module(replace(self.like, maps=maps))
        return y.maps if isinstance(y, Compact) else y


def _precisions(device: str) -> tuple[str, ...]:
    """Of the first table, and then of the second: what the GPU's tensor cores multiply."""
    if device == "cpu":
        return ("fp32",)
    newer = torch.cuda.get_device_capability() >= (8, 0)
    return ("fp32", "tf32", "bf16") if newer else ("fp32", "fp16")


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Convolutions of float32 numbers in full precision or in TF32; cuDNN tries its routines.

    Matrix products, which the predictors are, always have full precision: gates depend on them.
    """
    cudnn, matmul = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = name == "tf32", True
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before
        torch.set_float32_matmul_precision(matmul)


def _race(variants: list[Variant], device: str, layer: bool, quick: bool) -> dict:
    """Time the variants by turns; their times and MACs, absolute and as shares."""
    seconds, rounds = (1.0, 3) if quick else ROUNDS[device]
    others, began = cpu_seconds_of_others(), time.perf_counter()
    timings = race(
        {v.name: v.call() for v in variants},
        seconds,
        device,
        rounds=rounds,
        flush=layer and device == "cuda",  # inside a network, other layers have used the cache
    )
    took = time.perf_counter() - began
    if others is not None:
        others = (cpu_seconds_of_others() - others) / took
    best = min((v for v in variants if v.kind in DENSE), key=lambda v: timings[v.name].median)
    measured = []
    for v in _faster_oracles(variants, timings):
        t, base = timings[v.name], timings[best.name].median
        time_share, macs_share = t.median / base, v.macs / best.macs
        measured.append(
            {
                "variant": v.kind,
                "density": v.density,
                "median_ms": 1000 * t.median,
                "first_quartile_ms": 1000 * t.first_quartile,
                "third_quartile_ms": 1000 * t.third_quartile,
                "count": t.count,
                "time_share": time_share,
                "macs": v.macs,
                "macs_share": macs_share,
                "ideal_share": None if v.ideal is None else v.ideal / best.macs,
                "efficiency": macs_share / time_share,
            }
        )
    return {
        "dense_best": best.kind,
        "dense_macs": best.macs,
        "cores_used_by_others": others,
        "variants": measured,
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


def find(row: dict, variant: str, density: float | None = None) -> dict | None:
    """The measurement of one variant in a row of the results, None if it was skipped."""
    found = (v for v in row["variants"] if (v["variant"], v["density"]) == (variant, density))
    return next(found, None)


def _progress(row: dict) -> str:
    best = three_digits(find(row, row["dense_best"])["median_ms"])
    shares = [
        f", {v['time_share']:.2f} of it at density {v['density']:g}"
        for v in row["variants"]
        if v["variant"] == "accelerated"
    ]
    return f"{title(row)}: {row['dense_best']} {best} ms" + "".join(shares)


def title(row: dict) -> str:
    """What a row of the results measured, in a few words."""
    words = [_what(row["name"], row["batch"], row["precision"])]
    words += [row["execution"]] * (row["execution"] != "eager")
    return ", ".join(words)


def _what(name: str, batch: int, precision: str) -> str:
    return f"{name}, batch {batch}" + f", {precision}" * (precision != "fp32")


def tables(results: dict) -> str:
    """Markdown that can be read as it is: dense times, and shares of the best, in float32.

    Where other precisions were measured, the same for them; and what could not be measured.
    """
    first = [row for row in results["rows"] if row["precision"] == "fp32"]
    second = [row for row in results["rows"] if row["precision"] != "fp32"]
    parts = [_two_tables(first, results["densities"])]
    if second:
        parts += [SECOND_TABLE, _two_tables(second, results["densities"])]
    left_out = [f"{what} ({why})" for what, why in results.get("left_out", {}).items()]
    if left_out:
        parts.append(f"Not measured: {'; '.join(left_out)}.")
    return "\n\n".join(parts)


SECOND_TABLE = (
    "Second table, on tensor cores. Shares are of the best dense of the same precision. These "
    "products are so fast that reading every image's own weights takes longer than multiplying "
    "them: the roofline of notebook 08 says for which layers."
)


def _two_tables(rows: Sequence[dict], densities: Sequence[float]) -> str:
    head = ["", *(name.removeprefix("dense ") for name in DENSE), "compiled"]
    lines = []
    for row in rows:
        measured = [find(row, kind) for kind in (*DENSE, "compiled")]
        lines.append([title(row), *(_milliseconds(m) if m else "" for m in measured)])
    dense = "Dense, milliseconds a call, median (quartiles):\n\n" + _table(head, lines)
    head = ["", "density", "masked", "accelerated", "oracle", "ideal"]
    head += ["MACs executed", "oracle's MACs", "efficiency", "oracle's"]
    lines = [
        [title(row), f"{d:g}", *_shares(row, d)]
        for row in rows
        for d in densities
        if find(row, "masked", d) or find(row, "accelerated", d)
    ]
    shares = (
        "Time as a share of the best dense (not compiled), median (quartiles); MACs as a share of "
        "dense MACs; "
        "efficiency is the speed-up divided by the reduction of executed MACs:\n\n"
    )
    return f"{dense}\n\n{shares}{_table(head, lines)}"


def _shares(row: dict, density: float) -> list[str]:
    kinds = ("masked", "accelerated", "oracle")
    masked, fast, oracle = (find(row, kind, density) for kind in kinds)
    cells = [_share(row, m) if m else "" for m in (masked, fast, oracle)]
    cells.append(f"{masked['ideal_share']:.3f}" if masked else "")
    for key, form in (("macs_share", ".3f"), ("efficiency", ".2f")):
        cells += [f"{m[key]:{form}}" if m else "" for m in (fast, oracle)]
    return cells


def _share(row: dict, measured: dict) -> str:
    base = find(row, row["dense_best"])["median_ms"]
    low, high = (measured[f"{which}_quartile_ms"] / base for which in ("first", "third"))
    return f"{measured['time_share']:.3f} ({low:.3f} to {high:.3f})"


def _milliseconds(measured: dict) -> str:
    middle, low, high = (
        three_digits(measured[f"{which}_ms"])
        for which in ("median", "first_quartile", "third_quartile")
    )
    return f"{middle} ({low} to {high})"


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    lines = [head, *lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * max(3, width) for width in widths])
    widths = [max(3, width) for width in widths]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
