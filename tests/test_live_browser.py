"""The living picture in a real browser: it computes what Python computes, and answers the hand."""

import base64
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from chromium import CHROMIUM
from playwright.sync_api import expect

from fbs_tutorial import count_macs, load_data, load_pretrained, set_density, winner_take_all
from fbs_tutorial.data import as_tensors
from fbs_tutorial.lesson.live import live_network, live_selection
from fbs_tutorial.lesson.live.page import modules_for, save_page, script, snippet, widget_script
from fbs_tutorial.lesson.live.payload import DENSITIES, mean_gates, payload, shrink, text_of
from fbs_tutorial.lesson.live.widget import first_image
from fbs_tutorial.method.gated import evaluating, forced_gates, gated_layers

DRAWINGS = json.loads((Path(__file__).parent / "data" / "strokes.json").read_text())
MOST_CHANGES = 60  # elements that one frame changes, of more than 300
AGREE = [1.0, 0.7, 0.5, 0.3, 0.2]  # densities

pytestmark = [pytest.mark.slow, pytest.mark.needs(chromium=CHROMIUM)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "live.html"
    save_page(payload(), path)
    return path.as_uri()


@pytest.fixture(scope="module")
def engine(browser):
    """Calls a function of the joined script with JSON arguments, in an empty page."""
    page = browser.new_page()
    page.add_script_tag(content=script() + ENGINE)
    page.evaluate("payload => { window.network = readNetwork(payload); }", payload())
    yield page
    page.close()


ENGINE = """
function runAll([images, choices]) {
  const floats = new Float32Array(fromBase64(images).buffer);
  const all = [];
  for (let i = 0; i < floats.length; i += 256) {
    const result = forward(network, floats.slice(i, i + 256), choices);
    all.push({ logits: [...result.logits], macs: result.macs, dense: result.dense,
               layers: result.layers.map((l) => ({ g: [...l.g], winners: [...l.winners] })) });
  }
  return all;
}
const chooseAll = (density) =>
  network.layers.map((l) => ({ k: activeChannels(l.outputs, density) }));
const runAt = ([images, density]) => runAll([images, chooseAll(density)]);
const runMean = ([images, density]) =>
  runAll([images, meanGates(network, chooseAll(density).map((c) => c.k))]);
"""


def encoded(images):
    return base64.b64encode(images.contiguous().numpy().tobytes()).decode()


@pytest.fixture(scope="module")
def images():
    return as_tensors(load_data("digits")[1])[0][:100]


def agree(found, logits, layers):
    """Logits to 1e-4 of the largest; winners too, but for a swap where the cut has no margin."""
    here = torch.tensor([run["logits"] for run in found])
    assert (here - logits).abs().max() < 1e-4 * logits.abs().max()
    for i, layer in enumerate(layers):
        g, winners = layer
        theirs = torch.tensor([run["layers"][i]["winners"] for run in found]).bool()
        for row in (theirs != winners).any(dim=1).nonzero()[:, 0]:
            margin = g[row][winners[row]].min() - g[row][~winners[row]].max()
            assert margin < 1e-4 * g[row].max()


@pytest.mark.parametrize("density", AGREE)
def test_the_browser_computes_what_python_computes(engine, images, density):
    network = set_density(load_pretrained("digits"), density)
    with torch.no_grad():
        logits = network(images)
    layers = [(m.saliency, m.gate != 0) for m in gated_layers(network).values()]
    layers = [(g, winner_take_all(g + 1, density) != 0) for g, _ in layers]
    found = engine.evaluate("runAt", [encoded(images), density])
    agree(found, logits, layers)
    macs = count_macs(network, images)
    assert [run["macs"] for run in found] == macs.active.tolist()
    assert {run["dense"] for run in found} == {macs.dense}


@pytest.mark.parametrize("density", [0.5, 0.3])
def test_the_mean_gate_is_that_of_how_dynamic(engine, images, density):
    network = set_density(load_pretrained("digits"), density)
    means = mean_gates(network, as_tensors(load_data("digits")[0])[0])
    gates, start = {}, 0
    for name, layer in gated_layers(network).items():
        part = means[None, start : start + layer.out_channels]
        gates[name] = winner_take_all(part, density)
        start += layer.out_channels
    with evaluating(network), forced_gates(network, gates):
        logits = network(images)
    found = engine.evaluate("runMean", [encoded(images), density])
    here = torch.tensor([run["logits"] for run in found])
    assert (here - logits).abs().max() < 1e-4 * logits.abs().max()
    assert density in DENSITIES


def test_forced_channels_and_set_values_do_what_forced_gates_do(engine, images):
    """Channel 3 of the last layer is forced off, channel 5 on, and g of channel 9 is set."""
    network = set_density(load_pretrained("digits"), 0.3)
    with torch.no_grad():
        network(images)
    g = network.conv4.saliency.clone()
    g[:, 9] = 2.5
    ranked = g.clone()
    ranked[:, 3], ranked[:, 5] = -1, 1e6
    mask = torch.zeros_like(g).scatter(
        1, ranked.argsort(dim=1, descending=True, stable=True)[:, :20], 1
    )
    with evaluating(network), forced_gates(network, {"conv4": g * mask}):
        logits = network(images)
    run = """images => {
      const choices = chooseAll(0.3);
      const forced = new Int8Array(64);
      [forced[3], forced[5]] = [-1, 1];
      Object.assign(choices[3], { forced, g: new Map([[9, 2.5]]) });
      return runAll([images, choices]);
    }"""
    found = engine.evaluate(run, encoded(images))
    here = torch.tensor([run["logits"] for run in found])
    assert (here - logits).abs().max() < 1e-4 * logits.abs().max()
    assert all(
        run["layers"][3]["winners"][5] and not run["layers"][3]["winners"][3] for run in found
    )


def test_more_forced_on_than_win_and_all_forced_off(engine):
    def winners(k, forced):
        code = "([k, forced]) => [...select([3, 1, 1, 2], k, Int8Array.from(forced)).winners]"
        return engine.evaluate(code, [k, forced])

    assert winners(2, [0, 0, 0, 0]) == [1, 0, 0, 1]
    assert winners(3, [0, 0, 0, 0]) == [1, 1, 0, 1]  # among equals the lower index
    assert winners(1, [0, 1, 1, 0]) == [0, 1, 1, 0]
    assert winners(3, [-1, -1, 0, -1]) == [0, 0, 1, 0]
    assert winners(2, [-1, -1, -1, -1]) == [0, 0, 0, 0]


def test_an_enlarged_image_is_that_of_the_data_set(engine, images):
    counts = shrink(images[:20]).flatten(1).tolist()
    found = engine.evaluate("all => all.map((counts) => [...enlarge(counts)])", counts)
    assert torch.equal(torch.tensor(found), images[:20].flatten(1))


def smooth(stroke):
    """A hand's curve through the points of a stroke (Catmull and Rom)."""
    if len(stroke) < 3:
        return stroke
    ends = [stroke[0], *stroke, stroke[-1]]
    points = []
    for p0, p1, p2, p3 in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for t in (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875):
            points.append(
                [
                    (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                     + (3 * b - a - 3 * c + d) * t**3) / 2
                    for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
                ]
            )  # fmt: skip
    return [*points, stroke[-1]]


def placed(drawing, lean, wide):
    """A drawing on the pad, as shares of its side: sheared, and wider or narrower."""
    return [
        [[(x * wide + lean * (50 - y) + 20) / 140, (y * 0.7 + 10) / 140] for x, y in smooth(stroke)]
        for stroke in drawing["strokes"]
    ]


def recognised(engine, drawings):
    """Share that is read right at d = 0.5, by digit; each drawing leans and is stretched."""
    cases = list(product(drawings, (-0.25, 0, 0.25), (0.8, 1, 1.25)))
    strokes = [placed(*case) for case in cases]
    code = "all => all.map((s) => forward(network, imageOf(s), chooseAll(0.5)).prediction)"
    found = engine.evaluate(code, strokes)
    right = {digit: [] for digit in range(10)}
    for (drawing, *_), prediction in zip(cases, found, strict=True):
        right[drawing["digit"]].append(prediction == drawing["digit"])
    return {digit: sum(each) / len(each) for digit, each in right.items()}


def test_drawn_digits_are_recognised(engine):
    """A hundred drawings of three hands, which no network was trained on."""
    hands = {"first two": [d for d in DRAWINGS if "hand" not in d]}
    hands["third"] = [d for d in DRAWINGS if d.get("hand") == "third"]
    assert [len(drawings) for drawings in hands.values()] == [50, 50]
    shares = {hand: recognised(engine, drawings) for hand, drawings in hands.items()}
    assert min(shares["first two"].values()) >= 0.7
    mean = {hand: sum(each.values()) / 10 for hand, each in shares.items()}
    assert mean["first two"] >= 0.9 and mean["third"] >= 0.85
    assert sum(mean.values()) / 2 >= 0.9


def test_a_drawing_has_the_height_and_the_ink_of_the_data_set(engine):
    code = "s => [...drawn(upright(resample(s)))]"
    for drawing in DRAWINGS[::7]:
        bitmap = torch.tensor(engine.evaluate(code, placed(drawing, 0.2, 1))).view(32, 32)
        assert bitmap[0].any() and bitmap[-1].any()
        assert math.isclose(bitmap.float().mean(), 0.305, abs_tol=0.02)


@pytest.mark.parametrize("strokes", [[], [[]], [[[0.5, 0.5]]], [[[0.5, 0.5], [0.5, 0.5]]]])
def test_too_little_to_read_is_no_image(engine, strokes):
    assert engine.evaluate("s => imageOf(s)", strokes) is None


# The picture under the hand.


@pytest.fixture
def opened(browser, address):
    """A function that opens the page offline and hears every error and request."""
    contexts, heard = [], []

    def open_page(width=1400, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("console", lambda message: heard.append(message.text))
        page.on("request", lambda r: heard.append(r.url) if r.url != address else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []


def headline(page):
    return page.locator(".fbs-headline").inner_text()


def draw(page, digit):
    """Drawing number 0 of a digit, with the mouse; the headline after each of its strokes."""
    box = page.locator(".fbs-pad").bounding_box()
    said = []
    for stroke in placed(DRAWINGS[5 * digit], 0, 1):
        stroke = stroke[::3] + stroke[-1:]
        for i, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if i == 0:
                page.mouse.down()
            if i == len(stroke) // 2:
                page.wait_for_timeout(40)
                said.append(headline(page))
        page.mouse.up()
    page.wait_for_timeout(60)
    return said


def test_untouched_it_already_tells_the_story(opened):
    page = opened()
    assert headline(page) == "It reads a 4, and computes 10 % of its MACs."
    assert "gates of" not in page.locator(".fbs-sub").inner_text()  # a word that is new here
    page.locator(".fbs-compare").select_option("other")
    expect(page.locator(".fbs-sub")).to_contain_text("With the gates of a 9 it reads a 1")
    assert (
        page.locator(".fbs-readout").inner_text().startswith("At density 0.30 the network is right")
    )


def test_what_compares_waits_until_it_is_asked_for(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_content("<style>" + text_of("style.css") + "</style><div id=root></div>")
    page.add_script_tag(content=script())
    few = live_network(beside=False).payload
    page.evaluate("payload => { mount(document.getElementById('root'), payload); }", few)
    compare, button = page.locator(".fbs-compare"), page.locator(".fbs-all")
    marks, before = page.locator("[data-more]"), page.locator(".fbs-curves")
    expect(page.locator(".fbs-dynamic")).to_have_text("A different image would pick other winners.")
    expect(compare).to_be_hidden()
    assert not any(mark.is_visible() for mark in marks.all())
    drawn = before.evaluate("c => c.toDataURL()")
    button.click()
    expect(compare).to_be_visible()
    expect(button).to_be_hidden()
    page.wait_for_timeout(60)
    assert all(mark.is_visible() for mark in marks.all())
    assert before.evaluate("c => c.toDataURL()") != drawn
    page.close()


def test_the_answer_moves_while_a_digit_is_drawn(opened):
    page = opened()
    page.locator(".fbs-clear").click()
    said = draw(page, 3)
    assert headline(page).startswith("It reads a 3")
    assert said[0] != headline(page)
    draw_again = page.locator(".fbs-clear")
    draw_again.click()
    draw(page, 5)
    assert headline(page).startswith("It reads a 5")


def test_a_drag_of_the_density_moves_the_costs(opened):
    page = opened()
    box = page.locator(".fbs-d").bounding_box()
    page.mouse.move(box["x"] + 0.26 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(page.locator(".fbs-headline")).to_contain_text("100 % of its MACs")
    assert page.locator(".fbs-k").all_inner_texts()[3] == "64 of 64 win"
    page.locator('[data-layer="3"] input').fill("8")
    expect(page.locator(".fbs-k").nth(3)).to_have_text("8 of 64 win")
    assert page.locator(".fbs-k").all_inner_texts()[2] == "32 of 32 win"


def test_a_click_forces_a_channel_and_a_drag_sets_its_g(opened):
    page = opened()
    box = page.locator('[data-channel="1"]').bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 30
    detail = page.locator(".fbs-detail")
    page.mouse.click(x, y)
    expect(detail).to_contain_text("Channel 1:")
    expect(detail).to_contain_text("forced")
    page.mouse.click(x, y)
    expect(detail).not_to_contain_text("forced")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 40, steps=4)
    page.mouse.up()
    expect(detail).to_contain_text("Channel 1: your g = ")
    expect(detail).to_contain_text("it wins and is computed")
    lit = page.locator('.fbs-one button[aria-pressed="true"]')
    expect(lit).to_have_count(0)
    page.locator(".fbs-reset").click()
    expect(detail).not_to_contain_text("your g")
    expect(page.locator(".fbs-reset")).to_be_hidden()
    expect(lit).to_have_text("as predicted")


def test_a_force_says_who_takes_the_place_and_an_accuracy_that_was_not_measured_is_not_claimed(
    opened,
):
    page = opened()
    readout, detail = page.locator(".fbs-readout"), page.locator(".fbs-detail")
    marker = page.locator(".fbs-curves")
    before = marker.evaluate("c => c.toDataURL()")
    page.get_by_role("button", name="force off").click()  # of the strongest winner
    expect(detail).to_contain_text("took its place, so as many win as before")
    expect(page.locator(".fbs-k").nth(3)).to_have_text("20 of 64 win")
    expect(readout).to_contain_text("was not measured")
    assert marker.evaluate("c => c.toDataURL()") != before
    page.locator(".fbs-reset").click()
    expect(readout).to_contain_text("At density 0.30 the network is right on")
    assert marker.evaluate("c => c.toDataURL()") == before
    page.locator('[data-layer="3"] input').fill("8")
    expect(readout).to_contain_text("was not measured")


def test_on_an_empty_pad_nothing_is_read_and_nobody_wins(opened):
    page = opened()
    page.locator(".fbs-clear").click()
    expect(page.locator(".fbs-headline")).to_have_text("Draw a digit.")
    assert page.locator(".fbs-k").all_inner_texts()[3] == "20 of 64 will win"
    expect(page.locator(".fbs-bars .fbs-first")).to_have_count(0)
    assert "".join(page.locator(".fbs-bars b").all_inner_texts()) == ""
    expect(page.locator(".fbs-detail")).to_contain_text("nothing to read yet")
    draw(page, 3)
    expect(page.locator(".fbs-headline")).to_contain_text("It reads a 3")


def test_everything_works_from_the_keyboard(opened):
    page = opened()
    page.locator(".fbs-pad").focus()
    page.keyboard.press("8")
    expect(page.locator(".fbs-headline")).to_contain_text("It reads an 8")
    page.keyboard.press("Delete")
    page.keyboard.press("Space")
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator(".fbs-headline")).to_contain_text("It reads a 1")
    page.locator(".fbs-d").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".fbs-readout")).to_contain_text("At density 0.31")
    page.locator('[data-channel="0"]').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".fbs-detail")).to_contain_text("Channel 1:")
    page.keyboard.press("Enter")
    expect(page.locator(".fbs-detail")).to_contain_text("forced")
    page.keyboard.press("+")
    expect(page.locator(".fbs-detail")).to_contain_text("your g = ")


