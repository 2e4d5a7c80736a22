"""Does it pay to choose: what `choice` trains, what it may decide on, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import choice as module
from fbs_tutorial.bench.choice import (
    CHOOSES,
    SCALES,
    STATIC,
    WIDER,
    Plan,
    choice,
    chosen_gain,
    lines,
    paired,
    predictions,
    report,
    verdict,
)
from fbs_tutorial.lesson.plots import growing_pool, plt
from fbs_tutorial.training.settings import RunError

STORED = Path(__file__).parents[1] / "benchmarks" / "choice"
QUICK = Plan("digits", "digitsnet", 0.25, (0.5, 1.0), (0.3, 3.0), (0, 1), 1, 150)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("choice") / "digits.json"
    found = choice(QUICK, out, command="choice", say=lambda line: None)
    assert json.loads(out.read_text()) == found
    return found


def test_as_many_win_whatever_there_is_to_choose_from(results):
    found = lines(results)
    assert list(found) == [
        (STATIC, 0.25), (WIDER, None), (SCALES, 0.25), (CHOOSES, 0.5), (CHOOSES, 1.0),
    ]  # fmt: skip
    static, wider, scales, middle, large = (rows[0]["macs"] for rows in found.values())
    assert static < scales < middle < large <= wider < 1.3 * large  # a channel more
    predictors = 9 * 64 + 64 * 16  # a little more than they cost: the rest is the same
    assert large - static < 10 * predictors
    assert [rows[0]["density"] for rows in found.values()] == [None, None, 1.0, 0.5, 0.25]
    assert set(found[SCALES, 0.25][0]["distinct_sets"].values()) == {1}, "they never choose"


def test_the_first_seed_tries_every_gain_and_the_others_have_the_best(results):
    gains = {seed: {r["gain"] for r in results["rows"] if r["seed"] == seed} for seed in (0, 1)}
    assert gains == {0: {None, 0.3, 3.0}, 1: {None, chosen_gain(results)}}
    worse = [r | {"test_accuracy": 1.0, "val_accuracy": 0.0} for r in results["rows"]]
    other = {0.3: 3.0, 3.0: 0.3}[chosen_gain(results)]
    rows = [w if r["gain"] == chosen_gain(results) else r for r, w in zip(results["rows"], worse)]  # noqa: B905
    assert chosen_gain(results | {"rows": rows}) == other, "validation images decide"


def test_all_have_the_same_epochs(monkeypatch, tmp_path):
    spent = {}

    def train(lab, network, kind, epochs, **_):
        spent[id(network)] = spent.get(id(network), 0) + epochs
        network.epochs = epochs + getattr(network, "epochs", 0)
        return network.eval()

    seen = []
    monkeypatch.setattr(module.Lab, "train", train)
    monkeypatch.setattr(module, "_measured", lambda lab, net, d: seen.append(net.epochs) or {
        "val_accuracy": 0.5, "test_accuracy": 0.5, "macs": 1.0,
    })  # fmt: skip
    gate = module.Lab.gate
    monkeypatch.setattr(module.Lab, "gate", lambda lab, plain, *how: _as_old(gate, lab, plain, how))
    choice(Plan("digits", "digitsnet", 0.25, (0.5,), epochs=3), tmp_path / "a.json", say=str)
    assert seen == [6] * 4


def _as_old(gate, lab, plain, how):
    network = gate(lab, plain, *how)
    network.epochs = getattr(plain, "epochs", 0)
    return network


def test_it_goes_on_where_it_stopped(results, tmp_path, monkeypatch):
    out = tmp_path / "digits.json"
    out.write_text(json.dumps(results | {"rows": results["rows"][:-1]}))
    trained = []
    monkeypatch.setattr(
        module.Lab, "train", lambda self, net, kind, *_: trained.append(kind) or net
    )
    found = choice(QUICK, out, say=lambda line: None)
    assert trained == ["plain", "gated"] and len(found["rows"]) == len(results["rows"])


def test_seeds_may_come_in_any_order_and_later(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Lab, "train", lambda lab, network, *_: network.eval())
    made = {"val_accuracy": 0.5, "test_accuracy": 0.5, "macs": 1.0}
    monkeypatch.setattr(module, "_measured", lambda *_: made)
    out = tmp_path / "a.json"
    for seeds in ((1, 0), (0, 2)):  # 1 has tried the gains, and comes first in the second call, too
        found = choice(replace(QUICK, seeds=seeds), out, say=lambda line: None)
    assert found["tried_on"] == 1 and found["plan"]["seeds"] == [0, 1, 2]
    assert found["test_images"] == 500
    gains = [{r["gain"] for r in found["rows"] if r["seed"] == seed} for seed in (0, 1, 2)]
    assert gains == [{None, 0.3}, {None, 0.3, 3.0}, {None, 0.3}]
    half = [r for r in found["rows"] if r["seed"] == 1][:3]
    out.write_text(json.dumps(found | {"rows": half}))
    again = choice(replace(QUICK, seeds=(2,)), out, say=lambda line: None)
    assert {r["gain"] for r in again["rows"] if r["seed"] == 1} == {None, 0.3, 3.0}


def test_other_settings_are_refused(results, tmp_path, monkeypatch):
    out = tmp_path / "digits.json"
    out.write_text(json.dumps(results))
    usual = module.usual_recipe
    monkeypatch.setattr(module, "usual_recipe", lambda data: replace(usual(data), weight_decay=0.1))
    with pytest.raises(RunError, match=r"another comparison \(its recipe\)"):
        choice(QUICK, out, say=lambda line: None)


def test_the_search_for_a_wider_network_ends():
    class Lab:
        plan = Plan("digits", "digitsnet", 0.9, (1.0,))

        def new(self, width):
            return width

        def gate(self, *_):
            return 2.0

        def macs(self, network):
            return network

    with pytest.raises(RunError, match="winners must leave a static network of full width more"):
        module._width_as_dear(Lab())


def test_one_seed_decides_nothing(results):
    alone = results | {"rows": [row for row in results["rows"] if row["seed"] == 0]}
    assert predictions(alone).count("| one seed, not decided |") == 3
    assert not {"nan", "±", "refuted", "held"} & set(report(alone).split())
    assert "±" in predictions(results) and "±" in verdict(results)


def test_differences_are_paired_by_seed(results):
    rows = [
        {"seed": seed, "method": method, "pool": pool, "gain": None, "test_accuracy": test}
        for method, pool, tests in ((STATIC, 0.25, (0.5, 0.7)), (WIDER, None, (0.4, 0.5)))
        for seed, test in enumerate(tests)
    ]
    made = results | {"rows": [*rows, *(r for r in results["rows"] if r["gain"] is not None)]}
    difference, error = paired(made, (STATIC, 0.25), (WIDER, None))
    assert difference == pytest.approx(15) and error == pytest.approx(5)


def test_a_prediction_holds_by_two_standard_errors(results):
    def told(own, scales):
        rows = [
            row | {"test_accuracy": value[row["seed"]], "own_gates": 0.9, "mean_winners": 0.88}
            for row in results["rows"]
            for value in [own if row["method"] == CHOOSES else scales]
        ]
        return predictions(results | {"rows": rows})

    assert told((0.9, 0.92), (0.7, 0.71)).count("| held |") == 3
    assert told((0.9, 0.92), (0.9, 0.71)).count("| held |") == 1  # the seeds disagree


def test_the_report_and_the_picture_say_what_was_found(results):
    text = report(results)
    assert predictions(results).count("| refuted |") + predictions(results).count("| held |") == 3
    assert (
        text.count("\n|") == 7 + 5 + 8
        and text.count(", chosen |") == 3
        and verdict(results) in text
        and "2 seeds" in text
    )
    figure, sentence = growing_pool(results, "pools")
    assert sentence == verdict(results) and "A pool of 4 channels for each that wins" in sentence
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pools": (0.5, 0.4)}, "must rise from above the winners' share 0.25"),
        ({"pools": ()}, "must rise"),
        ({"winners": 0.6, "pools": (0.5,)}, "must rise from above the winners' share 0.6"),
        ({"winners": 1.5}, r"density must be a number in \(0, 1\]"),
        ({"model": "none"}, "model must be one of digitsnet"),
        ({"epochs": 0}, "epochs must be an int of at least 1, got 0"),
        ({"epochs": 1.5}, r"epochs must be an int of at least 1, got 1\.5"),
        ({"images": 0}, "images must be an int of at least 1, got 0"),
        ({"gains": ()}, "gains must be one value or several that differ"),
        ({"gains": (0.0,)}, "each a number above 0"),
        ({"gains": (float("nan"),)}, "each a number above 0"),
        ({"seeds": ()}, "seeds must be one value or several that differ"),
        ({"seeds": (1, 1)}, "seeds must be one value or several that differ"),
        ({"seeds": (0.5,)}, "each an int of at least 0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Plan(**options)


def test_the_command_writes_numbers_and_picture(tmp_path, capsys):
    out = tmp_path / "digits.json"
    options = ["--data", "digits", "--model", "digitsnet", "--pools", "0.5", "--epochs", "1"]
    assert main(["choice", *options, "--images", "100", "--out", str(out)]) == 0
    assert out.with_suffix(".png").exists()
    assert verdict(json.loads(out.read_text())) in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(STORED.glob("*.json")), ids=lambda path: path.stem)
def test_what_is_stored_is_whole_and_shown(path):
    results = json.loads(path.read_text())
    seeds = len(results["plan"]["seeds"])
    assert seeds == 3 and all(len(rows) == seeds for rows in lines(results).values())
    page = (STORED.parent / "README.md").read_text()
    assert report(results) in page
