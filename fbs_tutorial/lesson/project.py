"""The reader's own project: a report, what is unfair in it, and the files it is kept in."""

import json
import math
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..files import write_atomically
from ..method.dynamics import CONTROLS
from .diagrams.gates import LIGHT_ORANGE
from .plots import plt
from .plots.style import BLACK, BLUE, DARK_GREY, GREY, ORANGE, PURPLE, TEXT
from .widgets import small_png

FOLDER = Path("my_project")  # a notebook's kernel starts in the notebook's folder
NETWORKS = {"plain": BLACK, "gated": BLUE, "narrow": DARK_GREY}  # and their colours
PAIRS = (
    DARK_GREY,
    BLUE,
)  # colours of pairs in turn, from the fourth row on; their marks are hollow
CONTROL_COLOURS = (BLUE, PURPLE, ORANGE, LIGHT_ORANGE)  # in the order of CONTROLS
SLACK = 0.05  # of the gated network's MACs: so far off may the fair opponent be
CRITERIA = (
    "data, seeds, test_looks, chosen_on, networks (plain, gated and narrow, each with accuracy, "
    "macs and ms), paired_error, controls, machine, batch, claim, finding"
)
AHEAD, BEHIND, OPEN = CLAIMS = ("gated ahead", "narrow ahead", "undecided")
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 95 %, 2 to 10 seeds


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
    yield from _faults_of_claim(report)
    controls = report.get("controls", {})
    missing = [c.key for c in CONTROLS if c.key not in controls]
    if missing:
        yield f"controls lack {', '.join(missing)}: without them nobody knows what the gates know"
    elif len({controls[c.key] for c in CONTROLS}) == 1:
        yield "the four controls are equal: these gates do nothing, or were never exchanged"


def _faults_of_claim(report: Mapping) -> Iterator[str]:
    """A lead that is claimed for either side, where there is none beyond the yardsticks."""
    if report.get("paired_error") is None:
        yield "paired_error is missing: how far off may a difference on so few test images be?"
        return
    claim, networks = report.get("claim"), report.get("networks", {})
    if claim not in CLAIMS:
        got = f", got {claim!r}" if claim else ""
        yield f"claim is to be {AHEAD!r}, {BEHIND!r} or {OPEN!r}{got}"
        return
    measured = all(networks.get(name, {}).get("accuracy") for name in ("gated", "narrow"))
    if measured and claim not in (OPEN, verdict(report)):
        lead, *yardsticks = _yardsticks(report)
        yield (
            f"the claim is {claim!r}, but gated minus narrow is {_signed(lead)} points, where a "
            f"lead begins above {max(yardsticks):.1f}"
        )


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
    if "ms" in network and "quartiles" in network:
        first, third = network["quartiles"]
        if not first <= network["ms"] <= third:
            yield f"{name}: its median time does not lie between its quartiles"
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
    """Gated minus narrow, beside how far off it may be; accuracy decides only above both.

    Without ``report["paired_error"]``, as `paired_error` gives it, the test images say nothing.
    """
    lead, seeds, images = _yardsticks(report)
    said = f"gated minus narrow: {_signed(lead)} points; by {_trainings(report)} it may be off by "
    said += f"{seeds:.1f}"
    if "paired_error" in report:
        said += f", by so few test images by {images:.1f}"
    return f"{said}; {verdict(report)}"


def verdict(report: Mapping) -> str:
    """Which of `CLAIMS` the accuracies of a report bear out."""
    lead, *yardsticks = _yardsticks(report)
    if abs(lead) <= max(yardsticks):
        return OPEN
    return AHEAD if lead > 0 else BEHIND


def in_words(report: Mapping) -> str:
    """The contest with the narrow network in two sentences, the second of which is its verdict."""
    lead, seeds, images = _yardsticks(report)
    side, winner = ("ahead of", "gated") if lead > 0 else ("behind", "narrow")
    said = f"The gates are {abs(lead):.1f} points {side} a narrow network of equal cost: "
    luck = f"the luck of {_trainings(report)}"
    if abs(lead) > max(seeds, images):
        return f"{said}more than luck explains. So the {winner} network is ahead."
    if abs(lead) > images:
        why = f"more than the test images explain, but not more than {luck}"
    elif abs(lead) > seeds:
        why = f"more than {luck} explains, but not more than that of the test images"
    else:
        why = f"no more than {luck}, or that of the test images, explains"
    return f"{said}{why}. So the contest is undecided."


def _trainings(report: Mapping) -> str:
    return f"{len(report['networks']['gated']['accuracy'])} trainings"


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _yardsticks(report: Mapping) -> tuple[float, float, float]:
    """Gated minus narrow, and how far off it may be by its seeds and by its images; in points."""
    gated, narrow = (report["networks"][name]["accuracy"] for name in ("gated", "narrow"))
    lead = 100 * (_mean(gated) - _mean(narrow))
    return lead, 100 * seed_error(gated, narrow), 200 * report.get("paired_error", 0.0)


