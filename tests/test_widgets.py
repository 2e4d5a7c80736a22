"""Sliders call their function with what they show, and say when it is slow; errors are raised."""

import time
from io import BytesIO

import ipywidgets
import matplotlib.pyplot as plt
import PIL.Image
import PIL.ImageChops
import pytest

from fbs_tutorial.lesson import widgets


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def picture(**values):
    return plt.figure(), f"{values}"


def test_slider_calls_its_function_at_once_and_on_every_move():
    calls = []

    def draw(density, image):
        calls.append((density, image))
        return picture()

    image = ipywidgets.IntSlider(value=3, max=9)
    slider, _ = widgets.density_slider(draw, density=0.5, image=image)
    slider.value = 0.2
    image.value = 7
    assert calls == [(0.5, 3), (0.2, 3), (0.2, 7)]


def test_a_picture_may_depend_on_other_widgets_alone():
    calls = []

    def draw(share):
        calls.append(share)
        return picture()

    share = ipywidgets.FloatSlider(0.4, min=0.1, max=1)
    view = widgets.with_controls(draw, share=share, height=700)
    share.value = 0.7
    assert calls == [0.4, 0.7] and view.children[0].children[0] is share
    assert view.children[1].layout.min_height == "700px"


def test_a_button_for_each_channel_keeps_it_or_drops_it():
    drawn = []

    def draw(kept):
        drawn.append(kept.tolist())
        return plt.figure(), "said"

    buttons, _ = widgets.live_channels(draw, [True, False, False]).children
    assert [button.description for button in buttons.children[:3]] == ["0", "1", "2"]
    buttons.children[2].value = True
    buttons.children[0].value = False
    assert drawn == [[True, False, False], [True, False, True], [False, False, True]]


def test_slider_reaches_every_density_and_no_other():
    slider, _ = widgets.density_slider(lambda density: picture(), step=0.05)
    assert (slider.min, slider.max, slider.step) == (0.05, 1.0, 0.05)
    assert slider.description == "density d"
    slider, _ = widgets.density_slider(lambda density: picture(), label="share left")
    assert slider.description == "share left"


def test_an_error_in_the_function_reaches_whoever_moves_the_slider():
    def draw(density):
        if density < 0.5:
            raise RuntimeError("broken below 0.5")
        return picture()

    slider, _ = widgets.density_slider(draw)
    with pytest.raises(RuntimeError, match=r"broken below 0\.5"):
        slider.value = 0.2


@pytest.mark.parametrize(("seconds", "follows"), [(0.0, True), (1.0, False)])
def test_slider_follows_the_hand_where_the_picture_is_fast(monkeypatch, seconds, follows):
    ticks = iter([0.0, seconds] * 9)
    monkeypatch.setattr(widgets.time, "perf_counter", lambda: next(ticks))
    menu = ipywidgets.Dropdown(options=["a", "b"])
    slider, _ = widgets.density_slider(lambda density, menu: picture(), menu=menu)
    assert slider.continuous_update == follows


def test_a_sign_says_measuring_while_a_slow_picture_is_drawn():
    signs = []

    def draw(density):
        signs.append(sign.value if signs else None)
        time.sleep(0.06)
        return picture()

    slider, view = widgets.density_slider(draw)
    sign = view.children[0].children[-1]
    signs.append(sign.value)
    slider.value = 0.3
    assert signs == [None, "", widgets.MEASURING] and sign.value == ""


def test_the_sign_goes_when_the_function_raises():
    def draw(density):
        if density < 0.5:
            raise RuntimeError
        return picture()

    slider, view = widgets.density_slider(draw)
    with pytest.raises(RuntimeError):
        slider.value = 0.2
    assert view.children[0].children[-1].value == ""


def test_view_is_as_high_as_the_highest_picture_and_never_cut():
    def draw(density):
        return plt.figure(figsize=(5, 2 + 4 * density), dpi=100), "one sentence " * 20

    slider, view = widgets.density_slider(draw, density=0.5)
    layout = view.children[1].layout
    assert layout.height is None and layout.min_height == "500px"  # 400, 3 lines, a margin
    slider.value = 1.0
    assert layout.min_height == "700px"
    slider.value = 0.1
    assert layout.min_height == "700px"
    _, view = widgets.density_slider(draw, height=900)
    assert view.children[1].layout.min_height == "900px"


def test_small_png_of_a_figure_that_lays_itself_out_has_the_figures_size():
    figure, axes = plt.subplots(figsize=(5, 3), dpi=100, layout="constrained")
    axes.set(title="finding", xlabel="density")
    shown = PIL.Image.open(BytesIO(widgets.small_png(figure).data)).convert("L")
    assert shown.size == (500, 300)
    left, top, right, bottom = PIL.ImageChops.invert(shown).getbbox()
    assert left > 0 and top > 0 and right < 500 and bottom < 300  # nothing touches the edge


def test_small_png_tells_a_screen_reader_its_sentence():
    assert widgets.small_png(plt.figure(), "a sentence")._repr_png_()[1] == {"alt": "a sentence"}


def test_small_png_is_the_figure_in_fewer_bytes():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], color="#0072B2", linewidth=9)
    whole = BytesIO()
    figure.savefig(whole, format="png", bbox_inches="tight")
    small = widgets.small_png(figure).data
    assert len(small) < len(whole.getvalue())
    before, after = (PIL.Image.open(png).convert("RGB") for png in (whole, BytesIO(small)))
    assert before.size == after.size
    worst = max(high for _, high in PIL.ImageChops.difference(before, after).getextrema())
    assert worst < 16  # of 255


def test_show_prints_the_sentence_and_closes_the_figure(capsys):
    figure, sentence = picture(d=0.5)
    widgets.show((figure, sentence))
    assert sentence in capsys.readouterr().out
    assert not plt.fignum_exists(figure.number)


def test_menus_start_at_the_defaults_of_what_they_draw():
    def draw(density, channels=128, precision="tf32", others=3):
        return None

    found = widgets.menus(draw, channels=(64, 128), precision=("fp32", "tf32"))
    assert {name: menu.value for name, menu in found.items()} == {
        "channels": 128, "precision": "tf32"
    }  # fmt: skip
    assert list(found["channels"].options) == [64, 128]
    for name in "density", "images":
        with pytest.raises(TypeError, match=f"have a default, got '{name}'"):
            widgets.menus(draw, **{name: (1, 2)})
