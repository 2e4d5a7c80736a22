"""Build the course as static pages: the notebooks as they are stored, docs/, and the results.

    python tools/site_pages.py [--out FOLDER] [--slides FOLDER]

Nothing is executed, and the pages ask no other host: MathJax and the theme's files are copied from
the packages of the extra ``site``. The front page is the opening of the README, the rest of the
README is a page of its own, and every file in docs/ becomes a page.
"""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat.v4 import new_markdown_cell
from site_parts import copy, describe
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "fbs_tutorial", "notebooks", "tests", "tools")  # pages link there
LEFT_OUT = shutil.ignore_patterns("__pycache__", "assets", "data", ".*", "conf.py", "templates")
FOLDED = {  # in Jupyter, and what the page says of it
    "source_hidden": ("hide-input", "the code that sets up"),
    "outputs_hidden": ("hide-output", "the answer"),
}
NOTE = """
```{{note}}
You are reading the stored notebook. Pictures that say they are alive work here. To guess, to move
the other sliders and to have your exercises checked, run it: {{download}}`{name}
<originals/{name}>` in Jupyter, with [the package](../README.md).
```
"""
PAGES = {
    "The course": "notebooks/*",
    "To teach and to look up": "docs/[!p]*",
    "The package": " ".join(
        ["README", "docs/package", *sorted({p.stem for p in ROOT.glob("*.md")} - {"README"})]
    ),
    "Results": "benchmarks/README benchmarks/* benchmarks/*/*",
}
CONTENTS = """
```{{toctree}}
:caption: {caption}
:hidden:
:glob:
:maxdepth: 1

{pages}
```
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--slides", type=Path, help="what tools/slides.py has written")
    options = parser.parse_args()
    return build(options.out, options.slides)


def build(out: Path, slides: Path | None = None) -> int:
    """Write the site to a folder, which is emptied first; 0 if Sphinx found no error."""
    with TemporaryDirectory() as work:
        sources, made = Path(work, "sources"), Path(work, "made")
        lay_out(sources, slides is not None)
        failed = build_main(["-q", "-b", "html", "-c", str(ROOT / "docs"), str(sources), str(made)])
        copy("mathjax", made / "_static" / "mathjax")
        shutil.rmtree(made / ".doctrees")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    if slides is not None:
        shutil.copytree(slides, out / "slides")
    (out / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with _
    return failed


def lay_out(sources: Path, slides: bool) -> None:
    """Copy all that the pages are made from, with the paths of the repository."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, ignore=LEFT_OUT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*.cff"), ROOT / "LICENSE"):
        shutil.copy2(path, sources)
    lay_out_notebooks(sources / "notebooks")
    lay_out_results(sources / "benchmarks")
    opening, package = split(ROOT / "README.md")
    (sources / "index.md").write_text(opening + contents(slides), encoding="utf-8")
    (sources / "README.md").write_text(f"# Using the package\n\n{package}", encoding="utf-8")


def lay_out_notebooks(folder: Path) -> None:
    """Fold what Jupyter folds, and say where the notebook itself is, which is kept beside it."""
    shutil.copytree(folder, folder / "originals")
    for path in folder.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            translate(cell)
        notebook.cells.insert(1, new_markdown_cell(NOTE.format(name=path.name)))
        nbformat.write(notebook, path)


def lay_out_results(folder: Path) -> None:
    """Tables without a title are named after their file."""
    for path in folder.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        if not text.startswith("# "):
            name = path.relative_to(folder).with_suffix("")
            path.write_text(f"# Every row: {name}\n\n{text}", encoding="utf-8")


def translate(cell: nbformat.NotebookNode) -> None:
    """Say in the words of myst-nb what Jupyter folds, and what pictures show."""
    words = {}
    for part, (tag, what) in FOLDED.items():
        if cell.metadata.get("jupyter", {}).get(part):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), tag]
            words = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
    if texts := describe(cell):
        words["image"] = {"alt": " ".join(texts)}  # one text for all pictures of a cell
    if words:
        cell.metadata["mystnb"] = words


def split(readme: Path) -> tuple[str, str]:
    """What stands in the README before its first section, and the sections."""
    text = readme.read_text(encoding="utf-8")
    start = text.index("\n## ") + 1
    return text[:start], text[start:]


def contents(slides: bool) -> str:
    """What leads from the front page to every other one."""
    link = '<p><a href="slides/index.html">Slides of a lecture of 50 minutes</a></p>\n'
    lists = (
        CONTENTS.format(caption=caption, pages="\n".join(pages.split()))
        for caption, pages in PAGES.items()
    )
    return link * slides + "".join(lists)


if __name__ == "__main__":
    sys.exit(main())