def seed_error(first: Sequence[float], second: Sequence[float]) -> float:
    """How far off the mean of the differences, seed by seed, may be by the luck of training.

    Their standard error, times Student's *t* for so few (95 %); it shrinks with more seeds, and
    nothing is known from one.

    Args:
        first, second: accuracies 0..1, one for each seed, the same seeds in both.
    """
    differences = [one - other for one, other in zip(first, second, strict=False)]
    count = len(differences)
    if count < 2:
        return math.inf
    return STUDENT[min(count, 10) - 2] * stdev(differences) / count**0.5


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


def report_picture(
    report: Mapping, images: Tensor | None = None, captions: Sequence[str] = ()
) -> tuple[Figure, str]:
    """The report as a page: the finding, its numbers, accuracies with MACs, times and controls.

    A mark is a seed, and a line is the mean of a network's seeds. Pairs of looks,
    ``report["pairs"]``, are hollow marks.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], a strip of those where the first look was least sure.
        captions: for each its label, the first and the final answer.
    """
    strip = images is not None and len(images) > 0
    plan = [["head"] * 2, ["numbers"] * 2] + [["strip"] * 2] * strip
    plan += [["work", "time"], ["work", "controls"]]
    heights = [1.3, 1.1, *[1.25] * strip, 1.6, 2]
    figure, panels = plt.subplot_mosaic(
        plan,
        figsize=(9, sum(heights) + 0.9),
        height_ratios=heights,
        width_ratios=(1.35, 1),
        layout="constrained",
    )
    _heading(panels["head"], report)
    _large_numbers(panels["numbers"], report)
    if strip:
        _strip(panels["strip"], images, captions)
    _accuracies(panels["work"], report)
    _times(panels["time"], report)
    _controls(panels["controls"], report["controls"])
    figure.supxlabel(_foot(report), fontsize=8, color=TEXT)
    pairs = report.get("pairs", {})
    said = [_said(name, report["networks"][name]) for name in NETWORKS]
    return figure, "; ".join(said + [_said(name, pair) for name, pair in pairs.items()]) + "."


def _heading(axes: Axes, report: Mapping) -> None:
    axes.set_axis_off()
    title = f"Dynamic channel pruning on {report['data']}"
    axes.text(0, 1, title, fontsize=17, weight="bold", va="top")
    finding = textwrap.fill(report["finding"], 95)
    axes.text(0, 0.6, finding, fontsize=10.5, va="top", linespacing=1.4)


def _large_numbers(axes: Axes, report: Mapping) -> None:
    """What the gated network does, in four numbers side by side."""
    axes.set_axis_off()
    plain, gated, narrow = (report["networks"][name] for name in NETWORKS)
    lead = 100 * (_mean(gated["accuracy"]) - _mean(narrow["accuracy"]))
    numbers = {
        "of the plain network's\nMACs": f"{100 * gated['macs'] / plain['macs']:.0f} %",
        "of the test images\ncorrect": f"{100 * _mean(gated['accuracy']):.1f} %",
        "points against a narrow\nplain network": _signed(lead),
        "times as long as\nthe plain network": f"{gated['ms'] / plain['ms']:.1f}",
    }
    for i, (words, number) in enumerate(numbers.items()):
        x = (i + 0.5) / len(numbers)
        axes.text(x, 1, number, fontsize=28, weight="bold", color=BLUE, ha="center", va="top")
        axes.text(x, 0.42, words, fontsize=9.5, color=TEXT, ha="center", va="top")


def _strip(axes: Axes, images: Tensor, captions: Sequence[str]) -> None:
    """Images side by side, each above its caption."""
    side, gap = images.shape[-1], images.shape[-1] // 8
    for i, (image, words) in enumerate(zip(images, captions, strict=True)):
        left = i * (side + gap)
        pixels = image.movedim(0, -1).squeeze(-1).numpy()
        look = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        axes.imshow(pixels, extent=(left, left + side, 0, images.shape[-2]), **look)
        axes.text(left + side / 2, -gap, words, fontsize=8, ha="center", va="top")
    axes.set(xlim=(0, len(images) * (side + gap) - gap), ylim=(-side / 2.5, images.shape[-2]))
    axes.set_title("Where it was least sure: label, first answer, final answer", fontsize=10)
    axes.set_axis_off()


