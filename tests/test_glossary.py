"""The glossary defines every term once, in one sentence, and the contract's words are in it."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = dict(re.findall(r"^\*\*(.+?)\*\*: (.+?)(?=\n\n|\Z)", TEXT, re.M | re.S))
SYMBOLS = re.findall(r"^\| `([^|]+)` \| ([^|]+) \| (.+) \|$", TEXT, re.M)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_defined_once_in_one_sentence(term):
    assert TEXT.count(f"**{term}**") == 1
    sentence = " ".join(TERMS[term].split())
    assert sentence.endswith(".") and not re.search(r"\. [A-Z]", sentence)


@pytest.mark.parametrize("symbol", ["x", "s", "g", "pi", "d", "k", "beta", "gamma", "y", "lambda"])
def test_a_symbol_stands_beside_the_papers(symbol):
    rows = [row for row in SYMBOLS if symbol in row[0].split("`, `")]
    assert len(rows) == 1 and rows[0][1].strip() and rows[0][2].endswith(".")


@pytest.mark.parametrize(
    "term",
    [
        "Measured saliency (`s`)", "Predicted saliency (`g`)", "Gate (`pi`)", "Density (`d`)",
        "Winner", "Winner-take-all", "Live channel", "Lasso", "Penalty (L1)", "Residual sum",
        "Taylor score", "MAC", "Gather", "Mean gate", "Another image's gates", "Budget",
    ],
)  # fmt: skip
def test_what_readers_missed_is_defined(term):
    assert term in TERMS
