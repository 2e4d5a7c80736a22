"""The exercises of notebook 05, MAC accounting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...method.wta import active_channels, winner_mask
from .engine import Case, Exercise, Experiment, Mistake

# Exercise 1: groups


def _groups() -> Iterator[Case]:
    own = "an output reads the inputs of its own group only"
    by_group = f"{own}: multiply group by group, then add up; each pair needs k * k products"
    for groups in (1, 2, 3, 4):
        live, won = (torch.randint(1, 6, (groups,)).tolist() for _ in range(2))
        kernel, positions = (int(n) for n in torch.randint(2, 9, (2,)))
        expected = sum(a * b for a, b in zip(live, won, strict=True)) * kernel**2 * positions
        yield Case((live, won, kernel, positions), expected, own, by_group)


def _paired(live: Sequence[int], won: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(live, won, strict=True))


check_grouped_macs = Exercise(
    "grouped_macs(live_inputs, winners, kernel_size, positions): with two counts per group",
    _groups,
    "right for 1 to 4 groups.",
    (
        Mistake(lambda a, b, k, p: _paired(a, b) * p, "you leave the size of the kernel out"),
        Mistake(lambda a, b, k, p: _paired(a, b) * k * p, "you use one side of the kernel only"),
        Mistake(lambda a, b, k, p: _paired(a, b) * k * k, "you count one position only"),
        Mistake(
            lambda a, b, k, p: sum(a) * sum(b) * k * k * p,
            "you let every output read the inputs of all groups",
        ),
        Mistake(
            lambda a, b, k, p: sum(a) * sum(b) * k * k * p // len(a),
            "you take the same share for each group, but the counts differ",
        ),
        Mistake(
            lambda a, b, k, p: sum(x + y for x, y in zip(a, b, strict=True)) * k * k * p,
            "you add live inputs and winners",
        ),
        Mistake(
            lambda a, b, k, p: sum(b) * k * k * p,
            "you count one live input per output, as in a depthwise layer",
        ),
    ),
)


# Exercise 2: liveness through sums


def residual_macs(stem: Tensor, blocks: Sequence, positions: int) -> int:
    """Active MACs of a chain of residual blocks by gates; see the spec of its exercise."""
    return _residual(stem, blocks, positions, lambda live, last, stem: live | last)


def _residual(
    stem: Tensor,
    blocks: Sequence,
    positions: int,
    merge: Callable,
    second: Callable = lambda live, inner: int(inner.sum()),
    taps: int = 9,
) -> int:
    """``merge(live, last, stem)``: live after a sum; ``second``: inputs of the second layer."""
    live, total = stem, 0
    for inner, last in blocks:
        pairs = int(live.sum()) * int(inner.sum()) + second(live, inner) * int(last.sum())
        total += taps * pairs * positions
        live = merge(live, last, stem)
    return total


def _residual_chains() -> Iterator[Case]:
    carried = "what is live after the sum, and who reads it?"
    either = "the sum is live where the shortcut or the branch is: live = live | last"
    inside = "the second layer of a block reads the winners of the first"
    for channels, depth, positions in [(6, 1, 4), (10, 2, 9), (10, 5, 4)]:
        stem = winner_mask(torch.rand(1, channels), 0.3)[0]  # other counts than those of blocks
        blocks = [
            tuple(winner_mask(torch.rand(1, channels), density)[0] for density in (0.5, 0.2))
            for _ in range(depth)
        ]
        more = inside if depth == 1 else either
        plural = "blocks" if depth > 1 else "block"
        called = f"a chain of {depth} {plural} of {channels} channels and {positions} positions"
        expected = residual_macs(stem, blocks, positions)
        yield Case((stem, blocks, positions), expected, carried, more, called=called)


class _ByDensity:
    """Takes the branch's count for the sum: as many as win, whichever they are."""

    def __init__(self, count: Callable):
        self.count = count

    def __call__(self, stem: Tensor, blocks: Sequence, positions: int) -> int:
        live, total = int(stem.sum()), 0
        for inner, last in blocks:
            pairs = live * int(inner.sum()) + int(inner.sum()) * int(last.sum())
            total += 9 * pairs * positions
            live = self.count(live, int(last.sum()), len(stem))
        return total


