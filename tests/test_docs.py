"""What docs/ promises a lecturer: headings, minutes, words of the checks, numbers, and links."""

import importlib.util
import re
import sys
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from bank import ANSWERS, of_authors, of_cifar10
from test_notebooks import NOTEBOOKS, cells, minutes, parentheses, prose, source, text_outputs
from test_packaging import headings

import fbs_tutorial
from fbs_tutorial.lesson import checks, project

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
PATHS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
TEACHING, QUESTIONS = PAGES["docs/teaching.md"], PAGES["docs/questions.md"]
RUBRIC, REVIEW = PAGES["docs/rubric.md"], PAGES["docs/review.md"]
CONTRIBUTING, CHANGELOG = PAGES["CONTRIBUTING.md"], PAGES["CHANGELOG.md"]
WRITTEN = ("package", "teaching", "questions", "rubric", "review", "trial", "glossary")
each_page = pytest.mark.parametrize("name", PAGES)
SECTION = r"\[(\d\d) · ([^\]]+)\]\(\.\./notebooks/([^)]+)\)"  # a link to a heading of a notebook


def table_rows(text):
    """The tables of a page: for each one the last heading or bold line above it, and its rows."""
    title, rows = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            yield title, rows[0], rows[2:]
            rows = []
        if found := re.match(r"#+ (.+)|\*\*(.+?)\*\*", line):
            title = found[1] or found[2]


@cache
def in_notebook(number):
    """All that a reader sees of a notebook, without its set-up."""
    notebook = next(n for name, n in NOTEBOOKS.items() if name.startswith(number))
    code = "\n".join(source(cell) for cell in cells(notebook, "code")[1:])
    return "\n".join([prose(notebook), code, *text_outputs(notebook)])


# Links, headings, commands, words


def test_the_pages_are_there_and_the_readme_leads_to_them():
    readme = (ROOT / "README.md").read_text()
    for name in WRITTEN:
        assert f"](docs/{name}.md)" in readme
    assert "](CONTRIBUTING.md)" in readme and "](CHANGELOG.md)" in readme


@each_page
def test_links_lead_somewhere(name):
    page = ROOT / name
    for bang, alt, target in re.findall(r"(!?)\[([^\]]*)\]\((?!http)([^)\s]+)\)", PAGES[name]):
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        assert not anchor or anchor in headings(page.parent / file if file else page), target
        assert not bang or len(alt) > 20


@each_page
def test_sections_that_are_named_stand_in_their_notebook(name):
    for number, heading, file in re.findall(SECTION, PAGES[name]):
        assert file.startswith(number), file
        found = re.findall(r"^#+ (.+)$", prose(NOTEBOOKS[file]), re.M)
        assert heading in [text.replace("*", "") for text in found], heading


def test_each_notebook_has_a_section_in_the_plans():
    named = {number for number, *_ in re.findall(SECTION, TEACHING)}
    assert named >= {name[:2] for name in NOTEBOOKS} - {"12"}


@each_page
def test_commands_of_make_exist(name):
    makefile = (ROOT / "Makefile").read_text()
    there = set(" ".join(re.findall(r"^([a-z -]+):", makefile, re.M)).split())
    assert set(re.findall(r"`make ([a-z-]+)", PAGES[name])) <= there


@each_page
def test_notebooks_link_to_no_missing_place_in_it(name):
    for notebook in NOTEBOOKS.values():
        for anchor in re.findall(rf"\]\(\.\./{re.escape(name)}#([^)]+)\)", prose(notebook)):
            assert anchor in headings(ROOT / name)


CLUMSY = (
    r"\b(?:a|one) (?:row|density|gate|number|mask|look) an? (?:image|layer|channel)\b",
    r"\bbehind (?:a|the|it|each) ?layer",
    r"\b[Ww]hich share\b",
    r"\bshall\b",
    r"\bTODO\b|\bFIXME\b",
    r"\b(?:simply put|in order to|note that|it should be noted|obviously|of course)\b",
    r"\w—\w|\s—\s",
)


