"""What the figures of notebooks 06 and 07 say is computed from what they are given."""

import json
import sys
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from fbs_tutorial import how_dynamic, load_data, load_pretrained, set_density, winner_take_all
from fbs_tutorial.bench.answer import NAMES
from fbs_tutorial.checkpoints import load_metrics
from fbs_tutorial.lesson import diagrams
from fbs_tutorial.lesson.diagrams import draw, gates
from fbs_tutorial.lesson.diagrams.training import PRICE_LOOKS
from fbs_tutorial.lesson.plots.style import BLUE, WHITE
from fbs_tutorial.lesson.results import (
    FOLDER,
    cifar10_networks,
    digits_by_seed,
    every_density,
    result,
    with_and_without_choice,
)
from fbs_tutorial.method.wta import winner_mask

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ablation", "ablation/rows.json"),
        ("budget-cifar10", "budget/cifar10.json"),
        ("stability-digits", "stability/digits.json"),
        ("tiny-imagenet-50", "tiny-imagenet-50/metrics.json"),
    ],
)
def test_results_for_the_notebooks_are_those_of_the_benchmarks(name, source):
    assert result(name) == json.loads((ROOT / "benchmarks" / source).read_text())


def test_every_result_is_known_and_others_are_refused_by_name():
    names = {path.stem for path in FOLDER.glob("*.json")}
    compared = {
        f"{place}-{path.stem}"
        for place in ("budget", "compare", "choice")
        for path in (ROOT / "benchmarks" / place).glob("*.json")
        if path.stem in NAMES
    }
    others = {"ablation", "cpu", "gains", "pairs-cifar10", "stability-digits", "tiny-imagenet-50"}
    assert names == others | compared
    with pytest.raises(ValueError, match=r"name must be one of ablation, .*, got 'speed'"):
        result("speed")


def test_pairs_are_of_the_images_whose_shares_the_run_stored():
    stored = {row["density"]: row for row in load_metrics("cifar10", "any")[0]["rows"]}
    rows = result("pairs-cifar10")["rows"]
    assert [row["density"] for row in rows] == [0.2, 0.3, 0.5, 0.7]
    for row in rows:
        images = row["both"] + row["own_only"] + row["same_only"] + row["neither"]
        of_run = stored[row["density"]]
        assert images == of_run["control_images"]
        assert (row["both"] + row["own_only"]) / images == pytest.approx(of_run["own_gates"])
        assert (row["both"] + row["same_only"]) / images == pytest.approx(of_run["mean_winners"])


def test_pairs_add_up_to_what_how_dynamic_counts():
    network, (train, test) = load_pretrained("digits"), load_data("digits")
    found = import_module("pairs").pairs(network, 0.2, test.tensors, train.tensors[0])
    control = how_dynamic(set_density(network, 0.2), *test.tensors, reference=train.tensors[0])
    assert sum(found.values()) == 500
    assert (found["both"] + found["own_only"]) / 500 == control.own
    assert (found["both"] + found["same_only"]) / 500 == control.mean_winners


def test_networks_for_cifar10_come_by_kind_with_their_work():
    kinds = cifar10_networks()
    (plain,), (half,) = kinds["plain"], kinds["gated, d = 0.5, with a teacher"]
    assert plain["macs"] == plain["macs_dense"] and 0.25 < half["macs"] / plain["macs"] < 0.26
    assert all(row["density"] < 1 for row in kinds["small plain, no teacher"])
    assert len(kinds["small plain, with the same teacher"]) == 1


def test_networks_with_and_without_their_choice_were_measured_on_the_same_images():
    series, images, pairs = with_and_without_choice()
    rows = [row for runs in series.values() for run in runs for row in run]
    assert {row["control_images"] for row in rows} == {images}
    assert set(pairs) < set(series) and all(row["density"] <= 1 for row in rows)


def test_digits_by_seed_are_those_of_the_runs():
    found = digits_by_seed((0.3, 0.5))
    (first, *_) = load_metrics("digits", "static")
    wanted = {row["density"]: 100 * row["test_accuracy"] for row in first["rows"]}
    assert found["small plain"][0] == [wanted[0.3], wanted[0.5]]
    assert {name: len(runs) for name, runs in found.items()} == {"gated": 3, "small plain": 3}


@pytest.mark.parametrize("channels", [8, 64])
def test_whose_gates_has_a_row_for_each_kind_and_legible_words(channels):
    given = {name: winner_take_all(torch.rand(1, channels), 0.3)[0] for name in gates.COLOURS}
    draws = ([0.98], [0.7, 0.81, 0.82], [0.886], [0.942], [0.0, 0.2])
    right = dict(zip(given, draws, strict=True))
    image, donor = torch.rand(2, 1, 16, 16)
    figure, sentence = diagrams.whose_gates(image, donor, given, right)
    assert not draw.collisions(figure)
    assert "gates 81.0 % (median of 3 draws, 70.0 to 82.0); both fixed 88.6 %;" in sentence
    assert len(figure.axes[0].images) == 2


