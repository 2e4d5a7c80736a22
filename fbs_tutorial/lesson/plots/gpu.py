"""Pictures of skipping on a GPU: what was measured, and a layer under the roofs of a device."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...execution.roofline import GPUS, Gpu, Layer, dense_time, skip_time, skipping_is_faster
from ...method.wta import active_channels
from .style import BLACK, BLUE, FAINT, GREY, ORANGE, legend_below, plain_ticks

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
    won = sum(any(share[i] < 1 for share in shares.values()) for i in range(len(rows)))
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


def one_or_three(single: Mapping, layers: Mapping, products: str, density: float):
    """Layers of 128 images by the kernel that gathers while it multiplies, and in three launches.

    Args:
        single, layers: what ``stored("single_kernel")`` and ``stored("layers")`` return.

    Returns:
        A figure and a sentence; shares are of PyTorch's dense layer with its ReLU.
    """

    def key(row: Mapping) -> tuple:
        return row["products"], row["channels"], row["side"], row["density"]

    first = {key(row): row["single"] for row in single["rows"]}
    rows = [r for r in layers["prototype"]["rows"] if key(r)[::3] == (products, density)]
    rows.sort(key=lambda row: -row["side"])
    names = [f"{row['channels']} ch, {row['side']}×{row['side']}" for row in rows]
    one = [first[key(row)] / row["dense_pytorch"] for row in rows]
    three = [row["total"] / row["dense_pytorch"] for row in rows]
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    axes.hlines(names, one, three, color=GREY, linewidth=3, zorder=1)
    axes.plot(one, names, "o", color=ORANGE, markersize=8, label="one kernel, winners given")
    axes.plot(three, names, "D", color=BLUE, label="three launches, selection included")
    axes.axvline(1, color=BLACK)
    axes.axvline(density**2, color=BLACK, linestyle="--", label=f"d² = {density**2:.3g}")
    axes.set(xscale="log", xlabel="time (share of the dense layer)")
    won = sum(b < a for a, b in zip(one, three, strict=True))
    title = f"Gathering first is faster in {won} of {len(rows)} layers"
    axes.set_title(f"{title}: {PRECISIONS[products]}, d = {density:g}, 128 images", fontsize=10)
    plain_ticks(axes.xaxis, [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=3)
    pairs = zip(names, one, three, strict=True)
    said = "; ".join(f"{name}: {100 * a:.0f} and {100 * b:.0f}" for name, a, b in pairs)
    return figure, f"Percent of the dense layer's time, one kernel and three launches: {said}."


def layer_roofline(
    channels: int,
    side: int,
    images: int,
    products: str,
    density: float,
    measured: Sequence,
    device: str = "H100",
) -> tuple[Figure, str]:
    """A 3×3 layer under a GPU's roofs, and its two ways by density; on an H100 with what it took.

    Args:
        channels: in and out. side: of its square map. products: ``"fp32"``, ``"tf32"``, ``"bf16"``.
        measured: the rows of ``stored("layers")``.
        device: a key of `DEVICES`. A T4 has neither TF32 nor bfloat16, and takes float32 for them.
    """
    gpu = GPUS[DEVICES[device]]
    products = "fp32" if device == "T4" else products
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = [row for row in measured if row["products"] == products and device == "H100"]
    layer = same_layer(images, channels, side, density)
    _roofs(left, products, rows, layer, gpu)
    here = [r for r in rows if (r["images"], r["channels"], r["side"]) == (images, channels, side)]
    times = _ways(right, products, here, (images, channels, side), density, gpu)
    skips = skipping_is_faster(layer, products, True, gpu)
    way = "three launches" if skips else "dense and masked"
    title = f"{device}: {channels} channels, {side}×{side}, {images} images, {PRECISIONS[products]}"
    figure.suptitle(f"{title}, d = {density:g}: {way}", fontsize=11)
    found = [r for r in here if abs(r["density"] - density) < 1e-9]
    said = f"{title}, d = {density:g}. The rule expects {times[0]:.0f} µs skipping, {times[1]:.0f} "
    said += f"dense and masked, and takes {way}."
    for row in found:
        skip, dense = _both(row)
        said += f" Measured: {skip:.0f} and {dense:.0f} µs."
    return figure, said


def same_layer(images: int, channels: int, side: int, density: float) -> Layer:
    """A 3×3 layer with as many inputs as outputs, of which the same share is live."""
    k = active_channels(channels, density)
    return Layer(images, k, k, channels, channels, 9, side * side, side * side)


def _both(row: Mapping) -> tuple[float, float]:
    """Microseconds of both ways without the selection, which both have."""
    skip = row["gather"] + min(row["convolve"].values())
    return skip, row["spread"] + row["dense_and_mask"]


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


def _roofs(axes: Axes, products: str, rows: Sequence[Mapping], layer: Layer, gpu: Gpu) -> None:
    """The two roofs, the convolutions that were measured, and where this layer lies."""
    grid = np.logspace(0, 3.5, 200)
    memory, peak = gpu.memory, 2 * gpu.own[products]  # TB/s, TFLOP/s
    axes.loglog(grid, np.minimum(peak, memory * grid), color=BLACK)
    label = "measured convolutions"
    for row in rows:
        other = same_layer(row["images"], row["channels"], row["side"], row["density"])
        rate = 2 * _macs(other) / 1e6 / min(row["convolve"].values())
        axes.plot(intensity(other, products, True), rate, ".", color=GREY, label=label)
        label = None
    looks = ((False, "o", "white", "dense"), (True, "D", BLUE, "skipping"))
    for skipping, marker, face, name in looks:
        at = intensity(layer, products, skipping)
        roof = min(peak, memory * at)
        axes.plot(at, roof, marker, color=BLUE, markerfacecolor=face, markersize=10, label=name)
    axes.axvline(peak / memory, color=BLACK, linestyle=":", linewidth=0.8, label="ridge")
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="TFLOP/s", xlim=(1, grid[-1]))
    axes.set(ylim=(0.1, 700))
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.grid(alpha=0.3)


def _ways(
    axes: Axes, products: str, here: Sequence[Mapping], sizes: tuple, density: float, gpu: Gpu
) -> tuple[float, float]:
    """Both ways' times by density; returns those at ``density``."""
    densities = np.linspace(0.05, 1, 39)
    layers = [same_layer(*sizes, d) for d in densities]
    looks = (
        (skip_time, BLUE, "D", "three launches"),
        (dense_time, ORANGE, "o", "dense and masked"),
    )
    times = []
    for i, (way, colour, marker, name) in enumerate(looks):
        curve = [way(layer, products, True, gpu) for layer in layers]
        axes.plot(densities, curve, color=colour, label=name)
        points = [_both(row)[i] for row in here]
        axes.plot([row["density"] for row in here], points, marker, color=colour, markersize=9)
        times.append(way(same_layer(*sizes, density), products, True, gpu))
    if here:
        axes.plot([], [], "D", color=BLACK, markerfacecolor="white", label="markers: measured")
    axes.axvline(density, color=BLACK, linestyle=":")
    axes.set(xlabel="density d", ylabel="microseconds", xlim=(0, 1.02), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    return times[0], times[1]
