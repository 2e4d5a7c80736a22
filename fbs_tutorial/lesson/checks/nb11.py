"""The exercises of notebook 11, Real networks."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from ...bench.cases import smooth_images
from ...bench.timing import race
from ...execution import accelerate
from ...method.convert import convert
from ...method.gated import ChannelPruning, forced_gates, gated_layers, is_gated
from ...method.liveness import winners
from ...method.macs import count_macs
from ...method.wta import active_channels, winner_mask
from .engine import Case, Exercise, Experiment, Mistake


def _branches() -> Iterator[Case]:
    both = "when is a channel of the sum empty?"
    others = "a channel of the sum is empty only if it is empty in every branch; count the others"
    each = "what is counted for each image?"
    over = "count for each image, over its channels: the result is [N]"
    one = "with one branch its own channels are the live ones"
    for branches, images, density, hint, more in [
        (2, 1, 0.5, both, others),
        (2, 4, 0.5, each, over),
        (3, 5, 0.25, both, others),
        (1, 3, 0.5, one, one),
    ]:
        shares = [density * (1 + 0.5 * i) for i in range(branches)]  # no two win equally often
        won = [winner_mask(torch.rand(images, 12), share) for share in shares]
        expected = torch.stack(won).any(dim=0).sum(dim=1)
        yield Case((won,), expected, hint, more, axes=("live channels of image",))


check_live_in_sum = Exercise(
    "live_in_sum(branches): masks [N, C] of each branch -> live channels of the sum, [N]",
    _branches,
    "right for one, two and three branches.",
    (
        Mistake(
            lambda b: torch.stack(b).all(0).sum(1), "you count channels that win in every branch"
        ),
        Mistake(
            lambda b: torch.stack(b).sum((0, 2)),
            "you count a channel once for every win",
        ),
        Mistake(lambda b: torch.stack(b).any(0).sum(), "you count the whole batch at once"),
        Mistake(lambda b: torch.stack(b).any(0).sum(0), "you count images, not channels"),
        Mistake(lambda b: b[0].sum(1), "you look at the first branch only"),
        Mistake(
            lambda b: torch.stack(b).sum(2).amax(0),
            "you count the winners of one branch, the one that has most of them",
        ),
        Mistake(
            lambda b: (b[0] | b[-1]).sum(1), "you look at two branches only, and there can be more"
        ),
        Mistake(
            lambda b: torch.stack(b).sum(0).eq(1).sum(1),
            "you leave out the channels that win in more than one branch",
        ),
    ),
)


BILLS = ((8, 4, 16, 1.0), (16, 6, 49, 0.5), (10, 3, 9, 0.25))  # the last one rounds


def _blocks(bills: Sequence[tuple[int, int, int, float]] = BILLS) -> Iterator[Case]:
    dense = "which pairs of channels does each of the three convolutions have?"
    full = "at d = 1: C·tC·P, 9·tC·P and tC·C·P, with t = expansion and P = positions"
    half = "how many inputs does a depthwise output read?"
    own = "one, its own: k·9·P for its k winners"
    up = "how are winners rounded, and does a predictor save anything at a low density?"
    rounded = "round up: the winners are active_channels(C, d) and active_channels(t·C, d)"
    order = "; the list is [expansion, depthwise, projection, predictors]"
    words = ((dense, full), (half, own), (up, rounded))
    for (channels, expansion, positions, density), (hint, more) in zip(bills, words, strict=True):
        expected = _bill(channels, expansion, positions, density)
        arguments = (channels, expansion, positions, density)
        yield Case(arguments, expected, hint + order, more + order, ask=_four)


def _four(function: Callable, *arguments: float) -> object:
    """What the function returns; a tuple is as good as a list."""
    counts = function(*arguments)
    return list(counts) if isinstance(counts, tuple) else counts


def _bill(
    channels: int,
    expansion: int,
    positions: int,
    density: float,
    winners: Callable = active_channels,
    depthwise: Callable = lambda wide_k: wide_k,
    predictors: Callable = lambda c, wide: c * wide + wide * wide + wide * c,
    inputs: Callable | None = None,
    wider: Callable | None = None,
) -> list[int]:
    """MACs of expansion, depthwise, projection and predictors; later arguments make mistakes."""
    wide = channels * expansion
    k = winners(channels, density)
    wide_k = wider(k) if wider else winners(wide, density)
    read, wide_read = (inputs(channels), inputs(wide)) if inputs else (k, wide_k)
    counts = [read * wide_k, depthwise(wide_k) * 9, wide_read * k]
    return [count * positions for count in counts] + [predictors(channels, wide)]


def _winning_predictors(density: float) -> Callable:
    def macs(channels: int, wide: int) -> int:
        k, wide_k = active_channels(channels, density), active_channels(wide, density)
        return k * wide_k + wide_k * wide_k + wide_k * k

    return macs


def _turn(channels: int = 160, expansion: int = 6, positions: int = 49) -> float:
    """The largest density, in steps of 0.01, at which the predictors cost more than the layers."""
    for percent in range(100, 0, -1):
        *layers, predictors = _bill(channels, expansion, positions, percent / 100)
        if predictors > sum(layers):
            return percent / 100
    return 0.0


check_inverted_macs = Exercise(
    "inverted_macs(channels, expansion, positions, density): four counts of one block",
    _blocks,
    "right for 3 blocks, predictors and rounding included.\n  The predictors of 160 channels on 49 "
    f"positions cost more than their layers from d = {_turn():g} down: had you guessed that?",
    (
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, depthwise=lambda k: k * k),
            "you let each depthwise output read all live inputs",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, depthwise=lambda k: k * d),
            "you charge the density twice in the depthwise layer: its input wins or loses with it",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, lambda n, share: int(n * share)),
            "you round the winners down",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, inputs=lambda n: n),
            "you let expansion and projection read all channels, also the empty ones",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, predictors=lambda c, w: 2 * c * w + w),
            "you forget that the depthwise layer's predictor is a full matrix",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, predictors=lambda c, w: p * (2 * c * w + w * w)),
            "you charge the predictors at every position; they run once per image",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, predictors=_winning_predictors(d)),
            "you let the predictors shrink with the density; they read and judge all channels",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, depthwise=lambda k: k / 9),
            "you forget the nine taps of the depthwise kernel",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d, wider=lambda k: k * t),
            "you multiply the block's winners by the expansion; the wide layers choose their own",
        ),
        Mistake(
            lambda c, t, p, d: _bill(c, t, p, d)[:3], "the predictors are missing from the list"
        ),
    ),
)


def _look(function: Callable, kind: str, density: float, question: str) -> object:
    """What the question asks of the block that ``function`` gates."""
    block, x = _basic_block(kind)
    plain = [type(module) for module in block.modules()]
    gated = function(block, density)
    if not isinstance(gated, nn.Module):
        return gated
    layers = {n: m for n, m in gated.named_modules() if isinstance(m, ChannelPruning)}
    if question == "how many gates":
        return len(layers)
    if question == "was the block changed":
        same = [type(module) for module in block.modules()] == plain
        return UNCHANGED if same else "the block that you were given has other modules now"
    if question == "active MACs":
        return int(count_macs(gated, x).active[0])
    ones = {name: torch.ones(1, layer.out_channels) for name, layer in layers.items()}
    with torch.no_grad(), forced_gates(gated, ones):
        return gated(x)


UNCHANGED = "the block that you were given is as it was"


KINDS = ("8 -> 8 stride 1", "8 -> 16 stride 2")


def _questions(
    kinds: Sequence[str] = KINDS, densities: Sequence[float] = (0.5, 0.25)
) -> Iterator[Case]:
    names = "which modules belong together in one ChannelPruning?"
    one = "one ChannelPruning per convolution, with its batch norm"
    own = "can the first convolution skip anything?"
    density = "each convolution needs its own gate, at this density: in ChannelPruning(conv1, bn1, "
    density += "conv2, bn2) the first convolution could not be skipped"
    once = "with gates of 1 nothing may change: does something run twice, or at another place?"
    twice = "run each batch norm once (put nn.Identity() in its old place), and leave ReLU and the "
    twice += "sum where they are"
    for kind, count, share in zip(kinds, (2, 3), densities, strict=True):
        more = ", and one for the convolution of block.downsample" if count == 3 else ""
        c_in, c_out, stride = _numbers(kind)
        k, positions = active_channels(c_out, share), (6 // stride) ** 2
        macs = (9 * c_in * k + 9 * k * k + (count == 3) * c_in * k) * positions
        asked = (kind, share, "how many gates")
        yield Case(asked, count, names + more, one + more, ask=_look, unit=" gates")
        block, x = _basic_block(kind)
        with torch.no_grad():
            asked = (kind, share, "the output with gates of 1")
            yield Case(asked, block(x), once, twice, ask=_look)
        asked = (kind, share, "active MACs")
        yield Case(asked, macs, own, density, ask=_look, unit=" active MACs")
        asked = (kind, share, "was the block changed")
        hint = "work on copy.deepcopy(block): the reader of this function may need the old one"
        yield Case(asked, UNCHANGED, hint, ask=_look)


def _numbers(kind: str) -> list[int]:
    return [int(n) for n in kind.split() if n.isdigit()]


def _gated(
    block: nn.Module, density: float, norms: Callable | None = nn.Identity, downsample: bool = True
) -> nn.Module:
    """The right answer; with other arguments, a wrong one."""
    gated = copy.deepcopy(block)
    gated.conv1 = ChannelPruning(gated.conv1, gated.bn1, density=density)
    gated.conv2 = ChannelPruning(gated.conv2, gated.bn2, density=density)
    if norms:
        gated.bn1, gated.bn2 = norms(), norms()
    if block.downsample is not None and downsample:
        gated.downsample = ChannelPruning(*gated.downsample, density=density)
    return gated


def _in_place(block: nn.Module, density: float) -> nn.Module:
    block.__dict__.update(_gated(block, density).__dict__)
    return block


def _kept(block: nn.Module, density: float, name: str) -> nn.Module:
    gated = _gated(block, density)
    setattr(gated, name, copy.deepcopy(getattr(block, name)))
    return gated


def _norms_outside(block: nn.Module, density: float) -> nn.Module:
    gated = copy.deepcopy(block)
    gated.conv1 = ChannelPruning(gated.conv1, density=density)
    gated.conv2 = ChannelPruning(gated.conv2, density=density)
    if gated.downsample is not None:
        gated.downsample[0] = ChannelPruning(gated.downsample[0], density=density)
    return gated


def _one_gate(block: nn.Module, density: float) -> nn.Module:
    gated = copy.deepcopy(block)
    parts = (gated.conv1, gated.bn1, nn.ReLU(), gated.conv2, gated.bn2)
    gated.conv1 = ChannelPruning(*parts, density=density)
    gated.bn1 = gated.bn2 = gated.conv2 = nn.Identity()
    return gated


check_gate_block = Exercise(
    "gate_block(block, density): torchvision's BasicBlock -> a copy that is gated",
    _questions,
    "every convolution has its own gate, with and without downsample.",
    (
        Mistake(_in_place, "you changed the block that you were given"),
        Mistake(_one_gate, "one gate stands around both convolutions"),
        Mistake(
            lambda b, d: ChannelPruning(copy.deepcopy(b), density=d),
            "one gate stands around the whole block",
        ),
        Mistake(lambda b, d: _gated(b, 1.0), "you leave the density at 1"),
        Mistake(
            lambda b, d: _gated(b, 0.5),
            "you set the density to 0.5, whatever the function is given",
        ),
        Mistake(lambda b, d: _gated(b, d, None), "each batch norm runs twice"),
        Mistake(
            lambda b, d: _kept(b, d, "bn1"),
            "bn1 runs twice: inside the ChannelPruning and at its old place",
        ),
        Mistake(
            lambda b, d: _kept(b, d, "bn2"),
            "bn2 runs twice: inside the ChannelPruning and at its old place",
        ),
        Mistake(_norms_outside, "the batch norms stay outside, and fill what the gates emptied"),
        Mistake(
            lambda b, d: convert(b, d),
            "you convert the block to gated layers; here it is ChannelPruning that is asked for",
        ),
        Mistake(lambda b, d: _gated(b, d, downsample=False), "downsample is not gated"),
    ),
)


def _basic_block(kind: str) -> tuple[nn.Module, Tensor]:
    """torchvision's residual block in eval mode, the same one each time, and an input for it."""
    from torchvision.models.resnet import BasicBlock  # here: it takes a second to import

    in_channels, out_channels, stride = _numbers(kind)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(in_channels + out_channels)
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))
        block = BasicBlock(in_channels, out_channels, stride, downsample if stride > 1 else None)
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):  # such that running it twice shows
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias)
        return block.eval(), torch.rand(1, in_channels, 6, 6)


