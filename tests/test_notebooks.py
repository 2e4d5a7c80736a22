"""The notebooks' structure and exercises; that they run, twice, is nbval's part of `make test`.

`faults` has the limits of the second edition; a notebook in `NOT_YET` is expected to break one of
them, and must leave that list as soon as it keeps them all.
"""

import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from statistics import median

import nbformat
import pytest

from fbs_tutorial.lesson import checks

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
run_notebooks = import_module("run_notebooks")
NOT_YET: tuple[str, ...] = ()
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
of_the_second_edition = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason="not rewritten yet"))
        if name in NOT_YET
        else name
        for name in NOTEBOOKS
    ],
)


def words_of(notebook):
    """Words a reader reads: prose without code blocks."""
    return len(re.sub(r"```.*?```", "", prose(notebook), flags=re.S).split())


def parentheses(notebook):
    """Remarks in parentheses; links, code and formulas have none."""
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", prose(notebook), flags=re.S)
    return len(re.findall(r"\([^()]+\)", re.sub(r"\]\([^)]*\)", "]", text)))


def minutes(notebook):
    """(stated, expected): words / 180, a minute per code cell, and what the exercises say.

    The minutes of stub and check are in those of their exercise, "**Exercise 1 (6 minutes).**"; a
    puzzle for those who want more may go without.
    """
    code, found = cells(notebook, "code"), list(exercises(notebook))
    own = [int(n) for *_, spec in specs(notebook) for n in re.findall(r"(\d+) minutes", spec)[:1]]
    expected = words_of(notebook) / 180 + len(code) - 1 - 2 * len(found) + sum(own)
    return int(re.search(r"(\d+) minutes", source(notebook["cells"][0]))[1]), expected


def specs(notebook):
    """(name of the function, what is asked) of every exercise; a picture may follow the words."""
    sources = [source(cell) for cell in notebook["cells"]]
    for function, _, stub, _ in exercises(notebook):
        before = sources[: sources.index(stub)][-1:-4:-1]
        yield function, next((text for text in before if "xercise" in text), before[0])


def text_outputs(notebook):
    for cell in cells(notebook, "code")[1:]:  # not the set-up
        for out in cell["outputs"]:
            yield "".join(out.get("text", "") or out.get("data", {}).get("text/plain", ""))


def faults(notebook):
    """What keeps a notebook from being one of the second edition, in words."""
    code = cells(notebook, "code")
    text = "\n".join(source(cell) for cell in code)
    lengths = [code_lines(cell) for cell in code[1:]]
    words, per_cell = words_of(notebook), words_of(notebook) / len(code)
    stated, expected = minutes(notebook)
    kinds = "".join(cell["cell_type"][0] for cell in notebook["cells"])
    found = list(exercises(notebook))
    silent = [
        name for name, spec in specs(notebook) if not re.search(r"\d+ minutes|[Pp]uzzle", spec)
    ]
    guesses = len(re.findall(r"^\w+ = widgets\.predict\(", text, re.M))
    longest = max(
        (len(line) for out in text_outputs(notebook) for line in out.splitlines()), default=0
    )
    limits = {
        f"{words} words, at most 3,000": words <= 3000,
        f"{len(kinds)} cells, 45 to 60": 45 <= len(kinds) <= 60,
        f"{per_cell:.0f} words of prose per code cell, 60 to 110": 60 <= per_cell <= 110,
        f"code cells of {median(lengths)} lines, 8 at most": median(lengths) <= 8,
        f"a code cell of {max(lengths)} lines, 30 at most": max(lengths) <= 30,
        "three code cells in a row": "ccc" not in kinds,
        "no drawn diagram, show(diagrams.…)": re.search(r"show\(diagrams\.\w+\(", text),
        f"{len(found)} exercises, at least 3": len(found) >= 3,
        f"no minutes stated for {', '.join(silent)}": not silent,
        f"{stated} minutes stated, {expected:.0f} expected": abs(stated / expected - 1) <= 0.2,
        f"{guesses} guesses, 1 to 5": 1 <= guesses <= 5,
        "answers that are not folded": all(map(folded, code)),
        f"{parentheses(notebook)} parentheses, at most 20": parentheses(notebook) <= 20,
        f"{text.count('assert ') - 1} asserts, at most 3": text.count("assert ") - 1 <= 3,
        f"a printed line of {longest} letters, at most 100": longest <= 100,
        "an output of fixed height, which clips": not re.search(r"layout\.(max_)?height", text),
        "no slider and no living layer": re.search(
            r"density_slider\(|interactive_output\(|live_\w+\(", text
        ),
        "no link to the glossary": "docs/glossary.md" in prose(notebook),
    }
    return [fault for fault, kept in limits.items() if not kept]


def folded(cell):
    """Whether the answer to a guess is out of sight."""
    reveals = re.search(r"^\w+\.reveal\(", source(cell), re.M)
    return not reveals or cell["metadata"].get("jupyter", {}).get("outputs_hidden")


@of_the_second_edition
def test_keeps_the_limits_of_the_second_edition(name):
    assert faults(NOTEBOOKS[name]) == []


def md(*texts):
    return [nbformat.v4.new_markdown_cell(text) for text in texts]


