"""One way to write a Markdown table, for terminals, run folders and the README."""

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, padded: bool = False) -> str:
    """A Markdown table without a line break at its end.

    Args:
        head: the columns' names. rows: their cells, as many in each as in ``head``.
        padded: with spaces, so that columns stand below each other in a terminal too.

    Raises:
        ValueError: a row with more or fewer cells than ``head``.
    """
    rows = [list(row) for row in rows]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"rows must have {len(head)} cells like the head, got {row}")
    widths = [max(3, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]
    widths = widths if padded else [0] * len(head)
    rule = ["-" * max(3, width) for width in widths]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in (head, rule, *rows)
    )
