"""The reader's project: a fair report passes, each fault is named, and its files are whole."""

import copy
import json

import matplotlib.pyplot as plt
import pytest
import torch

from fbs_tutorial.lesson import checks, diagrams, project
from fbs_tutorial.lesson.diagrams import draw


@pytest.fixture
def report():
    def network(*accuracy, macs=100_000, ms=0.4):
        return {"accuracy": list(accuracy), "macs": macs, "ms": ms}

    return {
        "data": "digits",
        "seeds": [0, 1],
        "chosen_on": "validation",
        "test_looks": 1,
        "networks": {
            "plain": network(0.99, 0.992, macs=800_000),
            "gated": network(0.97, 0.98),
            "narrow": network(0.984, 0.986, macs=103_000),
        },
        "controls": {"own": 0.97, "shuffled": 0.8, "mean": 0.9, "mean_winners": 0.96},
        "machine": {"device": "some CPU"},
        "batch": 1,
        "paired_error": 0.002,
        "claim": "undecided",
        "finding": "Here it does not pay.",
    }


def test_a_fair_report_passes_and_says_whether_the_lead_is_more_than_luck(report):
    result = checks.check_report(report)
    said = "gated minus narrow: −1.0 points;\n  by 2 trainings it may be off by 5.1, by so few test"
    assert result and f"{said} images by 0.4;\n  undecided" in result.message
    report["networks"]["gated"]["accuracy"] = [0.999, 0.999]
    result = repr(checks.check_report(report))
    assert "+1.4 points" in result and "may be off by 1.3" in result and "gated ahead" in result
    for claim in ("gated ahead", "undecided"):  # whoever claims less is fair, too
        assert checks.check_report(report | {"claim": claim})
    assert not checks.check_report(report | {"claim": "narrow ahead"})


def test_the_error_of_seeds_shrinks_with_more_of_them_and_one_tells_nothing():
    few, many = ([0.97, 0.96, 0.98], [0.96, 0.955, 0.96]), ([0.97, 0.98] * 8, [0.96, 0.96] * 8)
    differences = torch.tensor([0.01, 0.005, 0.02])
    expected = 4.303 * differences.std().item() / 3**0.5
    assert project.seed_error(*few) == pytest.approx(expected, rel=1e-5)
    assert project.seed_error(*many) < project.seed_error(many[0][:4], many[1][:4])
    assert project.seed_error([0.9], [0.8]) == float("inf")


def test_the_contest_in_words_claims_what_the_verdict_says(report):
    def words(gated, paired_error=0.002):
        report["networks"]["gated"]["accuracy"] = gated
        return project.in_words(report | {"paired_error": paired_error})

    by_seeds = words([0.97, 0.98])
    assert by_seeds == (
        "The gates are 1.0 points behind a narrow network of equal cost: more than the test images "
        "explain, but not more than the luck of 2 trainings. So the contest is undecided."
    )
    assert words([0.999, 1.0]).endswith("So the gated network is ahead.")
    assert words([0.964, 0.966]).endswith("So the narrow network is ahead.")
    by_images = words([0.964, 0.966], paired_error=0.02)
    assert "the luck of 2 trainings explains, but not more than that of the test" in by_images
    neither = words([0.97, 0.98], paired_error=0.02)
    assert "no more than the luck of 2 trainings, or that of the test images" in neither


