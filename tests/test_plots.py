"""Figures come with a true sentence, labelled axes, and curves that differ beyond colour."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fbs_tutorial.bench.cases import NETWORKS
from fbs_tutorial.bench.stored import as_stored, cpu_times, stored
from fbs_tutorial.bench.timing import Timing
from fbs_tutorial.checkpoints import load_metrics
from fbs_tutorial.execution.roofline import GPUS, H100, SHEETS, skip_time
from fbs_tutorial.lesson import plots
from fbs_tutorial.lesson.plots import answer, cost, style
from fbs_tutorial.lesson.plots.cost import crossing
from fbs_tutorial.lesson.plots.gpu import (
    MEASURED,
    intensity,
    same_layer,
    selection_time,
    three_launches_time,
)
from fbs_tutorial.lesson.results import result
from fbs_tutorial.method.dynamics import CONTROLS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def runs():
    return [metrics["rows"] for metrics in load_metrics("digits")]


def test_accuracy_and_macs_says_the_medians_of_the_runs():
    figure, sentence = plots.accuracy_and_macs(runs())
    rows = [next(row for row in run if row["density"] == 0.5) for run in runs()]
    for key in ("own_gates", "mean_gates", "shuffled_gates"):
        assert f"{100 * sorted(row[key] for row in rows)[1]:.1f} %" in sentence
    assert all("%" in axes.get_ylabel() for axes in figure.axes)
    assert "density" in figure.axes[-1].get_xlabel()


def test_accuracy_and_macs_takes_one_run_and_one_density():
    one = [row for row in runs()[0] if row["density"] in (None, 0.3)]
    small = [row for row in load_metrics("digits", "static")[0]["rows"] if row["density"] == 0.3]
    _, sentence = plots.accuracy_and_macs([one], [small])
    assert sentence.startswith("At density 0.3 the network needs 10 % of its MACs")


def test_curves_are_of_all_controls_and_differ_in_colour_marker_and_line():
    assert set(plots.LOOKS) == {control.field for control in CONTROLS}
    for column in zip(*plots.LOOKS.values(), strict=True):
        assert len(set(column)) == len(plots.LOOKS)
    figure, _ = plots.accuracy_and_macs(runs())
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {control.label for control in CONTROLS}


def test_layer_bars_says_every_value():
    panels = {"MACs": {"dense": [4000, 20.0], "active": [1000, 5.0]}, "more": {"dense": [1, 2]}}
    figure, sentence = plots.layer_bars(["conv1", "conv2"], panels, level=[1, 2], ylabel="thousand")
    assert sentence == (
        "MACs, thousand for conv1, conv2:\n  dense: 4,000, 20\n  active: 1,000, 5\n"
        "more, thousand for conv1, conv2:\n  dense: 1, 2"
    )
    assert [len(axes.patches) for axes in figure.axes] == [2 + 4, 2 + 2]  # the level behind them
    bars = figure.axes[0].containers
    assert [bar.get_height() for bar in bars[0]] == [1, 2] and bars[0].get_label() == "chance"
    assert len({(c[0].get_facecolor(), c[0].get_hatch()) for c in bars}) == len(bars)
    assert figure.axes[0].get_ylabel() == "thousand"


def test_panels_of_layer_bars_may_have_scales_and_series_of_their_own():
    panels = {"MACs": {"dense": [400, 200]}, "percent": {"predictors": [5, 90]}}
    figure, sentence = plots.layer_bars(["first,\nlast", "b"], panels, shared=False)
    assert sentence.startswith("MACs for first, last, b:\n  dense: 400, 200\npercent for")
    assert figure.axes[0].get_ylim()[1] > 400 and figure.axes[1].get_ylim()[1] < 110
    assert len({axes.patches[0].get_facecolor() for axes in figure.axes}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "predictors"]


def test_layer_bars_of_one_series_carry_their_values_and_need_no_legend():
    figure, _ = plots.layer_bars(["a", "b"], {"": {"price": [0.25, 12.0]}}, digits=1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.2", "12.0"]
    assert not figure.legends


def test_layer_lines_have_their_names_at_their_ends_and_bars_of_one_standard_error():
    panels = {"plain": {"all": [84.0, 93.0], "eight": [69.0, 77.0]}, "gated": {"all": [71, 82]}}
    figure, sentence = plots.layer_lines(
        ["conv2", "conv3"], panels, images=100, chance=10, xlabel="of"
    )
    assert figure.axes[0].get_xlabel() == "of"
    assert sentence == (
        "plain, recognised correctly (%) for conv2, conv3:\n  all: 84, 93\n  eight: 69, 77\n"
        "gated, recognised correctly (%) for conv2, conv3:\n  all: 71, 82"
    )
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["guessing", "eight", "all"]
    low, high = first.containers[0][2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx((84 * 16 / 100) ** 0.5)


def test_names_at_ends_stand_apart_and_near_their_lines():
    assert style._apart([1.0, 5.0], 2) == [1, 5]
    assert style._apart([0.0, 4.0, 5.0, 20.0], 2) == [0, 3.5, 5.5, 20]


def test_seed_dots_draw_every_network():
    kinds = {"gated": [[96.0, 98.0], [94.0, 99.0]], "small": [[95.0, 97.0], [96.0, 99.5]]}
    figure, sentence = plots.seed_dots(["0.2", "0.5"], kinds, "title", "density")
    assert sentence == (
        "Percent correct. density 0.2: gated 94.0 to 96.0, small 95.0 to 96.0; "
        "density 0.5: gated 98.0 to 99.0, small 97.0 to 99.5."
    )
    (axes,) = figure.axes
    assert sorted(y for line in axes.lines for y in line.get_ydata()) == sorted(
        value for runs in kinds.values() for run in runs for value in run
    )
    assert {text.get_text() for text in axes.texts} == set(kinds)
    assert plots.seed_dots(["a\nb"], {"": [[1.0]]})[1] == "Percent correct. a b: 1.0 to 1.0."
    figure, _ = plots.seed_dots(["a", "b"], {"": [[1.0, 2.0], [3.0, 4.0]]}, paired=True)
    (axes,) = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 2], [3, 4]]
    assert {line.get_linestyle() for line in axes.lines} == {"-"} and not axes.collections


def test_one_image_times_are_those_of_the_fastest_ways():
    figure, sentence = plots.one_image_times(cpu_times(), ("mcifarnet",), "title")
    rows = [r for r in cpu_times()["rows"] if r["name"] == "mcifarnet" and r["batch"] == 1]
    (row,) = (r for r in rows if r["kind"] == "network")
    time = {(v["variant"], v["density"]): v["median_ms"] for v in row["variants"]}
    dense = min(ms for (_, density), ms in time.items() if density is None)
    gated = min(time["native", 0.5], time["accelerated", 0.5])
    assert f"plain {dense:.2f}; gated " in sentence
    assert f"{gated:.2f} at 0.5, {gated / dense:.0%} of" in sentence
    assert f"(small plain {time['oracle', 0.5]:.2f})" in sentence
    plain, gates, small = figure.axes[0].lines
    densities = sorted(density for variant, density in time if variant == "oracle")
    assert set(plain.get_ydata()) == {dense}
    assert gates.get_xdata().tolist() == small.get_xdata().tolist() == densities  # measured only
    assert gates.get_ydata()[densities.index(0.5)] == gated
    assert small.get_ydata()[densities.index(0.5)] == time["oracle", 0.5]


def test_time_bars_say_medians_shares_and_the_ideal():
    times = {
        "dense": Timing.of([0.001, 0.002, 0.003]),
        "masked": Timing.of([0.003]),
        "accelerated": Timing.of([0.0005]),
    }
    figure, sentence = plots.time_bars(times, 0.125, "title")
    assert sentence == (
        "dense 2 ms (100 %); masked 3 ms (150 %); accelerated 0.5 ms (25 %); "
        "ideal 0.25 ms (12 %, as the MACs)."
    )
    assert [bar.get_width() for bar in figure.axes[0].patches] == [2, 3, 0.5]
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 3
    assert figure.axes[0].get_xlabel() == "milliseconds"
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["2 ms, 100 %", "3 ms, 150 %", "0.5 ms, 25 %"]
    assert len(plots.time_bars(times)[0].legends) == 0


def test_time_bars_may_have_an_ideal_each():
    times = {
        name: Timing.of([ms]) for name, ms in (("dense", 0.002), ("half", 0.001), ("few", 0.0002))
    }
    figure, sentence = plots.time_bars(times, {"half": 0.25, "few": 0.05})
    assert sentence == (
        "dense 2 ms (100 %); half 1 ms (50 %, ideal 25 %); few 0.2 ms (10 %, ideal 5 %)."
    )
    lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    places = [(line.get_xdata()[0], round(sum(line.get_ydata()) / 2)) for line in lines]
    assert places == [(0.5, 1), (pytest.approx(0.1), 2)]
    assert len(figure.legends[0].get_texts()) == 1


def test_tile_times_hatch_what_needs_too_many_registers():
    ms = {(1, 1): 0.004, (1, 3): 0.003, (4, 1): 0.002, (4, 3): 0.001}
    times = {tile: Timing.of([seconds]) for tile, seconds in ms.items()}
    figure, sentence = plots.tile_times(times, 7, "title")
    assert sentence.startswith("The fastest tile is J = 4, P = 3, with 16 registers; dark is")
    assert "more than the 7 that" in sentence
    (axes,) = figure.axes
    hatched = [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches]
    assert hatched == [(1, 1)]  # 1 · 3 + 3 + 1 = 7 are there
    words = [text.get_text() for text in axes.texts]
    assert words[0] == "4 ms\n3 registers" and words[3] == "1 ms\n16 registers"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["J = 1", "J = 4"]


def test_stage_bars_stand_side_by_side_and_say_what_is_not_nothing():
    names = ("saliency", "predictor", "selection", "gather", "convolution", "calls")
    found = {
        "mask": dict(zip(names, (1.0, 2.0, 3.0, 0.0, 40.0, 5.0), strict=True)),
        "native": dict(zip(names, (0.0, 1.0, 1.0, 0.0, 10.0, 2.0), strict=True)),
    }
    figure, sentence = plots.stage_bars(found, "title", dense=30, least=8)
    assert sentence == (
        "Microseconds, and of what:\n"
        "  mask 51: saliency 1, predictor 2, selection 3, convolution 40, calls 5\n"
        "  native 14: predictor 1, selection 1, convolution 10, calls 2\n"
        "  dense 30\n"
        "  conv2d of a quarter of the kernels, alone 8"
    )
    bars = figure.axes[0].containers
    assert [bar.get_x() for bar in bars[4]] == [6, 2]
    assert [bar.get_width() for bar in bars[5]] == [5, 2]
    looks = {(c[0].get_facecolor(), c[0].get_hatch()) for c in bars}
    assert len(looks) == len(names)


def test_networks_on_a_cpu_are_sorted_and_counted_where_they_are_faster():
    kinds = {"masked": 1.5, "accelerated": 1.2, "native": 0.4}

    def row(name, factor):
        variants = [
            {"variant": kind, "density": d, "time_share": factor * share * (d / 0.5)}
            for kind, share in kinds.items()
            for d in (0.5, 0.25)
        ]
        return {"kind": "network", "name": name, "batch": 1, "variants": variants}

    rows = [row("other", 2), row("vgg16", 1), {"kind": "layer"}]
    figure, sentence = plots.networks_on_cpu({"rows": rows})
    assert sentence == (
        "Percent of the best dense time at d = 0.5 and 0.25:\n"
        "  VGG-16, 1 image: masked 150 and 75, gather 120 and 60, native 40 and 20\n"
        "  other, 1 image: masked 300 and 150, gather 240 and 120, native 80 and 40"
    )
    half, quarter = figure.axes
    title = "Faster than dense at d = 0.5, of 2: masked 0, gather 0, native 2"
    assert figure.get_suptitle() == title
    assert (half.get_title(), quarter.get_title()) == ("d = 0.5", "d = 0.25")
    for axes, wanted in (half, [40, 80]), (quarter, [20, 40]):
        (native,) = [line for line in axes.get_lines() if line.get_label() == "native"]
        assert list(native.get_xdata()) == pytest.approx(wanted)
    del rows[0]["variants"][4:]  # a way that was not measured
    assert "native nan and nan" in plots.networks_on_cpu({"rows": rows})[1]


def timings(**milliseconds):
    """Quartiles a tenth below and above each median."""
    times = {name: ms / 1000 for name, ms in milliseconds.items()}
    return {name: Timing(t, 0.9 * t, 1.1 * t, 10, 1.0) for name, t in times.items()}


def test_time_by_density_says_one_line_a_way_and_where_it_breaks_even():
    races = {
        "a": [timings(dense=10, gather=3, native=2), timings(dense=10, gather=15, native=7)],
        "b": [timings(dense=10, gather=20, native=9), timings(dense=10, gather=11, native=11)],
    }
    figure, sentence = plots.time_by_density([0.5, 1.0], races, ("gather", "native"))
    assert sentence == (
        "Percent of the dense time at d = 0.5, 1; break-even:\n"
        # 3 · 1.1 / 0.9 / 10 = 0.37 at most at d = 0.5, and 1.83 at d = 1: 1 is reached at 0.72
        "  a, gather: 30, 150; 0.7 to 0.9\n  a, native: 20, 70; always below\n"
        "  b, gather: 200, 110; never below\n  b, native: 90, 110; the clock has not decided"
    )
    assert figure.get_suptitle() == "Faster than dense at d = 0.5, of 2 layers: gather 1, native 1"
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    for axes in figure.axes:  # from few channels to all
        low, high = axes.get_xlim()
        assert low < high and axes.get_yscale() == "log"
    ideal, _, native = figure.axes[0].get_lines()
    assert list(ideal.get_ydata()) == [25, 100] and list(native.get_ydata()) == [20, 70]  # percent
    bars = figure.axes[0].collections[0].get_segments()
    assert [list(bar[:, 1]) for bar in bars] == [
        pytest.approx([100 * share * 9 / 11, 100 * share * 11 / 9]) for share in (0.3, 1.5)
    ]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"ideal: d²", "gather", "native"} < set(words)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.0, 0.0), "never below"),
        ((1.0, 1.0), "always below"),
        ((0.61, 0.62), "near 0.6"),
        ((0.0, 0.31), "0.3 at most"),
        ((0.71, 1.0), "0.7 at least"),
        ((0.2, 0.4), "0.2 to 0.4"),
    ],
)
def test_a_break_even_is_as_exact_as_the_clock(ends, words):
    assert cost._even(*ends) == words


def test_a_crossing_lies_on_a_straight_line_between_two_densities():
    assert crossing([0.2, 0.4, 0.8], [0.5, 0.9, 1.3]) == pytest.approx(0.5)
    assert crossing([0.2, 0.4], [1.0, 0.5]) == 0 and crossing([0.2, 0.4], [0.1, 0.9]) == 1


def test_winners_of_two_counts_the_differences():
    first = torch.tensor([[True, False, True, False], [True, True, False, False]])
    winners = {"first": first, "last": torch.ones(2, 3, dtype=torch.bool)}
    _, sentence = plots.winners_of_two(torch.rand(2, 1, 8, 8), winners, ["a", "b"])
    assert sentence.endswith("images only: 2 of 4 in first; 0 of 3 in last.")


def a_log():
    nan = float("nan")
    rows = [("plain", 2.0, 0.4, nan), ("plain", 0.5, 0.9, nan), ("d0.5", 0.6, 0.875, 0.5)]
    return [
        {"step": step, "loss": loss, "val_accuracy": right, "density": density}
        for step, loss, right, density in rows
    ]


def test_the_learning_curve_marks_the_steps_and_says_where_each_ends():
    figure, sentence = plots.learning_curve(a_log(), "title")
    assert sentence == (
        "3 epochs, loss from 2 to 0.6; validation accuracy at the end of each step: plain 90.0 %, "
        "d0.5 87.5 %."
    )
    top, middle, bottom = figure.axes
    assert list(top.lines[0].get_ydata()) == [2.0, 0.5, 0.6] and top.get_yscale() == "log"
    assert list(middle.lines[0].get_ydata()) == pytest.approx([40, 90, 87.5])
    assert list(bottom.lines[0].get_ydata())[2] == 0.5
    assert middle.lines[0].get_color() != bottom.lines[0].get_color()
    assert [text.get_text() for text in top.texts] == ["plain", "d0.5"]
    ends = [line.get_xdata()[0] for line in bottom.lines if len(set(line.get_xdata())) == 1]
    assert ends == [0.5, 2.5], "a line before the first epoch of each step"
    assert bottom.get_xlabel() == "epoch" and bottom.get_ylabel() == "density"
    assert "loss" in top.get_ylabel() and "%" in middle.get_ylabel()


def test_the_learning_curve_of_one_epoch_without_a_density():
    figure, sentence = plots.learning_curve(a_log()[:1])
    assert sentence == "1 epoch, loss 2; validation accuracy at the end 40.0 %."
    assert not figure.axes[0].texts, "one step needs no name"
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training loss",
        "validation accuracy (%)",
    ]


def test_accuracy_lines_say_the_median_at_half_density():
    lines = {"one": [[0.9, 0.5]], "three": [[0.8, 0.1], [0.8, 0.3], [0.9, 0.2]]}
    figure, sentence = plots.accuracy_lines([1.0, 0.5], lines)
    assert sentence == "Correct at density 0.5: one 50.0 %; three 20.0 %."
    first, second = figure.axes[0].lines
    assert first.get_marker() != second.get_marker()
    with pytest.raises(ValueError, match="shorter"):  # a fifth line would be lost
        plots.accuracy_lines([1.0, 0.5], lines | dict.fromkeys("abc", lines["one"]))


def test_class_heat_map_sorts_channels_and_counts_extremes():
    chances = torch.tensor([[1.0, 0.0, 0.9, 0.2], [1.0, 0.0, 0.1, 0.3]])
    figure, sentence = plots.class_heat_maps({"conv": chances}, range(2), "title")
    assert sentence == (
        "Of 4 channels 1 never win and 1 always win; for 1 the share differs by more than 0.5 "
        "between two classes."
    )
    axes = figure.axes[0]
    drawn = axes.collections[0].get_array().reshape(2, 4)
    assert drawn.mean(0).argsort().tolist() == [0, 1, 2, 3]
    assert axes.get_title() == "title" and axes.get_ylim() == (2, 0)
    assert "channels" in axes.get_xlabel() and axes.get_ylabel() == "class"


def test_depth_lines_stop_where_values_overflow():
    panels = {"p": {"tame": [1.0, 2.0, 3.0], "wild": [1.0, float("inf"), float("nan")]}}
    figure, sentence = plots.depth_lines(panels, "size")
    assert sentence == "p, size:\n  tame: 3 at the end\n  wild: not finite from block 2 on"
    assert figure.axes[0].get_yscale() == "log"


def test_networks_on_a_gpu_are_compared_with_the_faster_layout_and_grouped():
    row = {"network": "vgg16", "images": 32, "products": "tf32", "dense_nchw": 400.0}
    row |= {"dense_nhwc": 200.0, "accelerated 1.0": 180.0}
    row |= {"accelerated 0.5": 100.0, "accelerated 0.25": 60.0}
    other = {**row, "network": "mcifarnet", "images": 1, "products": "fp16"}
    other |= {"accelerated 0.5": 90.0}
    slow = {**other, "products": "fp32", "accelerated 0.5": 300.0}
    results = {"rows": [slow, row, other], "machine": "a GPU, a driver", "date": "today"}
    figure, sentence = plots.networks_on_gpu(results)
    assert (
        "M-CifarNet, 1 image, float16 30, 45, 90; M-CifarNet, 1 image, float32 30, 150, 90; "
        "VGG-16, 32 images, TF32 30, 50, 90." in sentence
    )
    assert sentence.endswith("\na GPU, today.")
    assert "Percent of the time at d = 1: d = 0.25: 33 to 33; d = 0.5: 50 to 167." in sentence
    axes, own = figure.axes
    heads = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert heads == ["M-CifarNet", "VGG-16"]
    names = [(tick, label.get_text()) for tick, label in
             zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)]  # fmt: skip
    assert names == [(1, "1 image, float16"), (2, "1 image, float32"), (4, "32 images, TF32")]
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == [[1, 2, 4]] * 3
    assert axes.get_title() == "Faster than dense, of 3: 2 at d = 0.5, 3 at d = 0.25"
    assert own.get_title() == "Faster than itself at d = 1, of 3: 2 at d = 0.5, 3 at d = 0.25"
    assert len({line.get_marker() for line in axes.lines[:3]}) == 3
    assert "best dense" in axes.get_xlabel() and "at d = 1" in own.get_xlabel()


def test_layers_that_were_measured_alone_are_those_of_the_networks():
    """3×3, at stride 1, as many inputs as outputs, all of them another layer's winners."""
    shapes = {}
    for name in MEASURED:
        found = shapes.setdefault(name, [])
        network = NETWORKS[name].make(1.0).eval()
        for path, module in network.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda conv, x, y, path=path, found=found: found.append((path, conv, y.shape))
                )
        with torch.no_grad():
            network(torch.zeros(1, 3, 224, 224))
    for name, (total, counts) in MEASURED.items():
        assert len(shapes[name]) == total
        same = [
            (conv.out_channels, shape[2])
            for path, conv, shape in shapes[name]
            if conv.in_channels == conv.out_channels
            and conv.stride == (1, 1)
            and (name == "vgg16" or path.endswith("conv2"))  # others of a ResNet read a sum
        ]
        assert Counter(same) == counts


