"""Networks from files: what `evaluate` says of them, and that every command takes every kind."""

import json
import os
import re
import sys
from dataclasses import asdict, replace

import pytest
import torch
from test_checkpoints import KINDS
from torch.utils.data import TensorDataset

from fbs_tutorial import calibrate, convert, count_macs, load_data, load_pretrained, set_density
from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import cases, evaluate, report, run, variants
from fbs_tutorial.bench.timing import Timing
from fbs_tutorial.checkpoints import ASSETS, load_metrics, load_network, load_weights, save_network
from fbs_tutorial.data import as_tensors
from fbs_tutorial.files import write_atomically
from fbs_tutorial.method.dynamics import CONTROLS
from fbs_tutorial.method.gated import is_gated
from fbs_tutorial.models import MODELS, digitsnet
from fbs_tutorial.static.stripes import stripe_storage
from fbs_tutorial.training import splits
from fbs_tutorial.training.train import train

SKIPPING = [kind for kind, _ in variants.executing("cpu")]
PLAIN, ANY, HALF = (ASSETS / "digits" / f"{name}.safetensors" for name in ("plain", "any", "d0.5"))


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """The machine is idle, and every variant runs once only, with an invented time."""

    def race(variants, seconds, device, *, rounds, flush, deadline):
        for call in variants.values():
            call()
        return {name: Timing(1.0 + i, 0.5, 2.0 + i, 3, 9.0) for i, name in enumerate(variants)}

    monkeypatch.setattr(run, "race", race)
    monkeypatch.setattr(run, "busy", lambda device: None)
    monkeypatch.setattr(evaluate, "busy", lambda device: None)


@pytest.fixture
def few(monkeypatch):
    """Of the digits 230 training images, most of them held out, and 20 for test."""

    def load(name, **options):
        train_set, test_set = (as_tensors(part) for part in load_data(name, **options))
        return tuple(
            TensorDataset(images[:count], labels[:count])
            for count, (images, labels) in ((230, train_set), (20, test_set))
        )

    monkeypatch.setattr(splits, "load_data", load)
    monkeypatch.setattr(cases, "load_data", load)


def measured(weights, *options, **arguments):
    return evaluate.evaluate(weights, *options, say=lambda line: None, **arguments)


def calibrated(network):
    return calibrate(convert(network, gates="random"), torch.rand(8, 1, 16, 16), [0.5, 1.0])


COMMANDS = KINDS | {"calibrated": ("digitsnet", 1.0, calibrated)}


SLOW = ("ResNet of blocks", "ResNet of stripes")  # and others would show nothing new
KINDS_OF_FILES = [
    *(kind for kind in COMMANDS if "ResNet" not in kind),
    "state dict",
    "gated state dict",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW),
]


@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_every_network_that_a_command_writes_works_in_every_command(kind, few, tmp_path):
    path, told = tmp_path / "net", None
    if "state dict" in kind:
        told = "digitsnet"
        network = convert(digitsnet(), gates="random") if "gated" in kind else digitsnet()
        torch.save(network.state_dict(), path)
    else:
        model, width, make = COMMANDS[kind]
        network = make(MODELS[model](10, width))
        save_network(network, path, model, 10, width, data="digits")
    gated = is_gated(network)
    densities = [0.5] if gated else None

    row = measured(path, "digits", model=told, densities=densities)["rows"][0]
    images, labels = (x[:20] for x in as_tensors(load_data("digits")[1]))
    if gated:
        set_density(network, 0.5)
    right = (network.eval()(images).argmax(dim=1) == labels).double().mean().item()
    assert row["top1"] == pytest.approx(right)
    macs = count_macs(network, images)
    assert row["macs_gates"] == pytest.approx(macs.active.double().mean().item())
    assert row["macs_dense"] == macs.dense and ("own_gates" in row) == gated

    timed = run.bench(
        told and [told], weights=path, data="digits", densities=densities, quick=True, say=id
    )["rows"][0]
    kinds = {v["variant"] for v in timed["variants"]}
    assert ({"masked", *SKIPPING} <= kinds) == gated
    if gated:
        assert report.find(timed, "masked", 0.5)["ideal_share"] <= 1

    aim = {"density": 0.5} if gated else {"batch": 20}
    how = {"model": told or COMMANDS[kind][0], "epochs": 1, "progress": False}
    tuned = train("digits", tmp_path / "run", checkpoint=path, **aim, **how)
    step = tuned["steps_done"][-1]
    again, header = load_network(tmp_path / "run" / f"{step}.safetensors")
    layers = {name for name in load_weights(path, told)[0].state_dict() if "stored" not in name}
    assert again.state_dict().keys() == layers  # training forgets what calibrate has stored
    assert (header["gated"] == "True") == gated


