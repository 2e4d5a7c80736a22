"""What `accelerate` made is compared with the masked network, once, on the first image it gets."""

import copy
import dataclasses
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..method.gated import Gated, GatedConv2d
from ..method.graph import exchange, memo_of
from ..method.liveness import winners
from ..method.vouch import gated_parts
from .compact import Compact
from .layers import SparseConv2d, SparseGatedConv2d

# By dtype, how far an output may be off, as a share of the largest; and in TF32.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
TF32_TOLERANCE = 5e-3
ROUNDED_ELSEWHERE = 0.01  # share of whole numbers, such as classes of pixels, that may differ
DIFFERS = "gives other outputs than in the masked network"
ATTEMPTS = 2  # to compare on images that the masked network refuses

Inputs = tuple[tuple, dict[str, Any]]


class SelfCheck:
    """A forward pre-hook that compares an accelerated network with its masked form before it runs
    for the first time, and lets run masked what differs.

    The masked form has the weights that the network has at that moment. It is made of the modules
    that were replaced, which keep their settings and lose their weights here.

    Args:
        model: the network.
        replaced: ``{module that is gone: module in its place}``.
    """

    def __init__(self, model: nn.Module, replaced: dict[nn.Module, nn.Module]):
        self.replaced = replaced
        for old, new in replaced.items():
            take_weights(old)
            if new is model:
                vars(model)["forward"] = Switch(model)
        self.attempts = ATTEMPTS  # that are left
        self.done, self.lock = False, threading.Lock()

    def __getstate__(self) -> dict:
        return {**vars(self), "lock": None}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, lock=threading.Lock())

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self.done and can_be_compared(model, args, kwargs):
            with self.lock:
                if not self.done:
                    self.check(model, (args, kwargs))

    def check(self, model: nn.Module, inputs: Inputs) -> None:
        """Compare, and put masked modules in the place of those that differ, until none does."""
        self.attempts -= 1
        differing: dict[str, str] = {}
        while (found := elsewhere(inputs, lambda: self.compare(model, inputs))) is not None:
            name, how = found
            if not self.mask(model, name):
                break
            differing[name] = how
        if not self.attempts:
            self.done, self.replaced = True, {}
        for name, how in differing.items():
            warnings.warn(
                f"accelerate runs {name or 'the network'} masked: on the first image it {how} "
                "(check=False would not have looked)",
                stacklevel=6,
            )

    def compare(self, model: nn.Module, inputs: Inputs) -> tuple[str, str] | None:
        """The module that differs, and how; None if none does, or nothing can be said."""
        for images in (1, None):
            fast, masked = self.run(model, inputs, images)
            if masked.error is None:
                self.attempts = 0
                if fast.error is None and not differ(fast.output, masked.output, model):
                    return None
                fast, masked = self.run(model, inputs, images, keep=True)
                name, how = first_difference(fast, masked, model)
                return self.executed(model, name), how
        return None

    def run(
        self, model: nn.Module, inputs: Inputs, images: int | None, keep: bool = False
    ) -> tuple["Run", "Run"]:
        """The accelerated network and the masked one with the same winners, on these images."""
        runs: list[Run] = []
        devices = [x.device for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.is_cuda]
        for masked in (False, True):
            run = Run(keep, runs[0].winners if masked else None)
            with torch.random.fork_rng(devices[:1]):  # a network that draws numbers draws the same
                run(self.twin(model, masked), *take(inputs, images), images)
            runs.append(run)
        return tuple(runs)

    def twin(self, model: nn.Module, masked: bool) -> nn.Module:
        """A copy with the same weights and without hooks, which may have effects elsewhere."""
        shared = [*model.parameters(), *(b for m in self.replaced.values() for b in m.buffers())]
        shared.append(vars(model).get("outline"))  # which runs nothing
        twin, replaced = copy.deepcopy((model, self.replaced), memo_of(model, shared))
        for module in twin.modules():
            module._forward_hooks.clear(), module._forward_pre_hooks.clear()
        for old, new in replaced.items() if masked else ():
            give_weights(old, new)
        if masked:
            twin = exchange(twin, {new: old for old, new in replaced.items()})
        return twin.eval()

    def executed(self, model: nn.Module, name: str) -> str:
        """The innermost module around ``name`` in which something is executed differently."""
        executing = set(self.replaced.values())
        while name and executing.isdisjoint(model.get_submodule(name).modules()):
            name = name.rpartition(".")[0]
        return name

    def mask(self, model: nn.Module, name: str) -> bool:
        """Put masked modules in the place of all that execute inside ``name``, if any do."""
        inside = set(model.get_submodule(name).modules())
        pairs = {old: new for old, new in self.replaced.items() if new in inside}
        with torch.inference_mode(False):
            for old, new in pairs.items():
                give_weights(old, new)
                if new is model:
                    model.forward.masked = old
                del self.replaced[old]
        exchange(model, {new: old for old, new in pairs.items()})
        return bool(pairs)


