"""The small living pictures: what Python computes for them, and what they do in a real browser."""

import json
import sys

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from chromium import CHROMIUM
from playwright.sync_api import expect
from torch import nn
from traitlets import TraitError

from fbs_tutorial import channel_saliency, load_pretrained, set_density, winner_take_all
from fbs_tutorial.lesson.live import (
    live_donor,
    live_layer,
    live_network,
    live_saliency,
    live_selection,
    save_page,
    snippet,
)
from fbs_tutorial.lesson.live.base import _is_library, reply
from fbs_tutorial.lesson.live.page import PART, WHOLE, script
from fbs_tutorial.lesson.live.page import page as page_of
from fbs_tutorial.lesson.live.payload import text_of
from fbs_tutorial.lesson.live.widget import first_image
from fbs_tutorial.method.gated import evaluating, forced_gates
from fbs_tutorial.method.wta import winner_mask

IN_A_BROWSER = [pytest.mark.slow, pytest.mark.needs(chromium=CHROMIUM)]
MAKE = {
    "saliency": live_saliency,
    "selection": live_selection,
    "layer": live_layer,
    "donor": live_donor,
}
KILOBYTES = 1000
LARGEST = {"saliency": 110, "selection": 100, "layer": 190, "donor": 320}
LIKE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def made():
    return {part: make() for part, make in MAKE.items()}


@pytest.fixture(scope="module")
def network():
    return load_pretrained("digits")


class Own(nn.Module):
    """A layer as notebook 04 writes one: a gate and a density, no saliency."""

    def __init__(self, like):
        super().__init__()
        self.conv, self.norm, self.beta = like.conv, like.norm, like.beta
        self.predictor, self.density = like.predictor, 1.0

    def forward(self, x):
        g = torch.relu(self.predictor(channel_saliency(x)))
        self.gate = winner_take_all(g, self.density)
        z = self.norm(self.conv(x)) + self.beta[:, None, None]
        return torch.relu(self.gate[:, :, None, None] * z)


# What Python computes.


@pytest.mark.parametrize("part", MAKE)
def test_each_part_is_small_and_says_what_it_shows(made, part):
    live = made[part]
    assert len(snippet(live.payload)) < LARGEST[part] * KILOBYTES
    figure, sentence = live.still()
    assert len(figure.axes) >= 2 and sentence.endswith((".", "(blue)."))
    bundle, _ = live._repr_mimebundle_()
    assert "data-fbs-live" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize(
    ("part", "controls"), [("saliency", 2), ("selection", 1), ("layer", 2), ("donor", 3)]
)
def test_without_anywidget_sliders_and_menus_remain(monkeypatch, part, controls):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    live = MAKE[part]()
    row, output = live.view().children
    assert len(row.children) == controls and output.layout.min_height == "360px"
    row.children[0].value = 0.6
    assert live.density == 0.6
    if "image" in live.moves:
        row.children[1].value = 7
        assert torch.equal(live.image, first_image(7))


def test_saliency_follows_its_own_values(network):
    live = live_saliency("conv2")
    x = network.conv1(network.normalize(live.image[None]))
    torch.testing.assert_close(live.s, channel_saliency(x)[0])
    torch.testing.assert_close(live.g, network.conv2.predict(live.s[None])[0])
    live.own = {3: 2.0}
    assert live.s[3] == 2
    torch.testing.assert_close(live.g, network.conv2.predict(live.s[None])[0])


def test_the_largest_outputs_are_marked():
    live = live_saliency("conv4", winners=16)
    _, sentence = live.still()
    zeros = int((live.g == 0).sum())
    assert sentence.startswith(f"From 32 measured values conv4 predicts 64: {zeros} of the 64 are")
    assert "The 16 largest" in sentence and "largest" not in live_saliency("conv4").still()[1]


def test_the_selection_is_winner_take_all():
    live = live_selection([0.2, 0.5, 0.5, 0.1], density=0.5)
    assert live.gate.tolist() == pytest.approx([0, 0.5, 0.5, 0])
    live.own, live.density = {2: 0.0}, 0.25
    assert live.gate.tolist() == pytest.approx([0, 0.5, 0, 0])


