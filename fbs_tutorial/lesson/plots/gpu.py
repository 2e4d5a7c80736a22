"""Pictures of skipping on a GPU: what was measured, and a layer under the roofs of a device."""

import re
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
from .style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, legend_below, plain_ticks

PRECISIONS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
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


def networks_on_gpu(results: Mapping) -> tuple[Figure, str]:
    """Whole networks over the best dense network; and beside it over themselves at d = 1.

    At d = 1 nothing is skipped: what is gained there already comes from other kernels. The second
    panel is left out where d = 1 was not measured.

    Args:
        results: what ``stored("networks")`` or `as_stored` returns.
    """
    rows = sorted(results["rows"], key=lambda row: row["accelerated 0.5"] / _best(row))
    names = [
        f"{NAMES.get(r['network'], r['network'])}, {r['images']} image{'s' * (r['images'] > 1)}, "
        f"{PRECISIONS[r['products']]}"
        for r in rows
    ]
    shares = {d: [row[f"accelerated {d}"] / _best(row) for row in rows if f"accelerated {d}" in row]
              for d, *_ in LOOKS}  # fmt: skip
    shares = {d: found for d, found in shares.items() if len(found) == len(rows)}
    panels = {"the best dense network": shares}
    if 1.0 in shares:
        panels["the same kernels at d = 1"] = {
            d: [a / b for a, b in zip(found, shares[1.0], strict=True)]
            for d, found in shares.items()
            if d < 1
        }
    size = 5 + 3.2 * len(panels), 1.8 + 0.27 * len(rows)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True)
    for at, (rival, found) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        _over(at, names, found, rival)
    legend_below(figure, *np.atleast_1d(axes)[0].get_legend_handles_labels(), ncols=3)
    said = [
        f"{name} {', '.join(f'{100 * share[i]:.0f}' for share in shares.values())}"
        for i, name in enumerate(names)
    ]
    sentence = f"Percent of the best dense time at d = {_listed(shares)}: " + "; ".join(said)
    if len(panels) == 2:
        own = panels["the same kernels at d = 1"]
        sentence += ".\nPercent of the time at d = 1: " + "; ".join(
            f"d = {d:g}: {100 * min(found):.0f} to {100 * max(found):.0f}"
            for d, found in own.items()
        )
    return figure, f"{sentence}.\n{source(results)}"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _over(axes: Axes, names: Sequence[str], shares: Mapping, rival: str) -> None:
    """Times over a rival's, with the line at 1; the title counts where they are below it."""
    for d, colour, marker, face in LOOKS:
        if d in shares:
            look = {"color": colour, "markerfacecolor": face, "markersize": 8}
            axes.plot(shares[d], names, marker, label=f"d = {d:g}", **look)
    last = max(1.8, 1.1 * max(map(max, shares.values())))
    axes.axvspan(1, last, color=FAINT, zorder=0)
    axes.axvline(1, color=BLACK)
    axes.text(1.02, -0.6, "slower", fontsize=9, va="center")
    axes.text(0.98, -0.6, "faster", fontsize=9, ha="right", va="center")
    axes.set(xlim=(0, last), ylim=(len(names) - 0.5, -1), xlabel=f"time ÷ that of {rival}")
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
    """Where numbers come from: machine, day, and what made them."""
    return f"{results['machine']}; {results['date']}. Made by {results['made by']}."


