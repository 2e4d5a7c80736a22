"""The exercises of notebook 04, Gated convolution."""

import copy
import re
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ...checkpoints import load_pretrained
from ...method.gated import GatedConv2d, gated_layers, set_density
from ...method.wta import winner_mask, winner_take_all
from .engine import Case, Exercise, Experiment, Mistake, digits_to_judge

# Exercise 1: the parts of a neutral layer


def _norms() -> Iterator[Case]:
    both = "what multiplies z, and what multiplies the shift?"
    gate = "the gate is |gamma|, the sign goes into the kernel, and beta is divided by the gate"
    gamma, shift = torch.randn(2, 6, dtype=torch.float64)
    gamma[0], gamma[1] = -gamma[0].abs(), gamma[1].abs()
    yield Case((gamma, shift), gamma.abs(), both, gate, ask=_neutral_gate, axes=("channel",))
    z = torch.randn(6, 4, dtype=torch.float64)
    places = {"ask": _neutral_output, "axes": ("channel", "position")}
    yield Case((gamma, shift, z), _plain_output(gamma, shift, z), both, gate, **places)
    small = torch.tensor([5e-4, -2e-6], dtype=torch.float64)
    yield Case(
        (small, shift[:2], z[:2]), _plain_output(small, shift[:2], z[:2]), both, gate, **places
    )
    gamma, shift = torch.tensor([[0.0, -0.5], [2.0, 1.0]], dtype=torch.float64)
    zero = "a gamma of 0 still has a shift to give"
    least = "a gate of at least a millionth: gamma.abs().clamp(min=1e-6)"
    z = torch.tensor([[0.5, -0.5], [1.0, 2.0]], dtype=torch.float64)
    yield Case((gamma, shift, z), _plain_output(gamma, shift, z), zero, least, **places)


def _plain_output(gamma: Tensor, shift: Tensor, z: Tensor) -> Tensor:
    return gamma[:, None] * z + shift[:, None]


def _neutral_gate(function: Callable, gamma: Tensor, shift: Tensor) -> Tensor | None:
    parts = function(gamma, shift)
    return parts if parts is None else parts[1]


def _neutral_output(function: Callable, gamma: Tensor, shift: Tensor, z: Tensor) -> Tensor:
    """What the gated layer gives: its predictor ends in a ReLU."""
    sign, gate, beta = function(gamma, shift)
    return gate.relu()[:, None] * (sign[:, None] * z + beta[:, None])


def _least(gamma: Tensor) -> Tensor:
    return gamma.abs().clamp(min=1e-6)


check_neutral = Exercise(
    "neutral(gamma, shift): sign of the kernel, gate and beta, [C] each",
    _norms,
    "a gated layer with these parts does what the batch norm did.",
    (
        Mistake(
            lambda c, b: (torch.ones_like(c), c, b / c),
            "your gate is gamma itself, and the predictor's ReLU makes a negative one 0",
        ),
        Mistake(
            lambda c, b: (c.sign(), _least(c), b),
            "your beta is the shift as it was, but here the gate multiplies it as well",
        ),
        Mistake(
            lambda c, b: (torch.ones_like(c), _least(c), b / _least(c)),
            "the sign of gamma is lost",
        ),
        *(
            Mistake(
                lambda c, b, sign=sign: (sign(c), c.clamp(min=1e-6), b / c.clamp(min=1e-6)),
                "you clamp gamma itself, so that a channel with a negative one is lost",
            )
            for sign in (torch.ones_like, torch.sign)
        ),
        Mistake(
            lambda c, b: (c.sign(), _least(c), b / torch.where(c == 0, 1e-6, c)),
            "you divide the shift by gamma with its sign, which is in the kernel already",
        ),
        Mistake(
            lambda c, b: (_least(c), c.sign(), b / _least(c)),
            "sign and gate are swapped: the order is sign, gate, beta",
        ),
        Mistake(
            lambda c, b: (c.sign(), c.abs().clamp(min=1e-3), b / c.abs().clamp(min=1e-3)),
            "your least gate is larger than a millionth, and small gammas are changed",
        ),
        Mistake(
            lambda c, b: (c.sign(), c.abs(), b / c.abs()),
            "where gamma is 0 you divide by 0",
        ),
        Mistake(
            lambda c, b: (c, torch.ones_like(c), b),
            "you put the scale into the kernel, and norm takes it out again",
        ),
    ),
)

# Exercise 2: the whole layer


def _wide(pi: Tensor) -> Tensor:
    return pi[:, :, None, None]


def _tall(beta: Tensor) -> Tensor:
    return beta[:, None, None]


