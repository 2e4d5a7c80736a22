"""Pictures of skipping on a GPU: what was measured, three launches, and a layer under its roofs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ...execution.roofline import H100, Layer, dense_time, skip_time, skipping_is_faster
from ...method.wta import active_channels
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, legend_below, plain_ticks

PRECISIONS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
NAMES = {"mcifarnet": "M-CifarNet", "vgg16": "VGG-16", "resnet18": "ResNet-18"}
LOOKS = ((1.0, GREY, "s"), (0.5, BLUE, "o"), (0.25, GREEN, "D"))


def networks_on_gpu(results: Mapping) -> tuple[Figure, str]:
    """Whole networks: time over that of the best dense network, at three densities.

    Args:
        results: what ``stored("networks")`` returns.
    """
    rows = sorted(results["rows"], key=lambda row: row["accelerated 0.5"] / _best(row))
    names = [
        f"{NAMES[r['network']]}, {r['images']} image{'s' * (r['images'] > 1)}, "
        f"{PRECISIONS[r['products']]}"
        for r in rows
    ]
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    shares = {d: [row[f"accelerated {d}"] / _best(row) for row in rows] for d, *_ in LOOKS}
    for d, colour, marker in LOOKS:
        axes.plot(shares[d], names, marker, color=colour, markersize=8, label=f"d = {d:g}")
    axes.axvspan(1, 1.8, color=ORANGE, alpha=0.1, zorder=0)
    axes.axvline(1, color=BLACK)
    axes.text(1.02, -0.6, "slower than dense", fontsize=9, va="center")
    axes.text(0.98, -0.6, "faster", fontsize=9, ha="right", va="center")
    axes.set(xlim=(0, 1.8), ylim=(len(rows) - 0.5, -1), xlabel="time (share of the best dense)")
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=3)
    said = [
        f"{name} {', '.join(f'{100 * shares[d][i]:.0f}' for d, *_ in LOOKS)}"
        for i, name in enumerate(names)
    ]
    sentence = "Percent of the best dense time at d = 1, 0.5, 0.25: " + "; ".join(said)
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
    axes.set_title(f"{PRECISIONS[products]}, d = {density:g}, 128 images", fontsize=10)
    plain_ticks(axes.xaxis, [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    legend_below(figure, ncols=3)
    pairs = zip(names, one, three, strict=True)
    said = "; ".join(f"{name}: {100 * a:.0f} and {100 * b:.0f}" for name, a, b in pairs)
    return figure, f"Percent of the dense layer's time, one kernel and three launches: {said}."


def select_gather_convolve(
    channels: Tensor, winners: Tensor, sizes: tuple[int, int], pixels: int, tile: tuple[int, int]
) -> tuple[Figure, str]:
    """One image's way through the three launches, drawn: winners, its own weights, tiles.

    Args:
        channels, winners: of one image, ``[k_in]`` and ``[k_out]``.
        sizes: ``(C_in, C_out)``. pixels: of the map. tile: its pixels and winners per program.
    """
    c_in, c_out = sizes
    figure, (grid, own, out) = plt.subplots(
        1, 3, figsize=(10, 4), width_ratios=(1.5, 1, 1), layout="constrained"
    )
    live, wins = ({int(c) for c in each} for each in (channels, winners))
    _squares(grid, c_out, c_in, lambda o, i: (o in wins) + (i in live))
    _squares(own, len(wins), len(live), lambda o, i: 2)
    m, n = tile
    rows, columns = -(-pixels // m), -(-len(wins) // n)
    for a in range(rows):
        for b in range(columns):
            height, width = min(m, pixels - a * m), min(n, len(wins) - b * n)
            colour = (BLUE, GREEN, ORANGE, PURPLE)[(a * columns + b) % 4]
            box = Rectangle((b * n, a * m), width, height, facecolor=colour, edgecolor="white")
            box.set(alpha=0.6, linewidth=2)
            out.add_patch(box)
            place = b * n + width / 2, a * m + height / 2
            out.text(*place, f"program\n{a}, {b}", ha="center", va="center", fontsize=8)
    out.set(xlim=(0, len(wins)), ylim=(pixels, 0), xlabel=f"{len(wins)} winners")
    out.set_ylabel(f"{pixels} pixels")
    grid.set(title="1  select\nwhich rows, which columns?", xlabel=f"C_in = {c_in}")
    grid.set_ylabel(f"C_out = {c_out}")
    own.set_title("2  gather\nthe image's own weights")
    own.set(xlabel=f"{len(live)} live inputs", ylabel=f"{len(wins)} winners")
    out.set_title("3  convolve\neach program reads its winners' rows")
    for axes in (grid, own, out):
        axes.set(xticks=[], yticks=[])
    names = ("needed", "only a winning row or a live column", "neither")
    looks = zip((BLUE, "#C6DBEF", "#EEEEEE"), names, strict=True)
    legend_below(figure, [Patch(color=c, label=name) for c, name in looks], names, ncols=3)
    return figure, (
        f"Of {c_out} × {c_in} kernels one image needs {len(wins)} × {len(live)}, "
        f"{100 * len(wins) * len(live) / c_out / c_in:.0f} %. They are copied once, and "
        f"{rows * columns} programs of {m} pixels × {n} winners read the copy."
    )


def _squares(axes: Axes, rows: int, columns: int, kind) -> None:
    """A grid of kernels, one square each, coloured by ``kind(output, input)``: 0, 1 or 2."""
    for o in range(rows):
        for i in range(columns):
            colour = ("#EEEEEE", "#C6DBEF", BLUE)[kind(o, i)]
            axes.add_patch(Rectangle((i, o), 0.9, 0.9, facecolor=colour))
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    axes.set_frame_on(False)


def launch_timeline(
    kernels: Sequence[tuple[str, float]], launch: float, title: str = ""
) -> tuple[Figure, str]:
    """When a CPU launches kernels one by one, and when the GPU runs them; below, as one graph.

    Args:
        kernels: names and microseconds, in the order of their launch.
        launch: microseconds that the CPU takes for each.
    """
    figure, axes = plt.subplots(figsize=(9, 2.9), layout="constrained")
    colours = dict(zip(dict.fromkeys(name for name, _ in kernels), (PURPLE, GREEN, BLUE, ORANGE)))  # noqa: B905
    end = graph = 0.0
    for i, (name, microseconds) in enumerate(kernels):
        _box(axes, i * launch, launch, 3, GREY, "")
        begin = max(end, (i + 1) * launch)
        end = begin + microseconds
        _box(axes, begin, microseconds, 2, colours[name], name)
        _box(axes, launch + graph, microseconds, 0, colours[name], name)
        graph += microseconds
    _box(axes, 0, launch, 1, GREY, "")
    busy = sum(microseconds for _, microseconds in kernels)
    axes.set_yticks([3, 2, 1, 0], ["CPU launches", "GPU", "CPU replays a graph", "GPU"])
    axes.set(xlim=(0, 1.02 * end), ylim=(-0.6, 3.6), xlabel="microseconds", title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(
        [Patch(color=colour) for colour in (GREY, *colours.values())],
        ["a launch", *colours],
        loc="outside lower center", ncols=5, fontsize=9, frameon=False,
    )  # fmt: skip
    return figure, (
        f"One by one: {end:.0f} µs, of which the GPU works {busy:.0f} and waits {end - busy:.0f}. "
        f"As a graph: {launch + graph:.0f} µs."
    )


def _box(axes: Axes, left: float, width: float, row: int, colour: str, name: str) -> None:
    axes.barh(row, width, left=left, height=0.7, color=colour, edgecolor="white")
    if width > 9 and name:
        axes.text(left + width / 2, row, name, ha="center", va="center", fontsize=8, color="white")


def layer_roofline(
    channels: int, side: int, images: int, products: str, density: float, measured: Sequence
) -> tuple[Figure, str]:
    """A 3×3 layer under an H100's roofs, and its two ways by density, with measured points.

    Args:
        channels: in and out. side: of its square map. products: ``"fp32"``, ``"tf32"``, ``"bf16"``.
        measured: the rows of ``stored("layers")``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = [row for row in measured if row["products"] == products]
    layer = same_layer(images, channels, side, density)
    _roofs(left, products, rows, layer)
    here = [r for r in rows if (r["images"], r["channels"], r["side"]) == (images, channels, side)]
    times = _ways(right, products, here, (images, channels, side), density)
    way = "three launches" if skipping_is_faster(layer, products, True) else "dense and masked"
    title = f"{channels} channels, {side}×{side}, {images} images, {PRECISIONS[products]}"
    figure.suptitle(f"{title}, d = {density:g}: {way}", fontsize=11)
    found = [r for r in here if abs(r["density"] - density) < 1e-9]
    said = f"{title}, d = {density:g}. The rule expects {times[0]:.0f} µs skipping, {times[1]:.0f} "
    said += f"dense and masked, and takes {way}."
    for row in found:
        skip, dense = _both(row)
        said += f" Measured: {skip:.0f} and {dense:.0f} µs."
    return figure, said if found else f"{said} This point was not among the measured ones."


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