# Exercise 4: a network of one's own

FITS = "a plain network and its gated twin, which chooses per image"
LAYERS, SHARE = 10, 0.5  # at least so many gated layers, at most this share of the MACs
DENSITY = 0.5  # the same for all: the fewest channels would win a race that asks for time alone


def _verdict(function: Callable) -> str | None:
    """What is wrong with the two networks in words, or `FITS`."""
    pair = function()
    if pair is None:
        return None
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return "not two networks"
    plain, gated = pair
    if is_gated(plain):
        return "gates in the first network, which should be the plain one"
    layers = gated_layers(gated) if is_gated(gated) else {}
    if len(layers) < LAYERS:
        return f"fewer than {LAYERS} gated layers in the second network"
    others = sorted({layer.density for layer in layers.values()} - {DENSITY})
    if others:
        return f"density {', '.join(f'{d:g}' for d in others)}, where {DENSITY} is asked for"
    if plain.training or gated.training:
        return "a network in training mode"
    colours = torch.rand(4, 3, 1, 1)  # else two images would look alike to a predictor
    images = colours * smooth_images(4, (3, 64, 64))
    dense = [count_macs(network, images).dense for network in (plain, gated)]
    if dense[0] != dense[1]:
        return "two networks of different size, with all channels on"
    return _behaviour(gated, list(layers.values()), images)