class GatedLayer(nn.Module):
    """The layer as notebook 04 asks for it; those below each make one mistake."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        density: float = 1.0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=False)
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.predictor = nn.Linear(in_channels, out_channels)
        nn.init.ones_(self.predictor.bias)
        self.density = density

    def forward(self, x: Tensor) -> Tensor:
        self.gate = self.select(self.predictor(self.measure(x)))
        return self.output(x, self.gate)

    def measure(self, x: Tensor) -> Tensor:
        return x.abs().mean(dim=(2, 3))

    def select(self, predicted: Tensor) -> Tensor:
        return winner_take_all(predicted.relu(), self.density)

    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (_wide(pi) * (self.norm(self.conv(x)) + _tall(self.beta))).relu()


class _BetaOutside(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (_wide(pi) * self.norm(self.conv(x)) + _tall(self.beta)).relu()


class _GateBeforeNorm(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (self.norm(_wide(pi) * self.conv(x)) + _tall(self.beta)).relu()


class _Detached(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return super().output(x, pi.detach())


class _Switch(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return super().output(x, (pi > 0).to(pi))


class _ByMagnitude(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return winner_take_all(predicted, self.density)


class _ReluLast(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return winner_take_all(predicted, self.density).relu()


class _Signed(GatedLayer):
    def measure(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class _OneForAll(GatedLayer):
    def measure(self, x: Tensor) -> Tensor:
        return super().measure(x).mean(dim=0, keepdim=True).expand(len(x), -1)


class _BatchAlways(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        z = nn.functional.batch_norm(self.conv(x), None, None, training=True)
        return (_wide(pi) * (z + _tall(self.beta))).relu()


class _PositiveOnly(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return (super().select(predicted) > 0).to(predicted)


class _MaskOnly(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return winner_mask(predicted.relu(), self.density).to(predicted)


class _Sum(GatedLayer):
    def measure(self, x: Tensor) -> Tensor:
        return x.abs().sum(dim=(2, 3))


class _FlatBeta(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (_wide(pi) * (self.norm(self.conv(x)) + self.beta)).relu()


class _FlatGate(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (pi * (self.norm(self.conv(x)) + _tall(self.beta))).relu()


class _NoSelection(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return predicted.relu()


class _NoRelu(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return _wide(pi) * (self.norm(self.conv(x)) + _tall(self.beta))


class _NoNorm(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (_wide(pi) * (self.conv(x) + _tall(self.beta))).relu()


class _Sigmoid(GatedLayer):
    def select(self, predicted: Tensor) -> Tensor:
        return winner_take_all(predicted.sigmoid(), self.density)


class _NoBeta(GatedLayer):
    def output(self, x: Tensor, pi: Tensor) -> Tensor:
        return (_wide(pi) * self.norm(self.conv(x))).relu()


SEED = 7


def _state(seed: int = SEED) -> dict[str, Tensor]:
    """Parts of a layer of 4 inputs and 6 outputs.

    Most predictions of a faint image are positive, and most of a strong one's are negative.
    """
    draw = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 4, 3, 3), "beta": (6,), "norm.running_mean": (6,)}
    shapes |= {"predictor.weight": (6, 4), "predictor.bias": (6,), "norm.running_var": (6,)}
    state = {n: torch.randn(s, generator=draw, dtype=torch.float64) for n, s in shapes.items()}
    state["norm.running_var"] = state["norm.running_var"].abs() + 0.5
    state["predictor.weight"] -= 0.6
    state["predictor.bias"] = state["predictor.bias"].abs() + 3
    return state


def _maps(seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed + 1)
    size = 1 + torch.arange(5, dtype=torch.float64)[:, None, None, None]
    return size * torch.randn(5, 4, 6, 6, generator=draw, dtype=torch.float64)


def _filled(kind: Callable, density: float, training: bool, seed: int) -> nn.Module:
    layer = kind(4, 6, 3, stride=2, padding=1, density=density).double()
    layer.load_state_dict(_state(seed), strict=False)
    return layer.train(training)


def _fitting(ask: Callable) -> Callable:
    """``ask``, but shapes that do not fit become words that name the two that met."""

    def asked(kind: Callable, seed: int, **options: object) -> Tensor | str:
        try:
            return ask(kind, seed, **options)
        except RuntimeError as error:
            sizes = re.search(r"tensor a \((\d+)\) must match .* tensor b \((\d+)\)", str(error))
            if sizes is None:
                raise
            few, many = sorted(map(int, sizes.groups()))
            return f"{UNFIT}: a last axis of {many} meets one of {few}"

    return asked


UNFIT = "shapes that cannot be broadcast"


@_fitting
def _output(kind: Callable, seed: int, density: float, training: bool = False) -> Tensor:
    return _filled(kind, density, training, seed)(_maps(seed))


@_fitting
def _gate_kept(kind: Callable, seed: int) -> Tensor | str:
    layer = _filled(kind, 0.5, False, seed)
    layer(_maps(seed))
    return getattr(layer, "gate", "no self.gate after forward")


@_fitting
def _gradient(kind: Callable, seed: int) -> Tensor | str:
    layer = _filled(kind, 0.5, True, seed)
    layer(_maps(seed)).square().sum().backward()
    gradient = layer.predictor.weight.grad
    return "no gradient reaches predictor.weight" if gradient is None else gradient


def _parts(kind: Callable, seed: int) -> str:
    """What is wrong with the parts of a fresh layer in words, or `PARTS`."""
    layer = kind(4, 6, 3, stride=2, padding=1, density=0.5)
    if not isinstance(layer, nn.Module):
        return f"{type(layer).__name__} instead of a module"
    shapes = {n: list(v.shape) for n, v in layer.state_dict().items() if "num_b" not in n}
    learned = dict(layer.named_parameters())
    if "conv.bias" in shapes:
        return "a conv with a bias, which norm would subtract again"
    if "norm.weight" in shapes or "norm.bias" in shapes:
        return "a norm with a scale and shift of its own: affine=False leaves them out"
    for name, value in _state().items():
        if shapes.get(name) != list(value.shape):
            return f"{name} of shape {shapes.get(name, 'none')}, not {list(value.shape)}"
    if "beta" not in learned:
        return "a beta that is not an nn.Parameter, so nobody trains it"
    if layer.conv.stride != (2, 2) or layer.conv.padding != (1, 1):
        return "a conv that ignores stride or padding"
    if not (layer.predictor.bias == 1).all():
        return "a predictor whose bias does not start at 1"
    return PARTS


PARTS = "conv, norm, beta and predictor"
ASKED = {
    "a new layer": _parts,
    "evaluation, d = 1, x of shape [5, 4, 6, 6]": partial(_output, density=1.0),
    "evaluation, d = 0.5": partial(_output, density=0.5),
    "training, d = 0.5": partial(_output, density=0.5, training=True),
    "evaluation, layer.gate": _gate_kept,
    "the gradient of predictor.weight": _gradient,
}
HINTS = {
    "a new layer": ("which parts has the layer, and which of them learn?", ""),
    "evaluation, d = 1, x of shape [5, 4, 6, 6]": (
        "say the equation aloud: what is multiplied by what, and what comes last?",
        "relu(pi * (norm(conv(x)) + beta)), with pi of shape [N, C, 1, 1] and beta [C, 1, 1]",
    ),
    "evaluation, d = 0.5": (
        "which number decides who wins?",
        "winner-take-all of relu(predictor(s)), where s is the mean |x| of each image's maps",
    ),
    "training, d = 0.5": ("what does norm do in training, and what in evaluation?", ""),
    "evaluation, layer.gate": ("keep the gate [N, C] as self.gate before you multiply", ""),
    "the gradient of predictor.weight": ("how does the predictor learn?", ""),
}


def _settings(seed: int = SEED) -> Iterator[Case]:
    for name, ask in ASKED.items():
        with torch.random.fork_rng(devices=[]):
            expected = ask(GatedLayer, seed)
        hint, more = HINTS[name]
        axes = ("output", "input") if "gradient" in name else ("image", "channel", "row", "column")
        asked = lambda kind, question: ASKED[question](kind, seed)  # noqa: E731
        if isinstance(expected, Tensor):
            expected = expected.detach()
        yield Case((name,), expected, hint, more, ask=asked, axes=axes)


check_gated_layer = Exercise(
    "MyGatedConv(in_channels, out_channels, kernel_size, stride, padding, density): a module",
    _settings,
    "the whole layer, in training and in evaluation, gate and gradient included.",
    (
        Mistake(_BetaOutside, "beta stands outside the gate, so that losers are not empty"),
        Mistake(_GateBeforeNorm, "the gate comes before norm, which undoes it"),
        Mistake(_Detached, "the gate is detached, and the predictor never learns"),
        *(
            Mistake(kind, "the gate is a switch of 0 and 1: how much is lost")
            for kind in (_Switch, _PositiveOnly, _MaskOnly)
        ),
        Mistake(_Sum, "s is a sum over each map, and the mean of |x| was asked for"),
        *(
            Mistake(
                kind,
                "beta [C] or the gate [N, C] meets maps [N, C, H, W] as it is: "
                "it needs [:, None, None] or [:, :, None, None]",
            )
            for kind in (_FlatBeta, _FlatGate)
        ),
        Mistake(
            _ByMagnitude, "winners are taken by magnitude: a ReLU before the choice is missing"
        ),
        Mistake(_ReluLast, "the ReLU comes after the choice, and negative predictions take places"),
        Mistake(_Signed, "you measure the mean of x, where positive and negative values cancel"),
        Mistake(_OneForAll, "the whole batch shares one gate: s is a mean over the images, too"),
        Mistake(_BatchAlways, "norm uses the batch's statistics also in evaluation"),
        Mistake(_NoSelection, "nothing is selected: all channels keep their g"),
        Mistake(_NoRelu, "the last ReLU is missing"),
        Mistake(_NoBeta, "beta is never added"),
        Mistake(_NoNorm, "norm is never called"),
        Mistake(_Sigmoid, "g ends in a sigmoid, and the equation has a ReLU there"),
    ),
)

# Exercise 3: an experiment

GOAL, DENSITY, MANY = 0.95, 0.5, 8  # of the held-out images, at this density; values


def _keeps(function: Callable, pi: Tensor) -> str | None:
    """What is wrong with a coarse gate in words, or `COARSE`."""
    got = function(pi)
    if got is None:
        return None
    if not isinstance(got, Tensor) or got.shape != pi.shape:
        return f"{list(got.shape) if isinstance(got, Tensor) else type(got).__name__} for [3, 40]"
    if not got.is_floating_point() or not got.isfinite().all():
        return f"gates that are not finite floating-point numbers, {got.dtype}"
    if (got[pi == 0] != 0).any():
        return "a loser whose gate is not 0"
    if (got[pi > 0] <= 0).any():
        return "a winner whose gate is 0 or negative"
    if len(got.unique()) >= len(pi.unique()):
        return "no fewer values than before"
    alone = torch.cat([function(pi[i : i + 1]) for i in range(len(pi))])
    return COARSE if torch.allclose(got, alone) else "another gate for an image that comes alone"


COARSE = "fewer values, and the same winners"


def _gates() -> Iterator[Case]:
    pi = (4 + 40 * torch.rand(3, 40)) * winner_mask(torch.rand(3, 40), 0.5)
    who = "who wins should stay as it is, and only the values become coarse"
    step = "to multiples of a step, at least one step for a winner"
    yield Case((pi,), COARSE, who, step, ask=_keeps)


def with_gates(function: Callable, test: bool = False) -> tuple[float, int]:
    """Accuracy with gates changed by ``function``, and the most different values in a layer."""
    network = copy.deepcopy(set_density(load_pretrained("digits"), DENSITY))
    for layer in gated_layers(network).values():
        layer.select = _changed(layer, function)
    images, labels = digits_to_judge(test)
    with torch.no_grad():
        right = network(images).argmax(dim=1) == labels
    gates = [layer.gate for layer in gated_layers(network).values()]
    return right.double().mean().item(), max(len(g[g > 0].unique()) for g in gates)


def _by_quantiles(pi: Tensor) -> Tensor:
    """A mistake: the eight values come from the batch."""
    levels = pi[pi > 0].quantile((torch.arange(MANY) + 0.5) / MANY)
    nearest = (pi[..., None] - levels).abs().argmin(dim=-1)
    return torch.where(pi > 0, levels[nearest], 0.0)


def spread_evenly(pi: Tensor, many: int) -> Tensor:
    """Every winner's gate becomes the nearest of so many values, evenly spread from 4 to 50."""
    step = 46 / (many - 1)
    return torch.where(pi > 0, 4 + step * ((pi - 4) / step).round().clamp(0, many - 1), 0.0)


