"""How the exercises of the course are graded: points, hidden tests, and nbgrader's cells for them.

A hidden test is the check of the exercise on other cases. A report on an experiment is graded by
hand.
"""

import ast
import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

POINTS = {  # kind of exercise: by the hidden test, by hand
    "warm-up": (2, 0),
    "exercise": (5, 0),
    "experiment": (2, 4),
    "puzzle": (3, 0),
    "project": (2, 20),
}
REPORT = {
    "experiment": "What did you try, what did the check say to each of your attempts, and why do "
    "you think that it came out so? Three to six sentences, with the numbers.",
    "project": "Here or in a page that you hand in with the notebook: your finding, and what it "
    "rests on, as the rubric of this notebook asks for it.",
}
BY_HAND = {
    "experiment": "One point each: at least two attempts that differ in their idea; the numbers "
    "that the check printed for each; a comparison with the rival that the check names, or with "
    "the first attempt; a reason that these numbers bear out.",
    "project": "By the rubric of the notebook.",
}

# What hidden tests ask where the inputs of a check are not drawn: arguments of `Exercise.other`
# after the seed. {draw} is the seed.
OTHER = {
    "check_network_share": "[([1, 12, 24, 48], [144, 64, 36], 0.4), ([3, 9, 20], [400, 100], 0.35),"
    " ([2, 100, 11], [25, 9], 0.55)]",
    "check_cheapest": "goal=0.95, test=True",
    "check_fewest_shared": "[(4, 3, 5), (8, 12, 40), (3, 4, 20), (6, 5, 9)]",
    "check_channel_scores": "2",
    "check_by_hand": "[(0.3, 0.1, 'quiet'), (0.1, 0.45, 'quiet'), (0.7, 0.2, 'flat'),"
    " (0.2, 0.9, 'upright'), (0.95, 0.6, 'flat'), (0.6, 0.95, 'upright'), (1.35, 0.8, 'flat'),"
    " (0.8, 1.35, 'upright'), (1.3, 1.2, 'busy'), (1.15, 1.35, 'busy'), (0.94, 0.92, 'flat')]",
    "check_frugal": "goal=0.75, test=True",
    "check_my_schedule": "(0.0, 0.02, 0.3, 0.6, 0.95), first=3, missing=2",
    "check_gated_layer": "{draw}",
    "check_coarse_gate": "goal=0.94, test=True",
    "check_agreeing": "seed={draw}, goal=0.94, most=0.92",
    "check_find_slip": "((0.9, 0.7, 0.4, 0.2), (0.5, 0.3), (0.6, 0.5)), 0.93",
    "check_density_schedule": "((90, 30, 30), (100, 20, 10), (70, 10, 20), (60, 5, 5),"
    " (95, 5, 10), (100, 40, 20))",
    "check_training_step": "({draw}, {draw} + 1)",
    "check_by_luck": "((4, 4), (2, 3), (6, 1), (3, 4))",
    "check_my_dial": "test=True, slack=0.01",
    "check_break_even": "(('layer A', 0.12, 1.0), ('layer B', 0.35, 1.1),"
    " ('layer C', 0.25, 1.3, 1.0), ('layer D', 1.2, 0.4), ('layer E', 0.2, 0.5))",
    "check_best_tile": "((40, 6, 16), (5, 3, 16), (64, 12, 32), (10, 7, 16), (3, 2, 32))",
    "check_finish_time": "(([15, 25, 60], 6), ([2, 2, 2, 2, 2], 9), ([70, 3, 3, 3], 10),"
    " ([4, 40], 7), ([2, 30, 2], 9), ([2, 2, 25, 2], 7))",
    "check_measure": "((9.1, (40.0, 60.0, 90.0), 10), (6.3, (200.0, 150.0, 250.0), 5))",
    "check_intensity": "((2, 64, 4, 4, 1), (32, 196, 256, 256, 1), (32, 196, 128, 128, 32),"
    " (16, 64, 24, 8, 16))",
    "check_inverted_macs": "((12, 3, 25, 1.0), (24, 4, 36, 0.5), (14, 5, 16, 0.3))",
    "check_gate_block": "('6 -> 6 stride 1', '6 -> 12 stride 2'), (0.25, 0.5)",
    "check_fair_width": "((30_000, 900_000, 120_000, 5_000), (200_000, 800_000, 260_000, 20_000),"
    " (40_000, 500_000, 60_000, 0), (10_000, 90_000, 97_000, 8_000))",
    "check_my_network": "(1.0, 0.4)",
}
# Nothing else can be asked: answers without inputs, and layers that the notebook itself names.
SAME = ("check_unfair", "check_pays", "check_my_recipe", "check_tile", "check_my_cut")

