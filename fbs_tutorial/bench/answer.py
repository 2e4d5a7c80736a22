"""Where does dynamic pruning win? The stored results, compared at equal cost.

Five questions, each at equal MACs, equal bytes and equal milliseconds: FBS at one density against
static networks; two looks, one of them FBS, against one look for all images; and against two looks
of static networks; gates that scale channels and never choose against static networks, and gates
that choose against those.

Equal cost is equal. Each side is represented by its *line*: those of its entries that are right on
more validation images than all cheaper ones. An entry on the line of the side asked about meets
the rivals' line at its own cost. What a rival would reach there lies on the straight line between
the two neighbours, over the logarithm of the cost; beyond the dearest rival it is what that one
reaches; below the cheapest there is no comparison. Test images decide nothing: they are only
scored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import mean, stdev

from ..tables import markdown
from . import budget, choice, compared
from .stored import LESSON, benchmark_file
from .timing import three_digits

COSTS = {"macs": "MACs", "bytes": "bytes", "ms": "milliseconds"}
SURE = 2.0  # standard errors from which on a difference counts
TEST_IMAGES = {"digits": 500}  # of files that do not say; of the other data sets 10,000
NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
FBS, STATIC, SCALED = "FBS", "static", "gates that scale and never choose"
DIAL, CASCADE = "two looks, FBS among them", "two static looks"
CHANNELS, AMOUNT = "FBS against static networks", "two looks against one"
GATES, SCALING = "two looks, with FBS against without", "gates that only scale against static"
CHOOSING = "gates that may choose against gates that only scale"
QUESTIONS = {  # who is asked about, and who its rivals are
    CHANNELS: (FBS, (STATIC,)),
    AMOUNT: (DIAL, (FBS, STATIC)),
    GATES: (DIAL, (CASCADE,)),
    SCALING: (SCALED, (STATIC,)),
    CHOOSING: (FBS, (SCALED,)),
}
SHORT = {"macs": "equal MACs", "bytes": "equal bytes", "ms": "equal milliseconds"}


@dataclass(frozen=True)
class Entrant:
    """A network, or two that look, with what it reaches and costs; means over its seeds."""

    kind: str
    name: str
    validation: float  # accuracy 0..1
    tests: Mapping[int, float]  # test accuracy 0..1 by seed
    costs: Mapping[str, float] = field(default_factory=dict)  # by the keys of `COSTS`

    @property
    def test(self) -> float:
        return mean(self.tests.values())


@dataclass(frozen=True)
class Match:
    """One comparison at equal cost; ``difference`` and its standard error in points.

    ``rivals`` are the neighbours on the rivals' line, the cheaper first, or the one that has just
    this cost or is the dearest; ``level`` is the test accuracy 0..1 of that line at the cost of
    ``one``.
    """

    question: str
    data: str
    source: str  # the file that holds both
    cost: str
    one: Entrant
    rivals: tuple[Entrant, ...]
    level: float
    difference: float
    error: float

    @property
    def outcome(self) -> str:
        """``"wins"``, ``"loses"``, or ``"level"`` where chance alone may be the difference."""
        if abs(self.difference) <= SURE * self.error:
            return "level"
        return "wins" if self.difference > 0 else "loses"


def matches(folder: Path | None = None) -> list[Match]:
    """Every comparison that the stored results allow.

    Args:
        folder: ``benchmarks`` of the course; what the package holds of it when None.
    """
    found = []
    for place, data, entrants, images in _contests(folder):
        if sum(entrant.kind == STATIC for entrant in entrants) < 2:
            continue  # nobody to lose to: rivals come in several sizes
        for question, (kind, rivals) in QUESTIONS.items():
            for cost in COSTS:
                facts = question, data, f"{place}/{data}.json", cost
                for one, near in _meetings(entrants, kind, rivals, cost):
                    levels = _levels(one.costs[cost], near, cost)
                    points = _difference(one, levels, images)
                    found.append(Match(*facts, one, near, mean(levels.values()), *points))
    return found


def stored_budget(name: str) -> dict:
    """What is stored of `budget` on a data set: ``"cifar10"`` or ``"digits"``.

    Raises:
        FileNotFoundError: neither the package nor the folder of the course has such a file.
    """
    file = benchmark_file("budget", f"{name}.json", remedy="bring the course along")
    return json.loads(file.read_text())


# Who takes part


def _contests(folder: Path | None) -> Iterator[tuple[str, str, list[Entrant], int]]:
    """For each stored file: its place in ``benchmarks``, the data set, who is in it, and the number
    of test images."""
    for place, read in (("budget", _lookers), ("compare", _pruned), ("choice", _pools)):
        for name in sorted(NAMES):
            path = folder / place / f"{name}.json" if folder else LESSON / f"{place}-{name}.json"
            if path.is_file():
                results = json.loads(path.read_text())
                images = results.get("test_images", TEST_IMAGES.get(name, 10_000))
                yield place, name, read(results), images


def _lookers(results: dict) -> list[Entrant]:
    """Single networks and pairs of looks of `budget`, the pairs as its picture shows them."""
    kinds = {budget.DIAL: DIAL, budget.PLAIN: CASCADE, budget.FIXED: FBS, budget.SINGLE: STATIC}
    found = []
    for name, points in budget.curves(results).items():
        for point in points if name in kinds else ():
            costs = {"macs": point["test"]["macs"], "bytes": budget.stored_bytes(results, point)}
            ms = results.get("clock", {}).get("ms", {}).get(budget.label(point))
            costs |= {"ms": ms[0]} if ms else {}
            scores = point["validation"]["accuracy"], {results["seed"]: point["test"]["accuracy"]}
            found.append(Entrant(kinds[name], budget.label(point), *scores, costs))
    return found


def _pruned(results: dict) -> list[Entrant]:
    """The networks of `compare`, seeds together; the plain one is static too."""
    found = []
    for (level, method), rows in compared.grouped(results).items():
        name = compared.LABELS[method] + ("" if level is None else f", d = {level:g}")
        costs = {key: mean(row[key] for row in rows) for key in ("macs", "bytes")}
        if all("ms" in row for row in rows):
            costs["ms"] = mean(row["ms"]["64"] for row in rows) / 64
        found.append(_of_seeds(FBS if "fbs" in method else STATIC, name, rows, costs))
    return found


def _pools(results: dict) -> list[Entrant]:
    """The networks of `choice`."""
    kinds = {choice.CHOOSES: FBS, choice.SCALES: SCALED}
    winners = results["plan"]["winners"]
    return [
        _of_seeds(
            kinds.get(method, STATIC),
            f"{choice.LABELS[method]}, pool of {pool / winners:g}"
            if pool
            else choice.LABELS[method],
            rows,
            {"macs": mean(row["macs"] for row in rows)},
        )
        for (method, pool), rows in choice.lines(results).items()
    ]


def _of_seeds(kind: str, name: str, rows: Sequence[dict], costs: Mapping[str, float]) -> Entrant:
    tests = {row["seed"]: row["test_accuracy"] for row in rows}
    return Entrant(kind, name, mean(row["val_accuracy"] for row in rows), tests, costs)


# Who meets whom


def _meetings(
    entrants: Sequence[Entrant], kind: str, rivals: Sequence[str], cost: str
) -> Iterator[tuple[Entrant, tuple[Entrant, ...]]]:
    """Each entry on the line of a kind with its neighbours on the line of its rivals."""
    priced = [e for e in entrants if cost in e.costs]
    mine, theirs = (line([e for e in priced if e.kind in k], cost) for k in ((kind,), rivals))
    for one in mine:
        if near := _neighbours(theirs, one.costs[cost], cost):
            yield one, near


def line(entrants: Sequence[Entrant], cost: str) -> list[Entrant]:
    """By rising cost those that are right on more validation images than all cheaper ones."""
    kept: list[Entrant] = []
    for entrant in sorted(entrants, key=lambda e: (e.costs[cost], -e.validation)):
        if not kept or entrant.validation > kept[-1].validation:
            kept.append(entrant)
    return kept


def _neighbours(theirs: Sequence[Entrant], price: float, cost: str) -> tuple[Entrant, ...]:
    """Of a line the entries on both sides of a cost; its last beyond its end, none before it."""
    for low, high in pairwise(theirs):
        if low.costs[cost] <= price < high.costs[cost]:
            return (low, high) if low.costs[cost] < price else (low,)
    return tuple(theirs[-1:]) if theirs and price >= theirs[-1].costs[cost] else ()


def _levels(price: float, near: Sequence[Entrant], cost: str) -> dict[int, float]:
    """What the rivals reach at a cost, by seed: on a straight line over the cost's logarithm."""
    low, high = near[0], near[-1]
    if low is high:
        return dict(low.tests)
    start, end = (log(entrant.costs[cost]) for entrant in near)
    part = (log(price) - start) / (end - start)
    seeds = low.tests.keys() & high.tests.keys()
    return {seed: (1 - part) * low.tests[seed] + part * high.tests[seed] for seed in seeds}