def _changed(layer: GatedConv2d, function: Callable) -> Callable:
    select = layer.select
    return lambda g: function(select(g))


def _how_right(function: Callable, goal: float = GOAL, test: bool = False) -> tuple[bool, str]:
    """How right the network is with such gates, and how many there are."""
    (right, values), (own, many) = with_gates(function, test), with_gates(lambda pi: pi, test)
    said = (
        f"{right:.1%} of the {'test' if test else 'held-out'} images "
        f"correct with at most {values:,} different gates in a layer.\n"
        f"  The network's own gates: {own:.1%} with {many:,}."
    )
    if 1 < values <= MANY:
        even, _ = with_gates(partial(spread_evenly, many=values), test)
        said += f" Spread evenly from 4 to 50: {even:.1%} with {values}."
    if right < goal:
        return False, f"{said} At least {goal:.0%} is wanted."
    if values > MANY:
        return False, f"{said} That is enough. Now with at most {MANY}, which three bits can tell."
    return True, f"{said} Can you do with fewer?"


check_coarse_gate = Experiment(
    "coarse_gate(pi): [N, C] -> [N, C], the same winners with at most eight different values",
    _gates,
    "a coarse gate.",
    (
        Mistake(lambda pi: pi.clone(), "the gates are as they were"),
        Mistake(
            lambda pi: (pi / 16).floor() * 16, "you round down, and the weakest winners become 0"
        ),
        Mistake(lambda pi: pi.clamp(min=4), "the losers get a value, too"),
        Mistake(lambda pi: pi > 0, "you return a mask of True and False, not gates"),
        Mistake(lambda pi: pi.mean(dim=1), "you return one number per image"),
        Mistake(_by_quantiles, "your values depend on the other images of the batch"),
    ),
    judge=_how_right,
)

