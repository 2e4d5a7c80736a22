"""The static relatives on the command line: prune, train --from, train --stripes."""

import json

import pytest
import torch
from torchvision.models import WeightsEnum, get_model

from fbs_tutorial import count_macs, prune_kernels, slim, slimming_penalty
from fbs_tutorial.__main__ import main
from fbs_tutorial.checkpoints import ASSETS, load_network
from fbs_tutorial.models import MODELS
from fbs_tutorial.static.masks import mask_of, masked_layers
from fbs_tutorial.static.stripes import StripeConv2d, StripewiseConv2d

PLAIN, GATED = ASSETS / "digits" / "plain.safetensors", ASSETS / "digits" / "d0.5.safetensors"
X = torch.rand(2, 1, 16, 16)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def pruned(tmp_path, method, percent, *more):
    out = tmp_path / f"{method}.safetensors"
    options = ["--method", method, "--percent", percent, "--from", PLAIN, "--out", out]
    assert run("prune", *options, *more) == 0
    return out


def rows_of(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {row["step"]: row for row in metrics["rows"]}


def test_prune_kernels_and_train_on(tmp_path, capsys):
    file = pruned(tmp_path, "kernels", 60, "--data", "digits", "--score", "l1")
    said = capsys.readouterr().out
    assert "convolution weights" in said and "kernels " in said
    assert said.count("validation accuracy") == 2
    network, header = load_network(file)
    expected, _ = load_network(PLAIN)
    prune_kernels(expected, 60, "l1")
    assert torch.equal(network(X), expected(X)) and header["method"] == "kernels"

    folder = tmp_path / "tuned"
    assert run("train", "--from", file, "--epochs", 2, "--out", folder) == 0
    tuned, _ = load_network(folder / "tuned.safetensors")
    assert masked_layers(tuned) == masked_layers(network) != []
    for name in masked_layers(network):
        before, after = network.get_submodule(name), tuned.get_submodule(name)
        assert torch.equal(mask_of(before), mask_of(after))
        assert not after.weight[~mask_of(after)].any()
        assert not torch.equal(before.weight, after.weight)
    rows = rows_of(folder)
    assert list(rows) == ["given", "tuned"]
    assert rows["tuned"]["test_accuracy"] > rows["given"]["test_accuracy"]
    assert rows["tuned"]["macs_gates"] < 0.7 * rows["tuned"]["macs_dense"]
    assert "| tuned" in capsys.readouterr().out


def test_prune_the_weights_of_torchvision(tmp_path, monkeypatch, capsys):
    name, out = "shufflenet_v2_x1_0", tmp_path / "net.safetensors"
    state = get_model(name).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(state))
    options = ["--method", "kernels", "--percent", 30, "--pretrained", "--model", name]
    assert run("prune", *options, "--out", out) == 0
    assert "1x1: one weight" in capsys.readouterr().out
    expected = MODELS[name](1000)
    expected.network.load_state_dict(state)
    prune_kernels(expected, 30)
    found = load_network(out)[0].state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.state_dict().items())