def _accuracies(axes: Axes, report: Mapping) -> None:
    """A row for each network, with a mark for each seed; its name holds what it costs."""
    shown = {name: report["networks"][name] for name in NETWORKS} | dict(report.get("pairs", {}))
    for place, (name, network) in enumerate(shown.items()):
        colour = NETWORKS.get(name, PAIRS[place % len(PAIRS)])
        right = [100 * a for a in network["accuracy"]]
        axes.plot([_mean(right)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
        axes.plot(right, [place] * len(right), "o", color=colour, markersize=9,
                  markerfacecolor=colour if name in NETWORKS else "white")  # fmt: skip
    names = [f"{name}\n{network['macs'] / 1e6:.2f} M MACs" for name, network in shown.items()]
    axes.set_yticks(range(len(shown)), names, fontsize=9)
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel="test accuracy (%)")
    axes.set_title("Accuracy: a mark for each seed, a line for their mean", fontsize=10)
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.3)


def _times(axes: Axes, report: Mapping) -> None:
    """A bar for each network's milliseconds, with a line from quartile to quartile."""
    networks = [report["networks"][name] for name in NETWORKS]
    middle = [network["ms"] for network in networks]
    ends = [network.get("quartiles", (network["ms"],) * 2) for network in networks]
    reach = [[abs(end[side] - ms) for end, ms in zip(ends, middle, strict=True)] for side in (0, 1)]
    names = [f"{name}\n{ms:.3g} ms" for name, ms in zip(NETWORKS, middle, strict=True)]
    axes.barh(names, middle, color=list(NETWORKS.values()), height=0.6)
    axes.errorbar(middle, names, xerr=reach, fmt="none", ecolor=GREY, elinewidth=2)
    axes.set_title(f"Milliseconds, batch of {report['batch']}", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(max(end) for end in ends))


def _controls(axes: Axes, controls: Mapping[str, float]) -> None:
    """A bar for each control, in its colour of the course."""
    names = [control.label.replace("winners, ", "winners,\n") for control in CONTROLS]
    shares = [100 * controls[control.key] for control in CONTROLS]
    bars = axes.barh(names, shares, color=CONTROL_COLOURS, height=0.6)
    axes.bar_label(bars, [f" {share:.1f}" for share in shares], fontsize=8)
    axes.set_title("Correct, by whose gates (%)", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 118)


def _foot(report: Mapping) -> str:
    """How it was measured, in a line."""
    found = list(faults(report))
    device = report["machine"].get("device", "an unnamed machine")
    return (
        f"Seeds {', '.join(map(str, report['seeds']))}; chosen on {report['chosen_on']} images; "
        f"test images opened: {report['test_looks']}×; timed on {device}. "
        f"Missing or unfair: {len(found) if found else 'nothing found'}."
    )


def _said(name: str, network: Mapping) -> str:
    right = 100 * _mean(network["accuracy"])
    time = f", {network['ms']:.3f} ms" if "ms" in network else ""
    return f"{name} {right:.1f} % correct, {network['macs']:,.0f} MACs{time}"


def as_markdown(report: Mapping) -> str:
    """The report as a page, with its table, its controls and what is unfair in it."""
    lines = [f"# Dynamic channel pruning on {report['data']}", "", report["finding"], ""]
    lines += ["![finding, accuracy over MACs, times and controls](report.png)", ""]
    lines += ["| network | test accuracy, one per seed | MACs | ms |", "|---|---|---|---|"]
    networks = {name: report["networks"][name] for name in NETWORKS}
    for name, network in (networks | dict(report.get("pairs", {}))).items():
        rights = ", ".join(f"{100 * a:.1f} %" for a in network["accuracy"])
        lines.append(f"| {name} | {rights} | {network['macs']:,.0f} | {_time(network)} |")
    lines += ["", f"Seeds {report['seeds']}; {margin(report)}.", "", "| control | correct |"]
    lines.append("|---|---|")
    lines += [f"| {c.label} | {100 * report['controls'][c.key]:.1f} % |" for c in CONTROLS]
    found = list(faults(report))
    lines += ["", "Missing or unfair: " + ("; ".join(found) if found else "nothing found") + "."]
    return "\n".join(lines) + "\n"


def _time(network: Mapping) -> str:
    """Milliseconds, with quartiles where they are known; nothing where none was taken."""
    ends = " ({:.3f} to {:.3f})".format(*network["quartiles"]) if "quartiles" in network else ""
    return f"{network['ms']:.3f}{ends}" if "ms" in network else ""


def write_report(
    report: Mapping,
    folder: Path | None = None,
    images: Tensor | None = None,
    captions: Sequence[str] = (),
) -> Path:
    """Write ``report.md``, ``report.png`` and ``report.json``, each whole or not at all.

    Args:
        images, captions: of the picture, as `report_picture` takes them.
        folder: made if it is not there; ``my_project`` beside the notebook when None, and a
            temporary one in a test run.

    Returns:
        Where the page is.
    """
    folder = default_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    figure, sentence = report_picture(report, images, captions)
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
