"""Build the slides of the lecture from the notebooks, as docs/slides.yml says.

    python tools/slides.py [--out FOLDER]

The folder holds all that the slides need, reveal.js and MathJax too, which are copied from the
packages of the extra ``site``: they work offline, from disk and on any static host.
"""

import argparse
import shutil
from functools import cache
from pathlib import Path

import nbformat
import yaml
from nbconvert import SlidesExporter
from nbformat.v4 import new_markdown_cell, new_notebook
from site_parts import PNG, copy, describe
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "docs" / "slides.yml"
TEMPLATE = Path(__file__).with_name("slides.html.j2")
KEYS = {"title", "text", "cell", "show", "caption", "say"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "slides")
    build(parser.parse_args().out)


def build(out: Path) -> None:
    """Write index.html and what it needs to a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    for name in ("reveal", "mathjax"):
        copy(name, out / name)
    slides = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    (out / "index.html").write_text(page(slides), encoding="utf-8")


def page(slides: list[dict]) -> str:
    """The slides as one HTML page.

    Args:
        slides: for each its ``title``, what it shows, and what to ``say``. It shows ``text`` in
            Markdown, or a ``cell``, as "NN id" of a notebook and a cell in it; of a code cell
            the output, or the "code", or "both", as ``show`` says. ``caption`` stands beneath.

    Raises:
        ValueError: for a key or a cell that there is not.
    """
    deck = new_notebook(cells=[cell for slide in slides for cell in cells_of(slide)])
    deck.metadata["title"] = slides[0]["title"]
    settings = Config()
    settings.SlidesExporter.exclude_anchor_links = True
    settings.SlidesExporter.exclude_input_prompt = True
    settings.SlidesExporter.exclude_output_prompt = True
    settings.CSSHTMLHeaderPreprocessor.style = "a11y-high-contrast-light"
    settings.TagRemovePreprocessor.enabled = True
    settings.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    return SlidesExporter(config=settings, template_file=str(TEMPLATE)).from_notebook_node(deck)[0]


def cells_of(slide: dict) -> list[nbformat.NotebookNode]:
    """The cells of one slide, in the words of nbconvert."""
    unknown = slide.keys() - KEYS
    if unknown:
        raise ValueError(f"slide {slide['title']!r}: takes {sorted(KEYS)}, got {sorted(unknown)}")
    level = "##" if "cell" in slide or "caption" in slide else "#"
    cells = [words(f"{level} {slide['title']}", "slide")]
    if "text" in slide:
        cells.append(words(slide["text"]))
    if "cell" in slide:
        cells.append(shown(slide["cell"], slide.get("show", "output")))
    if "caption" in slide:
        cells.append(words(slide["caption"], tags=["caption"]))
    return [*cells, words(slide["say"], "notes")]


def words(text: str, kind: str = "-", **metadata: object) -> nbformat.NotebookNode:
    return new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}, **metadata})


def shown(name: str, show: str) -> nbformat.NotebookNode:
    """The named cell without what is not shown; a printed line gives way to its picture."""
    number, identity = name.split()
    cell = next((c for c in notebook(number).cells if c.id == identity), None)
    if cell is None:
        raise ValueError(f"cell: there is no cell {identity!r} in notebook {number}")
    cell.metadata = {"slideshow": {"slide_type": "-"}}
    if cell.cell_type == "code":
        if show == "output":
            cell.metadata["tags"] = ["hide-input"]
        describe(cell)
        pictures = [out for out in cell.outputs if PNG in out.get("data", {})]
        cell.outputs = [] if show == "code" else pictures or cell.outputs
    return cell


@cache
def notebook(number: str) -> nbformat.NotebookNode:
    """The notebook whose name begins with two digits."""
    found = list((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    if not found:
        raise ValueError(f"cell: there is no notebook {number!r}")
    return nbformat.read(found[0], as_version=4)


if __name__ == "__main__":
    main()