@pytest.mark.parametrize("layer", ["conv1", "conv4"])
def test_a_layer_is_that_of_the_network(network, layer):
    live = live_layer(layer, density=0.5)
    with torch.no_grad():
        set_density(network, 0.5)(live.image[None])
    module = network.get_submodule(layer)
    assert torch.equal(live.gate, module.gate[0]) and torch.equal(live.g, module.saliency[0])
    assert torch.equal(live.winners, winner_mask(module.saliency, 0.5)[0])
    strongest = int(live.g.argmax())
    live.own = {strongest: "off"}
    assert live.gate[strongest] == 0 and not live.y[strongest].any()
    live.own = {strongest: 9.0}
    assert live.gate[strongest] == 9


@pytest.mark.parametrize("where", [0, 4])
def test_a_donor_gives_its_gates(network, where):
    live = live_donor(digit=4, donor=7, density=0.3)
    live.where = where
    set_density(network, 0.3)
    with evaluating(network):
        network(first_image(7)[None])
        gates = {name: network.get_submodule(name).gate for name in live.gates["other"]}
    gates = {name: gate for name, gate in gates.items() if where == 0 or name == "conv4"}
    with evaluating(network), forced_gates(network, gates):
        logits = network(first_image(4)[None])[0]
    torch.testing.assert_close(live.probabilities["other"], logits.softmax(0))
    assert live.predictions["own"] == 4


def test_an_own_layer_of_the_same_weights_makes_the_same_picture(network):
    mine = Own(network.conv3).train()
    own, package = live_layer("conv3", compute=mine), live_layer("conv3")
    assert own.error == "" and mine.training
    for name in ("s", "g", "gate", "y"):
        torch.testing.assert_close(getattr(own, name), getattr(package, name))
    assert "text/html" not in own._repr_mimebundle_()[0]  # a browser cannot run it


def test_own_functions_are_asked(network):
    reduced = live_saliency(reduce=lambda x: x.amax(dim=(2, 3)))
    assert torch.equal(reduced.s, reduced.input(reduced.image, 1.0)[0].amax(dim=(1, 2)))
    threshold = live_selection([0.2, 0.9], select=lambda g, d: g * (g > d))
    assert threshold.gate.tolist() == pytest.approx([0, 0.9])
    tied = live_selection([0.5, 0.9, 0.5], density=2 / 3, select=lambda g, d: g * (g > 0.4))
    said = "2 of 3 channels win. Here 3 gates are not 0, 1 wrongly."
    assert tied.still()[1].endswith(said)

    def layer(x, density):
        g = network.conv3.predict(channel_saliency(x))
        return g, winner_take_all(g, density), network.conv3(x)

    assert live_layer("conv3", compute=layer).error == ""


def test_one_of_several_selections_is_chosen_by_name(monkeypatch):
    ways = {"all": lambda g, d: g, "the rule": winner_take_all}
    live = live_selection([0.2, 0.9], select=ways)
    assert live.gate.tolist() == pytest.approx([0.2, 0.9]) and live.payload["ways"] == [*ways]
    assert any(text.get_text() == "≠" for axes in live.still()[0].axes for text in axes.texts)
    live.way = "the rule"
    assert live.gate.tolist() == pytest.approx([0, 0.9])
    with pytest.raises(TraitError, match=r"way must be one of \['all', 'the rule'\], got 'none'"):
        live.way = "none"
    monkeypatch.setitem(sys.modules, "anywidget", None)
    plain = live_selection([0.2, 0.9], select=ways)
    _, menu = plain.view().children[0].children
    menu.value = "the rule"
    assert plain.gate.tolist() == pytest.approx([0, 0.9])


def divides(x, density):
    return x / (density - density) + undefined  # noqa: F821


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: live_layer(compute=divides), "raised NameError: name 'undefined'"),
        (lambda: live_layer(compute=divides), "in divides, line "),
        (lambda: live_layer(compute=lambda x, d: x), r"return \(g, pi, y\), got Tensor"),
        (lambda: live_layer(compute=lambda x, d: (x, x, x)), r"g must be .*\[1, 32\], got shape"),
        (lambda: live_layer(compute=nn.Conv2d(32, 32, 3)), "keep its gate as self.gate"),
        (lambda: live_selection(select=lambda g, d: g[0]), r"pi must be .* got shape \[8\]"),
        (lambda: live_selection(select=lambda g, d: g > 0), "got torch.bool"),
        (lambda: live_selection(select=lambda g, d: g / 0), "not finite"),
        (lambda: live_selection(select=lambda g, d: None), "got NoneType"),
        (lambda: live_saliency(reduce=lambda x: x.mean(dim=1)), r"s must be .*\[1, 16\]"),
    ],
)
def test_what_is_wrong_with_own_code_is_said_and_not_raised(make, message, capsys):
    live = make()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(live.error)
    live.show()
    assert live.error.splitlines()[0] in capsys.readouterr().out


