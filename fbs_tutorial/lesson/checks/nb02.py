"""The exercises of notebook 02, Saliency."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data, stratified_split
from ...method.saliency import channel_saliency
from ...method.wta import winner_take_all
from .engine import (
    Case,
    CheckResult,
    Exercise,
    Experiment,
    Mistake,
    Operators,
    digits_to_judge,
)


def _gradient(function: Callable, x: Tensor) -> Tensor:
    """The gradient of the sum of the function's values."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def _maps() -> Iterator[Case]:
    values = "root, mean, square: in which order, and over which axes?"
    more = "the square root of the mean of the squares, over rows and columns"
    full = torch.randn(2, 3, 4, 5)
    yield Case((full,), channel_saliency(full, "l2"), values, more)
    yield Case((full / 1000,), channel_saliency(full / 1000, "l2"), "small values count, too", more)
    x = full * torch.tensor([[[[1.0]], [[0.0]], [[2.0]]]])
    size = (20 * channel_saliency(x, "l2")).clamp(min=1e-12)
    empty = "these are gradients: what is the slope of the square root at exactly 0?"
    away = "0 at an empty channel, not NaN: keep the square root away from exactly 0"
    yield Case((x,), x / size[:, :, None, None], empty, away, ask=_gradient)
    own = "the cure should be your own: pow, mean and sqrt, and something before the sqrt"
    yield Case((full,), OWN, own, away, ask=_without_norms)


OWN, NORMS = "a root of your own", {"linalg_vector_norm", "norm", "_lp_pool"}


def _without_norms(function: Callable, x: Tensor) -> str:
    """Whether one of PyTorch's norms has done it, whose gradient at 0 is 0 anyhow."""
    with Operators() as ran:
        function(x)
    return "a norm of PyTorch's" if ran.names & NORMS else OWN


def _root(x: Tensor, epsilon: float = 0.0) -> Tensor:
    return (x.pow(2).mean(dim=(2, 3)) + epsilon).sqrt()


check_safe_l2 = Exercise(
    "safe_l2(x): [N, C, H, W] -> [N, C] root mean square, with gradient 0 where a map is 0",
    _maps,
    "values and gradients are right, at zeros too, and the cure is your own.",
    (
        Mistake(
            _root,
            "the gradient of the root at an empty channel is infinity times 0, NaN, even if "
            "torch.where or nan_to_num drops its value afterwards",
        ),
        Mistake(
            lambda x: channel_saliency(x, "l2"),
            "you leave it to PyTorch's vector_norm, which knows the cure: find one of your own",
        ),
        Mistake(lambda x: x.abs().mean(dim=(2, 3)), "this is the mean absolute value, l1"),
        Mistake(lambda x: x.pow(2).mean(dim=(2, 3)), "you forget the square root"),
        Mistake(
            lambda x: x.pow(2).sum(dim=(2, 3)).sqrt(), "you sum the squares, and do not average"
        ),
        Mistake(
            lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
            "you sum the squares, and do not average",
        ),
        Mistake(lambda x: x.pow(2).mean().sqrt(), "you average over all channels and images"),
        Mistake(lambda x: x.pow(2).mean(dim=1).sqrt(), "you average over the channels"),
        Mistake(lambda x: _root(x, 1e-6), "your epsilon is so large that it changes the values"),
        Mistake(lambda x: _root(x, 1e-8), "your epsilon is so large that it changes small values"),
        Mistake(
            lambda x: x.pow(2).mean(dim=(2, 3)).clamp(min=1e-6).sqrt(),
            "your bound is so large that it changes small values",
        ),
        Mistake(lambda x: _root(x.detach()), "you detached the values: no gradient is left"),
    ),
)


def _predictors() -> Iterator[Case]:
    for n, c_in, c_out in ((2, 3, 5), (4, 4, 4), (1, 6, 2)):
        drawn = torch.rand(n, c_in), torch.randn(c_out, c_in), torch.randn(c_out)
        s, weight, bias = (part.mul(16).round() / 16 for part in drawn)  # sums without rounding
        hint = "what did the pulled input add to each sum, and where does the ReLU belong?"
        more = "input i added s[:, i] * weight[:, i] to the sums; take it away before the ReLU"
        axes = ("image", "pulled input", "output")
        yield Case((s, weight, bias), _pulled(s, weight, bias), hint, more, axes=axes)