def test_where_it_cannot_write_it_says_so_before_it_measures(tmp_path, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr("fbs_tutorial.training.prune._accuracies", lambda *_: measured.append(1))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for out in (tmp_path / "folder", tmp_path / "file" / "net"):
        options = ["--method", "kernels", "--percent", 5, "--from", PLAIN, "--data", "digits"]
        assert run("prune", *options, "--out", out) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: cannot write {out}: ") and error.count("\n") == 1
    assert measured == []


def test_slim_then_fbs_is_one_command_more(tmp_path, capsys):
    file = pruned(tmp_path, "slimming", 40, "--data", "digits")
    said = capsys.readouterr().out
    for words in ("parameters", "before:", "without the smallest scales:", "pruned:"):
        assert words in said
    network, _ = load_network(file)
    assert torch.equal(network(X), slim(load_network(PLAIN)[0], 40)(X))

    folder = tmp_path / "fbs"
    options = ["--from", file, "--density", 0.5, "--epochs", 1, "--out", folder]
    assert run("train", *options) == 0
    gated, _ = load_network(folder / "d0.5.safetensors")
    assert gated.conv1.out_channels == network.conv1.out_channels < 16
    assert count_macs(gated, X).dense == count_macs(network, X).dense


def test_a_network_cut_to_half_its_width_learns_from_the_whole_one(tmp_path, capsys):
    file = pruned(tmp_path, "slimming", 50, "--per-layer")
    cut, plain = (load_network(path)[0] for path in (file, PLAIN))
    halves = {
        name: (len(weight) + 1) // 2 for name, weight in plain.named_parameters() if "conv" in name
    }
    assert {n: len(w) for n, w in cut.named_parameters() if "conv" in n} == halves

    folder = tmp_path / "taught"
    options = ["--from", file, "--distill", "--teacher", PLAIN, "--epochs", 1, "--out", folder]
    assert run("train", *options) == 0
    rows = rows_of(folder)
    assert rows["tuned"]["distilled"] and not rows["given"]["distilled"]
    assert rows["tuned"]["val_accuracy"] > rows["given"]["val_accuracy"]
    assert run("prune", "--method", "kernels", "--percent", 5, "--from", PLAIN, "--per-layer",
               "--out", tmp_path / "kernels") == 2  # fmt: skip
    assert "--per-layer goes with the method slimming" in capsys.readouterr().err


def test_slimming_and_fbs_in_one_command(tmp_path):
    folder = tmp_path / "both"
    options = ["--slim", 40, "--slimming", 0.001, "--densities", "0.5", "--epochs", 1]
    assert run("train", *options, "--out", folder) == 0
    rows = rows_of(folder)
    assert [(row["step"], row["method"]) for row in rows.values()] == [
        ("plain", "plain"),
        ("slim", "slim"),
        ("d0.5", "fbs"),
    ]
    plain, slimmed, gated = (load_network(folder / f"{step}.safetensors")[0] for step in rows)
    widths = [net.conv4.out_channels for net in (plain, slimmed, gated)]
    assert widths[0] > widths[1] == widths[2]
    assert {n: p.shape for n, p in slimmed.named_parameters()} == {
        n: p.shape for n, p in slim(plain, 40).named_parameters()
    }
    assert rows["d0.5"]["macs_dense"] == rows["slim"]["macs_gates"] < rows["plain"]["macs_gates"]
    assert rows["d0.5"]["macs_gates"] < 0.4 * rows["slim"]["macs_gates"]


def test_slimming_then_distilled_gates_start_from_the_slimmed_network(tmp_path):
    folder = tmp_path / "taught"
    options = ["--slim", 40, "--distill", "--densities", "0.9,0.5", "--epochs", 1]
    assert run("train", *options, "--out", folder) == 0
    slimmed, gated = (load_network(folder / f"{n}.safetensors")[0] for n in ("slim", "d0.5"))
    assert gated.conv4.out_channels == slimmed.conv4.out_channels < 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--slim", 40, "--plain"], "--slim comes before gates"),
        (["--slim", 40, "--stripes"], "--slim comes before gates"),
        (["--slim", 40, "--from", PLAIN, "--density", 0.5], "without --from"),
        (["--slim", 101], "--slim must be a number from 0 to 100"),
        (["--slimming", 0.1], "--slimming goes with --plain or --slim"),
    ],
    ids=str,
)
def test_slim_is_refused(options, says, tmp_path, capfd):
    assert run("train", *options, "--out", tmp_path / "run") == 2
    assert says in capfd.readouterr().err


def test_the_penalty_of_slimming_shrinks_scales(tmp_path):
    sums = []
    for weight in (0, 0.1):
        folder = tmp_path / str(weight)
        options = ["--plain", "--epochs", 3, "--slimming", weight, "--out", folder]
        assert run("train", *options) == 0
        sums.append(slimming_penalty(load_network(folder / "plain.safetensors")[0]).item())
    assert sums[1] < 0.9 * sums[0]


def test_train_stripes(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--stripes", "--sr", 1e-2, "--threshold", 0.7, "--epochs", 8, "--out", folder]
    assert run("train", *options) == 0
    network, _ = load_network(folder / "stripes.safetensors")
    kinds = {type(module) for module in network.modules()}
    assert StripewiseConv2d in kinds and StripeConv2d not in kinds
    rows = rows_of(folder)
    assert list(rows) == ["plain", "stripes"] and rows["stripes"]["method"] == "stripes"
    assert rows["stripes"]["macs_dense"] == rows["plain"]["macs_dense"]
    assert rows["stripes"]["macs_gates"] < 0.95 * rows["stripes"]["macs_dense"]
    assert rows["stripes"]["test_accuracy"] > 0.7
    assert "| stripes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "magic"], "method must be one of kernels, slimming, idle, got 'magic'"),
        (["--percent", "120"], "percent must be a number from 0 to 100, got 120.0"),
        (["--percent", "few"], "--percent.*'few'"),
        (["--score", "l3"], "score must be one of max, l1, l2, got 'l3'"),
        (["--from", "nowhere"], "nowhere"),
        (["--from", GATED], "has gates; prune the plain network"),
        (["--pretrained"], "one network: --from, or --pretrained with --model"),
        (["--data", "nowhere"], "nowhere"),
    ],
    ids=str,
)
def test_refused(options, says, tmp_path, capfd):
    usual = {"--method": "kernels", "--percent": "30", "--from": PLAIN}
    usual["--out"] = tmp_path / "net.safetensors"
    arguments = [word for pair in usual.items() if pair[0] not in options for word in pair]
    try:
        assert run("prune", *arguments, *options) == 2
    except SystemExit as error:
        assert error.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and says.split(".*")[0] in line
    assert not any(tmp_path.iterdir())


def test_pretrained_needs_a_model(tmp_path, capfd):
    options = ["--method", "kernels", "--percent", 30, "--pretrained", "--out", tmp_path / "net"]
    assert run("prune", *options) == 2
    assert "model must be one of resnet18" in capfd.readouterr().err
