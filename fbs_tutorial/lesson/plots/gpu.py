"""Pictures of skipping on a GPU: what was measured, and a layer under the roofs of a device."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...execution.roofline import (
    H100,
    SHEETS,
    Gpu,
    Layer,
    dense_time,
    skip_time,
    skipping_is_faster,
)
from ...method.wta import active_channels
from .style import (
    BLACK,
    BLUE,
    DARK_GREY,
    FAINT,
    GREY,
    ORANGE,
    ink,
    label_lines,
    legend_below,
    plain_ticks,
)

PRECISIONS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16", "fp16": "float16"}
NAMES = {
    "mcifarnet": "M-CifarNet",
    "vgg16": "VGG-16",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "digitsnet": "digits network",
}
LOOKS = ((0.25, BLUE, "D", "white"), (0.5, BLUE, "o", BLUE), (1.0, GREY, "s", GREY))
LIGHT = "#8FBFDC"
ITSELF = "the gated network at d = 1"
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # beneath words over lines


def networks_on_gpu(results: Mapping) -> tuple[Figure, str]:
    """Whole networks over the best dense network; and beside it over themselves at d = 1.

    Rows of one network stand together. At d = 1 nothing is skipped, and a rule may take cuDNN's
    convolution in every layer: what is gained there already does not come from skipping. The second
    panel is left out where d = 1 was not measured.

    Args:
        results: what ``stored("networks")`` or `as_stored` returns.
    """
    groups = _by_network(results["rows"])
    rows = [row for group in groups.values() for row in group]
    shares = {d: [row[f"accelerated {d}"] / _best(row) for row in rows if f"accelerated {d}" in row]
              for d, *_ in LOOKS}  # fmt: skip
    shares = {d: found for d, found in shares.items() if len(found) == len(rows)}
    panels = {"the best dense network": shares}
    if 1.0 in shares:
        panels[ITSELF] = {
            d: [a / b for a, b in zip(found, shares[1.0], strict=True)]
            for d, found in shares.items()
            if d < 1
        }
    size = 5 + 3.2 * len(panels), 1.8 + 0.27 * (len(rows) + len(groups))
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True)
    for at, (rival, found) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        _over(at, groups, found, rival)
    legend_below(figure, *np.atleast_1d(axes)[0].get_legend_handles_labels(), ncols=3)
    said = [
        f"{NAMES.get(row['network'], row['network'])}, {_case(row)} "
        + ", ".join(f"{100 * share[i]:.0f}" for share in shares.values())
        for i, row in enumerate(rows)
    ]
    sentence = f"Percent of the best dense time at d = {_listed(shares)}: " + "; ".join(said)
    if len(panels) == 2:
        own = panels[ITSELF]
        sentence += ".\nPercent of the time at d = 1: " + "; ".join(
            f"d = {d:g}: {100 * min(found):.0f} to {100 * max(found):.0f}"
            for d, found in own.items()
        )
    return figure, f"{sentence}.\n{source(results)}"


def _by_network(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Rows of each network, the largest gain first; and the network with the largest first."""
    groups = {}
    for row in sorted(rows, key=lambda row: row["accelerated 0.5"] / _best(row)):
        groups.setdefault(row["network"], []).append(row)
    return groups


def _case(row: Mapping) -> str:
    images = f"{row['images']} image{'s' * (row['images'] > 1)}"
    return f"{images}, {PRECISIONS[row['products']]}"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _over(axes: Axes, groups: Mapping[str, Sequence[Mapping]], shares: Mapping, rival: str) -> None:
    """Times over a rival's, with the line at 1; the title counts where they are below it."""
    heads, places, names, place = [], [], [], 0
    for network, group in groups.items():
        heads.append((place, NAMES.get(network, network)))
        places += range(place + 1, place + 1 + len(group))
        names += [_case(row) for row in group]
        place += 1 + len(group)
    last = max(1.8, 1.1 * max(map(max, shares.values())))
    for at, name in heads:
        axes.text(0.03, at, name, fontsize=9, va="center", weight="bold")
    for d, colour, marker, face in LOOKS:
        if d in shares:
            look = {"color": colour, "markerfacecolor": face, "markersize": 8}
            axes.plot(shares[d], places, marker, label=f"d = {d:g}", **look)
    axes.axvspan(1, last, color=FAINT, zorder=0)
    axes.axvline(1, color=BLACK)
    axes.text(1.02, -0.7, "slower", fontsize=9, va="center")
    axes.text(0.98, -0.7, "faster", fontsize=9, ha="right", va="center")
    axes.set_yticks(places, names)
    axes.set(xlim=(0, last), ylim=(place - 0.5, -1.2), xlabel=f"time ÷ that of {rival}")
    won = (
        f"{sum(x < 1 for x in found)} at d = {d:g}"
        for d, found in sorted(shares.items(), reverse=True)
        if d < 1
    )
    short = "dense" if "dense" in rival else "itself at d = 1"
    title = f"Faster than {short}, of {len(names)}: {', '.join(won)}"
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def source(results: Mapping) -> str:
    """Which machine measured, and when; the file says the rest under ``"made by"``."""
    return f"{results['machine'].split(',')[0]}, {results['date']}."


