"""Where dynamic pruning wins: stored results at equal MACs, bytes and milliseconds."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...bench.answer import NAMES, QUESTIONS, SHORT, Match, matches, sentence, stored_budget
from ...bench.budget import curves
from .accuracy import budget_curves
from .style import BLUE, GREY, ORANGE, legend_below

OUTCOMES = {  # colour, marker, words
    "wins": (BLUE, "o", "ahead by more than two standard errors"),
    "level": (GREY, "s", "level"),
    "loses": (ORANGE, "X", "behind by more than two standard errors"),
}


def budget_picture(name: str = "cifar10", title: str = "") -> tuple[Figure, str]:
    """`budget_curves` of what is stored for a data set, ``"cifar10"`` or ``"digits"``.

    Raises:
        FileNotFoundError: the folder of the course is not around here, or holds no such result.
    """
    return budget_curves(curves(stored_budget(name)), title)


def answer_picture(found: Sequence[Match] | None = None, title: str = "") -> tuple[Figure, str]:
    """Every comparison of `bench.answer`: how many points dynamic pruning is ahead at equal cost.

    Args:
        found: as from `matches`; those of the stored results when None.

    Raises:
        FileNotFoundError: None, and the folder of the course is not around here.
    """
    found = matches() if found is None else found
    rows = [
        (question, source)
        for question in QUESTIONS
        for source in dict.fromkeys(m.source for m in found if m.question == question)
    ]
    figure, panels = plt.subplots(
        1, len(SHORT), figsize=(9.5, 1.4 + 0.48 * len(rows)), sharey=True, layout="constrained"
    )
    for axes, (cost, name) in zip(panels, SHORT.items(), strict=True):
        _panel(axes, [m for m in found if m.cost == cost], rows)
        axes.set_title(name, fontsize=10)
    names = {m.source: f"{NAMES[m.data]}, {m.source.partition('/')[0]}" for m in found}
    labels = [f"{question}\n{names[source]}" for question, source in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    panels[0].set(ylim=(len(rows) - 0.5, -0.5))
    panels[1].set_xlabel("points of test accuracy ahead of the rival, and the standard error")
    figure.suptitle(title, fontsize=10)
    legend_below(figure, *_legend(panels[0]), ncols=3, fontsize=8)
    return figure, sentence(found)


def _panel(axes: Axes, found: Sequence[Match], rows: Sequence[tuple[str, str]]) -> None:
    """One cost: a point with its error for each comparison, a line of text where there is none."""
    axes.axvline(0, color="black", linewidth=0.8)
    for y, row in enumerate(rows):
        mine = [m for m in found if (m.question, m.source) == row]
        for i, match in enumerate(mine):
            colour, marker, _ = OUTCOMES[match.outcome]
            shift = 0.6 * ((i + 0.5) / len(mine) - 0.5)
            axes.errorbar([match.difference], [y + shift], xerr=[match.error], color=colour,
                          marker=marker, markersize=5, elinewidth=1)  # fmt: skip
        if not mine:
            axes.text(0, y, "not measured", ha="center", va="center", fontsize=8,
                      bbox={"color": "white"})  # fmt: skip
    axes.set_xscale("symlog", linthresh=2)
    axes.set_xticks([-5, -2, -1, 0, 1, 2], ["-5", "-2", "-1", "0", "1", "2"])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-8, 4)
    axes.grid(alpha=0.3, axis="x")


def _legend(axes: Axes) -> tuple[list, list[str]]:
    """A handle and words for each outcome."""
    handles = [
        axes.plot([], [], color=colour, marker=marker, linestyle="", markersize=5)[0]
        for colour, marker, _ in OUTCOMES.values()
    ]
    return handles, [words for *_, words in OUTCOMES.values()]
