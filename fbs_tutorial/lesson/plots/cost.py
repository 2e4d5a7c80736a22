"""Pictures of what is saved: milliseconds and MACs."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...bench.report import fastest_kind, find
from ...bench.timing import Timing, three_digits
from .gpu import NAMES, PAPER
from .style import (
    BLACK,
    BLUE,
    DARK_GREEN,
    DARK_GREY,
    FAINT,
    GREEN,
    GREY,
    LINE,
    MID_BLUE,
    ORANGE,
    PALE_BLUE,
    PURPLE,
    WHITE,
    label_lines,
    legend_below,
    plain_ticks,
)

BARS = {  # others are blue
    "dense": GREY,
    "masked": ORANGE,
    "gather": PALE_BLUE,
    "by number": PALE_BLUE,
    "loops": PURPLE,
    "oracle": GREEN,
    "narrow": GREEN,
    "kernel mask": DARK_GREEN,
    "slimmed": GREEN,
}
MARKERS = "os^DvP"


def time_bars(
    times: Mapping[str, Timing],
    ideal: float | Mapping[str, float] | None = None,
    title: str = "",
) -> tuple[Figure, str]:
    """Medians in milliseconds with their quartiles, one bar for each way of doing the same thing.

    Behind each bar stands its time, also in percent of the first one's.

    Args:
        times: the first is what the others are compared with.
        ideal: share of the first one's MACs that has to be done; a dashed line shows that share
            of its time. A mapping has a share for each bar that gets a line of its own.
    """
    names = list(times)
    first = 1000 * times[names[0]].median
    middle = 1000 * np.array([t.median for t in times.values()])
    low = middle - [1000 * t.first_quartile for t in times.values()]
    high = [1000 * t.third_quartile for t in times.values()] - middle
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(names) + 1.5), layout="constrained")
    colours = [BARS.get(name, BLUE) for name in names]
    bars = axes.barh(
        names, middle, xerr=(low, high), color=colours, edgecolor=BLACK, ecolor=BLACK, capsize=3
    )
    words = [f"{three_digits(ms)} ms, {100 * ms / first:.0f} %" for ms in middle]
    axes.bar_label(bars, words, fontsize=9, padding=4, bbox=PAPER)
    own = ideal if isinstance(ideal, Mapping) else {}
    said = [
        f"{name} {three_digits(ms)} ms ({100 * ms / first:.0f} %"
        + (f", ideal {100 * own[name]:.0f} %)" if name in own else ")")
        for name, ms in zip(names, middle, strict=True)
    ]
    _ideals(axes, names, first, ideal)
    if ideal is not None:
        figure.legend(loc="outside lower right", fontsize=9, frameon=False)
    if ideal is not None and not own:
        said.append(f"ideal {three_digits(ideal * first)} ms ({100 * ideal:.0f} %, as the MACs)")
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds", title=title, xlim=(0, 1.3 * (middle + high).max()))
    return figure, "; ".join(said) + "."


def _ideals(
    axes: Axes, names: Sequence[str], first: float, ideal: float | Mapping[str, float] | None
) -> None:
    """The dashed line through all bars, or one across each bar that has a share of its own."""
    style = {"color": BLACK, "linestyle": "--", "label": "ideal: time as MACs"}
    if isinstance(ideal, Mapping):
        for name, share in ideal.items():
            place = names.index(name)
            axes.plot([share * first] * 2, [place - 0.48, place + 0.48], **style)
            style.pop("label", None)  # one line in the legend
    elif ideal is not None:
        axes.axvline(ideal * first, **style)


def tile_times(
    times: Mapping[tuple[int, int], Timing], registers: int, title: str = ""
) -> tuple[Figure, str]:
    """Milliseconds of a loop for tiles of different sizes, each with the registers that it needs.

    Args:
        times: for each tile, winners times vectors of pixels, ``(J, P)``; all combinations.
        registers: of the processor; a tile that needs more is hatched. It needs ``J * P`` for the
            sums, ``P`` for pixels and one for a weight.
    """
    rows, columns = (sorted({tile[i] for tile in times}) for i in (0, 1))
    ms = np.array([[1000 * times[j, p].median for p in columns] for j in rows])
    size = (1.25 * len(columns) + 2.6, 0.55 * len(rows) + 1.6)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.imshow(ms, cmap="Blues_r", norm="log", aspect="auto")
    for (r, c), value in np.ndenumerate(ms):
        needed = rows[r] * columns[c] + columns[c] + 1
        if needed > registers:
            axes.add_patch(
                plt.Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, hatch="//", edgecolor=ORANGE)
            )
        words = f"{three_digits(value)} ms\n{needed} registers"
        axes.text(c, r, words, ha="center", va="center", fontsize=8, bbox=PAPER)
    axes.set_xticks(range(len(columns)), [f"P = {p}" for p in columns])
    axes.set_yticks(range(len(rows)), [f"J = {j}" for j in rows])
    axes.set(title=title, xlabel="vectors of pixels", ylabel="winners")
    best = min(times, key=lambda tile: times[tile].median)
    needed = best[0] * best[1] + best[1] + 1
    return figure, (
        f"The fastest tile is J = {best[0]}, P = {best[1]}, with {needed} registers; dark is fast. "
        f"Hatched tiles need more than the {registers} that this processor has."
    )


def time_by_density(
    densities: Sequence[float],
    races: Mapping[str, Sequence[Mapping[str, Timing]]],
    ways: Sequence[str],
) -> tuple[Figure, str]:
    """Time in percent of the dense time against density: a panel per layer, a line per way.

    A bar at a point goes from the way's first quartile over dense's third to its third over
    dense's first.

    Args:
        densities: ascending. races: ``{layer: [what `race` found, per density]}``, an even number
            of layers. ways: which of them are drawn, besides ``"dense"``; up to two.
    """
    rows = len(races) // 2
    figure, panels = plt.subplots(
        rows, 2, figsize=(8.6, 0.6 + 2.7 * rows), sharex=True, sharey=True, layout="constrained"
    )
    faster, said = dict.fromkeys(ways, 0), []
    for axes, (layer, found) in zip(panels.flat, races.items(), strict=True):
        axes.plot(densities, 100 * np.square(densities), "--", color=BLACK, label="ideal: d²")
        for way, look in zip(ways, ((MID_BLUE, "^"), (BLUE, "o")), strict=False):
            shares = np.array([_over_dense(times, way) for times in found])  # [densities, 3]
            _with_bars(axes, densities, 100 * shares, way, look)
            ends = (crossing(densities, shares[:, i]) for i in (2, 0))
            each = ", ".join(f"{100 * share:.0f}" for share in shares[:, 1])
            said.append(f"  {layer}, {way}: {each}; {_even(*ends)}")
            faster[way] += np.interp(0.5, densities, shares[:, 2]) < 1
        axes.axhspan(100, 2000, color=FAINT, zorder=0)
        axes.set(title=layer, yscale="log", ylim=(1, 1400))
        axes.set_xticks(densities, [f"{d:g}" for d in densities])
        plain_ticks(axes.yaxis, [2, 5, 10, 20, 50, 100, 200, 500])
        axes.grid(alpha=0.3)
    first = panels.flat[0]  # the grey is the same in all
    first.text(densities[-1], 950, "slower than dense", fontsize=8.5, ha="right", va="top")
    figure.supxlabel("density d (share of channels that win)", fontsize=10)
    figure.supylabel("time (% of dense)", fontsize=10)
    for axes in panels.flat:
        label_lines(axes)
    won = ", ".join(f"{way} {count}" for way, count in faster.items())
    figure.suptitle(f"Faster than dense at d = 0.5, of {len(races)} layers: {won}")
    at = ", ".join(f"{d:g}" for d in densities)
    return figure, "\n".join([f"Percent of the dense time at d = {at}; break-even:", *said])


def _over_dense(times: Mapping[str, Timing], way: str) -> tuple[float, float, float]:
    """What a way took over what dense took: at least, in the middle, and at most."""
    mine, dense = times[way], times["dense"]
    return (
        mine.first_quartile / dense.third_quartile,
        mine.median / dense.median,
        mine.third_quartile / dense.first_quartile,
    )


def _with_bars(
    axes: Axes, densities: Sequence[float], shares: np.ndarray, way: str, look: tuple[str, str]
) -> None:
    """A line through the middle of ``shares`` ``[densities, 3]``, and bars from end to end."""
    colour, marker = look
    axes.vlines(densities, shares[:, 0], shares[:, 2], color=colour, linewidth=4, alpha=0.4)
    axes.plot(densities, shares[:, 1], color=colour, marker=marker, markersize=5, label=way)


def crossing(densities: Sequence[float], shares: Sequence[float]) -> float:
    """The density at which shares reach 1, by a straight line between two of them.

    0 if none is below 1 at the first density, 1 if they never reach it.
    """
    if shares[0] >= 1:
        return 0.0
    for (d, low), (e, high) in pairwise(zip(densities, shares, strict=True)):
        if high >= 1:
            return d + (e - d) * (1 - low) / (high - low)
    return 1.0


def _even(low: float, high: float) -> str:
    """Where a break-even lies, in steps of 0.05; quartiles leave it open between two densities."""
    low, high = (round(20 * end) / 20 for end in (low, high))
    if low == high:
        return f"near {low:g}" if 0 < low < 1 else "always below" if low else "never below"
    if (low, high) == (0, 1):
        return "the clock has not decided"
    if low == 0 or high == 1:
        return f"{low:g} at least" if low else f"{high:g} at most"
    return f"{low:g} to {high:g}"


def stage_bars(
    stages: Mapping[str, Mapping[str, float]],
    title: str = "",
    dense: float | None = None,
    least: float | None = None,
) -> tuple[Figure, str]:
    """Where the microseconds of a layer go: one bar for each way, its stages side by side.

    Args:
        stages: ``{way: {stage: microseconds}}``, what `bench.stages.stages` returns.
        dense: what the dense layer takes, in microseconds; a dashed line, and 100 %.
        least: what a bare convolution of a quarter of the kernels takes; a dotted line.
    """
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(stages) + 1.7), layout="constrained")
    names = list(next(iter(stages.values())))
    colours = PURPLE, GREEN, ORANGE, WHITE, BLUE, GREY
    hatches = "\\\\", "..", "xx", "////", "", "--"
    looks = zip(names, colours, hatches, strict=True)
    start = np.zeros(len(stages))
    for name, colour, hatch in looks:
        width = np.array([found[name] for found in stages.values()])
        axes.barh(
            list(stages), width, left=start, color=colour, hatch=hatch, edgecolor=BLACK,
            label="convolution, gate, ReLU" if name == "convolution" else name,
        )  # fmt: skip
        start += width
    of_dense = [f", {100 * t / dense:.0f} %" if dense else "" for t in start]
    said = [f"{t:,.0f} µs{share}" for t, share in zip(start, of_dense, strict=True)]
    axes.bar_label(axes.containers[-1], said, fontsize=9, padding=4, bbox=PAPER)
    if dense is not None:
        axes.axvline(dense, color=BLACK, linestyle="--", label="dense")
    if least is not None:
        axes.axvline(least, color=BLACK, linestyle=":", linewidth=2, label="conv2d of a quarter")
    axes.invert_yaxis()
    axes.set(xlabel="microseconds", title=title, xlim=(0, 1.3 * max(start.max(), dense or 0)))
    legend_below(figure, ncols=4)
    said = []
    for way, found in stages.items():
        parts = ", ".join(f"{name} {t:.0f}" for name, t in found.items() if t >= 0.5)
        said.append(f"  {way} {sum(found.values()):,.0f}: {parts}")
    said += [] if dense is None else [f"  dense {dense:,.0f}"]
    said += [] if least is None else [f"  conv2d of a quarter of the kernels, alone {least:,.0f}"]
    return figure, "\n".join(["Microseconds, and of what:", *said])


WAYS = {  # as a benchmark names them, and how they look
    "masked": ("masked", ORANGE, "s"),
    "accelerated": ("gather", MID_BLUE, "^"),
    "native": ("native", BLUE, "o"),
}


def networks_on_cpu(
    results: Mapping, densities: tuple[float, float] = (0.5, 0.25)
) -> tuple[Figure, str]:
    """Whole networks: time in percent of the best dense one, of each way, a panel per density.

    Args:
        results: what `bench` returns, of a CPU. densities: by the first the networks are sorted.
    """
    rows = [row for row in results["rows"] if row["kind"] == "network"]
    rows.sort(key=lambda row: _percent(row, fastest_kind(row), densities[0]))
    names = [
        f"{NAMES.get(row['name'], row['name'])}, {row['batch']} image{'s' * (row['batch'] > 1)}"
        for row in rows
    ]
    size = 9, 1.8 + 0.36 * len(rows)
    figure, panels = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    shares = {
        (kind, d): [_percent(row, kind, d) for row in rows] for kind in WAYS for d in densities
    }
    for axes, d in zip(panels, densities, strict=True):
        axes.axvspan(100, 1000, color=FAINT, zorder=0)
        axes.axvline(100, color=BLACK)
        for kind, (name, colour, marker) in WAYS.items():
            size = 11 if kind == "accelerated" else 8  # it shows behind the one that stands on it
            axes.plot(shares[kind, d], names, marker, color=colour, markersize=size, label=name)
        axes.set(xscale="log", xlim=(9, 800), ylim=(len(rows) - 0.5, -1.1))
        axes.set_xlabel("time (% of the best dense time)")
        plain_ticks(axes.xaxis, [10, 20, 50, 100, 200, 500])
        axes.text(96, -0.75, "faster", fontsize=9, ha="right", va="center")
        axes.text(104, -0.75, "slower", fontsize=9, va="center")
        axes.grid(alpha=0.3)
        axes.set_title(f"d = {d:g}", fontsize=10)
    won = ", ".join(
        f"{name} {sum(share < 100 for share in shares[kind, densities[0]])}"
        for kind, (name, *_) in WAYS.items()
    )
    figure.suptitle(f"Faster than dense at d = {densities[0]:g}, of {len(rows)}: {won}")
    legend_below(figure, *panels[0].get_legend_handles_labels(), ncols=3)
    said = [f"Percent of the best dense time at d = {densities[0]:g} and {densities[1]:g}:"]
    for i, name in enumerate(names):
        each = (
            f"{word} {' and '.join(f'{shares[kind, d][i]:.0f}' for d in densities)}"
            for kind, (word, *_) in WAYS.items()
        )
        said.append(f"  {name}: {', '.join(each)}")
    return figure, "\n".join(said)


def one_image_times(results: Mapping, names: Sequence[str], title: str = "") -> tuple[Figure, str]:
    """Milliseconds of one image: the plain network, the gated one, and a small plain one.

    Drawn at all densities at which both were measured; the small plain network has as many
    channels.

    Args:
        results: what `bench` returns, of a CPU, with whole networks. names: of these, a panel each.
    """
    size = 4 + 2.6 * len(names), 3.5
    figure, row = plt.subplots(1, len(names), figsize=size, squeeze=False, layout="constrained")
    said = []
    for axes, name in zip(row[0], names, strict=True):
        kinds = (r for r in results["rows"] if r["kind"] == "network" and r["batch"] == 1)
        network = next(r for r in kinds if r["name"] == name)
        dense = find(network, network["dense_best"])["median_ms"]
        densities, gated, small = _one_image(network)
        axes.axhline(dense, color=BLACK, linewidth=1, label="plain")
        axes.plot(densities, [v["median_ms"] for v in gated], "o-", color=BLUE, label="gated")
        axes.plot(densities, small, "x--", color=BLACK, label="small plain")
        axes.set(xlabel="density", ylim=(0, 1.12 * dense), xlim=(0.15, 0.9), xticks=densities)
        axes.set_title(NAMES.get(name, name), fontsize=10)
        axes.grid(alpha=0.3)
        each = [
            f"{v['median_ms']:.2f} at {d:g}, {v['median_ms'] / dense:.0%} of the time with "
            f"{v['macs_share']:.0%} of the MACs (small plain {ms:.2f})"
            for d, v, ms in zip(densities, gated, small, strict=True)
        ]
        said.append(f"  {NAMES.get(name, name)}: plain {dense:.2f}; gated {'; '.join(each)}")
    row[0][0].set_ylabel("milliseconds")
    figure.suptitle(title, fontsize=11)
    legend_below(figure, *row[0][0].get_legend_handles_labels(), ncols=3)
    facts = results["machine"]
    machine = f"{facts['device']}, {facts['threads']} threads"
    return figure, "\n".join([f"Milliseconds for one image, {machine}:", *said])


def _one_image(network: Mapping) -> tuple[list[float], list[dict], list[float]]:
    """Densities, ascending; the fastest gated execution at each; the small network's time."""
    densities = sorted({v["density"] for v in network["variants"] if v["variant"] == "oracle"})
    ways = [[find(network, way, d) for way in ("native", "accelerated")] for d in densities]
    gated = [min((v for v in two if v), key=lambda v: v["median_ms"]) for two in ways]
    return densities, gated, [find(network, "oracle", d)["median_ms"] for d in densities]


