"""The living picture in a real browser: it computes what Python computes, and answers the hand."""

import base64
import json
import shutil

import pytest
import torch
from playwright.sync_api import sync_playwright

from fbs_tutorial import count_macs, load_data, load_pretrained, set_density, winner_take_all
from fbs_tutorial.data import as_tensors
from fbs_tutorial.lesson.live.page import save_page, script
from fbs_tutorial.lesson.live.payload import DENSITIES, mean_gates, payload
from fbs_tutorial.method.gated import evaluating, forced_gates, gated_layers

NAMES = ("chromium", "chromium-browser", "chrome", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
AGREE = [1.0, 0.7, 0.5, 0.3, 0.2]  # densities

pytestmark = [pytest.mark.slow, pytest.mark.needs(chromium=CHROMIUM)]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


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
const chooseAll = (density) => network.layers.map((l) => ({ k: activeChannels(l.outputs, density) }));
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
    from fbs_tutorial.lesson.live.payload import shrink

    counts = shrink(images[:20]).flatten(1).tolist()
    found = engine.evaluate("all => all.map((counts) => [...enlarge(counts)])", counts)
    assert torch.equal(torch.tensor(found), images[:20].flatten(1))
    json.dumps(found)
