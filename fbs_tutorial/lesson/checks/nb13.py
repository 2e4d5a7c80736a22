"""The exercises of notebook 13, Your project, and the check of the reader's own report."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...method.convert import convert
from ...method.gated import gated_layers, is_gated
from ...method.macs import count_macs
from ..project import CRITERIA, faults, margin
from .engine import Case, CheckResult, Exercise, Experiment, Mistake, of_dictionary

# Exercise 1: the width of the fair opponent


def fair_width(first: int, rest: int, gated: float, predictors: int) -> float:
    """``w`` in (0, 1] with ``first * w + rest * w**2 == gated + predictors``, else 1."""
    root = (first**2 + 4 * rest * (gated + predictors)) ** 0.5
    return min((root - first) / (2 * rest), 1.0)


def _rounded(function: Callable, *arguments: float) -> float:
    return round(float(function(*arguments)), 4)


COSTS = (  # first, rest, gated, predictors; the last costs more than the plain network
    (20_000, 1_000_000, 150_000, 4_000),
    (300_000, 700_000, 200_000, 10_000),
    (50_000, 400_000, 90_000, 0),
    (20_000, 100_000, 118_000, 9_000),
)


def _costs(all_costs: Sequence[tuple[int, int, int, int]] = COSTS) -> Iterator[Case]:
    grows = "how do the first layer's MACs grow with w, and how those of the others?"
    quadratic = "first * w + rest * w² = gated + predictors is a quadratic equation"
    *costs, dear = all_costs
    for each in costs:
        yield Case(each, _rounded(fair_width, *each), grows, quadratic, ask=_rounded)
    wide = "with its predictors this gated network costs more than the plain one"
    yield Case(dear, 1.0, wide, "no opponent is wider than the plain network", ask=_rounded)


def _capped(width: float) -> float:
    return min(width, 1.0)


check_fair_width = Exercise(
    "fair_width(first, rest, gated, predictors): the width at which a plain network costs as much",
    _costs,
    "the opponent costs what the gated network costs, its predictors included.",
    (
        Mistake(
            lambda f, r, g, p: _capped(((g + p) / (f + r)) ** 0.5),
            "you take the square root of the share: the first layer's input does not get narrower",
        ),
        Mistake(
            lambda f, r, g, p: _capped((g + p) / (f + r)),
            "your MACs fall in proportion to the width: inner layers lose inputs and outputs",
        ),
        Mistake(lambda f, r, g, p: fair_width(f, r, g, 0), "you forget the predictors' MACs"),
        Mistake(
            lambda f, r, g, p: ((f**2 + 4 * r * (g + p)) ** 0.5 - f) / (2 * r),
            "your opponent may be wider than the plain network",
        ),
        Mistake(
            lambda f, r, g, p: (-((f**2 + 4 * r * (g + p)) ** 0.5) - f) / (2 * r),
            "you take the other root of the quadratic: a width is above 0",
        ),
    ),
)

# Exercise 2: what is unfair in seven reports

FLAWS = {
    "A": "opponent", "B": "test", "C": "controls", "D": "clock", "E": "seeds", "F": "fair",
    "G": "opponent",
}  # fmt: skip
WORDS = ("test", "seeds", "opponent", "clock", "controls", "fair")
EACH = "one of the words for each letter"
QUESTIONS = {
    "A": "how many MACs has each, predictors included?",
    "B": "how was the density chosen?",
    "C": "what shows that the choice matters?",
    "D": "how were the milliseconds taken?",
    "E": "how many trainings of each network are there?",
    "F": "does it claim more than its numbers bear out?",
    "G": "what did each network get before it was measured?",
}


@of_dictionary
def _form(answer: Mapping) -> str:
    """What is missing or not one of the words, or EACH."""
    missing = [name for name in FLAWS if name not in answer]
    if missing:
        return f"no word for {', '.join(missing)}"
    unknown = {str(answer[name]): name for name in FLAWS if answer[name] not in WORDS}
    if unknown:
        words = ", ".join(f"{word!r} for {name}" for word, name in unknown.items())
        return f"{words}; the words are {', '.join(WORDS)}"
    return EACH


@of_dictionary
def _correct(answer: Mapping) -> str:
    """How many letters have the correct word."""
    count = sum(answer[name] == flaw for name, flaw in FLAWS.items())
    return f"{count} of {len(FLAWS)} correct"


def _word(function: Callable, name: str) -> str:
    return function()[name]


def _reports() -> Iterator[Case]:
    spec = "unfair() returns a dictionary: the letters A to G, and a word for each"
    yield Case((), EACH, spec, ask=_form)
    whole = "read each report as its opponent would: which comparison would you not accept?"
    more = "; ".join(f"{name}: {question}" for name, question in QUESTIONS.items())
    yield Case((), f"{len(FLAWS)} of {len(FLAWS)} correct", whole, more, ask=_correct)
    for name, flaw in FLAWS.items():  # tells mistakes apart; the count has failed before
        yield Case((name,), flaw, QUESTIONS[name], ask=_word)


def _but(**others: str) -> Callable:
    return lambda: {**FLAWS, **others}


GUESSED = {  # wrong words for which there are reasons: what to say to whoever takes them
    ("A", "seeds"): "which are three of each: look at its MACs",
    ("B", "opponent"): "which costs the same: who chose d = 0.35?",
    ("C", "opponent"): "which is fair: what do 412 winner sets prove?",
    ("C", "seeds"): "which are three: what do 412 winner sets prove?",
    ("D", "opponent"): "which is fair: what else ran while it was timed?",
    ("E", "test"): "which were used once: what does ± stand for?",
    ("F", "controls"): "which say that its gates hardly matter, as F does",
    ("F", "seeds"): "which are three: it claims no lead that they would hide",
    ("G", "seeds"): "which are three: did both networks train equally long?",
}
PASSED = {  # and to whoever finds nothing unfair
    "A": "its predictors are part of its cost",
    "B": "who chose d = 0.35?",
    "C": "what do 412 winner sets prove?",
    "E": "what does ± stand for?",
    "G": "its two networks did not train equally long",
}


def _reasoned() -> Iterator[Mistake]:
    yield Mistake(lambda: dict.fromkeys(FLAWS, "fair"), "you accept all seven; six have a flaw")
    without = {name: flaw for name, flaw in FLAWS.items() if name != "G"}
    yield Mistake(lambda: without, "you leave out G")
    yield Mistake(_but(A="macs"), "you use a word of your own for A")
    for (name, word), why in GUESSED.items():
        what = "test images" if word == "test" else word
        yield Mistake(_but(**{name: word}), f"you blame the {what} of {name}, {why}")
    for name, why in PASSED.items():
        yield Mistake(_but(**{name: "fair"}), f"you let {name} pass: {why}")


def _others() -> Iterator[Mistake]:
    """One wrong word for one letter, for which no reason of its own is given."""
    for name, flaw in FLAWS.items():
        known = {flaw, *(word for letter, word in GUESSED if letter == name)}
        known |= {"fair"} if name in PASSED else set()
        for word in WORDS:
            if word not in known:
                says = f"it is not {word!r} for {name}: {QUESTIONS[name]}"
                yield Mistake(_but(**{name: word}), says)


check_unfair = Exercise(
    "unfair(): for each report A to G one of test, seeds, opponent, clock, controls, fair",
    _reports,
    "seven reports, six flaws and a fair one, all found.",
    (*_reasoned(), *_others()),
)

# Exercise 3: a network of the reader's own

SMALL, MOST, LEAST = 0.5, 3_000_000, 3  # width, MACs, gated layers
STOPPED = re.compile(r"past .*(line \d+, in .*)", re.DOTALL)  # in the warning of `convert`
CHAIN = "a chain of ordinary convolutions: no maps are added to others, no layer is depthwise"
RIGHT = "a network with gates, a sum or a depthwise layer, and a width"


def _built(function: Callable, width: float) -> str:
    """What is wrong with the network, in words, or RIGHT."""
    network = function(width)
    if network is None:
        return None
    if not isinstance(network, nn.Module):
        return f"a {type(network).__name__} instead of a network"
    network = network.eval()
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        answers = network(images)
    if answers.shape != (4, 10):
        return f"outputs {list(answers.shape)} for four images"
    if (answers.sum(dim=1) - 1).abs().max() < 1e-4 and answers.min() >= 0:
        return "probabilities: the loss takes logits, so leave the softmax out"
    return _structure(function, network, width, images)


def _structure(function: Callable, network: nn.Module, width: float, images: torch.Tensor) -> str:
    chain = "" if _has_sum(network, images) else CHAIN
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    if norms < LEAST:
        few = f"{norms} batch norms, where {LEAST} at least are asked for: nothing else is gated"
        return "; and ".join(filter(None, [few, chain]))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gates = _gates(network)
    if line := next(filter(None, (_asks_values(w) for w in warned)), ""):
        return f"a forward that asks what its images hold, or how large they are: {line}"
    if gates < LEAST:
        return (
            f"{gates} convolutions that can be gated, where {LEAST} at least are asked for: a "
            "batch norm stands directly after each"
        )
    macs = count_macs(network, images).dense
    if macs > MOST:
        return f"more than {MOST:,} MACs, which takes long to train"
    if width < 1 and macs >= 0.7 * count_macs(function(1.0).eval(), images).dense:
        return "hardly fewer MACs at half of the width"
    return chain or RIGHT


def _asks_values(warned: warnings.WarningMessage) -> str:
    """The line of ``forward`` of which a warning of `convert` says that it cannot be followed."""
    found = STOPPED.search(str(warned.message))
    return found[1] if found else ""


def _gates(network: nn.Module) -> int:
    """So many of its convolutions can be gated."""
    with contextlib.redirect_stdout(io.StringIO()):  # `convert` names what it leaves
        converted = convert(network, 0.3, gates="random")
    return len(gated_layers(converted)) if is_gated(converted) else 0


def _has_sum(network: nn.Module, images: torch.Tensor) -> bool:
    """A depthwise layer, or maps that are added to others."""
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    if any(m.groups == m.in_channels > 1 for m in convs):
        return True
    with torch.no_grad(), _Sums() as sums:
        network(images)
    return sums.found


class _Sums(TorchDispatchMode):
    """Whether maps are added to other maps inside the ``with``."""

    found = False

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        if operator in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor):
            first, second = arguments[:2]
            maps = isinstance(second, torch.Tensor) and first.dim() == 4
            self.found |= maps and first.shape == second.shape and first is not second
        return operator(*arguments, **(keywords or {}))


def _widths(widths: Sequence[float] = (1.0, SMALL)) -> Iterator[Case]:
    hint = "what does it take, and what does it return? It is run on four images [4, 1, 16, 16]"
    more = "convolution, batch norm, ReLU; a sum or groups=channels; a mean over the map; a Linear"
    for width in widths:
        yield Case((width,), RIGHT, hint, more, ask=_built)


GATABLE = "it can be gated, and made narrower."


def _with_gates(function: Callable) -> tuple[bool, str]:
    """What gates would make of the network."""
    network, images = function(1.0).eval(), torch.rand(20, 1, 16, 16)
    gated = convert(network, 0.3, gates="random").eval()
    macs = count_macs(gated, images)
    share = macs.active.double().mean().item() / macs.dense
    said = [f"{macs.dense:,} MACs per image", f"{len(gated_layers(gated))} gated layers"]
    said.append(f"at d = 0.3 {share:.0%} are left, and {macs.overhead:,} for the predictors")
    return True, f"{GATABLE}\n  " + "; ".join(said)


def _block(c_in: int, c_out: int, stride: int, norm: str) -> nn.Sequential:
    """A convolution and a ReLU, with a batch norm after it, before it, or none."""
    conv = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=norm != "after")
    first = [nn.BatchNorm2d(c_in)] if norm == "before" else []
    second = [nn.BatchNorm2d(c_out)] if norm == "after" else []
    return nn.Sequential(*first, conv, *second, nn.ReLU())


class _Net(nn.Module):
    """A stem, a sum, a step down; what each mistake does to it is switched on."""

    def __init__(self, width: float, *, norm="after", add="maps", classes=10, soft=False, wide=1):
        super().__init__()
        c = max(1, round(16 * width * wide))
        self.stem = _block(1, c, 2, norm)
        self.branch, self.down = _block(c, c, 1, norm), _block(c, c, 2, norm)
        self.classifier, self.add, self.soft = nn.Linear(c, classes), add, soft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        added = {"maps": x, "number": 0.5, "": 0.0}[self.add]
        x = self.branch(x) + added if self.add else self.branch(x)
        x = self.classifier(self.down(x).mean(dim=(2, 3)))
        return x.softmax(dim=1) if self.soft else x


class _AsksForValues(_Net):
    """A network that breaks the third rule of section 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 100:
            x = x / 100
        return super().forward(x)