def _percent(row: Mapping, kind: str, density: float) -> float:
    """Of the best dense time; not a number where it was not measured."""
    found = find(row, kind, density)
    return 100 * found["time_share"] if found else float("nan")


def time_and_macs(results: dict) -> tuple[Figure, str]:
    """Time against executed MACs, both as shares of the best dense, from what `bench` returns.

    Filled markers are accelerated, one for each density, on a CPU by the C++ kernel where it was
    measured; open ones are the oracles, small grey ones single layers. Float32 in full precision;
    where CUDA graphs were recorded, these.
    """
    rows = [row for row in results["rows"] if row["precision"] == "fp32"]
    rows = [row for row in rows if row["execution"] == "graph"] or rows
    networks = [row for row in rows if row["kind"] == "network"]
    layers = [row for row in rows if row["kind"] == "layer"]
    figure, axes = plt.subplots(figsize=(6.5, 6.5), layout="constrained")
    shares = [v["macs_share"] for row in rows for v in row["variants"]]
    axes.plot([min(shares), 1], [min(shares), 1], "-", color=BLACK, label="ideal: time as MACs")
    said = []
    for i, row in enumerate(networks):
        style = {"color": (BLUE, ORANGE, GREEN, PURPLE)[i % 4], "marker": MARKERS[i % 6]}
        name = f"{row['name']}, batch {row['batch']}"
        _time_points(axes, row, fastest_kind(row), label=name, linestyle=":", **style)
        _time_points(axes, row, "oracle", linestyle="", markerfacecolor="white", **style)
        said += _said_times(row, name)
    for i, row in enumerate(layers):
        style = {"color": DARK_GREY, "marker": ".", "linestyle": ""}
        _time_points(axes, row, fastest_kind(row), label="" if i else "single layers", **style)
        _time_points(axes, row, "oracle", markerfacecolor="white", **style)
        said += [] if networks else _said_times(row, row["name"])
    axes.plot([], [], "o", color=BLACK, markerfacecolor="white", label="open: the oracle of each")
    ticks = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5]
    axes.set(xscale="log", yscale="log", title=f"{results['machine']['device']}, float32")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis, ticks)
    axes.set_xlabel("MACs executed, predictors included (share of dense)")
    axes.set_ylabel("time (share of the best dense)")
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=2)
    return figure, "Share of the MACs executed and of the best dense time: " + "; ".join(said) + "."


