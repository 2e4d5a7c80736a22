"""Show the results in benchmarks/budget: python tools/ship_budget.py, after `make budget`.

Of each result all curves go to a .md beside it, with the picture; of CIFAR-10 what is best within
a few budgets stands in the README, between the marks of ``budget cifar10``. The notebooks read
copies in the package.
"""

import json

from readme import ROOT, copy_for_lessons, show

from fbs_tutorial.bench.budget import HEAD, cells, curves, report, stored_bytes, within
from fbs_tutorial.lesson.plots import budget_curves
from fbs_tutorial.tables import markdown

STORED = ROOT / "benchmarks" / "budget"
BUDGETS = (20, 26, 45, 56, 87, 175)  # million MACs per image, on average
TITLES = {"cifar10": "CIFAR-10, M-CifarNet, one seed of each", "digits": "digits, one seed of each"}


def main() -> None:
    for path in sorted(STORED.glob("*.json")):
        results = json.loads(path.read_text())
        if "clock" not in results:
            raise SystemExit(f"{path} has no times; its command without --no-clock adds them")
        figure, sentence = budget_curves(curves(results), TITLES[path.stem])
        figure.savefig(path.with_suffix(".png"), dpi=130)
        path.with_suffix(".md").write_text(f"{report(results)}\n")
        copy_for_lessons(path)
        print(sentence)
    show("budget cifar10", table())


def table() -> str:
    """For each budget the best of each kind, chosen on validation images, and who looks."""
    results = json.loads((STORED / "cifar10.json").read_text())
    dial, *rivals = curves(results).items()
    head = ["mean MACs at most", *HEAD, *(f"{name} (kB)" for name, _ in rivals)]
    rows = []
    for budget in BUDGETS:
        best = cells(results, within(dial[1], 1e6 * budget))
        others = [within(chosen, 1e6 * budget) for _, chosen in rivals]
        rows.append([f"{budget} M", *best, *(short(results, point) for point in others)])
    return markdown(head, rows)


def short(results: dict, point: dict | None) -> str:
    """Accuracy and bytes of one point."""
    if point is None:
        return ""
    size = stored_bytes(results, point) / 1e3
    return f"{point['test']['accuracy']:.2%} ({size:,.0f})"


if __name__ == "__main__":
    main()
