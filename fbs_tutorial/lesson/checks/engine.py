"""How a check runs: the reader's function on random inputs, compared, and explained in words.

A check never raises. It draws its inputs itself and returns a `CheckResult`, whose text is what a
notebook shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class CheckResult:
    """``passed``, and a message for the reader; true when passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return ("✔ " if self.passed else "✘ ") + self.message


class WrongError(Exception):
    """What a case found wrong, in words."""


@dataclass(frozen=True)
class Case:
    """One call ``function(*arguments)``, what it should return, and a hint if it does not.

    ``entry``: what a place in a vector stands for. ``unit``: of an expected number. ``mistakes``:
    what typical mistakes return, and the hint for each.
    """

    arguments: tuple
    expected: Tensor | int | list
    hint: str
    entry: str = "channel"
    unit: str = ""
    mistakes: tuple[tuple[Tensor | int | list, str], ...] = ()
    slip: float = 1e-8  # of numbers that may come out of sums in another order

    def hint_for(self, got: object) -> str:
        """The hint for the mistake that returns just this, else the case's own."""
        for returned, hint in self.mistakes:
            if not _difference(got, replace(self, expected=returned)):
                return hint
        return self.hint


def check(function: Callable, cases: Iterator[Case], praise: str) -> CheckResult:
    """Run ``function`` on the cases until one is wrong; ``praise`` says what was right."""
    name = getattr(function, "__name__", "the function")
    with torch.random.fork_rng(devices=[]):  # the notebook's random numbers are left alone
        torch.manual_seed(2019)
        try:
            for case in cases:
                _run_case(function, case)
        except WrongError as wrong:
            return CheckResult(False, f"{name}: {wrong}")
    return CheckResult(True, f"{name}: {praise}")


def _run_case(function: Callable, case: Case) -> None:
    """Call the reader's function on copies and raise `WrongError` with an explanation."""
    copies = [a.clone() if isinstance(a, Tensor) else a for a in case.arguments]
    call = ", ".join(_short(argument) for argument in case.arguments)
    how = f"\n  called with {call}\n  hint: "
    try:
        got = function(*copies)
    except Exception as error:  # whatever a reader's code may raise
        if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's have a text
            raise WrongError("not written yet: replace the line that raises") from None
        text = f"raised {type(error).__name__}: {error}{how}{case.hint}"
        raise WrongError(text) from None
    if got is None:
        raise WrongError("returned None; is there a return?")
    for before, after in zip(case.arguments, copies, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            raise WrongError("changed its input in place; work on a new tensor")
    difference = _difference(got, case)
    if difference:
        raise WrongError(f"{difference}{how}{case.hint_for(got)}")


def _difference(got: object, case: Case) -> str:
    """What is wrong with ``got``, empty if nothing is."""
    expected = case.expected
    if isinstance(expected, (int, list)):
        try:
            return "" if got == expected else f"expected {expected}{case.unit}, got {_short(got)}"
        except Exception:
            return f"expected {expected}{case.unit}, got {type(got).__name__}"
    if not isinstance(got, Tensor):
        return f"expected a tensor {list(expected.shape)}, got {type(got).__name__}"
    if got.shape != expected.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    wrong = ~torch.isclose(got.detach().to(expected.dtype), expected, atol=case.slip)
    if not wrong.any():
        return ""
    place = tuple(wrong.nonzero()[0].tolist())  # () for a single number
    names = ("image", "channel", "row", "column") if len(place) > 1 else (case.entry,)
    where = ", ".join(f"{name} {index}" for name, index in zip(names, place, strict=False))
    values = f"expected {_short(expected[place].item())}, got {_short(got[place].item())}"
    return f"first wrong value: {where}: {values}" if where else values


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return "[" + ", ".join(_short(part) for part in value) + "]"
    if isinstance(value, Tensor):
        shape = list(value.shape)
        if value.numel() > 10:
            return f"tensor {shape}"
        return f"tensor {[round(v, 3) for v in value.flatten().tolist()]}"
    return f"{value:.3g}" if isinstance(value, float) else repr(value)


def draw(low: int, high: int) -> list[int]:
    """Twenty random whole numbers from ``low`` to below ``high``."""
    return torch.randint(low, high, (20,)).tolist()
