"""The data flow of a network: which operations it is made of, and what follows what.

`convert`, `count_macs` and `accelerate` all judge a network with the tables of this file; which
entries can be other than 0 is in `liveness.py`. The flow is traced with ``torch.fx``: a graph with
one node for each operation.
"""

import copy
import inspect
import linecache
import operator
import random
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from .gated import ChannelPruning, Gated, restore_modes
from .vouch import doubt, hooked

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
    """``torch.fx`` cannot follow the data; ``where`` names the line that stopped it, and ``graph``
    ends there."""

    def __init__(self, error: Exception):
        self.where, self.graph = _line_that_stopped(error), getattr(error, "graph", fx.Graph())
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


class _Guessing(_Proxy):
    """Stands for 2 where the model's code wants a number."""

    def __len__(self) -> int:
        return 2

    __int__ = __index__ = __len__

    def __float__(self) -> float:
        return 2.0


class _AskedError(fx.proxy.TraceError):
    """The model's own code asks whether a value is true."""

    def __init__(self, error: Exception, node: fx.Node):
        super().__init__(str(error))
        seen, waiting = set(), {node}
        while waiting:
            seen |= waiting
            waiting = {n for node in waiting for n in node.all_input_nodes} - seen
        images, *others = (n for n in node.graph.nodes if n.op == "placeholder")
        self.of_a_flag = images not in seen and not seen.isdisjoint(others)


class _Tracer(fx.Tracer):
    """Follows a model in one way.

    Args:
        given: the arguments with a default that are given all the same.
        answers: to the questions of the model's code whether a value is true.
        leaves: modules that are not looked into, beside those of `is_leaf_module`.
        value: what stands for a value.
    """

    def __init__(
        self,
        given: Collection[str],
        answers: Iterable[bool],
        leaves: Collection[nn.Module],
        value: type[fx.Proxy],
    ):
        super().__init__()
        self.given, self.answers, self.leaves, self.value = given, list(answers), leaves, value

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return self.value(node, self)

    def to_bool(self, value: fx.Proxy) -> bool:
        if self.answers:
            return self.answers.pop(0)
        try:
            return super().to_bool(value)
        except fx.proxy.TraceError as error:
            raise _AskedError(error, value.node) from None

    def is_leaf_module(self, module: nn.Module, name: str = "") -> bool:
        """Not looked into: what is in one piece, and what has hooks, which are written for
        tensors."""
        return module in self.leaves or _is_one_piece(module) or hooked(module)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """An argument with a default keeps it, unless it is given: a bool that is True as False,
        the other way round, anything else as a value that is not known."""
        args, kwargs = [], {}
        for parameter in inspect.signature(self.root.forward).parameters.values():
            name, default = parameter.name, parameter.default
            several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if several and (args or parameter.kind is parameter.VAR_KEYWORD):
                continue
            if default is not parameter.empty and name not in self.given:
                continue
            known = isinstance(default, bool)
            value = not default if known else self.create_proxy("placeholder", name, (), {})
            by_name = kwargs or parameter.kind is parameter.KEYWORD_ONLY or name in self.given
            kwargs |= {name: value} if by_name else {}
            args += [] if by_name else [value]
        return lambda root: root.forward(*args, **kwargs), [self.root]


MOST_ANSWERS = 16  # to the questions of a model's code, until it counts as one without an end


def ways(model: nn.Module, leaves: Collection[nn.Module] = ()) -> list[fx.Graph]:
    """Every way in which data can go through ``model``, in the mode that it is in.

    First the one of a call with the required arguments. Then those with one or all of the others,
    as far as they can be followed, and with other flags. Different ways have different graphs.

    Raises:
        UntraceableError: as `trace`.
    """
    found = _follow(model, (), leaves, flags=True)
    signature = inspect.signature(model.forward).parameters.values()
    optional = [p.name for p in signature if p.default is not p.empty]
    for given in [*((name,) for name in optional), optional] if optional else []:
        try:
            found += _follow(model, given, leaves, flags=True)
        except UntraceableError:  # an argument that says how often, for instance
            continue
    return list({str(graph): graph for graph in found}.values())


