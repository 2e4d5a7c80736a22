"""FBS beside its static relatives: what `compare` trains, matches, stores and says."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fbs_tutorial import (
    StripeConv2d,
    add_skeletons,
    count_macs,
    load_pretrained,
    set_density,
)
from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import compare as module
from fbs_tutorial.bench import variants
from fbs_tutorial.bench.compare import (
    CLOSE,
    METHODS,
    Lab,
    Plan,
    choose,
    compare,
    milliseconds,
    network_file,
    take_times,
)
from fbs_tutorial.bench.compared import (
    IDLE,
    LABELS,
    Results,
    best_value,
    choices_table,
    grouped,
    provenance,
    recorded,
    spread,
    table,
)
from fbs_tutorial.checkpoints import CheckpointError
from fbs_tutorial.lesson.plots import compared
from fbs_tutorial.static.storage import stored_bytes
from fbs_tutorial.training.loop import accuracy
from fbs_tutorial.training.parallel import Team
from fbs_tutorial.training.settings import RunError

QUICK = Plan(densities=(0.5,), epochs=1, images=150)


@pytest.fixture(scope="module")
def lab():
    return Lab(QUICK, 0, Team())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a whole comparison, as short as can be, puts its networks; its rows lie beside it."""
    folder = tmp_path_factory.mktemp("compare") / "networks"
    out = folder.parent / "digits.json"
    compare(QUICK, out, folder, command="compare", say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def untimed(folder):
    """Its rows, before any times were taken."""
    return json.loads((folder.parent / "digits.json").read_text())


@pytest.fixture(scope="module")
def results(folder, untimed):
    """The same with times, taken on a machine that is said to be idle."""
    out = folder.parent / "digits.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "busy", idle)
        patch.setattr(module, "SECONDS", 0.0)
        found = take_times(QUICK, out, folder, command="compare --times", say=lambda line: None)
    assert json.loads(out.read_text()) == found
    return found


def idle(device, meanwhile):
    meanwhile()


def without_times(row):
    return {key: value for key, value in row.items() if key != "ms"}


def test_every_method_is_there_with_as_many_macs_as_fbs(results):
    groups = grouped(results)
    assert list(groups) == [(None, "plain"), *((0.5, name) for name in list(LABELS)[1:])]
    (target,) = (row["macs"] for row in groups[0.5, "fbs"])
    for (level, method), (row,) in groups.items():
        if level is not None and not method.endswith(IDLE):
            slip = 0.2 if method == "stripes" else 0.05  # after one epoch many are equally long
            assert abs(row["macs"] / target - 1) < slip, method
        assert {"val_accuracy", "test_accuracy", "bytes", "settings"} <= row.keys()
        assert set(row["ms"]) == {"1", "64"} and min(row["ms"].values()) > 0


def test_channels_that_never_win_are_not_stored(results):
    groups = grouped(results)
    for method in ("fbs", "slimming, fbs"):
        (whole,), (smaller,) = groups[0.5, method], groups[0.5, method + IDLE]
        assert smaller["bytes"] < whole["bytes"]
        assert smaller["macs_gates"] == whole["macs_gates"]
        assert smaller["val_accuracy"] == pytest.approx(whole["val_accuracy"], abs=0.02)
    (plain,) = groups[None, "plain"]
    assert groups[0.5, "fbs"][0]["bytes"] > plain["bytes"] > groups[0.5, "narrow"][0]["bytes"]


def test_times_are_taken_later_of_the_networks_that_were_kept(folder, untimed, results, lab):
    assert not any("ms" in row for row in untimed["rows"]) and "timed" not in untimed
    assert list(map(without_times, results["rows"])) == untimed["rows"]
    assert results["command"] == "compare; compare --times"
    assert provenance(results).endswith(f" Milliseconds: {results['timed']['date']}.")
    for row in results["rows"]:
        network = module._kept(folder / network_file(row), torch.device("cpu"))
        assert accuracy(network, *lab.splits.test) == row["test_accuracy"], row["method"]
        assert lab.macs(network) == row["macs"] and stored_bytes(network) == row["bytes"]


def test_while_others_are_busy_rows_stay_without_times(folder, untimed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "busy", lambda *_: "others are")
    out, said = tmp_path / "digits.json", []
    out.write_text(json.dumps(untimed))
    assert take_times(QUICK, out, folder, command="times", say=said.append) == untimed
    count = len(untimed["rows"])
    assert said[-1] == f"0 rows timed; {count} of {count} lack times"
    with pytest.raises(CheckpointError, match=r"plain-seed0\.safetensors cannot be read"):
        take_times(QUICK, out, tmp_path)


def test_it_goes_on_and_takes_more_seeds(results, tmp_path, monkeypatch):
    out, said = tmp_path / "digits.json", []
    monkeypatch.setattr(module, "busy", idle)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    half = results | {"rows": [r for r in results["rows"] if r["method"] != "fbs" + IDLE]}
    half = half | {"command": "compare"}
    out.write_text(json.dumps(half))
    trained = []
    monkeypatch.setattr(
        Lab, "train", lambda self, net, kind, *_, **__: trained.append(kind) or net.eval()
    )
    found = compare(QUICK, out, command="compare", say=said.append)
    assert trained == ["plain", "gated"] and len(found["rows"]) == len(results["rows"])
    assert f"has {len(results['rows']) - 1} rows" in said[0] and "ms" in found["rows"][-1]
    monkeypatch.setattr(module, "busy", lambda *_: "others are")
    more = Plan(densities=(0.5,), epochs=1, images=150, seeds=(1,))
    found = compare(more, out, command="compare --seeds 1", say=said.append)
    assert "ms" not in found["rows"][-1]
    assert found["plan"]["seeds"] == [0, 1] and len(found["rows"]) == 2 * len(results["rows"])
    assert found["command"] == "compare; compare --seeds 1"
    stored = json.loads(out.read_text())
    stored["machine"]["date"] = "2026-01-31"
    out.write_text(json.dumps(stored))
    assert compare(QUICK, out, command="compare", say=said.append) == stored
    assert said[-1] == f"{out} holds all of it, of 2026-01-31; nothing is trained or measured anew"


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (("machine", "device"), "device"),
        (("machine", "versions", "torch"), "versions"),
        (("machine", "threads"), "threads"),
        (("plan", "chosen", "slimming"), "chosen"),
        (("plan", "densities"), "densities"),
    ],
    ids=["device", "versions", "threads", "chosen", "densities"],
)
def test_rows_of_other_versions_or_settings_are_not_mixed(keys, what, tmp_path):
    out = tmp_path / "digits.json"
    plan = QUICK.record() | {"chosen": QUICK.chosen}
    Results(plan, out, "cpu", "compare").keep({"seed": 0, "level": None, "method": "plain"})
    assert len(Results(plan, out, "cpu", "compare").facts["rows"]) == 1
    results = place = json.loads(out.read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = "another"
    out.write_text(json.dumps(results))
    with pytest.raises(RunError, match=rf"\(its {what}\)"):
        Results(plan, out, "cpu", "compare")


def test_another_comparison_is_not_overwritten(results, tmp_path, capfd):
    out = tmp_path / "digits.json"
    out.write_text(json.dumps(results))
    assert main(["compare", "--densities", "0.3", "--out", str(out)]) == 2
    assert "holds another comparison (its densities, epochs, images); move it" in (
        capfd.readouterr().err
    )
    out.write_text("{}")
    assert main(["compare", "--out", str(out)]) == 2
    assert "is not of a comparison" in capfd.readouterr().err
    assert out.read_text() == "{}"


def test_the_table_and_the_picture_say_what_was_found(results):
    text = table(results)
    assert text.count("\n") == len(LABELS) + 1
    assert all(label in text for label in LABELS.values()) and "ms, batch 64" in text
    figure, sentence = compared(results)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "MACs (millions)",
        "stored (kB)",
        "ms, one image",
    ]
    assert "With the MACs of winners at d = 0.5" in sentence
    busy = results | {"rows": list(map(without_times, results["rows"]))}
    assert "ms, batch" not in table(busy) and len(compared(busy)[0].axes) == 2
    assert "2 epochs for every network, 1 seed." in provenance(results)


