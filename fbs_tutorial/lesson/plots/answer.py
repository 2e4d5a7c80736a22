"""Where dynamic pruning wins: stored results at equal MACs, bytes and milliseconds."""

import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from ...bench.answer import (
    NAMES,
    QUESTIONS,
    SHORT,
    Match,
    headline,
    matches,
    sentence,
    stored_budget,
)
from ...bench.budget import DIAL, FIXED, PLAIN, SINGLE, curves, label
from ...bench.timing import three_digits
from .accuracy import budget_curves
from .style import (
    BLACK,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    ink,
    label_lines,
    legend_below,
    plain_ticks,
)

OUTCOMES = {  # colour, marker, words
    "wins": (BLUE, "o", "ahead by more than two standard errors"),
    "level": (GREY, "s", "level: within two standard errors"),
    "loses": (ORANGE, "X", "behind by more than two standard errors"),
}


def budget_picture(name: str = "cifar10", title: str = "") -> tuple[Figure, str]:
    """`budget_curves` of what is stored for a data set, ``"cifar10"`` or ``"digits"``.

    Raises:
        FileNotFoundError: the folder of the course is not around here, or holds no such result.
    """
    return budget_curves(curves(stored_budget(name)), title)


def accuracy_over_cost(results: Mapping, title: str = "") -> tuple[Figure, str]:
    """Test accuracy against MACs and against milliseconds, the same networks in both panels.

    Args:
        results: of the command ``budget``, with its ``"clock"``; a network and its density, or two
            looks, are one point, whose accuracy and milliseconds belong together.

    Raises:
        ValueError: the results hold no times.
    """
    if "clock" not in results:
        raise ValueError("results must hold a clock, got none: run `budget` with its times")
    groups = _groups(results)
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 5.2), sharey=True, layout="constrained")
    for name, (colour, marker, line, fill) in COST_LOOKS.items():
        for axes, cost in zip(panels, ("macs", "ms"), strict=True):
            found = sorted(groups.get(name, ()), key=lambda p: p[cost])
            points = [(p[cost], p["accuracy"]) for p in found]
            style = {"markerfacecolor": fill or colour, "label": BESIDE.get(name, name)}
            size = 11 if marker == "*" else 7
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line,
                      markersize=size, **style)  # fmt: skip
            if cost == "ms":
                for p in found:
                    axes.hlines(p["accuracy"], *p["quartiles"], color=colour, linewidth=0.8,
                                alpha=0.4)  # fmt: skip
    labels = (
        "million MACs per image, with predictors (numbers: d)",
        "milliseconds per image, with quartiles",
    )
    for axes, words, ticks in zip(panels, labels, COST_TICKS, strict=True):
        axes.set(xscale="log", xlabel=words)
        plain_ticks(axes.xaxis, ticks)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low - 0.03 * (high - low), high + 0.12 * (high - low))  # room for names
    panels[0].set_xlim(0.93 * panels[0].get_xlim()[0])
    _name_densities(panels[0], groups)
    figure.suptitle(title, fontsize=11)
    label_lines(panels[0], fontsize=9)
    return figure, _said_cost(groups)


