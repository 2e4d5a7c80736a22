"""Write the address of a fork into the course, or take it out again.

    python tools/colab.py --repo OWNER/NAME [--tag TAG]
    python tools/colab.py --repo ""

On Colab a notebook is alone. With an address its first cell installs the package from there, links
to other notebooks and pages are absolute, and a badge opens it from GitHub and from the README. The
package keeps the address too, since its small wheel fetches weights from there. Without one
everything is as it was. Only Python's standard library is needed.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({})"
A_BADGE = re.escape(BADGE).replace(r"\{\}", r"[^)]*")
# A link of a notebook to another, or to a page or picture of the repository.
LINK = re.compile(r"\]\((\.\./[^)\s]+|\w+\.ipynb(?:#[^)\s]*)?)\)")
PICTURE = re.compile(r"\.(png|gif|svg|jpg)$")
ROW = re.compile(r"^\| (?=\[\d\d [^\]]*\]\((notebooks/\w+\.ipynb)\))", re.M)
TEXT = {"encoding": "utf-8", "newline": "\n"}  # on Windows too
SETUP, VERSION = Path("tools/setup_cell.txt"), Path("fbs_tutorial/_version.py")


@dataclass
class Fork:
    """A repository on GitHub at a tag or branch, and the addresses that follow from them."""

    repo: str
    tag: str

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ValueError(f"REPO must be OWNER/NAME as on GitHub, got {self.repo!r}")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", self.tag):
            raise ValueError(f"TAG must be a tag or a branch, got {self.tag!r}")

    @property
    def archive(self) -> str:
        """What pip installs from; unlike a clone it has no history and needs no git."""
        return f"https://github.com/{self.repo}/archive/{self.tag}.zip"

    @property
    def raw(self) -> str:
        return f"https://github.com/{self.repo}/raw/{self.tag}"

    @property
    def pages(self) -> str:
        return f"https://github.com/{self.repo}/blob/{self.tag}"

    @property
    def colab(self) -> str:
        return f"https://colab.research.google.com/github/{self.repo}/blob/{self.tag}"

    def absolute(self, target: str) -> str:
        """The address of what a notebook's relative link means."""
        if not target.startswith("../"):
            return f"{self.colab}/notebooks/{target}"
        return f"{self.raw if PICTURE.search(target) else self.pages}/{target[3:]}"

    def relative(self, text: str) -> str:
        """``text`` with the links as they were before `absolute`."""
        text = text.replace(f"]({self.colab}/notebooks/", "](")
        return text.replace(f"]({self.raw}/", "](../").replace(f"]({self.pages}/", "](../")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", required=True, help="OWNER/NAME; empty to take the address out")
    parser.add_argument("--tag", default="main", help="a tag or branch")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the course")
    options = parser.parse_args()
    try:
        new = Fork(options.repo, options.tag) if options.repo else None
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    write(options.root, new)
    print(f"the course is at {new.pages}" if new else "the course has no address")
    return 0


def write(root: Path, new: Fork | None) -> None:
    """Every file of the course with the address ``new``, or without any."""
    old = fork_of(root)
    replace(root / SETUP, r'^address = ".*?"', f'address = "{new.archive if new else ""}"')
    replace(root / VERSION, r'^ADDRESS = ".*?"', f'ADDRESS = "{new.raw if new else ""}"')
    readme = root / "README.md"
    readme.write_text(with_badges(readme.read_text(encoding="utf-8"), new), **TEXT)
    setup = (root / SETUP).read_text(encoding="utf-8").rstrip()
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        first["source"] = setup.splitlines(keepends=True)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = with_links("".join(cell["source"]), old, new)
                cell["source"] = text.splitlines(keepends=True)
        opening = notebook["cells"][0]
        text = with_badge("".join(opening["source"]), path.name, new)
        opening["source"] = text.splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        path.write_text(text + "\n", **TEXT)  # as nbformat writes it


def fork_of(root: Path) -> Fork | None:
    """The fork whose address the course has."""
    address = re.search(r'^ADDRESS = "(.*?)"', (root / VERSION).read_text(), re.M)[1]
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/raw/(.+)", address)
    return Fork(found[1], found[2]) if found else None


def replace(path: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, lambda _: text, path.read_text(encoding="utf-8"), flags=re.M)
    if count != 1:
        raise ValueError(f"{path} has {count} lines like {pattern}, must have one")
    path.write_text(changed, **TEXT)


def with_links(text: str, old: Fork | None, new: Fork | None) -> str:
    """The text of a notebook with its links to ``old`` leading to ``new``."""
    text = old.relative(text) if old else text
    return LINK.sub(lambda found: f"]({new.absolute(found[1])})", text) if new else text


def with_badge(text: str, name: str, new: Fork | None) -> str:
    """The opening of a notebook with the badge beneath its title, or with none."""
    text = re.sub(rf"\n\n{A_BADGE}", "", text, count=1)
    badge = f"\n\n{BADGE.format(f'{new.colab}/notebooks/{name}')}" if new else ""
    title, _, rest = text.partition("\n")
    return f"{title}{badge}\n{rest}"


def with_badges(readme: str, new: Fork | None) -> str:
    """The README with a badge before each notebook of its table, or with none."""
    readme = re.sub(rf"^\| {A_BADGE} ", "| ", readme, flags=re.M)
    if new is None:
        return readme
    return ROW.sub(lambda row: f"| {BADGE.format(f'{new.colab}/{row[1]}')} ", readme)


if __name__ == "__main__":
    sys.exit(main())
