"""The exercises of notebook 04, Gated convolution."""

from collections.abc import Callable, Iterator

import torch

from ...method.wta import winner_take_all
from .engine import Case, CheckResult, check


def check_gated_output(function: Callable) -> CheckResult:
    """``gated_output(z, pi, beta)``: the layer's last line, ``z [N, C, H, W]``, ``pi [N, C]``."""

    def cases() -> Iterator[Case]:
        inside = "add beta to z first, then multiply by the gate, then ReLU"
        shapes = "give pi and beta size 1 in height and width: pi[:, :, None, None]"
        for shape in ([2, 3, 4, 5], [3, 3, 3, 3], [1, 4, 2, 2]):
            z, beta = torch.randn(shape), torch.randn(shape[1])
            pi = winner_take_all(2 * torch.rand(shape[:2]), 0.5)
            y = (pi[:, :, None, None] * (z + beta[:, None, None])).relu()
            yield Case((z, pi, beta), y, shapes if shape[0] == shape[1] else inside)

    return check(function, cases(), "it is the layer's last line, on 3 random batches.")


def check_mean_one_gate(function: Callable) -> CheckResult:
    """``mean_one_gate(g, density)``: winner-take-all, then every image's gates have mean 1."""

    def cases() -> Iterator[Case]:
        after = "select first, then divide each row by its own mean over all C channels"
        g = torch.rand(3, 8)
        for density in (0.5, 1.0):
            pi = winner_take_all(g, density)
            yield Case((g, density), pi / pi.mean(dim=1, keepdim=True), after)
        g = torch.stack([torch.rand(8), torch.zeros(8)])
        pi = winner_take_all(g, 0.25)
        pi[1, :2] = 1.0
        empty = "a row of zeros is 0 / 0: there its k winners (lower indices) share, C / k each"
        yield Case((g, 0.25), pi / pi.mean(dim=1, keepdim=True), empty)

    return check(function, cases(), "mean 1 in every row, a row of zeros included.")