def test_every_network_has_the_same_epochs(lab, monkeypatch):
    """Half of them before the cut and half after, or all at once; none has a teacher."""
    spent, epochs = [], {}

    def fit(network, step, recipe, *_):
        assert recipe.teacher_weight == recipe.smoothing == 0 and step.lr == recipe.plain_lr
        spent.append(step.epochs)

    monkeypatch.setattr(module, "fit", fit)
    target = lab.target(0.5)
    for method, make in METHODS.items():
        spent.clear()
        make(Lab(QUICK, 0, Team()), target)
        epochs[method] = sum(spent)
    halves = {"scratch": 3}  # the network that finds the shape is not the one compared
    assert epochs == {method: halves.get(method, 2) for method in METHODS}


def test_penalties_are_of_the_first_half_only(lab, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "fit", lambda net, step, recipe, *_: seen.append((step.kind, recipe.slimming))
    )
    monkeypatch.setitem(module.CHOSEN, "digits", {"slimming": 0.5, "sr": 0.25, "gain": 1.0})
    METHODS["slimming"](Lab(QUICK, 0, Team()), 300_000)
    assert seen == [("plain", 0.5), ("tuned", 0.0)]


@pytest.mark.parametrize("target", [100_000, 400_000, 900_000])
def test_a_match_is_the_nearest_that_halving_finds(lab, target):
    width, network = lab.match(lab.new, 0.05, 1.0, target)
    assert 0.05 < width < 1
    off = abs(lab.macs(network) - target)
    for other in (width - 0.02, width + 0.02):
        assert abs(lab.macs(lab.new(other)) - target) >= off


