"""Measured saliency: one number that says how strongly an image excites a channel."""

import math

import torch
from torch import Tensor

REDUCTIONS = ("l1", "l2", "max", "avg")


def channel_saliency(x: Tensor, reduce: str = "l1") -> Tensor:
    """Reduce every channel of every image to one number: ``[N, C, H, W] -> [N, C]``.

    The paper's ``ss`` subsamples the input of a layer before the predictor sees it
    ("Dynamic Channel Pruning", ICLR 2019), with ``"l1"`` in its experiments.

    Args:
        x: feature maps ``[N, C, H, W]``, floating point, none of the four sizes 0.
        reduce: ``"l1"`` mean absolute value, ``"l2"`` root mean square, ``"max"`` largest
            absolute value, ``"avg"`` signed mean.

    Returns:
        ``[N, C]`` in the units of ``x``.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: ``x`` is not a non-empty 4-D tensor, or ``reduce`` is unknown.
    """
    check_feature_maps(x, "x")
    return reduce_channels(x, reduce)


def reduce_channels(x: Tensor, reduce: str) -> Tensor:
    """`channel_saliency` of feature maps that have been checked."""
    if reduce == "l1":
        # Not `mean`, whose gradient is divided by H * W in every place; this one once per channel.
        # In float32 or finer: the sum of a large map may be more than float16 can hold.
        dtype, sizes = torch.promote_types(x.dtype, torch.float32), x if _is_relu(x) else x.abs()
        return (sizes.sum(dim=(2, 3), dtype=dtype) / (x.shape[2] * x.shape[3])).to(x.dtype)
    if reduce == "l2":
        # Not the root of a mean of squares: its gradient at an all-zero channel would be NaN.
        return torch.linalg.vector_norm(x, dim=(2, 3)) / math.sqrt(x.shape[2] * x.shape[3])
    if reduce == "max":
        return x.abs().amax(dim=(2, 3))
    if reduce == "avg":
        return x.mean(dim=(2, 3))
    raise ValueError(f"reduce must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduce!r}")


def _is_relu(x: Tensor) -> bool:
    """True for what a ReLU has just put out, in training: it is its own absolute value, and the
    gradient that `abs` has at 0, none, is the ReLU's as well. That saves a third of the passes over
    a map that a gated layer makes."""
    if torch.compiler.is_compiling() or x.grad_fn is None:
        return False
    return x.grad_fn.name() == "ReluBackward0" and x._version == 0  # nobody has written into it


def check_feature_maps(x: Tensor, name: str) -> None:
    """Raise unless ``x`` is a non-empty floating-point tensor ``[N, C, H, W]``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor [N, C, H, W], got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"{name} must have 4 dimensions [N, C, H, W], got shape {list(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty, got shape {list(x.shape)}")
