"""Two trials of the method: a pool of channels that grows, and gates that multiply gates."""

from collections.abc import Sequence
from statistics import mean
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...bench.choice import CHOOSES, SCALES, STATIC, WIDER, lines, verdict
from ...bench.stability import FORMS, UPDATES
from .style import BLACK, BLUE, GREEN, ORANGE, PURPLE, ink, legend_below

LOSS_LOOKS = dict(
    zip(
        FORMS,
        ((BLACK, "-", "o"), (BLUE, "--", "s"), (ORANGE, "-", "^"), (PURPLE, "-.", "D")),
        strict=True,
    )
)


def growing_pool(results: dict, title: str = "") -> tuple[Figure, str]:
    """Test accuracy against the number of channels for each that wins, at the same MACs.

    Args:
        results: of `choice`. Points are means over its seeds, bars go from the lowest seed to the
            highest; the first point has nothing to choose from, and its gates only scale.
    """
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    winners, found = results["plan"]["winners"], lines(results)
    gated = {pool: rows for (method, pool), rows in found.items() if method in (SCALES, CHOOSES)}
    times = [pool / winners for pool in gated]
    _bars(axes, times, gated.values(), "test_accuracy", "own gates", (BLUE, "o", "-"))
    _bars(axes, times, gated.values(), "mean_winners",
          "the same channels for all images, own values", (PURPLE, "D", "-."))  # fmt: skip
    for key, name, colour, line in (
        ((STATIC, winners), "static, as many channels as win", GREEN, "--"),
        ((WIDER, None), "static, MACs of the largest pool and more", BLACK, ":"),
    ):
        level = 100 * mean(row["test_accuracy"] for row in found[key])
        axes.axhline(level, color=colour, linestyle=line, label=name)
    axes.set(xlabel="channels for each that wins", ylabel="test accuracy (%)", title=title)
    axes.set_xticks(times, [f"{t:g}" for t in times])
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=2, fontsize=8)
    return figure, verdict(results)


def _bars(
    axes: Axes, times: Sequence[float], groups: Sequence, key: str, name: str, look: tuple
) -> None:
    values = [[100 * row[key] for row in rows] for rows in groups]
    middle = np.array([mean(v) for v in values])
    off = [middle - [min(v) for v in values], np.array([max(v) for v in values]) - middle]
    colour, marker, line = look
    hollow = {"markerfacecolor": "none", "markersize": 10} if marker == "D" else {}
    axes.errorbar(times, middle, off, color=colour, marker=marker, linestyle=line, label=name,
                  elinewidth=0.8, **hollow)  # fmt: skip


