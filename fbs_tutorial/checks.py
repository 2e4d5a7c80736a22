"""Checks for the exercises: they say what is wrong, where, and what to think of. They never raise.

Each takes the reader's function, runs it on random inputs that it draws itself, and returns a
`CheckResult`, whose text is what a notebook shows.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from math import ceil

import torch
from torch import Tensor

from . import __version__
from .wta import winner_mask, winner_take_all

NEEDED = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "ipywidgets", "tqdm")


@dataclass(frozen=True)
class CheckResult:
    """``passed``, and a message for the reader; true when passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return ("✔ " if self.passed else "✘ ") + self.message


class _WrongError(Exception):
    """What a case found wrong, in words."""


@dataclass(frozen=True)
class _Case:
    """One call ``function(*arguments)``, what it should return, and a hint if it does not."""

    arguments: tuple
    expected: Tensor | int
    hint: str


def environment() -> CheckResult:
    """Versions and device of this notebook's Python, and what to do if something is missing."""
    found, missing = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    device = f"GPU ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "CPU"
    text = (
        f"fbs_tutorial {__version__}, Python {platform.python_version()}, device: {device}\n"
        f"  {', '.join(found)}"
    )
    if missing:
        remedy = f"run  %pip install {' '.join(missing)}  in a cell, then restart the kernel"
        return CheckResult(False, f"missing: {', '.join(missing)}; {remedy}\n  {text}")
    return CheckResult(True, f"everything is here: {text}")


def check_conv_macs(function: Callable) -> CheckResult:
    """``conv_macs(live_inputs, winners, kernel_size, height, width)``: MACs of one convolution."""

    def cases() -> Iterator[_Case]:
        for _ in range(8):
            a, b, k, h, w = (int(n) for n in torch.randint(2, 9, (5,)))
            yield _Case(
                (a, b, k, h, w),
                a * b * k * k * h * w,
                "every value of every winner's output map sums kernel_size * kernel_size products "
                "for each live input",
            )

    return _check(function, cases(), "it agrees with the definition on 8 random layers.")


def check_shared_winners(function: Callable) -> CheckResult:
    """``shared_winners(first, second)``: channels that win for both images, from bool ``[C]``."""

    def cases() -> Iterator[_Case]:
        for channels in (4, 16, 33):
            first, second = winner_mask(torch.rand(2, channels), 0.5)
            expected = int((first & second).sum())
            yield _Case((first, second), expected, "count the places where both are True")

    return _check(function, cases(), "it counts right on 3 random pairs of winner sets.")


def check_active_channels(function: Callable) -> CheckResult:
    """``active_channels(channels, density)``: ceil(density * channels), without a float slip."""

    def cases() -> Iterator[_Case]:
        slip = "density * channels in floating point can land a hair above a whole number"
        up = "round up: a density never gives fewer channels than its share"
        few = "even the smallest density leaves one channel"
        for channels, hundredths, hint in [
            (8, 50, up),
            (10, 31, up),
            (3, 1, few),
            (100, 55, slip),
            (100, 7, slip),
            (50, 14, slip),
            *((int(c), int(h), slip) for c, h in zip(_draw(1, 200), _draw(1, 101), strict=True)),
        ]:
            expected = max(1, ceil(Fraction(hundredths, 100) * channels))
            yield _Case((channels, hundredths / 100), expected, hint)

    return _check(function, cases(), "k is right for 26 pairs of channels and density.")


