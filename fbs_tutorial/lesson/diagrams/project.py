"""A project of the reader's own: a map of its pieces, and a race of its networks by width."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots.style import BLACK, BLUE, DARK_GREY, ORANGE, ink
from .draw import arrow, box, canvas, label, note, path

PIECES = {  # what it is: how it is made, and the notebook that explains it
    "data": ("load_data", "train, validation,\ntest (once)"),
    "plain": ("fit", "a network of\nyour own"),
    "gated": ("convert, fit", "density falls,\nplain one teaches"),
    "counted": ("count_macs", "predictors\nincluded"),
    "timed": ("accelerate, race", "in turn,\non this machine"),
    "report": ("check_report", "what is missing?\nwhat is unfair?"),
}
NOTEBOOKS = {"data": "00", "plain": "06", "gated": "04, 06", "counted": "05", "timed": "08, 10"}


def project_map() -> tuple[Figure, str]:
    """From data to a report, with the controls, the fair opponent and second looks beneath."""
    figure, axes = canvas(35)
    for i, (name, (call, words)) in enumerate(PIECES.items()):
        x, colour = 1 + 17 * i, BLUE if name == "gated" else BLACK
        box(axes, x, 6, 13, 5, name, colour=colour, weight="bold", fontsize=11)
        label(axes, x + 6.5, 4, call, family="monospace", fontsize=7.5, color="#555555")
        note(axes, x + 6.5, 13.3, words)
        if name in NOTEBOOKS:
            note(axes, x + 6.5, 1.6, f"notebook {NOTEBOOKS[name]}")
        if i:
            arrow(axes, (x - 4, 8.5), (x, 8.5))
    _opponent(axes)
    return figure, (
        "A project runs from data to a report. The narrow network and the controls are what makes "
        "its numbers mean something."
    )


def _opponent(axes: Axes) -> None:
    """Below: the controls of the gates, the narrow plain network, and both with a second look."""
    box(axes, 30, 18.5, 23, 4, "controls: gates exchanged", colour=ORANGE)
    note(axes, 41.5, 24.2, "notebook 07")
    path(axes, [(41.5, 15.2), (41.5, 18.5)], colour=ORANGE)
    path(axes, [(53, 20.5), (92.5, 20.5), (92.5, 15.6)], colour=ORANGE)
    box(axes, 30, 26.5, 23, 4, "fair opponent: narrow plain", colour=DARK_GREY)
    note(axes, 41.5, 32.4, "as many MACs, as many epochs, the same teacher")
    path(axes, [(7.5, 15.6), (7.5, 28.5), (30, 28.5)], colour=DARK_GREY)
    path(axes, [(53, 28.5), (66, 28.5)], colour=DARK_GREY)
    box(axes, 66, 26.5, 21, 4, "a second look, of both", colour=DARK_GREY)
    note(axes, 76.5, 32.4, "notebook 07")
    path(axes, [(87, 28.5), (96, 28.5), (96, 15.6)], colour=DARK_GREY)


def race_by_width(
    widths: Sequence[float], shares: Mapping[str, Sequence[tuple[float, float, float]]]
) -> tuple[Figure, str]:
    """Times of the gated and of the narrow network as shares of the plain one's, by its width.

    Args:
        widths: of the plain network, from narrow to wide.
        shares: ``{"gated" or "narrow": for each width the median and the two quartiles}``.
    """
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for (name, values), colour, marker in zip(shares.items(), (BLUE, DARK_GREY), "os", strict=True):
        middle, low, high = (100 * np.array(each) for each in zip(*values, strict=True))
        axes.errorbar(widths, middle, (middle - low, high - middle), fmt=f"-{marker}",
                      color=colour, elinewidth=1, capsize=3)  # fmt: skip
        higher = max(shares, key=lambda name: shares[name][-1][0]) == name
        axes.annotate(name, (widths[-1], middle[-1]), (9, 0 if higher else -7), va="center",
                      textcoords="offset points", color=ink(colour))  # fmt: skip
    axes.axhline(100, color=BLACK, linewidth=1.5)
    axes.annotate("plain", (widths[-1], 100), (9, 7), textcoords="offset points", va="center")
    axes.set_xlim(widths[0] / 1.15, widths[-1] * 1.35)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, widths)
    axes.minorticks_off()
    axes.set(xlabel="width of the plain network", ylabel="time (% of the plain network's)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(_who_wins(widths, *shares.values()), fontsize=11)
    said = [
        f"width {width:g}: "
        + ", ".join(f"{name} {values[i][0]:.0%}" for name, values in shares.items())
        for i, width in enumerate(widths)
    ]
    return figure, f"Of the plain network's time: {'; '.join(said)}."


Times = Sequence[tuple[float, float, float]]  # medians with both quartiles


def _who_wins(widths: Sequence[float], gated: Times, narrow: Times) -> str:
    """What the race by width says, where quartiles leave no doubt."""
    slower = [i for i, (_, _, high) in enumerate(gated) if high >= 1]
    wins = widths[slower[-1] + 1 :] if slower else widths
    if not wins:
        _, low, _ = gated[-1]
        verdict = "skipping does not yet pay" if low >= 1 else "the clock has not decided"
        return f"At the largest of these widths {verdict}"
    where = f"at width {wins[0]:g}" if len(wins) == 1 else f"from width {wins[0]:g} on"
    said = f"Skipping beats the plain network {where}"
    if slower and gated[slower[-1]][1] < 1:
        said += f"; at {widths[slower[-1]]:g} the clock has not decided"
    if all(n[2] < g[1] for n, g in zip(narrow, gated, strict=True)):
        said += ",\nand the narrow one is faster at each"
    return said


def off_its_density(
    rows: Mapping[float, tuple[float, float]], density: float, trained: float
) -> tuple[Figure, str]:
    """Accuracy over MACs of one network at many densities, with a ring where it is asked.

    Args:
        rows: ``{density: (accuracy 0..1, MACs per image)}``.
        density: which of them has the ring. trained: for which the network was trained.
    """
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    right, macs = ([row[i] for row in rows.values()] for i in (0, 1))
    axes.plot([m / 1e3 for m in macs], [100 * r for r in right], "-o", color=BLUE)
    for each, (r, m) in rows.items():
        axes.annotate(
            f"{each:g}", (m / 1e3, 100 * r), (0, 11), textcoords="offset points", ha="center",
            fontsize=9,
        )  # fmt: skip
    r, m = rows[density]
    axes.plot(m / 1e3, 100 * r, "o", color=BLACK, markersize=14, markerfacecolor="none")
    axes.set(xlabel="MACs per image (thousands); a number is a density", ylim=(0, 118))
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("validation accuracy (%)")
    axes.set_title(f"Trained for d = {trained:g}, asked for d = {density:g}", fontsize=11)
    axes.grid(alpha=0.3)
    return figure, f"d = {density:g}: {r:.1%} of the validation images correct, {m:,.0f} MACs."