FAULTS = {
    "two different seeds": lambda r: r.update(seeds=[0, 0]),
    "looked at once, at the end; test_looks is 2": lambda r: r.update(test_looks=2),
    "chosen on validation images": lambda r: r.update(chosen_on="test"),
    "6% more MACs": lambda r: r["networks"]["narrow"].update(macs=106_000),
    "6% fewer MACs": lambda r: r["networks"]["narrow"].update(macs=94_000),
    "gated: no milliseconds beside the MACs": lambda r: r["networks"]["gated"].pop("ms"),
    "plain: no MACs": lambda r: r["networks"]["plain"].pop("macs"),
    "no narrow, the fair opponent": lambda r: r["networks"].pop("narrow"),
    "no plain, one of the three": lambda r: r["networks"].pop("plain"),
    "controls lack shuffled": lambda r: r["controls"].pop("shuffled"),
    "controls lack own, shuffled, mean, mean_winners": lambda r: r.pop("controls"),
    "the four controls are equal": lambda r: r["controls"].update(
        shuffled=0.97, mean=0.97, mean_winners=0.97
    ),
    "one accuracy per seed": lambda r: r["networks"]["gated"]["accuracy"].pop(),
    "a share from 0 to 1": lambda r: r["networks"]["gated"].update(accuracy=[97.0, 98.0]),
    "paired_error is missing": lambda r: r.pop("paired_error"),
    "median time does not lie between": lambda r: r["networks"]["plain"].update(quartiles=[1, 2]),
    "claim is to be 'gated ahead', 'narrow ahead' or 'undecided'": lambda r: r.pop("claim"),
    "or 'undecided', got 'we win'": lambda r: r.update(claim="we win"),
    "is 'gated ahead', but gated minus narrow is −1.0 points, where a lead begins above 5.1": (
        lambda r: r.update(claim="gated ahead")
    ),
    "is 'narrow ahead', but gated minus narrow is −1.0": lambda r: r.update(claim="narrow ahead"),
    "finding is missing": lambda r: r.update(finding=""),
    "machine is missing": lambda r: r.pop("machine"),
    "batch is missing": lambda r: r.pop("batch"),
}


@pytest.mark.parametrize("words", FAULTS)
def test_each_fault_is_named_and_nothing_else(report, words):
    FAULTS[words](report)
    result = checks.check_report(report)
    assert not result
    lines = result.message.splitlines()[1:]
    assert words in lines[0], result
    assert len(lines) == 1, result


def test_networks_within_five_percent_are_fair(report):
    for macs in (95_000, 105_000):
        report["networks"]["narrow"]["macs"] = macs
        assert checks.check_report(report)


@pytest.mark.parametrize(
    "junk", [None, 3, {}, {"networks": 3}, {"seeds": 3}, {"networks": {"a": 1}}]
)
def test_whatever_stands_in_a_report_the_check_does_not_raise(junk):
    assert not checks.check_report(junk)


