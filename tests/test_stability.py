"""Gates that multiply gates: what `stability` trains, and how it finds where NaN begins."""

import json
import math
from pathlib import Path

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
from fbs_tutorial.lesson.plots import losses_of_gates, plt
from fbs_tutorial.method.gated import ChannelPruning
from fbs_tutorial.training.settings import RunError

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
    plain, normal, raw = ([r for r in rows if r["form"] == form] for form in FORMS)
    assert not any(row["diverged"] for row in [*plain, *normal])
    over = [row for row in raw if row["update"] == UPDATES[0]]
    assert all(row["diverged"] == 2 and row["where"]["weights"] for row in over)
    assert min(max(r["first"]) for r in raw) > 1000 * max(max(r["first"]) for r in normal)


def test_where_it_begins_is_the_first_output_that_is_not_finite():
    def block(conv):
        return ChannelPruning(conv, nn.BatchNorm2d(2), normalize=False)

    network = nn.Sequential(*(block(nn.Conv2d(2, 2, 1)) for _ in range(3))).train()
    images = torch.rand(4, 2, 3, 3)
    assert module._where(network, images) == {"weights": None, "module": None}
    with torch.no_grad():
        network[1].predictor.bias.fill_(math.inf)
    assert module._where(network, images) == {
        "weights": "1.predictor.bias",
        "module": {"name": "1", "place": 1, "of": 3},
    }


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
    assert stability(QUICK, out, say=lambda line: None)["rows"] == results["rows"]


def test_the_table_and_the_picture_say_what_was_found(results):
    over = {"diverged": 2, "where": {"weights": "a.bias", "module": None}}
    over |= {"losses": [3.0], "accuracy": None}
    raw = [r | {"diverged": None, "losses": [9.0], "accuracy": 0.1} for r in results["rows"][-2:-1]]
    lost = [*raw, results["rows"][-1] | over]
    made = results | {"rows": [*results["rows"][:-2], *lost]}
    assert "| 1 of 1 (step 2) |" in table(made) and table(made).count("\n") == 7
    figure, sentence = losses_of_gates(made, "gates")
    assert "gates as they are: 1 of 2 runs not finite" in sentence and "at update 2" in sentence
    assert sentence.endswith("where the update before has already broken weights.")
    assert [axes.get_title() for axes in figure.axes] == list(UPDATES)
    plt.close(figure)


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(RunError, match="model must be one of digitsnet"):
        Plan(model="none")
    with pytest.raises(RunError, match="steps must be an int of at least 2, got 1"):
        Plan(steps=1)


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    assert main(["stability", "--model", "none", "--out", str(tmp_path / "a.json")]) == 2
    assert "model must be one of digitsnet" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(STORED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_stored_is_whole_and_shown(path):
    results = json.loads(path.read_text())
    assert len(results["rows"]) == 6 * len(results["plan"]["seeds"])
    page = (STORED.parent / "README.md").read_text()
    assert table(results) in page and origin(results) in page