def sources(single: Mapping, layers: Mapping) -> str:
    """Where the pictures of both kernels come from: two sessions, whose kernels are older."""
    commit = re.search(r"commit (\w+)", single["made by"])[1]
    first, then = (part["machine"].split(",")[0] for part in (single, layers["prototype"]))
    machine = first if first == then else f"{first} and {then}"
    return (
        f"{machine}. One kernel and the narrow layer: {single['date']}, beside commit {commit}. "
        f"Three launches and dense: {layers['prototype']['date']}, another script, "
        f"{layers['prototype']['made by']}. This package's own kernels are younger than both."
    )


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
        count: ``count(density, channels, side)`` returns megabytes of both ways, under
            ``"scattered"`` and ``"copied"``, each in parts.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    counted = []
    for row in rows:
        ways = count(0.5, row["channels"], row["side"])
        counted.append(sum(ways["scattered"]) / sum(ways["copied"]))
    timed = [row["single"] / row["total"] for row in rows]
    names = [_layer_name(row) for row in rows]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axes.axvspan(0.3, 1, color=FAINT, zorder=0)
    axes.hlines(names, counted, timed, color=GREY, linewidth=3, zorder=1)
    axes.plot(
        counted, names, "o", color=BLACK, markerfacecolor="white", label="by bytes from the L2"
    )
    axes.plot(timed, names, "D", color=BLUE, label="by the clock")
    axes.axvline(1, color=BLACK)
    axes.set(xscale="log", xlim=(0.4, 3.2))
    axes.set_xlabel("← looking up is faster      time or bytes, looking up ÷ copying first      "
                    "copying first is faster →")  # fmt: skip
    right = sum((a > 1) == (b > 1) for a, b in zip(counted, timed, strict=True))
    title = f"Bytes name the faster way in {right} of {len(rows)} layers"
    axes.set_title(f"{title}: TF32, d = 0.5, 128 images", fontsize=10)
    plain_ticks(axes.xaxis, [0.5, 0.7, 1, 1.5, 2, 3])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=2)
    said = "; ".join(
        f"{n}: {a:.1f} and {b:.1f}" for n, a, b in zip(names, counted, timed, strict=True)
    )
    sentence = f"Looking up over copying first, by bytes and by the clock: {said}."
    return figure, f"{sentence}\n{sources(single, layers)}"


def lists_and_launches(single: Mapping, layers: Mapping) -> tuple[Figure, str]:
    """The one kernel at d = 0.5 and at d = 1; and both ways beside dense and narrow layers.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    names = [_layer_name(row) for row in rows]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.4), layout="constrained", sharey=True, width_ratios=(1, 1.15)
    )
    lists = _with_lists(left, single, names)
    one, three, narrow = _beside_dense(right, rows, names)
    for axes in left, right:
        axes.axvline(1, color=BLACK)
        axes.set(xscale="log", xlim=(0.15, 5))
        plain_ticks(axes.xaxis, [0.25, 0.5, 1, 2, 4])
        axes.grid(alpha=0.3)
        axes.legend(
            fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2
        )
    left.invert_yaxis()
    half = [share for shares in lists.values() for share in shares]
    quarter = _both_kernels(single, layers, "tf32", 0.25)
    times = [b / c for b, c in zip(three, narrow, strict=True)]
    sentence = (
        f"At d = 0.5, with a quarter of the MACs, the one kernel takes {min(lists['bf16']):.1f} to "
        f"{max(lists['bf16']):.1f} times as long in bfloat16, and {min(lists['tf32']):.2f} to "
        f"{max(lists['tf32']):.2f} times in TF32; longer in {sum(s > 1 for s in half)} of "
        f"{len(half)} cases.\nCopying first beats looking up in "
        f"{sum(b < a for a, b in zip(one, three, strict=True))} of {len(rows)} layers at d = 0.5 "
        f"and in {sum(r['total'] < r['single'] for r in quarter)} of {len(quarter)} at d = 0.25, "
        f"and dense in {sum(b < 1 for b in three)} and "
        f"{sum(r['total'] < r['dense_pytorch'] for r in quarter)}.\nThe narrow layer is faster in "
        f"{sum(t > 1 for t in times)} of {len(times)}: copying first takes {min(times):.1f} to "
        f"{max(times):.1f} times as long."
    )
    return figure, f"{sentence}\n{sources(single, layers)}"


def _beside_dense(axes: Axes, rows: Sequence[Mapping], names: Sequence[str]) -> list[list[float]]:
    """One kernel, three launches and the narrow layer, as shares of the dense layer's time."""
    shares = [
        [row[way] / row["dense_pytorch"] for row in rows] for way in ("single", "total", "narrow")
    ]
    axes.hlines(names, *shares[:2], color=GREY, linewidth=3, zorder=1)
    looks = (ORANGE, "v", "one kernel"), (BLUE, "D", "three launches, with selection")
    looks += ((BLACK, "|", "narrow: k channels, no ReLU"),)
    for share, (colour, marker, name) in zip(shares, looks, strict=True):
        axes.plot(
            share, names, marker, color=colour, label=name, markersize=13 if marker == "|" else 6
        )
    axes.set_xlabel("time ÷ that of the dense layer with its ReLU")
    axes.set_title("Both ways and a narrow layer, TF32, d = 0.5", fontsize=10)
    return shares