def _time_points(axes: Axes, row: dict, variant: str, **style) -> None:
    """One point per density, with the quartiles as a bar."""
    points = [v for v in row["variants"] if v["variant"] == variant]
    if not points:
        return
    base = find(row, row["dense_best"])["median_ms"]
    middle = np.array([v["time_share"] for v in points])
    low = middle - [v["first_quartile_ms"] / base for v in points]
    high = [v["third_quartile_ms"] / base for v in points] - middle
    axes.errorbar([v["macs_share"] for v in points], middle, (low, high), **style)


def _said_times(row: dict, name: str) -> list[str]:
    """The accelerated network's shares, at the density nearest to a half."""
    points = [v for v in row["variants"] if v["variant"] == fastest_kind(row)]
    if not points:
        return []
    v = min(points, key=lambda v: abs(v["density"] - 0.5))
    return [f"{name} at density {v['density']:g} {v['macs_share']:.3f} and {v['time_share']:.3f}"]


def layer_shares(
    names: Sequence[str],
    kinds: Sequence[str],
    gates: Sequence[float],
    zeros: Sequence[float],
    *,
    level: float,
    title: str = "",
) -> tuple[Figure, str]:
    """The share 0..1 of each layer's dense MACs that is left, a bar for each layer, top to bottom.

    Args:
        kinds: what sort of layer each is, up to four; a bar's colour and hatch say it.
        gates, zeros: two counts, drawn as a bar and as a diamond.
        level: a dashed line, what a layer in the middle of a chain would have.
    """
    figure, axes = plt.subplots(figsize=(7, 0.2 * len(names) + 1.4), layout="constrained")
    gates, zeros = (100 * np.array(values) for values in (gates, zeros))
    place, said = np.arange(len(names)), []
    colours = (BLUE, LINE, ORANGE, GREEN)  # the first two differ in lightness
    looks = zip(colours, ("", "", "///", "xx"), strict=True)
    for kind, (colour, hatch) in zip(dict.fromkeys(kinds), looks, strict=False):
        of_kind = np.array([k == kind for k in kinds])
        style = {"color": colour, "edgecolor": DARK_GREY if colour == LINE else "white"}
        axes.barh(place[of_kind], gates[of_kind], hatch=hatch, label=kind, **style)
        low, high = gates[of_kind].min(), gates[of_kind].max()
        span = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
        said.append(f"{kind} {span} %")
    axes.plot(zeros, place, "D", color=BLACK, markersize=4, label="by zeros")
    axes.axvline(100 * level, color=BLACK, linestyle="--", label=f"d² = {100 * level:.3g} %")
    axes.set_yticks(place, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="MACs left, bars by gates (% of the layer's dense MACs)", xlim=(0, 100))
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=8, loc="upper right")
    return figure, f"MACs left by gates: {'; '.join(said)}."
