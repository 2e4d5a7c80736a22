"""Which entries of a network's maps can be other than 0 when channels have lost their gates."""

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, fx, nn

from .gated import ChannelPruning, Gated, GatedConv2d
from .graph import CHANNEL_MAPS, ELEMENTWISE, MOVES, PRODUCTS, SUMS, is_counted
from .vouch import altered
from .wta import winner_mask


def winners(gate: Gated) -> Tensor:
    """The outputs ``[N, C_out]`` that the gate's last run let through, forced ones included."""
    if gate.forced is None:
        return winner_mask(gate.saliency, gate.density)
    pi = gate.select(gate.saliency)
    return winner_mask(pi, gate.density) | (pi != 0)


@dataclass
class Operation:
    """One operation that has run: on which values, of which liveness, and what it made."""

    node: fx.Node
    module: nn.Module | None
    values: dict[fx.Node, Any]
    live: dict[fx.Node, Any]
    value: Any

    def again(self, stand_in: Callable[[fx.Node], Any]) -> Any:
        """Do the operation once more, on other tensors in place of its inputs."""
        args = fx.node.map_arg(self.node.args, stand_in)
        kwargs = fx.node.map_arg(self.node.kwargs, stand_in)
        if self.node.op == "call_module":
            return self.module.forward(*args, **kwargs)
        if self.node.op == "call_method":
            return getattr(args[0], self.node.target)(*args[1:], **kwargs)
        return self.node.target(*args, **kwargs)


class Liveness(fx.Interpreter):
    """Runs a traced network, and says beside every value which of its entries are live.

    The liveness of a tensor is a bool tensor of its shape: False where the entry must be 0 because
    channels lost their gates, whatever the values of the winners. Gated layers start it, and one
    rule for each table of operations hands it on (`rule`). After an operation that is in no
    table all is live. So what is not 0 is always live, as long as all numbers are finite.

    Args:
        model, graph: what is to run, and its `trace`.
        reads: filled in: for each counted layer, the liveness of the input that it is about to
            read. For `ChannelPruning` blocks that of the block's input, which this class reads
            when it runs the block.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, reads: dict[nn.Module, Tensor]):
        super().__init__(model, graph=graph)
        self.extra_traceback = False
        self.reads = reads
        self.altered = {module for module in model.modules() if altered(module)}
        self.live: dict[fx.Node, tuple[Any, Any]] = {}  # with the version of the value

    def __call__(self, *args, **kwargs):
        """Run the model, whose first argument has the liveness in ``reads``, else all is live."""
        self.first = self.reads.pop(self.module, None)
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if kwargs or len(args) != len(inputs):  # not the call that was traced
            return type(self.module).forward(self.module, *args, **kwargs)
        try:
            return self.run(*args)
        finally:
            self.live.clear()

    def fetch_attr(self, target: str) -> Any:
        """A module, a weight, or a constant that the model's code made while it was followed."""
        try:
            return super().fetch_attr(target)
        except RuntimeError:
            return operator.attrgetter(target)(self.graph.owning_module)

    def run_node(self, node: fx.Node) -> Any:
        live = {n: self.live_now(n) for n in node.all_input_nodes}  # the operation may change it
        values = {n: self.env[n] for n in node.all_input_nodes}
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        if module is not None and module not in self.altered:
            self.announce(module, next(iter(live.values()), None))
        value = super().run_node(node)
        if node.op != "output":
            result = self.rule(Operation(node, module, values, live, value))
            self.live[node] = (result, versions(value))
        return value

    def live_now(self, node: fx.Node) -> Any:
        """The liveness of a value; all, if an operation has changed it in place since."""
        live, noted = self.live[node]
        value = self.env[node]
        return live if noted == versions(value) else everything(value)

    def announce(self, module: nn.Module, live: Any) -> None:
        """Say what the counted layers of ``module`` will read."""
        readers = [module] if is_counted(module) else []
        if type(module) is GatedConv2d:
            readers = [module.conv]
        elif type(module) is ChannelPruning:
            readers = [module.block]
        for reader in readers:
            if isinstance(live, Tensor) and reader not in self.altered:
                self.reads[reader] = live

    def rule(self, operation: Operation) -> Any:
        """The liveness of what one operation made."""
        if operation.node.op == "placeholder":
            first, self.first = self.first, None
            return everything(operation.value) if first is None else first
        if operation.node.op == "get_attr":  # a constant
            return each_tensor(operation.value, nonzero_entries)
        if operation.module in self.altered:
            return everything(operation.value)
        if isinstance(operation.module, Gated):
            return gate_rule(operation, self.altered)
        key = operation.node.target if operation.module is None else type(operation.module)
        for table, rule in RULES:
            if key in table:
                live = rule(operation)
                return everything(operation.value) if live is None else live
        return everything(operation.value)