def _with_lists(axes: Axes, single: Mapping, names: Sequence[str]) -> dict[str, list[float]]:
    """Time of the one kernel at d = 0.5 over its time at d = 1, where it has no lists."""
    times = {_key(row): row["single"] for row in single["rows"]}
    at = {_layer_name(row): (row["channels"], row["side"]) for row in single["rows"]}
    looks = (("fp32", GREY, "s"), ("tf32", ORANGE, "o"), ("bf16", BLACK, "^"))
    found = {}
    for products, colour, marker in looks:
        keys = [(products, *at[name]) for name in names]
        found[products] = [times[(*key, 0.5)] / times[(*key, 1.0)] for key in keys]
        axes.plot(found[products], names, marker, color=colour, label=PRECISIONS[products])
    axes.axvline(0.25, color=BLACK, linestyle="--", linewidth=0.8, label="MACs: a quarter")
    axes.set_xlabel("time at d = 0.5 ÷ time at d = 1")
    axes.set_title("One kernel: with lists ÷ all channels, no lists", fontsize=10)
    return found


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


def stages_on_gpu(
    layers: Mapping, products: str = "tf32", density: float = 0.5
) -> tuple[Figure, str]:
    """What a layer's three launches take, beside the plain dense layer's time.

    Args:
        layers: what ``stored("layers")`` returns.
    """
    rows = [r for r in layers["rows"] if (r["products"], r["density"]) == (products, density)]
    rows.sort(key=lambda row: _share(row))
    names = [f"{_layer_name(row)}, {row['images']} images" for row in rows]
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
    way = "three launches" if skipping_is_faster(layer, products, True) else "dense and masked"
    title = f"{channels} channels, {side}×{side}, {images} images, {PRECISIONS[products]}"
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
    grid = np.logspace(0, 3.5, 200)
    fitted, sheet = (H100.memory, 2 * H100.own[products]), SHEETS[9, 0]  # TB/s, TFLOP/s
    promised = sheet.memory, {"fp32": sheet.fp32, "tf32": sheet.tf32, "bf16": sheet.half}[products]
    looks = ((fitted, "-", "the rule's"), (promised, "--", "data sheet"))
    for (memory, peak), line, name in looks:
        axes.loglog(grid, np.minimum(peak, memory * grid), line, color=BLACK, label=name)
    dots = [_reached(same_layer(*_sizes(r), r["density"]), products, r, True) for r in rows]
    axes.plot(*zip(*dots, strict=True), ".", color=GREY, label="measured convolutions")
    axes.axvline(fitted[1] / fitted[0], color=BLACK, linestyle=":", linewidth=0.8, label="ridge")
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="TFLOP/s", xlim=(8, grid[-1]))
    plain_ticks(axes.xaxis, [10, 30, 100, 300, 1000])
    plain_ticks(axes.yaxis, [5, 10, 20, 50, 100, 200, 500, 1000])
    axes.set_ylim(0.5 * min(reached for _, reached in dots), 1.5 * promised[1])
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
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


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
        axes.plot([row["density"] for row in here], points, marker, color=colour, markersize=8)
    if narrow:
        points = [[row[name] for row in narrow] for name in ("density", "narrow")]
        axes.plot(*points, "v", color=DARK_GREY, markersize=8, label="narrow: k channels, no ReLU")
    if here or narrow:
        axes.plot([], [], "D", color=BLACK, markerfacecolor="white", label="markers: measured")
    axes.axvline(density, color=DARK_GREY, linestyle=":")
    axes.set(xlabel="density d", ylabel="microseconds", xlim=(0, 1.02), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    axes.grid(alpha=0.3)
    return tuple(way(layer) for way, *_ in looks[: 2 if here else 3])
