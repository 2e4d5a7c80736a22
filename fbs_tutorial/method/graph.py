"""The data flow of a network: which operations it is made of, and what follows what.

`convert`, `count_macs` and `accelerate` all judge a network with the tables of this file; which
entries can be other than 0 is in `liveness.py`. The flow is traced with ``torch.fx``: a graph with
one node for each operation.
"""

import linecache
import operator
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .gated import ChannelPruning, Gated

# The tables of operations. A module is known by its type, a function by itself, a method by its
# name. What is in no table is unknown, and nothing is concluded about what it makes.


def _named(names: str) -> set:
    """Each name as an operator, as functions of ``torch`` and ``F``, and as a tensor's method."""
    found = set(names.split())
    for name in names.split():
        for space in (torch, F, operator):
            found.add(getattr(space, name, name))
    return found


# Modules whose output entry depends on the input entry in the same place alone.
ELEMENTWISE_MODULES = {
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Tanh),
    *(nn.Softsign, nn.Threshold, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus),
}
# The same as functions and methods; a number may be among their arguments.
ACTIVATIONS = _named(
    "relu relu_ relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh hardshrink "
    "softshrink tanhshrink tanh softsign threshold sigmoid hardsigmoid softplus "
    "dropout dropout2d clamp clamp_ clip abs square"
)
ELEMENTWISE = (ELEMENTWISE_MODULES | ACTIVATIONS) | _named(
    "neg pos sqrt sign exp log1p expm1 pow div divide true_divide truediv itruediv "
    "contiguous clone detach to float double half bfloat16 type"
)

# What works on the map of each channel alone, and leaves a map of zeros one of zeros.
CHANNEL_MAP_MODULES = {
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
}
CHANNEL_MAPS = CHANNEL_MAP_MODULES | _named(
    "max_pool2d avg_pool2d adaptive_max_pool2d adaptive_avg_pool2d lp_pool2d interpolate upsample"
)

