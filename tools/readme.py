"""What the shipping tools show on a page stands between marks, and is replaced there.

The pages are README.md and benchmarks/README.md, the results. The marks of NAME are
``<!-- NAME: ... -->`` and ``<!-- /NAME -->``, on lines of their own.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "README.md"


def show(name: str, text: str) -> None:
    """Put ``text`` between the marks of ``name`` on the page of results."""
    RESULTS.write_text(between_marks(RESULTS.read_text(), name, text))


def copy_for_lessons(path: Path) -> None:
    """Put a copy of a file in benchmarks/ where the package's lessons read it."""
    name = "-".join(path.relative_to(RESULTS.parent).parts)
    shutil.copyfile(path, ROOT / "fbs_tutorial" / "assets" / "lesson" / name)


def between_marks(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the marks of ``name``.

    Raises:
        ValueError: the marks are not there exactly once.
    """
    marks = re.compile(rf"(<!-- {name}: [^\n]*? -->\n).*?(<!-- /{name} -->)", re.S)
    changed, count = marks.subn(lambda found: f"{found[1]}{text.rstrip()}\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"the page needs the marks of {name} once, got them {count} times")
    return changed


def with_marks(page: str, name: str, maker: str, after: str) -> str:
    """``page`` with marks for ``name``; new ones stand after the last that match ``after``."""
    if f"<!-- /{name} -->" in page:
        return page
    made = f"<!-- {name}: made by {maker} -->\n<!-- /{name} -->"
    return re.sub(rf"(.*<!-- /{after} -->\n)", rf"\1\n{made}\n", page, flags=re.S)
