"""How many bytes a network takes once what was removed from it is not stored either."""

from math import prod

import torch
from torch import nn

from .masks import check_module, mask_of


def stored_bytes(network: nn.Module) -> int:
    """Bytes of weights, norms and predictors that are left, and of what says which those are.

    Masked kernels are not stored, but their mask is, a bit for each kernel; so is a bit for each
    stripe that a stripe-wise layer could have. Numbers that only count, such as how many batches a
    norm has seen, are left out. A gated network stores all its channels, since any can win.

    Raises:
        TypeError: ``network`` is not a module.
    """
    check_module(network)
    state = network.state_dict().values()
    bits = sum(t.numel() for t in state if t.dtype == torch.bool)
    numbers = sum(t.numel() * t.element_size() for t in state if t.is_floating_point())
    return numbers - _masked_bytes(network) + -(-bits // 8)


def _masked_bytes(network: nn.Module) -> int:
    """Bytes of the weights in masked kernels."""
    total = 0
    for conv in network.modules():
        mask = mask_of(conv) if isinstance(conv, nn.Conv2d) else None
        if mask is not None:
            area = prod(conv.kernel_size) * conv.weight.element_size()
            total += (~mask).sum().item() * area
    return total