def _name_densities(axes: Axes, groups: Mapping[str, Sequence[dict]]) -> None:
    """Beside each single network its density; of two in one place, once."""
    named = set()
    for name, (offset, sides) in DENSITY_BESIDE.items():
        colour = ink(COST_LOOKS[name][0])
        for p in groups.get(name, ()):
            place = round(p["macs"]), round(p["accuracy"])
            if place not in named:
                axes.annotate(f"{p['density']:g}", (p["macs"], p["accuracy"]), offset, **sides,
                              textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
            named.add(place)


ONE, SLIDER = "FBS, trained for one density", "FBS, one network for all densities"
FULL, SMALL = "the plain network", "small plain networks, the best of each size"
TWICE, TWICE_PLAIN = "two looks, FBS among them", "two looks of plain networks"
COST_LOOKS = {  # colour, marker, line, fill
    FULL: (BLACK, "s", "", None),
    SMALL: (GREEN, "^", "--", None),
    ONE: (BLUE, "o", "", None),
    SLIDER: (BLUE, "o", ":", "white"),
    TWICE: (BLUE, "*", "", None),
    TWICE_PLAIN: (GREEN, "*", "", "white"),
}
BESIDE = {SMALL: "small plain networks", ONE: "FBS, one density", SLIDER: "FBS, all densities"}
DENSITY_BESIDE = {  # where the density of a point stands, in points from it
    ONE: ((-8, 0), {"ha": "right", "va": "center"}),
    SMALL: ((7, -11), {}),
    SLIDER: ((0, -14), {"ha": "center"}),
}
COST_TICKS = ([17, 25, 44, 87, 174], [0.3, 0.5, 0.7, 1, 1.4, 2])


def _groups(results: Mapping) -> dict[str, list[dict]]:
    """The points of `bench.budget.curves` under the names of the picture."""
    groups: dict[str, list[dict]] = {}
    for name, point in _timed(results):
        groups.setdefault(name, []).append(point)
    best = {}  # of the small networks of one size the one that validation images prefer
    for point in sorted(groups[SMALL], key=lambda p: p["validation"]):
        best[round(point["macs"])] = point
    return groups | {SMALL: list(best.values())}


def _timed(results: Mapping) -> Iterator[tuple[str, dict]]:
    """Name of the group, and what the picture needs, of every point that was timed."""
    found = curves(results)
    for kind in (SINGLE, FIXED, DIAL, PLAIN):
        for point in found.get(kind, ()):
            who = label(point)
            one = {SINGLE: FULL if who == "plain" else SMALL, DIAL: TWICE, PLAIN: TWICE_PLAIN}
            name = one.get(kind) or (SLIDER if who.startswith("any") else ONE)
            if "@" in who and name == ONE:  # trained for another density than it runs at
                continue
            yield (
                name,
                {
                    "who": who,
                    "macs": point["test"]["macs"] / 1e6,
                    "ms": results["clock"]["ms"][who][0],
                    "quartiles": results["clock"]["ms"][who][1:],
                    "accuracy": 100 * point["test"]["accuracy"],
                    "validation": point["validation"]["accuracy"],
                    "density": max(map(float, re.findall(r"\d\.\d", who)), default=1.0),
                },
            )


def _said_cost(groups: Mapping[str, Sequence[dict]]) -> str:
    """The most accurate of each kind; of pairs the quickest that beats the plain network."""
    plain, said = groups[FULL][0]["accuracy"], []
    for name in COST_LOOKS:
        points = sorted(groups.get(name, ()), key=lambda p: -p["accuracy"])
        if "looks" in name:
            points = sorted((p for p in points if p["accuracy"] > plain), key=lambda p: p["ms"])
        for p in points[:1]:
            cost = f"{three_digits(p['macs'])} M MACs in {three_digits(p['ms'])} ms"
            said.append(f"{name}: {p['accuracy']:.2f} %, {cost}")
    what = "The most accurate of each kind, and the quickest pairs that beat the plain network:"
    return "\n  ".join([what, *said])


def affordable(results: Mapping, share: float, cost: str = "ms") -> tuple[Figure, str]:
    """Of each kind the network, or pair, that a budget allows; validation images choose it.

    Args:
        results: as for `accuracy_over_cost`. share: the budget, as a share of what the plain
            network costs. cost: ``"ms"`` or ``"macs"``.
    """
    groups = _groups(results)
    limit, unit = share * groups[FULL][0][cost], {"ms": "ms", "macs": "M MACs"}[cost]
    figure, axes = plt.subplots(figsize=(8.5, 3.2), layout="constrained")
    chosen = {}
    for place, (name, (colour, marker, _, fill)) in enumerate(COST_LOOKS.items()):
        fits = [p for p in groups.get(name, ()) if p[cost] <= limit * 1.001]
        if not fits:
            axes.text(0.02, place, "nothing costs so little", va="center", fontsize=8,
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        one = chosen[name] = max(fits, key=lambda p: p["validation"])
        axes.plot([one["accuracy"]], [place], marker, color=colour, markersize=9,
                  markerfacecolor=fill or colour)  # fmt: skip
        words = f"{one['accuracy']:.2f} %, {three_digits(one[cost])} {unit}"
        axes.annotate(words, (one["accuracy"], place), (9, 0), textcoords="offset points",
                      va="center", fontsize=8)  # fmt: skip
    every = [p["accuracy"] for points in groups.values() for p in points]
    axes.set(xlim=(min(every) - 0.5, max(every) + 1.8), xlabel="test accuracy (%)")
    axes.set_yticks(range(len(COST_LOOKS)), list(COST_LOOKS), fontsize=9)
    axes.set(ylim=(len(COST_LOOKS) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    spent = f"{three_digits(limit)} {unit} per image"
    axes.set_title(f"What {spent} can buy", fontsize=11)
    return figure, _said_budget(chosen, f"{spent}, {share:.0%} of what the plain network needs")


def _said_budget(chosen: Mapping[str, dict], spent: str) -> str:
    if not chosen:
        return f"{spent}: no network costs so little."
    name, best = max(chosen.items(), key=lambda item: item[1]["accuracy"])
    return f"{spent}: the highest test accuracy is {best['accuracy']:.2f} %, of {name}."


def answer_picture(found: Sequence[Match] | None = None, title: str = "") -> tuple[Figure, str]:
    """Every comparison of `bench.answer`: how many points dynamic pruning is ahead at equal cost.

    Args:
        found: as from `matches`; those of the stored results when None.
        title: what the comparisons say, `headline`, when empty.
    """
    found = matches() if found is None else found
    rows = [
        (question, source)
        for question in QUESTIONS
        for source in dict.fromkeys(m.source for m in found if m.question == question)
    ]
    figure, panels = plt.subplots(
        1, len(SHORT), figsize=(9.5, 1.6 + max(0.55 * len(rows), 3)),
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    for axes, (cost, name) in zip(panels, SHORT.items(), strict=True):
        _panel(axes, [m for m in found if m.cost == cost], rows)
        axes.set_title(name, fontsize=10)
    names = {m.source: f"{NAMES[m.data]}, {m.source.partition('/')[0]}" for m in found}
    one = len(names) == 1  # then nothing is to be told apart
    labels = [question if one else f"{question}\n{names[source]}" for question, source in rows]
    if one:  # few and short: larger, in two lines
        labels = [
            label.replace(", ", ",\n").replace(" against ", "\nagainst ", 1) for label in labels
        ]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=10 if one else 8)
    panels[0].set(ylim=(len(rows) - 0.5, -0.5))
    panels[0].set_xlim(*_limits(found))
    panels[1].set_xlabel(
        "points of test accuracy ahead of the rivals at the same cost, with the standard error"
    )
    figure.suptitle(title or headline(found), fontsize=10)
    legend_below(figure, *_legend(panels[0]), ncols=3, fontsize=8)
    return figure, sentence(found)


def _panel(axes: Axes, found: Sequence[Match], rows: Sequence[tuple[str, str]]) -> None:
    """One cost: a point with its error for each comparison, a line of text where there is none."""
    axes.axvline(0, color="black", linewidth=0.8)
    for y in range(0, len(rows), 2):  # bands, so that each mark is seen to belong to its row
        axes.axhspan(y - 0.5, y + 0.5, color=FAINT, zorder=0)
    for y, row in enumerate(rows):
        mine = [m for m in found if (m.question, m.source) == row]
        for i, match in enumerate(mine):
            colour, marker, _ = OUTCOMES[match.outcome]
            shift = 0.75 * ((i + 0.5) / len(mine) - 0.5)
            axes.errorbar([match.difference], [y + shift], xerr=[match.error], color=colour,
                          marker=marker, markersize=4, elinewidth=1)  # fmt: skip
        if not mine:
            axes.text(0, y, "not measured", ha="center", va="center", fontsize=8,
                      bbox={"color": "white"})  # fmt: skip
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.grid(alpha=0.3, axis="x")


def _limits(found: Sequence[Match]) -> tuple[float, float]:
    """Limits within which every mark and every error bar lies, with 0 between them."""
    low = min((m.difference - m.error for m in found), default=-1)
    high = max((m.difference + m.error for m in found), default=1)
    return min(low, -1) - 0.4, max(high, 1) + 0.4


def _legend(axes: Axes) -> tuple[list, list[str]]:
    """A handle and words for each outcome."""
    handles = [
        axes.plot([], [], color=colour, marker=marker, linestyle="", markersize=5)[0]
        for colour, marker, _ in OUTCOMES.values()
    ]
    return handles, [words for *_, words in OUTCOMES.values()]