def _difference(one: Entrant, levels: Mapping[int, float], images: int) -> tuple[float, float]:
    """In points: the mean over common seeds, and a standard error.

    The error is the larger of two: that between the seeds, and that of so many test images if
    both sides erred independently, which they do not, so that it is rather too large. All seeds
    share their test images: more seeds do not make the second smaller.
    """
    seeds = sorted(one.tests.keys() & levels.keys())
    differences = [one.tests[seed] - levels[seed] for seed in seeds]
    shares = one.test, mean(levels.values())
    error = (sum(share * (1 - share) for share in shares) / images) ** 0.5
    if len(seeds) > 1:
        error = max(error, stdev(differences) / len(seeds) ** 0.5)
    return 100 * mean(differences), 100 * error


# What is said


def tally(found: Sequence[Match], question: str, cost: str | None = None) -> dict[str, int]:
    """How many comparisons of a question are won, level and lost, at one equal cost or any."""
    mine = [m for m in found if m.question == question and cost in (None, m.cost)]
    outcomes = [m.outcome for m in mine]
    return {name: outcomes.count(name) for name in ("wins", "level", "loses")}


def tallies(found: Sequence[Match]) -> str:
    """A line for each question: how often ahead, level and behind at each cost; and what a lead
    must be to be one."""
    said = [f"So often ahead, level and behind, at equal {', '.join(COSTS.values())}:"]
    for question in dict.fromkeys(match.question for match in found):
        counts = [tally(found, question, cost).values() for cost in COSTS]
        said.append(f"  {question}: {', '.join(' : '.join(map(str, c)) for c in counts)}")
    needed = [SURE * match.error for match in found]
    low, high = min(needed), max(needed)
    said.append(f"A lead of less than {low:.1f} to {high:.1f} points cannot be told from luck.")
    return "\n".join(said)