def biased():
    """A network that answers 3, then 1, 4, 0, 5, whatever it sees."""
    network = digitsnet()
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.zero_()
        for rank, answer in enumerate((3, 1, 4, 0, 5)):
            network.classifier.bias[answer] = 10 - rank
    return network


def test_accuracies_of_a_network_whose_answers_are_known(tmp_path):
    save_network(biased(), tmp_path / "net", "digitsnet", 10)
    results = measured(tmp_path / "net", "digits")
    row, images = results["rows"][0], results["classes"]
    assert sum(images.values()) == results["test_images"] == 500
    assert row["top1"] == pytest.approx(images["3"] / 500)
    assert row["top5"] == pytest.approx(sum(images[name] for name in "31405") / 500)
    assert row["per_class"] == {name: float(name == "3") for name in map(str, range(10))}
    assert results["bytes"] == (tmp_path / "net").stat().st_size
    assert row["parameters"] == sum(p.numel() for p in digitsnet().parameters())


def test_numbers_are_those_of_the_run_that_trained_it():
    row = measured(HALF)["rows"][0]  # its header tells data, seed and density
    shipped = next(r for r in load_metrics("digits")[0]["rows"] if r["density"] == 0.5)
    assert row["density"] == 0.5
    assert row["top1"] == pytest.approx(shipped["test_accuracy"], abs=0.004)
    for name in ("macs_dense", "macs_gates", "macs_predictors"):
        assert row[name] == shipped[name]
    assert row["macs_zeros"] == pytest.approx(shipped["macs_zeros"], rel=0.01)
    for control in CONTROLS:
        assert row[control.field] == pytest.approx(shipped[control.field], abs=0.006)
    assert row["distinct_sets"].keys() == shipped["distinct_sets"].keys()
    assert sum(row["per_class"].values()) / 10 == pytest.approx(row["top1"], abs=0.01)


def test_the_command_prints_tables_and_writes_them(few, tmp_path, capsys):
    out = tmp_path / "new" / "any.json"
    options = ["--density", "0.5,0.3", "--batch", "4", "--out", str(out)]
    assert main(["evaluate", "--weights", str(ANY), "--data", "digits", *options]) == 0
    results = json.loads(out.read_text())
    assert [row["density"] for row in results["rows"]] == [0.5, 0.3]
    assert results["rows"][0]["macs_gates"] > results["rows"][1]["macs_gates"]
    assert results["command"].startswith("python -m fbs_tutorial evaluate --weights ")
    assert results["machine"]["date"] and results["machine"]["versions"]["torchvision"]
    for row in results["rows"]:
        names = {v["variant"]: v["density"] for v in row["times"]["variants"]}
        assert names == dict.fromkeys(variants.DENSE) | dict.fromkeys(
            ("masked", *SKIPPING), row["density"]
        )
    printed = capsys.readouterr()
    for text in ("| 0.3 ", "another image's gates", "conv4 ", "per call of 4 images", str(out)):
        assert text in printed.out
    assert printed.err.count("\n") == 2 and "busy" not in printed.out


def test_without_gates_there_is_nothing_to_control(few, capsys):
    assert main(["evaluate", "--weights", str(PLAIN)]) == 0
    printed = capsys.readouterr().out
    assert "| plain " in printed and "another image" not in printed and "| 40" not in printed
    assert "Stripe-wise" not in printed