def losses_of_gates(results: dict, title: str = "") -> tuple[Figure, str]:
    """The training loss of each form and seed of `stability`, for both updates, a cross where it
    is no longer finite; and the validation accuracy after the last update."""
    figure, panels = plt.subplots(
        1, len(UPDATES) + 1, figsize=(9.5, 3.6), layout="constrained", width_ratios=(3, 3, 2.4)
    )
    panels[1].sharey(panels[0])
    for axes, update in zip(panels, UPDATES, strict=False):
        for row in (r for r in results["rows"] if r["update"] == update):
            colour, line, _ = LOSS_LOOKS[row["form"]]
            steps = range(1, len(row["losses"]) + 1)
            axes.plot(steps, row["losses"], line, color=colour, linewidth=1, label=row["form"])
            if row["diverged"]:
                last = row["losses"][-1] if row["losses"] else 1
                axes.plot([row["diverged"]], [last], "X", color=colour, markersize=9)
        axes.set(title=update, xlabel="update", yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("training loss")
    _accuracies_at_the_end(panels[-1], results["rows"])
    handles, names = panels[0].get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    legend_below(figure, list(once.values()), list(once), ncols=4)
    figure.suptitle(title, fontsize=10)
    return figure, said_of_gates(results)


def _accuracies_at_the_end(axes: Axes, rows: Sequence[dict]) -> None:
    """A marker for each run, beside one another within an update; none for a run that broke."""
    for i, update in enumerate(UPDATES):
        for j, form in enumerate(FORMS):
            here = [r for r in rows if (r["update"], r["form"]) == (update, form)]
            values = [100 * r["accuracy"] for r in here if r["accuracy"] is not None]
            colour, _, marker = LOSS_LOOKS[form]
            axes.plot([i + 0.2 * (j - 1.5)] * len(values), values, marker, color=colour)
            if len(values) < len(here):
                axes.text(i + 0.2 * (j - 1.5), 2, "NaN", color=colour, ha="center", fontsize=8)
    axes.set(title="after the last update", ylabel="validation accuracy (%)", ylim=(0, 104))
    axes.set_xticks(range(len(UPDATES)), [fill(name, 8) for name in UPDATES])
    axes.set_xlim(-0.5, len(UPDATES) - 0.5)
    axes.grid(alpha=0.3, axis="y")


def ends_of_gates(results: dict, title: str = "") -> tuple[Figure, str]:
    """Validation accuracy after the last update of `stability`, a row for each form, a dot for each
    seed; words where a loss was no longer finite."""
    figure, panels = plt.subplots(
        1, len(UPDATES), figsize=(8.5, 2.7), layout="constrained", sharey=True
    )
    for axes, update in zip(panels, UPDATES, strict=True):
        for place, (form, (colour, _, marker)) in enumerate(LOSS_LOOKS.items()):
            rows = [r for r in results["rows"] if (r["update"], r["form"]) == (update, form)]
            fine = [100 * row["accuracy"] for row in rows if row["accuracy"] is not None]
            beside = place + np.linspace(-0.2, 0.2, len(fine))  # two seeds may be equal
            axes.plot(fine, beside, marker, color=colour, markersize=7)
            broken = [str(row["diverged"]) for row in rows if row["diverged"]]
            if broken:
                words = f"NaN at update {', '.join(broken)}"
                axes.text(14, place, words, color=ink(colour), va="center", fontsize=9)
        axes.set(title=update, xlabel="validation accuracy (%)", xlim=(0, 100))
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(FORMS)), FORMS)
    panels[0].set_ylim(len(FORMS) - 0.5, -0.5)
    figure.suptitle(title, fontsize=11)
    return figure, _said_of_the_end(results["rows"])


def said_of_gates(results: dict) -> str:
    """How many runs of each form ended in values that are not finite, and where that began; and
    how accurate the others are in the end."""
    said = []
    for form in FORMS:
        rows = [row for row in results["rows"] if row["form"] == form]
        over = [row for row in rows if row["diverged"]]
        peak = max(max(row["losses"]) for row in rows if row["losses"])
        part = f"{form}: {len(over)} of {len(rows)} runs not finite, largest loss {peak:.3g}"
        if over:
            steps = sorted({row["diverged"] for row in over})
            part += f", from update {steps[0]} on" if len(steps) > 1 else f", at update {steps[0]}"
            part += _where_it_began([row["where"] for row in over])
        said.append(part)
    return f"{'; '.join(said)}.\n{_said_of_the_end(results['rows'])}"


def _said_of_the_end(rows: Sequence[dict]) -> str:
    said = []
    for update in UPDATES:
        parts = []
        for form in FORMS:
            here = [r["accuracy"] for r in rows if (r["update"], r["form"]) == (update, form)]
            numbers = ["NaN" if a is None else f"{100 * a:.0f}" for a in here]
            parts.append(f"{form} {', '.join(numbers)}")
        said.append(f"  {update}: {'; '.join(parts)}")
    return "\n".join(
        ["Validation accuracy (%) after the last update, one number for each seed:", *said]
    )


def _where_it_began(places: Sequence[dict]) -> str:
    """Whether the weights were still finite, and which block was the first to overflow."""
    if any(place["weights"] for place in places):
        return ", where the update before has already broken weights"
    if not all(place["module"] for place in places):
        return ", where the weights are still finite"
    blocks = sorted({place["module"]["place"] + 1 for place in places})
    named = " or ".join(map(str, blocks))
    return (
        f", where the weights are still finite and block {named} of {places[0]['module']['of']} "
        "is the first whose output is not"
    )
