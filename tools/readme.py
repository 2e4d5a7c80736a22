"""What the shipping tools show in the README stands between marks, and is replaced there.

The marks of NAME are ``<!-- NAME: ... -->`` and ``<!-- /NAME -->``, on lines of their own.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def show(name: str, text: str) -> None:
    """Put ``text`` between the marks of ``name`` in the project's README."""
    path = ROOT / "README.md"
    path.write_text(between_marks(path.read_text(), name, text))


def between_marks(readme: str, name: str, text: str) -> str:
    """``readme`` with ``text`` between the marks of ``name``.

    Raises:
        ValueError: the marks are not there exactly once.
    """
    marks = re.compile(rf"(<!-- {name}: [^\n]*? -->\n).*?(<!-- /{name} -->)", re.S)
    changed, count = marks.subn(lambda found: f"{found[1]}{text.rstrip()}\n{found[2]}", readme)
    if count != 1:
        raise ValueError(f"the README needs the marks of {name} once, got them {count} times")
    return changed


def with_marks(readme: str, name: str, maker: str, after: str) -> str:
    """``readme`` with marks for ``name``; new ones stand after the last that match ``after``."""
    if f"<!-- /{name} -->" in readme:
        return readme
    made = f"<!-- {name}: made by {maker} -->\n<!-- /{name} -->"
    return re.sub(rf"(.*<!-- /{after} -->\n)", rf"\1\n{made}\n", readme, flags=re.S)
