"""The notebooks' structure and exercises; that they run, twice, is nbval's part of `make test`."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from statistics import median

import nbformat
import pytest

from fbs_tutorial.lesson import checks

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {path.name: json.loads(path.read_text()) for path in PATHS}


def source(cell):
    return "".join(cell["source"])


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def code_lines(cell):
    return len([line for line in source(cell).splitlines() if line.strip()])


def prose(notebook):
    return "\n".join(source(cell) for cell in cells(notebook, "markdown"))


def exercises(notebook):
    """(stub, name of the check, solution) of every exercise."""
    sources = [source(cell) for cell in notebook["cells"]]
    for i, text in enumerate(sources):
        found = re.fullmatch(r"checks\.(check_\w+)\((\w+)\)", text)
        if found:
            solution = re.search(r"<details>.*?```python\n(.*?)```", sources[i + 1], re.S)
            yield found[2], found[1], sources[i - 2], solution and solution[1]


every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@every_notebook
def test_opens_with_title_goals_needs_time_and_device(name):
    opening = source(NOTEBOOKS[name]["cells"][0])
    assert opening.startswith(f"# {name[:2]} · ")
    for entry in ("You will be able to", "You need", "Time", "Device"):
        assert f"| **{entry}** |" in opening
    assert re.search(r"\d+ minutes", opening)


@every_notebook
def test_closes_with_recap_questions_answers_sources_and_links(name):
    closing = source(NOTEBOOKS[name]["cells"][-1])
    headings = re.findall(r"^##+ (\w+)", closing, re.M)
    assert headings[-3:] == ["Recap", "Questions", "Sources"]
    assert "<details><summary>Answers</summary>" in closing
    assert re.search(r"(Next|Previous): \[", closing.splitlines()[-1])


@every_notebook
def test_set_up_cell_is_the_same_everywhere(name):
    first = source(cells(NOTEBOOKS[name], "code")[0])
    assert first == source(cells(NOTEBOOKS["00_start_here.ipynb"], "code")[0])
    assert "--no-deps" in first and "checks.environment()" in first


@every_notebook
def test_relative_links_lead_somewhere(name):
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", prose(NOTEBOOKS[name])):
        assert (ROOT / "notebooks" / target).exists(), target


@every_notebook
def test_pictures_in_the_text_have_alt_texts(name):
    text = prose(NOTEBOOKS[name])
    assert not re.search(r"!\[\s*\]\(", text)
    assert not re.search(r"<img(?![^>]*\balt=\"\w)", text)


@every_notebook
def test_was_run_top_to_bottom_without_errors_and_keeps_no_widget_state(name):
    notebook = NOTEBOOKS[name]
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert "widgets" not in notebook["metadata"]
    assert "widget-view" not in json.dumps(notebook)


@every_notebook
def test_is_small_enough_to_read_on_the_web(name):
    alive = "data-fbs-live" in json.dumps(NOTEBOOKS[name])  # the living picture, weights and all
    assert (ROOT / "notebooks" / name).stat().st_size < (900_000 if alive else 600_000)


@every_notebook
def test_outputs_show_nothing_of_the_machine(name):
    outputs = json.dumps([cell["outputs"] for cell in cells(NOTEBOOKS[name], "code")])
    assert not re.search(r"/(home|root|work|Users)/", outputs)


@every_notebook
def test_reading_rhythm(name):
    """Short code, enough prose, and never more than two code cells in a row."""
    notebook = NOTEBOOKS[name]
    lengths = [code_lines(cell) for cell in cells(notebook, "code")]
    assert 45 <= len(notebook["cells"]) <= 90
    assert median(lengths) <= 8 and max(lengths) <= 30
    assert 45 <= len(prose(notebook).split()) / len(lengths) <= 130
    kinds = "".join(cell["cell_type"][0] for cell in notebook["cells"])
    assert "ccc" not in kinds


@every_notebook
def test_every_figure_is_followed_by_a_sentence_and_a_paragraph(name):
    notebook = NOTEBOOKS[name]
    for cell, following in zip(notebook["cells"], notebook["cells"][1:], strict=False):
        kinds = ["image/png" in out.get("data", {}) for out in cell.get("outputs", [])]
        if any(kinds):
            assert cell["outputs"][kinds.index(True) + 1]["output_type"] == "stream"
            assert following["cell_type"] == "markdown"


@every_notebook
def test_asks_for_a_guess_and_has_a_slider_that_is_swept(name):
    code = "\n".join(source(cell) for cell in cells(NOTEBOOKS[name], "code"))
    guesses = re.findall(r"^(\w+) = widgets\.predict\(", code, re.M)
    assert guesses
    for guess in guesses:
        assert code.index(f"{guess}.reveal(") > code.index(f"{guess} = widgets.predict(")
    slider, moves = "slider, view = widgets.density_slider(", r"slider\.value"
    if slider not in code:
        slider, moves = "live = widgets.live_network(", r"live\.density"
    assert slider in code
    assert re.search(rf"for step in range\(1, \d+\):\n    {moves} = ", code)
    assert "assert " in code


@every_notebook
def test_has_two_exercises_that_nothing_depends_on(name):
    notebook = NOTEBOOKS[name]
    found = list(exercises(notebook))
    assert len(found) >= 2
    code = "\n".join(source(cell) for cell in cells(notebook, "code"))
    for function, *_ in found:
        assert len(re.findall(rf"\b{function}\b", code)) == 2  # the stub and its check


@every_notebook
def test_checks_accept_the_solutions_and_refuse_the_stubs(name):
    imports = "import math\nimport torch\nfrom fbs_tutorial import *\n"
    if name.startswith("09"):
        pytest.importorskip("triton")
        imports += "import triton.language as tl\n"
    helpers = [source(cell) for cell in cells(NOTEBOOKS[name], "code")]
    helpers = [text for text in helpers if text.startswith("def ") and "NotImpl" not in text]
    for function, check, stub, solution in exercises(NOTEBOOKS[name]):
        assert hasattr(import_module(f"{checks.__name__}.nb{name[:2]}"), check)
        names = {}
        exec(imports + "\n".join(h.split("\n\n\n")[0] for h in helpers), names)
        exec(stub, names)
        refused = getattr(checks, check)(names[function])
        assert not refused and "not written yet" in repr(refused)
        exec(solution, names)
        accepted = getattr(checks, check)(names[function])
        assert accepted, accepted


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["fresh = 'later' not in globals()", "assert fresh", "later = 1"], "assert fresh"),
        (["text = open('beside.txt').read()"], "No such file or directory: 'beside.txt'"),
    ],
    ids=["a name left over", "a file beside the notebook"],
)
def test_a_notebook_that_runs_only_once_or_only_in_its_folder_is_found_out(cells, why, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbformat.write(notebook, tmp_path / "once.ipynb")
    (tmp_path / "beside.txt").write_text("")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--nbval-lax"]
    done = subprocess.run(
        [*command, "--nbval-current-env", "-p", "no:cacheprovider", "once.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"1 failed, {2 * len(cells) - 1} passed" in done.stdout and why in done.stdout


def test_readme_lists_every_notebook_with_its_minutes():
    readme = (ROOT / "README.md").read_text()
    for name, notebook in NOTEBOOKS.items():
        minutes = re.search(r"(\d+) minutes", source(notebook["cells"][0]))[1]
        assert re.search(rf"\]\(notebooks/{name}\) \| {minutes} \|", readme), name
