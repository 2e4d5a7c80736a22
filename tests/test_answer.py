"""Where dynamic pruning wins: who meets whom, what counts as a win, and what is said of it."""

import json
from pathlib import Path
from statistics import mean

import pytest

from fbs_tutorial.bench import answer, stored
from fbs_tutorial.bench.answer import (
    AMOUNT,
    CASCADE,
    CHANNELS,
    CHOOSING,
    COSTS,
    DIAL,
    FBS,
    GATES,
    QUESTIONS,
    SCALING,
    STATIC,
    Entrant,
    Match,
    headline,
    matches,
    sentence,
    stored_budget,
    summary,
    table,
    tallies,
    tally,
    verdicts,
)
from fbs_tutorial.lesson.plots import answer_picture, budget_picture, plt

ROOT = Path(__file__).parents[1]


def entrant(kind, name, validation, macs, tests=None):
    return Entrant(kind, name, validation, tests or {0: validation}, {"macs": macs})


def a_match(difference, error=0.3, question=CHANNELS, cost="macs"):
    one, rival = (Entrant(FBS, "one", 0.9, {0: 0.9}, {cost: 2e6}) for _ in range(2))
    facts = question, "digits", "compare/digits.json", cost, one, (rival,), 0.9
    return Match(*facts, difference, error)


def test_each_entry_meets_its_neighbours_on_the_line_of_the_rivals():
    entrants = [
        entrant(FBS, "cheap", 0.80, 10, {0: 0.99}),  # best on test images, which decide nothing
        entrant(FBS, "good", 0.90, 20),
        entrant(FBS, "worse", 0.85, 30),  # dearer than a better one: not on the line
        entrant(FBS, "below", 0.70, 5),  # there is no rival so cheap
        entrant(FBS, "beyond", 0.97, 99),
        entrant(STATIC, "small", 0.85, 10),
        entrant(STATIC, "lucky", 0.70, 20, {0: 0.99}),
        entrant(STATIC, "dear", 0.95, 40),
        entrant(STATIC, "twin", 0.94, 40),
    ]
    found = [
        (one.name, *(rival.name for rival in near))
        for one, near in answer._meetings(entrants, FBS, (STATIC,), "macs")
    ]
    assert found == [("cheap", "small"), ("good", "small", "dear"), ("beyond", "dear")]
    assert not list(answer._meetings(entrants, FBS, (STATIC,), "ms"))
    assert not list(answer._meetings(entrants, DIAL, (CASCADE,), "macs"))


def test_between_two_rivals_the_cost_is_equal_by_a_line_over_its_logarithm():
    small = entrant(STATIC, "small", 0.8, 10, {0: 0.80, 1: 0.82, 2: 0.1})
    dear = entrant(STATIC, "dear", 0.9, 40, {0: 0.90, 1: 0.86})
    levels = answer._levels(20, (small, dear), "macs")  # halfway: 10, 20, 40
    assert levels == {0: pytest.approx(0.85), 1: pytest.approx(0.84)}
    assert answer._levels(99, (dear,), "macs") == dear.tests
    one = entrant(FBS, "one", 0.9, 20, {0: 0.86, 1: 0.85})
    assert answer._difference(one, levels, 10_000)[0] == pytest.approx(1)


def test_the_error_is_that_of_the_images_or_of_the_seeds_whichever_is_larger():
    one = entrant(FBS, "", 0.9, 1, {0: 0.9})
    difference, error = answer._difference(one, {0: 0.89}, 10_000)
    assert difference == pytest.approx(1) and error == pytest.approx(0.433, abs=0.001)
    one = entrant(FBS, "", 0.9, 1, {0: 0.95, 1: 0.85, 2: 0.1})
    difference, error = answer._difference(one, {0: 0.9, 1: 0.9}, 10_000)  # over the common seeds
    assert difference == pytest.approx(0) and error == pytest.approx(5)
    one = entrant(FBS, "", 0.9, 1, dict.fromkeys(range(9), 0.9))
    more_seeds_and_the_same_images = answer._difference(one, dict.fromkeys(range(9), 0.89), 10_000)
    assert more_seeds_and_the_same_images == (
        pytest.approx(1), pytest.approx(0.433, abs=0.001),
    )  # fmt: skip


def test_the_file_says_how_many_test_images_there_were(tmp_path):
    (tmp_path / "budget").mkdir()
    results = answer.stored_budget("cifar10")
    file = tmp_path / "budget" / "cifar10.json"
    file.write_text(json.dumps(results))
    many = matches(tmp_path)[0].error
    file.write_text(json.dumps(results | {"test_images": results["test_images"] / 4}))
    assert matches(tmp_path)[0].error == pytest.approx(2 * many)


@pytest.mark.parametrize(
    ("difference", "outcome"), [(0.7, "wins"), (0.5, "level"), (-0.6, "level"), (-0.7, "loses")]
)
def test_a_difference_counts_from_two_standard_errors_on(difference, outcome):
    assert a_match(difference).outcome == outcome


def test_the_headline_says_no_more_than_the_outcomes():
    won, level = (a_match(points, question=AMOUNT) for points in (1.0, 0.2))
    assert headline([level, a_match(1, question=AMOUNT, cost="ms")]) == (
        "Dynamic pruning wins nowhere yet"
    )
    assert headline([won]) == "At equal MACs a second look wins"
    none = headline([won, a_match(0, question=GATES), a_match(-1, question=GATES)])
    assert none.startswith("At equal MACs a second look wins; gates add nothing")
    level, behind = a_match(0, question=GATES), a_match(-1, question=GATES, cost="bytes")
    assert headline([won, level, behind]).endswith("a second look wins, with gates or without")
    some = headline([won, a_match(1, question=GATES, cost="bytes"), level])
    assert some.endswith("with gates it is ahead at 1 of 2 costs and level at 1")


