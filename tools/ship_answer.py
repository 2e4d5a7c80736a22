"""Where does dynamic pruning win? python tools/ship_answer.py, after any new result in benchmarks/.

All comparisons go to benchmarks/answer.md, their picture beside it; the answer and who is ahead of
whom stand in the README, the same in numbers on the page of results, between the marks of
``answer``.
"""

from readme import README, RESULTS, ROOT, between_marks

from fbs_tutorial.bench.answer import SURE, headline, matches, sentence, summary, table, verdicts
from fbs_tutorial.lesson.plots import answer_picture

STORED = ROOT / "benchmarks"
ABOUT = (
    "Made by `tools/ship_answer.py` from the stored results in this folder. On each side the "
    "networks, and pairs of looks, take part that are right on more validation images than all "
    "cheaper ones. Each of the side asked about is compared **at its own cost** with what the "
    "rivals reach there: on a straight line between the test accuracies of the rival below and the "
    "one above it, over the logarithm of the cost. Beyond the dearest rival it is what that one "
    "reaches, and below the cheapest nothing is compared. A difference in test accuracy counts "
    f"from {SURE:g} standard errors on: the larger of that between the seeds and that of so many "
    "test images."
)


def main() -> None:
    found = matches(STORED)
    said = sentence(found)
    drawn = [match for match in found if not match.source.startswith("choice/")]  # has its own
    figure, _ = answer_picture(drawn, "Where does dynamic pruning win?")
    figure.savefig(STORED / "answer.png", dpi=130)
    page = ["# Where does dynamic pruning win?", said, ABOUT, summary(found), table(found)]
    (STORED / "answer.md").write_text("\n\n".join(page) + "\n")
    RESULTS.write_text(between_marks(RESULTS.read_text(), "answer", f"{said}\n\n{summary(found)}"))
    short = f"{headline(found)}.\n\n{verdicts(found)}"
    README.write_text(between_marks(README.read_text(), "answer", short))
    print(said)


if __name__ == "__main__":
    main()