def _every_winner_lives(stem: Tensor, blocks: Sequence, positions: int) -> int:
    live, total = stem, 0
    for inner, last in blocks:
        total += residual_macs(live, [(inner, last)], positions)
        live = live | inner | last
    return total


check_residual_macs = Exercise(
    "residual_macs(stem, blocks, positions): active MACs by gates of a chain of residual blocks",
    _residual_chains,
    "live channels pile up along the shortcut, and your counter sees it.",
    (
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: last),
            "you forget the shortcut: after a block only its branch is live",
        ),
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: live),
            "you never add the branch: the stem's channels stay the live ones",
        ),
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: live & last),
            "a channel of your sum is live only where both parts are",
        ),
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: stem | last),
            "your shortcut starts at the stem each time, and earlier blocks are forgotten",
        ),
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: torch.ones_like(live)),
            "you call every channel live after a sum: that promises too little",
        ),
        Mistake(
            _ByDensity(lambda live, last, channels: min(channels, live + last)),
            "you add the counts of live channels, and count those twice that both have",
        ),
        Mistake(
            _ByDensity(lambda live, last, channels: live + last),
            "you add the counts of live channels, and count those twice that both have",
        ),
        Mistake(
            lambda s, b, p: _residual(
                s, b, p, lambda live, last, stem: live | last, lambda live, a: int(live.sum())
            ),
            "the second layer of your blocks reads the shortcut, not the first layer's winners",
        ),
        Mistake(
            lambda s, b, p: _residual(
                torch.ones_like(s), b, p, lambda live, last, stem: live | last
            ),
            "the first layer of your first block reads all channels: the stem says which are live",
        ),
        Mistake(
            _every_winner_lives,
            "the first layer's winners stay inside the block: only the second is added",
        ),
        Mistake(
            lambda s, b, p: _residual(
                s, b, p, lambda live, last, stem: live | last, lambda live, a: len(a)
            ),
            "the second layer of your blocks reads all channels, also those that lost",
        ),
        Mistake(
            lambda s, b, p: _residual(s, b, p, lambda live, last, stem: live | last, taps=1),
            "you leave the 3x3 kernel out",
        ),
    ),
)

# Exercise 3: an experiment

KEPT, WORK = 0.95, 0.9  # of the saliency at least, of the work after the sum at most
BRANCHES, CHANNELS, SHARE = 4, 64, 0.25


def _branches(seed: int) -> Tensor:
    """Saliencies ``[200, 4, 64]`` of the branches of a sum, half of them in common."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(200, 1, CHANNELS, generator=draw)
    own = torch.randn(200, BRANCHES, CHANNELS, generator=draw)
    return (0.5**0.5 * (common + own) + 0.3).relu()


def _alone(g: Tensor, density: float) -> Tensor:
    return winner_mask(g, density)


def _picks(function: Callable, g: Tensor, density: float, near: bool = False) -> str | None:
    """What is wrong with a joint choice in words, or `AGREED`."""
    got = function(g, density)
    if got is None:
        return None
    if not isinstance(got, Tensor) or got.shape != g.shape or got.dtype != torch.bool:
        kind = f"{got.dtype} {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        return f"{kind} instead of a mask of {list(g.shape)}"
    k = active_channels(g.shape[1], density)
    if (got.sum(dim=1) != k).any():
        return f"{got.sum(dim=1).tolist()} winners instead of {k} in every branch"
    if near and got.any(dim=0).sum() > k:
        return "different winners, although one channel would serve every branch"
    if (g * got).sum() < 0.5 * (g * _alone(g, density)).sum():
        return "a branch that loses more than half of its saliency"
    return AGREED


AGREED = "the right number of winners, and branches that agree where it costs little"


def _sums() -> Iterator[Case]:
    count = "every branch still has ceil(d * C) winners of its own"
    rows = "winner_mask selects along the last axis: a row per branch"
    yield Case((torch.rand(3, 8), 0.5), AGREED, count, rows, ask=_picks)
    near = torch.tensor([[1.0, 0.95, 0.0, 0.0], [0.2, 1.2, 0.0, 0.0], [0.3, 1.2, 0.0, 0.0]])
    tie = "what if a branch also hears what the others would like?"
    bonus = "add a part of the mean over the branches to each row before you select"
    yield Case((near, 0.25), AGREED, tie, bonus, ask=partial(_picks, near=True))
    far = torch.tensor([[5.0, 0.0, 2.0, 0.0], [0.0, 5.0, 0.0, 2.0], [0.0, 0.0, 0.1, 4.0]])
    apart = "where the branches want quite different channels, each should have its own"
    yield Case((far, 0.25), AGREED, apart, bonus, ask=_picks)


def live_and_kept(function: Callable, seed: int = 1) -> tuple[float, float]:
    """Share of the sum's channels that are live, and of the saliency that is kept."""
    g = _branches(seed)
    masks = torch.stack([function(one, SHARE) for one in g])
    alone = torch.stack([_alone(one, SHARE) for one in g])
    return masks.any(dim=1).double().mean().item(), ((g * masks).sum() / (g * alone).sum()).item()


