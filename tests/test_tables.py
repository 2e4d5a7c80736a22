"""One writer of Markdown tables: what it writes reads back as the same cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbs_tutorial.tables import markdown

CELL = st.text("ab 1.%", max_size=9).map(str.strip)


def cells(line):
    assert line.startswith("| ") and line.endswith(" |")
    return [cell.strip() for cell in line[1:-1].split("|")]


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1)
    )
)
def test_plain_and_padded_tables_hold_the_same_cells(rows):
    head, *rest = rows
    for padded in (False, True):
        lines = markdown(head, rest, padded=padded).split("\n")
        assert [cells(line) for line in (lines[0], *lines[2:])] == rows
        assert all(set(cell) == {"-"} and len(cell) >= 3 for cell in cells(lines[1]))
    assert (
        len({len(line) for line in lines}) == 1
    )  # the padded one's columns stand below each other


def test_the_two_forms():
    assert markdown(["a", ""], [["12345", "x"]]) == "| a |  |\n| --- | --- |\n| 12345 | x |"
    padded = "| a     |     |\n| ----- | --- |\n| 12345 | x   |"
    assert markdown(["a", ""], [["12345", "x"]], padded=True) == padded


def test_a_row_with_a_cell_too_many_is_refused():
    with pytest.raises(ValueError, match=r"rows must have 1 cells like the head, got \['1', '2'\]"):
        markdown(["a"], [["1", "2"]])
