"""The reader's own project: a report, what is unfair in it, and the files it is kept in."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..files import write_atomically
from ..method.dynamics import CONTROLS
from .plots import plt
from .plots.style import BLACK, BLUE, DARK_GREY, legend_below
from .widgets import small_png

FOLDER = Path("my_project")  # a notebook's kernel starts in the notebook's folder
NETWORKS = {"plain": BLACK, "gated": BLUE, "narrow": DARK_GREY}  # and their colours
PAIRS = ((BLUE, "o"), (DARK_GREY, "s"))  # the looks of two pairs, whose marks are hollow
SLACK = 0.05  # of the gated network's MACs: so far off may the fair opponent be
CRITERIA = (
    "data, seeds, test_looks, chosen_on, networks (plain, gated and narrow, each with accuracy, "
    "macs and ms), controls, machine, batch, finding"
)


def faults(report: Mapping) -> Iterator[str]:
    """What is missing or unfair in a report, a sentence for each; nothing in a fair one."""
    for key in ("data", "finding", "machine", "batch"):
        if not report.get(key):
            yield f"{key} is missing"
    seeds = report.get("seeds", ())
    if len(set(seeds)) < 2:
        yield f"two different seeds at least: one training proves little, got {list(seeds)}"
    looks = report.get("test_looks")
    if looks != 1:
        yield f"the test images are looked at once, at the end; test_looks is {looks}"
    if report.get("chosen_on") != "validation":
        yield "whatever you chose was to be chosen on validation images: say so in chosen_on"
    networks = report.get("networks", {})
    for name in NETWORKS:
        yield from _faults_of_network(name, networks.get(name), len(seeds))
    yield from _faults_of_opponent(networks)
    missing = [c.key for c in CONTROLS if c.key not in report.get("controls", {})]
    if missing:
        yield f"controls lack {', '.join(missing)}: without them nobody knows what the gates know"


def _faults_of_network(name: str, network: Mapping | None, seeds: int) -> Iterator[str]:
    if not network:
        why = "the fair opponent" if name == "narrow" else "one of the three"
        yield f"networks has no {name}, {why}"
        return
    accuracy = network.get("accuracy", ())
    if len(accuracy) != seeds:
        yield f"{name}: one accuracy per seed: {seeds} seeds, {len(accuracy)} accuracies"
    if not all(0 <= a <= 1 for a in accuracy):
        yield f"{name}: an accuracy is a share from 0 to 1, not a percentage"
    if not network.get("macs"):
        yield f"{name}: no MACs"
    if not network.get("ms"):
        yield f"{name}: no milliseconds beside the MACs: a MAC that is skipped may save no time"


def _faults_of_opponent(networks: Mapping) -> Iterator[str]:
    gated, narrow = (networks.get(name, {}).get("macs") for name in ("gated", "narrow"))
    if gated and narrow and abs(narrow / gated - 1) > SLACK + 1e-9:
        more = "more" if narrow > gated else "fewer"
        yield (
            f"the narrow network has {abs(narrow / gated - 1):.0%} {more} MACs than the gated one; "
            f"{SLACK:.0%} are fair, predictors included"
        )


def margin(report: Mapping) -> str:
    """Gated minus narrow, beside how far seeds are apart; accuracy decides only above that.

    With ``report["paired_error"]``, as `paired_error` gives it, beside twice that, too.
    """
    gated, narrow = (report["networks"][name]["accuracy"] for name in ("gated", "narrow"))
    lead = 100 * (_mean(gated) - _mean(narrow))
    apart = 100 * max(max(a) - min(a) for a in (gated, narrow))
    said = f"gated minus narrow: {lead:+.1f} points, {_than(lead, apart)} seeds differ "
    said += f"({apart:.1f} points)"
    if "paired_error" in report:
        twice = 200 * report["paired_error"]
        said += f"; {_than(lead, twice)} twice the paired standard error ({twice:.1f} points)"
    return said


def _than(lead: float, yardstick: float) -> str:
    return "more than" if abs(lead) > yardstick else "no more than"


def paired_error(first: Tensor, second: Tensor) -> float:
    """Standard error of the difference of two mean accuracies on the same images, 0..1.

    Args:
        first, second: bool ``[seeds, N]``, whether each network is right on each image. An image
            that both sides find easy, or both find hard, adds nothing to it.
    """
    difference = first.double().mean(dim=0) - second.double().mean(dim=0)
    return (difference.std() / len(difference) ** 0.5).item()


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def report_picture(report: Mapping) -> tuple[Figure, str]:
    """Accuracy over MACs and over milliseconds: a mark for each seed, a line joins a network's.

    Pairs of looks, ``report["pairs"]``, are hollow marks among the MACs.
    """
    figure, row = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    networks, pairs = report["networks"], report.get("pairs", {})
    for axes, key, unit in zip(row, ("macs", "ms"), (1e6, 1), strict=True):
        for (name, colour), marker in zip(NETWORKS.items(), "Dos", strict=True):
            _marks(axes, networks[name], key, unit, name, marker, color=colour)
            axes.hlines(
                100 * _mean(networks[name]["accuracy"]), *_quartiles(networks[name], key),
                color=colour, linewidth=1.2,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.margins(y=0.2)
        axes.grid(alpha=0.3)
    for (name, pair), (colour, marker) in zip(pairs.items(), PAIRS, strict=False):
        _marks(row[0], pair, "macs", 1e6, name, marker, color=colour, markerfacecolor="white")
    row[0].set(xlabel="MACs per image (millions), predictors included", ylabel="test accuracy (%)")
    row[1].set(xlabel=f"milliseconds, {report['batch']} image at a time")
    figure.suptitle(f"My project on {report['data']}: accuracy, work and time", fontsize=11)
    legend_below(figure, *row[0].get_legend_handles_labels(), ncols=5)
    said = [_said(name, networks[name]) for name in NETWORKS]
    return figure, "; ".join(said + [_said(name, pair) for name, pair in pairs.items()]) + "."


def _marks(
    axes: Axes, network: Mapping, key: str, unit: float, name: str, marker: str, **look: str
) -> None:
    """A mark for each seed, above what the network costs."""
    right = [100 * a for a in network["accuracy"]]
    axes.plot([network[key] / unit] * len(right), right, f"-{marker}", label=name, markersize=8,
              linewidth=1, **look)  # fmt: skip


def _quartiles(network: Mapping, key: str) -> Sequence[float]:
    """The ends of the line that shows how far times differ; a point where they are not known."""
    return network.get("quartiles", (network["ms"],) * 2) if key == "ms" else (math.nan,) * 2


def _said(name: str, network: Mapping) -> str:
    right = 100 * _mean(network["accuracy"])
    time = f", {network['ms']:.3f} ms" if "ms" in network else ""
    return f"{name} {right:.1f} % right, {network['macs']:,.0f} MACs{time}"


def as_markdown(report: Mapping) -> str:
    """The report as a page, with its table, its controls and what is unfair in it."""
    lines = [f"# Dynamic channel pruning on {report['data']}", "", report["finding"], ""]
    lines += ["![accuracy over MACs and over milliseconds](report.png)", ""]
    lines += ["| network | test accuracy, one per seed | MACs | ms |", "|---|---|---|---|"]
    networks = {name: report["networks"][name] for name in NETWORKS}
    for name, network in (networks | dict(report.get("pairs", {}))).items():
        rights = ", ".join(f"{100 * a:.1f} %" for a in network["accuracy"])
        lines.append(f"| {name} | {rights} | {network['macs']:,.0f} | {_time(network)} |")
    lines += ["", f"Seeds {report['seeds']}; {margin(report)}.", "", "| control | right |"]
    lines.append("|---|---|")
    lines += [f"| {c.label} | {100 * report['controls'][c.key]:.1f} % |" for c in CONTROLS]
    found = list(faults(report))
    lines += ["", "Missing or unfair: " + ("; ".join(found) if found else "nothing found") + "."]
    return "\n".join(lines) + "\n"


def _time(network: Mapping) -> str:
    """Milliseconds, with quartiles where they are known; nothing where none was taken."""
    ends = " ({:.3f} to {:.3f})".format(*network["quartiles"]) if "quartiles" in network else ""
    return f"{network['ms']:.3f}{ends}" if "ms" in network else ""


def write_report(report: Mapping, folder: Path | None = None) -> Path:
    """Write ``report.md``, ``report.png`` and ``report.json``, each whole or not at all.

    Args:
        folder: made if it is not there; ``my_project`` beside the notebook when None, and a
            temporary one in a test run.

    Returns:
        Where the page is.
    """
    folder = default_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    figure, sentence = report_picture(report)
    picture = small_png(figure, sentence).data
    plt.close(figure)
    page = folder / "report.md"
    write_atomically(folder / "report.png", picture)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "report.json", text.encode())
    write_atomically(page, as_markdown(report).encode())
    return page


def default_folder() -> Path:
    """Where the reader's project lives: beside the notebook, but in a test run nowhere for long."""
    return Path(tempfile.mkdtemp()) if "PYTEST_VERSION" in os.environ else FOLDER
