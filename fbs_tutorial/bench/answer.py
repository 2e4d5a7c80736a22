"""Where does dynamic pruning win? The stored results, compared at equal cost.

Five questions, each at equal MACs, equal bytes and equal milliseconds: FBS at one density against
static networks; two looks, one of them FBS, against one look for all images; and against two looks
of static networks; gates that scale channels and never choose against static networks, and gates
that choose against those. Within each budget the network that is right on most validation images
stands for its side. Test images decide nothing: they are only scored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from ..tables import markdown
from . import budget, choice, compared
from .stored import LESSON, benchmark_file
from .timing import three_digits

COSTS = {"macs": "MACs", "bytes": "bytes", "ms": "milliseconds"}
SLACK = 1.03  # of the cost: channels are whole, and clocks are not exact
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
    """One comparison at equal cost; ``difference`` and its standard error in points."""

    question: str
    data: str
    source: str  # the file that holds both
    cost: str
    one: Entrant
    rival: Entrant
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
                pairs = _pairs(entrants, kind, rivals, cost)
                facts = question, data, f"{place}/{data}.json", cost
                found += [Match(*facts, *pair, *_difference(*pair, images)) for pair in pairs]
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


def _pairs(
    entrants: Sequence[Entrant], kind: str, rivals: Sequence[str], cost: str
) -> Iterator[tuple[Entrant, Entrant]]:
    """For each budget the best of a kind and the best rival within it, each pair once.

    The budgets are what the rivals that are single networks cost, for that is where they are
    strongest, and the least and the most that one of the kind costs.
    """
    priced = [e for e in entrants if cost in e.costs]
    mine, theirs = ([e for e in priced if e.kind in kinds] for kinds in ((kind,), rivals))
    if not mine or not theirs:
        return
    own = [e.costs[cost] for e in mine]
    budgets = {min(own), max(own), *(e.costs[cost] for e in priced if e.kind in (FBS, STATIC))}
    met = set()
    for limit in sorted(budgets):
        pair = tuple(_best(side, cost, SLACK * limit) for side in (mine, theirs))
        if None not in pair and (names := (pair[0].name, pair[1].name)) not in met:
            met.add(names)
            yield pair


def _best(entrants: Sequence[Entrant], cost: str, limit: float) -> Entrant | None:
    """Of those within a budget the one that is right on most validation images."""
    affordable = [e for e in entrants if e.costs[cost] <= limit]
    return max(affordable, key=lambda e: e.validation, default=None)


def _difference(one: Entrant, rival: Entrant, images: int) -> tuple[float, float]:
    """In points: the mean over common seeds, and a standard error.

    The error is the larger of two: that between the seeds, and that of so many test images if
    both networks erred independently, which they do not, so that it is rather too large. All seeds
    share their test images: more seeds do not make the second smaller.
    """
    seeds = sorted(one.tests.keys() & rival.tests.keys())
    differences = [one.tests[seed] - rival.tests[seed] for seed in seeds]
    drawn = sum(e.test * (1 - e.test) for e in (one, rival)) / images
    error = drawn**0.5
    if len(seeds) > 1:
        error = max(error, stdev(differences) / len(seeds) ** 0.5)
    return 100 * mean(differences), 100 * error


# What is said


def tally(found: Sequence[Match], question: str, cost: str | None = None) -> dict[str, int]:
    """How many comparisons of a question are won, level and lost, at one equal cost or any."""
    mine = [m for m in found if m.question == question and cost in (None, m.cost)]
    outcomes = [m.outcome for m in mine]
    return {name: outcomes.count(name) for name in ("wins", "level", "loses")}


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
    head = ["question", "data", "equal", "network", "cost", "test", "rival", "its cost", "its test"]
    return markdown([*head, "difference", "outcome"], map(_line, found))


def _line(match: Match) -> list[str]:
    sides = [
        text
        for side in (match.one, match.rival)
        for text in (side.name, _cost(side, match.cost), f"{side.test:.2%}")
    ]
    difference = f"{match.difference:+.2f} ± {match.error:.2f}"
    facts = match.question, NAMES[match.data], COSTS[match.cost]
    return [*facts, *sides, difference, match.outcome]


def _cost(entrant: Entrant, cost: str) -> str:
    value = entrant.costs[cost]
    if cost == "macs":
        return f"{three_digits(value / 1e6)} M"
    return f"{value / 1e3:,.0f} kB" if cost == "bytes" else f"{three_digits(value)} ms"


def sentence(found: Sequence[Match]) -> str:
    """The answer to the title in short sentences; verdicts and numbers come from ``found``."""
    looks = tally(found, AMOUNT, "macs")
    best = max((m.difference for m in found if (m.question, m.cost) == (AMOUNT, "macs")), default=0)
    gain = f", by up to {best:.1f} points" * (looks["wins"] > 0)
    where = "where it decides how much each image gets" if looks["wins"] else "nowhere yet"
    parts = [
        f"Dynamic pruning wins {where}: at equal MACs a second look for the unsure is ahead of one "
        f"look for all in {_won(looks)}{gain}.",
        *_without_gates(found),
        "At equal MACs, bytes or milliseconds, FBS with one density for all images is ahead of "
        f"static networks in {_won(tally(found, CHANNELS))}.",
        *_scaling(found),
    ]
    return " ".join(parts)


def _without_gates(found: Sequence[Match]) -> Iterator[str]:
    """What two looks are without gates, at equal MACs, where that was measured."""
    counts = tally(found, GATES, "macs")
    if sum(counts.values()):
        yield f"Two looks with gates are ahead of two looks of static networks in {_won(counts)}."


def _scaling(found: Sequence[Match]) -> Iterator[str]:
    """What gates are worth that scale and do not choose, where that was measured."""
    scaling, choosing = (tally(found, question) for question in (SCALING, CHOOSING))
    if sum(scaling.values()):
        yield (
            f"Gates that only scale are ahead of static networks in {_won(scaling)}; gates that "
            f"may choose are ahead of those in {_won(choosing)}."
        )


def _won(counts: Mapping[str, int]) -> str:
    """As "3 of 5 budgets (level in 1 and behind in 1)"."""
    others = {"level": counts["level"], "behind": counts["loses"]}
    rest = " and ".join(f"{name} in {count}" for name, count in others.items() if count)
    total = sum(counts.values())
    budgets = f"{total} budget{'s' * (total != 1)}"
    return f"{counts['wins'] or 'none'} of {budgets}" + f" ({rest})" * bool(rest)
