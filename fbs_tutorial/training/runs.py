"""A run folder: everything a training run leaves on disk, written so that nothing is lost."""

import csv
import json
import platform
from datetime import datetime, timezone
from io import BytesIO, StringIO
from pathlib import Path

import torch

from .._version import __version__
from ..checkpoints import CheckpointError, named_rows
from ..files import damaged, write_atomically
from ..machine import processor
from ..method.dynamics import CONTROLS
from ..tables import markdown
from .recipes import Step
from .settings import RunError, Settings, read_recipe, read_record

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
        self.folder = settings.folder
        if (self.folder / "metrics.json").exists():
            self.metrics = _read_metrics(self.folder)
            own = read_record(self.metrics["settings"], settings)
            _check_same(self.folder, own, settings.record())
            self.metrics["settings"] = own
            self.metrics["rows"] = named_rows(self.metrics["rows"], own["kind"])
        else:
            self.metrics = _new_metrics(settings, device, processes)
        own = self.metrics["settings"]
        self.recipe = read_recipe(own["recipe"], settings.recipe)
        self.steps = [Step(**step) for step in own["steps"]]
        if not self.metrics["finished"]:
            self.metrics["processes"] = processes  # those that end it, perhaps not all before

    def begin(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            RunError: it holds other files, or cannot be made.
        """
        if (self.folder / "metrics.json").exists():
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

    def save_metrics(self) -> None:
        text = json.dumps(self.metrics, indent=1) + "\n"
        write_atomically(self.folder / "metrics.json", text.encode())

    def weights(self, step: str) -> Path:
        return self.folder / f"{step}.safetensors"

    def save_state(self, state: dict) -> None:
        """Keep the state of a step halfway, a dict with its name under "step", and its log."""
        buffer = BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue())
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
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("step") != state["step"]]
        text = StringIO(newline="")
        writer = csv.DictWriter(text, LOG, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows + state.get("log", []))  # 0.1.0 kept no log
        write_atomically(path, text.getvalue().encode())

    def finish_step(self, step: str, rows: list[dict]) -> None:
        """Add the rows of a step whose weights are written."""
        self.metrics["rows"] += rows
        self.metrics["steps_done"].append(step)
        self.save_metrics()

    def finish(self) -> None:
        self.metrics["finished"] = True
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
    with path.open(newline="") as file:
        return [
            {key: value if key == "step" else float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def markdown_table(rows: list[dict]) -> str:
    """The rows of a run as a Markdown table; accuracies on the test set in percent."""
    controls = [row["control_images"] for row in rows if "control_images" in row]
    where = f" on {controls[0]} images" if controls else ""
    own, *others = (control.label for control in CONTROLS)
    head = ["density", "validation", "test", "MACs by gates", "MACs by zeros", "fewer MACs"]
    head += ["parameters", "kB", f"{own}{where}", *others, "most winner sets in a layer"]
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


def _read_metrics(folder: Path) -> dict:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError("{text}", {"text": damaged(path, error, "move it away")}) from error
    needed = {"settings", "steps_done", "finished", "rows"}
    if not isinstance(metrics, dict) or not needed <= metrics.keys():
        raise RunError("{text}", {"text": damaged(path, "it is not of a run", "move it away")})
    return metrics


def _check_same(folder: Path, own: dict, wanted: dict) -> None:
    """Raise unless a folder's settings are those wanted; its recipe and steps are its own."""
    follow = {"kind", "recipe", "steps"}
    names = [*own, *(name for name in wanted if name not in own)]
    changed = [n for n in names if n not in follow and own.get(n) != wanted.get(n)]
    if changed:
        text = "{folder} holds a run with other settings (%s); give another {out}"
        raise RunError(text % ", ".join(f"{{{n}}}" for n in changed), {"folder": folder})


def _new_metrics(settings: Settings, device: torch.device, processes: int) -> dict:
    import torchvision

    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    return {
        "command": settings.command(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seed": settings.seed,
        "device": name,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "fbs_tutorial": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "settings": settings.record(),
        "steps_done": [],
        "finished": False,
        "rows": [],
    }
