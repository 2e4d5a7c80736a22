"""Show the trials: python tools/ship_trials.py, after what makes them.

Those are `choice`, `stability`, tools/any_density.py and tools/opponents.py. What is stored of each
in benchmarks goes to the page of results, between its marks, with a picture beside the files of the
first two. The notebooks read copies, of stability that of the digits, in the package.
"""

import json

from readme import RESULTS, ROOT, copy_for_lessons, show, with_marks

from fbs_tutorial.bench.choice import report
from fbs_tutorial.bench.stability import origin, table
from fbs_tutorial.lesson.plots import growing_pool, losses_of_gates

STORED = ROOT / "benchmarks"
TITLES = {
    "digits": "Digits",
    "fashion_mnist": "Fashion-MNIST",
    "tiny-imagenet-50": "Tiny-ImageNet-50",
}

ANY_DENSITY = (
    "## One network for every density\n\n"
    "The network for every density is trained with a density drawn for each image, and all "
    "densities share their batch norms' statistics. `tools/any_density.py` tries what may close "
    "its distance to the network for *d* = 0.5, at the same number of epochs: statistics for each "
    "density (`train --calibrated`), batches of one density (`--draw batch`), a teacher "
    "(`--distill`), and a start from the network for 0.5. The column of validation images chooses; "
    "a difference within the standard errors is none."
)


def main() -> None:
    show("choice", "\n\n".join(map(pool_section, sorted(STORED.glob("choice/*.json")))))
    show("stability", "\n\n".join(map(loss_section, sorted(STORED.glob("stability/*.json")))))
    show("opponents", (STORED / "opponents" / "table.md").read_text())
    candidates = STORED / "any-density" / "table.md"
    if candidates.exists():
        page = with_marks(RESULTS.read_text(), "any-density", "tools/ship_trials.py", "stability")
        RESULTS.write_text(page)
        show("any-density", f"{ANY_DENSITY}\n\n{candidates.read_text()}")


def pool_section(path) -> str:
    copy_for_lessons(path)
    results = json.loads(path.read_text())
    plan = results["plan"]
    title = f"{TITLES[path.stem]}, {plan['model']}, {len(plan['seeds'])} seeds"
    figure, sentence = growing_pool(results, title)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    return "\n\n".join([report(results), f"![{sentence}](choice/{path.stem}.png)"])


def loss_section(path) -> str:
    if path.stem == "digits":
        copy_for_lessons(path)
    results = json.loads(path.read_text())
    figure, sentence = losses_of_gates(results, f"{TITLES[path.stem]}, {results['plan']['model']}")
    figure.savefig(path.with_suffix(".png"), dpi=130)
    words = " ".join(sentence.split())
    parts = [origin(results), table(results), f"![{words}](stability/{path.stem}.png)"]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