def test_shared_by_class_counts_pairs_of_one_class_and_of_two_without_the_image_itself():
    chosen = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()
    _, sentence = diagrams.shared_by_class({"net": chosen}, torch.tensor([1, 1, 0]))
    assert "images of one digit have 1.0 of 2 channels in common, of different digits 0.5" in (
        sentence
    )
    assert "at random have 1.0" in sentence


def test_choice_and_scale_subtracts_the_controls_and_takes_the_median_of_the_seeds():
    def row(own, winners, mean, density=0.5):
        return {
            "density": density, "own_gates": own, "mean_winners": winners, "mean_gates": mean,
        }  # fmt: skip

    runs = [[row(0.9, 0.8, 0.7)], [row(0.9, 0.88, 0.5)], [row(0.9, 0.89, 0.6)]]
    _, sentence = diagrams.choice_and_scale({"set": runs})
    assert sentence == "set, median of 3 seeds, d = 0.5: choice fixed 2.0, both fixed 30.0."
    _, sentence = diagrams.choice_and_scale({"set": runs[:1]})
    assert sentence == "set, d = 0.5: choice fixed 10.0, both fixed 20.0."


def test_rank_dots_says_each_layer_and_the_range_of_those_that_know_nothing():
    measures = {"activity": ([-0.4, 0.1], [[0.2, 0.0], [0.1, -0.4], [0.1, -0.2]])}
    figure, sentence = diagrams.rank_dots(measures, ["conv1", "conv2"])
    assert sentence == ("activity: -0.40, 0.10; beyond all draws above in conv2; below in conv1.")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert {dot.get_markerfacecolor() for dot in dots} == {BLUE}
    measures["activity"][0][0] = 0.15  # within the draws
    within = diagrams.rank_dots(measures, ["conv1", "conv2"])[0].axes[0].lines
    assert [line.get_markerfacecolor() for line in within if line.get_marker() == "o"] == [
        WHITE,
        BLUE,
    ]
    bands = [band[:, 0].tolist() for band in figure.axes[0].collections[0].get_segments()]
    assert bands == [[0.1, 0.2], [-0.4, 0.0]]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["conv1", "conv2"] and figure.axes[0].texts[0].get_text() == "activity"


def test_two_looks_adds_up_mean_and_worst_case():
    figure, sentence = diagrams.two_looks("d = 0.2", "d = 0.5", 0.1, (2e6, 5e6))
    assert not draw.collisions(figure)
    assert "= 2.5 M MACs; the worst case is 7 M MACs" in sentence


def test_surest_and_least_orders_by_confidence():
    confidence = torch.tensor([0.9, 0.3, 1.0, 0.5])
    figure, sentence = diagrams.surest_and_least(torch.rand(4, 1, 4, 4), confidence, "abcd", 2)
    assert [axes.get_title() for axes in figure.axes] == ["b", "d", "c", "a"]
    assert "30 to 50 %" in sentence and "above 90.0 %" in sentence


def test_the_dial_stands_where_it_is_told_to():
    figure, sentence = diagrams.the_dial(
        [(1e6, 0.9), (2e6, 0.95)], (1.5e6, 0.93, 0.2), {0.3: (1e6, 0.9), 0.5: (2e6, 0.92)}
    )
    assert sentence == (
        "20 % of the test images look again: 93.0 % correct with 1.5 M MACs on average."
    )
    assert figure.axes[0].lines[-1].get_xydata().tolist() == [[1500, 93.0]]


def test_second_looks_names_each_line_and_bars_each_point_with_its_error():
    def point(macs, right):
        return {"test": {"macs": macs, "accuracy": right, "random_accuracy": right - 0.1}}

    gated, plain = [point(60e6, 0.92), point(30e6, 0.9)], [point(40e6, 0.91), point(50e6, 0.92)]
    lines = {"gated": gated, "plain": plain, "one look": [point(20e6, 0.8)]}
    figure, sentence = diagrams.second_looks(lines, 10000)
    assert sentence == (
        "gated up to 92.00 %; plain up to 92.00 %; one look up to 80.00 %; second looks at random "
        "up to 82.00 %. Bars: a standard error of 10,000 test images."
    )
    (axes,) = figure.axes
    assert [words.get_text() for words in axes.texts] == [*lines, "second looks at random"]
    assert axes.containers[0][0].get_xdata().tolist() == [30, 60]
    assert axes.get_title() == "Two looks, and one"  # none of them is for a third of the work
    lines["one look"] = [point(200e6, 0.91)]
    figure, _ = diagrams.second_looks(lines, 10000)
    (axes,) = figure.axes
    said = "Two looks keep the accuracy of one look with 30% of its MACs"
    assert axes.get_title() == said and "30% of its MACs, +1.00 points" in [
        text.get_text() for text in axes.texts
    ]
    lines["one look"] = [point(200e6, 0.95)]
    figure, _ = diagrams.second_looks(lines, 10000)
    assert figure.axes[0].get_title().startswith("Two looks come near to the accuracy of one look")