def sources(single: Mapping, layers: Mapping) -> str:
    """The same for the pictures of both kernels, which are of two sessions."""
    parts = dict.fromkeys(source(part)[:-1] for part in (single, layers["prototype"]))
    return f"{' and '.join(parts)}; kernels older than this package's."


def _best(row: Mapping) -> float:
    return min(row["dense_nchw"], row["dense_nhwc"])


def _layer_name(row: Mapping) -> str:
    return f"{row['channels']} ch, {row['side']}×{row['side']}"


def _both_kernels(single: Mapping, layers: Mapping, products: str, density: float) -> list[dict]:
    """Rows of layers that both kernels have run, and a narrow one; the largest maps come first."""
    first = {_key(row): {way: row[way] for way in ("single", "narrow")} for row in single["rows"]}
    wanted = products, round(density, 9)  # a slider's 0.5 may be a little off
    rows = [r for r in layers["prototype"]["rows"] if _key(r)[::3] == wanted]
    rows.sort(key=lambda row: -row["side"])
    return [{**row, **first[_key(row)]} for row in rows]


def _key(row: Mapping) -> tuple:
    return row["products"], row["channels"], row["side"], row["density"]


def clocks(
    single: Mapping, layers: Mapping, density: float, channels: int, side: int
) -> dict[str, float] | None:
    """Microseconds of 128 images in TF32: dense, looked up, copied first; None if not measured.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
    """
    for row in _both_kernels(single, layers, "tf32", density):
        if (row["channels"], row["side"]) == (channels, side):
            return {
                "dense": row["dense_pytorch"],
                "scattered": row["single"],
                "copied": row["total"],
            }
    return None


