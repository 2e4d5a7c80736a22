"""A run folder: everything a training run leaves on disk, written so that nothing is lost."""

import csv
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO, StringIO
from pathlib import Path

import torch

from .._version import __version__
from ..checkpoints import CheckpointError, named_rows
from ..console import note
from ..files import damaged, write_atomically
from ..machine import processor
from ..method.dynamics import CONTROLS
from ..tables import markdown
from .parallel import Team
from .recipes import Step
from .settings import RunError, Settings, read_recipe, read_record

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 10.0  # seconds, in which processes that read images for a killed run end as well
LOG = ("epoch", "step", "loss", "val_accuracy", "lr", "density", "seconds")


class Run:
    """A run folder: ``metrics.json``, ``log.csv``, one weights file per step, and the state of a
    step halfway.

    A folder that holds a run goes on by the recipe and the steps that it began with.

    Attributes:
        metrics: the contents of ``metrics.json``. recipe, steps: those of the run.

    Raises:
        RunError: the folder holds something else, or a run with other settings. Nothing is written
            before `begin`.
    """

    def __init__(self, settings: Settings, device: torch.device, processes: int = 1):
        self.folder, self.lock = settings.folder, None
        facts = _facts(device, processes)
        self.begun = (self.folder / "metrics.json").exists()
        if self.begun:
            self.metrics = _read_metrics(self.folder, settings)
            _check_same(self.folder, self.metrics["settings"], settings.record())
        else:
            self.metrics = _new_metrics(settings, facts)
        own = self.metrics["settings"]
        self.recipe = read_recipe(own["recipe"], settings.recipe)
        self.steps = [Step(**step) for step in own["steps"]]
        changed = {key: facts[key] for key in facts if facts[key] != self.metrics.get(key)}
        self.changed = {} if self.metrics["finished"] else changed

    @property
    def finished(self) -> bool:
        return self.metrics["finished"]

    def check_inputs(self, found: dict[str, str]) -> None:
        """Raise unless data and networks are those that the run began with.

        Args:
            found: the fingerprints of what there is now, by the names of their settings.
        """
        own = self.metrics.get("inputs")
        if own is None:
            text = "does not tell which data and networks the run began with: taken for these"
            note(f"{self.folder} {text}")
            self.metrics |= {} if self.finished else {"inputs": found}
            return
        for name in found:
            if found[name] != own.get(name):
                text = "{%s} has changed since the run in {folder} began (then {own}; now {now}); "
                values = {"folder": self.folder, "own": own.get(name), "now": found[name]}
                raise RunError(text % name + "give another {out}", values)

    def begin(self) -> None:
        """Make the folder if it is not there, else note where the run goes on.

        Raises:
            RunError: it holds other files, or cannot be made.
        """
        if self.begun:
            if not self.finished:
                self._go_on()
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = set(self.folder.glob(".metrics.json.*.tmp"))
            if set(self.folder.iterdir()) - unfinished:
                text = "{folder} holds other files; give an empty folder as {out}"
                raise RunError(text, {"folder": self.folder})
            for path in unfinished:
                path.unlink()
            self.save_metrics()
        except OSError as error:
            values = {"folder": self.folder, "why": error.strerror or error}
            raise RunError("{out} cannot be {folder}: {why}", values) from error

    def _go_on(self) -> None:
        """Record and say what is not as it was when the run began.

        The number of threads is kept, since sums depend on it; processor, processes and versions
        cannot be.
        """
        threads = self.changed.pop("threads", None)
        if threads is not None:
            own = self.metrics["threads"]
            note(f"going on with {own} thread{'s' * (own > 1)}, as in the beginning")
        if self.changed:
            what = ", ".join(self.changed)
            note(f"going on with other {what} than the run began with: numbers may differ a little")
            entry = {"date": _today(), **self.changed}
            self.metrics["continued"] = [*self.metrics.get("continued", []), entry]
            # those that end it, perhaps not all before
            self.metrics["processes"] = entry.get("processes", self.metrics["processes"])
            self.save_metrics()

    @contextmanager
    def locked(self, team: Team) -> Iterator[None]:
        """Inside the ``with`` no other run trains in the folder.

        Raises:
            RunError: one does.
        """
        team.from_first(self._lock)
        try:
            yield
        finally:
            if self.lock is not None:
                os.close(self.lock)

    def _lock(self) -> None:
        if fcntl is None:
            return
        self.lock, waited = os.open(self.folder, os.O_RDONLY), 0.0
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if waited >= PATIENCE:
                    text = "another process trains in {folder}: wait for it, or give another {out}"
                    raise RunError(text, {"folder": self.folder}) from error
            except OSError:  # a file system without locks
                return
            time.sleep(0.5)
            waited += 0.5

    def save_metrics(self) -> None:
        text = json.dumps(self.metrics, indent=1) + "\n"
        write_atomically(self.folder / "metrics.json", text.encode())

    def weights(self, step: str) -> Path:
        return self.folder / f"{step}.safetensors"

    def save_state(self, state: dict) -> None:
        """Keep the state of a step halfway, a dict with its name under "step", and its log."""
        buffer = BytesIO()
        torch.save(state, buffer)
        # after every epoch, and worth no more than a step: not worth waiting for the disk
        write_atomically(self.folder / "state.pt", buffer.getvalue(), sync=False)
        self._write_log(state)

    def load_state(self, step: str) -> dict | None:
        """The state of ``step`` when it was last saved, None if it has not begun.

        Raises:
            CheckpointError: ``state.pt`` is damaged.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        remedy = "delete it to redo its step"
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
            raise CheckpointError(damaged(path, type(error).__name__, remedy)) from error
        if not isinstance(state, dict) or "step" not in state:
            raise CheckpointError(damaged(path, "it is not of a run", remedy))
        if state["step"] != step:
            return None
        self._write_log(state)
        return state

    def _write_log(self, state: dict) -> None:
        """Write ``log.csv``, one row per epoch: those of the steps before, then the state's."""
        path = self.folder / "log.csv"
        rows = []
        if path.exists():
            rows = [row for row in _rows_of(path) if row.get("step") != state["step"]]
        text = StringIO(newline="")
        writer = csv.DictWriter(text, LOG, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows + state.get("log", []))  # 0.1.0 kept no log
        write_atomically(path, text.getvalue().encode(), sync=False)

    def finish_step(self, step: str, rows: list[dict]) -> None:
        """Add the rows of a step whose weights are written."""
        self.metrics["rows"] += rows
        self.metrics["steps_done"].append(step)
        self.save_metrics()

    def finish(self) -> None:
        self.metrics |= {"finished": True, "finished_on": _today()}
        self.save_metrics()
        write_atomically(self.folder / "table.md", markdown_table(self.metrics["rows"]).encode())
        (self.folder / "state.pt").unlink(missing_ok=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Files of this run, killed while it wrote them."""
        weights = [f"{step}.safetensors" for step in self.metrics["steps_done"]]
        for name in ("metrics.json", "state.pt", "log.csv", "table.md", *weights):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)


def read_log(folder: Path) -> list[dict]:
    """The rows of a run's ``log.csv``, one per epoch, with numbers; none of a run of 0.1.0."""
    path = folder / "log.csv"
    if not path.exists():
        return []
    rows = _rows_of(path)
    try:
        return [
            {key: value if key == "step" else float(value or "nan") for key, value in row.items()}
            for row in rows
        ]
    except (ValueError, TypeError) as error:
        raise RunError("{text}", {"text": damaged(path, error, "move it away")}) from error


def _rows_of(path: Path) -> list[dict]:
    """The rows of a CSV file, all as text."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise RunError("{text}", {"text": damaged(path, error, "move it away")}) from error


def markdown_table(rows: list[dict]) -> str:
    """The rows of a run as a Markdown table; accuracies on the test set in percent."""
    controls = [row["control_images"] for row in rows if "control_images" in row]
    where = f" on {controls[0]} images" if controls else ""
    own, *others = (control.label for control in CONTROLS)
    head = ["density", "validation", "test", "MACs by gates", "MACs by zeros", "fewer MACs"]
    head += ["parameters", "kB of weights", f"{own}{where}", *others, "most winner sets in a layer"]
    return markdown(head, [_cells(row) for row in rows]) + "\n"


def _cells(row: dict) -> list[str]:
    dense, active = row["macs_dense"], row["macs_gates"]
    cells = [
        row.get("method", "plain") if row["density"] is None else f"{row['density']:g}",
        f"{row['val_accuracy']:.1%}",
        f"{row['test_accuracy']:.1%}",
        f"{active / 1e6:.3f} M",
        f"{row['macs_zeros'] / 1e6:.3f} M",
        f"{dense / active:.2f}x",
    ]
    if "parameters" in row:
        cells += [f"{row['parameters']:,}", f"{row['bytes'] / 1e3:,.0f}"]
    else:  # of 0.1.0
        cells += ["", ""]
    if "own_gates" not in row:  # a plain network
        return cells + [""] * (len(CONTROLS) + 1)
    cells += [f"{row[control.field]:.1%}" for control in CONTROLS]
    return [*cells, str(max(row["distinct_sets"].values()))]


def provenance(metrics: dict) -> str:
    """One line: the command of a run, and where, when and with what it ran."""
    threads, torch_version = metrics["threads"], metrics["versions"]["torch"]
    return (
        f"`{metrics['command']}`: {metrics['date']}, {metrics['device']}, "
        f"{threads} thread{'s' * (threads > 1)}, torch {torch_version}."
    )


def _read_metrics(folder: Path, settings: Settings) -> dict:
    """The contents of ``metrics.json`` in today's form."""
    path, remedy = folder / "metrics.json", "move it away"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("{text}", {"text": damaged(path, error, remedy)}) from error
    try:
        own = metrics["settings"] = read_record(metrics["settings"], settings)
        metrics["rows"] = named_rows(metrics["rows"], own["kind"])
        read_recipe(own["recipe"], settings.recipe)
        names = [Step(**step).name for step in own["steps"]]
        if not set(metrics["steps_done"]) <= set(names) or type(metrics["finished"]) is not bool:
            raise ValueError
        return metrics
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError("{text}", {"text": damaged(path, "it is not of a run", remedy)}) from error


def _check_same(folder: Path, own: dict, wanted: dict) -> None:
    """Raise unless a folder's settings are those wanted; its recipe and steps are its own."""
    follow = {"kind", "recipe", "steps"}
    names = [*own, *(name for name in wanted if name not in own)]
    changed = [n for n in names if n not in follow and own.get(n) != wanted.get(n)]
    if changed:
        text = "{folder} holds a run with other settings (%s); give another {out}"
        raise RunError(text % ", ".join(f"{{{n}}}" for n in changed), {"folder": folder})


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _facts(device: torch.device, processes: int) -> dict:
    """What the numbers of a run depend on beside its settings."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "fbs_tutorial": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
    }


def _new_metrics(settings: Settings, facts: dict) -> dict:
    return {
        "command": settings.command(),
        "date": _today(),
        "seed": settings.seed,
        **facts,
        "settings": settings.record(),
        "inputs": {},
        "steps_done": [],
        "finished": False,
        "rows": [],
    }
