"""The command that measures budgets per image: what it chooses, on which images, and says."""

import copy
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from fbs_tutorial import convert, count_macs, load_data, load_pretrained, look_again
from fbs_tutorial.__main__ import main
from fbs_tutorial.bench import budget
from fbs_tutorial.bench.budget import (
    DIAL,
    FIXED,
    ONE,
    PLAIN,
    SINGLE,
    Answers,
    curves,
    front,
    points,
    within,
)
from fbs_tutorial.bench.timing import Timing
from fbs_tutorial.checkpoints import ASSETS, save_network
from fbs_tutorial.data import as_tensors
from fbs_tutorial.lesson.plots import budget_curves, plt
from fbs_tutorial.models import digitsnet

TENTH, ANY, DENSE = (ASSETS / "digits" / f"{name}.safetensors" for name in ("d0.1", "any", "plain"))
ROOT = Path(__file__).parents[1]
STORED = ROOT / "benchmarks" / "budget"


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """The machine is idle, and every call is made twice only, in invented times."""

    def race(variants, seconds, device, *, rounds):
        for call in variants.values():
            call()
            call()
        return dict.fromkeys(variants, Timing(0.64, 0.32, 6.4, 3, 9.0))

    monkeypatch.setattr(budget, "race", race)
    monkeypatch.setattr(budget, "busy", lambda device: None)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The results of four networks of digits, without times, and their file."""
    out = tmp_path_factory.mktemp("budget") / "digits.json"
    weights = [str(TENTH), f"{ANY}@0.3,0.5", str(DENSE)]
    options = {"shares": (0.1, 0.3), "clock": False, "out": out}
    return budget.budget(weights, "digits", say=lambda line: None, **options), out


def test_the_command_writes_everything_and_the_clock_can_run_later(
    measured, tmp_path, monkeypatch, capsys
):
    results, out = measured
    mine = tmp_path / "digits.json"
    mine.write_bytes(out.read_bytes())
    options = ["--data", "digits", "--shares", "0.1,0.3", "--out", str(mine)]
    weights = ["--weights", str(TENTH), f"{ANY}@0.3,0.5", str(DENSE)]
    monkeypatch.setattr(budget, "answers_of", None)  # nothing is measured again
    assert main(["budget", *weights, *options, "--no-clock"]) == 0
    assert "clock" not in json.loads(mine.read_text())
    assert main(["budget", *weights, *options]) == 0
    timed = json.loads(mine.read_text())
    assert {key: timed[key] for key in results if key != "command"} == {
        key: value for key, value in results.items() if key != "command"
    }
    assert "--no-clock" not in timed["command"] and mine.with_suffix(".png").exists()
    said = capsys.readouterr().out
    for point in (p for chosen in curves(timed).values() for p in chosen):
        assert budget.label(point) in said and budget.label(point) in timed["clock"]["ms"]
        assert f"{point['test']['accuracy']:.2%}" in said
    assert timed["clock"]["ms"]["d0.1"] == [pytest.approx(x / 64) for x in (640, 320, 6400)]
    assert re.search(r"\| d0\.1 .*\| 10 \(5 to 100\) *\|", said)


def test_a_finished_file_is_timed_anew_and_nothing_else(measured, tmp_path, monkeypatch, capsys):
    _, out = measured
    mine = tmp_path / "digits.json"
    mine.write_bytes(out.read_bytes())
    weights = ["--weights", str(TENTH), f"{ANY}@0.3,0.5", str(DENSE)]
    command = ["budget", *weights, "--data", "digits", "--shares", "0.1,0.3", "--out", str(mine)]
    assert main(command) == 0
    before, asked = json.loads(mine.read_text()), []
    race = budget.race

    def slower(variants, seconds, device, *, rounds):
        asked.append(seconds)
        return dict.fromkeys(
            race(variants, seconds, device, rounds=rounds), Timing(6.4, 6, 7, 3, 9)
        )

    monkeypatch.setattr(budget, "race", slower)
    monkeypatch.setattr(budget, "answers_of", None)  # nothing is measured again
    assert main(command) == 0 and "nothing is measured anew" in capsys.readouterr().err
    assert main([*command, "--clock", "40"]) == 0
    after = json.loads(mine.read_text())
    assert asked == [40] and after["clock"]["ms"]["d0.1"][0] == pytest.approx(100)
    assert after["clock"]["command"].endswith("--clock 40")
    assert before.pop("clock")["ms"].keys() == after.pop("clock")["ms"].keys() and before == after


def test_each_point_is_what_look_again_does(measured):
    """On all test images, with the thresholds that the file gives."""
    results, _ = measured
    network = load_pretrained("digits")
    looks = {"any@0.3": 0.3, "any@0.5": 0.5}
    looks |= {"d0.1": load_pretrained("digits", 0.1), "plain": load_pretrained("digits", "plain")}
    images, labels = as_tensors(load_data("digits")[1])
    assert len(results["pairs"]) == 6 and len(points(results)) == 4 + 6 * 2
    for point in points(results):
        test = point["test"]
        if len(point["looks"]) == 1:
            (only,) = point["looks"]
            found = look_again(network, images, looks[only], looks[only], 0.0)
        else:
            names, threshold = point["looks"], point["threshold"]
            pair = [looks[name] for name in names]
            found = look_again(network, images, *pair, threshold, average=point["average"])
            assert test["share"] == pytest.approx(found.second.double().mean().item())
        right = (found.logits.argmax(dim=1) == labels).double().mean().item()
        assert test["accuracy"] == pytest.approx(right)
        assert test["macs"] == pytest.approx(found.macs.double().mean().item())
        assert test["macs_worst"] >= found.macs.max()


def test_costs_and_bytes(measured):
    results, _ = measured
    images = as_tensors(load_data("digits")[1])[0][:3]
    tenth, plain = load_pretrained("digits", 0.1), load_pretrained("digits", "plain")
    costs = {"d0.1": count_macs(tenth, images), "plain": count_macs(plain, images)}
    once = {name: int(report.active[0]) + report.overhead for name, report in costs.items()}
    pair = next(p for p in results["pairs"] if (p["first"], p["second"]) == ("d0.1", "plain"))
    for row in pair["rows"]:
        share = row["test"]["share"]
        assert row["test"]["macs"] == pytest.approx(once["d0.1"] + share * once["plain"])
        assert row["test"]["macs_worst"] == once["d0.1"] + once["plain"]
        assert row["validation"]["share"] == pytest.approx(row["wanted"], abs=0.006)
    by_name = {row["name"]: row["bytes"] for row in results["looks"]}
    size = sum(t.numel() * t.element_size() for t in plain.state_dict().values())
    assert by_name["plain"] == size
    both, one = {"looks": ["d0.1", "plain"]}, {"looks": ["any@0.3", "any@0.5"]}
    assert budget.stored_bytes(results, both) == by_name["d0.1"] + size
    assert budget.stored_bytes(results, one) == by_name["any@0.3"]  # one file, two densities


def answers(logits, labels, macs=1):
    logits = torch.tensor(logits)
    return Answers(logits, torch.full((len(logits),), macs), torch.tensor(labels))


def test_a_pair_by_hand():
    """Four images; the first look is unsure of two, and wrong on one of them."""
    sure, unsure = [4.0, 0.0], [0.2, 0.0]
    one = answers([sure, sure, unsure, unsure], [0, 1, 0, 1], macs=10)
    two = answers([[0.0, 9.0], [0.0, 9.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 0, 1], macs=100)
    found = budget.score(one, two, 0.9, average=False)
    assert found == {
        "share": 0.5,
        "accuracy": 0.75,
        "random_accuracy": 0.5 * 0.5 + 0.5 * 0.75,
        "macs": 60.0,
        "macs_worst": 110,
    }
    assert budget.score(one, two, 0.0, average=False)["macs"] == 10
    timid = answers([[0.0, 9.0], [0.0, 9.0], [1.0, 0.0], [0.0, 0.1]], [0, 1, 0, 1])
    assert budget.score(one, timid, 0.9, average=True)["accuracy"] == 0.5


def test_nothing_is_chosen_on_test_images():
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (200,))

    def seen(noise, count=200):
        logits = torch.nn.functional.one_hot(labels[:count], 3) * 2 + noise * torch.randn(count, 3)
        return Answers(logits, torch.ones(count, dtype=torch.int64), labels[:count])

    first, second, test = seen(1.5), seen(1.0), seen(1.5, 50)
    names = ("a", "b")
    found = budget.pair_row(*names, {"a": (first, test), "b": (second, test)}, [0.1, 0.5])
    wrong = Answers(-test.logits, test.macs, test.labels)
    other = budget.pair_row(*names, {"a": (first, wrong), "b": (second, wrong)}, [0.1, 0.5])
    confident = first.logits.softmax(dim=1).amax(dim=1)
    for row, again, share in zip(found["rows"], other["rows"], (0.1, 0.5), strict=True):
        assert row["threshold"] == again["threshold"] == confident.quantile(share).item()
        assert row["validation"] == again["validation"] and row["test"] != again["test"]
    assert found["average"] == other["average"]


def point(macs, validation, test, looks=("a",)):
    return {
        "looks": list(looks),
        "validation": {"macs": macs, "accuracy": validation},
        "test": {"macs": macs, "accuracy": test},
    }


def test_the_front_is_chosen_on_validation_images_and_climbs():
    cheap, better, noise, worse, best = (
        point(1, 0.8, 0.1), point(2, 0.9, 0.0), point(3, 0.9004, 1.0),
        point(4, 0.85, 1.0), point(5, 0.95, 0.2),
    )  # fmt: skip
    assert front([best, noise, worse, cheap, better]) == [cheap, better, best]
    near = [point(100, 0.8, 0.9), point(103, 0.81, 0.1), point(106, 0.82, 0.0)]
    assert front(near) == near[1:]


def test_what_a_budget_buys_is_chosen_on_validation_images():
    cheap, lucky, best = point(1, 0.8, 0.1), point(2, 0.85, 1.0), point(3, 0.9, 0.0)
    assert within([cheap, lucky, best], 2.5) is lucky and within([best, lucky, cheap], 9) is best
    assert within([cheap, lucky, best], 0.5) is None


def test_curves_divide_by_looks_and_gates(measured):
    results, _ = measured
    found = curves(results)
    assert list(found) == [DIAL, ONE, FIXED, SINGLE]  # no pair is of plain networks alone
    assert all(len(p["looks"]) == 2 for p in found[DIAL])
    assert {tuple(p["looks"]) for p in found[ONE]} == {("any@0.3", "any@0.5")}
    assert [p["looks"] for p in found[FIXED]] == [["d0.1"], ["any@0.3"], ["any@0.5"]]
    assert [p["looks"] for p in found[SINGLE]] == [["plain"]]
    other = copy.deepcopy(results)
    other["looks"][0]["density"] = None
    assert {tuple(p["looks"]) for p in curves(other)[PLAIN]} == {("d0.1", "plain")}


def test_the_picture_has_every_line(measured):
    results, _ = measured
    figure, sentence = budget_curves(curves(results), "digits")
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    for name, chosen in curves(results).items():
        wanted = [[p["test"]["macs"], 100 * p["test"]["accuracy"]] for p in chosen]
        assert drawn[name].tolist() == wanted
    (chance,) = drawn.keys() - curves(results)
    wanted = [100 * p["test"]["random_accuracy"] for p in curves(results)[DIAL]]
    assert drawn[chance][:, 1].tolist() == wanted
    best = within(curves(results)[DIAL], 1_217_152 / 4)["test"]
    assert f"{DIAL} {100 * best['accuracy']:.1f} % at" in sentence
    assert axes.get_title() == "digits"
    plt.close(figure)


def test_the_picture_joins_no_two_networks_and_hides_no_marker(measured):
    found = curves(measured[0])
    other = copy.deepcopy(found[ONE][0]) | {"looks": ["d0.1@0.1", "d0.1@0.2"]}
    found[ONE] = [*found[ONE], other]
    figure, _ = budget_curves(found)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    drawn = lines[ONE].get_ydata()
    assert len(drawn) == len(found[ONE]) + 1 and (drawn[-2] != drawn[-2]).all()  # a gap: NaN
    for name in (DIAL, FIXED, SINGLE):
        assert not any(y != y for y in lines[name].get_ydata())
    hollow, full = lines[SINGLE], lines[FIXED]
    assert hollow.get_markerfacecolor() == "none"
    assert hollow.get_markersize() > full.get_markersize()
    plt.close(figure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([str(TENTH)], "weights must name two looks or more that differ, got d0.1"),
        ([f"{ANY}@0.3", f"{ANY}@0.3"], "that differ, got any@0.3, any@0.3"),
        ([f"{ANY}@0.3,1.2"], r"density must be a number in \(0, 1\].*got 1.2"),
        ([f"{ANY}@half"], "weights takes FILE or FILE@0.3,0.7, got .*any.safetensors@half"),
        ([f"{DENSE}@0.3", str(TENTH)], "densities are for networks with gates"),
        ([str(TENTH), str(DENSE), "--shares", "0.2,0.1"], "shares must be numbers between 0"),
        ([str(TENTH), str(DENSE), "--shares", "1"], "shares must be numbers between 0 and 1"),
        ([str(TENTH), str(DENSE), "--batch", "0"], "--batch must be at least 1, got 0"),
        ([str(TENTH), str(DENSE), "--clock", "-1"], "--clock must be a number of seconds, 0 or"),
        ([str(TENTH), str(DENSE), "--clock", "nan"], "--clock must be a number of seconds.*nan"),
        ([str(TENTH), "missing.safetensors"], "missing.safetensors cannot be read"),
        ([str(TENTH), str(DENSE), "--data", "nowhere"], "data must be one of"),
    ],
)
def test_refuses_in_one_line(options, words, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["budget", "--out", str(out), "--weights", *options]) == 2
    errors = capsys.readouterr().err
    assert re.search(words, errors) and errors.count("\n") == 1 and not out.exists()


def test_refuses_networks_that_have_seen_each_others_validation_images(tmp_path, capsys):
    for seed in (0, 1):
        save_network(digitsnet(), tmp_path / f"{seed}", "digitsnet", 10, data="digits", seed=seed)
    weights = ["--weights", str(tmp_path / "0"), str(tmp_path / "1")]
    assert main(["budget", *weights, "--out", str(tmp_path / "out.json")]) == 2
    assert "0 of seed 0, 1 of seed 1" in capsys.readouterr().err


def test_a_file_of_something_else(tmp_path, capsys):
    out = tmp_path / "out.json"
    out.write_text("{")
    assert main(["budget", "--weights", str(TENTH), str(DENSE), "--out", str(out)]) == 2
    assert "is damaged" in capsys.readouterr().err
    (tmp_path / "folder.json").mkdir()
    folder = ["--out", str(tmp_path / "folder.json")]
    assert main(["budget", "--weights", str(TENTH), str(DENSE), *folder]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert budget._finished(tmp_path / "none.json", {}, []) is None
    out.write_text('{"data": "digits"}')
    assert budget._finished(out, {"data": "cifar10"}, []) is None


def test_files_of_untold_networks_and_of_a_name_with_an_at(tmp_path):
    gated = tmp_path / "net@0.5"
    torch.save(convert(digitsnet()).state_dict(), gated)
    small, same = budget._candidates([str(gated), f"{gated}@0.3"], "digitsnet")
    assert (small.density, same.density, small.path) == (1.0, 0.3, gated)


def stored(name):
    return json.loads((STORED / f"{name}.json").read_text())


def test_the_stored_result_of_digits_is_what_the_command_finds_today(tmp_path):
    """A second or two: everything but the clock."""
    old = stored("digits")
    words = old["command"].split()
    weights = words[words.index("--weights") + 1 : words.index("--out")]
    weights = [str(ROOT / word) for word in weights]
    new = budget.budget(weights, "digits", clock=False, say=lambda line: None)
    assert list(new["files"].values()) == list(old["files"].values())
    for one, other in zip(points(new), points(old), strict=True):
        assert one["looks"] == other["looks"]
        for part in ("validation", "test"):
            assert one[part]["accuracy"] == pytest.approx(other[part]["accuracy"], abs=0.011)
            assert one[part]["macs"] == pytest.approx(other[part]["macs"], rel=0.05)


def test_the_stored_result_of_cifar10_meets_the_goals_and_says_with_what():
    results = stored("cifar10")
    dial = [p["test"] for p in curves(results)[DIAL]]
    for accuracy, macs in ((0.923, 26e6), (0.932, 56e6)):
        assert any(test["accuracy"] >= accuracy and test["macs"] <= macs for test in dial)
    for name, digest in results["files"].items():
        assert (ROOT / name).exists() and len(digest) == 64
    assert results["validation_images"] == 5000 and results["test_images"] == 10000
    assert all(math.isfinite(ms) for times in results["clock"]["ms"].values() for ms in times)


def test_pages_say_what_is_stored():
    sys.path.insert(0, str(ROOT / "tools"))
    from readme import between_marks
    from ship_budget import table

    page, readme = (ROOT / "benchmarks" / "README.md").read_text(), (ROOT / "README.md").read_text()
    assert between_marks(page, "budget cifar10", table()) == page
    for name in ("cifar10", "digits"):
        assert (STORED / f"{name}.md").read_text() == f"{budget.report(stored(name))}\n"
    measured = {f"{100 * p['test']['accuracy']:.2f}" for p in points(stored("cifar10"))}
    caption = readme[readme.index("*CIFAR-10, thresholds") : readme.index("`make budget`")]
    for text in (
        caption,
        page[page.index("**What it shows.** Two looks") : page.index("*Budgeted")],
    ):
        numbers = re.findall(r"\b\d\d\.\d\d\b", text)
        assert len(numbers) >= 5 and set(numbers) <= measured