def count_and_clock(
    single: Mapping, layers: Mapping, count: Callable[..., Mapping]
) -> tuple[Figure, str]:
    """By how much copying first is faster than looking up: by the bytes, and by the clock.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
        count: ``count(density, channels, side, pixels)`` returns megabytes of both ways in tiles
            of so many pixels, under ``"scattered"`` and ``"copied"``, each in parts.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    counted, smaller = (_over_copied(rows, count, pixels) for pixels in (128, 64))
    timed = [row["single"] / row["total"] for row in rows]
    names = [_layer_name(row) for row in rows]
    figure, axes = plt.subplots(figsize=(8.6, 4), layout="constrained")
    axes.axvspan(0.3, 1, color=FAINT, zorder=0)
    axes.hlines(names, counted, timed, color=GREY, linewidth=3, zorder=1)
    axes.plot(smaller, names, "o", color=DARK_GREY, markerfacecolor="white", markersize=5)
    axes.plot(counted, names, "o", color=BLACK, markerfacecolor="white", markersize=8)
    axes.plot(timed, names, "D", color=BLUE, markersize=8)
    _beneath(
        axes, len(names) - 1, {"by bytes": (counted[-1], BLACK), "by clock": (timed[-1], BLUE)}
    )
    axes.axvline(1, color=BLACK)
    axes.set(xscale="log", xlim=(0.4, 3.2))
    axes.set_xlabel("← looking up is faster      time or bytes, looking up ÷ copying first      "
                    "copying first is faster →")  # fmt: skip
    most = max(range(len(rows)), key=lambda i: smaller[i] / counted[i])
    _beneath(axes, most, {"in tiles of 64 pixels": (smaller[most], BLACK)})
    right, other = (
        sum((a > 1) == (b > 1) for a, b in zip(found, timed, strict=True))
        for found in (counted, smaller)
    )
    title = f"Bytes name the faster way in {right} of {len(rows)} layers"
    title += f", or in {other} with smaller tiles" if other != right else ""
    axes.set_title(f"{title}: TF32, d = 0.5, 128 images", fontsize=10)
    plain_ticks(axes.xaxis, [0.5, 0.7, 1, 1.5, 2, 3])
    axes.set_ylim(len(names), -0.6)
    axes.grid(alpha=0.3)
    said = "; ".join(
        f"{n}: {a:.1f} and {b:.1f}" for n, a, b in zip(names, counted, timed, strict=True)
    )
    tiles = ", ".join(f"{share:.1f}" for share in smaller)
    sentence = (
        f"Looking up over copying first, by bytes and by the clock: {said}. By bytes in tiles of "
        f"64 pixels instead of 128: {tiles}."
    )
    return figure, f"{sentence}\n{sources(single, layers)}"


def _over_copied(rows: Sequence[Mapping], count: Callable, pixels: int) -> list[float]:
    """Bytes of looking up over those of copying first, in tiles of so many pixels."""
    ways = [count(0.5, row["channels"], row["side"], pixels) for row in rows]
    return [sum(way["scattered"]) / sum(way["copied"]) for way in ways]


def _beneath(axes: Axes, row: int, names: Mapping[str, tuple[float, str]]) -> None:
    """Names of markers beneath those in a row, in place of a legend."""
    for name, (x, colour) in names.items():
        words = {"color": ink(colour), "fontsize": 9, "ha": "center", "va": "top"}
        axes.text(x, row + 0.32, name, **words, bbox=PAPER)


def one_kernel(single: Mapping, layers: Mapping) -> tuple[Figure, str]:
    """The one kernel at d = 0.5, with lists, over itself at d = 1, where it has none.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    times = {_key(row): row["single"] for row in single["rows"]}
    names, figure, axes = _ratios(rows)
    half, fall = {}, []
    for products, colour, marker in (("fp32", DARK_GREY, "s"), ("tf32", ORANGE, "o"),
                                     ("bf16", BLACK, "^")):  # fmt: skip
        keys = [(products, row["channels"], row["side"]) for row in rows]
        half[products] = [times[(*key, 0.5)] / times[(*key, 1.0)] for key in keys]
        axes.plot(half[products], names, marker, color=colour, markersize=8)
        fall += [times[(*key, 0.25)] / times[(*key, 0.5)] for key in keys if products == "bf16"]
        _beneath(axes, len(names) - 1, {PRECISIONS[products]: (half[products][-1], colour)})
    axes.axvline(0.25, color=BLACK, linestyle="--")
    axes.text(0.26, -0.7, "MACs: a quarter", fontsize=9, va="center")
    axes.text(1.04, -0.7, "longer than with nothing left out", fontsize=9, va="center")
    axes.set_xlabel("time of the one kernel at d = 0.5 ÷ its time at d = 1")
    longer, count = (sum(f(x) for found in half.values() for x in found)
                     for f in (lambda x: x > 1, lambda x: 1))  # fmt: skip
    title = f"A quarter of the MACs takes longer than all of them in {longer} of {count} cases"
    axes.set_title(title, fontsize=11)
    said = "; ".join(
        f"{PRECISIONS[products]} {min(found):.2f} to {max(found):.2f}"
        for products, found in half.items()
    )
    sentence = (
        f"Time at d = 0.5 over time at d = 1: {said}.\nFrom d = 0.5 to 0.25, with lists in both, "
        f"the time falls to {100 * min(fall):.0f} to {100 * max(fall):.0f} % in bfloat16; the MACs "
        "fall to 25 %."
    )
    return figure, f"{sentence}\n{sources(single, layers)}"


def _ratios(rows: Sequence[Mapping]) -> tuple[list[str], Figure, Axes]:
    """A row for each layer, and a logarithmic axis on which more than 1 is shaded."""
    names = [_layer_name(row) for row in rows]
    figure, axes = plt.subplots(figsize=(8.6, 1.5 + 0.33 * len(rows)), layout="constrained")
    axes.axvspan(1, 6, color=FAINT, zorder=0)
    axes.axvline(1, color=BLACK)
    axes.set(xscale="log", xlim=(0.2, 6))
    plain_ticks(axes.xaxis, [0.25, 0.5, 1, 2, 4])
    axes.grid(alpha=0.3)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names), -1.1)
    return names, figure, axes


