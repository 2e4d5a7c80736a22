"""What notebook 08 draws, and the loop in C++ that its reader compiles."""

import json
import os
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F

from fbs_tutorial.execution import native
from fbs_tutorial.lesson import compiled as module
from fbs_tutorial.lesson.compiled import SPARE, compiled, in_planes
from fbs_tutorial.lesson.diagrams import cpu, draw
from fbs_tutorial.lesson.plots.style import BLUE

WEIGHT = torch.randn(16, 20, 3, 3, generator=torch.Generator().manual_seed(0))
WINNERS, LIVE = torch.tensor([1, 4, 11, 15]), torch.tensor([0, 2, 3, 9, 19])
needs_a_compiler = pytest.mark.skipif(not native.compilers(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "picture",
    [
        lambda: cpu.gather(WEIGHT, WINNERS, LIVE),
        lambda: cpu.gather(WEIGHT, WINNERS, LIVE, channels=6),
        cpu.layouts,
        lambda: cpu.layouts(0),
        cpu.planes,
        lambda: cpu.planes(4, 6, (0, 0)),
        lambda: cpu.planes(2, 4, (2, 2)),
        cpu.tile,
        lambda: cpu.tile(1, 1),
        lambda: cpu.tile(2, 3, 16),
    ],
)
def test_words_are_legible_and_the_page_is_900_pixels_wide(picture):
    figure, sentence = picture()
    assert draw.collisions(figure) == []
    assert figure.get_size_inches()[0] * figure.dpi == pytest.approx(900)
    assert sentence.endswith(".")


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_gather_draws_the_live_pairs_and_where_they_lie():
    figure, sentence = cpu.gather(WEIGHT, WINNERS, LIVE, channels=12)
    assert sentence == (
        "In all 4 winners times 5 live inputs: 20 of 320 kernels are copied side by side. The "
        "kernel from input 9 to output 11 is number 11 · 20 + 9 = 229 in memory."
    )
    squares = [box for box in figure.axes[0].patches if isinstance(box, plt.Rectangle)]
    squares = squares[: 12 * 12 + 3 * 4]  # the corner, then the small kernel
    blue = [plt.matplotlib.colors.to_hex(box.get_facecolor()) == BLUE.lower() for box in squares]
    assert sum(blue[: 12 * 12]) == sum(blue[12 * 12 :]) == 3 * 4
    numbers = [word for word in words_of(figure) if word.isdigit()]
    assert numbers == [str(220 + i) for i in range(12)] + ["220", "222", "223", "229"]


@pytest.mark.parametrize(("winners", "live"), [([13], [0]), ([1], [14])])
def test_a_gather_of_which_nothing_could_be_drawn_is_refused(winners, live):
    with pytest.raises(ValueError, match="channels must reach a winner and a live input, got 12"):
        cpu.gather(WEIGHT, torch.tensor(winners), torch.tensor(live))


def test_layouts_hold_the_same_numbers_in_three_orders():
    words = [word for word in words_of(cpu.layouts()[0]) if len(word) < 3]
    first, last, planes = words[:18], words[18:36], words[36:]
    assert sorted(first) == sorted(last) == sorted(w for w in planes if w != "0")
    assert first[:3] == ["a1", "a2", "a3"] and last[:3] == ["a1", "b1", "c1"]
    assert planes[:5] == ["0", "a1", "a2", "a3", "0"]


@pytest.mark.parametrize("tap", [(0, 0), (1, 2), (2, 1)])
def test_the_plane_is_drawn_as_the_kernel_and_the_exercise_have_it(tap):
    """Pixels 1, 2, … in memory, and the sums of the right outputs."""
    height, width = 3, 5
    words = words_of(cpu.planes(height, width, tap)[0])
    start = words.index("the same plane, as it lies in memory") + 1
    line = [int(word) for word in words[start : start + (height + 2) * (width + 1) + 2]]
    pixels = torch.arange(1.0, 16).view(1, height, width)
    assert line == in_planes(pixels)[0].tolist()
    offset = tap[0] * (width + 1) + tap[1]
    assert f"offset {offset}" in words
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0][tap] = 1
    outputs = F.conv2d(pixels[None], kernel, padding=1).flatten().tolist()
    sums = [word for word in words if word == "–" or word.startswith("y")]
    assert len(sums) == 8
    for word, read in zip(sums, line[offset : offset + 8], strict=True):
        assert word == "–" or outputs[int(word[1:]) - 1] == read


def test_a_tap_outside_the_kernel_is_refused():
    with pytest.raises(ValueError, match=r"tap must be .* from 0 to 2, got \(3, 0\)"):
        cpu.planes(tap=(3, 0))


def test_a_tile_counts_its_loads_and_multiplications():
    assert "7 loads feed 12 multiplications" in cpu.tile(4, 3)[1]
    assert words_of(cpu.tile(2, 3)[0]).count("sum += w × x") == 6


# The loop in C++


def loop():
    """As it stands in the notebook."""
    path = Path(__file__).parents[1] / "notebooks" / "08_skipping_on_a_cpu.ipynb"
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    (cell,) = [text for text in sources if text.startswith('source = """')]
    return cell.split('"""')[1]


def pairs(c_out, c_in):
    return torch.arange(0, c_out, 2), torch.arange(1, c_in, 3)


@cache
def compiled_loop():
    return compiled(loop())


