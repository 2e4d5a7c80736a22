"""Sliders call their function with what they show; guesses are kept; errors are not swallowed."""

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


def test_slider_reaches_every_density_and_no_other():
    slider, _ = widgets.density_slider(lambda density: picture(), step=0.05)
    assert (slider.min, slider.max, slider.step) == (0.05, 1.0, 0.05)
    assert not slider.continuous_update
    assert slider.description == "density d"


def test_an_error_in_the_function_reaches_whoever_moves_the_slider():
    def draw(density):
        if density < 0.5:
            raise RuntimeError("broken below 0.5")
        return picture()

    slider, _ = widgets.density_slider(draw)
    with pytest.raises(RuntimeError, match=r"broken below 0\.5"):
        slider.value = 0.2


def test_picture_has_a_fixed_height():
    _, view = widgets.density_slider(lambda density: picture(), height=300)
    assert view.children[1].layout.height == "300px"


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


def test_guess_from_the_slider_is_kept(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    prediction = widgets.predict("How many?", 0, 10)
    assert prediction.guess is None
    slider = shown[0].children[0]
    slider.value = 7.0
    assert prediction.guess == 7.0
    prediction.reveal(4)
    assert "your guess of 7 was 3 too high" in capsys.readouterr().out


def test_guess_as_a_plain_argument(capsys):
    prediction = widgets.predict("How many?", 0, 100, "%", guess=80)
    assert prediction.guess == 80
    assert capsys.readouterr().out == "How many? Your guess: 80 %\n"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0), ValueError, "high must be above low, got 0 and 0"),
        ((5, 1), ValueError, "high must be a number from 5 to inf, got 1"),
        (("0", 1), TypeError, "low must be a number, got '0'"),
        ((0, 10, "", 11), ValueError, "guess must be a number from 0 to 10, got 11"),
        ((0, 10, "", True), TypeError, "guess must be a number, got True"),
        ((0, 10, "", float("nan")), ValueError, "guess must be a number from 0 to 10, got nan"),
    ],
)
def test_bad_predictions_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        widgets.predict("How many?", *arguments)


def test_bad_truth_is_refused():
    with pytest.raises(TypeError, match="truth must be a number, got None"):
        widgets.predict("How many?", 0, 1, guess=1).reveal(None)
