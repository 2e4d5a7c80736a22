"""`accelerate`: put an executing layer in the place of every layer that can skip something."""

import torch
from torch import nn

from ..method.budgets import outline
from ..method.gated import ChannelPruning, Gated, GatedConv2d, gated_layers
from ..method.graph import Parts, copied, last_convolution, read_directly, traceable_parts
from ..method.rebuild import rebuild
from ..method.vouch import altered, check_network, doubt, gated_parts, has_statistics, print_left
from . import native
from .check import SelfCheck
from .compact import full
from .cpu import CpuConv, SparseLinear
from .layers import SparseChannelPruning, SparseConv, SparseConv2d, SparseGatedConv2d
from .reference import ReferenceConv

BACKENDS = ("auto", "reference", "cpu", "native", "cuda")


def accelerate(model: nn.Module, backend: str = "auto", *, check: bool = True) -> nn.Module:
    """A copy of ``model`` that computes only what the gates let through, image by image.

    Its outputs are those of ``model.eval()``, up to rounding. Where two saliencies at the cut are
    equal but for rounding, the two may choose differently, and both are right.

    Every gated convolution computes its winners from the inputs that are not empty; other
    convolutions and linear layers leave out empty inputs too. Layers hand on the winners' maps
    alone, as a tensor that passes for the full maps (`Compact`): so do hooks and callers of a part
    see it. What cannot be vouched for, as in `convert`, stays as it is, and a printed line names
    it with the reason. Weights are as they were at this call; densities can be set later, with
    `set_density`. Several threads may call it at the same time, but for networks with
    `ChannelPruning` blocks, which serve one thread at a time.

    Args:
        model: in eval mode, with gated layers; float32 or float64, on a GPU float16 or bfloat16
            too. Those are what is stored and multiplied: gates and sums are in float32.
        backend: ``"reference"`` loops that are easy to read; ``"cpu"``; ``"native"``, the fastest
            there, compiled at its first use, for float32; ``"cuda"``; ``"auto"`` the one for the
            device the model is on, and ``"cpu"``, with a warning, where nothing compiles.
        check: before it runs for the first time, the first image of that batch goes through the
            accelerated network and through the masked one with the same winners. What differs by
            more than rounding (of the largest output 1e-4 in float32, 1e-10 in float64, 5e-3 in
            TF32 and float16, 2e-2 in bfloat16) is named in a warning, and runs masked.

    Raises:
        TypeError: ``model`` is not a module, or has a dtype that the backend does not do.
        ValueError: an unknown backend, one that cannot be built here, or a model that is not on
            its device; a model in training mode, without a gated layer, or accelerated already.
    """
    check_model(model)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    device, dtypes = check_tensors(model)
    if backend == "auto":
        backend = "cuda" if device == "cuda" else native.fastest(dtypes)
    check_device(backend, device)
    check_dtypes(backend, dtypes)
    if backend == "native":
        native.require()
    model = copied(model).requires_grad_(False).eval()
    counted, parts = outline(model), traceable_parts(model, blocks=True)
    names = {module: name for name, module in model.named_modules()}
    plain, left = plain_modules(model, parts)
    new = replacements(plain, inside_gated(model), backend)
    model, went_back = rebuild(model, [{old: new[old]} for old in new], [(False, parts)])
    print_left("accelerate", {names[module]: why for module, why in (left | went_back).items()})
    if check:
        replaced = {old: module for old, module in new.items() if old not in went_back}
        model.register_forward_pre_hook(SelfCheck(model, replaced), with_kwargs=True)
    model.register_forward_pre_hook(detach, with_kwargs=True)
    model.register_forward_hook(fill_in)
    model.__dict__["outline"] = counted  # what `look_again` counts with; not a part of the network
    return model