def summary(found: Sequence[Match]) -> str:
    """Markdown: a line for each question and data set, a column for each cost."""
    cells = []
    for question in QUESTIONS:
        for source in dict.fromkeys(m.source for m in found if m.question == question):
            mine = [m for m in found if (m.question, m.source) == (question, source)]
            columns = [_range([m for m in mine if m.cost == cost]) for cost in COSTS]
            seeds = max(len(m.one.tests) for m in mine)
            cells.append([question, f"{NAMES[mine[0].data]} ({source})", str(seeds), *columns])
    head = ["question", "data (file in benchmarks/)", "seeds", *SHORT.values()]
    return markdown(head, cells)


def _range(mine: Sequence[Match]) -> str:
    """Wins, level and lost, and the range of the differences."""
    if not mine:
        return "not measured"
    counts = [sum(m.outcome == name for m in mine) for name in ("wins", "level", "loses")]
    low, high = (end(m.difference for m in mine) for end in (min, max))
    points = f"{low:+.1f}" if len(mine) == 1 else f"{low:+.1f} to {high:+.1f}"
    return f"{points} points: {counts[0]} won, {counts[1]} level, {counts[2]} lost"


def table(found: Sequence[Match]) -> str:
    """Markdown: every comparison."""
    head = ["question", "data", "equal", "network", "cost", "test", "rivals (their costs)"]
    return markdown([*head, "theirs at this cost", "difference", "outcome"], map(_line, found))