def test_what_is_not_measured_alone_is_all_else_of_a_network():
    figure, sentence = plots.layers_in_networks(stored("networks"), stored("layers"))
    assert (
        "ResNet-18: 8 of 20 convolutions were measured alone. They take 766 µs plain and 655 in "
        "three launches, all else 1,932 and 2,944." in sentence
    )
    (axes,) = figure.axes
    assert axes.get_title() == (
        "All else takes 0.74 times as long in VGG-16 and 1.52 times as long in ResNet-18"
    )
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[4] + widths[5] == pytest.approx(2697.28)  # the plain ResNet-18
    assert widths[6] + widths[7] == pytest.approx(3599.55)


def one_layer(**times):
    layer = {"products": "tf32", "channels": 64, "side": 7}
    made = {"machine": "a GPU, a driver", "date": "today"}
    rows = [
        {**layer, "products": products, "density": d, "single": us, "narrow": 20.0}
        for products in ("fp32", "tf32", "bf16")
        for d, us in ((0.25, 10.0), (0.5, 150.0), (1.0, 300.0))
    ]
    half = {**layer, "density": 0.5, **times}
    quarter, other = {**half, "density": 0.25}, {**half, "products": "bf16", "total": 1}
    prototype = {**made, "made by": "a prototype", "rows": [half, other, quarter]}
    return {**made, "made by": "me (commit abc123)", "rows": rows}, {"prototype": prototype}