def check_model(model: nn.Module) -> None:
    """Raise unless the model is in eval mode, and has gated layers that can be executed."""
    check_network(model)
    layers = gated_layers(model)
    if model.training:
        raise ValueError("accelerate is for inference only: call model.eval() first")
    if any(isinstance(module, SparseConv) for module in model.modules()):
        raise ValueError("model is accelerated already; give the network it was made from")
    norms = [getattr(layer, "norm", None) for layer in layers.values()]
    batch_norms = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    if len(batch_norms) == len(norms) and not any(map(has_statistics, batch_norms)):
        raise ValueError(
            f"accelerate needs batch norms with running statistics, see {', '.join(layers)!r}"
        )


def check_tensors(model: nn.Module) -> tuple[str, set[torch.dtype]]:
    """The one type of device that a model is on, and its floating-point dtypes.

    Raises:
        ValueError: its parts are on several devices.
    """
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
    plain: list[nn.Module], inside: set[nn.Module], backend: str
) -> dict[nn.Module, nn.Module]:
    """Every module that is executed differently, and what by; those inside gated layers by them."""
    pools, linear = {}, SparseLinear
    if backend == "cuda":
        from .cuda import cuda_conv as kind  # here, because Triton takes a while to import
        from .rows import RowsMaxPool2d

        pools = {nn.MaxPool2d: RowsMaxPool2d}
    elif backend == "native":
        kind, linear = native.NativeConv, native.NativeLinear
        pools = native.POOLS
    else:
        kind = ReferenceConv if backend == "reference" else CpuConv
    new = {}
    for module in plain:
        if type(module) is GatedConv2d:
            new[module] = SparseGatedConv2d(module, kind)
        elif module in inside:
            continue
        elif type(module) is nn.Conv2d:
            new[module] = SparseConv2d(module, kind)
        elif type(module) is nn.Linear and backend != "cuda":  # where shapes cannot follow values
            new[module] = linear(module)
        elif type(module) in pools:
            new[module] = pools[type(module)](module)
        elif type(module) in (nn.Dropout, nn.Dropout2d):  # which do nothing in eval mode
            new[module] = nn.Identity()
    for block in plain:
        if type(block) is ChannelPruning and (conv := last_convolution(block)) in new:
            new[block] = SparseChannelPruning(block, new[conv])
    return new


def plain_modules(model: nn.Module, parts: Parts) -> tuple[list[nn.Module], dict[nn.Module, str]]:
    """The modules that do what their type says and whose weights nothing else reads; and those
    that could be executed, were it not for a reason."""
    read, inside = read_directly(parts), inside_gated(model)
    plain, left = [], {}
    for module in model.modules():
        gated = isinstance(module, GatedConv2d)
        own = set(module.modules()) if gated else {module}
        why = doubt(module) if own.isdisjoint(read) else "other code reads its weights"
        if not why:
            plain.append(module)
        elif isinstance(module, EXECUTED) and module not in inside and not is_pytorchs(module):
            left[module] = why
    return plain, left


EXECUTED = (GatedConv2d, ChannelPruning, nn.Conv2d, nn.Linear)


def is_pytorchs(module: nn.Module) -> bool:
    """True for layers that PyTorch's own modules read in their own ways, as attention does."""
    return type(module).__module__.startswith("torch.nn.modules") and not altered(module)


def inside_gated(model: nn.Module) -> set[nn.Module]:
    """The modules that belong to a gated layer, which replaces or keeps them itself."""
    predictors = {layer.predictor for layer in model.modules() if isinstance(layer, Gated)}
    return gated_parts(model, (GatedConv2d,)) | predictors


def detach(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A forward pre-hook: nothing that follows is recorded for a backward."""

    def cut(x: object) -> object:
        return x.detach() if isinstance(x, torch.Tensor) else x

    return tuple(map(cut, args)), {name: cut(x) for name, x in kwargs.items()}


def fill_in(module: nn.Module, args: tuple, output: object) -> object:
    """A forward hook: what leaves the network are ordinary tensors."""
    return full(output)