@each_page
def test_plain_english(name):
    text = re.sub(r"```.*?```|`[^`]*`|<[^>]+>", "", PAGES[name], flags=re.S)
    for pattern in CLUMSY:
        assert not re.search(pattern, text), re.search(pattern, text)
    for sentence in re.split(r"(?<=[.?!:])\s|\n|\|", text):
        assert sentence.count(";") <= 3, sentence
    page = {"cells": [{"cell_type": "markdown", "source": re.sub(r"\*\*.+?\*\*:", "", text)}]}
    assert parentheses(page) <= 20


# Plans


def plans():
    """Every table that begins with minutes: what its title promises, and its rows."""
    words = {"in ten minutes": 10, "of 3 hours": 180}
    for name in ("docs/teaching.md", "docs/review.md"):
        for title, head, rows in table_rows(PAGES[name]):
            if head[0] == "minutes":
                said = [promise for end, promise in words.items() if title.endswith(end)]
                said += [int(number) for number in re.findall(r"(\d+) minutes", title)]
                yield pytest.param(said, rows, id=title)


@pytest.mark.parametrize(("promised", "rows"), [*plans()])
def test_the_minutes_of_a_plan_add_up(promised, rows):
    assert [sum(int(row[0]) for row in rows)] == promised
    assert all(len(row) >= 3 for row in rows)


def test_the_two_weeks_add_up():
    title, _, meetings = next(t for t in table_rows(TEACHING) if t[1][0] == "meeting")
    text = re.search(r"Eight meetings, (\d+) minutes in class and (\d+) at home", TEACHING)
    assert title == "A two-week unit with project" and len(meetings) == 8
    assert sum(int(row[1]) for row in meetings) == int(text[1])
    assert sum(int(row[3]) for row in meetings) == int(text[2])
    own = [re.match(r"((?:Lab|Lecture) \d), (\d+) minutes", t) for t, *_ in table_rows(TEACHING)]
    planned = {title[1]: int(title[2]) for title in own if title}
    assert planned == {row[0]: int(row[1]) for row in meetings[1:-1]}


def test_a_whole_notebook_at_home_takes_the_minutes_that_it_states():
    rows = [
        row for title, head, table in table_rows(TEACHING) for row in table if head[0] == "meeting"
    ]
    found = [(int(row[3]), re.search(r"notebook (\d\d), all of it", row[4])) for row in rows]
    whole = [(stated, match[1]) for stated, match in found if match]
    assert len(whole) == 4
    for stated, number in whole:
        notebook = next(n for name, n in NOTEBOOKS.items() if name.startswith(number))
        assert minutes(notebook)[0] == stated


def demonstrations():
    for _, _, rows in table_rows(TEACHING):
        for row in rows:
            if notebooks := re.findall(SECTION, row[1] if len(row) > 1 else ""):
                yield pytest.param([n for n, *_ in notebooks], row, id=" ".join(notebooks[0][:2]))


@pytest.mark.parametrize(("notebooks", "row"), [*demonstrations()])
def test_what_a_demonstration_shows_stands_in_its_notebook(notebooks, row):
    seen = "\n".join(map(in_notebook, notebooks))
    told = " ".join(row[2:])
    numbers = re.findall(r"\d[\d,]*\.\d+", re.sub(SECTION, "", told))
    for number in {*numbers, *re.findall(r"(\d[\d.,]*) %", told)} - BANK.keys():
        assert number in seen, number


def answers(number):
    """What the guesses of a notebook reveal, as stored."""
    notebook = next(n for name, n in NOTEBOOKS.items() if name.startswith(number))
    pages = [
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in cells(notebook, "code")
        for output in cell["outputs"]
    ]
    return set(re.findall(r"The answer is ([\d.,]*\d)", re.sub(r"<[^>]+>", "", " ".join(pages))))