def test_bytes_name_the_faster_way_where_the_clock_agrees():
    single, layers = one_layer(total=100.0, dense_pytorch=50.0)
    for bytes_copied, right in (1.5, 1), (4.0, 0):
        ways = {"scattered": (2.0,), "copied": (0.5, bytes_copied - 0.5)}
        figure, sentence = plots.count_and_clock(single, layers, lambda *sizes, ways=ways: ways)
        assert f"64 ch, 7×7: {2 / bytes_copied:.1f} and 1.5." in sentence
        assert f"in {right} of 1 layers" in figure.axes[0].get_title()
        assert sentence.endswith("\na GPU, today; kernels older than this package's.")
        assert {"by bytes", "by clock"} <= {text.get_text() for text in figure.axes[0].texts}


def test_bytes_are_counted_again_in_smaller_tiles():
    def count(density, channels, side, pixels):
        return {"scattered": (2.0,), "copied": (1.0 if pixels == 64 else 4.0,)}

    figure, sentence = plots.count_and_clock(*one_layer(total=100.0, dense_pytorch=50.0), count)
    assert sentence.splitlines()[0].endswith("in tiles of 64 pixels instead of 128: 2.0.")
    assert "in 0 of 1 layers, or in 1 with smaller tiles" in figure.axes[0].get_title()
    assert "in tiles of 64 pixels" in {text.get_text() for text in figure.axes[0].texts}