def trace(model: nn.Module, leaves: Collection[nn.Module] = ()) -> fx.Graph:
    """The data flow of ``model`` called with its required arguments, in the mode that it is in.

    Gated layers, PyTorch's, those made from them and modules with hooks are single nodes. Where
    the model's code refuses its input unless a value is true or false, as in an ``assert``, it is.

    Raises:
        UntraceableError: (a ValueError) the flow depends on values, so that it cannot be followed.
    """
    return _follow(model, (), leaves, flags=False)[0]


def guesses(model: nn.Module, leaves: Collection[nn.Module] = ()) -> list[fx.Graph]:
    """What a model does that cannot be followed, for all answers to its questions for values, and
    as if numbers were 2: as far as that goes. It can rule something out, and nothing else."""
    try:
        return _follow(model, (), leaves, flags=True, guess=True)
    except UntraceableError as error:
        return [error.graph]


def _follow(
    model: nn.Module,
    given: Collection[str],
    leaves: Collection[nn.Module],
    flags: bool,
    guess: bool = False,
) -> list[fx.Graph]:
    """The graphs of all answers to questions that do not depend on the images; ``guess``: of all.

    Of two answers after one of which the model's code raises, the other is right. If both give the
    same graph, the question does not matter. With ``flags``, those among the arguments have both.
    """
    value, traced = _Guessing if guess else _Proxy, []

    def follow(answers: tuple[bool, ...]) -> list[fx.Graph]:
        traced.append(answers)
        if len(traced) > MOST_ANSWERS:
            raise fx.proxy.TraceError("there are too many questions for values")
        try:
            return [_traced(model, _Tracer(given, answers, leaves, value))]
        except _AskedError as asked:
            graphs = [graph for a in (True, False) for graph in after((*answers, a), asked)]
            different = {str(graph): graph for graph in graphs}
            if len(different) == 1 or (graphs and (guess or (flags and asked.of_a_flag))):
                return list(different.values())
            raise

    def after(answers: tuple[bool, ...], asked: Exception) -> list[fx.Graph]:
        try:
            return follow(answers)
        except Exception as error:
            if _is_refusal(error):
                return []
            raise asked from error  # the first line that cannot be followed

    try:
        return follow(())
    except Exception as error:  # fx raises many kinds, from inside the model's own code
        raise UntraceableError(error) from error