def both_ways(single: Mapping, layers: Mapping) -> tuple[Figure, str]:
    """Looking weights up and copying them first, beside a dense and a narrow layer.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    quarter = _both_kernels(single, layers, "tf32", 0.25)
    names, figure, axes = _ratios(rows)
    one, three, narrow = (
        [row[way] / row["dense_pytorch"] for row in rows] for way in ("single", "total", "narrow")
    )
    axes.hlines(names, three, one, color=GREY, linewidth=3, zorder=1)
    looks = (narrow, BLACK, "|", "narrow"), (three, BLUE, "D", "copy first"), (one, ORANGE, "v",
             "look up")  # fmt: skip
    for found, colour, marker, name in looks:
        axes.plot(found, names, marker, color=colour, markersize=16 if marker == "|" else 8)
        _beneath(axes, len(names) - 1, {name: (found[-1], colour)})
    axes.text(0.97, -0.7, "faster than dense", fontsize=9, ha="right", va="center")
    axes.text(1.04, -0.7, "slower", fontsize=9, va="center")
    axes.set_xlabel("time ÷ that of the dense layer with its ReLU, TF32, d = 0.5")
    won = sum(b < a for a, b in zip(one, three, strict=True))
    times = [b / c for b, c in zip(three, narrow, strict=True)]
    thin = sum(time > 1 for time in times)
    title = (
        f"Copying first beats looking up in {won} of {len(rows)}; a narrow layer beats it in {thin}"
    )
    axes.set_title(title, fontsize=11)
    sentence = (
        f"Copying first beats looking up in {won} of {len(rows)} layers at d = 0.5 and in "
        f"{sum(r['total'] < r['single'] for r in quarter)} of {len(quarter)} at d = 0.25, and "
        f"dense in {sum(b < 1 for b in three)} and "
        f"{sum(r['total'] < r['dense_pytorch'] for r in quarter)}.\nThe narrow layer has k "
        f"channels and no ReLU. Copying first takes {min(times):.1f} to {max(times):.1f} times as "
        "long."
    )
    return figure, f"{sentence}\n{sources(single, layers)}"


def tiles_on_gpu(times: Mapping[Layer, Mapping[tuple[int, int], float]]) -> tuple[Figure, str]:
    """Time of `convolve` in tiles of several sizes, over the fastest of each layer.

    Args:
        times: for each layer microseconds by ``(pixels, outputs)``, the same tiles for all.
    """
    names = [f"{layer.pixels} pixels, k_out {layer.k_out}" for layer in times]
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    tiles = list(next(iter(times.values())))
    looks = zip((ORANGE, DARK_GREY, BLUE, BLACK, LIGHT), "soD^v", strict=True)
    for tile, (colour, marker) in zip(tiles, looks, strict=False):
        shares = [found[tile] / min(found.values()) for found in times.values()]
        label = f"{tile[0]}×{tile[1]}"
        axes.plot(shares, names, marker, color=colour, label=label, markersize=8)
    axes.axvspan(1, 1.1, color=FAINT, zorder=0)
    axes.set_xlabel("time ÷ that of the layer's fastest tile (pale: within 10 %)")
    within = [
        sum(found[tile] <= 1.1 * min(found.values()) for found in times.values()) for tile in tiles
    ]
    title = f"A single tile is near the best in {max(within)} of {len(times)} layers at most"
    axes.set_title(f"{title}: TF32, d = 0.5", fontsize=10)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=len(tiles))
    said = ", ".join(
        f"{tile[0]}×{tile[1]} in {count}" for tile, count in zip(tiles, within, strict=True)
    )
    return figure, f"Within 10 % of the fastest tile, of {len(times)} layers: {said}."


OF_IMAGES = {256: "mcifarnet", 32: "vgg16", 64: "resnet18"}  # of tools/measure_layers.py


def stages_on_gpu(
    layers: Mapping, products: str = "tf32", density: float = 0.5, bold: str = "ResNet-18"
) -> tuple[Figure, str]:
    """What a layer's three launches take, beside the plain dense layer's time.

    Args:
        layers: what ``stored("layers")`` returns; its batches say of which network a layer is.
        bold: the network whose layers stand out.
    """
    rows = [r for r in layers["rows"] if (r["products"], r["density"]) == (products, density)]
    rows.sort(key=lambda row: _share(row))
    networks = [NAMES[OF_IMAGES[row["images"]]] for row in rows]
    names = [
        f"{of}: {_layer_name(row)}, {row['images']} images"
        for of, row in zip(networks, rows, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.3 * len(rows)), layout="constrained")
    left = np.zeros(len(rows))
    looks = ("select", DARK_GREY, "//"), ("gather", LIGHT, ".."), ("convolve", BLUE, "")
    for name, colour, hatch in looks:
        parts = [min(r[name].values()) if name == "convolve" else r[name] for r in rows]
        share = np.array(
            [part / row["dense_pytorch"] for part, row in zip(parts, rows, strict=True)]
        )
        look = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        axes.barh(names, share, left=left, label=name, **look)
        left += share
    for label, of in zip(axes.get_yticklabels(), networks, strict=True):
        label.set_weight("bold" if of == bold else "normal")
    axes.axvline(1, color=BLACK, label="plain dense")
    axes.invert_yaxis()
    axes.set_xlabel("time ÷ that of the plain dense layer")
    won = sum(_share(row) < 1 for row in rows)
    title = f"Three launches beat the plain layer in {won} of {len(rows)}"
    axes.set_title(f"{title}: {PRECISIONS[products]}, d = {density:g}", fontsize=10)
    legend_below(figure, ncols=4)
    extra = [(r["select"] + r["gather"]) / measured_ways(r)[0] for r in rows]
    sentence = (
        f"Select and gather are {100 * min(extra):.0f} to {100 * max(extra):.0f} % of the three. "
        f"The whole is {100 * _share(rows[0]):.0f} to {100 * _share(rows[-1]):.0f} % of the plain "
        "layer's time."
    )
    return figure, f"{sentence}\n{source(layers)}"


MEASURED = {  # convolutions in all; of those with winners alone as inputs, (channels, side): count
    "vgg16": (13, {(64, 224): 1, (128, 112): 1, (256, 56): 2, (512, 28): 2, (512, 14): 3}),
    "resnet18": (20, {(64, 56): 2, (128, 28): 2, (256, 14): 2, (512, 7): 2}),
}


def layers_in_networks(
    networks: Mapping, layers: Mapping, products: str = "tf32", density: float = 0.5
) -> tuple[Figure, str]:
    """How much of a network's time those layers take that were measured one by one.

    Only layers count whose inputs are another layer's winners, since such a layer was measured;
    `MEASURED` says which.

    Args:
        networks, layers: what ``stored("networks")`` and ``stored("layers")`` return.
    """
    figure, axes = plt.subplots(figsize=(8.6, 3.2), layout="constrained")
    bars, said, more = [], [], []
    for network, (total, counts) in MEASURED.items():
        row = next(r for r in networks["rows"]
                   if (r["network"], r["products"]) == (network, products))  # fmt: skip
        three, plain = _added(layers, row["images"], counts, products, density)
        whole = row[f"accelerated {density}"], _best(row)
        name, share = NAMES[network], f"{sum(counts.values())} of {total}"
        more.append(f"{(whole[0] - three) / (whole[1] - plain):.2f} times as long in {name}")
        bars += [(f"{name}, plain", plain, whole[1]), (f"{name}, skipping", three, whole[0])]
        said.append(
            f"{name}: {share} convolutions were measured alone. They take {plain:,.0f} µs plain "
            f"and {three:,.0f} in three launches, all else {whole[1] - plain:,.0f} and "
            f"{whole[0] - three:,.0f}."
        )
    for i, (_, part, whole) in enumerate(bars):
        skips = i % 2
        axes.barh(i, part, color=BLUE if skips else BLACK)
        axes.barh(i, whole - part, left=part, color=LIGHT if skips else GREY, hatch="//",
                  edgecolor="white")  # fmt: skip
        axes.text(part / 2, i, f"{part:,.0f}", color="white", ha="center", va="center")
        words = {"ha": "center", "va": "center", "bbox": PAPER}
        axes.text((part + whole) / 2, i, f"{whole - part:,.0f}", **words)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.set_xlabel(f"microseconds, {PRECISIONS[products]}, d = {density:g}; full: layers measured "
                    "alone, hatched: all else")  # fmt: skip
    axes.set_title(f"All else takes {' and '.join(more)}", fontsize=11)
    return figure, "\n".join(said)


def _added(
    layers: Mapping, images: int, counts: Mapping, products: str, density: float
) -> tuple[float, float]:
    """Microseconds of all layers in ``counts`` together: in three launches, and plain."""
    three = plain = 0.0
    for row in layers["rows"]:
        key = row["images"], row["products"], row["density"]
        if key == (images, products, density):
            count = counts.get((row["channels"], row["side"]), 0)
            times = measured_ways(row)
            three, plain = three + count * times[0], plain + count * times[2]
    return three, plain


def misses(layers: Mapping, found: Sequence[tuple[float, float]]) -> tuple[Figure, str]:
    """By how much a model misses each layer's measured time: with the layer in its fit, without.

    Args:
        layers: what ``stored("layers")`` returns.
        found: of each row the model's time over the measured one, fitted and held out.
    """
    rows = layers["rows"]
    sizes = sorted(dict.fromkeys(map(_sizes, rows)), key=lambda size: -size[2])
    names = [f"{c} ch, {side}×{side}, {n} images" for n, c, side in sizes]
    places = [sizes.index(_sizes(row)) for row in rows]
    figure, axes = plt.subplots(figsize=(8, 1.7 + 0.27 * len(sizes)), layout="constrained")
    axes.axvline(1, color=BLACK)
    looks = ((0.16, "o", GREY, GREY, "the layer was in the fit"),)
    looks += ((-0.16, "D", BLUE, "white", "the layer was held out"),)
    for i, (shift, marker, colour, face, label) in enumerate(looks):
        at = [place + shift for place in places]
        values = [pair[i] for pair in found]
        axes.plot(values, at, marker, color=colour, markerfacecolor=face, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel="the model's time ÷ the measured one")
    ends = np.array(found)
    axes.set_xlim(min(0.62, 0.95 * ends.min()), max(1.6, 1.05 * ends.max()))
    plain_ticks(axes.xaxis, [0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5])
    each = [sorted(max(x, 1 / x) - 1 for x in values) for values in zip(*found, strict=True)]
    middle, worst = zip(*((100 * x[len(x) // 2], 100 * x[-1]) for x in each), strict=True)
    said = f"{middle[1]:.0f} % at the median, {worst[1]:.0f} % at most"
    axes.set_title(f"Held out, the model misses by {said}", fontsize=10)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=2)
    times = [measured_ways(row) for row in rows]
    named = sum(
        (miss * three < plain) == (three < plain)
        for (_, miss), (three, _, plain) in zip(found, times, strict=True)
    )
    return figure, (
        f"{len(rows)} measurements of {len(sizes)} layers. Misses by a factor of up to "
        f"{1 + worst[0] / 100:.2f} with the layer in the fit, {1 + worst[1] / 100:.2f} without. "
        f"Held out, the model still says in {named} of {len(rows)} whether three launches beat the "
        "plain layer's measured time."
    )


def _share(row: Mapping) -> float:
    """Of the plain dense layer's time, what three launches took."""
    three, _, plain = measured_ways(row)
    return three / plain