def test_the_one_kernel_is_compared_with_itself_where_it_has_no_lists():
    figure, sentence = plots.one_kernel(*one_layer(total=40.0, dense_pytorch=100.0))
    (axes,) = figure.axes
    assert axes.get_title().endswith("in 0 of 3 cases")
    points = [list(line.get_xdata()) for line in axes.lines if line.get_marker() in "so^"]
    assert points == [[0.5]] * 3
    assert {"TF32", "float32", "bfloat16"} <= {text.get_text() for text in axes.texts}
    assert "TF32 0.50 to 0.50; bfloat16 0.50 to 0.50." in sentence
    assert "the time falls to 7 to 7 % in bfloat16; the MACs fall to 25 %." in sentence


def test_both_ways_stand_beside_dense_and_the_narrow_layer_each_with_its_name():
    figure, sentence = plots.both_ways(*one_layer(total=40.0, dense_pytorch=100.0))
    (axes,) = figure.axes
    points = {line.get_marker(): list(line.get_xdata()) for line in axes.lines}
    assert points["v"] == [1.5] and points["D"] == [0.4] and points["|"] == [0.2]
    assert {"narrow", "copy first", "look up"} <= {text.get_text() for text in axes.texts}
    title = "Copying first beats looking up in 1 of 1; a narrow layer beats it in 1"
    assert axes.get_title() == title
    assert (
        "in 1 of 1 layers at d = 0.5 and in 0 of 1 at d = 0.25, and dense in 1 and 1." in sentence
    )
    assert "Copying first takes 2.0 to 2.0 times as long." in sentence


