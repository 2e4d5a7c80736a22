"""What the pages of the site and the slides share: other people's scripts, and words for pictures.

MathJax and reveal.js come from Python packages that hold them, so that whoever builds the pages
needs no Node, and whoever reads them needs no other host.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from nbformat import NotebookNode

PNG = "image/png"

PLACES = {  # package, folder in it, what of that is needed
    "mathjax": (
        "sphinx-mathjax-offline",
        "static/mathjax",
        ("tex-chtml.js", "input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*"),
    ),
    "reveal": (
        "sphinx_revealjs",
        "_static/revealjs",
        ("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/*"),
    ),
}


def copy(name: str, to: Path) -> None:
    """Copy "mathjax" or "reveal" into a folder.

    Raises:
        ModuleNotFoundError: if the package that holds it is not installed.
        FileNotFoundError: if the package lacks a file.
    """
    package, folder, wanted = PLACES[name]
    found = find_spec(package)
    if found is None:
        raise ModuleNotFoundError(f"{name} comes with {package}: pip install -e .[site]")
    home = Path(found.origin).parent / folder
    for pattern in wanted:
        paths = list(home.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"{package} has no {folder}/{pattern}")
        for path in paths:
            target = to / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def describe(cell: NotebookNode) -> list[str]:
    """Give each picture of a code cell an alternative text, and return these texts.

    A picture that was stored without one is described by the sentence that is printed after it.
    """
    outputs = cell.get("outputs", [])
    found = []
    for out, following in zip(outputs, [*outputs[1:], {}], strict=False):
        if PNG in out.get("data", {}):
            about = out.metadata.setdefault(PNG, NotebookNode())
            about.setdefault("alt", " ".join(following.get("text", "").split()))
            found.append(about["alt"])
    return found
