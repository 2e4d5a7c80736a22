"""The toy GPU that notebook 10 times, and the diagrams of notebooks 09 and 10."""

import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch

from fbs_tutorial.bench.stored import stored
from fbs_tutorial.execution.roofline import H100, skip_time, skipping_is_faster
from fbs_tutorial.lesson import diagrams, plots, ptx
from fbs_tutorial.lesson.diagrams import draw, gpu
from fbs_tutorial.lesson.held_out import fitted, held_out, modelled
from fbs_tutorial.lesson.plots.gpu import plain_time, same_layer, three_launches_time
from fbs_tutorial.lesson.plots.style import BLUE, PALE
from fbs_tutorial.lesson.ptx import counted, loads
from fbs_tutorial.lesson.toy_gpu import COMPILING, WAKING, ToyGpu, ToyLayer

try:
    import triton.language as tl
except ImportError:
    tl = None


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_call_on_the_toy_returns_before_its_work_is_done():
    toy = ToyGpu(cost=10)
    for microseconds in 4, 30, 2:
        toy.launch("kernel", microseconds)
    # 10 to 14, 20 to 50, 50 to 52
    assert (toy.now, toy.free) == (30, 52)
    assert [entry[2:] for entry in toy.log] == [(10, 14), (20, 50), (50, 52)]
    toy.wait()
    assert toy.now == 52 + WAKING


def test_events_are_read_after_waiting_and_measure_the_gpu_alone():
    toy = ToyGpu(cost=10)
    toy.launch("before", 100)
    start = toy.record()
    toy.launch("kernel", 30)
    end = toy.record()
    with pytest.raises(RuntimeError, match=r"gpu.wait\(\) first"):
        toy.elapsed(start, end)
    toy.wait()
    assert toy.elapsed(start, end) == 30


def test_first_calls_of_a_layer_are_slow_and_later_ones_interrupted_or_hastened():
    toy = ToyGpu(cost=0)
    layer, times = ToyLayer(toy, (1, 2, 7)), []
    for _ in range(10):
        start = toy.record()
        layer()
        times.append(toy.record().time - start.time)
    assert times == [COMPILING + 25, 25, 25, 10, 30, 10, 10, 10, 7.5, 30]
    assert min(times) < sorted(times[3:])[3] < sum(times[3:]) / 7  # fastest, median, mean differ


