"""The living picture without a browser: what Python puts into it, and what it reads back."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file
from traitlets import TraitError

from fbs_tutorial import convert, load_data, load_pretrained, models, set_density
from fbs_tutorial.__main__ import main
from fbs_tutorial.data import as_tensors
from fbs_tutorial.lesson.live import page, payload, snippet
from fbs_tutorial.lesson.live.page import PART, WHOLE, script, widget_script
from fbs_tutorial.lesson.live.payload import (
    COLOURS,
    CONTROLS,
    DENSITIES,
    MEASURED,
    mean_gates,
    shrink,
    text_of,
)
from fbs_tutorial.lesson.live.runs import forced_gate
from fbs_tutorial.lesson.live.still import still
from fbs_tutorial.lesson.live.widget import live_network
from fbs_tutorial.lesson.plots import style
from fbs_tutorial.method.dynamics import how_dynamic
from fbs_tutorial.method.wta import winner_take_all

KILOBYTES = 1000


@pytest.fixture(scope="module")
def data():
    return payload()


@pytest.fixture
def live():
    return live_network()


@pytest.fixture(scope="module")
def images():
    return as_tensors(load_data("digits")[1])[0]


def test_the_page_is_one_small_file_that_fetches_nothing(data):
    text = page(data)
    assert len(text.encode()) < 320 * KILOBYTES
    assert not re.search(r"""(src|href)=|\bimport\b *[({"]|url\(|fetch\(|https?://""", text)


@pytest.mark.parametrize("modules", [WHOLE, PART])
def test_the_modules_join_without_names_that_clash(modules):
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script(modules), re.M)
    assert len(names) == len(set(names)) > 30
    assert not re.search(r"^(import|export) ", script(modules), re.M)
    exported = re.findall(r"^export .*", widget_script(modules), re.M)
    assert exported == ["export default { render };"]


@pytest.mark.parametrize("modules", [WHOLE, PART])
def test_the_arithmetic_knows_no_page_and_each_module_only_those_before_it(modules):
    for place, name in enumerate(modules):
        text = text_of(name)
        used = re.findall(r'from "\./(\w+\.js)"', text)
        assert set(used) <= set(modules[:place])
        if name in ("engine.js", "digits.js"):
            assert not re.search(r"document|window", text)


def test_colours_are_those_of_the_plots_and_none_is_typed_in(data):
    assert data["colours"] == COLOURS and COLOURS["blue"] == style.BLUE
    names = (*WHOLE, *PART, "widget.js", "style.css", "page.html")
    for name in names:
        assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(", text_of(name)), name
    used = set(re.findall(r"var\(--(\w+)\)", text_of("style.css"))) - {"beside", "tone"}
    assert used <= set(COLOURS)


def test_every_rule_of_the_style_keeps_to_the_picture():
    rules = re.findall(r"^\s*([^@{}]+)\{", text_of("style.css"), re.M)
    assert len(rules) > 40
    for rule in rules:
        for selector in re.sub(r"/\*.*?\*/", "", rule, flags=re.S).split(","):
            assert selector.strip().startswith(".fbs-live"), selector


def test_counts_are_those_the_images_were_enlarged_from(images, data):
    from sklearn.datasets import load_digits

    counts = shrink(images).flatten(1)
    known = {tuple(row) for row in load_digits().images.reshape(-1, 64).astype(int).tolist()}
    assert all(tuple(row) in known for row in counts.tolist())
    assert data["labels"] == [digit for digit in range(10) for _ in range(3)]


@pytest.mark.parametrize("density", [0.3, 0.5])
def test_what_was_measured_is_of_the_network_that_is_shipped(density):
    """After `make digits`, run tools/ship_live.py."""
    train, test = (as_tensors(part) for part in load_data("digits"))
    network, measured = set_density(load_pretrained("digits"), density), load_file(MEASURED)
    row = DENSITIES.index(density)
    control = how_dynamic(network, *test, reference=train[0])
    for name in CONTROLS:
        assert measured[name][row].item() == pytest.approx(getattr(control, name), abs=0.0021)
    torch.testing.assert_close(measured["mean_gates"][row], mean_gates(network, train[0]))


def test_another_network_is_refused_with_what_the_picture_takes():
    with pytest.raises(ValueError, match="of the form convert"):
        payload(convert(models.digitsnet(width=0.5)))
    with pytest.raises(ValueError, match="no gated layer"):
        payload(models.digitsnet())


def test_a_network_of_the_reader_is_taken():
    assert payload(convert(models.digitsnet()))["tensors"] != payload()["tensors"]


def test_the_answer_follows_the_image_and_the_density(live, images):
    labels = as_tensors(load_data("digits")[1])[1]
    assert live.prediction == 4 and live.density == 0.3
    for i in range(5):
        live.image = images[i]
        assert live.prediction == labels[i]
    network = set_density(load_pretrained("digits"), 0.5)
    live.density = 0.5
    with torch.no_grad():
        logits = network(images[4:5])
    torch.testing.assert_close(live.probabilities, logits.softmax(1)[0])
    for name, gate in live.gates.items():
        assert torch.equal(gate, getattr(network, name).gate[0])


def test_density_for_each_layer(live):
    live.density = {"conv1": 1.0, "conv2": 0.5, "conv3": 0.5, "conv4": 1 / 64}
    assert (live.gates["conv4"] > 0).sum() == 1


def test_forced_channels(live):
    before = live.gates["conv4"].clone()
    strongest, loser = int(before.argmax()), int((before == 0).nonzero()[0])
    live.forced = {"conv4": {strongest: "off", str(loser): 3.5}, "conv2": {0: "on"}}
    assert live.gates["conv4"][strongest] == 0 and live.gates["conv4"][loser] in (0, 3.5)
    live.forced = {}
    assert torch.equal(live.gates["conv4"], before)


def test_forced_gate_in_small():
    g = torch.tensor([[3.0, 1.0, 1.0, 2.0]])
    assert torch.equal(forced_gate(g, {}, 0.5), winner_take_all(g, 0.5))
    assert forced_gate(g, {1: "on"}, 0.25).tolist() == [[0, 1, 0, 0]]
    assert forced_gate(g, {1: "on", 2: "on"}, 0.25).tolist() == [[0, 1, 1, 0]]
    assert forced_gate(g, {0: "off"}, 0.5).tolist() == [[0, 1, 0, 2]]
    assert forced_gate(g, {1: 9.0}, 0.25).tolist() == [[0, 9, 0, 0]]
    assert not forced_gate(g, dict.fromkeys(range(4), "off"), 0.5).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": torch.zeros(3, 3)}, "image must be a tensor of 16 x 16"),
        ({"image": 7}, "image must be a tensor of 16 x 16 values, got 7"),
        ({"density": 0}, "density must be a number in"),
        ({"density": {"conv1": 0.5}}, "density must name conv1, conv2, conv3, conv4"),
        ({"forced": {"conv9": {1: "on"}}}, "there is no channel 1 in a layer 'conv9'"),
        ({"forced": {"conv1": {16: "on"}}}, "there is no channel 16"),
        ({"forced": {"conv1": {1: "up"}}}, "a finite number of at least 0, got 'up'"),
    ],
)
def test_bad_values_are_refused_and_nothing_changes(live, values, message):
    ((name, value),) = values.items()
    before = live.probabilities
    with pytest.raises((TraitError, ValueError), match=message):
        setattr(live, name, value)
    assert torch.equal(live.probabilities, before)


