"""Show the comparisons in benchmarks/compare: python tools/ship_compare.py, after `compare`.

Each gets a picture beside its file. Tables, with the settings that were tried and the published
figures for CIFAR-10, stand in benchmarks/compare/README.md; the table of the digits, and those of
the other data sets if there are any, on the page of results as well. The notebooks read copies in
the package.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from readme import RESULTS, ROOT, between_marks, copy_for_lessons

from fbs_tutorial.bench.compared import choices_table, provenance, settings_used, table
from fbs_tutorial.lesson.plots import compared
from fbs_tutorial.tables import markdown

FOLDER = ROOT / "benchmarks" / "compare"
NAMES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def main() -> None:
    for name, results in comparisons():
        figure, sentence = compared(results, title_of(name, results))
        figure.savefig(FOLDER / f"{name}.png", dpi=130)
        copy_for_lessons(FOLDER / f"{name}.json")
        print(sentence)
    (FOLDER / "README.md").write_text(page())
    RESULTS.write_text(with_tables(RESULTS.read_text()))


def comparisons() -> Iterator[tuple[str, dict]]:
    """The stored comparisons: name of the file, and results."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem.partition("-")[0] in NAMES:
            yield path.stem, json.loads(path.read_text())


def title_of(name: str, results: dict) -> str:
    plan = results["plan"]
    data = NAMES[name.partition("-")[0]]
    images = "" if plan["images"] is None else f", {plan['images']:,} training images"
    seeds = len(plan["seeds"])
    return f"{data}, {plan['model']}{images}, {seeds} seed{'s' * (seeds > 1)}"


def with_tables(results_page: str) -> str:
    """The page of results with the table of each comparison."""
    parts = [f"{title_of(name, r)}. {provenance(r)}\n\n{table(r)}" for name, r in comparisons()]
    return between_marks(results_page, "compare", "\n\n".join(parts))


def page() -> str:
    """The page of the folder."""
    parts = ["# FBS beside its static relatives", ABOUT]
    for name, results in comparisons():
        picture = f"![Test accuracy of each method against what it costs]({name}.png)"
        parts += [f"## {title_of(name, results)}", provenance(results), settings_used(results)]
        parts += [picture, table(results)]
    parts += ["## Settings", SETTINGS]
    for path in sorted(FOLDER.glob("choices-*.json")):
        results = json.loads(path.read_text())
        parts += [provenance(results), choices_table(results)]
    return "\n\n".join([*parts, "## Published, CIFAR-10", PUBLISHED, published()]) + "\n"


def published() -> str:
    """Figures of other people's, as a table."""
    head = ["network", "method", "accuracy", "points", "fewer MACs", "fewer parameters", "source"]
    lines = []
    for row in json.loads(Path(FOLDER, "published.json").read_text()):
        both = f"{row['before']} to {row['after']}" if "before" in row else ""
        less = [f"{row[key]:g} %" for key in ("macs_less", "parameters_less")]
        points = f"{row['change']:+g}"
        lines.append([row["network"], row["method"], both, points, *less, row["source"]])
    return markdown(head, lines)


ABOUT = (
    "Every network of a comparison is trained for the same number of epochs: pruned ones half of "
    "them before the cut and half after it, the others at one go. Nothing is distilled, the last "
    "epoch counts, nothing is chosen on test images. Accuracies in percent, mean over the seeds "
    "(and their range); MACs of one image, predictors included; kB stored: weights that "
    "are left, predictors, masks and indices; milliseconds, where the machine was "
    "idle, of each network as it is executed best."
)
SETTINGS = (
    "Weights of the two penalties, and the gain of the predictors that FBS starts with: validation "
    "accuracy as trained, right after the cut, and trained on. The last decides. Where values "
    "differ by less than seeds do, any of them would do."
)
PUBLISHED = "By other people, with other recipes and many more epochs; not comparable in detail."


if __name__ == "__main__":
    main()
