"""What ``compare`` has found: the file of its rows, and tables made from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from ..files import check_writable, damaged, write_atomically
from ..tables import markdown
from ..training.settings import SMALLEST, RunError, Takes, number, whole
from .record import SAME_MACHINE
from .stored import benchmark_file
from .timing import machine, three_digits

LABELS = {  # of the methods, in the order in which they are trained and shown
    "plain": "plain",
    "narrow": "narrow from the start",
    "scratch": "slimmed shape, new weights",
    "slimming": "network slimming",
    "kernels": "kernel masks",
    "stripes": "stripes",
    "fbs": "FBS",
    "fbs, idle removed": "FBS, idle channels removed",
    "slimming, fbs": "slimming, then FBS",
    "slimming, fbs, idle removed": "the same, idle channels removed",
}
IDLE = ", idle removed"  # of a network, after the name of its method


def several(one: Takes) -> Takes:
    """A tuple of at least one value, all of them different."""

    def test(values: object) -> bool:
        each = isinstance(values, tuple) and all(map(one.test, values))
        return each and 0 < len(values) == len(set(values))

    return Takes(f"one value or several that differ, each {one.text}", test)


SEEDS = several(whole(0))
SHARE = number(SMALLEST, 1.0, "a number in (0, 1]")


def check_fields(plan: object, takes: Mapping[str, Takes]) -> None:
    """Every field of a plan is what it takes.

    Raises:
        RunError: one is not.
    """
    for name, one in takes.items():
        value = getattr(plan, name)
        if not one.test(value):
            raise RunError(f"{{{name}}} must be {one.text}, got {{got}}", {"got": repr(value)})


class Stored:
    """Rows with what they were made with, in a file that is written after each.

    Raises:
        RunError: the file holds rows of another kind. OSError: it cannot be written.
    """

    same: tuple[str, ...]  # the keys that tell one row from the others

    def __init__(self, plan: dict, path: Path, device: str, command: str):
        check_writable(path)
        self.path = path
        self.facts = {"command": command, "plan": plan, "machine": machine(device), "rows": []}
        if path.exists():
            self._go_on(_read(path))

    def _go_on(self, old: dict) -> None:
        """Take over the rows of an earlier call, which may have had other seeds."""
        plan, seeds = self.facts["plan"], set(old["plan"].get("seeds", ()))
        changed = [k for k in plan if k != "seeds" and old["plan"].get(k) != plan[k]]
        machines = old["machine"], self.facts["machine"]
        changed += [k for k in SAME_MACHINE if machines[0].get(k) != machines[1][k]]
        if not all(key in row for row in old["rows"] for key in self.same):
            changed.append("kind")
        if changed:
            text = "{path} holds another comparison (its {what}); move it away, or give another "
            raise RunError(text + "{out}", {"path": self.path, "what": ", ".join(changed)})
        kept, command = {key: v for key, v in old.items() if key != "plan"}, self.facts["command"]
        more = not seeds >= set(plan["seeds"])
        self.facts |= kept | {"plan": plan | {"seeds": sorted(seeds | set(plan["seeds"]))}}
        if more:
            self.add_command(command)

    def add_command(self, command: str) -> None:
        """Name one more command that the rows come from."""
        commands = dict.fromkeys((*self.facts["command"].split("; "), command))
        self.facts["command"] = "; ".join(commands)

    def say_what_is_there(self, more_to_come: bool, say: Callable[[str], None]) -> None:
        """Tell of the rows of earlier calls, if there are any."""
        rows, date = len(self.facts["rows"]), self.facts["machine"]["date"]
        if not more_to_come:
            say(f"{self.path} holds all of it, of {date}; nothing is trained or measured anew")
        elif rows:
            say(f"{self.path} has {rows} rows, the first of {date}; going on")

    def lacks(self, *what: object) -> bool:
        """Whether there is no row with these values of the keys in `same`."""
        return all(tuple(row[key] for key in self.same) != what for row in self.facts["rows"])

    def keep(self, row: dict) -> None:
        """Store a row, in the place of an older one like it."""
        others = [r for r in self.facts["rows"] if any(r[key] != row[key] for key in self.same)]
        self.facts["rows"] = [*others, row]
        write_atomically(self.path, (json.dumps(self.facts, indent=1) + "\n").encode())


class Results(Stored):
    """What `compare` has measured.

    Rows of a time when the machine was busy have no milliseconds.
    """

    same = ("seed", "level", "method")

    def lacks(self, seed: int, level: float | None, method: str | None = None) -> bool:
        """Whether a row, or with no ``method`` any row of a level, is still to come."""
        there = {
            r["method"] for r in self.facts["rows"] if (r["seed"], r["level"]) == (seed, level)
        }
        wanted = {"plain"} if level is None else LABELS.keys() - {"plain"}
        if method is not None:
            wanted = {name for name in wanted if name.removesuffix(IDLE) == method}
        return not wanted <= there


class Choices(Stored):
    """What `choose` has tried, and which values were best."""

    same = ("seed", "setting", "value", "decay")

    def __init__(
        self, plan: dict, path: Path, device: str, command: str, published: Mapping[str, float]
    ):
        super().__init__(plan, path, device, command)
        self.facts = {"published": dict(published), "best": {}} | self.facts

    def add(self, *what: object) -> None:
        """Keep what was found, the last argument, for a seed, setting, value and decay."""
        *names, row = what
        rows = [*self.facts["rows"], dict(zip(self.same, names, strict=True)) | row]
        settings = dict.fromkeys(row["setting"] for row in rows)
        self.facts["best"] = {name: best_value(rows, name) for name in settings}
        self.keep(rows[-1])


def _read(path: Path) -> dict:
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(damaged(path, error, "move it away")) from error
    of_a_comparison = isinstance(results, dict) and {"machine", "rows"} <= results.keys()
    if not of_a_comparison or not isinstance(results.get("plan"), dict):
        raise ValueError(damaged(path, "it is not of a comparison", "move it away"))
    return results


def best_value(rows: Sequence[dict], setting: str) -> float | None:
    """The value of best mean validation accuracy, of equal ones the smallest; None without one."""
    tried = [row for row in rows if row["setting"] == setting and not row["decay"]]
    means = {
        value: mean(row["val_accuracy"] for row in tried if row["value"] == value)
        for value in sorted({row["value"] for row in tried})
    }
    return max(means, key=means.get, default=None)


def choices_table(results: dict) -> str:
    """Markdown: for each value the validation accuracy as trained, as pruned and as trained on."""
    keys = ("setting", "value", "decay")
    tried = dict.fromkeys(tuple(row[key] for key in keys) for row in results["rows"])
    lines = []
    for name, value, decay in tried:
        rows = [r for r in results["rows"] if tuple(r[k] for k in keys) == (name, value, decay)]
        notes = ["with weight decay on skeletons"] if decay else []
        notes += ["published"] if value == results["published"].get(name) else []
        notes += ["chosen"] if value == results["best"][name] and not decay else []
        shown = ("val_trained", "val_pruned", "val_accuracy")
        cells = [spread([row[key] for row in rows]) for key in shown]
        lines.append([name, f"{value:g}", *cells, ", ".join(notes)])
    return markdown(["setting", "value", "trained", "pruned", "trained on", ""], lines)


def grouped(results: dict) -> dict[tuple[float | None, str], list[dict]]:
    """The rows of all seeds by level and method, in the order of the table."""
    found = {}
    for level in (None, *results["plan"]["densities"]):
        for method in LABELS:
            same = (level, method)
            rows = [row for row in results["rows"] if (row["level"], row["method"]) == same]
            found |= {same: rows} if rows else {}
    return found


def table(results: dict) -> str:
    """Markdown: a line for each method at each level, means over the seeds with their range."""
    batches = next((list(row["ms"]) for row in results["rows"] if "ms" in row), [])
    plain = mean(row["macs"] for row in results["rows"] if row["method"] == "plain")
    lines = []
    for (level, method), rows in grouped(results).items():
        cells = ["" if level is None else f"d = {level:g}", LABELS[method]]
        cells += [spread([row[f"{part}_accuracy"] for row in rows]) for part in ("val", "test")]
        macs = mean(row["macs"] for row in rows)
        cells += [f"{macs / 1e6:.3f} M", f"{macs / plain:.1%}"]
        cells.append(f"{mean(row['bytes'] for row in rows) / 1e3:.1f}")
        times = [row["ms"] for row in rows if "ms" in row]
        cells += [
            three_digits(mean(ms[batch] for ms in times)) if times else "" for batch in batches
        ]
        lines.append(cells)
    head = ["MACs of winners at", "method", "validation", "test", "MACs", "of plain", "kB stored"]
    head += [f"ms, batch {batch}" for batch in batches]
    return markdown(head, lines)


def recorded(name: str) -> dict:
    """What is stored of a comparison on this data set: ``benchmarks/compare`` of the course.

    Raises:
        FileNotFoundError: neither the package nor the folder of the course has such a file.
    """
    return _read(benchmark_file("compare", f"{name}.json", remedy="run `compare` first"))


def mean_accuracy(results: dict, level: float | None, method: str) -> float:
    """Mean test accuracy over the seeds, 0..1."""
    return mean(row["test_accuracy"] for row in grouped(results)[level, method])


def spread(shares: Sequence[float]) -> str:
    """Mean in percent, and the range where there are several that differ."""
    low, high = (f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return f"{100 * mean(shares):.1f}" + f" ({low} to {high})" * (low != high)


def provenance(results: dict) -> str:
    """One line: the command, where, when and with what it ran, for how long it trained, and when
    milliseconds were taken, if not then."""
    facts, plan = results["machine"], results["plan"]
    seeds = len(plan["seeds"])
    return (
        f"`{results['command']}`: {facts['date']}, {facts['device']}, torch "
        f"{facts['versions']['torch']}; {plan['data']}, {plan['model']}, {2 * plan['epochs']} "
        f"epochs for every network, {seeds} seed{'s' * (seeds > 1)}."
        + (f" Milliseconds: {results['timed']['date']}." if "timed" in results else "")
    )


def settings_used(results: dict) -> str:
    """One line: the penalties and the predictors' gain of a comparison, and whether `choose` found
    them for its data set."""
    plan = results["plan"]
    used = ", ".join(f"{name} {value:g}" for name, value in plan["chosen"].items())
    try:
        found = recorded(f"choices-{plan['data']}")["best"] == plan["chosen"]
    except FileNotFoundError:
        found = False
    how = "chosen on validation images" if found else "not chosen on validation images"
    return f"Settings: {used}; {how}."
