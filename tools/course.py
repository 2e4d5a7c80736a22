"""The editions of the course for a class, made from the notebooks: `make course`.

    python tools/course.py [--seed 1] [--out build/course] [--quick] [NOTEBOOK ...]

``student/`` has no solutions, and guesses and exercises are unanswered; in ``solution/`` every stub
is filled in and every cell was run; ``nbgrader/`` is a course folder of Jupyter's nbgrader, with
points and hidden tests. The first two are also packed as zip files. ``--seed`` is what hidden tests
draw their inputs with.
``--quick`` runs no notebook and packs no wheel.

    python tools/course.py --nbgrader NOTEBOOK ...

lets nbgrader itself make these assignments, and grade a submission of stubs and one of solutions.
"""

import argparse
import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import course_grading as grading  # noqa: E402
import wheels  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECK = re.compile(r"checks\.(check_\w+)\((\w+)\)")
HEADING = re.compile(r"^(?:\*\*(Exercise \d.*?)\*\*|#+ (Exercise \d.*))", re.M)
ANSWER = re.compile(r"<details>\s*<summary>(Solution|Answers?)</summary>(.*?)</details>\s*", re.S)
CODE = re.compile(r"```python\n(.*?)```\s*", re.S)
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
KINDS = {"warm": "warm-up", "experiment": "experiment", "puzzle": "puzzle", "project": "project"}


@dataclass(frozen=True)
class Task:
    """An exercise of a notebook.

    Attributes:
        kind: one of `course_grading.POINTS`, as its heading says.
        at, checked: indices of the cells of stub and check.
        remark: what the notebook says after its solution.
    """

    function: str
    check: str
    kind: str
    at: int
    checked: int
    stub: str
    solution: str
    remark: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them if none is named")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs of hidden tests")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "course")
    parser.add_argument("--quick", action="store_true", help="run no notebook, pack no wheel")
    parser.add_argument("--nbgrader", action="store_true", help="let nbgrader grade two students")
    options = parser.parse_args(arguments)
    paths = options.notebooks or NOTEBOOKS
    wrong = assignments(paths, options.out / "nbgrader", options.seed)
    if options.nbgrader:
        names = [path.stem for path in paths]
        wrong += grading.by_nbgrader(options.out / "nbgrader", names)
    else:
        wrong += editions(paths, options.out, options.quick)
    print("\n".join(wrong) or f"{len(paths)} notebooks: {options.out} is ready", file=sys.stderr)
    return bool(wrong)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def tasks(notebook: NotebookNode) -> Iterator[Task]:
    """The exercises of a notebook, in order.

    Raises:
        ValueError: a check has no heading or stub before it, or no solution after it.
    """
    sources = [cell.source for cell in notebook.cells]
    for checked, text in enumerate(sources):
        if not (call := CHECK.fullmatch(text)):
            continue
        start = re.compile(rf"^(def|class) {call[2]}\b", re.M)
        at = max((i for i in range(checked) if start.search(sources[i])), default=None)
        headings = HEADING.findall("\n".join(sources[:checked]))
        answer = ANSWER.search("\n".join(sources[checked + 1 : checked + 2]))
        solution = answer and CODE.search(answer[2])
        if at is None or not headings or not solution:
            raise ValueError(f"{call[1]} needs a heading, a stub before it and a solution after it")
        heading = "".join(headings[-1]).lower()
        kind = next((kind for word, kind in KINDS.items() if word in heading), "exercise")
        parts = (sources[at], solution[1].rstrip(), CODE.sub("", answer[2]).strip())
        yield Task(call[2], call[1], kind, at, checked, *parts)


def unanswered(notebook: NotebookNode) -> NotebookNode:
    """The notebook without solutions, and without outputs that hold an answer."""
    copied = copy.deepcopy(notebook)
    asked = {index for task in tasks(notebook) for index in (task.at, task.checked)}
    for index, cell in enumerate(copied.cells):
        if cell.cell_type == "markdown":
            cell.source = ANSWER.sub("", cell.source).strip()
        elif index in asked or re.search(r"^\w+\.reveal\(", cell.source, re.M):
            cell.outputs, cell.execution_count = [], None
    return copied