def test_the_sentence_follows_the_outcomes():
    won, level, lost = (a_match(points, question=AMOUNT) for points in (1.0, 0.2, -1.0))
    timed = a_match(0.2, question=AMOUNT, cost="ms")
    said = sentence([won, level, lost, timed])
    assert said.startswith(f"{headline([won])}.")
    assert "ahead at 1 of 3 costs, level at 1 and behind at 1, by up to 1.0 points." in said
    assert "At equal milliseconds they are level at the one cost compared." in said
    said = sentence([lost])
    assert "wins nowhere yet" in said and "behind at the one cost compared." in said
    assert "by up to" not in said and "only scale" not in said and "with gates" not in said
    assert "At equal milliseconds" not in said
    for points, words in ((1, "ahead"), (0, "level"), (-1, "behind")):
        said = sentence([a_match(points, question=GATES)])
        assert f"Against two looks of static networks they are {words} at the one cost" in said
    said = sentence([a_match(1, question=SCALING), a_match(0, question=CHOOSING)])
    assert "static networks, gates that only scale are ahead at the one cost compared;" in said
    assert said.endswith("against those, gates that may choose are level at the one cost compared.")


def test_tallies_count_each_question_at_each_cost_and_say_what_a_lead_must_be():
    said = tallies([a_match(3), a_match(0), a_match(-3), a_match(2, cost="ms")])
    first, *lines, last = said.splitlines()
    assert first.endswith("equal MACs, bytes, milliseconds:") and len(lines) == 1
    assert lines[0].endswith(": 1 : 1 : 1, 0 : 0 : 0, 1 : 0 : 0")
    assert last == "A lead of less than 0.6 to 0.6 points cannot be told from luck."


def test_its_sentences_are_short(found):
    assert max(len(part.split()) for part in sentence(found).split(". ")) <= 40


@pytest.fixture(scope="module")
def found():
    return matches()


def test_every_cost_is_equal_and_all_is_as_stored(found):
    files = {m.source for m in found}
    assert {"budget/cifar10.json", "compare/digits.json"} <= files
    for match in found:
        kind, rivals = QUESTIONS[match.question]
        assert match.one.kind == kind and {rival.kind for rival in match.rivals} <= set(rivals)
        assert match.cost in COSTS and match.error > 0
        low, high = match.rivals[0], match.rivals[-1]
        price, ends = match.one.costs[match.cost], [e.costs[match.cost] for e in (low, high)]
        assert ends[0] <= price and (price < ends[1] or len(match.rivals) == 1)
        levels = sorted(mean(e.tests[s] for s in low.tests) for e in (low, high))
        assert levels[0] - 1e-9 <= match.level <= levels[1] + 1e-9
    known = {look["name"]: look for look in stored_budget("cifar10")["looks"]}
    single = [m for m in found if m.source == "budget/cifar10.json" and m.question == CHANNELS]
    for match in single:
        assert match.one.test == known[match.one.name]["test"]["accuracy"]
        for rival in match.rivals:
            assert rival.costs["macs"] == known[rival.name]["test"]["macs"]
    (half,) = [m for m in single if m.cost == "macs" and m.one.name == "d0.5"]
    assert [rival.name for rival in half.rivals] == ["static0.5-distilled", "plain"]


def test_tables_and_pages_are_those_of_the_stored_results(found):
    assert table(found).count("\n") == len(found) + 1
    counts = tally(found, AMOUNT, "macs")
    assert sum(counts.values()) == sum((m.question, m.cost) == (AMOUNT, "macs") for m in found)
    results, readme = (ROOT / "benchmarks/README.md").read_text(), (ROOT / "README.md").read_text()
    assert summary(found) in results and sentence(found) in results
    assert headline(found) in readme and verdicts(found) in readme
    assert (ROOT / "benchmarks" / "answer.md").read_text().rstrip().endswith(table(found))


def test_the_picture_has_every_comparison_inside_its_axes(found):
    figure, said = answer_picture()
    assert said == sentence(found) and figure.get_suptitle() == headline(found)
    panels = dict(zip(COSTS, figure.axes, strict=True))
    for cost, axes in panels.items():
        drawn = [c for c in axes.containers if len(c)]
        assert len(drawn) == sum(m.cost == cost for m in found)
        assert axes.get_xscale() == "linear"
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for point, _, (bar,) in (c.lines for c in drawn):
            ends = [end for segment in bar.get_segments() for end in segment]
            for x, y in [*point.get_xydata(), *ends]:
                assert left < x < right and top < y < bottom
    assert "not measured" in [text.get_text() for text in figure.axes[2].texts]
    plt.close(figure)


def test_the_stored_budget_has_a_picture_and_others_are_missed():
    figure, said = budget_picture("digits", "digits")
    assert figure.axes[0].get_title() == "digits" and "M MACs" in said
    plt.close(figure)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        budget_picture("nothing")


def test_the_package_alone_has_what_the_course_has(tmp_path, monkeypatch, found):
    assert matches(ROOT / "benchmarks") == found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stored, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert matches() == found and stored_budget("cifar10")["looks"]
    with pytest.raises(FileNotFoundError, match="bring the course along"):
        stored_budget("nothing")


def test_a_file_without_static_networks_of_several_sizes_is_left_out(tmp_path):
    (tmp_path / "budget").mkdir()
    results = stored_budget("digits")
    (tmp_path / "budget" / "digits.json").write_text(json.dumps(results))
    assert matches(tmp_path) == []