class Switch:
    """The ``forward`` of a layer that is a network by itself: its own, or that of its masked form.

    Such a layer cannot be replaced, because whoever called `accelerate` has it.
    """

    def __init__(self, layer: Gated):
        self.layer, self.masked = layer, None

    def __call__(self, x: Tensor) -> Tensor:
        layer, masked = self.layer, self.masked
        if masked is None:
            return type(layer).forward(layer, x)
        masked.take_density(layer.density)
        masked.forced = layer.forced
        y = masked(x)
        layer.saliency, layer.gate = masked.saliency, masked.gate
        return y


# Weights of what was replaced


def take_weights(old: nn.Module) -> None:
    """Leave its settings alone in a module that was replaced."""
    parts = [old, old.conv, old.norm] if isinstance(old, GatedConv2d) else [old]
    for part in parts:
        part._parameters.update(dict.fromkeys(part._parameters))
        part._buffers.update(dict.fromkeys(part._buffers))


def give_weights(old: nn.Module, new: nn.Module) -> None:
    """Let a module that was replaced compute, by its own code, what ``new`` should.

    Batch norm is part of the weights of ``new``, so what it does to them is nothing.
    """

    def fixed(weight: Tensor) -> nn.Parameter:
        return nn.Parameter(weight, requires_grad=False)

    if isinstance(old, GatedConv2d):
        old.conv.weight, old.beta = fixed(new.conv.weight), fixed(new.conv.bias)
        old.norm.eps = 0.0
        old.norm.running_mean = torch.zeros_like(new.conv.bias)
        old.norm.running_var = torch.ones_like(new.conv.bias)
        if (densities := getattr(new, "stored_densities", None)) is not None:
            old.beta = fixed(torch.zeros_like(new.conv.bias))
            old.store_statistics(densities, -new.stored_biases, new.stored_ratios**-2)
    elif isinstance(old, nn.Conv2d):
        bias = new.conv.bias.to(new.conv.weight.dtype)
        old.weight, old.bias = fixed(new.conv.weight), fixed(bias) if bias.any() else None
    elif isinstance(old, nn.Linear):
        old.weight, old.bias = fixed(new.weight), new.bias
    if isinstance(old, Gated):
        old.predictor, old.forced = new.predictor, new.forced
        old.take_density(new.density)
    old.eval()


# Runs


@dataclass
class Run:
    """One run of a network: its output or the error, and what is wanted of its layers.

    Args:
        keep: whether to keep the output of every module.
        forced: the winners that gated layers get at their calls, by name; None: their own.
    """

    keep: bool
    forced: dict[str, list[Tensor]] | None
    winners: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    outputs: list[tuple[str, list[Tensor]]] = field(
        default_factory=list
    )  # in the order they are done
    running: list[str] = field(default_factory=list)
    output: list[Tensor] = field(default_factory=list)
    error: Exception | None = None

    def __call__(self, model: nn.Module, args: tuple, kwargs: dict, images: int | None) -> None:
        # inside these an accelerated network does other things
        parts = gated_parts(model, (GatedConv2d, SparseGatedConv2d, SparseConv2d))
        for name, module in model.named_modules():
            if isinstance(module, Gated):
                self.watch_gate(name, module, images)
            if self.keep and module not in parts:
                module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name))
                module.register_forward_hook(lambda _, __, y, name=name: self.done(name, y))
        try:
            self.output = contents(model(*args, **kwargs))
        except Exception as error:
            self.error = error

    def watch_gate(self, name: str, gate: Gated, images: int | None) -> None:
        """Hand its winners on, or take them, at every call."""
        of_batch = isinstance(gate.density, Tensor)
        gate.take_density(gate.density[:images] if of_batch else gate.density)
        if gate.forced is not None:
            gate.forced = gate.forced[:images]
        elif self.forced is None:
            gate.register_forward_hook(lambda *_: self.winners[name].append(winners(gate)))
        else:
            left = iter(self.forced.get(name, []))
            gate.register_forward_pre_hook(lambda *_: setattr(gate, "forced", next(left, None)))

    def done(self, name: str, y: Any) -> None:
        self.running.pop()
        self.outputs.append((name, contents(y)))