def test_a_report_is_written_as_page_picture_and_numbers(report, tmp_path):
    before = plt.get_fignums()
    page = project.write_report(report, tmp_path / "mine")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "report.json",
        "report.md",
        "report.png",
    ]
    assert json.loads((page.parent / "report.json").read_text()) == report
    text = page.read_text()
    assert "| gated | 97.0 %, 98.0 % | 100,000 | 0.400 |" in text
    assert "nothing found" in text and "another image's gates | 80.0 %" in text
    assert (page.parent / "report.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == before


def test_an_unfair_report_says_so_on_its_page(report, tmp_path):
    unfair = copy.deepcopy(report)
    unfair["test_looks"] = 3
    assert "test_looks is 3" in project.write_report(unfair, tmp_path).read_text()


def test_in_a_test_run_the_report_is_not_left_beside_the_notebook(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tmp_path not in project.write_report(report).resolve().parents
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("PYTEST_VERSION")
    assert project.write_report(report).parent == project.FOLDER
    assert (tmp_path / project.FOLDER / "report.md").exists()


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if title in axes.get_title()]
    return axes


def test_the_picture_is_the_whole_page(report):
    figure, sentence = project.report_picture(report)
    accuracy = panel(figure, "Accuracy")
    seeds = [line.get_xdata().tolist() for line in accuracy.lines if line.get_marker() == "o"]
    assert seeds == [pytest.approx(two) for two in ([99, 99.2], [97, 98], [98.4, 98.6])]
    means = [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() != "o"]
    assert means == pytest.approx([99.1, 97.5, 98.5])
    assert accuracy.get_yticklabels()[1].get_text() == "gated\n0.10 M MACs"
    times, controls = panel(figure, "Milliseconds"), panel(figure, "whose gates")
    assert [bar.get_width() for bar in times.patches] == [0.4] * 3
    assert [bar.get_width() for bar in controls.patches] == pytest.approx([97, 80, 90, 96])
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert report["finding"] in words
    assert {"12 %", "97.5 %", "−1.0", "1.0"} <= set(words)  # MACs, accuracy, lead, time
    assert "Missing or unfair: nothing found" in figure.get_supxlabel()
    assert "gated 97.5 % correct, 100,000 MACs, 0.400 ms" in sentence
    plt.close(figure)


@pytest.mark.parametrize("colours", [1, 3])
def test_the_page_may_show_images_each_above_its_caption(report, colours):
    images, captions = torch.rand(3, colours, 8, 8), ["a", "b", "c"]
    figure, _ = project.report_picture(report, images, captions)
    strip = panel(figure, "least sure")
    assert [text.get_text() for text in strip.texts] == captions
    assert [picture.get_array().shape[:2] for picture in strip.images] == [(8, 8)] * 3
    plt.close(figure)


def test_an_unfair_report_says_so_on_its_picture(report):
    figure, _ = project.report_picture(report | {"test_looks": 3})
    assert "Missing or unfair: 1" in figure.get_supxlabel()
    plt.close(figure)


def test_a_report_may_hold_pairs_of_looks_quartiles_and_a_paired_error(report, tmp_path):
    report["networks"]["gated"]["quartiles"] = [0.3, 0.5]
    report["pairs"] = {"gated, then plain": {"accuracy": [0.98, 0.99], "macs": 200_000}}
    assert "by so few test images by 0.4" in repr(checks.check_report(report))
    figure, sentence = project.report_picture(report)
    assert "gated, then plain 98.5 % correct, 200,000 MACs." in sentence
    rows = [line for line in panel(figure, "Accuracy").lines if line.get_marker() == "o"]
    assert len(rows) == 4 and rows[3].get_markerfacecolor() == "white"
    assert rows[3].get_color() == rows[1].get_color(), "a pair whose first look is gated"
    ends = panel(figure, "Milliseconds").collections[0].get_segments()
    assert [segment[:, 0].tolist() for segment in ends] == [
        [0.4, 0.4],
        pytest.approx([0.3, 0.5]),
        [0.4, 0.4],
    ]
    plt.close(figure)
    text = project.write_report(report, tmp_path).read_text()
    assert "| gated | 97.0 %, 98.0 % | 100,000 | 0.400 (0.300 to 0.500) |" in text
    assert "| gated, then plain | 98.0 %, 99.0 % | 200,000 |  |" in text


def test_a_paired_error_counts_only_images_on_which_two_sides_differ():
    same = torch.rand(2, 100) < 0.9
    assert project.paired_error(same, same) == 0
    other = same.clone()
    other[:, :4] = ~other[:, :4]
    difference = (same.double() - other.double()).mean(dim=0)
    assert project.paired_error(same, other) == pytest.approx(difference.std().item() / 10)
    assert 0.01 < project.paired_error(same, other) < 0.04


def test_the_map_of_a_project_is_legible():
    figure, _ = diagrams.project_map()
    assert draw.collisions(figure) == []
    plt.close(figure)


def test_a_race_says_from_which_width_on_skipping_wins():
    def title(*gated):
        shares = {"gated": gated, "narrow": (0.9, 0.6, 0.4)}
        times = {name: [(s, s - 0.1, s + 0.2) for s in row] for name, row in shares.items()}
        figure, sentence = diagrams.race_by_width((8, 16, 32), times)
        assert "width 16: gated" in sentence and "narrow 60%;" in sentence
        bars = figure.axes[0].containers[1].lines[2][0].get_segments()
        assert bars[2][:, 1] == pytest.approx([30, 60])  # from quartile to quartile
        assert [text.get_text() for text in figure.axes[0].texts] == ["gated", "narrow", "plain"]
        plt.close(figure)
        return figure.axes[0].get_title()

    wins = "Skipping beats the plain network"
    assert title(0.7, 1.2, 0.6) == f"{wins} at width 32"
    assert title(0.79, 0.75, 0.7) == f"{wins} from width 8 on"
    open_at_16 = f"{wins} at width 32; at 16 the clock has not decided"
    assert title(1.3, 0.95, 0.75) == f"{open_at_16},\nand the narrow one is faster at each"
    assert title(0.7, 0.8, 1.2) == "At the largest of these widths skipping does not yet pay"
    assert title(0.7, 0.8, 0.95) == "At the largest of these widths the clock has not decided"


def test_a_network_off_its_density_has_a_ring_where_it_is_asked():
    rows = {0.3: (0.95, 100_000), 1.0: (0.9, 800_000)}
    figure, sentence = diagrams.off_its_density(rows, 1.0, 0.3)
    assert sentence == "d = 1: 90.0% of the validation images correct, 800,000 MACs."
    assert figure.axes[0].lines[-1].get_xydata().tolist() == [[800, 90]]
    plt.close(figure)
