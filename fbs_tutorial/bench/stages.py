"""Where the time of one gated layer goes, in each way of executing it on a CPU."""

import ctypes
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..execution import accelerate, native
from ..execution.compact import Compact
from ..execution.cpu import live_places, pick
from ..execution.layers import SparseGatedConv2d, check_input, winners_and_gates, winners_of
from ..method.gated import GatedConv2d
from ..method.saliency import reduce_channels
from .timing import race
from .variants import inputs_of

STAGES = ("saliency", "predictor", "selection", "gather", "convolution", "calls")
Calls = dict[str, Callable[[], object]]


def stages(
    model: nn.Module, image: Tensor, part: str, seconds: float = 1.0
) -> dict[str, dict[str, float]]:
    """Microseconds of every stage of a gated layer, masked and accelerated.

    Every stage is timed alone, with what it reads ready; so is the whole layer. From a
    stage's time the cost of its calls is subtracted: for each call of PyTorch what adding two
    single numbers takes, or for one of the C++ kernel what a call that does nothing takes.
    ``"calls"`` is what the whole layer takes beyond all that: those calls, and the Python between
    them.

    Args:
        model: a gated network in eval mode. image: ``[N, C, H, W]``, what it reads.
        part: the name of a `GatedConv2d` in it.
        seconds: how long all of it runs, at least.

    Returns:
        ``{"mask" | "gather" | "native": {stage: microseconds}}``, the stages those of `STAGES`;
        ``"native"`` only where it can be built. The gather's convolution includes that of its maps'
        channels; the native layer has no gather, and its convolution measures the next saliency.

    Raises:
        ValueError: ``part`` is not a gated convolution, or `accelerate` cannot replace it.
    """
    ways = {"mask": (None, _masked), "gather": ("cpu", _gathered), "native": ("native", _native)}
    if not native.available():
        del ways["native"]
    kind = type(dict(model.named_modules()).get(part))
    if kind is not GatedConv2d:
        raise ValueError(f"part must name a GatedConv2d, got {part!r}, which is a {kind.__name__}")
    with torch.inference_mode():
        timed = {}
        for way, (backend, divide) in ways.items():
            net = model if backend is None else accelerate(model, backend, check=False)
            layer, x = net.get_submodule(part), inputs_of(net, [image], part)[0]
            if backend is not None and type(layer) is not SparseGatedConv2d:
                raise ValueError(f"part must name a layer that can be replaced, got {part!r}")
            if backend is not None:
                x = check_input(layer, x, layer.in_channels)
            timed[way] = {"whole": lambda layer=layer, x=x: layer(x), **divide(layer, x)}
        return _divided(timed, seconds)


def _divided(timed: Mapping[str, Calls], seconds: float) -> dict[str, dict[str, float]]:
    """Race everything; the stages' microseconds, their calls apart."""
    one, nothing = torch.ones(1), native.library().lanes if "native" in timed else None
    prices = {"PyTorch": lambda: one + one, "kernel": nothing or (lambda: None)}
    flat = {(way, name): call for way, calls in timed.items() for name, call in calls.items()}
    times = race(flat | prices, seconds)
    found = {}
    for way, calls in timed.items():
        took = {name: 1e6 * times[way, name].median for name in calls}
        for name, call in calls.items():
            kernel = way == "native" and name != "whole"
            price = times["kernel" if kernel else "PyTorch"].median
            took[name] -= 0 if name == "whole" else 1e6 * price * (1 if kernel else operators(call))
        if "gather" in took:
            took["convolution"] -= took["gather"]
        whole = took.pop("whole")
        parts = {stage: max(0.0, took.get(stage, 0.0)) for stage in STAGES[:-1]}
        found[way] = parts | {"calls": max(0.0, whole - sum(parts.values()))}
    return found


def operators(call: Callable[[], object]) -> int:
    """How many operators of PyTorch run in a call."""

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    with Counter() as counter:
        call()
    return counter.count


def _masked(layer: GatedConv2d, x: Tensor) -> Calls:
    s = reduce_channels(x, layer.reduce)
    g = layer.predict(s)
    pi = layer.select(g)

    def convolve() -> Tensor:
        y = pi[:, :, None, None] * (layer.normalize(layer.conv(x)) + layer.beta[:, None, None])
        if isinstance(layer.activation, nn.Module):
            return layer.activation(y)
        return y.relu() if layer.activation else y

    return {
        "saliency": lambda: reduce_channels(x, layer.reduce),
        "predictor": lambda: layer.predict(s),
        "selection": lambda: layer.select(g),
        "convolution": convolve,
    }


def _gathered(layer: SparseGatedConv2d, x: Compact) -> Calls:
    """Its convolution includes the gather, see `_divided`."""
    conv, s = layer.conv, x.saliency(layer.reduce)
    every = x.among_all(s)
    g = layer.predict(every)
    winners, pi = winners_and_gates(layer, g)

    def gather() -> None:
        live, channels = live_places(s), x.channels
        if live is not None:
            pick(x.maps, live)
            channels = live if channels is None else channels.gather(1, live)
        conv.gather_kernels(winners, channels)
        conv.bias.index_select(0, winners.flatten())

    return {
        "saliency": lambda: x.among_all(x.saliency(layer.reduce)),
        "predictor": lambda: layer.predict(every),
        "selection": lambda: winners_and_gates(layer, g),
        "gather": gather,
        "convolution": lambda: conv(x, s, winners, pi, layer.activation is True),
    }


def _native(layer: SparseGatedConv2d, x: Compact) -> Calls:
    """The calls that ``layer`` of native.cpp makes, one by one."""
    lib, conv, threads = native.library(), layer.conv, torch.get_num_threads()
    made, p, n = conv.made or conv.make(layer), native.Planes.of(x), len(x)
    k = winners_of(layer.out_channels, layer.density)
    channels, g = torch.empty(n, k, dtype=torch.int64), torch.empty(n, layer.out_channels)
    y, ready = conv.room_for(p, k, channels, made.relu)
    pi = torch.empty(n, k)
    at, seen, to, keep = made.at, ctypes.byref(p.c), ctypes.byref(y.c), (p, y, channels)
    calls = {
        "predictor": lambda: lib.predict_all(at, seen, g.data_ptr(), threads),
        "selection": lambda: lib.choose_all(at, to, g.data_ptr(), pi.data_ptr(), threads),
        "convolution": lambda: keep and lib.convolve(at, seen, to, pi.data_ptr(), ready, threads),
    }
    if not p.measured:
        calls = {"saliency": lambda: lib.measure_all(seen, threads)} | calls
    for call in calls.values():  # so that each finds what the one before leaves
        call()
    return calls