@torch.no_grad()
def _behaviour(gated: nn.Module, layers: list, images: Tensor) -> str:
    if _share(gated, images) > SHARE:
        return f"more than {SHARE:.0%} of the MACs are left"
    gated(images)
    if sum(len(winners(layer).unique(dim=0)) > 1 for layer in layers) < LAYERS // 2:
        return "the same winners for four different images, in most layers"
    return FITS


def _share(gated: nn.Module, images: Tensor) -> float:
    report = count_macs(gated, images)
    return (report.active.double().mean().item() + report.overhead) / report.dense


def _networks() -> Iterator[Case]:
    hint = "which of the two networks is what was asked for?"
    more = 'both in eval mode; the second by convert(plain, 0.5, gates="random"), or by gate_block'
    yield Case((), FITS, hint, more, ask=_verdict)


def _how_quick(function: Callable) -> tuple[bool, str]:
    """How many MACs and how much time the reader's network needs."""
    plain, gated = function()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        fast, dense = accelerate(gated), _merged(plain)
        other = copy.deepcopy(dense).to(memory_format=torch.channels_last)
        turned = x.contiguous(memory_format=torch.channels_last)
        ways = {"nchw": lambda: dense(x), "nhwc": lambda: other(turned), "gated": lambda: fast(x)}
        timings = race(ways, 0.3, rounds=5)
    nchw, nhwc, quick = (1000 * timings[name].median for name in ways)
    slow = min(nchw, nhwc)
    said = (
        f"{len(gated_layers(gated))} gated layers, {_share(gated, x):.1%} of the MACs with "
        f"predictors.\n  Plain {slow:.2f} ms in the faster of two orders in memory, accelerated "
        f"{quick:.2f} ms: {quick / slow:.0%} of the time on this computer."
    )
    return True, said