CONFIG = r'''"""Made by `make course`. What else can stand here: https://nbgrader.readthedocs.io"""

c = get_config()
c.CourseDirectory.course_id = "fbs"
c.ClearSolutions.code_stub = {"python": ""}  # stubs stand above their solutions, and stay
c.ClearSolutions.text_stub = "*Your answer, in place of this line.*"
c.Execute.timeout = 300  # seconds per cell: some of them train a network
# for `nbgrader zip_collect`: archive/ada.zip is what the student ada hands in
student, notebook = r"(?P<student_id>[^/\\]+)", r"(?P<file_id>\d\d_\w+)"
c.FileNameCollectorPlugin.named_regexp = rf".*[/\\]extracted[/\\]{student}[/\\].*?{notebook}\.ipynb"
'''


def hidden(number: str, check: str, seed: int) -> str:
    """The expression that makes a hidden test of a check of notebook ``number``."""
    draw = 10_000 + seed  # no seed of a visible check
    inputs = OTHER.get(check, "").format(draw=draw)
    return f"nb{number}.{check}.other({', '.join(filter(None, (str(draw), inputs)))})"


def hidden_check(number: str, check: str, seed: int) -> object:
    """The check that a hidden test is."""
    module = import_module(f"fbs_tutorial.lesson.checks.nb{number}")
    return eval(hidden(number, check, seed), {f"nb{number}": module})


def assignment(notebook: NotebookNode, tasks: Sequence, number: str, seed: int) -> NotebookNode:
    """An nbgrader source notebook of one without answers, whose cells ``tasks`` knows by index."""
    graded = copy.deepcopy(notebook)
    for cell in graded.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for task in reversed(tasks):  # what is put in moves the cells after it
        automatic, by_hand = POINTS[task.kind]
        answer, test = graded.cells[task.at], graded.cells[task.checked]
        answer.source = "\n".join([task.stub, *region("SOLUTION", task.solution)])
        answer.metadata["nbgrader"] = marked(task.function, solution=True)
        test.source = "\n".join([test.source, *region("HIDDEN TESTS", test_of(task, number, seed))])
        test.metadata["nbgrader"] = marked(task.check, grade=True, locked=True, points=automatic)
        if by_hand:
            graded.cells.insert(task.checked + 1, report(task, by_hand))
    graded.cells = [cell for cell in graded.cells if cell.source]
    return graded


def region(name: str, text: str) -> list[str]:
    return [f"### BEGIN {name}", text, f"### END {name}"]


def marked(grade_id: str, **what: object) -> NotebookNode:
    """nbgrader's metadata of a cell."""
    usual = {"grade": False, "solution": False, "locked": False, "task": False}
    return NotebookNode(usual | {"grade_id": grade_id, "schema_version": 3} | what)


def test_of(task: object, number: str, seed: int) -> str:
    lines = [f"from fbs_tutorial.lesson.checks import nb{number}"]
    lines += [f"_graded = {hidden(number, task.check, seed)}({task.function})"]
    return "\n".join([*lines, "assert _graded, _graded"])


def report(task: object, points: int) -> NotebookNode:
    """The cell for what a student has to say about an experiment, graded by hand."""
    asked = f"**Your report, {points} points.** {REPORT[task.kind]}"
    scheme = "\n\n".join(filter(None, (BY_HAND[task.kind], task.remark)))
    cell = new_markdown_cell("\n".join([asked, "", *region("SOLUTION", scheme)]))
    cell.metadata["nbgrader"] = marked(
        f"{task.function}_report", grade=True, solution=True, points=points
    )
    return cell


# Grading without nbgrader, in this process


