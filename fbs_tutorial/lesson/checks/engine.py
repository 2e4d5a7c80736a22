"""How an exercise is checked: the reader's function on hidden inputs, compared, and explained.

A check never raises. It says first whether the answer behaves like one of the mistakes that are
typical of the exercise; each of them is kept as code, and runs on the same inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...data import as_tensors, load_data, stratified_split


@dataclass(frozen=True)
class CheckResult:
    """``passed``, and a message for the reader; true when passed."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return ("✔ " if self.passed else "✘ ") + self.message


class MissingError(Exception):
    """What a check needs and this computer lacks: no mistake of the reader's."""


def plainly(function: Callable, *arguments: object) -> object:
    """What the function returns."""
    return function(*arguments)


def of_dictionary(said: Callable[[Mapping], str]) -> Callable[[Callable], str | None]:
    """An `ask` of a `Case`: ``said`` puts into words the dictionary that a function returns.

    Whatever is no dictionary is named; None stays None, of which the engine speaks.
    """

    def ask(function: Callable, *arguments: object) -> str | None:
        returned = function(*arguments)
        if returned is None or isinstance(returned, Mapping):
            return None if returned is None else said(returned)
        return f"{type(returned).__name__} instead of a dictionary"

    return ask


@dataclass(frozen=True)
class Case:
    """One call ``function(*arguments)``, and what it should return.

    ``hint`` says what to think of; ``more`` nearly gives the answer and is shown only on request.
    ``ask(function, *arguments)`` is what is compared, where it is not simply the returned value.
    ``axes``: what the places of a wrong value are called; the places of a list without such names
    are called just that. ``unit``: of an expected number. ``called``: what the function was called
    with, in words, where the arguments would say nothing.
    """

    arguments: tuple
    expected: Tensor | int | list | str
    hint: str
    more: str = ""
    ask: Callable = plainly
    axes: tuple[str, ...] = ()
    unit: str = ""
    called: str = ""


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer as code, and ``says``: what it does, to whoever wrote it."""

    function: Callable
    says: str


@dataclass(frozen=True)
class Exercise:
    """An exercise: what to write, the hidden cases, and the mistakes that are typical of it.

    It is called with the reader's function, ``check_name(function)``, and returns a `CheckResult`;
    ``check_name(function, hint=2)`` says more.
    """

    spec: str
    cases: Callable[..., Iterator[Case]]
    praise: str
    mistakes: Sequence[Mistake] = field(default=(), repr=False)
    seed: int = field(default=2019, repr=False)  # of the cases that are drawn
    # what the mistakes give on the cases, which are the same at every call
    known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def other(self, seed: int, /, *inputs: object) -> "Exercise":
        """The exercise with other cases: drawn anew, and made of ``inputs`` where none is drawn."""
        return replace(self, seed=seed, cases=partial(self.cases, *inputs))

    def __call__(self, function: Callable, hint: int = 1) -> CheckResult:
        name = _name(function)
        with torch.random.fork_rng(devices=[]):  # the notebook's random numbers are left alone
            torch.default_generator.manual_seed(self.seed)  # a GPU has one of its own
            cases = list(self.cases())
            for case in cases:
                wrong = _wrong(function, case)
                if wrong:
                    likely = "" if wrong.final else self._recognised(function, cases)
                    return CheckResult(False, f"{name}: {_message(wrong, case, likely, hint)}")
        return CheckResult(True, f"{name}: {self.praise}")

    def _recognised(self, function: Callable, cases: Sequence[Case]) -> str:
        """What the mistake does that gives the same on all inputs; empty if none does."""
        answers = [_outcome(function, case) for case in cases]
        for number, mistake in enumerate(self.mistakes):
            theirs = (self._known(number, place, case) for place, case in enumerate(cases))
            if all(map(_same, answers, theirs)):
                return mistake.says
        return ""

    def _known(self, mistake: int, place: int, case: Case) -> object:
        key = mistake, place
        if key not in self.known:
            self.known[key] = _outcome(self.mistakes[mistake].function, case)
        return self.known[key]


@dataclass(frozen=True)
class Experiment(Exercise):
    """An exercise without one right answer.

    An answer that passes its cases goes to ``judge(function)``, which tells whether it is good
    enough, and in words how far it comes.
    """

    judge: Callable[..., tuple[bool, str]] = field(kw_only=True, repr=False)

    def other(self, seed: int, /, *inputs: object, **options: object) -> "Experiment":
        """The same with other cases, and judged with ``options``."""
        return replace(super().other(seed, *inputs), judge=partial(self.judge, **options))

    def __call__(self, function: Callable, hint: int = 1, **options: object) -> CheckResult:
        found = super().__call__(function, hint)
        if not found:
            return found
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            passed, said = self.judge(function, **options)
        return CheckResult(passed, f"{_name(function)}: {said}")


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "the function")


@dataclass(frozen=True)
class _Wrong:
    """What is wrong in words; ``final`` where no hint and no comparison could add to it."""

    text: str
    final: bool = False


def _wrong(function: Callable, case: Case) -> _Wrong | None:
    """What is wrong with the reader's answer to one case, None if nothing is."""
    copies = _copies(case)
    try:
        got = case.ask(function, *copies)
    except NotImplementedError as error:
        if not error.args:  # PyTorch's have a text
            return _Wrong("not written yet: replace the line that raises", final=True)
        return _Wrong(f"raised NotImplementedError: {error}")
    except MissingError as error:
        return _Wrong(str(error), final=True)
    except NameError as error:
        return _Wrong(f"{error}: is it spelt as where it was defined, and was that cell run?", True)
    except Exception as error:  # whatever a reader's code may raise
        return _Wrong(f"raised {type(error).__name__}: {error}")
    if got is None:
        return _Wrong("returned None; is there a return?", final=True)
    for before, after in zip(case.arguments, copies, strict=True):
        if isinstance(before, Tensor) and not torch.equal(before, after):
            return _Wrong("changed its input in place; work on a new tensor", final=True)
    difference = _difference(got, case.expected, case)
    return _Wrong(difference) if difference else None


