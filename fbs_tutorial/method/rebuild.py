"""Put other modules into a network, and see that its own code still runs them as before."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from torch import fx, nn

from .gated import GatedConv2d, restore_modes
from .graph import Parts, exchange

Exchange = dict[nn.Module, nn.Module]  # modules that go, and what takes the place of each
SETTINGS = (int, float, str, tuple, type(None))  # bool is an int


def rebuild(
    model: nn.Module, exchanges: Sequence[Exchange], followed: Sequence[tuple[bool, Parts]]
) -> tuple[nn.Module, dict[nn.Module, str]]:
    """``model`` with the exchanges made, in place, as far as its own code does not mind.

    New modules answer for the settings of the old ones, such as ``out_channels``. What a network
    does may still depend on them, by ``isinstance`` for instance. So it is followed once more:
    where other things happen than before, the modules go back that this piece of code calls.

    Args:
        exchanges: each is made as a whole, or not.
        followed: what was followed before, in the mode (True: training) that the model had.

    Returns:
        The model, and the modules that went back, each with the reason.
    """
    made, left = list(exchanges), {}
    for old, new in [pair for pairs in made for pair in pairs.items()]:
        _take_over_settings(new, old)
    model = exchange(model, {old: new for pairs in made for old, new in pairs.items()})
    while made and (found := _odd_code(model, made, followed)):
        name, called = found
        why = f"the code of {name} does something else with what stands in for it"
        for pairs in [pairs for pairs in made if not called.isdisjoint(pairs)]:
            made.remove(pairs)
            model = exchange(model, {new: old for old, new in pairs.items()})
            left |= dict.fromkeys(pairs, why)
    return model, left


def _take_over_settings(new: nn.Module, old: nn.Module) -> None:
    """Let the new module answer the questions for settings that the old one did."""
    source = old.conv if isinstance(old, GatedConv2d) else old
    for name, value in [*vars(old).items(), *vars(source).items()]:
        if not name.startswith("_") and isinstance(value, SETTINGS) and not hasattr(new, name):
            setattr(new, name, value)


def _odd_code(
    model: nn.Module, made: Sequence[Exchange], followed: Sequence[tuple[bool, Parts]]
) -> tuple[str, set[nn.Module]] | None:
    """The first module whose code does something else now: its name, and what it ran before of
    the modules that have gone."""
    gone = {new: old for exchange in made for old, new in exchange.items()}
    for training, parts in followed:
        modes = {module: module.training for module in model.modules()}
        model.train(training)
        try:
            for part, before in parts.all_ways().items():
                node = _first_difference(before, parts.followed_again(part, gone))
                if node is not None:
                    names = (name for name, module in model.named_modules() if module is part)
                    return _code_of(node, part, next(names, ""), gone)
        finally:
            restore_modes(modes)
    return None


def _first_difference(before: list[fx.Graph], now: list[fx.Graph]) -> fx.Node | None:
    """The first operation of ``before`` that ``now`` does not do so, None if they are the same."""
    for old, new in zip_longest(before, now, fillvalue=fx.Graph()):
        for node, other in zip_longest(old.nodes, new.nodes):
            if node is None:
                return next(reversed(old.nodes), next(iter(before[0].nodes)))
            if other is None or node.format_node() != other.format_node():
                return node
    return None


def _code_of(
    node: fx.Node, part: nn.Module, name: str, gone: Mapping[nn.Module, nn.Module]
) -> tuple[str, set[nn.Module]]:
    """Whose code an operation is, and which of the modules that have gone this code ran.

    Where it ran none of them, it is the code that called it, and so on.
    """
    calls = [n for n in node.graph.nodes if n.op == "call_module"]
    run = {n: gone.get(part.get_submodule(n.target)) for n in calls}
    place = _place(node)
    while True:
        called = {run[n] for n in calls if _place(n) == place} - {None}
        if called or not place:
            break
        place = place.rpartition(".")[0]
    called = called or set(run.values()) - {None} or set(gone.values())
    return ".".join(filter(None, (name, place))) or "the model", called


def _place(node: fx.Node) -> str:
    """The name, within the part, of the module whose code made this node."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and stack and stack[-1] == node.target:
        stack.pop()
    return stack[-1] if stack else ""