def guesses():
    """The sentences of the plans that ask for a guess and give its answer."""
    for param in demonstrations():
        notebooks, row = param.values
        for sentence in re.split(r"(?<=[.?!]) ", row[2]):
            after = re.search(r"(?:guess|hands up)(.*)", sentence, re.I)
            if after and re.search(r"\d", after[1]):
                yield pytest.param(notebooks, after[1], id=f"{param.id} {after[1][:40]}")


@pytest.mark.parametrize(("notebooks", "told"), [*guesses()])
def test_a_guess_has_the_answer_that_its_notebook_reveals(notebooks, told):
    revealed = set().union(*map(answers, notebooks))
    assert revealed & set(re.findall(r"\d[\d,]*(?:\.\d+)?", told)), revealed


def test_most_guesses_of_the_plans_have_their_answer_beside_them():
    assert len([*guesses()]) >= 10


def test_the_slides_come_in_the_order_and_at_the_minutes_of_the_lecture():
    _, _, rows = next(t for t in table_rows(TEACHING) if t[0].startswith("One lecture"))
    plan, now = [], 0
    for row in rows:
        plan.append((now, now + int(row[0]), [n for n, *_ in re.findall(SECTION, row[1])]))
        now += int(row[0])
    seen = set()
    for slide in yaml.safe_load((ROOT / "docs" / "slides.yml").read_text(encoding="utf-8")):
        if "cell" in slide:
            minute, number = int(re.search(r"Minutes? (\d+)", slide["say"])[1]), slide["cell"][:2]
            at = [
                i
                for i, (start, end, n) in enumerate(plan)
                if start <= minute <= end and number in n
            ]
            assert at, (slide["title"], minute)
            seen.update(at)
    assert seen >= set(range(len(plan))), "a row of the lecture has no slide"


def test_answers_to_common_questions_keep_to_their_notebook():
    text = TEACHING[TEACHING.index("## Common questions") : TEACHING.index("## Common mistakes")]
    answers = re.findall(r"^\*\*.+?\?\*\* (.+)$", text, re.M)
    assert len(answers) >= 10
    for answer in answers:
        notebooks = [n for n, *_ in re.findall(SECTION, answer)]
        assert notebooks, answer
        for number in re.findall(r"\d+\.\d+ %", answer):
            assert any(number in in_notebook(n) for n in notebooks), number


def test_the_mistakes_are_the_checks_own_words():
    _, _, rows = next(t for t in table_rows(TEACHING) if t[1][:2] == ["notebook", "check"])
    assert {row[0] for row in rows} == {f"{n:02}" for n in range(14)}
    for notebook, check, says, answer in rows:
        exercise = getattr(import_module(f"{checks.__name__}.nb{notebook}"), check.strip("`"))
        assert says in [mistake.says for mistake in exercise.mistakes], says
        assert len(answer) > 15


# Question bank

KINDS = ("recall", "reasoning", "calculation", "critique")
BANK = {
    number: (kind, asked, answer)
    for number, kind, asked, answer in re.findall(
        r"^\*\*(\d\d\.\d), (\w+)\.\*\* (.+)\n\n<details><summary>Answer</summary>\n\n(.+)\n\n</det",
        QUESTIONS,
        re.M,
    )
}


def test_the_bank_has_forty_questions_of_four_kinds_from_every_notebook():
    assert len(BANK) >= 40 and f"{len(BANK)} questions" in QUESTIONS
    assert len(BANK) == QUESTIONS.count("<details>") == QUESTIONS.count("</details>")
    assert {kind for kind, *_ in BANK.values()} == set(KINDS)
    assert {number[:2] for number in BANK} == {f"{n:02}" for n in range(14)}
    assert all(a < b for a, b in pairwise(BANK))
    for kind in KINDS:
        assert sum(kind == found for found, *_ in BANK.values()) >= 10, kind


def test_every_calculation_is_computed_here():
    assert {
        number for number, (kind, *_) in BANK.items() if kind == "calculation"
    } <= ANSWERS.keys()


@pytest.mark.parametrize("number", ANSWERS)
def test_numbers_of_the_bank_are_computed(number):
    _, asked, answer = BANK[number]
    wanted = ANSWERS[number]()
    assert wanted
    for value in wanted:
        assert value in f"{asked} {answer}", value