def _pulled(s: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    kept = s[:, None] * (1 - torch.eye(s.shape[1]))  # [N, C_in, C_in], a 0 in turn
    return (kept @ weight.T + bias).relu()


def _taken(s: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """g less what the input added, which may fall below 0: the ReLU came too early."""
    return (s @ weight.T + bias).relu()[:, None] - s[:, :, None] * weight.T


def _alone(s: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (s[:, :, None] * weight.T + bias).relu()


check_pulled_to_zero = Exercise(
    "pulled_to_zero(s, weight, bias): [N, C_in] -> [N, C_in, C_out], g without each input",
    _predictors,
    "it is what the predictor answers, for 3 sizes.",
    (
        Mistake(
            lambda s, w, b: _pulled(s, w, b).mT, "you have the axes of inputs and outputs swapped"
        ),
        Mistake(_taken, "you take the input's part away after the ReLU: do it before"),
        Mistake(
            lambda s, w, b: _taken(s, w, b).relu(), "you take the part away after a first ReLU"
        ),
        Mistake(_alone, "you keep the one input alone, and pull all others to 0"),
        Mistake(lambda s, w, b: _pulled(s, w, 0 * b), "you leave the bias out"),
        Mistake(
            lambda s, w, b: (s @ w.T + b)[:, None] - s[:, :, None] * w.T, "you leave the ReLU out"
        ),
        Mistake(
            lambda s, w, b: ((s @ w.T + b)[:, None] - w.T).relu(),
            "you take the weight away, not the weight times s",
        ),
        Mistake(
            lambda s, w, b: (s @ w.T + b).relu()[:, None].expand(-1, s.shape[1], -1),
            "no input is pulled: this is g itself",
        ),
    ),
)


# A predictor by hand

OUTPUTS = ("flat", "upright", "quiet", "busy")
POINTS = (
    (0.2, 0.3, "quiet"), (0.45, 0.1, "quiet"), (0.05, 0.4, "quiet"), (0.8, 0.3, "flat"),
    (0.3, 0.8, "upright"), (0.6, 0.4, "flat"), (0.9, 0.7, "flat"), (0.7, 0.9, "upright"),
    (1.3, 0.9, "flat"), (0.9, 1.3, "upright"), (1.2, 1.4, "busy"), (1.4, 1.1, "busy"),
    (0.1, 1.4, "upright"), (1.4, 0.1, "flat"), (0.96, 0.94, "flat"), (0.94, 0.96, "upright"),
    (1.3, 0.98, "flat"), (0.98, 1.3, "upright"), (1.3, 1.03, "busy"), (1.03, 1.3, "busy"),
    (0.53, 0.2, "flat"), (0.48, 0.47, "quiet"),
)  # fmt: skip


def _winner(function: Callable, s: Tensor) -> str:
    """Which of the four outputs wins at ``s`` [2] with the reader's weights and bias."""
    weight, bias = function()
    weight, bias = torch.as_tensor(weight).float(), torch.as_tensor(bias).float()
    if weight.shape != (4, 2) or bias.shape != (4,):
        shapes = f"{list(weight.shape)} and {list(bias.shape)}"
        return f"weight and bias of shapes {shapes} instead of [4, 2] and [4]"
    pi = winner_take_all((weight @ s + bias).relu()[None], 0.25)[0]
    return OUTPUTS[int(pi.argmax())] if pi.any() else "none, because every g is 0"


def _pairs(points: Sequence[tuple[float, float, str]] = POINTS) -> Iterator[Case]:
    hints = {
        "flat": "which g should grow with horizontal strokes only?",
        "upright": "which g should grow with vertical strokes only?",
        "quiet": "which g should stay the same, whatever s is?",
        "busy": "which g should grow with both, but be held back until both are above 1?",
    }
    more = {
        "flat": "g of flat can be s of input 0 itself: weights 1 and 0, bias 0",
        "upright": "g of upright can be s of input 1 itself: weights 0 and 1, bias 0",
        "quiet": "g of quiet is its bias alone: 0.5 wins as long as both others are below it",
        "busy": "s0 + s1 + bias > s0 means s1 > -bias: so the bias must be -1",
    }
    for a, b, name in points:
        yield Case((torch.tensor([a, b]),), name, hints[name], more[name], ask=_winner)


def _by_hand(quiet: float = 0.5, busy: tuple[float, float] = (1.0, -1.0), swap: bool = False):
    rows = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [busy[0], busy[0]]]
    order = [1, 0, 2, 3] if swap else [0, 1, 2, 3]
    bias = torch.tensor([0.0, 0.0, quiet, busy[1]])
    return lambda: (torch.tensor(rows)[order], bias)


SIDE, WIDTH = 12, 1.5  # the plane that is shown: places along a side, and how far s goes


@dataclass(frozen=True)
class _Plane(Exercise):
    """An exercise about who wins where: an answer that is wrong is drawn, in letters."""

    def __call__(self, function: Callable, hint: int = 1) -> CheckResult:
        found = super().__call__(function, hint)
        try:
            drawn = "" if found else f"\n{_plane(function)}"
        except Exception:  # of no predictor there is no plane; the message has said why
            drawn = ""
        return replace(found, message=found.message + drawn)


def _plane(function: Callable) -> str:
    """Who wins with the reader's weights and bias: first letters, capitals where it is wrong."""
    weight, bias = (torch.as_tensor(part).float() for part in function())
    line = (torch.arange(SIDE) + 0.5) * WIDTH / SIDE
    s = torch.cartesian_prod(line.flip(0), line).flip(1)  # rows from the top, then columns
    g = (s @ weight.T + bias).relu()  # [144, 4]
    rows = ["".join(map(_letter, s, g))[i * SIDE : (i + 1) * SIDE] for i in range(SIDE)]
    head = "your plane, s0 to the right and s1 upwards, 0 to 1.5; capital letters are wrong:"
    return "\n".join([f"  {head}", *(f"    {' '.join(row)}" for row in rows)])


def _letter(s: Tensor, g: Tensor) -> str:
    if not g.any():
        return "-"  # nobody wins
    winner = OUTPUTS[int(g.argmax())]
    right = winner in _wanted(*s.tolist())
    return winner[0] if right else winner[0].upper()


def _wanted(a: float, b: float) -> tuple[str, ...]:
    """Who may win there; on the diagonal flat or upright."""
    if max(a, b) < 0.5:
        return ("quiet",)
    if min(a, b) > 1:
        return ("busy",)
    return tuple(name for name, more in (("flat", a >= b), ("upright", b >= a)) if more)


check_by_hand = _Plane(
    "by_hand(): weight [4, 2] and bias [4] that send every s to the right one of four outputs",
    _pairs,
    "the right output wins in each of the four areas.",
    (
        Mistake(_by_hand(quiet=0.0), "quiet has no bias, so that its g is always 0"),
        Mistake(_by_hand(quiet=1.0), "quiet has too large a bias, and wins until one s is above 1"),
        Mistake(_by_hand(busy=(1.0, 0.0)), "nothing holds busy back: s0 + s1 is above both"),
        Mistake(_by_hand(busy=(0.5, 0.0)), "busy is a mean, which is never above both"),
        Mistake(_by_hand(busy=(1.0, -0.5)), "busy is not held back enough"),
        Mistake(
            _by_hand(busy=(0.65, -0.15)),
            "busy grows too slowly, and is held back too little: it wins below 1",
        ),
        Mistake(_by_hand(swap=True), "flat and upright are swapped"),
    ),
)


# An experiment: how little of a map has to be read?

GOAL, MANY = 0.80, 25  # of the validation images; positions of 256
DRAWS = 10  # of random positions, to compare with


@cache
def _inner_maps(test: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps after the plain network's first layer, labels, and which images fit and judge.

    ``test``: the 500 images for testing are there too, and judge.
    """
    images, labels = as_tensors(load_data("digits")[0])
    rest, held_out = stratified_split(labels, 197, seed=0)
    if test:
        pairs = zip((images, labels), digits_to_judge(test=True), strict=True)
        held_out = torch.arange(len(labels), len(labels) + 500)
        images, labels = (torch.cat(pair) for pair in pairs)
    plain = load_pretrained("digits", "plain")
    with torch.no_grad():
        maps = torch.relu(plain.norm1(plain.conv1(plain.normalize(images))))
    return maps, labels, rest, held_out


def read_digits(s: Tensor, labels: Tensor, rest: Tensor, held_out: Tensor) -> float:
    """Share of ``held_out`` that a linear function of s, fitted to ``rest``, recognises."""
    mean, spread = s[rest].mean(dim=0), s[rest].std(dim=0).clamp(min=1e-6)
    inputs = F.pad((s - mean) / spread, (0, 1), value=1.0).double()  # a bias at the end
    fit, classes = inputs[rest], F.one_hot(labels, 10).double()[rest]
    ridge = 1e-3 * len(fit) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(fit.T @ fit + ridge, fit.T @ classes)
    return ((inputs[held_out] @ weight).argmax(1) == labels[held_out]).double().mean().item()


def positions_read(reduce: Callable) -> int:
    """How many of the 16 × 16 positions change what comes out, when they become large or 0."""
    x = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    changed = x.repeat(2, 256, 1, 1, 1).view(2, 256, 2, 256)
    for i in range(256):
        changed[0, i, :, i] += 7.0
        changed[1, i, :, i] = 0.0  # a function may ask no more than whether a value is above 0
    moved = (reduce(changed.view(512, 2, 16, 16)) != reduce(x)).any(dim=1)
    return int(moved.view(2, 256).any(dim=0).sum())


def by_luck(maps: Tensor, count: int, *rest: Tensor) -> float:
    """The mean share that l1 tells from ``count`` positions drawn at random."""
    draws = torch.Generator().manual_seed(0)
    places = [torch.randperm(256, generator=draws)[: max(1, count)] for _ in range(DRAWS)]
    found = [read_digits(maps.flatten(2)[:, :, at].abs().mean(dim=2), *rest) for at in places]
    return sum(found) / DRAWS


def _is_reduction(function: Callable, x: Tensor) -> str | None:
    s = function(x)
    if s is None:
        return None
    if not isinstance(s, Tensor) or s.shape != x.shape[:2]:
        return f"{list(s.shape) if isinstance(s, Tensor) else s!r} instead of shape [3, 2]"
    return "a reduction" if s.isfinite().all() else "values that are not finite"


def _reductions() -> Iterator[Case]:
    hint = "one number per image and channel: [N, C, H, W] -> [N, C]"
    more = "for example x[:, :, 8:9, 8:9].mean(dim=(2, 3)), one position"
    yield Case((torch.rand(3, 2, 16, 16),), "a reduction", hint, more, ask=_is_reduction)


def _told_from_few(function: Callable, goal: float = GOAL, test: bool = False) -> tuple[bool, str]:
    """How many positions are read, and how many digits can be told from them."""
    maps, *rest = _inner_maps(test)
    right, count = read_digits(function(maps), *rest), positions_read(function)
    all_of_it, luck = read_digits(channel_saliency(maps), *rest), by_luck(maps, count, *rest)
    said = (
        f"{right:.1%} of the {'test' if test else 'validation'} digits, "
        f"reading {count} of 256 positions.\n"
        f"  l1 at {count} random positions, mean of {DRAWS} draws: {luck:.1%}; "
        f"at all 256: {all_of_it:.1%}."
    )
    if right < goal:
        return False, f"{said} At least {goal:.0%} is wanted."
    if count > MANY:
        return False, f"{said} Good enough, but more than {MANY} are read."
    if test:
        return True, said
    return True, f"{said} Can you do with fewer? At the end, ask the test images once: test=True"


check_frugal = Experiment(
    "frugal(x): [N, C, 16, 16] -> [N, C] from few positions, good enough to tell digits",
    _reductions,
    "a reduction.",
    (
        Mistake(lambda x: x[:, :, ::2, ::2], "you pick positions, but do not reduce them"),
        Mistake(lambda x: x[:, :, ::2, ::2].mean(), "you average over images and channels, too"),
        Mistake(lambda x: x[:, :, ::2, ::2].mean(dim=(1, 2, 3)), "you average over channels, too"),
        Mistake(lambda x: x[:, :, ::2].mean(dim=2), "you average over rows only"),
    ),
    judge=_told_from_few,
)
