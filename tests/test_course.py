"""The editions for a class: nothing of an answer in one, all of them in the other, fair points."""

import re
import sys
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch

from fbs_tutorial.lesson import checks
from fbs_tutorial.lesson.checks.engine import Exercise, Experiment

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
course = import_module("course")
grading = import_module("course_grading")
NAMES = [path.stem for path in course.NOTEBOOKS]
SEED = 1

every_notebook = pytest.mark.parametrize("name", NAMES)


def notebook(name):
    return course.read(ROOT / "notebooks" / f"{name}.ipynb")


@cache
def tasks(name):
    return list(course.tasks(notebook(name)))


def assignment(name, seed=SEED):
    return grading.assignment(course.unanswered(notebook(name)), tasks(name), name[:2], seed)


def graded_cells(name):
    return [cell for cell in assignment(name).cells if "nbgrader" in cell.metadata]


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def test_every_check_belongs_to_an_exercise_of_a_kind():
    found = {task.check: task for name in NAMES for task in tasks(name)}
    exercises = {n: check for n, check in vars(checks).items() if isinstance(check, Exercise)}
    assert found.keys() == exercises.keys()
    for name, check in exercises.items():
        if isinstance(check, Experiment):
            assert found[name].kind in ("experiment", "project"), name
    assert {task.kind for task in found.values()} == grading.POINTS.keys()


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["**Exercise 2 (10 minutes).** A puzzle?", "def f(): ..."], "exercise"),
        (["**Exercise 1, to warm up.**", "def g(): ...", "def f(): ..."], "warm-up"),
        (["### Exercise 4 (a puzzle)", "words", "def f(): ..."], "puzzle"),
        (
            ["**Exercise 1.**", "### Exercise 3: an experiment\n\nMore.", "class f: ..."],
            "experiment",
        ),
        (["def f(): ..."], None),
        (["**Exercise 1.**", "def other(): ..."], None),
    ],
)
def test_an_exercise_is_found_by_its_check(cells, kind):
    make = nbformat.v4
    answer = "<details><summary>Solution</summary>\n\n```python\ndef f(): 1\n```\n\nSo.\n</details>"
    parts = [
        (make.new_code_cell if re.match("def|class", cell) else make.new_markdown_cell)(cell)
        for cell in [*cells, "words"]
    ]
    check = make.new_code_cell("checks.check_f(f)")
    page = make.new_notebook(cells=[*parts, check, make.new_markdown_cell(answer)])
    if kind is None:
        with pytest.raises(ValueError, match="check_f needs a heading, a stub before it"):
            list(course.tasks(page))
    else:
        (task,) = course.tasks(page)
        assert (task.kind, task.solution, task.remark) == (kind, "def f(): 1", "So.")
        assert task.stub == cells[-1] and task.checked == len(cells) + 1


@every_notebook
def test_students_get_no_answers(name):
    given, whole = course.student(notebook(name)), notebook(name)
    assert not re.search(r"<summary>(Solution|Answers?)</summary>|guess=", text(given))
    assert text(whole).count("<summary>Solution</summary>") == len(tasks(name))
    for task in tasks(name):
        assert task.stub in text(given) and task.solution not in text(given)
    for cell in given.cells:
        assert cell.source
        if re.search(r"^\w+\.reveal\(|^checks\.check_\w+\(\w+\)$", cell.source, re.M):
            assert cell.cell_type == "code" and not cell.outputs
    assert 0 <= len(whole.cells) - len(given.cells) <= len(tasks(name))
    assert sum(bool(cell.get("outputs")) for cell in given.cells) > 5


@every_notebook
def test_teachers_get_all_of_them(name):
    filled, whole = course.solved(notebook(name)), notebook(name)
    assert len(filled.cells) == len(whole.cells)
    for task in tasks(name):
        assert filled.cells[task.at].source == task.solution
        assert task.stub not in text(filled)


@every_notebook
def test_stubs_earn_nothing_and_solutions_everything(name):
    graded = assignment(name)
    most = {task.check: grading.POINTS[task.kind][0] for task in tasks(name)}
    assert grading.earned(graded) == most
    assert grading.earned(grading.released(graded)) == dict.fromkeys(most, 0)


@every_notebook
def test_hidden_tests_refuse_every_listed_mistake(name):
    assert [grading.let_through(name[:2], t.check, SEED) for t in tasks(name)] == [[]] * len(
        tasks(name)
    )


DRAWS_LATER = ("check_my_networks",)  # images, when it asks


def asked(check):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(check.seed)
        return {repr(case.arguments) for case in check.cases()}