def student(notebook: NotebookNode) -> NotebookNode:
    """The notebook as students get it."""
    copied = unanswered(notebook)
    copied.cells = [cell for cell in copied.cells if cell.source]  # some held solutions only
    return copied


def solved(notebook: NotebookNode) -> NotebookNode:
    """The notebook with every stub filled in, not run yet."""
    copied = copy.deepcopy(notebook)
    for task in tasks(notebook):
        copied.cells[task.at].source = task.solution
    for cell in copied.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copied


def editions(paths: Sequence[Path], out: Path, quick: bool) -> list[str]:
    """Write the editions for students and teachers; what went wrong, in words."""
    to_run = []
    for path in paths:
        notebook = read(path)
        write(student(notebook), out / "student" / "notebooks" / path.name)
        target = out / "solution" / "notebooks" / path.name
        if not was_run(target, filled := solved(notebook)):
            write(filled, target)
            to_run.append(target)
    wrong = []
    if not quick:
        with ThreadPoolExecutor(2) as pool:
            done = pool.map(execute, to_run)
        wrong = [f"{path.name}: a cell of the solution edition raised"
                 for path, fine in zip(to_run, done, strict=True) if not fine]  # fmt: skip
    for edition in ("student", "solution"):
        if not quick:
            for old in (out / edition / "notebooks").glob("*.whl"):
                old.unlink()
            wheels.build("full", out / edition / "notebooks")
        shutil.make_archive(str(out / edition), "zip", out / edition)
    return wrong


def was_run(path: Path, notebook: NotebookNode) -> bool:
    """Whether a notebook of the same sources was run and written to ``path``."""
    if not path.exists():
        return False
    cells = read(path).cells
    same = [cell.source for cell in cells] == [cell.source for cell in notebook.cells]
    return same and all(cell.execution_count for cell in cells if cell.cell_type == "code")


def execute(path: Path) -> bool:
    """Run a notebook of the solution edition, its answers in sight; False if a cell raised."""
    command = [sys.executable, str(ROOT / "tools" / "run_notebooks.py"), str(path)]
    if subprocess.run(command, check=False).returncode:
        return False
    notebook = read(path)
    for cell in notebook.cells:
        cell.metadata.get("jupyter", {}).pop("outputs_hidden", None)
    nbformat.write(notebook, path)
    return True


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, and where it links to them the pages that are no notebooks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    for target in links(notebook):
        if not target.endswith(".ipynb"):
            (path.parent / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / "notebooks" / target, path.parent / target)


def links(notebook: NotebookNode) -> set[str]:
    """Files of the repository that the text of a notebook links to."""
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return set(LINK.findall("\n".join(text)))


def assignments(paths: Sequence[Path], folder: Path, seed: int) -> list[str]:
    """Write nbgrader's course folder; what its hidden tests would grade wrongly, in words."""
    wrong = []
    for path in paths:
        notebook = read(path)
        found = list(tasks(notebook))
        graded = grading.assignment(unanswered(notebook), found, path.stem[:2], seed)
        place = folder / "source" / path.stem
        place.mkdir(parents=True, exist_ok=True)
        relink(graded, place)
        nbformat.write(graded, place / path.name)
        wrong += grading.faults(graded, found, path.stem[:2], seed)
    (folder / "nbgrader_config.py").write_text(grading.CONFIG, encoding="utf-8")
    return wrong


def relink(notebook: NotebookNode, place: Path) -> None:
    """Links of a notebook that has the folder ``place`` of its own; pages come to stand in it."""

    def moved(link: re.Match) -> str:
        if link[1].endswith(".ipynb"):
            return f"../{Path(link[1]).stem}/{Path(link[1]).name}"
        shutil.copy2(ROOT / "notebooks" / link[1], place)
        return Path(link[1]).name

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(moved, cell.source)


if __name__ == "__main__":
    sys.exit(main())