def test_what_stripes_store_is_printed(few, tmp_path, capsys):
    model, width, make = KINDS["stripes"]
    network = make(MODELS[model](10, width))
    save_network(network, tmp_path / "net", model, 10, width, data="digits")
    out = tmp_path / "net.json"
    assert main(["evaluate", "--weights", str(tmp_path / "net"), "--out", str(out)]) == 0
    kept, printed = stripe_storage(network), capsys.readouterr().out
    bits = sum(layer.index_bits for layer in kept.values())
    assert kept and re.search(rf"^\| all +\| [\d,]+ +\| {bits:,} ", printed, re.M)
    results = json.loads(out.read_text())
    assert results["stripes"] == {name: asdict(layer) for name, layer in kept.items()}
    kinds = {v["variant"] for v in results["rows"][0]["times"]["variants"]}
    assert kinds == set(variants.DENSE), "their norms are folded, too"


def test_a_busy_machine_is_noted(few, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "busy", lambda device: "other programs use 2.0 of 2 cores")
    assert main(["evaluate", "--weights", str(PLAIN)]) == 0
    assert "busy (other programs use 2.0 of 2 cores)" in capsys.readouterr().out


def test_an_any_density_network_is_at_1_unless_told(few):
    assert [row["density"] for row in measured(ANY)["rows"]] == [1.0]