def test_tiles_are_compared_with_the_fastest_of_each_layer():
    large, small = (same_layer(1, 64, side, 0.5) for side in (30, 7))
    times = {large: {(64, 64): 100.0, (128, 64): 109.0}, small: {(64, 64): 40.0, (128, 64): 80.0}}
    figure, sentence = plots.tiles_on_gpu(times)
    assert sentence == "Within 10 % of the fastest tile, of 2 layers: 64×64 in 2, 128×64 in 1."
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1, 1], [1.09, 2]]


def test_stages_add_up_to_the_three_launches():
    layers = stored("layers")
    figure, sentence = plots.stages_on_gpu(layers)
    assert "in 9 of 12: TF32, d = 0.5" in figure.axes[0].get_title()
    assert "30 to 256 % of the plain layer's time." in sentence
    labels = figure.axes[0].get_yticklabels()
    bold = [label.get_text() for label in labels if label.get_weight() == "bold"]
    assert bold == [f"ResNet-18: {size}, 64 images" for size in
                    ("64 ch, 56×56", "128 ch, 28×28", "256 ch, 14×14", "512 ch, 7×7")]  # fmt: skip
    select, gather, convolve = figure.axes[0].containers
    row = next(r for r in layers["rows"] if (r["products"], r["side"]) == ("tf32", 7))
    last = select[-1], gather[-1], convolve[-1]
    shares = row["select"], row["gather"], min(row["convolve"].values())
    for bar, share in zip(last, shares, strict=True):
        assert bar.get_width() == pytest.approx(share / row["dense_pytorch"])
    assert convolve[-1].get_x() == pytest.approx(sum(shares[:2]) / row["dense_pytorch"])


