"""`accelerate`: put an executing layer in the place of every layer that can skip something."""

import copy
from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn

from ..method.gated import ChannelPruning, Gated, GatedConv2d, gated_layers
from ..method.graph import hooked, last_convolution, replace, trace
from .cpu import CpuConv, SparseLinear
from .layers import SparseConv2d, SparseGatedConv2d, accept_compact
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


def accelerate(model: nn.Module, backend: str = "auto") -> nn.Module:
    """A copy of ``model`` that computes only what the gates let through, image by image.

    Its outputs are those of ``model.eval()``, up to rounding. Where two saliencies at the cut are
    equal but for rounding, the two may choose differently, and both are right.

    Every gated convolution computes its winners from the inputs that are not empty; other
    convolutions and linear layers leave out empty inputs too. Between layers that follow each other
    directly only the winners' maps are kept. Weights are as they were at this call; densities can
    be set later, with `set_density`. Several threads may call it at the same time, but for networks
    with `ChannelPruning` blocks, which serve one thread at a time.

    Args:
        model: in eval mode, with gated layers; float32 or float64, on a GPU float16 or bfloat16
            too. Those are what is stored and multiplied: gates and sums are in float32.
        backend: ``"reference"`` loops that are easy to read; ``"cpu"``; ``"cuda"``; ``"auto"`` the
            one for the device the model is on.

    Raises:
        TypeError: ``model`` is not a module, or has a dtype that the backend does not do.
        ValueError: an unknown backend, or a model that is not on its device; a model in training
            mode, without a gated layer, or accelerated already.
    """
    check_model(model)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    device, dtypes = check_tensors(model)
    if backend == "auto":
        backend = "cuda" if device == "cuda" else "cpu"
    check_device(backend, device)
    check_dtypes(backend, dtypes)
    model = copy.deepcopy(model).requires_grad_(False).eval()
    keeps = compact_handoff(model) if backend != "reference" else {}
    for old, new in list(replacements(model, backend, keeps)):
        model = replace(model, old, new)
    for module, keep in keeps.items():
        if type(module) in KEEPS_EMPTY:
            accept_compact(module, keep)
    model.register_forward_pre_hook(detach, with_kwargs=True)
    return model


def check_model(model: nn.Module) -> None:
    """Raise unless the model is in eval mode, and has gated layers of the ordinary kinds."""
    layers = gated_layers(model)
    if model.training:
        raise ValueError("accelerate is for inference only: call model.eval() first")
    for name, layer in layers.items():
        if isinstance(layer, SparseGatedConv2d):
            raise ValueError("model is accelerated already; give the network it was made from")
        norm = getattr(layer, "norm", None)
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None:
            raise ValueError(f"accelerate needs batch norms with running statistics, see {name!r}")


def check_tensors(model: nn.Module) -> tuple[str, set[torch.dtype]]:
    """The type of device that all of the model is on, and its floating-point dtypes."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"model must be on one device, got {', '.join(map(str, devices))}")
    return devices.pop().type, {x.dtype for x in tensors if x.is_floating_point()}


def check_device(backend: str, device: str) -> None:
    """Raise unless the backend's device is there and the model, which is on ``device``, on it."""
    needed = "cuda" if backend == "cuda" else "cpu"
    if needed == "cuda" and not torch.cuda.is_available():
        raise ValueError("backend='cuda' needs a CUDA device, and PyTorch finds none here")
    if device != needed:
        raise ValueError(f"backend={backend!r} needs the model on {needed}, got one on {device}")


def check_dtypes(backend: str, dtypes: set[torch.dtype]) -> None:
    """Raise unless the backend can execute numbers of these dtypes."""
    wide, narrow = {torch.float32, torch.float64}, {torch.float16, torch.bfloat16}
    for dtype in dtypes - wide:
        if backend != "cuda" or dtype not in narrow:
            raise TypeError(
                "accelerate takes float32 and float64, and with backend 'cuda' also float16 and "
                f"bfloat16; the model has {dtype} and the backend is {backend!r}"
            )


