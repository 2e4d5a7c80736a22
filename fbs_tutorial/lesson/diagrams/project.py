"""A map of the course's pieces in a project of the reader's own."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from ..plots.style import BLACK, BLUE, DARK_GREY, ORANGE
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


def project_map(found: Mapping[str, str] | None = None) -> tuple[Figure, str]:
    """From data to a report, with the fair opponent and the controls beneath.

    Args:
        found: ``{a key of PIECES, "narrow" or "controls": what came out}``, in place of the words.
    """
    found = found or {}
    figure, axes = canvas(33)
    for i, (name, (call, words)) in enumerate(PIECES.items()):
        x, colour = 1 + 17 * i, BLUE if name == "gated" else BLACK
        box(axes, x, 6, 13, 5, name, colour=colour, weight="bold", fontsize=11)
        label(axes, x + 6.5, 4, call, family="monospace", fontsize=7.5, color="#555555")
        note(axes, x + 6.5, 13.3, found.get(name, words))
        if name in NOTEBOOKS:
            note(axes, x + 6.5, 1.6, f"notebook {NOTEBOOKS[name]}")
        if i:
            arrow(axes, (x - 4, 8.5), (x, 8.5))
    _opponent(axes, found)
    return figure, (
        "A project runs from data to a report. The narrow network and the controls are what makes "
        "its numbers mean something."
    )


def _opponent(axes: object, found: Mapping[str, str]) -> None:
    """The second row: the controls of the gates, and the narrow plain network."""
    box(axes, 30, 18.5, 23, 4, "controls: gates exchanged", colour=ORANGE)
    note(axes, 41.5, 24.2, found.get("controls", "notebook 07"))
    path(axes, [(41.5, 15.2), (41.5, 18.5)], colour=ORANGE)
    path(axes, [(53, 20.5), (92.5, 20.5), (92.5, 15.6)], colour=ORANGE)
    box(axes, 30, 26.5, 23, 4, "fair opponent: narrow plain", colour=DARK_GREY)
    note(axes, 74, 30.3, found.get("narrow", "as many MACs, as many epochs, the same teacher"))
    path(axes, [(7.5, 15.6), (7.5, 28.5), (30, 28.5)], colour=DARK_GREY)
    path(axes, [(53, 28.5), (96, 28.5), (96, 15.6)], colour=DARK_GREY)