# Exercise 4: a puzzle


def _mean_gates() -> Iterator[Case]:
    first = "which comes first, selecting or scaling? The mean of what becomes 1?"
    after = "select first, then divide each row by its own mean over all C channels"
    g = torch.rand(3, 8)
    for density in (0.5, 1.0):
        pi = winner_take_all(g, density)
        yield Case((g, density), pi / pi.mean(dim=1, keepdim=True), first, after)
    g = torch.stack([torch.rand(8), torch.zeros(8)])
    pi = winner_take_all(g, 0.25)
    pi[1, :2] = 1.0
    zeros = "a row of zeros is 0 / 0: what should its winners have?"
    share = "C / k each; winner_take_all(torch.ones_like(g), density) marks them, all values tie"
    yield Case((g, 0.25), pi / pi.mean(dim=1, keepdim=True), zeros, share)


def _mean_one(pi: Tensor) -> Tensor:
    return pi / pi.mean(dim=1, keepdim=True)


def _with_equals(g: Tensor, density: float, with_what: Tensor) -> Tensor:
    pi = winner_take_all(g, density)
    return torch.where(pi.sum(dim=1, keepdim=True) > 0, pi, with_what)


check_mean_one_gate = Exercise(
    "mean_one_gate(g, density): winner-take-all, then the gates of each image have mean 1",
    _mean_gates,
    "mean 1 in every row, a row of zeros included.",
    (
        Mistake(lambda g, d: _mean_one(winner_take_all(g, d)), "a row of zeros becomes 0 / 0, NaN"),
        Mistake(
            lambda g, d: torch.nan_to_num(_mean_one(winner_take_all(g, d))),
            "a row of zeros stays 0: such an image loses the whole layer",
        ),
        Mistake(
            lambda g, d: (
                winner_take_all(g, d) / (winner_take_all(g, d).mean(dim=1, keepdim=True) + 1e-8)
            ),
            "a row of zeros stays 0: such an image loses the whole layer",
        ),
        *(
            Mistake(
                lambda g, d, least=least: (
                    winner_take_all(g, d)
                    / winner_take_all(g, d).sum(dim=1, keepdim=True).clamp(min=least)
                ),
                "the gates of an image sum to 1, but it is their mean that should be 1",
            )
            for least in (0.0, 1e-8)
        ),
        Mistake(
            lambda g, d: winner_take_all(_mean_one(g), d),
            "you scale before you select, so that the mean is 1 only at first",
        ),
        Mistake(
            lambda g, d: (
                _with_equals(g, d, winner_mask(g, d).float())
                / _with_equals(g, d, winner_mask(g, d).float()).sum(dim=1, keepdim=True)
            ),
            "the gates of an image sum to 1, but it is their mean that should be 1",
        ),
        Mistake(
            lambda g, d: _mean_one(_with_equals(g, d, winner_mask(g, d).float())) * d,
            "you take the mean over the winners, not over all channels",
        ),
        *(
            Mistake(
                lambda g, d, least=least: (
                    winner_take_all(g, d)
                    * winner_mask(g, d).sum(dim=1, keepdim=True)
                    / winner_take_all(g, d).sum(dim=1, keepdim=True).clamp(min=least)
                ),
                "you take the mean over the winners, not over all channels",
            )
            for least in (0.0, 1e-8)  # a row of zeros becomes NaN, or stays 0
        ),
        Mistake(
            lambda g, d: winner_take_all(g, d) / winner_take_all(g, d).mean(),
            "you use one mean for the whole batch, and each image should have its own",
        ),
        Mistake(
            lambda g, d: _mean_one(_with_equals(g, d, torch.ones_like(g))),
            "in a row of zeros you let all channels win, not k",
        ),
        Mistake(lambda g, d: winner_take_all(g, d), "you select, and do not scale"),
    ),
)