def _line(match: Match) -> list[str]:
    one, cost = match.one, match.cost
    return [
        match.question,
        NAMES[match.data],
        COSTS[cost],
        one.name,
        _cost(one, cost),
        f"{one.test:.2%}",
        " to ".join(f"{rival.name} ({_cost(rival, cost)})" for rival in match.rivals),
        f"{match.level:.2%}",
        f"{match.difference:+.2f} ± {match.error:.2f}",
        match.outcome,
    ]


def _cost(entrant: Entrant, cost: str) -> str:
    value = entrant.costs[cost]
    if cost == "macs":
        return f"{three_digits(value / 1e6)} M"
    return f"{value / 1e3:,.0f} kB" if cost == "bytes" else f"{three_digits(value)} ms"


def headline(found: Sequence[Match]) -> str:
    """The answer in one line, for a title; it claims no more than ``found`` shows."""
    if not tally(found, AMOUNT, "macs")["wins"]:
        return "Dynamic pruning wins nowhere yet"
    gates, at_macs = tally(found, GATES), tally(found, GATES, "macs")
    if not sum(gates.values()):
        return "At equal MACs a second look wins"
    if gates["wins"]:
        return f"At equal MACs a second look wins; with gates it is {_standing(gates)}"
    if at_macs["level"] and not at_macs["loses"]:
        return "At equal MACs a second look wins, with gates or without"
    return "At equal MACs a second look wins; gates add nothing to it"


def sentence(found: Sequence[Match]) -> str:
    """The answer to the title in short sentences; verdicts and numbers come from ``found``."""
    looks, clock = (tally(found, AMOUNT, cost) for cost in ("macs", "ms"))
    best = max((m.difference for m in found if (m.question, m.cost) == (AMOUNT, "macs")), default=0)
    gain = f", by up to {best:.1f} points" * (looks["wins"] > 0)
    timed = f" At equal milliseconds they are {_standing(clock)}." * (sum(clock.values()) > 0)
    parts = [
        f"{headline(found)}.",
        f"Against one look for all images, two looks with FBS among them are {_standing(looks)}"
        f"{gain}.{timed}",
        *_without_gates(found),
        "Against static networks at equal MACs, bytes or milliseconds, FBS with one density for "
        f"all images is {_standing(tally(found, CHANNELS))}.",
        *_scaling(found),
    ]
    return " ".join(parts)


def verdicts(found: Sequence[Match]) -> str:
    """Markdown: a line for each question, a column for each cost, in words."""
    cells = []
    for question in QUESTIONS:
        counts = [tally(found, question, cost) for cost in COSTS]
        columns = map(_standing, counts)
        cells += [[question, *columns]] if any(sum(c.values()) for c in counts) else []
    return markdown(["who against whom", *SHORT.values()], cells)


def _without_gates(found: Sequence[Match]) -> Iterator[str]:
    """What two looks are without gates, where that was measured."""
    counts, every = tally(found, GATES, "macs"), tally(found, GATES)
    if sum(counts.values()):
        yield (
            f"Against two looks of static networks they are {_standing(counts)}; bytes and "
            f"milliseconds counted too, {_standing(every)}."
        )


def _scaling(found: Sequence[Match]) -> Iterator[str]:
    """What gates are worth that scale and do not choose, where that was measured."""
    scaling, choosing = (tally(found, question) for question in (SCALING, CHOOSING))
    if sum(scaling.values()):
        yield (
            f"Against static networks, gates that only scale are {_standing(scaling)}; against "
            f"those, gates that may choose are {_standing(choosing)}."
        )


def _standing(counts: Mapping[str, int]) -> str:
    """As "ahead at 7 of 10 costs and level at 3", "level at both costs", or "not measured"."""
    names = {"ahead": counts["wins"], "level": counts["level"], "behind": counts["loses"]}
    total = sum(names.values())
    if not total:
        return "not measured"
    (first, count), *rest = ((name, n) for name, n in names.items() if n)
    if not rest:
        every = {1: "the one cost compared", 2: "both costs"}.get(total, f"all {total} costs")
        return f"{first} at {every}"
    parts = [f"{first} at {count} of {total} costs", *(f"{name} at {n}" for name, n in rest)]
    return ", ".join(parts[:-1]) + f" and {parts[-1]}"