@needs_a_compiler
@pytest.mark.parametrize("size", ["J = 1, P = 1", "J = 4, P = 3", "J = 16, P = 1", "J = 3, P = 16"])
def test_the_loop_of_the_notebook_convolves_with_tiles_of_every_size(size):
    text = loop()
    assert "J = 1, P = 1" in text
    convolve = compiled(text.replace("J = 1, P = 1", size))
    for c_out, c_in, height, width in [(40, 24, 8, 8), (6, 7, 3, 5), (2, 2, 1, 1)]:
        x, weight = torch.randn(1, c_in, height, width), torch.randn(c_out, c_in, 3, 3)
        winners, live = pairs(c_out, c_in)
        maps = convolve(in_planes(x[0]), weight, live, winners, height, width)
        torch.testing.assert_close(
            maps, F.conv2d(x[:, live], weight[winners][:, live], padding=1)[0], atol=1e-4, rtol=1e-4
        )


def test_planes_have_room_for_what_a_wide_tile_reads_too_far():
    planes = in_planes(torch.randn(3, 4, 5))
    assert planes.shape == (3, 6 * 6 + 2)
    assert planes.untyped_storage().nbytes() == 4 * (planes.numel() + SPARE)
    with pytest.raises(ValueError, match=r"maps must be \[C, H, W\], got \[1, 3, 4, 5\]"):
        in_planes(torch.randn(1, 3, 4, 5))


@needs_a_compiler
def test_a_mistake_in_the_source_is_told_in_the_compilers_words(capsys):
    assert compiled("int x = ;") is None
    said = capsys.readouterr().out
    assert said.startswith("The compiler does not take it:\nconvolve.cpp:1:") and "error" in said
    assert compiled("int other;") is None and "convolve" in capsys.readouterr().out


def refusing(folder, name, refused, then):
    """A compiler that does not know some flags, and with others does what a shell command says."""
    script = folder / name
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{refused}*) echo "error: unknown option {refused}" >&2; exit 1;;'
        f"esac\n{then}\n"
    )
    script.chmod(0o755)
    return str(script)


@needs_a_compiler
def test_a_flag_that_a_compiler_refuses_does_not_hide_the_readers_mistake(
    monkeypatch, capsys, tmp_path
):
    real = native.compilers()[0]
    then = f'for a; do shift; [ "$a" = -mcpu=native ] || set -- "$@" "$a"; done; exec {real} "$@"'
    picky = refusing(tmp_path, "picky", "-march=native", then)
    monkeypatch.setattr(module, "compilers", lambda: [picky])
    assert compiled("int x = ;") is None
    assert capsys.readouterr().out.startswith("The compiler does not take it:\nconvolve.cpp:1:")
    assert compiled(loop()) is not None and capsys.readouterr().out == ""


@needs_a_compiler
def test_another_compiler_is_tried(monkeypatch, capsys, tmp_path):
    useless = refusing(tmp_path, "useless", "native", "exit 1")
    monkeypatch.setattr(module, "compilers", lambda: [useless])
    assert compiled(loop()) is None
    assert "unknown option native" in capsys.readouterr().out
    monkeypatch.setattr(module, "compilers", lambda: [useless, *native.compilers()])
    assert compiled(loop()) is not None and capsys.readouterr().out == ""


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch, capsys, tmp_path):
    slow = refusing(tmp_path, "slow", "nothing", "echo some words >&2; exec sleep 60")
    monkeypatch.setattr(module, "compilers", lambda: [slow])
    monkeypatch.setattr(module, "TIME_LIMIT", 0.2)
    assert compiled("") is None
    assert capsys.readouterr().out == "The compiler was stopped after 0.2 seconds.\n"


@needs_a_compiler
def test_a_function_that_cannot_be_called_from_outside_is_named(capsys):
    assert compiled(loop().replace('extern "C" ', "")) is None
    said = capsys.readouterr().out
    assert said.startswith("convolve.cpp: it compiles, but") and 'extern "C" void convolve(' in said


@needs_a_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": lambda t: t.double()}, r"planes must be a .*float32 .*, got torch.float64"),
        ({"planes": lambda t: t[:, :-1]}, r"planes must be .* \[20, 38\], got .* \[20, 37\]"),
        ({"weight": lambda t: t.mT}, r"weight must be a contiguous .* not contiguous"),
        ({"weight": lambda t: t[:, 1:]}, r"weight must be .* \[16, 20, 3, 3\], got .*, 19, 3, 3"),
        ({"live": lambda t: t.int()}, r"live must be .*int64 tensor \[5\], got torch.int32"),
        ({"winners": lambda t: t.repeat(2)[::2]}, r"winners must be .* not contiguous"),
        ({"winners": lambda t: t.bool()}, r"winners must be .*int64 .*, got torch.bool"),
    ],
)
def test_tensors_that_the_loop_cannot_read_are_refused(change, message):
    given = {"planes": in_planes(torch.randn(20, 4, 5)), "weight": WEIGHT}
    given |= {"live": LIVE, "winners": WINNERS}
    given |= {name: spoil(given[name]) for name, spoil in change.items()}
    with pytest.raises(ValueError, match=message):
        compiled_loop()(*given.values(), 4, 5)


def test_without_a_compiler_words_take_its_place(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert os.environ["PATH"] == str(tmp_path) and compiled("") is None
    said = capsys.readouterr().out
    assert "no C++ compiler here" in said and "apt install g++" in said
