"""The ways in which a case is executed: dense, masked, accelerated, native, oracle, compiled.

Each `Variant` holds a module, its inputs and what one image costs so.
"""

import copy
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from ..execution import accelerate, native
from ..execution.compact import Compact
from ..execution.layers import SparseConv
from ..method.convert import convert, random_predictor
from ..method.gated import gated_layers, is_gated, set_density
from ..method.graph import trace
from ..method.macs import count_macs
from .cases import Case, fit_norms
from .timing import NEVER, Deadline

GAIN = 0.1  # of the random predictors: larger gates would grow from layer to layer and overflow
INPUTS = 4  # batches that every variant goes round, so that its winners change from call to call
CALIBRATION = 8  # images that set the batch norms' statistics
DENSE = ("dense", "dense channels_last", "dense folded", "dense folded channels_last")
OTHER_ORACLE = "oracle in the other layout"  # the slower of the two is not recorded
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # of maps and weights; else float32


@dataclass(frozen=True)
class Variant:
    """One way of executing a case. ``macs``: what one image costs so; ``ideal``: MACs by gates."""

    kind: str
    module: nn.Module
    inputs: list
    macs: float
    density: float | None = None
    ideal: float | None = None
    graph: bool = False  # the module is a recorded graph, see `graphed`

    @property
    def name(self) -> str:
        return self.kind if self.density is None else f"{self.kind} {self.density:g}"

    def call(self) -> Callable[[], object]:
        """A function that runs the module on its inputs, one after the other, for ever."""
        turn = itertools.cycle(self.inputs)
        if self.graph:
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


def variants_of(
    case: Case,
    batch: int,
    device: str,
    densities: Sequence[float],
    precision: str = "fp32",
    deadline: Deadline = NEVER,
) -> list[Variant]:
    """Every variant of a case but the compiled one.

    Those in 16 bits are made and counted in float32, folded, and then rounded.

    Raises:
        TimeOverError: the deadline has passed before one of the densities.
    """
    torch.manual_seed(0)
    dtype = DTYPES.get(precision, torch.float32)
    images = case.inputs(batch, INPUTS, device)
    calibration = case.inputs(CALIBRATION, 1, device)[0]
    plain = _plain(case, calibration)
    variants = list(_dense(plain, images, case.part, dtype))
    gated = _gated(case, plain, calibration) if densities else None
    for d in densities:
        deadline.check()
        masked = set_density(copy.deepcopy(gated), d)
        if gated is not case.network:
            fit_norms(masked, calibration)
        dense, ideal, overhead = count(masked, images, case.part)
        rounded = [x.to(dtype) for x in images]
        inputs = inputs_of(masked.to(dtype), rounded, case.part)
        module = masked.get_submodule(case.part)
        variants.append(Variant("masked", module, inputs, dense + overhead, d, ideal))
        for kind, backend in executing(device):
            fast = accelerate(masked, backend)
            inputs = inputs_of(fast, rounded, case.part)
            module = fast.get_submodule(case.part)
            for conv in module.modules():
                if case.part and isinstance(conv, native.NativeConv):
                    conv.chooses = False  # of a layer, the kernel itself; networks choose
            macs = executed_macs(module, inputs, batch)
            variants.append(Variant(kind, module, inputs, macs, d, ideal))
        if not case.narrow:
            continue
        small = fit_norms(case.make(d).to(device), calibration)
        *_, nchw, nhwc = _dense(small, images, case.part, dtype)
        variants.append(replace(nhwc, kind="oracle", density=d))
        if device == "cuda":  # where either layout may be the faster one
            variants.append(replace(nchw, kind=OTHER_ORACLE, density=d))
    return variants


def executing(device: str) -> list[tuple[str, str]]:
    """The kinds of variants that skip on a device, and the backend of each."""
    native_too = device == "cpu" and native.available()
    return [("accelerated", device)] + [("native", "native")] * native_too


def _plain(case: Case, calibration: Tensor) -> nn.Module:
    """The network of the case if it has no gates, else a plain one whose norms fit these images."""
    own = case.network
    if own is not None and not is_gated(own):
        return own.to(calibration.device).eval().requires_grad_(False)
    return fit_norms(case.make(1.0).to(calibration.device), calibration)


def _gated(case: Case, plain: nn.Module, calibration: Tensor) -> nn.Module:
    """The network of the case if it has gates, else ``plain`` with random ones."""
    own = case.network
    if own is not None and is_gated(own):
        return own.to(calibration.device).eval().requires_grad_(False)
    gated = convert(plain, gates="random")
    for layer in gated_layers(gated).values():
        random_predictor(layer, GAIN)
    return fit_norms(gated, calibration)