def check_winner_take_all(function: Callable) -> CheckResult:
    """``winner_take_all(g, density)``: ``[N, C] -> [N, C]``; density a number or a tensor [N]."""

    def cases() -> Iterator[_Case]:
        plain = "keep the ceil(d * C) largest values of each row, set the rest to 0"
        ties = "equal values: the lower index wins, so that k is exact (argsort(stable=True))"
        each = "density is a tensor [N] here: row i has its own k"
        g = torch.rand(3, 8)
        yield _Case((g, 0.5), winner_take_all(g, 0.5), plain)
        yield _Case((g, 0.3), winner_take_all(g, 0.3), plain)
        g = torch.randint(1, 4, (4, 10)).float()
        yield _Case((g, 0.3), winner_take_all(g, 0.3), ties)
        g, density = torch.rand(4, 10), torch.tensor([0.1, 0.55, 1.0, 0.3])
        yield _Case((g, density), winner_take_all(g, density), each)
        g = torch.rand(2, 100)
        slip = "k has a rounding slip: 0.55 * 100 is a little more than 55"
        yield _Case((g, 0.55), winner_take_all(g, 0.55), slip)
        few = "k is at least 1"
        density = torch.tensor([1e-8, 0.5], dtype=torch.float64)
        yield _Case((g, density), winner_take_all(g, density), few)

    return _check(function, cases(), "right on plain rows, ties and one density an image.")


def check_winner_take_all_backward(function: Callable) -> CheckResult:
    """``winner_take_all_backward(g, density, upstream)``: the gradient with respect to ``g``."""

    def cases() -> Iterator[_Case]:
        for density in (0.25, 0.5, 1.0):
            g, upstream = torch.rand(3, 8).sub(0.4).relu(), torch.randn(3, 8)  # zeros can win
            expected = torch.where(winner_mask(g, density), upstream, 0.0)
            hint = (
                "a winner is copied, so its gradient is copied; a loser does not reach the output"
            )
            yield _Case((g, density, upstream), expected, hint)

    return _check(function, cases(), "it is what autograd computes, at 3 densities.")


def _draw(low: int, high: int) -> list[int]:
    return torch.randint(low, high, (20,)).tolist()


def _check(function: Callable, cases: Iterator[_Case], praise: str) -> CheckResult:
    name = getattr(function, "__name__", "the function")
    with torch.random.fork_rng(devices=[]):  # the notebook's random numbers are left alone
        torch.manual_seed(2019)
        try:
            for case in cases:
                _run_case(function, case)
        except _WrongError as wrong:
            return CheckResult(False, f"{name}: {wrong}")
    return CheckResult(True, f"{name}: {praise}")


def _run_case(function: Callable, case: _Case) -> None:
    """Call the reader's function on copies and raise `_WrongError` with an explanation."""
    copies = [a.clone() if isinstance(a, Tensor) else a for a in case.arguments]
    call = ", ".join(_short(argument) for argument in case.arguments)
    try:
        got = function(*copies)
    except Exception as error:  # whatever a reader's code may raise
        if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's have a text
            raise _WrongError("not written yet: replace the line that raises") from None
        raise _WrongError(f"raised {type(error).__name__}: {error}\n  called with {call}") from None
    if got is None:
        raise _WrongError("returned None; is there a return?")
    for before, after in zip(case.arguments, copies, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise _WrongError("changed its input in place; work on a new tensor")
    difference = _difference(got, case.expected)
    if difference:
        raise _WrongError(f"{difference}\n  called with {call}\n  hint: {case.hint}")


def _difference(got: object, expected: Tensor | int) -> str:
    """What is wrong with ``got``, empty if nothing is."""
    if isinstance(expected, int):
        try:
            return "" if got == expected else f"expected {expected}, got {_short(got)}"
        except Exception:
            return f"expected {expected}, got {type(got).__name__}"
    if not isinstance(got, Tensor):
        return f"expected a tensor {list(expected.shape)}, got {type(got).__name__}"
    if got.shape != expected.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    wrong = ~torch.isclose(got.detach().to(expected.dtype), expected)
    if not wrong.any():
        return ""
    image, channel = wrong.nonzero()[0].tolist()
    return (
        f"first wrong value: image {image}, channel {channel}: "
        f"expected {expected[image, channel]:.3g}, got {got[image, channel].item():.3g}"
    )


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        shape = list(value.shape)
        if value.numel() > 10:
            return f"tensor {shape}"
        return f"tensor {[round(v, 3) for v in value.flatten().tolist()]}"
    return repr(value)