def test_a_layers_roofline_says_the_rule_and_what_was_measured():
    rows = stored("layers")
    figure, sentence = plots.layer_roofline(512, 7, 64, "tf32", 0.5, rows)
    assert sentence.endswith(  # with the selection
        "the rule takes dense and masked. Measured: three launches 157, dense and masked 94, "
        "plain dense 61 µs."
    )
    left, right = figure.axes
    assert "byte" in left.get_xlabel() and right.get_ylabel() == "microseconds"
    assert right.get_xlim()[0] < right.get_xlim()[1]  # from sparse to dense, as elsewhere
    points = [line for line in right.lines if line.get_marker() in "Dos" and len(line.get_xdata())]
    assert all(list(line.get_xdata()) == [0.5, 0.25] for line in points) and len(points) == 3
    sentence = plots.layer_roofline(512, 7, 64, "tf32", 0.25, rows)[1]
    assert "takes three launches. Measured: three launches 65," in sentence
    sentence = plots.layer_roofline(64, 7, 1, "bf16", 0.3, rows)[1]
    assert "Measured" not in sentence and sentence.endswith("the rule takes three launches.")


def test_plain_dense_is_the_same_at_every_density_and_selection_is_counted():
    layers = stored("layers")
    rows = layers["rows"]
    right = plots.layer_roofline(128, 28, 64, "tf32", 0.5, layers)[0].axes[1]
    lines = {line.get_label(): line.get_ydata() for line in right.lines}
    assert set(lines["plain dense"]) == {88.05}  # measured
    wide = plots.layer_roofline(192, 28, 64, "tf32", 0.5, layers)
    lines = {line.get_label(): line.get_ydata() for line in wide[0].axes[1].lines}
    assert np.ptp(lines["plain dense"]) == 0 and "plain dense" in wide[1]
    layer = same_layer(64, 128, 28, 0.5)
    selection = three_launches_time(layer, "tf32", rows) - skip_time(layer, "tf32", True, H100)
    assert selection == pytest.approx(selection_time(128, rows))
    assert (
        selection_time(64, rows) < selection < selection_time(160, rows) < selection_time(192, rows)
    )


def test_a_roofline_shows_the_data_sheet_and_the_narrow_layer_where_it_was_measured():
    layers, narrow = stored("layers"), stored("single_kernel")["rows"]
    assert GPUS.keys() == SHEETS.keys()
    for products, sheet in ("fp32", 67), ("tf32", 495), ("bf16", 989):
        figure, sentence = plots.layer_roofline(128, 56, 128, products, 0.5, layers, narrow)
        fitted, promised = (max(line.get_ydata()) for line in figure.axes[0].lines[:2])
        assert fitted == pytest.approx(2 * H100.own[products]) and fitted < promised == sheet
        low, high = figure.axes[0].get_ylim()
        dots = figure.axes[0].lines[2].get_ydata()
        assert low < min(dots) and max(dots) < high
        (thin,) = (line for line in figure.axes[1].lines if line.get_marker() == "v")
        wanted = {r["density"]: r["narrow"] for r in narrow if r["density"] < 1
                  and (r["products"], r["channels"], r["side"]) == (products, 128, 56)}  # fmt: skip
        assert dict(zip(*thin.get_data(), strict=True)) == wanted
        assert f"Measured at d = 0.5: a narrow layer {wanted[0.5]:.0f} µs." in sentence
    assert "narrow" not in plots.layer_roofline(128, 28, 64, "tf32", 0.5, layers, narrow)[1]


def test_rates_of_other_gpus_are_the_h100s_in_the_proportion_of_the_data_sheets():
    for capability, sheet in SHEETS.items():
        gpu, best = GPUS[capability], SHEETS[9, 0]
        assert gpu.memory / H100.memory == pytest.approx(sheet.memory / best.memory)
        assert gpu.own["fp32"] / H100.own["fp32"] == pytest.approx(sheet.fp32 / best.fp32)
        assert gpu.dense["bf16"] / H100.dense["bf16"] == pytest.approx(sheet.half / best.half)


def test_every_image_with_weights_of_its_own_lowers_the_intensity():
    layer = same_layer(64, 128, 14, 0.5)
    dense, skipping = (intensity(layer, "tf32", skips) for skips in (False, True))
    maps, weights = 64 * 196 * 128 * 2, 9 * 64 * 64 * 64
    assert skipping == pytest.approx(2 * 64 * 196 * 9 * 64 * 64 / 4 / (maps / 2 + weights))
    assert intensity(layer, "bf16", True) == pytest.approx(2 * skipping)
    assert dense > 2 * skipping


def test_a_benchmark_of_ones_own_is_drawn_like_the_stored_one():
    kinds = {"dense": 9.0, "dense folded": 8.0, "dense channels_last": 7.0, "masked": 99.0}
    variants = [{"variant": k, "density": None, "median_ms": ms} for k, ms in kinds.items()]
    variants += [
        {"variant": "accelerated", "density": d, "median_ms": ms}
        for d, ms in ((0.5, 3.5), (0.25, 2))
    ]
    row = {"name": "tiny", "kind": "network", "batch": 8, "precision": "tf32", "variants": variants}
    row |= {"dense_best": "dense channels_last"}
    facts = {"device": "a GPU", "date": "today", "versions": {"torch": "3"}}
    results = {"machine": facts, "command": "me", "rows": [{**row, "kind": "layer"}, row]}
    mine = as_stored(results)
    assert mine["rows"] == [
        {"network": "tiny", "images": 8, "products": "tf32", "dense": "dense channels_last"}
        | {
            "dense_nchw": 8000,
            "dense_nhwc": 7000,
            "accelerated 0.5": 3500,
            "accelerated 0.25": 2000,
        }
    ]
    sentence = plots.networks_on_gpu(mine)[1]
    assert "at d = 0.25, 0.5: tiny, 8 images, TF32 29, 50." in sentence
    assert sentence.endswith("\na GPU, today.")
    with pytest.raises(ValueError, match="a whole network, got none"):
        as_stored({**results, "rows": results["rows"][:1]})