def test_where_whole_winners_miss_the_macs_one_channel_less_is_tried(lab, monkeypatch):
    monkeypatch.setattr(module, "HALVINGS", 7)
    small = lab.new(0.2)
    target = 0.2 * lab.macs(small)
    _, alone = lab.match(lambda d: lab.gate(small, d), 0.05, 1.0, target)
    _, found = module._match_density(lab, small, target)
    assert abs(lab.macs(found) / target - 1) <= CLOSE < abs(lab.macs(alone) / target - 1)
    monkeypatch.setattr(module, "_one_channel_less", lambda _: pytest.fail("it was near enough"))
    density = (0.05 + 1.0) / 2
    assert module._match_density(lab, small, lab.macs(lab.gate(small, density)))[0] == density


def test_macs_have_the_predictors_in_them(lab):
    network = set_density(load_pretrained("digits"), 0.5)
    report = count_macs(network, lab.few)
    assert lab.macs(network) == report.active[0].item() + report.overhead


@pytest.mark.parametrize("form", ["masks", "stripes", "gates", "plain"])
def test_what_is_timed_computes_the_same(form, lab, monkeypatch):
    network = {
        "masks": lambda: METHODS["kernels"](lab, 500_000)[1],
        "stripes": lambda: METHODS["stripes"](lab, 500_000)[1],
        "gates": lambda: load_pretrained("digits", 0.5),
        "plain": lambda: load_pretrained("digits", "plain"),
    }[form]()
    outputs = []

    def race(calls, seconds, device):
        with torch.no_grad():
            outputs.extend(call() for call in calls.values())
        return {name: type("Timing", (), {"median": 0.002}) for name in calls}

    monkeypatch.setattr(module, "race", race)
    images = lab.splits.test[0][:3]
    assert milliseconds(network, images) == 2.0
    assert len(outputs) == (1 if form == "gates" else 2)
    with torch.no_grad():
        expected = network.eval()(images)
    assert all(torch.allclose(y, expected, atol=1e-4) for y in outputs)


def test_norms_that_cannot_be_folded_say_why(monkeypatch):
    def lost(*_):
        raise RuntimeError("data went astray")

    monkeypatch.setattr(variants, "trace", lost)
    network, images = nn.Sequential(nn.Conv2d(1, 1, 1)), torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="got Sequential: data went astray"):
        milliseconds(network, images)
    assert variants.folded(network) == []


def test_choosing_penalties_looks_at_validation_images_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(module.CANDIDATES, "slimming", (0.0, 1e-2))
    monkeypatch.setitem(module.CANDIDATES, "sr", (1e-5,))
    monkeypatch.setitem(module.CANDIDATES, "gain", (1.0,))
    monkeypatch.setattr(Lab, "few", None, raising=False)
    out = tmp_path / "penalties.json"

    def without_test(self, plan, seed, team):
        real(self, plan, seed, team)
        self.splits.test = None

    real = Lab.__init__
    monkeypatch.setattr(Lab, "__init__", without_test)
    found = choose(QUICK, out, say=lambda line: None)
    assert json.loads(out.read_text()) == found
    assert [(r["setting"], r["value"], r["decay"]) for r in found["rows"]] == [
        ("slimming", 0.0, False),
        ("slimming", 1e-2, False),
        ("sr", 1e-5, False),
        ("gain", 1.0, False),
        ("sr", 1e-5, True),
    ]
    text = choices_table(found)
    assert "weight decay on skeletons, published" in text and text.count("chosen") == 3