def replacements(
    model: nn.Module, backend: str, keeps: dict[nn.Module, bool]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every module that is executed differently, and what by."""
    if backend == "cuda":
        from .cuda import cuda_conv as kind  # here, because Triton takes a while to import
    else:
        kind = ReferenceConv if backend == "reference" else CpuConv
    plain, inside = plain_modules(model), inside_gated(model)
    skipping = [(last_convolution(m), m) for m in plain if type(m) is ChannelPruning]
    for module in plain:
        keep = keeps.get(module, False)
        if type(module) is GatedConv2d:
            yield module, SparseGatedConv2d(module, kind, keep)
        elif module in inside:
            continue
        elif type(module) is nn.Conv2d:
            new = SparseConv2d(module, kind, keep)
            for block in (block for conv, block in skipping if conv is module):
                new.gate_by(block)
            yield module, new
        elif type(module) is nn.Linear and backend != "cuda":  # where shapes cannot follow values
            yield module, SparseLinear(module)
        elif type(module) in NOTHING:
            yield module, nn.Identity()


def plain_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that do what their type says: without hooks or parts of another kind, and whose
    weights nothing else reads. All others stay as they are, which is right, only not faster."""
    try:
        read = [node.target for node in trace(model).nodes if node.op == "get_attr"]
    except ValueError:
        read = []
    plain = []
    for name, module in model.named_modules():
        parts = module.modules() if isinstance(module, GatedConv2d) else [module]
        if any(map(hooked, parts)) or any(target.startswith(f"{name}.") for target in read):
            continue
        if type(module) is GatedConv2d:
            ordinary = type(module.conv) is nn.Conv2d and type(module.norm) is nn.BatchNorm2d
            if not ordinary or module.norm.affine:
                continue
        plain.append(module)
    return plain


def inside_gated(model: nn.Module) -> set[nn.Module]:
    """The modules that belong to a gated layer, which replaces or keeps them itself."""
    layers = [m for m in model.modules() if isinstance(m, Gated)]
    parts = {m for x in layers if isinstance(x, GatedConv2d) for m in x.modules() if m is not x}
    return parts | {layer.predictor for layer in layers}


def detach(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A forward pre-hook: nothing that follows is recorded for a backward."""

    def cut(x: object) -> object:
        return x.detach() if isinstance(x, torch.Tensor) else x

    return tuple(map(cut, args)), {name: cut(x) for name, x in kwargs.items()}


def compact_handoff(model: nn.Module) -> dict[nn.Module, bool]:
    """The modules that may meet compact maps, and whether they hand them on as they are.

    A convolution hands on compact maps if all that read them can take those; so does a channelwise
    module between convolutions. The last one in a row fills in the empty channels again.
    """
    try:
        nodes = [node for node in trace(model).nodes if node.op == "call_module"]
    except ValueError:
        return {}  # every layer then gives and takes full maps
    module = {node: model.get_submodule(node.target) for node in nodes}
    uses = Counter(module.values())
    known = set(plain_modules(model)) - inside_gated(model)

    def takes(node: fx.Node) -> bool:
        kind = type(module.get(node))
        if module.get(node) not in known:
            return False
        if kind in CONVOLUTIONS:
            return True
        if kind in NOTHING:
            return hands_on(node)
        if kind not in KEEPS_EMPTY or getattr(module[node], "return_indices", False):
            return False
        return uses[module[node]] == 1 or hands_on(node)

    def hands_on(node: fx.Node) -> bool:
        return all(takes(reader) for reader in node.users)

    keeps = {}
    for node in nodes:
        if takes(node) and not (type(module[node]) in CONVOLUTIONS and uses[module[node]] > 1):
            keeps[module[node]] = hands_on(node)
    return keeps