def test_of_many_classes_the_table_has_the_worst(few):
    results = measured(PLAIN)
    results["classes"] = {f"class {i}": 5 for i in range(50)} | {"empty": 0}
    shares = {name: i / 100 for i, name in enumerate(results["classes"])} | {"empty": None}
    results["rows"][0]["per_class"] = dict(reversed(shares.items()))
    text = evaluate.evaluation(results)
    assert "the 20 worst of 50 classes" in text and "| empty" not in text
    assert "| class 19 " in text and "| class 20 " not in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--density", "0.5"], "--density is for networks with gates, and .*plain.*has none"),
        (["--density", "0.5,0.5", "--weights", ANY], "--density must be one number"),
        (["--density", "1.5", "--weights", ANY], "1.5"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--data", "letters"], "--data must be one of .*, got 'letters'"),
        (["--size", "32"], "--size is for photographs"),
        (["--device", "tpu"], "device must be 'cpu' or 'cuda', got 'tpu'"),
        (["--out", "times.txt"], "--out takes the name of a .json file, got 'times.txt'"),
        (["--weights", "seven", "--data", "digits"], "seven knows 7 classes, the data 10"),
        (["--weights", "seven"], "--data must be given"),
        (["--weights", "state"], "state does not tell of which network it is"),
        (["--weights", "missing"], "missing cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "_row", None)
    save_network(digitsnet(7), tmp_path / "seven", "digitsnet", 7)
    torch.save(digitsnet().state_dict(), tmp_path / "state")
    assert main(["evaluate", "--weights", str(PLAIN), *map(str, options)]) == 2
    errors = capsys.readouterr().err
    assert re.search(words, errors) and errors.count("\n") == 1


def test_where_it_cannot_write_it_says_so_before_it_measures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "load_weights", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for name in ("file/net.json", "folder.json"):
        assert main(["evaluate", "--weights", str(PLAIN), "--out", str(tmp_path / name)]) == 2
        assert "cannot write" in capsys.readouterr().err


def test_stopped_halfway_it_leaves_the_old_file(few, monkeypatch, tmp_path, capsys):
    out, rows = tmp_path / "any.json", []
    write_atomically(out, b"old")
    own = evaluate._row

    def row(*arguments):
        if rows:
            raise KeyboardInterrupt
        rows.append(own(*arguments))
        return rows[0]

    monkeypatch.setattr(evaluate, "_row", row)
    options = ["--density", "0.5,0.3", "--out", str(out)]
    assert main(["evaluate", "--weights", str(ANY), *options]) == 130
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_photographs_are_read_in_the_size_of_the_training(photographs, tmp_path):
    folder = photographs(tmp_path / "photographs", count=6)
    short = {"size": 16, "batch": 4, "epochs": 1, "plain": True, "progress": False}
    metrics = train(folder, tmp_path / "run", model="mcifarnet", **short)
    results = measured(tmp_path / "run" / "plain.safetensors")
    assert results["size"] == 16 and results["data"] == str(folder)
    assert list(results["classes"]) == sorted(p.name for p in (folder / "train").iterdir())
    row = results["rows"][0]
    assert row["top1"] == metrics["rows"][0]["test_accuracy"]
    assert row["macs_dense"] == metrics["rows"][0]["macs_dense"]
    assert measured(tmp_path / "run" / "plain.safetensors", size=24)["size"] == 24


def case_of(path, data=None):
    network, header = load_weights(path)
    images = None if data is None else cases.test_images(cases.settings_of(header, data))
    return cases.from_file(path, network, header, images)


def test_bench_runs_the_network_itself_on_real_images():
    case = case_of(ANY, "digits")
    made = {v.name: v for v in variants.variants_of(case, 2, "cpu", (0.5,))}
    expected = set_density(load_pretrained("digits"), 0.5)
    test = as_tensors(load_data("digits")[1])[0]
    for x in made["masked 0.5"].inputs:
        assert any(torch.equal(x[0], image) for image in test)
        assert torch.equal(made["masked 0.5"].module(x), expected(x))
        for kind in SKIPPING:
            y = made[f"{kind} 0.5"].module(x)
            torch.testing.assert_close(y, expected(x), rtol=1e-4, atol=1e-4)
    assert made["dense"].macs == 1_217_152 and "oracle 0.5" in made
    plain = case_of(PLAIN)
    made = {v.name: v for v in variants.variants_of(plain, 2, "cpu", ())}
    x = made["dense"].inputs[0]
    assert set(made) == set(variants.DENSE) and x.shape == (2, 1, 16, 16)
    assert torch.equal(made["dense"].module(x), load_pretrained("digits", "plain")(x))


def test_what_no_narrow_form_exists_of_has_no_oracle(tmp_path):
    save_network(convert(MODELS["resnet18"](10)), tmp_path / "net", "resnet18", 10)
    case = replace(case_of(tmp_path / "net"), shape=(3, 32, 32))
    kinds = {v.kind for v in variants.variants_of(case, 1, "cpu", (0.5,))}
    assert kinds == {*variants.DENSE, "masked", *SKIPPING}


def test_bench_of_a_file_tells_what_it_measured(few, tmp_path, capsys):
    out = tmp_path / "times.json"
    options = ["--quick", "--out", str(out)]
    assert main(["bench", "--weights", str(HALF), "--data", "digits", *options]) == 0
    results = json.loads(out.read_text())
    assert results["densities"] == [0.5] and "sha256" in results["weights"]
    assert "test images of digits" in results["weights"] and out.with_suffix(".png").exists()
    assert [row["name"] for row in results["rows"]] == ["digits/d0.5"]
    assert main(["bench", "--weights", str(PLAIN), *options]) == 0
    assert json.loads(out.read_text())["densities"] == []
    assert "density" not in capsys.readouterr().out.split("digits/plain")[1]

    results |= {"missing": results["plan"]}
    out.write_text(json.dumps(results))
    assert main(["bench", "--weights", str(HALF), *options]) == 2
    assert "differs in weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "digits"], "data is for a network from a file, got 'digits' without weights"),
        (["--weights", str(PLAIN), "--model", "a,b"], "must be the one network of weights"),
    ],
)
def test_bench_refuses_what_does_not_go_together(options, words, tmp_path, capsys):
    assert main(["bench", *options, "--out", str(tmp_path / "times.json")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "bench", "train"])
def test_a_reader_who_has_seen_enough_is_no_error(command, few, tmp_path, monkeypatch, capsys):
    options = {
        "evaluate": ["--weights", PLAIN, "--out", tmp_path / "plain.json"],
        "bench": ["--weights", HALF, "--quick", "--out", tmp_path / "times.json"],
        "train": ["--plain", "--epochs", "1", "--no-progress", "--out", tmp_path / "run"],
    }[command]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main([command, *map(str, options)]) == 0
        monkeypatch.undo()
    assert "error" not in capsys.readouterr().err
    stored = {"evaluate": "plain.json", "bench": "times.png", "train": "run/curve.png"}[command]
    assert (tmp_path / stored).stat().st_size > 0