KERNELS = [("select", 4.0), ("gather", 30.0), ("convolve", 2.0)]
CHANNELS, WINNERS = torch.arange(0, 16, 2), torch.arange(1, 24, 2)
PICTURES = {
    "timeline": (KERNELS, 10.0),
    "three_clocks": ([("select", 30.0), ("gather", 50.0), ("convolve", 120.0)], 7.7, 30.0),
    "nine_taps": (),
    "program_tiles": (64, 12, (32, 16)),
    "rows_of_a_copy": (5, 11, 12, (8, 16)),
    "own_weights": (CHANNELS, WINNERS, (16, 24), (64, 32, 16)),
    "loads_of_a_row": ([0, 3, 4, 6, 9, 10, 13, 15], 16),
    "bytes_per_image": (0.5, 128, 56, {"dense": 600.0, "scattered": 1500.0, "copied": 1.0}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_words_of_the_diagrams_are_legible(name):
    figure, sentence = getattr(diagrams, name)(*PICTURES[name])
    assert draw.collisions(figure) == [] and sentence.endswith(".")


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(("channels", "side"), [(64, 7), (128, 112), (512, 56)])
def test_bytes_are_legible_wherever_the_slider_is(channels, side, density):
    assert draw.collisions(diagrams.bytes_per_image(density, channels, side)[0]) == []


def test_a_timeline_waits_for_launches_and_for_the_kernel_before():
    figure, sentence = diagrams.timeline(KERNELS, 10.0)
    # select 10 to 14, gather 20 to 50, convolve 50 to 52; as a graph 10 + 36
    assert sentence == (
        "One by one: 52 µs, of which the GPU works 36 and waits 16. As a graph: 46 µs."
    )
    unit = 80 / 52
    gather = [box for box in figure.axes[0].patches if box.get_width() == pytest.approx(30 * unit)]
    assert [(round((b.get_x() - 15) / unit), b.get_y()) for b in gather] == [(20, 12), (14, 28)]


def test_three_clocks_read_what_the_toy_shows():
    toy = ToyGpu(10.0)
    start = toy.record()
    for kernel in KERNELS:
        toy.launch(*kernel)
    at_once, end = toy.now, toy.record()
    toy.wait()
    sentence = diagrams.three_clocks(KERNELS, 10.0, WAKING)[1]
    assert "The GPU works 36 µs." in sentence
    for reading in at_once, toy.now, toy.elapsed(start, end):
        assert f" {reading:.1f}" in sentence


def test_a_copy_has_weights_zeros_at_the_end_of_rows_and_nothing_more():
    figure, sentence = diagrams.rows_of_a_copy(5, 11, 12, (8, 16))
    shades = [plt.matplotlib.colors.to_hex(box.get_facecolor()) for box in figure.axes[0].patches]
    shades = shades[: 8 * 16]
    assert shades.count(BLUE.lower()) == 5 * 11 and shades.count(PALE.lower()) == 5
    assert "55 of them are weights, 5 are zeros" in sentence
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count("0") == 5 and not any("<" in word for word in words)  # not the answer


def test_programs_are_counted_and_so_are_the_times_that_weights_travel():
    sentence = diagrams.program_tiles(100, 40, (32, 16))[1]
    assert "12 programs" in sentence and "anew, 4 times in all" in sentence
    sentence = diagrams.own_weights(CHANNELS, WINNERS, (16, 24), (64, 32, 8))[1]
    assert sentence == (
        "Of 24 × 16 kernels (rows are outputs) one image needs 12 × 8, 25 %. They are copied once, "
        "and each of 4 programs reads its columns of the copy."
    )
    sentence = diagrams.own_weights(CHANNELS, WINNERS, (16, 24), (64, 32, 16))[1]
    assert sentence.endswith("and each of 2 programs reads all of the copy.")


def test_a_load_for_each_weight_of_a_list_and_one_for_its_neighbours():
    winners = [0, 3, 4, 6, 9, 10, 13, 15]
    figure, sentence = diagrams.loads_of_a_row(winners, 16)
    boxes = figure.axes[0].patches
    shades = [plt.matplotlib.colors.to_hex(box.get_facecolor()) for box in boxes]
    assert shades.count(BLUE.lower()) == 8 and "a single load of 16 bytes" in sentence
    row = [box for box in boxes if isinstance(box, plt.Rectangle) and box.get_y() == 18][:16]
    found = [plt.matplotlib.colors.to_hex(box.get_facecolor()) for box in row]
    assert [i for i, shade in enumerate(found) if shade != PALE.lower()] == winners


def test_the_share_of_sectors_is_that_of_random_winners():
    wins = torch.rand(4000, 64).argsort(1) < 16
    drawn = wins.view(4000, 8, 8).any(2).double().mean().item()
    assert gpu.sector_share(64, 16) == pytest.approx(drawn, abs=0.01)
    assert gpu.sector_share(64, 64) == 1 and gpu.sector_share(64, 60) == 1


def test_the_copy_is_worth_its_bytes_on_large_maps_alone():
    large, small = (gpu.weight_traffic(0.5, 128, side, 128) for side in (56, 7))
    assert sum(large["copied"]) < 0.6 * sum(large["scattered"])
    assert sum(small["copied"]) > sum(small["scattered"])
    reads = large["copied"][1]
    assert reads == pytest.approx(25 * 9 * 64 * 64 * 4 / 1e6)
    assert large["dense"] == pytest.approx((24.5 * 9 * 128 * 128 * 4 / 1e6,))
    assert small["dense"] == pytest.approx((49 / 128 * 9 * 128 * 128 * 4 / 1e6,))


def test_weights_come_from_memory_once_and_copies_only_where_the_cache_is_too_small():
    fits, spills = (gpu.from_memory(0.5, channels, 128) for channels in (128, 512))
    assert set(fits.values()) == {9 * 128 * 128 * 4 / 1e6 / 128}
    assert spills["copied"] == pytest.approx(spills["dense"] + 2 * 9 * 256 * 256 * 4 / 1e6)
    assert gpu.from_memory(0.5, 512, 16)["copied"] == gpu.from_memory(0.5, 512, 16)["dense"]


def test_what_was_measured_stands_beside_the_bytes():
    found = plots.clocks(stored("single_kernel"), stored("layers"), 0.5000000001, 128, 56)
    assert found == {"dense": 627.17, "scattered": 544.34, "copied": 252.71}
    sentence = diagrams.bytes_per_image(0.5, 128, 56, found)[1]
    assert "took 544 and 253 µs" in sentence and "took 627." in sentence
    assert plots.clocks(stored("single_kernel"), stored("layers"), 0.3, 128, 56) is None
    figure, sentence = diagrams.bytes_per_image(0.3, 128, 56, None)
    assert "took" not in sentence
    assert "not measured" in [text.get_text() for text in figure.axes[0].texts]


def test_the_rule_answers_as_notebook_10_says():
    def wins(density, products):
        layer, rows = same_layer(64, 512, 7, density), stored("layers")["rows"]
        three = three_launches_time(layer, products, rows)
        return skipping_is_faster(layer, products, True), three < plain_time(layer, products)

    assert [wins(0.5, "tf32")[0], wins(0.25, "tf32")[0]] == [False, True]
    assert all(all(wins(density, "fp32")) for density in (0.5, 0.25))
    narrow = next(r["narrow"] for r in stored("single_kernel")["rows"]
                  if (r["products"], r["channels"], r["side"], r["density"])
                  == ("tf32", 128, 56, 0.5))  # fmt: skip
    model = three_launches_time(same_layer(128, 128, 56, 0.5), "tf32", stored("layers")["rows"])
    assert model == pytest.approx(narrow, rel=0.03)  # a draw


def test_the_first_numbers_of_notebook_09_are_the_stored_ones():
    rows = stored("networks")["rows"]
    (row,) = (r for r in rows if (r["network"], r["products"]) == ("mcifarnet", "fp32"))
    assert row["images"] == 256
    dense = min(row["dense_nchw"], row["dense_nhwc"])
    shares = [round(100 * row[f"accelerated {d}"] / dense) for d in (0.5, 1.0)]
    assert shares == [41, 100]


def test_loads_in_a_compiled_program_are_counted_by_kind_and_bytes():
    program = """
    @%p1 cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
    cp.async.ca.shared.global [ %r3 + 0 ], [ %rd2 + 0 ], 0x4, %r4;
    cp.async.ca.shared.global [ %r5 + 0 ], [ %rd3 + 0 ], 0x4;
    @%p2 ld.global.b16 { %rs1 }, [ %rd4 + 0 ];
    ld.global.v4.b32 { %r6, %r7, %r8, %r9 }, [ %rd5 + 0 ];
    ld.param.b64 %rd6, [kernel_param_0];
    """
    assert counted(program) == {
        "cp.async 4 B": 2, "cp.async 16 B": 1, "ld 2 B": 1, "ld 16 B": 1
    }  # fmt: skip


def copied(x, winners, y, k, BLOCK: "constexpr", LISTS: "constexpr"):  # noqa: F821, N803
    j = tl.arange(0, BLOCK)
    place = tl.load(winners + j, mask=j < k, other=0) if LISTS else j
    tl.store(y + j, tl.load(x + place, mask=j < k, other=0.0), mask=j < k)


def test_numbers_from_a_list_are_loaded_one_by_one():
    pytest.importorskip("triton")
    types = {"x": "*bf16", "y": "*bf16", "winners": "*i64"}
    sizes = {"BLOCK": 1024}
    with_lists, without = (loads(copied, types, LISTS=lists, **sizes) for lists in (True, False))
    assert with_lists["ld 2 B"] == 8 and "ld 2 B" not in without
    assert without["ld 16 B"] == 1


def made_by(gpu, sizes):
    """Rows that the model explains exactly, with a selection of 4 microseconds."""
    rows = []
    for images, channels, side in sizes:
        for products in ("fp32", "tf32"):
            layer = same_layer(images, channels, side, 0.5)
            skip = skip_time(layer, products, True, gpu)
            row = {"images": images, "channels": channels, "side": side, "density": 0.5}
            row |= {"products": products, "select": 4.0, "gather": 1.0, "spread": 1.0}
            row |= {"convolve": {"tile": skip - 1.0}, "dense_and_mask": 9.0, "dense_pytorch": 30.0}
            rows.append(row)
    return rows


def test_rates_are_found_again_and_layers_that_were_held_out_are_predicted():
    sizes = [(32, 128, 28), (64, 64, 56), (32, 256, 14), (64, 128, 7)]
    rows = made_by(H100, sizes)
    gpu = fitted(rows)
    assert all(modelled(row, gpu, 4.0) == pytest.approx(1, abs=0.1) for row in rows)
    found = held_out(rows)
    assert len(found) == 8 and all(abs(x - 1) < 0.3 for pair in found for x in pair)
    odd = [*rows[:6], *({**row, "convolve": {"tile": 900.0}} for row in rows[6:])]
    assert all(without < 0.7 for _, without in held_out(odd)[6:])  # it has not seen them


def test_misses_say_how_far_and_how_often_the_faster_way_is_named():
    rows = made_by(H100, [(32, 128, 28), (64, 64, 56)])
    figure, sentence = plots.misses(
        {"rows": rows}, [(1.0, 1.1), (0.9, 1.0), (1.1, 2.0), (1.0, 1.0)]
    )
    (axes,) = figure.axes
    assert axes.get_title() == "Held out, the model misses by 10 % at the median, 100 % at most"
    assert "4 measurements of 2 layers" in sentence and "up to 1.11" in sentence
    assert "2.00 without" in sentence


def test_shared_memory_is_that_of_the_compiled_kernel(monkeypatch):
    seen = SimpleNamespace(metadata=SimpleNamespace(shared=512), asm={"ptx": ""})
    monkeypatch.setattr(ptx, "for_an_h100", lambda kernel, types, **constants: seen)
    assert ptx.shared_bytes(None, {}) == 512 and loads(None, {}) == {}


def kernel_of_the_notebook():
    path = Path(__file__).parents[1] / "notebooks" / "09_skipping_on_a_gpu.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    names = {"tl": tl}
    exec(next(text for text in cells if text.startswith("def conv_kernel(")), names)
    return names["conv_kernel"]


def test_the_pair_differs_in_its_lists_alone(monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.interpreter import InterpretedFunction

    drawn = []
    for name in "randn", "rand":
        real = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, real=real, **k: drawn.append(real(*a, **k)) or drawn[-1]
        )
    n, channels, side, k = 2, 6, 3, 3
    kernel = InterpretedFunction(kernel_of_the_notebook())
    calls = ptx.pair(kernel, torch.float32, n, channels, side, "cpu")
    x, weight, *orders = drawn
    lists = [order.argsort(1)[:, :k].sort(1).values for order in orders]
    first = torch.arange(k).expand(n, -1)
    maps = x.view(n, side, side, k).permute(0, 3, 1, 2)
    for name, (live, winners) in {"with lists": lists, "without lists": (first, first)}.items():
        sums = calls[name]()
        for i in range(n):
            own = weight[:, live[i]][:, :, winners[i]]  # [9, k, k]
            own = own.permute(2, 1, 0).reshape(k, k, 3, 3)
            wanted = torch.nn.functional.conv2d(maps[i : i + 1], own, padding=1)
            torch.testing.assert_close(sums[i].T.reshape(1, k, side, side), wanted)