def test_what_the_browser_sends_arrives_as_what_python_reads(live, images):
    state = {
        "image": images[7].flatten().tolist(),
        "density": 0.5,
        "forced": {"conv4": {"3": "off"}},
    }
    live.set_state(json.loads(json.dumps(state)))
    assert torch.allclose(live.image, images[7], atol=1e-6) and live.image.shape == (1, 16, 16)
    assert live.gates["conv4"][3] == 0 and live.forced == {"conv4": {3: "off"}}


def test_the_saved_cell_holds_the_picture_without_a_kernel(live):
    bundle, _ = live._repr_mimebundle_()
    assert bundle["text/html"].startswith("<style>")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "<noscript><p>" in snippet(live.payload, "<p>Blocked.</p>")


def test_the_still_picture_says_what_it_shows(live):
    figure, sentence = still(live)
    assert len(figure.axes) == 6
    assert re.match(r"The network reads a 4 \(\d+ % sure\) and computes 10 % of its MACs", sentence)


def test_without_anywidget_a_slider_and_a_menu_remain(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    live = live_network()
    controls, output = live.view().children
    slider, menu = controls.children
    slider.value, menu.value = 0.5, 7
    assert (live.density, live.prediction) == (0.5, 7)
    assert output.layout.min_height == "360px"


def test_the_command_writes_the_page(tmp_path, capsys):
    out = tmp_path / "new" / "live.html"
    assert main(["live", "--out", str(out)]) == 0
    assert "<!DOCTYPE html>" in out.read_text() and str(out) in capsys.readouterr().out
    assert main(["live", "--out", "live.txt"]) == 2
    assert "takes the name of a .html file, got 'live.txt'" in capsys.readouterr().err