def test_each_page_has_a_title_of_its_own(made):
    pages = {part: page_of(live.payload) for part, live in made.items()}
    assert not any("while you draw" in text for text in pages.values())
    pages["whole"] = page_of(live_network().payload)
    titles = {part: text.split("<title>")[1].split("</title>")[0] for part, text in pages.items()}
    assert len(set(titles.values())) == len(pages)


def test_a_browser_that_asks_gets_floats_or_what_was_wrong(network):
    live = live_selection([0.2, 0.9], select=winner_take_all)
    message, (data,) = reply(live, {"id": 7, "request": {"g": [3, 1], "density": 0.5}})
    assert message == {"id": 7, "index": {"pi": [0, 2]}}
    assert torch.frombuffer(bytearray(data), dtype=torch.float32).tolist() == [3, 0]
    live = live_selection([0.2, 0.9], select=lambda g, d: g[:, :1])
    message, buffers = reply(live, {"id": 8, "request": {"g": [3, 1], "density": 0.5}})
    assert message["id"] == 8 and "shape [1, 1]" in message["error"] and buffers is None


def test_a_network_with_layers_of_its_own_kind_is_computed_in_python(network):
    network.conv3.reduce = "max"
    with pytest.raises(ValueError, match="reduce='l1'"):
        live_network(network)
    live = live_network(network, python=True)
    image = live.image.flatten().tolist()
    choices = [{"k": k, "forced": [], "g": {}} for k in (5, 10, 10, 20)]
    answer = live.answer({"image": image, "donor": image, "compare": "other", "choices": choices})
    x = network.conv2(network.conv1(network.normalize(live.image[None])))
    for of in ("own", "other"):  # the donor is the image itself
        torch.testing.assert_close(
            answer[f"{of}.conv4.pi"], live.gates["conv4"], msg="the same gates"
        )
    assert answer["own.conv3.s"].shape == (32,) and x.shape[1] == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: live_saliency("conv4", winners=65), "winners must be 1 to 64, got 65"),
        (lambda: live_saliency("conv9"), "layer must be one of conv1, conv2, conv3, conv4"),
        (lambda: live_layer(digit=10), "a digit is an int from 0 to 9, got 10"),
        (lambda: live_layer(density=0), "density must be a number in"),
        (lambda: live_donor(donor="9"), "a digit is an int from 0 to 9, got '9'"),
        (lambda: live_selection([1.0]), "g must be 2 to 64 finite numbers of at least 0"),
        (lambda: live_selection([1.0, -1.0]), "g must be 2 to 64 finite numbers of at least 0"),
        (lambda: live_selection(density=2), "density must be a number in"),
        (lambda: live_selection(select={}), "select must be a function or {name: function}"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises((ValueError, TraitError), match=message):
        make()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({64: 1.0}, "there is no channel 64"),
        ({"x": 1.0}, "there is no channel x"),
        ({0: -1.0}, "a channel takes a finite number of at least 0, got -1.0"),
        ({0: "up"}, "a channel takes a finite number of at least 0, got 'up'"),
        ({0: "on"}, "a channel takes a finite number of at least 0, got 'on'"),
        ({0: float("inf")}, "a channel takes a finite number of at least 0, got inf"),
        ({0: float("nan")}, "a channel takes a finite number of at least 0, got nan"),
        ({0: torch.ones(2)}, "a channel takes a finite number of at least 0, got tensor"),
        (3, r"own must be a dict \{channel: value\}, got 3"),
    ],
)
@pytest.mark.parametrize("part", ["saliency", "selection"])
def test_bad_own_values_are_refused(made, part, own, message):
    with pytest.raises(TraitError, match=message):
        made[part].own = own
    assert made[part].own == {} and made[part].error == ""


def test_words_are_for_a_layer_of_which_numbers_are_finite(made):
    with pytest.raises(TraitError, match="takes 'on', 'off' or a finite number of at least 0, got"):
        made["layer"].own = {0: float("inf")}