def test_the_winners_move_together_and_back(opened):
    page = opened(reduced_motion="reduce")
    kernels = page.locator('[data-layer="2"] canvas')
    before = kernels.evaluate("c => c.toDataURL()")
    for label in ("Move the winners together", "Put them back in place"):
        page.get_by_role("button", name=label).click()
        page.wait_for_timeout(60)
        assert (kernels.evaluate("c => c.toDataURL()") == before) == label.startswith("Put")


@pytest.mark.parametrize(
    ("layer", "sentence"), [("conv1", "always chooses the same"), ("conv4", "also win for")]
)
def test_each_layer_says_how_far_it_chooses(opened, layer, sentence):
    page = opened()
    page.locator(".fbs-compare").select_option("other")
    page.get_by_role("button", name=layer).click()
    expect(page.locator(".fbs-title")).to_have_text(f"Look inside {layer}")
    expect(page.locator(".fbs-dynamic")).to_contain_text(sentence)


def test_one_frame_computes_once_and_changes_few_elements(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_content("<style>" + text_of("style.css") + "</style><div id=root></div>")
    page.add_script_tag(content=script())
    page.evaluate("payload => { mount(document.getElementById('root'), payload); }", payload())
    page.locator(".fbs-compare").select_option("other")
    changes = page.evaluate("""async () => {
      const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      const whole = forward;
      const slider = document.querySelector(".fbs-d");
      let runs = 0;
      window.forward = (...given) => { runs += 1; return whole(...given); };
      const most = [];
      for (let i = 5; i <= 100; i += 5) {
        await frame();
        const changed = new Set();
        const watch = new MutationObserver((all) => all.forEach((one) => changed.add(one.target)));
        watch.observe(document.body, { subtree: true, childList: true, attributes: true });
        runs = 0;
        for (const d of [i, i, i]) {
          slider.value = d / 100;
          slider.dispatchEvent(new Event("input"));
        }
        await frame();
        most.push([runs, changed.size]);
        watch.disconnect();
      }
      return most;
    }""")
    page.close()
    assert {runs for runs, _ in changes} == {3}  # the image, the donor of the gates, both together
    assert max(changed for _, changed in changes) <= MOST_CHANGES


@pytest.mark.parametrize("width", [1400, 700, 400])
def test_fits_its_width_and_axe_finds_no_serious_fault(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ends = page.evaluate("""() => [...document.querySelectorAll(".fbs-live canvas, .fbs-live p")]
      .map((e) => e.getBoundingClientRect().right)""")
    assert max(ends) <= width
    page.locator('[data-channel="0"]').focus()
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_a_finger_draws_and_taps(opened):
    page = opened(400, has_touch=True, is_mobile=True)
    page.locator('[data-channel="2"]').tap()
    expect(page.locator(".fbs-detail")).to_contain_text("forced")
    page.locator(".fbs-clear").tap()
    box = page.locator(".fbs-pad").bounding_box()
    x = box["x"] + box["width"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.1), *(("touchMove", i / 10) for i in range(2, 10))):
        points = [{"x": x, "y": box["y"] + share * box["height"]}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator(".fbs-headline")).to_contain_text("It reads a 1")


def test_without_scripts_a_sentence_remains(opened):
    page = opened(java_script_enabled=False)
    assert "needs scripts, which are blocked here" in page.locator("noscript").inner_text()


def test_two_pictures_on_a_page_do_not_disturb_each_other(browser):
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_content("<div id=a></div><div id=b></div>")
    page.add_script_tag(content=script())
    page.evaluate(
        "payload => { for (const id of 'ab') mount(document.getElementById(id), payload); }",
        payload(),
    )
    page.locator("#b .fbs-thumbs button").nth(7).click()
    expect(page.locator("#b .fbs-headline")).to_contain_text("It reads a 7")
    assert page.locator("#a .fbs-headline").inner_text().startswith("It reads a 4")
    page.close()


HOST = """async ([esm, state]) => {
  const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  const heard = {};
  const tell = (name, ...given) => (heard[name] ?? []).forEach((handler) => handler(...given));
  window.host = { state, heard, tell, saves: 0, sent: [] };
  const model = {
    get: (name) => state[name],
    set(name, value) { state[name] = value; tell(`change:${name}`); },
    save_changes() { host.saves += 1; },
    on(name, handler) { (heard[name] ??= []).push(handler); },
    off(name, handler) { heard[name] = heard[name].filter((one) => one !== handler); },
    send(message) { host.sent.push(message); },
  };
  host.model = model;
  host.render = module.default.render;
  host.clean = module.default.render({ model, el: document.body });
}"""


@pytest.fixture
def host(browser):
    """A function that renders the widget as anywidget does, from a blob and into a host's model."""
    pages = []

    def render(live):
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        pages.append(page)
        state = {name: live.trait_metadata(name, "to_json") for name in live.moves}
        state = {
            name: to_json(getattr(live, name), live) if to_json else getattr(live, name)
            for name, to_json in state.items()
        }
        modules = modules_for(live.payload)
        page.evaluate(HOST, [widget_script(modules), state | {"payload": live.payload}])
        return page

    yield render
    for page in pages:
        page.close()


def test_the_widget_keeps_to_what_every_host_of_anywidget_offers(host, images):
    page = host(live_network())
    page.locator(".fbs-thumbs button").nth(7).click()
    page.wait_for_function("host.saves === 1")
    sent = torch.tensor(page.evaluate("host.state.image")).view(1, 16, 16)
    assert torch.allclose(sent, first_image(7), atol=1e-6)
    page.evaluate("host.model.set('density', 1)")
    expect(page.locator(".fbs-headline")).to_contain_text("100 % of its MACs")
    page.evaluate("host.clean()")
    assert page.evaluate("Object.values(host.heard).flat().length") == 0


def test_floats_are_taken_from_any_offset_of_a_message(host):
    live = live_selection([0.2, 0.9], select=winner_take_all)
    page = host(live)
    page.wait_for_function("host.sent.length === 1")
    page.evaluate("""() => {
      const bytes = new Uint8Array(3 + 8);
      bytes.set(new Uint8Array(Float32Array.from([0, 0.9]).buffer), 3);
      const message = { id: host.sent[0].id, index: { pi: [0, 2] } };
      host.tell("msg:custom", message, [new DataView(bytes.buffer, 3, 8)]);
    }""")
    expect(page.locator(".fbs-headline")).to_contain_text("1 of 2 channels win")
    expect(page.locator(".fbs-pi")).to_have_attribute("aria-label", "Gate of each channel: 0, 0.90")
    page.evaluate("host.clean()")
    assert page.evaluate("Object.values(host.heard).flat().length") == 0


def test_a_menu_tells_python_which_selection_is_meant(host):
    live = live_selection([0.2, 0.9], select={"mine": winner_take_all, "yours": winner_take_all})
    page = host(live)
    page.wait_for_function("host.sent.length === 1")
    page.locator(".fbs-way").select_option("yours")
    page.wait_for_function("host.saves === 1")
    assert page.evaluate("host.state.way") == "yours"
    page.evaluate("host.model.set('way', 'mine')")
    message = "{ id: host.sent[0].id, index: { pi: [0, 2] } }"
    page.evaluate(
        f"host.tell('msg:custom', {message}, [new DataView(Float32Array.of(0.2, 0.9).buffer)])"
    )
    expect(page.locator(".fbs-way")).to_have_value("mine")
    expect(page.locator(".fbs-sub")).to_contain_text("“mine” gives another gate to channel 0")


NOTEBOOKS = {  # how one hands out the outputs of a cell: what holds them, and each
    "Jupyter": ("jp-OutputArea", "<div class=jp-OutputArea-child>{}</div>"),
    "the site": ("cell_output", "{}"),
    "nbviewer": ("output_wrapper", "<div class=output_area>{}</div>"),
}


@pytest.mark.parametrize("where", NOTEBOOKS)
def test_a_still_picture_goes_when_the_living_one_is_in_the_page(browser, where):
    holds, each = NOTEBOOKS[where]
    outputs = ["<p>an error</p>", "<img src='data:,' alt=still>", "<pre>its sentence</pre>"]
    living = snippet(live_selection([0.2, 0.9]).payload)
    inside = "".join(map(each.format, [*outputs, f"<div class='output text_html'>{living}</div>"]))
    if where == "nbviewer":
        inside = f"<div class=output>{inside}</div>"
    page = browser.new_page()
    page.set_content(f"<!DOCTYPE html><img src='data:,'><div class={holds}>{inside}</div>")
    expect(page.locator(".fbs-headline")).to_contain_text("1 of 2 channels win")
    expect(page.get_by_alt_text("still")).to_be_hidden()
    assert page.get_by_text("its sentence").is_hidden()
    assert page.get_by_text("an error").is_visible()
    page.close()


def test_a_still_picture_goes_though_the_widget_is_drawn_before_it_is_placed(host):
    page = host(live_selection([0.2, 0.9]))
    page.evaluate("""() => {
      const outputs = document.createElement("div"), one = document.createElement("div");
      outputs.className = "jp-OutputArea";
      outputs.innerHTML = "<div><img src='data:,' alt=still></div><pre>its sentence</pre>";
      host.clean();
      host.clean = host.render({ model: host.model, el: one });
      outputs.append(one);
      document.body.append(outputs);
    }""")
    expect(page.get_by_alt_text("still")).to_be_hidden()
    expect(page.get_by_text("its sentence")).to_be_hidden()


def test_the_saved_cell_of_notebook_00_is_alive(browser, tmp_path):
    notebook = Path(__file__).parents[1] / "notebooks" / "00_start_here.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    html = [
        "".join(o["data"]["text/html"])
        for c in cells
        for o in c.get("outputs", [])
        if "data-fbs-live" in str(o.get("data", {}).get("text/html", ""))
    ]
    assert len(html) == 1  # weights are embedded once
    assert script() in html[0]  # else run the notebook again: make notebooks
    still = "<div class=jp-OutputArea><div><img src='data:,' alt=still></div>"
    (tmp_path / "saved.html").write_text(f"<!DOCTYPE html>{still}<div>{html[0]}</div></div>")
    page = browser.new_page()
    page.goto((tmp_path / "saved.html").as_uri())
    expect(page.locator(".fbs-headline")).to_contain_text("It reads a 4")
    expect(page.locator("img")).to_be_hidden()
    page.close()