WEIGHTS = (0, 0.3, 0.6, 1, 1.5, 2.2, 4, 8)  # of the mean of all, in the simple rule


def _mixed(weight: float) -> Callable:
    """The rule of the solution: each branch hears the mean of all, ``weight`` times."""
    return lambda g, density: _alone(g + weight * g.mean(dim=0), density)


def _how_few_live(
    function: Callable, seed: int = 1, goal: float = KEPT, most: float = WORK
) -> tuple[bool, str]:
    """How much work a joint choice leaves after the sum, and how much saliency it keeps."""
    (live, kept), (apart, _) = live_and_kept(function, seed), live_and_kept(_alone, seed)
    work = live / apart
    said = (
        f"{work:.0%} of the work is left after the sum, and {kept:.1%} of the saliency is kept.\n"
        f"  Wanted: at most {most:.0%} of the work, and at least {goal:.0%} of the saliency.\n  "
    )
    if kept < goal and work > most:
        return False, f"{said}Both are lost: each branch hears its own g and the mean of all."
    if kept < goal:
        return False, f"{said}The branches agree too much: each needs more of its own favourites."
    if work > most:
        return False, f"{said}The branches hardly agree: let near ties fall the same way."
    return True, f"{said}{_beside_a_simple_rule(live, kept, seed)}"


def _beside_a_simple_rule(live: float, kept: float, seed: int) -> str:
    """What the rule of the solution keeps where as many channels are live."""
    points = sorted(live_and_kept(_mixed(weight), seed) for weight in WEIGHTS)
    if not points[0][0] <= live <= points[-1][0]:
        return "No simple rule that we tried leaves so little work."
    simple = np.interp(live, *zip(*points, strict=True))
    word = "level with" if abs(kept - simple) < 0.003 else "above" if kept > simple else "below"
    return f"A simple rule keeps {simple:.1%} with the same work: yours is {word} it."


check_agreeing = Experiment(
    "agreeing(g, density): [branches, C] -> mask [branches, C], the branches of one sum",
    _sums,
    AGREED,
    (
        Mistake(_alone, "every branch chooses alone, or hardly listens to the others"),
        Mistake(
            lambda g, d: winner_mask(g.mean(dim=0, keepdim=True), d).expand_as(g),
            "all branches are forced to the same channels, whatever they need",
        ),
        Mistake(
            lambda g, d: winner_mask(g.reshape(1, -1), d).reshape(g.shape),
            "you select over all branches at once, and some get more winners than others",
        ),
        Mistake(
            lambda g, d: torch.where(_alone(g + g.mean(dim=0), d), g, 0.0),
            "you return gates, and a mask of True and False was asked for",
        ),
        Mistake(
            lambda g, d: winner_mask(g.T.contiguous(), d).T,
            "you select among the branches instead of among the channels",
        ),
        Mistake(
            lambda g, d: _alone(g, d).any(dim=0).expand_as(g),
            "every branch computes whatever any of them wants: that is what the sum pays already",
        ),
    ),
    judge=_how_few_live,
)