# What moves entries to other places, or adds or averages some of them.
MOVES = {
    *(nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
} | _named(
    "view reshape flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze "
    "chunk split tensor_split unbind getitem select narrow index_select "
    "cat concat concatenate stack roll flip expand expand_as view_as reshape_as repeat tile "
    "repeat_interleave channel_shuffle pixel_shuffle pixel_unshuffle pad mean sum amax"
)

# Entry by entry, of two.
SUMS = _named("add add_ iadd sub sub_ isub subtract maximum minimum")
PRODUCTS = _named("mul mul_ imul multiply")

# What makes an output channel of the input channel of the same index alone, and finite numbers of
# 0: the losing channels of what comes before it may as well be 0.
CHANNELWISE = (
    ELEMENTWISE_MODULES
    | CHANNEL_MAP_MODULES
    | {nn.BatchNorm2d, nn.InstanceNorm2d}
    | _named("add iadd relu relu_ relu6 gelu silu hardswish leaky_relu")
)


# Following the data


class UntraceableError(ValueError):
    """``torch.fx`` cannot follow the data; ``where`` names the line that stopped it."""

    def __init__(self, error: Exception):
        self.where = _line_that_stopped(error)
        super().__init__(
            f"torch.fx cannot follow the data through model: {error} ({self.where}). "
            "Put the layers before and after that line into modules of their own, such as "
            "nn.Sequential: each part that can be followed is then analysed alone"
        )


def _line_that_stopped(error: Exception) -> str:
    """The innermost line of the model's own code in the traceback of ``error``."""
    own = (Path(torch.__file__).parent, Path(__file__))
    place = "no line of the model's own"
    for frame, number in traceback.walk_tb(error.__traceback__):
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if any(Path(file).is_relative_to(path) for path in own):
            continue
        of = type(frame.f_locals["self"]).__name__ + "." if "self" in frame.f_locals else ""
        code = linecache.getline(file, number).strip()
        place = f"{Path(file).name}, line {number}, in {of}{name}: {code}"
    return place


class _Proxy(fx.Proxy):
    """Records ``x += y`` and ``x[i] = y`` as they are, in place; fx would make a new ``x + y``."""


def _recorded(operation: Callable) -> Callable:
    """A method of `_Proxy` that makes a node of this operation."""

    def record(self: fx.Proxy, *args: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, *args), {})

    return record


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "setitem"):
    setattr(_Proxy, f"__{_name}__", _recorded(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Not looked into: gated layers, layers that are counted, PyTorch's own, and what has
        hooks, which are written for tensors."""
        if isinstance(module, Gated) or is_counted(module) or hooked(module):
            return True
        return super().is_leaf_module(module, name)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """As in fx, but an argument with a default keeps it: the model is followed as it is called
        with its required arguments."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        if function is not root_fn:  # has *args or arguments by keyword only
            return function, args
        with_default = [a for a in args if isinstance(a, fx.Proxy) and a.node.args]
        for argument in with_default:
            self.graph.erase_node(argument.node)
        return function, args[: len(args) - len(with_default)]


def trace(model: nn.Module) -> fx.Graph:
    """The data flow of ``model`` as it is called, in the mode that it is in.

    Gated layers, PyTorch's and modules with hooks are single nodes.

    Raises:
        UntraceableError: (a ValueError) the flow depends on values, so that it cannot be followed.
    """
    try:
        return _Tracer().trace(model)
    except Exception as error:  # fx raises many kinds, from inside the model's own code
        raise UntraceableError(error) from error


def hooked(module: nn.Module) -> bool:
    """True if the module has hooks, so that it may do something else than its type says."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_counted(module: nn.Module) -> bool:
    """True for layers whose multiplications count: convolutions, linear layers, and what has
    ``kept_pairs`` (see `macs.py`)."""
    return isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, "kept_pairs")


@dataclass
class Parts:
    """The largest parts of a network that can be followed, and what stopped the rest."""

    graphs: dict[nn.Module, fx.Graph]
    stopped: list[UntraceableError]

    def stopped_at(self) -> str:
        """The lines that stopped ``torch.fx``, in one sentence."""
        lines = dict.fromkeys(error.where for error in self.stopped)
        return f"torch.fx cannot follow the data past {'; '.join(lines)}"


def traceable_parts(model: nn.Module, *, blocks: bool = False) -> Parts:
    """``model`` itself if it can be traced, else its largest children that can.

    A module with hooks is a part of its own: what comes out of it may be anything. With ``blocks``
    so are the insides of `ChannelPruning` layers.
    """
    parts = Parts({}, [])

    def visit(module: nn.Module) -> None:
        if isinstance(module, ChannelPruning) and blocks:
            module = module.block
        if module in parts.graphs or _is_one_piece(module):
            return
        inside = list(module.children())
        if type(module).forward is not nn.Module.forward:  # which an nn.ModuleList lacks
            try:
                parts.graphs[module] = graph = trace(module)
                inside = list(_modules_called(module, graph).values())
            except UntraceableError as error:
                parts.stopped.append(error)
        for child in inside:
            visit(child)

    visit(model)
    return parts


def _is_one_piece(module: nn.Module) -> bool:
    """True for what has no parts of its own to follow: layers, and PyTorch's own modules."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    pytorchs = type(module).__module__.startswith("torch.") and not isinstance(module, containers)
    return isinstance(module, Gated) or is_counted(module) or pytorchs


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` in the place of ``old``, under every name that it has; returns the model."""
    if old is model:
        return new
    names = [n for n, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in names:
        model.set_submodule(name, new)
    return model


# What follows what


Chain = tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU | nn.ReLU6 | None]


def chains(parts: Parts) -> list[Chain]:
    """The convolutions that only a batch norm reads, each with that norm.

    Third in a chain is the ReLU or ReLU6 that alone reads the norm, or None. Each of the modules
    runs once, has no hooks, and the model's own code reads none of their weights.
    """
    read = read_directly(parts)
    modules = {n: m for part in parts.graphs.items() for n, m in _modules_called(*part).items()}
    runs = Counter(modules.values())

    def alone(module: nn.Module, *kinds: type) -> bool:
        """True if it is of these kinds, runs once, and does and is no more than that says."""
        plain = type(module) in kinds and not hooked(module)
        return plain and runs[module] == 1 and read.isdisjoint(module.modules())

    def sole_reader(node: fx.Node, *kinds: type) -> fx.Node | None:
        """The one node that reads ``node``, if it runs a module that is `alone`."""
        readers = list(node.users)
        if len(readers) != 1 or readers[0] not in modules:
            return None
        return readers[0] if alone(modules[readers[0]], *kinds) else None

    found = []
    for node, conv in modules.items():
        norm = sole_reader(node, nn.BatchNorm2d) if alone(conv, nn.Conv2d) else None
        if norm is not None:
            act = sole_reader(norm, nn.ReLU, nn.ReLU6)
            found.append((conv, modules[norm], modules.get(act)))
    return found


def read_directly(parts: Parts) -> set[nn.Module]:
    """The modules whose weights other code reads than their own."""
    return {
        part.get_submodule(node.target.rpartition(".")[0])
        for part, graph in parts.graphs.items()
        for node in graph.nodes
        if node.op == "get_attr" and "." in node.target
    }


def _modules_called(part: nn.Module, graph: fx.Graph) -> dict[fx.Node, nn.Module]:
    """The nodes that run a module, each with it."""
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    return {node: part.get_submodule(node.target) for node in nodes}


def last_convolution(block: ChannelPruning) -> nn.Conv2d | None:
    """The one convolution of a block whose losing channels need not be computed, if there is one.

    It is the last to run, runs once, and all that follows works channel by channel.
    """
    try:
        nodes = list(trace(block.block).nodes)
    except UntraceableError:
        return None
    modules = [block.block.get_submodule(n.target) if n.op == "call_module" else n for n in nodes]
    for node, module in reversed(list(zip(nodes, modules, strict=True))):
        if type(module) is nn.Conv2d:
            fits = module.out_channels == block.out_channels and not hooked(block.block)
            return module if fits and modules.count(module) == 1 else None
        known = (type(module) if node.op == "call_module" else node.target) in CHANNELWISE
        if node.op != "output" and (not known or (node.op == "call_module" and hooked(module))):
            return None
    return None