def layer_roofline(
    channels: int,
    side: int,
    images: int,
    products: str,
    density: float,
    measured: Mapping,
    narrow: Sequence[Mapping] = (),
) -> tuple[Figure, str]:
    """A 3×3 layer under the H100's roofs, and its ways by density, with what it took.

    The rivals are a plain dense layer with its ReLU, which chooses nothing, and the dense way of a
    gated layer, which fills its inputs in and masks its outputs; and where it was measured, a plain
    layer with as many channels as win.

    Args:
        channels: in and out. side: of its square map. products: ``"fp32"``, ``"tf32"``, ``"bf16"``.
        measured: what ``stored("layers")`` returns.
        narrow: the rows of ``stored("single_kernel")``, all of 128 images.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    rows = [row for row in measured["rows"] if row["products"] == products]
    layer = same_layer(images, channels, side, density)
    here = [row for row in rows if _sizes(row) == (images, channels, side)]
    found = [row for row in here if abs(row["density"] - density) < 1e-9]
    thin = [row for row in narrow if (row["products"], *_sizes(row), row["density"] < 1)
            == (products, images, channels, side, True)]  # fmt: skip
    _roofs(left, products, rows)
    _points(left, products, layer, found)
    times = _ways(right, products, here, layer, measured["rows"], thin)
    case = {"images": images, "products": products}
    way = "three launches" if skipping_is_faster(layer, products, True) else "dense and masked"
    title = f"{channels} channels, {side}×{side}, {_case(case)}"
    figure.suptitle(f"{title}, d = {density:g}: the rule takes {way}", fontsize=11)
    said = f"{title}, d = {density:g}. By the model, {_times(times)}; the rule takes {way}."
    for row in found:
        said += f" Measured: {_times(measured_ways(row))}."
    for row in thin:
        said += f" Measured at d = {row['density']:g}: a narrow layer {row['narrow']:.0f} µs."
    return figure, said


def _sizes(row: Mapping) -> tuple[int, int, int]:
    return row["images"], row["channels"], row["side"]


def _times(times: Sequence[float]) -> str:
    names = "three launches", "dense and masked", "plain dense"
    return ", ".join(f"{name} {time:.0f}" for name, time in zip(names, times, strict=False)) + " µs"


def same_layer(images: int, channels: int, side: int, density: float) -> Layer:
    """A 3×3 layer with as many inputs as outputs, of which the same share is live."""
    k = active_channels(channels, density)
    return Layer(images, k, k, channels, channels, 9, side * side, side * side)


def measured_ways(row: Mapping) -> tuple[float, float, float]:
    """Microseconds of three launches, of the dense way with a mask, and of a plain dense layer."""
    skip = row["select"] + row["gather"] + min(row["convolve"].values())
    masked = row["select"] + row["spread"] + row["dense_and_mask"]
    return skip, masked, row["dense_pytorch"]


def selection_time(channels: int, measured: Sequence[Mapping]) -> float:
    """Microseconds of `select`: the median of the H100's rows with as many channels, or between."""
    times = {row["channels"]: [] for row in sorted(measured, key=lambda row: row["channels"])}
    for row in measured:
        times[row["channels"]].append(row["select"])
    return float(np.interp(channels, list(times), [np.median(found) for found in times.values()]))