def _is_refusal(error: Exception) -> bool:
    """True if the model's own code raised it, and not PyTorch for it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    pytorch = Path(frame.f_code.co_filename).is_relative_to(Path(torch.__file__).parent)
    kinds = isinstance(error, (AssertionError, ValueError, RuntimeError))
    return kinds and not pytorch and not isinstance(error, fx.proxy.TraceError)


def _traced(model: nn.Module, tracer: _Tracer) -> fx.Graph:
    """One graph. What the model's code does to its attributes meanwhile, it does to a copy, which
    is the ``owning_module`` of the graph."""
    shared = [m for m in model.modules() if m is not model and tracer.is_leaf_module(m)]
    with suppress(Exception):  # of a class that cannot be copied; the graph is the same
        model = copied(model, [*shared, *model.parameters()])
    drawn = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):  # code that draws numbers draws the same again
            torch.default_generator.manual_seed(0), random.seed(0)
            graph = tracer.trace(model)
    except Exception as error:
        error.graph = getattr(tracer, "graph", fx.Graph())
        raise
    finally:
        random.setstate(drawn)
    graph.owning_module = model
    return graph


def copied(model: nn.Module, shared: Iterable[object] = ()) -> nn.Module:
    """A copy of ``model`` as by `memo_of`, with modules in the modes of the original."""
    twin = copy.deepcopy(model, memo_of(model, shared))
    modes = {name: module.training for name, module in model.named_modules()}
    restore_modes({m: modes.get(name, m.training) for name, m in twin.named_modules()})
    return twin


def memo_of(model: nn.Module, shared: Iterable[object] = ()) -> dict[int, object]:
    """What `copy.deepcopy` of ``model`` is given so that the copy has the ``shared`` tensors and
    modules themselves, and tensors that the model's code has kept without the graph that they came
    from, which it refuses to copy."""
    memo = {id(thing): thing for thing in shared}
    for module in model.modules():
        kept = [v for v in vars(module).values() if isinstance(v, (Tensor, list, tuple, dict))]
        for value in tree_leaves([v for v in kept if isinstance(v, Tensor) or v]):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    return memo


def is_counted(module: nn.Module) -> bool:
    """True for layers whose multiplications count: convolutions, linear layers, and what has
    ``kept_pairs`` (see `macs.py`)."""
    return isinstance(module, (nn.Conv2d, nn.Linear)) or hasattr(module, "kept_pairs")


@dataclass
class Parts:
    """The largest parts of a network that can be followed, and what stopped the rest.

    ``others``: the further ways through a part, see `ways`, where they were looked for.
    ``unclear``: what the rest does, as far as it can be guessed, see `guesses`.
    """

    graphs: dict[nn.Module, fx.Graph]
    stopped: list[UntraceableError]
    others: dict[nn.Module, list[fx.Graph]] = field(default_factory=dict)
    unclear: dict[nn.Module, list[fx.Graph]] = field(default_factory=dict)
    every_way: bool = False

    def all_ways(self) -> dict[nn.Module, list[fx.Graph]]:
        """For each part, its graph and then the others; and those of what is ``unclear``."""
        ways = {part: [graph, *self.others.get(part, [])] for part, graph in self.graphs.items()}
        return ways | self.unclear

    def followed_again(self, part: nn.Module, leaves: Collection[nn.Module]) -> list[fx.Graph]:
        """As in `all_ways`, of the part as it is now, in which the ``leaves`` are new."""
        if part in self.unclear:
            return guesses(part, leaves)
        try:
            return ways(part, leaves) if self.every_way else [trace(part, leaves)]
        except UntraceableError as error:
            return [error.graph]

    def stopped_at(self) -> str:
        """The lines that stopped ``torch.fx``, in one sentence."""
        lines = dict.fromkeys(error.where for error in self.stopped)
        return f"torch.fx cannot follow the data past {'; '.join(lines)}"


def traceable_parts(model: nn.Module, *, blocks: bool = False, every_way: bool = False) -> Parts:
    """``model`` itself if it can be traced, else its largest children that can.

    A module with hooks is a part of its own: what comes out of it may be anything. With ``blocks``
    so are the insides of `ChannelPruning` layers. ``every_way``: as in `ways`.
    """
    parts = Parts({}, [], every_way=every_way)

    def visit(module: nn.Module) -> None:
        if isinstance(module, ChannelPruning) and blocks:
            module = module.block
        if module in parts.graphs or _is_one_piece(module):
            return
        inside = list(module.children())
        if type(module).forward is not nn.Module.forward:  # which an nn.ModuleList lacks
            try:
                graph, *others = ways(module) if every_way else [trace(module)]
                parts.graphs[module], parts.others[module] = graph, others
                called = [_modules_called(module, way) for way in (graph, *others)]
                inside = [child for way in called for child in way.values()]
            except UntraceableError as error:
                parts.stopped.append(error)
                parts.unclear[module] = guesses(module)
        for child in inside:
            visit(child)

    visit(model)
    return parts


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, fx.GraphModule)


def _is_one_piece(module: nn.Module) -> bool:
    """True for what has no parts of its own to follow: layers, PyTorch's own modules, and classes
    made from batch norm, which asks for the shape of its input."""
    pytorchs = type(module).__module__.startswith("torch.") and not isinstance(module, CONTAINERS)
    norm = isinstance(module, nn.modules.batchnorm._NormBase)
    return isinstance(module, Gated) or is_counted(module) or pytorchs or norm


OF_EVERY_MODULE = set(vars(nn.Module()))  # attributes


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` in the place of ``old``, as `exchange` does; returns the model."""
    return exchange(model, {old: new})


