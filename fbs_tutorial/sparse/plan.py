"""`accelerate`: put an executing layer in the place of every layer that can skip something."""

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..convert import replace, trace
from ..gated import ChannelPruning, Gated, GatedConv2d, gated_layers
from ..macs import CHANNELWISE
from .cpu import CpuConv, SparseLinear, Workspace
from .layers import Channelwise, SparseConv2d, SparseGatedConv2d
from .reference import ReferenceConv

BACKENDS = ("auto", "reference", "cpu", "cuda")

# Modules that do nothing in eval mode.
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)

# Modules that work channel by channel and leave an empty channel empty.
KEEPS_EMPTY = (
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
CONVOLUTIONS = (GatedConv2d, nn.Conv2d)  # what takes compact maps and can give them

# Functions that work channel by channel.
CHANNELWISE_FUNCTIONS = (operator.add, operator.iadd, torch.add, torch.relu, F.relu)


def accelerate(model: nn.Module, backend: str = "auto") -> nn.Module:
    """A copy of ``model`` that computes only what the gates let through, image by image.

    Its outputs are those of ``model.eval()``, up to rounding. Where two saliencies at the cut are
    equal but for rounding, the two may choose differently, and both are right.

    Every gated convolution computes its winners from the inputs that are not empty; other
    convolutions and linear layers leave out empty inputs too. Between layers that follow each other
    directly only the winners' maps are kept. Weights are as they were at this call; densities can
    be set later, with `set_density`.

    Args:
        model: in eval mode, with gated layers; float32 or float64.
        backend: ``"reference"`` loops that are easy to read; ``"cpu"``; ``"cuda"``; ``"auto"`` the
            one for the device the model is on.

    Raises:
        TypeError: ``model`` is not a module, or has a dtype that the backend does not do.
        ValueError: an unknown backend, or one without its device; a model in training mode or
            without a gated layer.
    """
    gated_layers(model)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if model.training:
        raise ValueError("accelerate is for inference only: call model.eval() first")
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device.type
    if backend == "auto":
        backend = "cuda" if device == "cuda" else "cpu"
    if backend == "cuda":
        check_cuda(device)
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"accelerate takes float32 and float64, the model has {tensor.dtype}")
    model = copy.deepcopy(model).requires_grad_(False).eval()
    inside = inside_gated(model)
    keeps = compact_handoff(model, inside) if backend != "reference" else {}
    for old, new in list(replacements(model, backend, inside, keeps)):
        model = replace(model, old, new)
    model.register_forward_pre_hook(detach, with_kwargs=True)
    return model


def replacements(
    model: nn.Module, backend: str, inside: set[nn.Module], keeps: dict[nn.Module, bool]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every module that is executed differently, and what by."""
    workspace = Workspace()
    if backend == "cuda":
        from .cuda import cuda_conv as kind  # here, because Triton takes a while to import
    else:
        kind = ReferenceConv if backend == "reference" else partial(CpuConv, workspace)
    skipping = [(last_convolution(m), m) for m in model.modules() if isinstance(m, ChannelPruning)]
    for module in model.modules():
        keep = keeps.get(module, False)
        if isinstance(module, GatedConv2d):
            yield module, SparseGatedConv2d(module, kind, keep)
        elif module in inside:
            continue
        elif type(module) is nn.Conv2d:
            new = SparseConv2d(module, kind, keep)
            for block in (block for conv, block in skipping if conv is module):
                new.gate_by(block)
            yield module, new
        elif type(module) is nn.Linear and backend != "cuda":  # where shapes cannot follow values
            yield module, SparseLinear(workspace, module)
        elif type(module) in NOTHING:
            yield module, nn.Identity()
        elif module in keeps:
            yield module, Channelwise(module, keep)


def inside_gated(model: nn.Module) -> set[nn.Module]:
    """The modules that belong to a gated layer, which replaces or keeps them itself."""
    layers = [m for m in model.modules() if isinstance(m, Gated)]
    parts = {m for layer in layers if isinstance(layer, GatedConv2d) for m in layer.modules()}
    return parts | {layer.predictor for layer in layers}


def detach(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A forward pre-hook: nothing that follows is recorded for a backward."""

    def cut(x: object) -> object:
        return x.detach() if isinstance(x, torch.Tensor) else x

    return tuple(map(cut, args)), {name: cut(x) for name, x in kwargs.items()}


def check_cuda(device: str) -> None:
    """Raise unless there is a CUDA device and ``device``, where the model is, is of that type."""
    if not torch.cuda.is_available():
        raise ValueError("backend='cuda' needs a CUDA device, and PyTorch finds none here")
    if device != "cuda":
        raise ValueError(
            f"backend='cuda' needs the model on a CUDA device: call model.cuda() first, "
            f"got one on {device}"
        )


def compact_handoff(model: nn.Module, inside: set[nn.Module]) -> dict[nn.Module, bool]:
    """The modules that may meet compact maps, and whether they hand them on as they are.

    A convolution hands on compact maps if all that read them can take those; so does a channelwise
    module between convolutions. The last one in a row fills in the empty channels again.
    """
    try:
        nodes = [node for node in trace(model) if node.op == "call_module"]
    except ValueError:
        return {}  # every layer then gives and takes full maps
    module = {node: model.get_submodule(node.target) for node in nodes}
    uses = Counter(module.values())

    def takes(node: fx.Node) -> bool:
        kind = type(module.get(node))
        if kind in CONVOLUTIONS:
            return True
        if kind in NOTHING:
            return hands_on(node)
        if kind not in KEEPS_EMPTY or module[node] in inside:
            return False
        if getattr(module[node], "return_indices", False):
            return False
        return uses[module[node]] == 1 or hands_on(node)

    def hands_on(node: fx.Node) -> bool:
        return all(takes(reader) for reader in node.users)

    keeps = {}
    for node in nodes:
        once = uses[module[node]] == 1
        if once if type(module[node]) in CONVOLUTIONS else takes(node):
            keeps[module[node]] = hands_on(node)
    return keeps


def last_convolution(gate: ChannelPruning) -> nn.Conv2d | None:
    """The one convolution of a block whose losing channels need not be computed, if there is one.

    It is the last to run, runs once, and all that follows works channel by channel.
    """
    try:
        nodes = trace(gate.block)
    except ValueError:
        return None
    modules = [gate.block.get_submodule(n.target) if n.op == "call_module" else n for n in nodes]
    for i, module in reversed(list(enumerate(modules))):
        if type(module) is nn.Conv2d:
            return module if modules.count(module) == 1 else None
        known = isinstance(module, CHANNELWISE) or nodes[i].op == "output"
        if not known and nodes[i].target not in CHANNELWISE_FUNCTIONS:
            return None
    return None