def a_good_notebook():
    """The smallest that keeps all limits."""
    code = nbformat.v4.new_code_cell
    opening = "# 99 · Title\n\n40 minutes [glossary](../docs/glossary.md) " + "word " * 80
    reveal = code("half.reveal(3)", metadata={"jupyter": {"outputs_hidden": True}})
    figure = code("widgets.show(diagrams.the_layer(a, b))", outputs=[])
    both = [code('half = widgets.predict("?", 0, 1)'), *md("word " * 80), reveal]
    body = [code("setup"), *md("word " * 80), *both, *md("word " * 80), figure]
    body += [*md("word " * 80), code("slider, view = widgets.density_slider(f)")]
    for name in ("one", "two", "three"):
        stub, check = code(f"def {name}(): ..."), code(f"checks.check_{name}({name})")
        solution = f"<details>\n```python\ndef {name}(): pass\n```\n</details> " + "word " * 80
        spec = md("**Exercise**, 5 minutes. " + "word " * 80)
        body += [*spec, stub, *md("Check it."), check, *md(solution)]
    for _ in range(11):
        body += [*md("word " * 80), code("1")]
    return nbformat.v4.new_notebook(cells=[*md(opening), *body, *md("the end")])


def test_a_notebook_that_keeps_all_limits_has_no_fault():
    assert faults(a_good_notebook()) == []


def changed(index, **parts):
    def change(notebook):
        notebook.cells[index].update(parts)

    return change


def longer(notebook):
    notebook.cells.insert(-1, *md("word " * 1500))


def printing(notebook):
    cells(notebook, "code")[5].outputs = [nbformat.v4.new_output("stream", text="x" * 101)]


def replaced(old, new):
    def change(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (longer, "words, at most 3,000"),
        (longer, "words of prose per code cell"),
        (lambda n: n.cells.extend(md(*"abcdefghijklmnopqrstuvw")), "cells, 45 to 60"),
        (changed(9, source="x = 1\n" * 31), "a code cell of 31 lines"),
        (changed(4, cell_type="code", outputs=[]), "three code cells in a row"),
        (replaced("show(diagrams.", "show(plots."), "no drawn diagram"),
        (replaced("checks.check_two(two)", "two()"), "2 exercises, at least 3"),
        (replaced("5 minutes", "soon"), "no minutes stated for one, two, three"),
        (replaced("40 minutes", "30 minutes"), "30 minutes stated, 40 expected"),
        (replaced('half = widgets.predict("?", 0, 1)', "half = 1"), "0 guesses, 1 to 5"),
        (changed(5, metadata={}), "answers that are not folded"),
        (replaced("the end", "(so) " * 21), "21 parentheses"),
        (changed(7, source="assert a\n" * 5 + "show(diagrams.x(1))"), "asserts, at most 3"),
        (printing, "a printed line of 101 letters"),
        (replaced("density_slider(f)", "density_slider(f); view.layout.height = '3px'"), "clips"),
        (replaced("density_slider", "nothing"), "no slider and no living layer"),
        (replaced("docs/glossary.md", "glossary"), "no link to the glossary"),
    ],
)
def test_a_notebook_that_breaks_a_limit_is_found_out(change, fault):
    notebook = deepcopy(a_good_notebook())
    change(notebook)
    found = faults(notebook)
    assert any(fault in words for words in found), found


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
def test_sections_are_numbered_without_a_gap(name):
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", prose(NOTEBOOKS[name]), re.M)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


@every_notebook
def test_set_up_cell_is_the_same_everywhere_and_folded(name):
    first = cells(NOTEBOOKS[name], "code")[0]
    assert source(first) == run_notebooks.SETUP
    assert first["metadata"] == run_notebooks.FOLDED


@every_notebook
def test_answers_to_guesses_are_folded(name):
    assert all(map(folded, cells(NOTEBOOKS[name], "code")))


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
    lengths = [code_lines(cell) for cell in cells(notebook, "code")][1:]  # not the set-up
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
def test_asks_for_a_guess_and_has_a_slider(name):
    code = "\n".join(source(cell) for cell in cells(NOTEBOOKS[name], "code"))
    guesses = re.findall(r"^(\w+) = widgets\.predict\(", code, re.M)
    assert guesses
    for guess in guesses:
        assert code.index(f"{guess}.reveal(") > code.index(f"{guess} = widgets.predict(")
    # tests/conftest.py moves each density slider to both ends in the second round
    assert re.search(r"density_slider\(|interactive_output\(|live_\w+\(", code)


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


def test_the_map_of_the_course_has_their_minutes():
    """In notebook 00, one row for each; the short path in docs/teaching.md has the minutes said."""
    first = NOTEBOOKS["00_start_here.ipynb"]
    table = re.findall(r"^\| (\d\d) \| .+ \| (\d+) \| .+ \| .*\|$", prose(first), re.M)
    assert [number for number, _ in table] == [name[:2] for name in NOTEBOOKS]
    for (_, stated), (name, notebook) in zip(table, NOTEBOOKS.items(), strict=True):
        assert stated == re.search(r"(\d+) minutes", source(notebook["cells"][0]))[1], name
    alone = (ROOT / "docs/teaching.md").read_text().partition("## Alone, in 45 minutes")[2]
    rows = alone.partition("\n## ")[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", rows, re.M))) == 45