@pytest.mark.parametrize("name", ["networks", "layers", "single_kernel"])
def test_stored_results_say_where_they_come_from(name):
    results = stored(name)
    assert "H100" in results["machine"] and "torch" in results["machine"]
    assert results["date"] and results["made by"] and "microseconds" in results["unit"]
    assert results["rows"]


def test_results_that_are_not_stored_are_refused():
    with pytest.raises(ValueError, match=r"name must be one of layers, networks, .*, got 'h200'"):
        stored("h200")


def test_class_heat_maps_count_the_channels_that_depend_on_the_class():
    layers = {
        "conv1": torch.tensor([[0, 100, 40], [100, 100, 60]]) / 100,
        "conv2": torch.tensor([[10, 90, 20, 83], [20, 20, 30, 33]]) / 100,  # the last: 0.5 exactly
        "conv3": torch.zeros(2, 5),
    }
    figure, sentence = plots.class_heat_maps(layers, ["cat", "dog"], "title")
    assert sentence == (
        "Channels whose share differs by more than 50 points between two classes: "
        "1 of 3 in conv1, 1 of 4 in conv2, 0 of 5 in conv3."
    )
    first, colours = figure.axes[0], figure.axes[-1]
    assert [text.get_text() for text in first.get_yticklabels()] == ["cat", "dog"]
    drawn = first.collections[0].get_array().reshape(2, 3).tolist()
    least_used_first = torch.tensor([[0, 0.4, 1], [1, 0.6, 1]]).tolist()
    assert drawn == least_used_first
    assert first.get_title() == "conv1: 3 channels"
    assert "share" in colours.get_ylabel()
    assert [axes.get_visible() for axes in figure.axes[:4]] == [True, True, True, False]


def test_layer_shares_say_the_range_of_each_kind():
    figure, sentence = plots.layer_shares(
        ["a", "b", "c"],
        ["in a block", "after a sum", "after a sum"],
        [0.25, 0.4, 0.444],
        [0.24, 0.39, 0.44],
        level=0.25,
    )
    assert sentence == "MACs left by gates: in a block 25 %; after a sum 40 to 44 %."
    bars = {c.get_label(): c for c in figure.axes[0].containers}
    assert [bar.get_width() for bar in bars["after a sum"]] == pytest.approx([40, 44.4])
    assert len({(c[0].get_facecolor(), c[0].get_hatch()) for c in bars.values()}) == 2
    assert "%" in figure.axes[0].get_xlabel()


def test_accuracy_over_macs_has_a_look_for_each_kind_and_marks_what_is_published():
    lines = {
        "plain": [{"macs": 160e6, "test_accuracy": 0.93}],
        "small": [{"macs": m * 1e6, "test_accuracy": a} for m, a in ((10, 0.8), (45, 0.9))],
    }
    paper = {"paper": [{"macs": 44e6, "test_accuracy": 0.906}]}
    figure, sentence = plots.accuracy_over_macs(lines, paper, "title")
    assert sentence == (
        "Nearest to a quarter of the MACs: plain 93.0 % at 160 M; small 90.0 % at 45 M; "
        "published: paper 90.6 % at 44 M."
    )
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == ["plain", "small", "published: paper"]
    assert list(drawn["small"].get_xdata()) == [10e6, 45e6]
    assert list(drawn["small"].get_ydata()) == pytest.approx([80, 90])
    assert drawn["published: paper"].get_markerfacecolor() == "white"
    assert len({(x.get_color(), x.get_marker()) for x in drawn.values()}) == 3
    assert axes.get_xscale() == "log" and axes.get_title() == "title"
    assert "MACs" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_xticklabels()][:1] == ["10 M"]
    assert plots.accuracy_over_macs(lines)[1].endswith("small 90.0 % at 45 M.")
    figure, _ = plots.accuracy_over_macs(lines, images=100)
    low, high = figure.axes[0].collections[0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((93 - 2.551, 93 + 2.551), abs=1e-3)


def test_points_on_each_other_are_moved_apart_in_the_picture_alone():
    lines = {
        "one": [{"macs": 44e6, "test_accuracy": 0.9227}, {"macs": 80e6, "test_accuracy": 0.93}],
        "other": [{"macs": 44.1e6, "test_accuracy": 0.9228}],
    }
    figure, sentence = plots.accuracy_over_macs(lines)
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert drawn == {"one": pytest.approx([42.68e6, 80e6]), "other": pytest.approx([45.423e6])}
    assert "one 92.3 % at 44 M" in sentence and lines["one"][0]["macs"] == 44e6
    assert sentence.endswith("Two that lie on each other are drawn a little apart.")


def test_words_at_lines_hide_no_marker_and_no_other_words():
    lines = {
        "two on": [{"macs": 40e6, "test_accuracy": 0.9}],
        "one another": [{"macs": 40e6, "test_accuracy": 0.9005}],
        "a line": [{"macs": m * 1e6, "test_accuracy": a} for m, a in ((10, 0.8), (45, 0.9))],
        "far off": [{"macs": 160e6, "test_accuracy": 0.93}],
    }
    figure, _ = plots.accuracy_over_macs(lines)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert axes.get_legend() is None and [text.get_text() for text in axes.texts] == [*lines]
    boxes = [text.get_window_extent() for text in axes.texts]
    points = [axes.transData.transform(p) for line in axes.lines for p in line.get_xydata()]
    for box in boxes:
        assert box.count_overlaps(boxes) == 1  # itself
        assert not any(box.contains(*point) for point in points)
        assert axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)