def released(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its solutions out, as nbgrader releases it, and hidden tests still in."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        if "### BEGIN SOLUTION" in cell.source:
            before, _, rest = cell.source.partition("### BEGIN SOLUTION")
            cell.source = before + rest.partition("### END SOLUTION")[2].lstrip("\n")
    return copied


def earned(notebook: NotebookNode) -> dict[str, int]:
    """Points of every test; of the other cells only imports and definitions are run."""
    names, points = namespace(notebook), {}
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader")
        if mark and cell.cell_type == "code":
            try:
                exec(cell.source, names)
                passed = True
            except Exception:
                passed = False
            if mark.grade:
                points[mark.grade_id] = mark.points * passed
    return points


def namespace(notebook: NotebookNode) -> dict:
    """What a notebook imports and defines outside of the graded cells."""
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "nbgrader" not in cell.metadata:
            for node in filter(defines, ast.parse(cell.source).body):
                try:
                    exec(compile(ast.Module([node], []), "<notebook>", "exec"), names)
                except NameError:  # a default or a decorator that a cell before it computes
                    continue
    return names


def defines(node: ast.stmt) -> bool:
    imports = (ast.Import, ast.ImportFrom)
    if isinstance(node, ast.Try):
        return all(isinstance(inner, imports) for inner in node.body)
    return isinstance(node, (*imports, ast.FunctionDef, ast.ClassDef))


def faults(notebook: NotebookNode, tasks: Sequence, number: str, seed: int) -> Iterator[str]:
    """What hidden tests grade wrongly: the stubs, the solutions, and each listed mistake."""
    most = {task.check: POINTS[task.kind][0] for task in tasks}
    for check, points in earned(released(notebook)).items():
        if points:
            yield f"{number}: the stub earns the points of {check}"
    for check, points in earned(notebook).items():
        if points != most[check]:
            yield f"{number}: the solution earns {points} points of {most[check]} for {check}"
    for task in tasks:
        for says in let_through(number, task.check, seed):
            yield f"{number}: the hidden test of {task.check} lets through: {says}"


def let_through(number: str, check: str, seed: int) -> list[str]:
    """What those of the listed mistakes do that pass a hidden test."""
    test = hidden_check(number, check, seed)
    alone = replace(test, mistakes=())  # it need not say which mistake it is
    return [mistake.says for mistake in test.mistakes if alone(mistake.function)]


# Grading by nbgrader

STUDENTS = ("stubs", "solutions")


def by_nbgrader(course: Path, names: Sequence[str]) -> list[str]:
    """Let nbgrader release assignments and grade two students; what is not as it should be.

    It happens in a copy, ``tried`` beside the course folder.
    """
    scripts = Path(sys.executable).parent  # nbgrader calls alembic's
    os.environ["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    folder = course.parent / "tried"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(course, folder, ignore=shutil.ignore_patterns("*.db"))
    for name in names:
        nbgrader(folder, "generate_assignment", name)
        for student, origin in zip(STUDENTS, ("release", "source"), strict=True):
            archive = folder / "downloaded" / name / "archive" / student
            shutil.make_archive(str(archive), "zip", folder / origin / name)
        nbgrader(folder, "zip_collect", name)
        nbgrader(folder, "autograde", name)
    return [fault for name in names for fault in wrong_scores(folder, name)]


def nbgrader(folder: Path, *words: str) -> None:
    """
    Raises:
        RuntimeError: nbgrader failed, with what it said.
    """
    command = [sys.executable, "-m", "nbgrader", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}:\n{done.stdout}\n{done.stderr}")


def wrong_scores(folder: Path, name: str) -> Iterator[str]:
    """What nbgrader's gradebook has that it should not have."""
    from nbgrader.api import Gradebook  # in the extra `course`

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for student in STUDENTS:
            for grade in book.find_submission_notebook(name, name, student).grades:
                automatic = grade.cell.cell_type == "code"
                wanted = grade.cell.max_score if automatic and student == "solutions" else 0
                if grade.score != wanted:
                    yield f"{name}: {student} have {grade.score:g} points for {grade.cell.name}"
                if grade.needs_manual_grade == (automatic or student == "stubs"):
                    yield f"{name}: {student}, {grade.cell.name}: by hand or not is wrong"
