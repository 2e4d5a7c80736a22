"""The measure of contrast is right, and the palette's colours for words can be read."""

import matplotlib.pyplot as plt
import pytest
from contrast import LEAST, contrast, faint, told_by_hue

from fbs_tutorial.lesson.plots import style


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [("black", "white", 21), ("#777777", "#FFFFFF", 4.48), ("red", "#FFFFFF", 4.0), ("c", "c", 1)],
)
def test_contrast_is_that_of_wcag(one, other, ratio):
    assert contrast(one, other) == pytest.approx(ratio, abs=0.01) == contrast(other, one)


PALETTE = ["BLUE", "ORANGE", "GREEN", "PURPLE", "YELLOW", "GREY", "DARK_GREY", "BLACK", "TEXT"]


@pytest.mark.parametrize("name", PALETTE)
@pytest.mark.parametrize("ground", ["WHITE", "PANEL", "FAINT"])
def test_words_in_every_colour_can_be_read_on_every_ground(name, ground):
    assert contrast(style.ink(getattr(style, name)), getattr(style, ground)) >= LEAST


@pytest.mark.parametrize("name", ["BLACK", "TEXT", "BLUE", "WHITE"])
def test_colours_that_can_be_read_stay_as_they_are(name):
    assert style.ink(getattr(style, name)) == getattr(style, name)


@pytest.mark.parametrize("name", ["BLUE", "MID_BLUE", "ORANGE", "GREEN", "DARK_GREY", "BLACK"])
def test_lines_and_bars_stand_out_from_white(name):
    assert contrast(getattr(style, name), "white") >= 3  # 1.4.11, of graphics


@pytest.fixture
def axes():
    yield plt.figure(figsize=(4, 3)).add_axes((0, 0, 1, 1))
    plt.close("all")


def test_words_that_are_faint_on_their_ground_are_found(axes):
    axes.set_axis_off()
    axes.axvspan(0, 0.5, color="black")
    axes.set_xlim(0, 1)
    axes.text(0.1, 0.5, "hidden", color="#333333")
    axes.text(0.1, 0.2, "seen", color="white")
    axes.text(0.6, 0.8, "grey", color="#999999")
    axes.text(0.6, 0.5, "large", color="#888888", fontsize=20)
    axes.text(0.6, 0.2, "pale", color="black", alpha=0.3)
    assert {words for words, _ in faint(axes.figure)} == {"hidden", "grey", "pale"}
    axes.texts[0].set_color("white")
    assert len(faint(axes.figure)) == 2
    for text in axes.texts[:]:
        text.remove()  # or the check of every test would find them


def test_series_that_differ_in_hue_alone_are_found(axes):
    axes.plot([0, 1], color=style.BLUE, label="blue")
    axes.plot([1, 0], color=style.ORANGE, label="orange")
    axes.legend()
    assert told_by_hue(axes.figure) == [("blue", "orange")]
    axes.lines[1].set_linestyle("--")
    axes.legend()
    assert told_by_hue(axes.figure) == []


def test_bars_may_differ_in_hatch_or_in_lightness(axes):
    for i, look in enumerate(({}, {"hatch": "//"}, {"color": style.LINE})):
        axes.bar(i, 1, label=str(i), **({"color": style.BLUE} | look))
    axes.bar(3, 1, color=style.GREEN, label="3")
    axes.legend()
    assert told_by_hue(axes.figure) == [("0", "3"), ("2", "3")]
    axes.patches[3].set_hatch("xx")
    axes.legend()
    assert told_by_hue(axes.figure) == []