def contents(y: Any) -> list[Tensor]:
    """Copies of all tensors in an output, ordinary ones; `Compact` ones stay what they are."""
    if dataclasses.is_dataclass(y) and not isinstance(y, type):
        y = vars(y)
    leaves = tree_leaves(dict(y) if isinstance(y, Mapping) else y)
    if len(leaves) == 1 and leaves[0] is y:
        if not isinstance(y, Tensor):
            return []
        return [(y.dense() if isinstance(y, Compact) else y).detach().clone()]
    return [tensor for leaf in leaves for tensor in contents(leaf)]


def take(inputs: Inputs, images: int | None) -> Inputs:
    """The first images of all that is a batch of the same size; None: all."""
    count = len(next(x for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.ndim))

    def some(x: Tensor) -> Tensor:
        x = x.detach()
        return (x[:images] if x.ndim and len(x) == count else x).clone()

    return tree_map_only(Tensor, some, inputs)


def can_be_compared(model: nn.Module, args: tuple, kwargs: dict) -> bool:
    """True for ordinary tensors in an ordinary call: not while something records or compiles."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    images = next((x for x in tensors if x.ndim), None)
    if images is None or not len(images) or model.training or hasattr(model, "_is_replica"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if images.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    plain = Tensor.__torch_dispatch__
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return all(type(x).__torch_dispatch__ == plain and not wrapped(x) for x in tensors)


def elsewhere(inputs: Inputs, function: Callable[[], Any]) -> Any:
    """``function()`` in a thread of its own, where no dispatch mode and no profiler looks.

    What decides about numbers is there as it is here.
    """
    images = next(x for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.ndim)
    kind, inference = images.device.type, torch.is_inference_mode_enabled()
    autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    stream = torch.cuda.current_stream(images.device) if images.is_cuda else None

    @contextmanager
    def as_here() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode() if inference else torch.no_grad())
            stack.enter_context(torch.autocast(kind, enabled=autocast[0], dtype=autocast[1]))
            if stream is not None:
                stack.enter_context(torch.cuda.device(images.device))
                stack.enter_context(torch.cuda.stream(stream))
            yield

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(as_here()(function)).result()


# Comparing


def first_difference(fast: Run, masked: Run, model: nn.Module) -> tuple[str, str]:
    """The first module to be done with another output, or that did not get done; and how."""
    if fast.error is not None:
        return fast.running[-1] if fast.running else "", f"raises {fast.error!r}"
    outputs = defaultdict(list)
    for name, y in masked.outputs:
        outputs[name].append(y)
    for name, y in fast.outputs:
        if outputs[name] and differ(y, outputs[name].pop(0), model):
            return name, DIFFERS
    return "", DIFFERS


def differ(y: list[Tensor], expected: list[Tensor], model: nn.Module) -> bool:
    """True unless there are as many tensors, with the same shapes and values, but for rounding."""
    if len(y) != len(expected):
        return True
    pairs = zip(y, expected, strict=True)
    return any(far(a, b, tolerance_of(model, b)) for a, b in pairs)


def far(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    """True if two tensors are not the same but for rounding; NaN is equal to NaN."""
    if y.shape != expected.shape:
        return True
    if not expected.is_floating_point():
        return bool((y != expected).double().mean() > ROUNDED_ELSEWHERE)
    y, expected = y.double(), expected.double()
    usual = expected.isfinite()
    same = (y == expected) | (y.isnan() & expected.isnan())
    largest = torch.where(usual, expected, 0.0).abs().amax() if expected.numel() else 0.0
    near = usual & ((y - expected).abs() <= tolerance * largest)
    return not bool((same | near).all())


def tolerance_of(model: nn.Module, y: Tensor) -> float:
    """The largest tolerance of all dtypes that numbers have on their way to ``y``."""
    dtypes = {x.dtype for x in [*model.parameters(), *model.buffers(), y]}
    if torch.is_autocast_enabled(y.device.type):
        dtypes.add(torch.get_autocast_dtype(y.device.type))
    largest = max(TOLERANCES.get(dtype, 0.0) for dtype in dtypes)
    if y.is_cuda and torch.float32 in dtypes:
        largest = max(largest, TF32_TOLERANCE)
    return largest