def test_no_question_of_the_bank_stands_in_a_notebook():
    for _, asked, _ in BANK.values():
        assert asked not in in_notebook("00") + "".join(prose(n) for n in NOTEBOOKS.values())


def test_what_the_bank_says_of_a_notebook_stands_there():
    for number, (_, _, answer) in BANK.items():
        for value in re.findall(r"\d\d\.\d+ on average|−?0\.\d\d on average", answer):
            assert value.split()[0] in in_notebook(number[:2]), value


@pytest.mark.parametrize("name", ["docs/teaching.md", "docs/trial.md", "docs/questions.md"])
def test_questions_that_are_named_exist(name):
    named = re.findall(r"(?<![\d.,])(0\d\.\d|1[0-3]\.\d)(?![\d%]| [%µ])", PAGES[name])
    assert named and set(named) <= BANK.keys() | {"0.0"}, set(named) - BANK.keys()


# Rubric


def rubric_of(text):
    return [
        (int(row[0]), row[1])
        for _, head, rows in table_rows(text)
        if head[:2] == ["points", "for"]
        for row in rows
    ]


def test_the_rubric_is_the_one_of_notebook_13():
    own = rubric_of(prose(NOTEBOOKS["13_your_project.ipynb"]))
    assert own and rubric_of(RUBRIC) == own
    assert sum(points for points, _ in own) == 20 and RUBRIC.startswith("# Rubric")
    assert "Twenty points" in RUBRIC


def a_fair_report():
    network = {"accuracy": [0.9, 0.91], "macs": 100, "ms": 1.0}
    controls = {"own": 0.9, "shuffled": 0.7, "mean": 0.8, "mean_winners": 0.85}
    return {
        "data": "digits", "seeds": [0, 1], "chosen_on": "validation", "test_looks": 1,
        "networks": dict.fromkeys(project.NETWORKS, network), "controls": controls,
        "machine": {"device": "x"}, "batch": 1, "claim": "undecided", "finding": "Level.",
        "paired_error": 0.01,
    }  # fmt: skip


def test_the_rubric_names_what_the_report_must_hold():
    assert f"{project.SLACK:.0%}".replace("%", " %") in RUBRIC
    for key in ("test_looks", "chosen_on", "macs", "machine", "batch", "claim"):
        assert f"`{key}`" in RUBRIC and key in project.CRITERIA
    for network in project.NETWORKS:
        assert network in RUBRIC


def test_the_rubrics_code_runs_and_passes_a_fair_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project.write_report(a_fair_report(), tmp_path / "my_project")
    exec(re.search(r"```python\n(.*?)```", RUBRIC, re.S)[1], {})
    assert capsys.readouterr().out.startswith("✔ nothing is missing")


# Review, trial, glossary


def test_what_was_measured_is_what_is_stored():
    from readme import between_marks
    from ship_review import measured

    assert between_marks(REVIEW, "measured", measured()) == REVIEW
    for file in re.findall(r"`((?:benchmarks|fbs_tutorial)/[^`]+)`", REVIEW):
        assert (ROOT / file).exists(), file


def test_numbers_of_the_review_outside_its_table_stand_in_a_notebook():
    text = re.sub(r"<!-- measured.*?/measured -->", "", REVIEW, flags=re.S)
    for number in re.findall(r"\d+\.\d+ %", text):
        assert any(number.split()[0] in in_notebook(f"{n:02}") for n in range(14)), number


def test_each_claim_about_the_review_has_a_source():
    story = REVIEW[REVIEW.index("## What happened") : REVIEW.index("## What this course")]
    for entry in re.findall(r"^- \*\*(.+?)\.\*\* (.+)$", story, re.M):
        assert "](http" in entry[1] or "the notes" in entry[1], entry[0]
    assert "openreview.net/forum?id=BJxh2j0qYm" in REVIEW