def each_tensor(value: Any, function: Callable[..., Any], *others: Any) -> Any:
    """``function`` of a tensor, or of each in a tuple or list; None in place of what is neither."""
    if isinstance(value, Tensor):
        return function(value, *others)
    if isinstance(value, (tuple, list)):
        others = [other or [None] * len(value) for other in others]
        return tuple(each_tensor(v, function, *o) for v, *o in zip(value, *others, strict=True))
    return None


def nonzero_entries(x: Tensor) -> Tensor:
    """Which entries are not 0, bool."""
    return x != 0


def everything(value: Any) -> Any:
    """The liveness of a value of which nothing is known: all live."""
    return each_tensor(value, lambda x: x.new_ones((), dtype=torch.bool).expand(x.shape))


def versions(value: Any) -> Any:
    """PyTorch's counts of how often the tensors were changed in place, views of them included."""
    return each_tensor(value, lambda x: None if x.is_inference() else x._version)


# One rule for each table of `graph.py`. None: it does not know this use of the operation.


def gate_rule(operation: Operation, altered: Collection[nn.Module]) -> Any:
    """Gated layers: the winners.

    Args:
        altered: modules that may do something else than their type says, as found before the run,
            in which the counters' own hooks hang on every module.
    """
    gate = operation.module
    known = type(gate).forward in (GatedConv2d.forward, ChannelPruning.forward)
    act = getattr(gate, "activation", True)
    keeps_empty = isinstance(act, bool) or (type(act) in ELEMENTWISE and act not in altered)
    if not (known and keeps_empty):
        return everything(operation.value)
    return winners(gate)[:, :, None, None].expand(operation.value.shape)


def elementwise_rule(operation: Operation) -> Any:
    """An empty entry becomes ``f(0)``: 0 for a ReLU, 0.5 for a sigmoid."""
    tensors = [node for node, value in operation.values.items() if isinstance(value, Tensor)]
    if len(tensors) != 1 or not isinstance(operation.value, Tensor):
        return None
    zeros = {n: torch.zeros_like(x) if n in tensors else x for n, x in operation.values.items()}
    at_0 = operation.again(zeros.get)
    return operation.live[tensors[0]] | (at_0 != 0)


def move_rule(operation: Operation) -> Any:
    """The same operation done to marks, 1 for live and 0 for empty, says where live ones come to.

    Marks are never below 0, so none cancel in a sum. Indices and sizes are what they are.
    """

    def marks(value: Any, live: Any) -> Any:
        if isinstance(value, Tensor):
            same_strides = torch.empty_like(value, dtype=torch.float32)  # which a view may need
            return same_strides.copy_(live) if value.is_floating_point() else value
        if isinstance(value, (tuple, list)) and isinstance(live, tuple):
            return tuple(map(marks, value, live))
        return value

    try:
        moved = operation.again(lambda node: marks(operation.values[node], operation.live[node]))
    except RuntimeError:  # marks are float32, which another argument may not go with
        return None
    return each_tensor(moved, nonzero_entries)


def channel_map_rule(operation: Operation) -> Any:
    """A channel is live everywhere if it was live anywhere."""
    live = next(iter(operation.live.values()), None)
    if not isinstance(live, Tensor) or not isinstance(operation.value, Tensor) or live.ndim != 4:
        return None
    return live.flatten(2).any(dim=2)[:, :, None, None].expand(operation.value.shape)


def sum_rule(operation: Operation) -> Any:
    """A sum or difference is live where one of the two is; a number is, unless it is 0."""
    left, right = operands(operation)
    return None if left is None or right is None else (left | right).expand(operation.value.shape)


def product_rule(operation: Operation) -> Any:
    """A product is live where both factors are."""
    left, right = operands(operation)
    return None if left is None or right is None else (left & right).expand(operation.value.shape)


def operands(operation: Operation) -> tuple[Tensor | bool | None, Tensor | bool | None]:
    """The liveness of the two operands, None for what is not known."""

    def live(operand: Any) -> Tensor | bool | None:
        value = operation.values[operand] if isinstance(operand, fx.Node) else operand
        if isinstance(value, Tensor):
            return operation.live[operand]
        return bool(value != 0) if isinstance(value, Real) else None

    if (
        len(operation.node.args) != 2
        or "out" in operation.node.kwargs
        or not isinstance(operation.value, Tensor)
    ):
        return None, None
    return live(operation.node.args[0]), live(operation.node.args[1])


RULES = (
    (ELEMENTWISE, elementwise_rule),
    (MOVES, move_rule),
    (CHANNEL_MAPS, channel_map_rule),
    (SUMS, sum_rule),
    (PRODUCTS, product_rule),
)