def test_the_best_value_is_the_smallest_of_equals():
    def row(value, accuracy, decay=False):
        return {"setting": "sr", "value": value, "val_accuracy": accuracy, "decay": decay}

    rows = [row(0.1, 0.5), row(0.2, 0.75), row(0.3, 0.75), row(0.3, 0.75), row(0.1, 1.0, True)]
    assert best_value(rows, "sr") == 0.2
    assert spread([0.5, 0.7]) == "60.0 (50.0 to 70.0)" and spread([0.5]) == "50.0"


@pytest.mark.parametrize("data", list(module.CHOSEN))
def test_penalties_are_those_that_were_chosen(data):
    assert module.CHOSEN[data] == recorded(f"choices-{data}")["best"]


FOLDER = Path(__file__).parents[1] / "benchmarks" / "compare"
RECORDED = [path.stem for path in FOLDER.glob("*.json") if '"method": "fbs"' in path.read_text()]


def test_the_digits_are_recorded():
    assert "digits" in RECORDED


@pytest.mark.parametrize("data", RECORDED)
def test_recorded_comparisons_are_matched_and_whole(data):
    results = recorded(data)
    plan = results["plan"]
    assert plan["seeds"] == [0, 1, 2]
    assert len(results["rows"]) == 3 * (1 + len(plan["densities"]) * (len(LABELS) - 1))
    for level in plan["densities"]:
        for seed in plan["seeds"]:
            rows = {
                r["method"]: r for r in results["rows"] if (r["level"], r["seed"]) == (level, seed)
            }
            for method, row in rows.items():
                off = abs(row["macs"] / rows["narrow"]["macs"] - 1)  # of the winners, exactly
                assert method.endswith(IDLE) or off < CLOSE, (level, seed, method, off)


def test_tables_on_the_pages_are_those_of_the_recorded_comparisons():
    sys.path.insert(0, str(FOLDER.parents[1] / "tools"))
    from ship_compare import page, with_tables

    results_page = (FOLDER.parent / "README.md").read_text()
    assert with_tables(results_page) == results_page
    assert page() == (FOLDER / "README.md").read_text()


def test_what_is_not_recorded_is_asked_for():
    with pytest.raises(
        FileNotFoundError, match=r"no benchmarks/compare/nothing.json.*run `compare`"
    ):
        recorded("nothing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--model", "nothing"], "--model must be one of"),
        (["--densities", "0"], "density must be"),
        (["--densities", "0.5,0.5"], "--densities must be one number or several that differ"),
        (["--seeds", "1,1"], "seeds must be one number or several that differ"),
        (["--epochs", "0"], "--epochs must be an int of at least 1, got 0"),
        (["--images", "-1"], "images must be an int of at least 1, got -1"),
        (["--out", "table.md"], "--out takes the name of a .json file"),
        (["--times"], "--times goes with --networks"),
        (["--choose", "--networks", "folder"], "and neither with --choose"),
        (["--choose", "--times"], "and neither with --choose"),
    ],
    ids=str,
)
def test_refused(options, says, capfd):
    assert main(["compare", *options]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line


def test_stripes_are_matched_by_their_threshold(lab):
    network = lab.skeletons
    assert any(isinstance(layer, StripeConv2d) for layer in network.modules())
    settings, striped = METHODS["stripes"](lab, 400_000)
    assert 0 < settings["threshold"] < 2 and abs(lab.macs(striped) / 400_000 - 1) < 0.1


def test_stripes_that_are_almost_equally_long_are_taken_one_by_one(lab):
    torch.manual_seed(0)
    network = add_skeletons(lab.new()).eval()
    for layer in network.modules():
        if isinstance(layer, StripeConv2d):
            layer.skeleton.data += 1e-5 * torch.rand_like(layer.skeleton)
    threshold, pruned = module._match_stripes(lab, network, 400_000)
    assert 1 < threshold < 1 + 1e-5 and abs(lab.macs(pruned) / 400_000 - 1) <= CLOSE