def three_launches_time(
    layer: Layer, products: str, measured: Sequence[Mapping], gpu: Gpu = H100
) -> float:
    """Microseconds of all three launches, by the model; the selection's are always the H100's."""
    return selection_time(layer.c_out, measured) + skip_time(layer, products, True, gpu)


def plain_time(layer: Layer, products: str, gpu: Gpu = H100) -> float:
    """Microseconds of a dense convolution and its ReLU, by the model: nobody chooses anything."""
    return dense_time(layer, products, False, gpu)


def intensity(layer: Layer, products: str, skipping: bool) -> float:
    """FLOPs per byte of a convolution: maps once, weights once per image or once in all."""
    size = 2 if products == "bf16" else 4
    k_in, k_out = (layer.k_in, layer.k_out) if skipping else (layer.c_in, layer.c_out)
    maps = layer.images * (layer.pixels_in * k_in + layer.pixels * k_out)
    weights = layer.taps * k_in * k_out * (layer.images if skipping else 1)
    return 2 * _macs(layer, skipping) / (size * (maps + weights))


def _macs(layer: Layer, skipping: bool = True) -> int:
    pair = layer.k_in * layer.k_out if skipping else layer.c_in * layer.c_out
    return layer.images * layer.pixels * layer.taps * pair


def _roofs(axes: Axes, products: str, rows: Sequence[Mapping]) -> None:
    """The roofs of the data sheet and of the fitted rates, and all measured convolutions."""
    fitted, sheet = (H100.memory, 2 * H100.own[products]), SHEETS[9, 0]  # TB/s, TFLOP/s
    promised = sheet.memory, {"fp32": sheet.fp32, "tf32": sheet.tf32, "bf16": sheet.half}[products]
    looks = ((fitted, "-", "the rule's roof"), (promised, "--", "the data sheet's"))
    for (memory, peak), line, name in looks:
        at = np.array([1, peak / memory, 3000])  # straight between these
        axes.loglog(at, np.minimum(peak, memory * at), line, color=BLACK, label=name)
    dots = [_reached(same_layer(*_sizes(r), r["density"]), products, r, True) for r in rows]
    axes.plot(*zip(*dots, strict=True), ".", color=GREY)
    ridge, low = fitted[1] / fitted[0], 0.5 * min(reached for _, reached in dots)
    axes.vlines(ridge, low, fitted[1], color=BLACK, linestyle=":", linewidth=0.8)
    axes.text(1.05 * ridge, 1.1 * low, "ridge", fontsize=8.5)
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="TFLOP/s", xlim=(8, 3000))
    plain_ticks(axes.xaxis, [10, 30, 100, 300, 1000])
    plain_ticks(axes.yaxis, [5, 10, 20, 50, 100, 200, 500, 1000])
    axes.set_ylim(low, 1.5 * promised[1])
    axes.grid(alpha=0.3)