def _dense(
    plain: nn.Module, images: list[Tensor], part: str, dtype: torch.dtype
) -> Iterator[Variant]:
    """The plain network, or its part, in the ways of `DENSE`; two if its norms stay unfolded."""
    macs = count(plain, images[:1], part)[0]
    inputs = [x.to(dtype) for x in inputs_of(plain, images, part)]
    as_it_is = copy.deepcopy(plain.get_submodule(part))
    nhwc = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    names = iter(DENSE)
    for module in (as_it_is, *folded(as_it_is)):  # folded before they are rounded
        yield Variant(next(names), module.to(dtype), inputs, macs)
        other = copy.deepcopy(module).to(memory_format=torch.channels_last)
        yield Variant(next(names), other, nhwc, macs)


def fold(module: nn.Module) -> nn.Module:
    """A copy with batch norms folded into the convolutions, in eval mode.

    Raises:
        ValueError: the data in it cannot be followed; the message says why.
    """
    module = copy.deepcopy(module).eval()
    try:
        return fuse(fx.GraphModule(module, trace(module)), inplace=True, no_trace=True)
    except Exception as error:  # tracing raises many kinds
        text = "module must be one whose norms can be folded"
        raise ValueError(f"{text}, got {type(module).__name__}: {error}") from error


def folded(module: nn.Module) -> list[nn.Module]:
    """What `fold` makes of it; none where its data cannot be followed."""
    try:
        return [fold(module)]
    except ValueError:
        return []


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
        in_kernels += conv.uncounted_macs(args[0], output)

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


def with_compiled(variants: list[Variant]) -> tuple[list[Variant], dict[str, str]]:
    """With the last dense variant compiled, its weights made constants; or why that failed."""
    dense = [v for v in variants if v.kind in DENSE][-1]
    torch.compiler.reset()  # what earlier cases compiled counts against a limit
    try:
        # under inference_mode, as in the race: another mode would compile again there
        with torch.inference_mode():
            module = torch.compile(dense.module, options={"freezing": True})
            module(dense.inputs[0])
    except Exception as error:  # no compiler, no triton, a version that cannot
        return variants, {"compiled": in_a_line(error)}
    return [*variants, replace(dense, kind="compiled", module=module)], {}


def in_a_line(error: Exception) -> str:
    """What went wrong, for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def executions(
    variants: list[Variant], device: str, deadline: Deadline = NEVER
) -> Iterator[tuple[str, list[Variant], dict[str, str]]]:
    """Each way of starting the kernels: one by one, and on CUDA as a recorded graph.

    Raises:
        TimeOverError: the deadline has passed before one of the graphs is recorded.
    """
    yield "eager", variants, {}
    if device != "cuda":
        return
    from ..execution.graphs import graphed

    ready, missing = [], {}
    for v in variants:
        deadline.check()
        try:
            v = on_maps(v) if isinstance(v.inputs[0], Compact) else v
            ready.append(replace(v, module=graphed(v.module, v.inputs[0]), graph=True))
        except Exception as error:  # such as a module that a graph cannot record
            missing[v.name] = in_a_line(error)
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
        like = self.like
        y = self.module(Compact(maps, like.channels, like.shape[1], like.nonnegative))
        return y.maps if isinstance(y, Compact) else y


def compile_kernels(
    plan: Sequence[tuple[str, Case, int]], densities: Sequence[float], seconds: float = inf
) -> None:
    """Let several processes compile Triton's kernels, which it keeps in files, all at once.

    After so many seconds they are ended; what they had no time for is compiled when it is measured.
    """
    jobs = [(*job, density) for job in plan for density in densities if not job[1].part]
    workers = min(len(jobs), (os.cpu_count() or 1) // 2, 8)
    if workers < 2:
        return
    run_for(jobs, run_once, workers, seconds)


def run_for(jobs: Sequence[tuple], work: Callable, workers: int, seconds: float) -> None:
    """``work(*job)`` for each job, in processes that are ended when the time is over.

    What fails fails silently: it fails again, and is recorded, when it is measured.
    """
    others, context = set(multiprocessing.active_children()), multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    wanted = [pool.submit(work, *job) for job in jobs]
    busy = wait(wanted, None if seconds == inf else max(0.0, seconds)).not_done
    pool.shutdown(wait=not busy, cancel_futures=True)
    for process in set(multiprocessing.active_children()) - others if busy else ():
        process.terminate()


def run_once(precision: str, case: Case, batch: int, density: float) -> None:
    """Run an accelerated network on images of the sizes that will be measured."""
    gated = set_density(convert(case.make(1.0), gates="random"), density).cuda().eval()
    dtype = DTYPES.get(precision, torch.float32)
    images = torch.rand(batch, *case.shape, device="cuda").to(dtype)
    with precision_of(precision), torch.no_grad():
        torch.backends.cudnn.benchmark = False
        accelerate(gated.to(dtype))(images)
        torch.cuda.synchronize()


def precisions(device: str) -> tuple[str, ...]:
    """Of the first table, and then of the second: what the GPU's tensor cores multiply."""
    if device == "cpu":
        return ("fp32",)
    newer = torch.cuda.get_device_capability() >= (8, 0)
    return ("fp32", "tf32", "bf16") if newer else ("fp32", "fp16")


@contextmanager
def precision_of(name: str) -> Iterator[None]:
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