# Exercise 4: a puzzle

SIZES = [(64, 30), (64, 30), (128, 15), (128, 15), (128, 15), (192, 8), (192, 8), (192, 8)]
TABLE = (1.0, 0.8, 0.5, 0.3)
DENSE_AFTER_DROPOUT, DOWN, FLOPS = "dense after dropout", "rounded down", "FLOPs"


def mcifarnet_macs(density: float, winners: Callable = active_channels, dense: tuple = ()) -> int:
    """MACs of M-CifarNet by gates; the layers with a number in ``dense`` read all channels."""
    live, total, before = 3, 0, 3
    for number, (c_out, size) in enumerate(SIZES):
        won = winners(c_out, density)
        total += (before if number in dense else live) * won * 9 * size * size
        live, before = won, c_out
    return total + 10 * live


def _down(channels: int, density: float) -> int:
    return int(density * channels)


COUNTERS = {
    "correct": mcifarnet_macs,
    DOWN: lambda d: mcifarnet_macs(d, _down),
    DENSE_AFTER_DROPOUT: lambda d: mcifarnet_macs(d, dense=(4, 7)),
    FLOPS: lambda d: 2 * mcifarnet_macs(d),
}


def find_slip(table: Mapping[float, int]) -> str:
    """The counter that gives every row of the table, "none of these" if none does."""
    return _first_that(table, lambda counter: all(counter(d) == n for d, n in table.items()))


def _first_that(table: Mapping, fits: Callable, otherwise: str = "none of these") -> str:
    return next((name for name, counter in COUNTERS.items() if fits(counter)), otherwise)


def _from_one(table: Mapping[float, int]) -> str:
    """Charges the sixth layer and one that does not exist, and misses the dropouts."""
    found = find_slip(table)
    return "none of these" if found == DENSE_AFTER_DROPOUT else found


def _tables(
    rows: Sequence[tuple[float, ...]] = (TABLE, (0.5, 0.4), (0.8, 0.5)), odd: float = 0.97
) -> Iterator[Case]:
    some = "which rows could two counters give alike?"
    every = "at d = 0.5 rounding up and down agree: a counter must give every row of the table"
    for name, counter in COUNTERS.items():
        for densities in rows:
            yield Case(({d: counter(d) for d in densities},), name, some, every)
    strange = {1.0: mcifarnet_macs(odd), 0.5: mcifarnet_macs(0.5)}
    yield Case((strange,), "none of these", "does any counter give both rows?", every)


check_find_slip = Exercise(
    "find_slip(table): which counter made a table {density: MACs} of M-CifarNet",
    _tables,
    "every table is traced to its counter.",
    (
        Mistake(
            lambda t: _first_that(t, lambda f: any(f(d) == n for d, n in t.items())),
            "one row that agrees is enough for you, and two counters can share a row",
        ),
        Mistake(
            _from_one,
            "layers are counted from 0: the fifth and the eighth are 4 and 7",
        ),
        Mistake(
            lambda t: _first_that(t, lambda f: f(min(t)) == t[min(t)]),
            "you look at the lowest density alone",
        ),
        Mistake(
            lambda t: _first_that(t, lambda f: f(max(t)) == t[max(t)]),
            "you look at the highest density alone, where nearly all counters agree",
        ),
        Mistake(
            lambda t: _first_that(t, lambda f: all(f(d) == n for d, n in t.items()), "correct"),
            "a table that no counter gives is correct for you",
        ),
        Mistake(
            lambda t: "correct" if find_slip(t) == FLOPS else find_slip(t),
            "FLOPs count as correct for you, and they are twice the MACs",
        ),
    ),
)
