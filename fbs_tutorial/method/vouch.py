"""What a module may be vouched for: that it does what its type says, and only that.

`convert`, `wrap` and `accelerate` put another module in the place of one only if `doubt` has
nothing to say against it; `rebuild` then sees to it that the network still runs as it did.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.nn.utils import parametrize, prune

from .gated import ChannelPruning, Gated, GatedConv2d

KINDS = (GatedConv2d, ChannelPruning, nn.Conv2d, nn.BatchNorm2d, nn.Linear)
PYTORCH = Path(torch.__file__).parent
CALLS = ("_forward_hooks", "_forward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """True if the module has hooks, so that it may do something else than its type says."""
    return any(getattr(module, name) for name in CALLS)


def altered(module: nn.Module) -> str:
    """What was done to this one module that its type does not tell; empty if nothing."""
    hooks = module._forward_pre_hooks.values()
    if any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
        return "torch.nn.utils.prune masks its weights; prune.remove makes that permanent"
    if hooked(module):
        return "it has hooks"
    for name, value in vars(module).items():
        known = getattr(value, "vouched_for", False)
        if callable(value) and callable(getattr(type(module), name, None)) and not known:
            return f"its own {name} stands in for that of its type"
    return ""


def doubt(module: nn.Module) -> str:
    """Why the module may do something else than its type says; empty if it does just that.

    For a `GatedConv2d` the doubts about its parts are doubts about it.
    """
    if why := altered(module):
        return why
    if parametrize.is_parametrized(module):
        return "its weights are parametrized"
    kind = next((kind for kind in KINDS if isinstance(module, kind)), type(module))
    if type(module) is not kind:
        return f"{type(module).__name__} is a class of its own, made from {kind.__name__}"
    if kind.__module__.startswith("torch.") and not has_pytorchs_code(kind):
        return f"the forward of every {kind.__name__} was replaced"
    return doubt_about_parts(module) if kind is GatedConv2d else ""


def has_pytorchs_code(kind: type[nn.Module]) -> bool:
    """True unless somebody put another function in the place of one of a class of PyTorch's."""
    own = [getattr(kind, name) for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    files = [getattr(getattr(method, "__code__", None), "co_filename", "") for method in own]
    return all(Path(file).is_relative_to(PYTORCH) for file in files)


def doubt_about_parts(layer: GatedConv2d) -> str:
    """Why a gated layer may not compute its formula; empty if it does."""
    kinds = {"conv": nn.Conv2d, "norm": nn.BatchNorm2d, "predictor": nn.Linear}
    for name, kind in kinds.items():
        part = getattr(layer, name)
        if type(part) is not kind:
            return f"its {name} is a {type(part).__name__}"
        if why := doubt(part):
            return f"of its {name}: {why}"
    if isinstance(layer.activation, nn.Module) and altered(layer.activation):
        return f"of its activation: {altered(layer.activation)}"
    if layer.norm.weight is not None:
        return "its norm has a scale"
    return "" if has_statistics(layer.norm) else "its norm keeps no running statistics"


def has_statistics(norm: nn.Module) -> bool:
    """True for a batch norm that normalises with running statistics in eval mode."""
    return getattr(norm, "running_mean", None) is not None and norm.running_var is not None


def tied(model: nn.Module) -> set[nn.Module]:
    """The modules of which another one has a weight too, or one in the same memory."""

    def place(weight: Tensor) -> object:
        return id(weight) if weight.is_meta else (weight.device, weight.data_ptr())

    owned = {m: [place(w) for w in m._parameters.values() if w is not None and w.numel()]
             for m in model.modules()}  # fmt: skip
    owners = Counter(place for places in owned.values() for place in places)
    return {module for module, places in owned.items() if any(owners[p] > 1 for p in places)}


def check_network(model: nn.Module) -> None:
    """Raise unless ``model`` is a network itself, with weights that have values.

    Raises:
        TypeError: it is not a module. ValueError: a wrapper around one, such as `DataParallel`;
            weights without values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if part := _wrapped(module):
            name, kind = name or "model", type(module).__name__
            raise ValueError(f"{name} is a {kind} around the network: give {name}.{part} instead")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model is a ScriptModule: give the module that it was made of")
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(weight, UninitializedTensorMixin):
            raise ValueError(f"model has no {name} yet: run it once on a batch")
        if weight.is_meta:
            raise ValueError(
                f"model must have weights with values, got {name} on the meta device: load them, "
                "with load_state_dict(..., assign=True) for instance"
            )


def _wrapped(module: nn.Module) -> str:
    """The attribute of a wrapper that has what it wraps; empty for anything else."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    return "_orig_mod" if hasattr(module, "_orig_mod") else ""  # by torch.compile


def print_left(doing: str, left: dict[str, str]) -> None:
    """Print which modules were left as they are, ``{name: why}``, a line for each reason.

    On standard output: it is part of what the reader of a notebook asked for. What commands say
    while they work goes to standard error, see `fbs_tutorial.console`.
    """
    for why in dict.fromkeys(left.values()):
        names = [name or "the model" for name, reason in left.items() if reason == why]
        print(f"{doing} left as before {shortened(names, 8)}: {why}")


def shortened(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def gated_parts(model: nn.Module, kinds: tuple[type, ...] = (Gated,)) -> set[nn.Module]:
    """The modules inside gated layers, blocks included; or inside layers of other ``kinds``."""
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    return {part for layer in layers for part in layer.modules() if part is not layer}