def _reached(layer: Layer, products: str, row: Mapping, skipping: bool) -> tuple[float, float]:
    """Intensity, and the TFLOP/s that a convolution reached."""
    took = min(row["convolve"].values()) if skipping else row["dense_pytorch"]
    return intensity(layer, products, skipping), 2 * _macs(layer, skipping) / 1e6 / took


def _points(axes: Axes, products: str, layer: Layer, found: Sequence[Mapping]) -> None:
    """Where this layer lies: measured, or where it was not, at best, on the fitted roof."""
    looks = ((False, "o", "plain dense", BLACK), (True, "D", "skipping", BLUE))
    for skipping, marker, name, colour in looks:
        if found:
            point, face, how = _reached(layer, products, found[0], skipping), colour, "measured"
        else:
            at = intensity(layer, products, skipping)
            point, face, how = (
                (at, min(2 * H100.own[products], H100.memory * at)),
                "white",
                "at best",
            )
        look = {"color": colour, "markerfacecolor": face, "markersize": 9}
        axes.plot(*point, marker, label=f"{name}, {how}", **look)
    label_lines(axes)


def _ways(
    axes: Axes,
    products: str,
    here: Sequence[Mapping],
    layer: Layer,
    measured: Sequence[Mapping],
    narrow: Sequence[Mapping],
) -> tuple[float, ...]:
    """All ways' times by density, selection included; returns those that come from the model.

    A plain dense layer's is measured where that is possible: the model is worst at it.
    """
    density, side = layer.k_in / layer.c_in, round(layer.pixels**0.5)
    densities = np.linspace(0.05, 1, 39)
    layers = [same_layer(layer.images, layer.c_in, side, d) for d in densities]
    selection = selection_time(layer.c_out, measured)
    plain = here[0]["dense_pytorch"] if here else plain_time(layer, products)
    looks = (
        (lambda at: selection + skip_time(at, products, True, H100), BLUE, "D-", "three launches"),
        (
            lambda at: selection + dense_time(at, products, True, H100),
            ORANGE,
            "o--",
            "dense and masked",
        ),
        (lambda at: plain, BLACK, "s-.", "plain dense"),
    )
    for i, (way, colour, look, name) in enumerate(looks):
        marker, line = look[0], look[1:]
        axes.plot(densities, [way(at) for at in layers], line, color=colour, label=name)
        points = [measured_ways(row)[i] for row in here]
        densities_here = [row["density"] for row in here]
        axes.plot(densities_here, points, marker, color=colour, markersize=8)
    if narrow:
        points = [[row[name] for row in narrow] for name in ("density", "narrow")]
        axes.plot(*points, "v", color=DARK_GREY, markersize=8, label="narrow, no ReLU")
    axes.axvline(density, color=DARK_GREY, linestyle=":")
    top = 1.12 * axes.get_ylim()[1]
    axes.set(xlabel="density d", ylabel="microseconds", xlim=(0, 1.02), ylim=(0, top))
    if here or narrow:
        axes.set_title("lines: the model; markers: measured", fontsize=9)
    label_lines(axes)
    axes.grid(alpha=0.3)
    return tuple(way(layer) for way, *_ in looks[: 2 if here else 3])