def exchange(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the places of others, ``{old: new}``, wherever ``model`` has those.

    That is under every name, and in the lists and dictionaries that its modules keep. The insides
    of new modules stay as they are. Returns the model, or what takes its own place.
    """

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: other(part) for key, part in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(other, value))
        return new.get(value, value) if isinstance(value, nn.Module) else value

    for module in list(model.modules()):
        if any(child in new for child in module._modules.values()):
            module._modules.update(other(module._modules))
        for name, value in vars(module).items():
            kept = type(value) in (list, tuple, dict) and name not in OF_EVERY_MODULE
            if kept and any(isinstance(part, nn.Module) for part in tree_leaves(value)):
                vars(module)[name] = other(value)
    return new.get(model, model)


# What follows what


Chain = tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU | nn.ReLU6 | None]


def chains(parts: Parts) -> list[Chain]:
    """The convolutions that only a batch norm reads, each with that norm.

    Third in a chain is the ReLU or ReLU6 that alone reads the norm, or None. Each of the modules
    does what its type says, runs once, and the model's own code reads none of their weights.
    """
    return [chain for chain, why_not in pairs(parts).items() if not why_not]


def pairs(parts: Parts) -> dict[Chain, str]:
    """Every convolution that only a batch norm reads, as in `chains`, and why that may not be
    replaced; the empty string where it may."""
    runs, read, found = Counter(), read_directly(parts), {}
    ways = [(part, graph) for part, graphs in parts.all_ways().items() for graph in graphs]
    ways = [(part, _chains_of(part, graph), _modules_called(part, graph)) for part, graph in ways]
    for part, chains, called in ways:
        runs |= Counter(called.values())  # the most of any way
        found |= dict.fromkeys(chains, "") if part in parts.graphs else {}
    for _, chains, called in ways:
        for chain in found:
            if not set(chain).isdisjoint(called.values()) and not _is_among(chain, chains):
                found[chain] = "it does not always come before the same modules"

    def why_not(module: nn.Module) -> str:
        if runs[module] > 1:
            return "it runs more than once"
        return "other code reads its weights" if module in read else doubt(module)

    for (conv, norm, act), why in list(found.items()):
        del found[conv, norm, act]
        plain = act is not None and not why_not(act)
        found[conv, norm, act if plain else None] = why_not(conv) or why_not(norm) or why
    sure = {conv for (conv, *_), why in found.items() if not why}
    return {chain: why for chain, why in found.items() if not why or chain[0] not in sure}


def _is_among(chain: Chain, others: Collection[Chain]) -> bool:
    """True if one of the others has these modules; what comes after them may be one more."""
    *pair, act = chain
    return any([*other[:2]] == pair and act in (None, other[2]) for other in others)


def _chains_of(part: nn.Module, graph: fx.Graph) -> list[Chain]:
    """The chains of one graph as they follow one another, whatever their modules may do."""
    modules, found = _modules_called(part, graph), []

    def reader(node: fx.Node, *kinds: type) -> fx.Node | None:
        """The one node that reads ``node``, if it runs a module of these kinds."""
        readers = list(node.users)
        fits = len(readers) == 1 and isinstance(modules.get(readers[0]), kinds)
        return readers[0] if fits else None

    for node, conv in modules.items():
        norm = reader(node, nn.BatchNorm2d) if isinstance(conv, nn.Conv2d) else None
        if norm is not None:
            act = reader(norm, nn.ReLU, nn.ReLU6)
            act = act if type(modules.get(act)) in (nn.ReLU, nn.ReLU6) else None
            found.append((conv, modules[norm], modules.get(act)))
    return found


def read_directly(parts: Parts) -> set[nn.Module]:
    """The modules whose weights other code reads than their own."""
    return {
        part.get_submodule(node.target.rpartition(".")[0])
        for part, graphs in parts.all_ways().items()
        for graph in graphs
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