def _chain_of_two(width: float) -> nn.Module:
    c = max(1, round(16 * width))
    layers = _block(1, c, 2, "after"), _block(c, c, 2, "after")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


my_network = _Net

check_my_network = Experiment(
    "my_network(width): nn.Module, [N, 1, 16, 16] -> [N, 10], with a sum or a depthwise layer",
    _widths,
    GATABLE,
    (
        Mistake(lambda w: _Net(w, norm=""), "there is no batch norm, so nothing to gate"),
        Mistake(
            lambda w: _Net(w, norm="before"),
            "its batch norms stand before the convolutions, where no gate can take their place",
        ),
        Mistake(lambda w: _Net(w, soft=True), "it returns probabilities instead of logits"),
        Mistake(lambda w: _Net(w, add="number"), "it is a chain: no maps are added to other maps"),
        Mistake(
            _AsksForValues,
            "its forward has an if that depends on the images: gates cannot follow the data there",
        ),
        Mistake(_chain_of_two, "it is a chain of two layers: three, and a sum"),
        Mistake(lambda w: _Net(1.0), "it takes a width and makes no use of it"),
        Mistake(lambda w: _Net(w, classes=2), "it answers with a wrong number of classes"),
        Mistake(lambda w: _Net(w, wide=16), "it is too large to train in a lesson"),
    ),
    judge=_with_gates,
)

# The report


def check_report(report: Mapping) -> CheckResult:
    """What is missing or unfair in a report; it never raises.

    Args:
        report: a dictionary with the entries of `CRITERIA`.
    """
    if not isinstance(report, Mapping):
        return CheckResult(False, f"a report is a dictionary with {CRITERIA}")
    try:
        found = list(faults(report))
        said = "" if found else margin(report).replace("; ", ";\n  ")
    except Exception as error:  # whatever may stand in a reader's report
        return CheckResult(False, f"the report cannot be read: {type(error).__name__}: {error}")
    if found:
        return CheckResult(False, "\n  ".join(["missing or unfair:", *found]))
    return CheckResult(True, f"nothing is missing and nothing unfair was found.\n  {said}")