def _merged(plain: nn.Module) -> nn.Module:
    """The plain network with its batch norms in its kernels, where that can be done."""
    try:
        return fuse(plain)
    except Exception:  # torch.fx cannot follow every network
        return plain


def _small_resnet() -> nn.Sequential:
    blocks = [_basic_block("8 -> 8 stride 1")[0] for _ in range(7)]
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def small_networks(
    density: float = 0.5, gates: str = "random", count: int = 5
) -> tuple[nn.Module, nn.Module]:
    """A right answer; with other arguments, a wrong one."""
    plain = _small_resnet()[: 3 + count].eval()
    return plain, convert(plain, density, gates=gates).eval()


check_my_networks = Experiment(
    "my_networks(): a plain network for [N, 3, 64, 64] and its gated twin, both in eval mode",
    _networks,
    "",
    (
        Mistake(lambda: small_networks(gates="neutral"), "your gates do not look at the image"),
        Mistake(lambda: small_networks(1.0), "you leave the density at 1"),
        Mistake(
            lambda: small_networks(0.01),
            "you keep hardly any channel: what is left is quick, and of no use",
        ),
        Mistake(lambda: small_networks(count=2), "you gate too few layers"),
        Mistake(lambda: small_networks()[::-1], "you return the gated network first"),
        Mistake(
            lambda: (small_networks(count=7)[0], small_networks()[1]),
            "you time the gated network against a larger one that is not its twin",
        ),
        Mistake(lambda: small_networks()[1], "you return the gated network alone"),
        Mistake(
            lambda: (small_networks()[0], small_networks()[1].train()),
            "you leave a network in training mode",
        ),
    ),
    judge=_how_quick,
)
