"""The results of a benchmark, and the file that holds them after every row."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..files import check_writable, damaged, write_atomically
from .report import case_name

SAME = ("device", "dtype", "quick", "densities", "weights", "plan")  # or rows do not compare
SAME_MACHINE = ("device", "threads", "versions")


class Record:
    """What has been measured so far; with a ``path``, on disk as well.

    ``results["missing"]`` names the cases of the plan that are still to be measured, by the same
    command again; it is empty when the benchmark is finished.
    """

    def __init__(self, path: Path | None, facts: dict, plan: Sequence[str]):
        """Try whether ``path`` can be written; take over the rows of an unfinished benchmark.

        Raises:
            OSError: ``path`` or the plot beside it cannot be written.
            ValueError: ``path`` holds something else, or an unfinished benchmark of another kind.
        """
        self.path = path
        fresh = {"plan": list(plan), "missing": list(plan), "busy": None, "left_out": {}}
        self.results = {**facts, **fresh, "rows": []}
        if path is not None:
            check_writable(path, path.with_suffix(".png"))
            if path.exists():
                self._go_on(_read(path))

    def _go_on(self, old: dict) -> None:
        if not old.get("missing"):
            return  # a finished one: it stays until the first new row is there
        new = self.results
        changed = [key for key in SAME if old.get(key) != new[key]]
        machines = old["machine"], new["machine"]
        changed += [key for key in SAME_MACHINE if machines[0].get(key) != machines[1][key]]
        if changed:
            raise ValueError(
                f"{self.path} holds an unfinished benchmark that differs in {', '.join(changed)}; "
                "move it away, or write to another file"
            )
        rows = [row for row in old["rows"] if _case(row) not in old["missing"]]
        left_out = {k: why for k, why in old["left_out"].items() if k not in old["missing"]}
        self.results = {**old, "rows": rows, "left_out": left_out}

    def begin(self, busy: str | None, say: Callable[[str], None]) -> None:
        """Note that the machine is busy, and say so if this goes on with earlier rows."""
        self.results["busy"] = self.results["busy"] or busy
        plan, missing = self.results["plan"], self.results["missing"]
        if len(missing) < len(plan):
            say(f"{self.path} has {len(plan) - len(missing)} of {len(plan)} cases; going on")

    def lacks(self, name: str) -> bool:
        """Whether a case is still to be measured."""
        return name in self.results["missing"]

    def add(self, row: dict) -> None:
        """Keep a row."""
        self.results["rows"].append(row)
        self._write()

    def done(self, name: str) -> None:
        """Nothing more comes of a case."""
        self.results["missing"].remove(name)
        self._write()

    def leave_out(self, name: str, why: str) -> None:
        """Note why a case, or the rest of it, is not measured."""
        self.results["left_out"][name] = why
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_atomically(self.path, (json.dumps(self.results, indent=1) + "\n").encode())


def _case(row: dict) -> str:
    return case_name(row["name"], row["batch"], row["precision"])


def _read(path: Path) -> dict:
    """The results in a file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(damaged(path, error, "move it away")) from error
    if not isinstance(results, dict) or not {"machine", "rows", "quick"} <= results.keys():
        raise ValueError(f"{path} is not of a benchmark; move it away, or write to another file")
    return results