def test_nothing_is_forced_in_a_layer_of_the_readers_own(network):
    live = live_layer("conv3", compute=Own(network.conv3))
    with pytest.raises(TraitError, match="own must stay empty where `compute` is the layer"):
        live.own = {0: "on"}
    assert live.own == {} and live.error == ""


def test_an_own_layer_keeps_its_density_also_after_an_error(network):
    mine = Own(network.conv3)
    mine.density = 0.7
    live = live_layer("conv3", compute=mine, density=0.3)
    assert mine.density == 0.7 and int((live.gate != 0).sum()) == 10
    mine.conv = nn.Conv2d(1, 1, 1)
    live.density = 0.4
    assert "RuntimeError" in live.error and mine.density == 0.7
    bare = nn.Conv2d(32, 32, 3, padding=1)
    live_layer("conv3", compute=bare)
    assert not hasattr(bare, "density")


def test_a_winner_of_an_own_layer_may_have_gate_0(network):
    def none(x, density):
        g = torch.zeros(1, 32)
        return g, g, network.conv3(x)

    def other(x, density):
        g, pi = torch.zeros(1, 32), torch.zeros(1, 32)
        pi[0, 31] = 1
        return g, pi, network.conv3(x)

    assert live_layer("conv3", compute=none, density=0.25).winners.nonzero().flatten().tolist() == [
        *range(8)
    ]
    winners = live_layer("conv3", compute=other, density=0.25).winners
    assert winners.nonzero().flatten().tolist() == [*range(8), 31]


@pytest.mark.parametrize(
    ("filename", "library"),
    [
        ("/usr/lib/python3/dist-packages/torch/nn/functional.py", True),
        ("/opt/env/lib/python3/site-packages/numpy/core.py", True),
        (json.__file__, True),
        (live_layer.__code__.co_filename, True),
        ("<frozen importlib._bootstrap>", True),
        ("/tmp/ipykernel_7/1.py", False),
        ("<ipython-input-3>", False),
        (__file__, False),
    ],
)
def test_the_line_that_is_shown_is_the_readers(filename, library):
    assert _is_library(filename) == library


# In a browser.


@pytest.fixture(scope="module")
def addresses(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for part, live in made.items():
        save_page(live.payload, folder / f"{part}.html")
    return {part: (folder / f"{part}.html").as_uri() for part in made}


@pytest.fixture
def opened(browser, addresses):
    """A function that opens a part offline and hears every error and request."""
    contexts, heard = [], []

    def open_page(part, width=760, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("console", lambda message: heard.append(message.text))
        page.on("request", lambda r: None if r.url == addresses[part] else heard.append(r.url))
        page.goto(addresses[part])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture
def mounted(browser):
    """A function that mounts a payload with the modules given, as `live` of the page."""
    pages = []

    def mount(payload, modules=PART, ask="undefined"):
        page = browser.new_page(viewport={"width": 760, "height": 900})
        pages.append(page)
        page.set_content(f"<style>{text_of('style.css')}</style><div id=root></div>")
        page.add_script_tag(content=script(modules))
        run = f"mount(document.querySelector('#root'), p, {{ ask: {ask} }})"
        page.evaluate(f"p => {{ window.live = {run}; }}", payload)
        return page

    yield mount
    for page in pages:
        page.close()


def result(page, change="{}"):
    """What the picture computed after a change of its state, as plain lists."""
    return page.evaluate(f"""async () => {{
      live.set({change});
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      const list = (v) => Array.isArray(v) || ArrayBuffer.isView(v);
      const plain = (v) => (list(v) ? [...v] : v && typeof v === "object"
        ? Object.fromEntries(Object.entries(v).map(([k, w]) => [k, plain(w)])) : v);
      return plain(live.result());
    }}""")


def close(found, wanted):
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float32), wanted.float(), **LIKE)