@pytest.mark.parametrize(
    "term",
    [
        "Dynamic channel pruning", "Static pruning", "l1", "l2", "max", "avg", "Tie", "Stable sort",
        "NaN", "Running statistics", "Executed", "Grouped convolution", "Residual network",
        "Staircase", "Slope", "Teacher", "Weight decay", "Kullback–Leibler divergence", "Seed",
        "Test images", "Small plain network", "Fair opponent", "Dial", "Worst case", "Median and "
        "quartiles", "Warm-up", "Native", "Program", "Block", "Fused", "Event",
        "Asynchronous", "CUDA graph", "Ridge", "bfloat16", "Expansion",
        "Projection", "AMC", "NetAdapt", "Kernel mask", "Undecided channel", "Sleeper", "Clipping",
        "Momentum", "Dropout", "Standard error", "Select", "Early exit", "Squeeze-and-excitation",
    ],
)  # fmt: skip
def test_a_term_of_the_notebooks_is_in_the_glossary_and_in_a_notebook(term):
    glossary = PAGES["docs/glossary.md"]
    assert f"\n**{term}**: " in glossary
    said = " ".join(prose(notebook) for notebook in NOTEBOOKS.values()).lower().replace("*", "")
    assert term.lower().split(" and ")[0] in said, term


# Contributing and changes


def test_contributing_has_five_lines_for_each_thing_and_they_are_true():
    parts = dict(re.findall(r"^## (.+?)\n\n(.*?)(?=\n\n## |\Z)", CONTRIBUTING, re.M | re.S))
    for name in ("A notebook", "An exercise", "A backend", "A network"):
        lines = parts[name].splitlines()
        assert [line[:2] for line in lines] == ["1.", "2.", "3.", "4.", "5."]
        assert lines[0].startswith("1. Copy ")
    for file in re.findall(r"`((?:fbs_tutorial|tests|tools|notebooks)/[\w/.]*\w)`?", CONTRIBUTING):
        assert "14" in file or (ROOT / file).exists(), file


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("check_unsure", "fbs_tutorial/lesson/checks/nb07.py"),
        ("check_my_dial", "fbs_tutorial/lesson/checks/nb07.py"),
        ("RIGHT", "tests/test_checks.py"),
        ("SparseConv", "fbs_tutorial/execution/reference.py"),
        ("BACKENDS", "fbs_tutorial/execution/plan.py"),
        ("replacements", "fbs_tutorial/execution/plan.py"),
        ("check_device", "fbs_tutorial/execution/plan.py"),
        ("check_dtypes", "fbs_tutorial/execution/plan.py"),
        ("BACKENDS", "tests/test_execution.py"),
        ("executing", "fbs_tutorial/bench/variants.py"),
        ("resnet56", "fbs_tutorial/models.py"),
        ("digitsnet", "fbs_tutorial/models.py"),
        ("MODELS", "fbs_tutorial/models.py"),
        ("NETWORKS", "fbs_tutorial/bench/cases.py"),
        ("GATED_AND_DENSE", "tests/test_networks.py"),
    ],
)
def test_a_name_of_contributing_is_in_its_file(name, file):
    assert f"`{name}`" in CONTRIBUTING
    assert re.search(rf"\b{name}\b", (ROOT / file).read_text())


def test_the_changes_say_what_is_there():
    editions = re.findall(r"^## (.+)$", CHANGELOG, re.M)
    assert [edition.split(",")[0] for edition in editions] == ["Second edition", "First edition"]
    command = importlib.util.find_spec("fbs_tutorial.__main__").origin
    source_of_commands = Path(command).read_text()
    for name in re.search(r"Commands (.+?), beside (.+?)\.\n", CHANGELOG).groups():
        for word in re.findall(r"`(\w+)`", name):
            assert f'"{word}"' in source_of_commands, word
    for name in re.search(r"static relatives: (.+?)\.\n", CHANGELOG)[1].split(", "):
        assert name.strip("`") in fbs_tutorial.__all__
    assert f"{100 * of_cifar10('d0.5'):.2f} %" in CHANGELOG
    assert f"{100 * of_authors()[1]:.2f} %" in CHANGELOG