def _roofs(axes: Axes, products: str, rows: Sequence[Mapping], layer: Layer) -> None:
    """The two roofs, the convolutions that were measured, and where this layer lies."""
    grid = np.logspace(0, 3.5, 200)
    memory, peak = H100.memory, 2 * H100.own[products]  # TB/s, TFLOP/s
    axes.loglog(grid, np.minimum(peak, memory * grid), color=BLACK)
    label = "measured convolutions"
    for row in rows:
        other = same_layer(row["images"], row["channels"], row["side"], row["density"])
        rate = 2 * _macs(other) / 1e6 / min(row["convolve"].values())
        axes.plot(intensity(other, products, True), rate, ".", color=PURPLE, label=label)
        label = None
    looks = ((False, "o", "white", "dense"), (True, "D", BLUE, "skipping"))
    for skipping, marker, face, name in looks:
        at = intensity(layer, products, skipping)
        roof = min(peak, memory * at)
        axes.plot(at, roof, marker, color=BLUE, markerfacecolor=face, markersize=10, label=name)
    axes.axvline(peak / memory, color=BLACK, linestyle=":", linewidth=0.8, label="ridge")
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="TFLOP/s", xlim=(1, grid[-1]))
    axes.set(ylim=(1, 700))
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.grid(alpha=0.3)


def _ways(
    axes: Axes, products: str, here: Sequence[Mapping], sizes: tuple, density: float
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
        curve = [way(layer, products, True, H100) for layer in layers]
        axes.plot(densities, curve, color=colour, label=name)
        points = [_both(row)[i] for row in here]
        axes.plot([row["density"] for row in here], points, marker, color=colour, markersize=9)
        times.append(way(same_layer(*sizes, density), products, True, H100))
    axes.plot([], [], "D", color=BLACK, markerfacecolor="white", label="markers: measured")
    axes.axvline(density, color=BLACK, linestyle=":")
    axes.set(xlabel="density d", ylabel="microseconds", xlim=(1.02, 0.03), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    return times[0], times[1]