@every_notebook
def test_hidden_tests_ask_something_else(name):
    for task in tasks(name):
        shown = getattr(checks, task.check)
        first, second = (grading.hidden_check(name[:2], task.check, seed) for seed in (1, 2))
        assert first.seed != second.seed != shown.seed
        if task.check not in {*grading.OTHER, *grading.SAME, *DRAWS_LATER}:
            assert asked(first) != asked(shown), f"{task.check} needs an entry in OTHER"
        options = getattr(getattr(first, "judge", None), "keywords", {})
        has_inputs = getattr(first.cases, "args", ()) or options
        assert bool(has_inputs) == (task.check in grading.OTHER)


def test_other_inputs_belong_to_checks():
    names = {task.check for name in NAMES for task in tasks(name)}
    assert set(grading.OTHER) | set(grading.SAME) <= names


def test_wrong_grading_is_found_out(monkeypatch):
    name = NAMES[0]
    graded, number = assignment(name), name[:2]
    assert list(grading.faults(graded, tasks(name), number, SEED)) == []
    broken = deepcopy(graded)
    for cell in broken.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "check_conv_macs":
            cell.source = "pass"
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "network_share":
            cell.source += "\nnetwork_share = None"
    found = list(grading.faults(broken, tasks(name), number, SEED))
    assert "00: the stub earns the points of check_conv_macs" in found
    assert "00: the solution earns 0 points of 5 for check_network_share" in found
    monkeypatch.setitem(grading.OTHER, "check_network_share", "[([2, 4], [9], 1.0)]")
    found = list(grading.faults(graded, tasks(name), number, SEED))
    assert any("check_network_share lets through: d² forgets" in fault for fault in found)


@every_notebook
def test_cells_are_marked_as_nbgrader_wants_them(name):
    marks = [cell.metadata["nbgrader"] for cell in graded_cells(name)]
    assert len({mark.grade_id for mark in marks}) == len(marks)
    for cell, mark in zip(graded_cells(name), marks, strict=True):
        assert mark.schema_version == 3 and not mark.task
        if cell.cell_type == "markdown":
            assert mark.grade and mark.solution and not mark.locked
        else:
            assert mark.grade == mark.locked != mark.solution
            assert ("points" in mark) == mark.grade
        assert cell.source.count("### BEGIN") == cell.source.count("### END") == 1
    by_hand = sum(mark.points for mark in marks if mark.grade and mark.solution)
    assert by_hand == sum(grading.POINTS[task.kind][1] for task in tasks(name))


def test_a_project_has_the_points_of_its_rubric():
    rubric = text(notebook(NAMES[-1])).partition("### The rubric")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \|", rubric, re.M)
    assert sum(map(int, rows)) == grading.POINTS["project"][1]


def test_the_page_for_teachers_has_the_table_of_points():
    page = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| (\d+) \| (\d+) \|$", page, re.M)
    assert {kind: (int(a), int(b)) for kind, a, b in rows} == grading.POINTS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{name}" in makefile for name in re.findall(r"`make (course[\w-]*)", page))


def test_the_command_writes_editions_and_a_course_whose_links_lead_somewhere(tmp_path):
    chosen = [str(path) for path in course.NOTEBOOKS[:2]]
    assert course.main(["--quick", "--out", str(tmp_path), *chosen]) == 0
    for edition in ("student", "solution"):
        assert (tmp_path / f"{edition}.zip").exists()
        assert (tmp_path / edition / "docs" / "glossary.md").exists()
        found = sorted(path.stem for path in (tmp_path / edition).glob("notebooks/*.ipynb"))
        assert found == NAMES[:2]
    source = tmp_path / "nbgrader" / "source"
    assert sorted(path.name for path in source.iterdir()) == NAMES[:2]
    for path in source.glob("*/*.ipynb"):
        for link in course.links(course.read(path)):
            inside = (path.parent / link).exists()
            assert inside or Path(link).parts[:2] in [("..", name) for name in NAMES], link
    compile((tmp_path / "nbgrader" / "nbgrader_config.py").read_text(), "config", "exec")


def test_a_notebook_is_run_again_only_if_its_sources_changed(tmp_path):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1)])
    path = tmp_path / "page.ipynb"
    assert not course.was_run(path, page)
    nbformat.write(page, path)
    assert course.was_run(path, page)
    page.cells[0].source = "2"
    assert not course.was_run(path, page)
    page.cells[0].execution_count = None
    nbformat.write(page, path)
    assert not course.was_run(path, page)


@pytest.mark.slow
def test_nbgrader_releases_and_grades_two_notebooks(tmp_path, capsys):
    pytest.importorskip("nbgrader", reason="pip install '.[course]'; `make course-two` does it")
    chosen = [path for path in course.NOTEBOOKS if path.stem[:2] in ("03", "09")]
    assert course.main(["--nbgrader", "--out", str(tmp_path), *map(str, chosen)]) == 0
    for path in chosen:
        release = course.read(tmp_path / "tried" / "release" / path.stem / path.name)
        assert "### " + "BEGIN" not in text(release)
        for task in tasks(path.stem):
            assert task.stub in text(release) and task.solution not in text(release)
            assert task.remark == "" or task.remark not in text(release)