def test_at_density_says_all_that_it_shows():
    times = {"dense": Timing.of([0.004]), "accelerated": Timing.of([0.001])}
    macs = {"by gates": 0.25, "by zeros": 0.2}
    pictures = torch.rand(2, 3, 4, 4), ["cat", "dog"]
    figure, sentence = plots.at_density(0.5, {1.0: 0.9, 0.5: 0.85}, macs, times, *pictures)
    assert sentence == (
        "d = 0.5: right on 85.0 % of the test set; MACs 25.0 % by gates, 20.0 % by zeros; "
        "accelerated 1 ms, 25 % of dense."
    )
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == [
        "accuracy (%)",
        "MACs (% of dense)",
        "milliseconds",
    ]
    _, sentence = plots.at_density(0.5, {0.5: 0.85}, macs, times, *pictures, here=0.8)
    assert "right on 85.0 % of the test set; on 80.0 % of the images here;" in sentence


def test_accuracy_over_cost_draws_the_same_networks_twice_and_says_the_best():
    results = result("budget-cifar10")
    figure, sentence = plots.accuracy_over_cost(results, "title")
    counted, timed = figure.axes
    assert counted.get_xlabel().startswith("million MACs") and "milli" in timed.get_xlabel()
    for left, right in zip(counted.lines, timed.lines, strict=True):
        assert left.get_label() == right.get_label()
        assert sorted(left.get_ydata()) == sorted(right.get_ydata())
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in counted.lines}) == 6
    plain = next(look for look in results["looks"] if look["name"] == "plain")
    assert f"the plain network: {100 * plain['test']['accuracy']:.2f} %" in sentence
    small = next(line for line in counted.lines if line.get_label().startswith("small plain"))
    assert len(small.get_xdata()) == 3  # of two networks of one size the better on validation
    named = [text.get_text() for text in counted.texts if text.get_text()[0].isdigit()]
    assert sorted(named) == ["0.3", "0.3", "0.5", "0.5", "0.7", "0.7"]  # two in one place, once
    assert not [text for text in timed.texts if text.get_text()[0].isdigit()]


def test_accuracy_over_cost_wants_times():
    untimed = {key: value for key, value in result("budget-cifar10").items() if key != "clock"}
    with pytest.raises(ValueError, match="results must hold a clock"):
        plots.accuracy_over_cost(untimed)


@pytest.mark.parametrize("cost", ["ms", "macs"])
def test_affordable_keeps_within_the_budget_and_lets_validation_images_choose(cost):
    results = result("budget-cifar10")
    figure, sentence = plots.affordable(results, 0.5, cost)
    (axes,) = figure.axes
    shown = [line for line in axes.lines if line.get_label()[0] == "_"]
    assert len(shown) == 5 and "nothing costs so little" in axes.texts[0].get_text()
    groups = answer._groups(results)
    limit = 0.5 * groups[answer.FULL][0][cost]
    for line in shown:
        name = list(answer.COST_LOOKS)[int(line.get_ydata()[0])]
        better = [p for p in groups[name] if p["accuracy"] > line.get_xdata()[0]]
        best = next(p for p in groups[name] if p["accuracy"] == line.get_xdata()[0])
        assert best[cost] <= limit
        assert all(p[cost] > limit or p["validation"] <= best["validation"] for p in better)
    assert f"{max(line.get_xdata()[0] for line in shown):.2f} %" in sentence


def test_affordable_says_when_nothing_costs_so_little():
    figure, sentence = plots.affordable(result("budget-cifar10"), 0.01)
    assert sentence.endswith("no network costs so little.") and len(figure.axes[0].texts) == 6
    plain, _ = plots.affordable(result("budget-cifar10"), 1.0)
    assert plain.axes[0].texts[0].get_text().startswith("92.97 %")


def test_three_counts_say_the_middle_and_the_end():
    counts = {"by gates": [0.25, 1.0], "by zeros": [0.2, 0.5], "executed": [1.003, 1.003]}
    figure, sentence = plots.three_counts([0.5, 1.0], counts)
    assert sentence == (
        "At d = 0.5 and d = 1: by gates 25.0 % and 100.0 %; by zeros 20.0 % and 50.0 %; "
        "executed 100.3 % and 100.3 %."
    )
    assert len(figure.axes[0].lines) == 3
    more, _ = plots.three_counts([0.5, 1.0], {**counts, "really": [1.0, 1.0]})
    assert [line.get_marker() for line in more.axes[0].lines] == ["o", "s", "v", "x"]
    assert {text.get_text() for text in more.axes[0].texts} == {*counts, "really"}


def test_what_is_left_above_the_square_is_said_in_percent_of_it():
    figure, sentence = plots.above_the_square({0.1: 0.012, 1.0: 1.0}, 0.001, "more")
    assert sentence == (
        "Above d², and the predictors: d = 0.1: 20.0 % and 10.0 %; d = 1: 0.0 % and 0.1 %."
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["30.0 %", "0.1 %"]


def test_a_published_number_agrees_within_half_of_its_last_digit():
    counted = {"up": {0.3: 0.17, 1.0: 1.744}, "down": {0.3: 0.164, 1.0: 1.735}}
    figure, sentence = plots.published_and_counted({0.3: 0.16, 1.0: 1.74}, counted, "rounding")
    assert "up: 1 of 2 rows agree, at d = 1; down: 2 of 2 rows agree, at d = 0.3, 1." in sentence
    assert figure.axes[0].get_title() == "rounding"