class TestInABrowser:
    pytestmark = IN_A_BROWSER

    @pytest.mark.parametrize("width", [1400, 700, 400])
    @pytest.mark.parametrize("part", MAKE)
    def test_fits_its_width_and_axe_finds_no_serious_fault(self, opened, part, width):
        page = opened(part, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ends = page.evaluate("""() => [...document.querySelectorAll("canvas, .fbs-live p")]
          .map((e) => e.getBoundingClientRect().right)""")
        assert max(ends) <= width
        found = Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []

    def test_saliency_is_pythons(self, mounted):
        live = live_saliency("conv3", density=0.5)
        page = mounted(live.payload)
        live.own, live.image = {2: 1.5}, first_image(7)
        found = result(page, "{ image: live.samples?.[7] ?? live.state().image }")
        assert len(found["s"]) == 32
        own = json.dumps(live.image.flatten().tolist())
        found = result(page, f"{{ image: Float32Array.from({own}), hand: new Map([[2, 1.5]]) }}")
        close(found["s"], live.s)
        close(found["g"], live.g)

    @pytest.mark.parametrize("density", [0.3, 0.6, 1.0])
    def test_a_layer_is_pythons(self, mounted, density):
        live = live_layer("conv4", density=density)
        live.own = {5: "on", 6: "off", 7: 3.0}
        page = mounted(live.payload)
        forced = "Int8Array.from({ length: 64 }, (_, c) => ({ 5: 1, 6: -1 })[c] ?? 0)"
        found = result(page, f"{{ forced: {forced}, hand: new Map([[7, 3]]) }}")
        close(found["g"], live.g)
        close(found["pi"], live.gate)
        close(found["maps"], live.y.flatten())
        close(found["winners"], live.winners)

    @pytest.mark.parametrize("where", [0, 2, 4])
    def test_donors_are_pythons(self, mounted, where):
        live = live_donor(digit=3, donor=6, density=0.4)
        live.where = where
        found = result(mounted(live.payload), f"{{ where: {where} }}")
        for whose, row in live.probabilities.items():
            close(found[whose]["probabilities"], row)

    def test_an_s_bar_is_dragged_and_outputs_follow(self, opened):
        page = opened("saliency")
        expect(page.locator(".fbs-headline")).to_have_text("Drag a bar of s: which outputs follow?")
        box = page.locator('[data-lane="s"] [data-channel="5"]').bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + 30
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y - 25, steps=4)
        page.mouse.up()
        expect(page.locator(".fbs-headline")).to_contain_text("outputs rise")
        expect(page.locator(".fbs-sub")).to_contain_text("Input 5: s = ")
        page.get_by_role("button", name="Undo all changes").click()
        expect(page.locator(".fbs-headline")).to_have_text("Drag a bar of s: which outputs follow?")
        page.get_by_role("button", name="Image: a 7").click()
        expect(page.get_by_role("button", name="Image: a 7")).to_have_attribute(
            "aria-pressed", "true"
        )

    def test_the_largest_win_and_new_winners_are_named(self, mounted):
        live = live_saliency("conv4", winners=16)
        page = mounted(live.payload)
        expect(page.locator(".fbs-sub")).to_contain_text("The 16 largest win.")
        strongest = int(live.s.argmax())
        before = winner_mask(live.g[None], 0.25)[0]
        live.own = {strongest: 0.0}
        now = winner_mask(live.g[None], 0.25)[0]
        found = result(page, f"{{ hand: new Map([[{strongest}, 0]]), channel: {strongest} }}")
        close(found["winners"], now)
        fresh = (now & ~before).nonzero().flatten().tolist()
        assert found["fresh"] == fresh and len(fresh) > 1
        expect(page.locator(".fbs-headline")).to_have_text(
            f"{len(fresh)} of 16 winners are new: outputs {', '.join(map(str, fresh))}."
        )

    def test_the_selection_from_the_keyboard(self, opened):
        page = opened("selection")
        expect(page.locator(".fbs-sub")).to_contain_text("There is a tie at the cut")
        page.locator('[data-channel="4"]').focus()
        page.keyboard.press("+")
        expect(page.locator(".fbs-detail")).to_contain_text("Channel 4: g = 0.45, rank 4")
        expect(page.locator(".fbs-sub")).not_to_contain_text("tie at the cut")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".fbs-detail")).to_contain_text("Channel 5:")
        page.locator(".fbs-d").focus()
        page.keyboard.press("End")
        expect(page.locator(".fbs-headline")).to_contain_text("8 of 8 channels win")
        expect(page.locator(".fbs-sub")).to_contain_text("win with g = 0")

    def test_a_channel_of_the_layer_is_forced_by_click_and_key(self, opened):
        page = opened("layer")
        lit = page.locator('.fbs-one button[aria-pressed="true"]')
        expect(lit).to_have_text("as predicted")
        chip = page.locator('[data-lane="g"] [data-channel="1"]')
        chip.click()
        expect(page.locator(".fbs-detail")).to_contain_text("forced on")
        expect(page.locator(".fbs-detail")).to_contain_text("gave way to it")
        expect(lit).to_have_text("force on")
        chip.focus()
        page.keyboard.press("Enter")
        expect(page.locator(".fbs-detail")).not_to_contain_text("forced")
        page.keyboard.press("+")
        expect(page.locator(".fbs-detail")).to_contain_text("Output 1: your g = ")
        expect(lit).to_have_count(0)
        page.locator(".fbs-d").fill("1")
        expect(page.locator(".fbs-headline")).to_contain_text("32 of 32 outputs win")

    def test_a_donor_is_picked(self, opened):
        page = opened("donor")
        page.get_by_role("button", name="Donor of the gates: a 4").click()
        title = page.locator('[data-whose="other"] h3')
        expect(title).to_have_text("With the gates of a 4: a 4")  # its own
        page.locator(".fbs-where").select_option("4")
        expect(page.locator('[data-whose="own"] p')).to_contain_text("Gate of conv4: 20 of 64")

    def test_what_python_says_is_wrong_stands_in_the_picture(self, mounted):
        payload = live_selection([0.2, 0.9]).payload | {"python": True}
        ask = """async ({ g }) => (g[0] > 0.5 ? { pi: Float32Array.from([g[0], 0]) }
                                              : { error: "Your code raised KeyError" })"""
        page = mounted(payload, ask=ask)
        alert = page.get_by_role("alert")
        expect(alert).to_have_text("Your code raised KeyError")
        page.evaluate("live.set({ hand: new Map([[0, 0.95]]) })")
        expect(alert).to_be_hidden()
        expect(page.locator(".fbs-headline")).to_contain_text("1 of 2 channels win")
        page.evaluate("live.set({ hand: new Map([[0, 0.6]]) })")
        expect(page.locator(".fbs-sub")).to_contain_text("gives another gate to channel")

    def test_while_python_computes_the_newest_state_waits(self, mounted):
        payload = live_selection([0.2, 0.9]).payload | {"python": True}
        ask = """(request) => new Promise((done) => {
          (window.asked ??= []).push(request.density);
          window.answer = () => done({ pi: Float32Array.from([0, 0.9]) });
        })"""
        page = mounted(payload, ask=ask)
        page.wait_for_function("window.asked?.length === 1")
        for density in (0.6, 0.7, 0.8):
            page.evaluate(f"live.set({{ density: {density} }})")
            page.wait_for_timeout(40)  # time to draw, and to ask once too often
        assert page.evaluate("asked") == [0.5]
        page.evaluate("answer()")
        page.wait_for_function("asked.length === 2")
        page.evaluate("answer()")  # is drawn, and nothing more is asked
        page.wait_for_timeout(200)
        assert page.evaluate("asked") == [0.5, 0.8]

    def test_each_of_two_views_gets_its_own_answers(self, browser):
        page = browser.new_page()
        page.add_script_tag(content=text_of("widget.js").replace("export default", "void"))
        answers = page.evaluate("""async () => {
          const hear = [], sent = [];
          const model = { on: (_, f) => hear.push(f), send: (message) => sent.push(message) };
          const answers = [0, 1].map((own) => makeAsker(model).ask({ own }));
          for (const { id, request } of sent.reverse()) {
            const buffers = [new DataView(Float32Array.of(request.own).buffer)];
            hear.forEach((f) => f({ id, index: { own: [0, 1] } }, buffers));
          }
          return Promise.all(answers.map(async (answer) => (await answer).own[0]));
        }""")
        page.close()
        assert answers == [0, 1]

    def test_the_whole_network_is_drawn_of_pythons_numbers(self, mounted):
        live = live_network(python=True)
        page = mounted(live.payload, WHOLE, ask="(request) => new Promise((done) => { "
                       "window.request = request; window.done = done; })")  # fmt: skip
        page.wait_for_function("Boolean(window.done)")
        message, (data,) = reply(live, {"id": 1, "request": page.evaluate("request")})
        page.evaluate(
            """([index, values]) => done(Object.fromEntries(Object.entries(index).map(
              ([name, [from, n]]) => [name, Float32Array.from(values.slice(from, from + n))])))""",
            [message["index"], torch.frombuffer(bytearray(data), dtype=torch.float32).tolist()],
        )
        expect(page.locator(".fbs-headline")).to_have_text(
            "It reads a 4, and computes 10 % of its MACs."
        )
        expect(page.locator(".fbs-sub")).to_contain_text("It is 100 % sure.")
