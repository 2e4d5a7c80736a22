"""Gates that multiply gates: what `stability` trains, and how it finds where NaN begins."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import stability as module
from fbs_tutorial.bench.stability import (
    FORMS,
    UPDATES,
    Plan,
    largest_values,
    origin,
    stability,
    table,
)
from fbs_tutorial.lesson.plots import ends_of_gates, losses_of_gates, plt
from fbs_tutorial.lesson.plots.trials import said_of_gates
from fbs_tutorial.method.gated import ChannelPruning
from fbs_tutorial.training.parallel import join_team
from fbs_tutorial.training.settings import RunError
from fbs_tutorial.training.splits import load_splits

STORED = Path(__file__).parents[1] / "benchmarks" / "stability"
QUICK = Plan(width=0.1, steps=2, batch=8, images=40)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("stability") / "digits.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SECONDS", 0.0)
        patch.setattr(module, "ROUNDS", 1)
        patch.setattr(module, "CHECKED", 20)
        found = stability(QUICK, out, command="stability", say=lambda line: None)
    assert json.loads(out.read_text()) == found
    return found


def test_every_form_is_trained_by_every_update(results):
    assert [(r["form"], r["update"]) for r in results["rows"]] == [
        (f, u) for f in FORMS for u in UPDATES
    ]
    for row in results["rows"]:
        assert len(row["first"]) == len(row["last"]) == 57  # 55 of 3x3, two shortcuts
        assert len(row["losses"]) == (row["diverged"] or QUICK.steps + 1) - 1
    assert set(results["clock"]["ms"]) == set(FORMS)


def test_the_stored_runs_are_what_the_page_says_of_them():
    """SGD alone is over at once with gates as they are, and with no others; values had grown."""
    rows = json.loads((STORED / "digits.json").read_text())["rows"]
    plain, normal, raw, small = ([r for r in rows if r["form"] == form] for form in FORMS)
    assert not any(row["diverged"] for row in [*plain, *normal])
    late = [row["diverged"] for row in small if row["update"] == UPDATES[0]]
    assert all(2 <= update <= 5 for update in late) and len(late) == 3
    best = max(row["accuracy"] or 0 for row in [*normal, *raw, *small])
    assert best < min(r["accuracy"] for r in plain if r["update"] == UPDATES[1])
    behind = [
        row["accuracy"] or 0 for row in [*normal, *raw, *small] if row["update"] == UPDATES[0]
    ]
    assert max(behind) < min(r["accuracy"] for r in plain if r["update"] == UPDATES[0])
    over = [row for row in raw if row["update"] == UPDATES[0]]
    assert all(row["diverged"] == 2 and row["where"]["weights"] is None for row in over)
    assert all(0 < row["where"]["module"]["place"] < 10 for row in over)
    assert min(max(r["first"]) for r in raw) > 1000 * max(max(r["first"]) for r in normal)


def test_where_it_begins_is_the_first_output_that_is_not_finite():
    network = _chain([1.0, 1.0, 1.0])
    assert module._where(network, [1.0, 2.0, 3.0]) == {"weights": None, "module": None}
    place = {"name": "1", "place": 1, "of": 3}
    assert module._where(network, [1.0, math.inf, math.nan]) == {"weights": None, "module": place}
    with torch.no_grad():
        network[1].predictor.bias.fill_(math.inf)
    assert module._where(network, [1.0, math.nan, math.nan])["weights"] == "1.predictor.bias"


def _chain(gates):
    """Blocks whose gates are these, the same for every image."""

    def block(gate):
        made = ChannelPruning(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), normalize=False)
        nn.init.zeros_(made.predictor.weight)
        nn.init.constant_(made.predictor.bias, gate)
        return made

    return nn.Sequential(*map(block, gates), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("update", UPDATES)
def test_a_forward_that_overflows_is_found_before_it_changes_a_weight(place, update, monkeypatch):
    """Finite weights, a product that is not: the block is named, and no parameter is blamed."""
    network = _chain([3e38 if i == place else 1.0 for i in range(3)])
    before = {name: value.clone() for name, value in network.named_parameters()}
    monkeypatch.setattr(module, "_network", lambda *_: network)
    images, labels = torch.rand(40, 3, 4, 4), torch.randint(3, (40,))
    row = module._trained(QUICK, 0, "gates as they are", update, ((images, labels),) * 2 + (3,))
    found = {"name": str(place), "place": place, "of": 3}
    assert row["diverged"] == 1 and row["where"] == {"weights": None, "module": found}
    assert all(value.equal(before[name]) for name, value in network.named_parameters())
    assert row["losses"] == row["first"] == row["last"] == [] and row["accuracy"] is None


def test_nothing_stays_on_the_network():
    network = nn.Sequential(nn.BatchNorm2d(1))
    with largest_values(network) as values:
        network(torch.ones(2, 1, 1, 1))
    network(torch.ones(2, 1, 1, 1))
    assert values == [0.0] and not network[0]._forward_hooks


def test_it_goes_on_where_it_stopped(results, tmp_path, monkeypatch):
    out = tmp_path / "digits.json"
    half = {key: value for key, value in results.items() if key != "clock"}
    out.write_text(json.dumps(half | {"rows": results["rows"][:-1]}))
    row = results["rows"][-1]
    monkeypatch.setattr(module, "_trained", lambda *_: row)
    monkeypatch.setattr(module, "_clock", lambda *_: results["clock"])
    found = stability(QUICK, out, say=lambda line: None)
    assert found["rows"] == results["rows"] and found["clock"] == results["clock"]
    monkeypatch.setattr(module, "load_splits", None)  # nothing is left to do, the clock is kept
    monkeypatch.setattr(module, "_clock", None)
    assert stability(QUICK, out, say=lambda line: None) == found == json.loads(out.read_text())


def test_other_settings_are_refused(results, tmp_path, monkeypatch):
    out = tmp_path / "digits.json"
    out.write_text(json.dumps(results))
    usual = module.usual_recipe
    monkeypatch.setattr(module, "usual_recipe", lambda data: replace(usual(data), weight_decay=0.1))
    with pytest.raises(RunError, match=r"another comparison \(its recipe\)"):
        stability(QUICK, out, say=lambda line: None)


def test_the_clock_looks_for_other_programs_while_it_runs(monkeypatch):
    said = []

    def busy(_device, meanwhile):
        said.append("before")
        meanwhile()
        said.append("after")
        return "others"

    class Timing:
        median = first_quartile = third_quartile = 0.5

    def race(calls, *_, **__):
        said.append("race")
        return dict.fromkeys(calls, Timing)

    monkeypatch.setattr(module, "busy", busy)
    monkeypatch.setattr(module, "race", race)
    parts = (torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.long)), None, 10
    clock = module._clock(QUICK, 0, parts, "cpu")
    assert said == ["before", "race", "after"] and clock["busy"] == "others"
    assert clock["ms"] == dict.fromkeys(FORMS, [500.0] * 3)


def test_the_table_and_the_picture_say_what_was_found(results):
    place = {"weights": None, "module": {"name": "a", "place": 5, "of": 57}}
    over = {"diverged": 2, "where": place}
    over |= {"losses": [3.0], "accuracy": None}
    fine = {"diverged": None, "losses": [9.0], "accuracy": 0.1}
    rows = [row | fine for row in results["rows"]]
    broken = next(i for i, row in enumerate(rows) if row["form"] == "gates as they are")
    rows[broken] |= over
    made = results | {"rows": rows}
    assert "| 1 of 1 (step 2) |" in table(made) and table(made).count("\n") == 9
    figure, sentence = losses_of_gates(made, "gates")
    assert "gates as they are: 1 of 2 runs not finite" in sentence and "at update 2" in sentence
    words = (
        "still finite and block 6 of 57 is the first whose output is not; small predictors: 0 of 2"
    )
    assert words in sentence and "gates as they are NaN" in sentence.splitlines()[-2]
    assert sentence.splitlines()[-3].startswith("Validation accuracy")
    place["weights"] = "a.bias"
    assert "where the update before has already broken weights;" in said_of_gates(made)
    place |= {"weights": None, "module": None}
    assert "where the weights are still finite; small" in said_of_gates(made)
    assert [axes.get_title() for axes in figure.axes] == [*UPDATES, "after the last update"]
    assert [text.get_text() for text in figure.axes[-1].texts] == ["NaN"]
    ends, same = ends_of_gates(made, "ends")
    assert same == "\n".join(sentence.splitlines()[-3:])
    assert [text.get_text() for text in ends.axes[0].texts] == ["NaN at update 2"]
    assert [line.get_xdata().tolist() for line in ends.axes[1].lines] == [[10.0]] * len(FORMS)
    for drawn in (figure, ends):
        plt.close(drawn)


def test_a_form_that_is_younger_than_the_clock_has_no_time(results):
    clock = {"ms": {form: [5.0] * 3 for form in FORMS if form != "small predictors"}, "busy": ""}
    lines = table(results | {"clock": clock}).splitlines()
    assert [bool(line.split("|")[-2].strip()) for line in lines[2:]] == [
        True,
        True,
        True,
        False,
    ] * 2


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(RunError, match="model must be one of digitsnet"):
        Plan(model="none")
    for options, words in (
        ({"steps": 1}, "steps must be an int of at least 2, got 1"),
        ({"batch": 8.0}, r"batch must be an int of at least 2, got 8\.0"),
        ({"width": 0.0}, r"width must be a number in \(0, 1\], got 0\.0"),
        ({"width": math.nan}, r"width must be a number in \(0, 1\], got nan"),
        ({"lr": math.inf}, "lr must be a number above 0, got inf"),
        ({"size": 0}, "size must be an int of at least 8, got 0"),
        ({"seeds": ()}, r"seeds must be one value or several that differ, .* got \(\)"),
        ({"seeds": (0, 0)}, r"seeds must be one value or several that differ, .* got \(0, 0\)"),
        ({"seeds": (-1,)}, r"each an int of at least 0, got \(-1,\)"),
    ):
        with pytest.raises(RunError, match=words):
            Plan(**options)


@pytest.mark.parametrize(("model", "channels"), [("digitsnet", 1), ("resnet56", 3)])
def test_grey_images_are_repeated_for_networks_of_colour_alone(model, channels, monkeypatch):
    monkeypatch.setattr(module, "CHECKED", 20)
    plan = replace(QUICK, model=model)
    with join_team() as team:
        splits = load_splits(plan.data, plan.recipe, 0, False, team)
    (images, _), (validation, _), classes = module._in_memory(plan, splits)
    assert images.shape[:2] == (40, channels) and validation.shape[:2] == (20, channels)
    assert classes == 10


def test_images_of_colour_are_refused_by_a_network_of_grey_ones(monkeypatch):
    coloured = [torch.rand(8, 3, 16, 16), torch.zeros(8, dtype=torch.long)]
    splits = SimpleNamespace(train=coloured, validation=coloured, num_classes=10)
    monkeypatch.setattr(module, "spread", lambda part, count: part)
    monkeypatch.setattr(module, "in_order", lambda part, batch: [part])
    with pytest.raises(RunError, match="model must take images of 3 channels, got digitsnet"):
        module._in_memory(replace(QUICK, model="digitsnet"), splits)


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    assert main(["stability", "--model", "none", "--out", str(tmp_path / "a.json")]) == 2
    assert "model must be one of digitsnet" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(STORED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_stored_is_whole_and_shown(path):
    results = json.loads(path.read_text())
    wanted = {(s, f, u) for s in results["plan"]["seeds"] for f in FORMS for u in UPDATES}
    assert {(row["seed"], row["form"], row["update"]) for row in results["rows"]} == wanted
    assert len(results["rows"]) == len(wanted)
    page = (STORED.parent / "README.md").read_text()
    assert table(results) in page and origin(results) in page