def _copies(case: Case) -> list:
    return [a.clone() if isinstance(a, Tensor) else a for a in case.arguments]


def _message(wrong: _Wrong, case: Case, likely: str, hint: int) -> str:
    if wrong.final:
        return wrong.text
    lines = [wrong.text]
    called = case.called or ", ".join(map(short, case.arguments))
    if called:
        lines.append(f"called with {called}")
    if likely:
        lines.append(f"it looks as if {likely}")
    lines.append(f"hint: {case.hint}" if hint < 2 or not case.more else f"hint: {case.more}")
    if hint < 2 and case.more:
        lines.append("hint=2, as a second argument of the check, says more")
    return "\n  ".join(lines)


def _outcome(function: Callable, case: Case) -> object:
    """What comes out of one case: a value, or the kind of error."""
    try:
        return case.ask(function, *_copies(case))
    except Exception as error:
        return type(error)


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape:
            return False
        # float64 holds whatever the two are; NaN at the same places is the same mistake
        pair = (t.detach().to(torch.float64) for t in (first, second))
        return torch.allclose(*pair, rtol=1e-5, atol=1e-7, equal_nan=True)
    try:
        return bool(first == second)
    except Exception:
        return False


def _difference(got: object, expected: object, case: Case) -> str:
    """What is wrong with ``got``, empty if nothing is."""
    if not isinstance(expected, Tensor):
        try:
            same = bool(got == expected)
        except Exception:
            same = False
        return "" if same else _unlike(got, expected, case.unit)
    if not isinstance(got, Tensor):
        return f"expected a tensor of shape {list(expected.shape)}, got {short(got)}"
    if got.shape != expected.shape:
        return f"expected shape {list(expected.shape)}, got {list(got.shape)}"
    if kinds := _wrong_kind(got, expected):
        return kinds
    wrong = ~torch.isclose(got.detach().to(expected.dtype), expected)
    return _first_wrong(got, expected, wrong, case.axes) if wrong.any() else ""


def _unlike(got: object, expected: object, unit: str) -> str:
    """Two values that differ, and where they look the same, to the last digit."""
    one, other = short(expected), short(got)
    if one == other and isinstance(expected, list) and isinstance(got, list):
        pairs = zip(got, expected, strict=False)  # of one length, as they look the same
        for place, pair in enumerate(pairs):
            if not _same(*pair):
                return f"place {place} of the list: {_unlike(*pair, unit)}"
    if isinstance(expected, float) and isinstance(got, float):
        one, other = apart(float(expected), float(got))  # NumPy's have names around them
    return f"expected {one}{unit}, got {other}"


def _wrong_kind(got: Tensor, expected: Tensor) -> str:
    """True and False, whole numbers, or any numbers: which was asked for, if it is not there."""
    if expected.dtype == torch.bool and got.dtype != torch.bool:
        return f"expected a mask of True and False, got numbers ({got.dtype})"
    if not expected.is_floating_point() and got.is_floating_point():
        return f"expected whole numbers, got {got.dtype}"
    return ""


PLACES = ("image", "channel", "row", "column")  # of a wrong value in a tensor


def _first_wrong(got: Tensor, expected: Tensor, wrong: Tensor, axes: Sequence[str]) -> str:
    place = tuple(wrong.nonzero()[0].tolist())  # () for a single number
    names = axes or (PLACES if len(place) > 1 else ("place",))
    where = ", ".join(f"{name} {index}" for name, index in zip(names, place, strict=False))
    values = "expected {}, got {}".format(*apart(expected[place].item(), got[place].item()))
    return f"first wrong value: {where}: {values}" if where else values


def apart(one: object, other: object) -> tuple[str, str]:
    """Two values as a message shows them, with as many digits as tell them apart."""
    if isinstance(one, float) and isinstance(other, float) and one != other:
        for digits in range(3, 18):
            texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
            if texts[0] != texts[1]:
                return texts
    return short(one), short(other)


LONGEST = 100  # letters of a list of tensors that is shown whole


def short(value: object) -> str:
    """A value as a message shows it: small tensors whole, large ones by their shape."""
    if isinstance(value, Tensor):
        if value.numel() > 12:
            return f"a tensor of shape {list(value.shape)}"
        return str(_rounded(value.tolist()))
    if isinstance(value, list | tuple):
        text = ", ".join(map(short, value))
        if len(text) > LONGEST and any(isinstance(part, Tensor) for part in value):
            return f"{len(value)} tensors, the first of shape {list(value[0].shape)}"
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    if isinstance(value, bool) or not isinstance(value, float):
        return value if isinstance(value, str) else repr(value)
    return f"{value:.3g}"


def _rounded(value: object) -> object:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


class Operators(TorchDispatchMode):
    """``names``: of PyTorch's operators that ran while it was entered, ``sort`` say."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.names.add(operator.name().split("::")[1].split(".")[0])
        return operator(*arguments, **(keywords or {}))


def draw(low: int, high: int) -> list[int]:
    """Twenty random whole numbers from ``low`` to below ``high``."""
    return torch.randint(low, high, (20,)).tolist()


@cache
def digits_to_judge(test: bool = False) -> tuple[Tensor, Tensor]:
    """197 images and labels held out of the training digits, or the 500 for testing."""
    images, labels = as_tensors(load_data("digits")[test])
    if test:
        return images, labels
    _, held_out = stratified_split(labels, 197, seed=0)
    return images[held_out], labels[held_out]
