"""Pictures of skipping on a GPU: what was measured, and a layer under the roofs of a device."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...execution.roofline import (
    GPUS,
    H100,
    SHEETS,
    Gpu,
    Layer,
    Sheet,
    dense_time,
    skip_time,
    skipping_is_faster,
)
from ...method.wta import active_channels
from .style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, legend_below, plain_ticks

PRECISIONS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
NAMES = {"mcifarnet": "M-CifarNet", "vgg16": "VGG-16", "resnet18": "ResNet-18"}
LOOKS = ((0.25, BLUE, "D", "white"), (0.5, BLUE, "o", BLUE), (1.0, GREY, "s", GREY))
DEVICES = {"T4": (7, 5), "A100": (8, 0), "RTX 3090": (8, 6), "RTX 4090": (8, 9), "H100": (9, 0)}


def networks_on_gpu(results: Mapping) -> tuple[Figure, str]:
    """Whole networks: time over that of the best dense network, at each density measured.

    Args:
        results: what ``stored("networks")`` or `as_stored` returns.
    """
    rows = sorted(results["rows"], key=lambda row: row["accelerated 0.5"] / _best(row))
    names = [
        f"{NAMES.get(r['network'], r['network'])}, {r['images']} image{'s' * (r['images'] > 1)}, "
        f"{PRECISIONS[r['products']]}"
        for r in rows
    ]
    figure, axes = plt.subplots(figsize=(8, 1.8 + 0.27 * len(rows)), layout="constrained")
    shares = {d: [row[f"accelerated {d}"] / _best(row) for row in rows if f"accelerated {d}" in row]
              for d, *_ in LOOKS}  # fmt: skip
    shares = {d: found for d, found in shares.items() if len(found) == len(rows)}
    for d, colour, marker, face in LOOKS:
        if d in shares:
            look = {"color": colour, "markerfacecolor": face, "markersize": 8}
            axes.plot(shares[d], names, marker, label=f"d = {d:g}", **look)
    last = max(1.8, 1.1 * max(map(max, shares.values())))
    axes.axvspan(1, last, color=FAINT, zorder=0)
    axes.axvline(1, color=BLACK)
    axes.text(1.02, -0.6, "slower than dense", fontsize=9, va="center")
    axes.text(0.98, -0.6, "faster", fontsize=9, ha="right", va="center")
    axes.set(xlim=(0, last), ylim=(len(rows) - 0.5, -1), xlabel="time (share of the best dense)")
    skipping = [share for d, share in shares.items() if d < 1]
    won = sum(any(share[i] < 1 for share in skipping) for i in range(len(rows)))
    axes.set_title(f"Skipping saves time in {won} of {len(rows)} cases", fontsize=10)
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=3)
    said = [
        f"{name} {', '.join(f'{100 * share[i]:.0f}' for share in shares.values())}"
        for i, name in enumerate(names)
    ]
    at = ", ".join(f"{d:g}" for d in shares)
    sentence = f"Percent of the best dense time at d = {at}: " + "; ".join(said)
    made = f"{results['machine']}; {results['date']}. Made by {results['made by']}."
    return figure, f"{sentence}.\n{made}"


def _best(row: Mapping) -> float:
    return min(row["dense_nchw"], row["dense_nhwc"])


def _layer_name(row: Mapping) -> str:
    return f"{row['channels']} ch, {row['side']}×{row['side']}"


def _both_kernels(single: Mapping, layers: Mapping, products: str, density: float) -> list[dict]:
    """Rows of layers that both kernels have run, those with the largest maps first."""
    first = {_key(row): row["single"] for row in single["rows"]}
    wanted = products, round(density, 9)  # a slider's 0.5 may be a little off
    rows = [r for r in layers["prototype"]["rows"] if _key(r)[::3] == wanted]
    rows.sort(key=lambda row: -row["side"])
    return [{**row, "single": first[_key(row)]} for row in rows]


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
    axes.set_xlabel("looking up ÷ copying first (left of 1 looking up is better)")
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
    return figure, f"Looking up over copying first, by bytes and by the clock: {said}."


def lists_and_launches(single: Mapping, layers: Mapping) -> tuple[Figure, str]:
    """What lists do to the one kernel, in three precisions; and both ways beside the dense layer.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.
    """
    rows = _both_kernels(single, layers, "tf32", 0.5)
    names = [_layer_name(row) for row in rows]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.5, 3.9), layout="constrained", sharey=True, width_ratios=(1.15, 1)
    )
    lists = _with_lists(left, single, names)
    one = [row["single"] / row["dense_pytorch"] for row in rows]
    three = [row["total"] / row["dense_pytorch"] for row in rows]
    right.hlines(names, one, three, color=GREY, linewidth=3, zorder=1)
    right.plot(one, names, "v", color=ORANGE, label="one kernel, TF32")
    right.plot(three, names, "D", color=BLUE, label="three launches, TF32")
    right.set(xscale="log", xlabel="time ÷ that of the dense layer (d = 0.5)")
    plain_ticks(right.xaxis, [0.25, 0.5, 1, 2, 4])
    right.set_title("Copying first, beside dense", fontsize=10)
    for axes in left, right:
        axes.axvline(1, color=BLACK)
        axes.axvline(0.25, color=BLACK, linestyle="--", linewidth=0.8)
        axes.set_xlim(0.2, 5)
        axes.grid(alpha=0.3)
    left.invert_yaxis()
    legend_below(figure, ncols=5, fontsize=8)
    half = [share for shares in lists.values() for share in shares]
    sentence = (
        f"With lists, a quarter of the MACs takes {min(lists['bf16']):.1f} to "
        f"{max(lists['bf16']):.1f} times as long in bfloat16, and {min(lists['tf32']):.2f} to "
        f"{max(lists['tf32']):.2f} times in TF32; longer in {sum(s > 1 for s in half)} of "
        f"{len(half)} cases. Copying first beats looking up in "
        f"{sum(b < a for a, b in zip(one, three, strict=True))} of {len(rows)} layers, and dense "
        f"in {sum(b < 1 for b in three)}."
    )
    return figure, sentence


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
    axes.set(xscale="log", xlabel="time with lists (d = 0.5) ÷ without (d = 1)")
    plain_ticks(axes.xaxis, [0.25, 0.5, 1, 2, 4])
    axes.set_title("The same kernel, with and without lists", fontsize=10)
    return found


def layer_roofline(
    channels: int,
    side: int,
    images: int,
    products: str,
    density: float,
    measured: Sequence,
    device: str = "H100",
) -> tuple[Figure, str]:
    """A 3×3 layer under a GPU's roofs, and its ways by density; on an H100 with what it took.

    The rivals are a plain dense layer with its ReLU, which chooses nothing, and the dense way of a
    gated layer, which fills its inputs in and masks its outputs.

    Args:
        channels: in and out. side: of its square map. products: ``"fp32"``, ``"tf32"``, ``"bf16"``.
        measured: the rows of ``stored("layers")``.
        device: a key of `DEVICES`. A T4 has neither TF32 nor bfloat16, and takes float32 for them.
    """
    gpu, sheet = GPUS[DEVICES[device]], SHEETS[DEVICES[device]]
    products = "fp32" if device == "T4" else products
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    rows = [row for row in measured if row["products"] == products and device == "H100"]
    layer = same_layer(images, channels, side, density)
    here = [r for r in rows if (r["images"], r["channels"], r["side"]) == (images, channels, side)]
    found = [row for row in here if abs(row["density"] - density) < 1e-9]
    _roofs(left, products, rows, gpu, sheet, device)
    _points(left, products, layer, gpu, found)
    times = _ways(right, products, here, layer, measured, gpu)
    way = "three launches" if skipping_is_faster(layer, products, True, gpu) else "dense and masked"
    title = f"{device}: {channels} channels, {side}×{side}, {images} images, {PRECISIONS[products]}"
    figure.suptitle(f"{title}, d = {density:g}: {way}", fontsize=11)
    said = f"{title}, d = {density:g}. By the model, {_times(times)}; the rule takes {way}."
    for row in found:
        said += f" Measured: {_times(_measured(row))}."
    return figure, said


def _times(times: Sequence[float]) -> str:
    names = "three launches", "dense and masked", "plain dense"
    return ", ".join(f"{name} {time:.0f}" for name, time in zip(names, times, strict=False)) + " µs"


def same_layer(images: int, channels: int, side: int, density: float) -> Layer:
    """A 3×3 layer with as many inputs as outputs, of which the same share is live."""
    k = active_channels(channels, density)
    return Layer(images, k, k, channels, channels, 9, side * side, side * side)


def _measured(row: Mapping) -> tuple[float, float, float]:
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


def _roofs(
    axes: Axes, products: str, rows: Sequence[Mapping], gpu: Gpu, sheet: Sheet, device: str
) -> None:
    """The roofs of the data sheet and of the fitted rates, and all measured convolutions."""
    grid = np.logspace(0, 3.5, 200)
    fitted = gpu.memory, 2 * gpu.own[products]  # TB/s, TFLOP/s
    promised = sheet.memory, {"fp32": sheet.fp32, "tf32": sheet.tf32, "bf16": sheet.half}[products]
    own = "fitted to what was measured" if device == "H100" else "the H100's fit, scaled"
    looks = ((fitted, "-", own), (promised, "--", "data sheet"))
    for (memory, peak), line, name in looks:
        axes.loglog(grid, np.minimum(peak, memory * grid), line, color=BLACK, label=name)
    label = "measured convolutions"
    for row in rows:
        other = same_layer(row["images"], row["channels"], row["side"], row["density"])
        axes.plot(*_reached(other, products, row, True), ".", color=GREY, label=label)
        label = None
    axes.axvline(fitted[1] / fitted[0], color=BLACK, linestyle=":", linewidth=0.8, label="ridge")
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="TFLOP/s", xlim=(1, grid[-1]))
    axes.set(ylim=(0.1, 2000))
    axes.grid(alpha=0.3)


def _reached(layer: Layer, products: str, row: Mapping, skipping: bool) -> tuple[float, float]:
    """Intensity, and the TFLOP/s that a convolution reached."""
    took = min(row["convolve"].values()) if skipping else row["dense_pytorch"]
    return intensity(layer, products, skipping), 2 * _macs(layer, skipping) / 1e6 / took


def _points(axes: Axes, products: str, layer: Layer, gpu: Gpu, found: Sequence[Mapping]) -> None:
    """Where this layer lies: measured, or where it was not, at best, on the fitted roof."""
    looks = ((False, "o", "plain dense", BLACK), (True, "D", "skipping", BLUE))
    for skipping, marker, name, colour in looks:
        if found:
            point, face, how = _reached(layer, products, found[0], skipping), colour, "measured"
        else:
            at = intensity(layer, products, skipping)
            point, face, how = (at, min(2 * gpu.own[products], gpu.memory * at)), "white", "at best"
        look = {"color": colour, "markerfacecolor": face, "markersize": 9}
        axes.plot(*point, marker, label=f"{name}, {how}", **look)
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")


def _ways(
    axes: Axes,
    products: str,
    here: Sequence[Mapping],
    layer: Layer,
    measured: Sequence[Mapping],
    gpu: Gpu,
) -> tuple[float, ...]:
    """All ways' times by density, selection included; returns those that come from the model.

    A plain dense layer's is measured where that is possible: the model is worst at it.
    """
    density, side = layer.k_in / layer.c_in, round(layer.pixels**0.5)
    densities = np.linspace(0.05, 1, 39)
    layers = [same_layer(layer.images, layer.c_in, side, d) for d in densities]
    selection = selection_time(layer.c_out, measured)
    plain = here[0]["dense_pytorch"] if here else plain_time(layer, products, gpu)
    looks = (
        (lambda at: selection + skip_time(at, products, True, gpu), BLUE, "D-", "three launches"),
        (
            lambda at: selection + dense_time(at, products, True, gpu),
            ORANGE,
            "o--",
            "dense and masked",
        ),
        (lambda at: plain, BLACK, "s-.", "plain dense"),
    )
    for i, (way, colour, look, name) in enumerate(looks):
        marker, line = look[0], look[1:]
        axes.plot(densities, [way(at) for at in layers], line, color=colour, label=name)
        points = [_measured(row)[i] for row in here]
        axes.plot([row["density"] for row in here], points, marker, color=colour, markersize=8)
    if here:
        axes.plot([], [], "D", color=BLACK, markerfacecolor="white", label="markers: measured")
    axes.axvline(density, color=DARK_GREY, linestyle=":")
    axes.set(xlabel="density d", ylabel="microseconds", xlim=(0, 1.02), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    return tuple(way(layer) for way, *_ in looks[: 2 if here else 3])