def test_what_each_part_is_worth_is_the_mean_over_the_seeds():
    rows = [
        {"data": "digits", "density": 0.2, "arm": arm, "val_accuracy": value}
        for arm in ("neither", "distilled", "density lowered", "both")
        for value in (0.4, 0.6)
    ]
    _, sentence = diagrams.what_each_part_is_worth(rows)
    assert sentence.startswith(
        "Mean validation accuracy at d = 0.2: neither 50.0 %; a teacher 50.0 %"
    )


def test_loss_curves_say_the_first_and_the_last_epoch():
    figure, sentence = diagrams.loss_curves({"one": [4.0, 2.0, 1.0, 0.5]}, 2)
    assert sentence == "one: mean loss 3 in the first epoch, 0.75 in the last."
    assert figure.axes[0].get_yscale() == "log"


def test_soft_answers_are_those_of_the_temperature():
    _, sentence = diagrams.soft_answers(torch.rand(1, 4, 4), torch.tensor([4.0, 0.0]), (1, 4), 0)
    assert "at T = 1 98.2 % for 0" in sentence and "at T = 4 73.1 % for 0" in sentence


def test_gain_and_penalty_shows_the_runs_of_one_penalty():
    def row(gain, penalty, own):
        shares = {"shuffled_gates": own - 0.1, "share_above_zero": [0.5, 0.75]}
        return {"gain": gain, "penalty": penalty, "own_gates": own, **shares}

    rows = [row(1.0, 0.0, 0.9), row(5.0, 0.0, 0.8), row(1.0, 0.1, 0.3), row(5.0, 0.1, 0.3)]
    figure, sentence = diagrams.gain_and_penalty(rows, 5.0, 0.0)
    assert "own gates 80.0 %, another image's gates 70.0 %" in sentence
    assert "50 to 75 %" in sentence
    assert figure.axes[0].lines[0].get_ydata().tolist() == [90, 80]


def test_price_of_every_density_says_what_lies_below_the_picture():
    run = [{"density": d, "test_accuracy": a} for d, a in ((0.1, 0.12), (0.5, 0.9))]
    one, taught = "one for every density", "small plain, one for each"
    panels = {"a": {one: [run]}, "b": {one: [run], taught: [run[1:]]}}
    figure, sentence = diagrams.price_of_every_density(panels)
    assert f"a, {one}: 90.0 % at 0.5, 12.0 % at 0.1" in sentence
    assert f"b, {taught}: 90.0 % at 0.5." in sentence
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.5]
    assert [text.get_text() for text in figure.axes[1].texts] == [one, taught]
    with pytest.raises(KeyError):
        diagrams.price_of_every_density({"a": {"another": [run]}, "b": {}})


@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_networks_for_every_density_stand_beside_untaught_rivals(data):
    found = every_density(data)
    assert set(found) == set(PRICE_LOOKS)
    assert all(rows and not any(row.get("distilled") for row in rows) for runs in found.values()
               for rows in runs)  # fmt: skip
    assert all(row["density"] for runs in found.values() for rows in runs for row in rows)


def test_winners_of_the_control_are_drawn_as_the_mask_says():
    """A gate of 0 that wins has no bar, and neither has a loser."""
    gate = torch.tensor([2.0, 0.0, 1.0, 0.0])
    given = {"its own gates": gate}
    figure, _ = diagrams.whose_gates(*torch.rand(2, 1, 4, 4), given, {"its own gates": [1.0]})
    heights = [bar.get_height() for bar in figure.axes[0].patches if hasattr(bar, "get_height")]
    assert len([h for h in heights if h < 0]) == int(winner_mask(gate[None], 0.5).sum())


def test_by_density_takes_medians_and_names_every_line():
    found = {
        0.2: {"its own gates": 95.0, "another image's gates": [70.0, 80.0, 75.0]},
        1.0: {"its own gates": 99.0, "another image's gates": [88.0, 89.0, 90.0]},
    }
    figure, sentence = diagrams.by_density(found, "title")
    said = "Correct at d = 0.2, 1:\nits own gates 95.0, 99.0 %\nanother image's gates 75.0, 89.0 %"
    assert sentence == said
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == set(found[1.0])
    assert axes.get_ylim() == (66, 101)  # nothing is low, so the axis begins above 0
    found[0.2]["its own gates"] = 10.0
    assert diagrams.by_density(found, "")[0].axes[0].get_ylim()[0] == 0


def test_donors_compared_says_median_and_range():
    figure, sentence = diagrams.donors_compared({"own": [98.0], "far": [70.0, 80.0, 90.0]}, "t")
    assert sentence == "own: 98.0 %\nfar: 80.0 %, 70.0 to 90.0"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["own", "far"]
