"""A run folder: everything a training run leaves on disk, written so that nothing is lost."""

import json
import platform
import shlex
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path

import torch

from .._version import __version__
from ..checkpoints import CheckpointError
from ..files import write_atomically
from ..machine import processor
from ..tables import markdown

CONTROLS = ("own_gates", "shuffled_gates", "mean_gates", "mean_winners")


class RunError(ValueError):
    """A run that cannot start or go on, and what to do about it."""


class Run:
    """A run folder: ``metrics.json``, one weights file a step, and the state of a step halfway."""

    def __init__(self, folder: Path, settings: dict, device: torch.device, processes: int = 1):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "metrics.json").exists():
                unfinished = set(folder.glob(".metrics.json.*.tmp"))
                if set(folder.iterdir()) - unfinished:
                    raise RunError(f"{folder} holds other files; give an empty folder as --out")
                for path in unfinished:
                    path.unlink()
                self.metrics = _new_metrics(settings, device, processes)
                self.save_metrics()
            self.metrics = json.loads((folder / "metrics.json").read_text())
        except OSError as error:
            raise RunError(
                f"cannot use {folder} as run folder: {error.strerror or error}"
            ) from error
        except json.JSONDecodeError as error:
            raise RunError(f"{folder}/metrics.json is damaged ({error}); move it away") from error
        needed = {"settings", "steps_done", "finished", "rows"}
        if not isinstance(self.metrics, dict) or not needed <= self.metrics.keys():
            raise RunError(f"{folder}/metrics.json is not of a run; move it away")
        if (own := self.metrics["settings"]) != settings:
            changed = [k for k in {**own, **settings} if own.get(k, ...) != settings.get(k, ...)]
            raise RunError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); "
                "give another --out"
            )
        if not self.metrics["finished"]:
            self.metrics["processes"] = processes  # those that end it, perhaps not all before

    def save_metrics(self) -> None:
        text = json.dumps(self.metrics, indent=1) + "\n"
        write_atomically(self.folder / "metrics.json", text.encode())

    def weights(self, step: str) -> Path:
        return self.folder / f"{step}.safetensors"

    def save_state(self, state: dict) -> None:
        """Keep the state of a step halfway, a dict with its name under "step"."""
        buffer = BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue())

    def load_state(self, step: str) -> dict | None:
        """The state of ``step`` when it was last saved, None if it has not begun."""
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
            raise CheckpointError(f"{path} is damaged; delete it to redo its step") from error
        if not isinstance(state, dict) or "step" not in state:
            raise CheckpointError(f"{path} is not of this run; delete it to redo its step")
        return state if state["step"] == step else None

    def finish_step(self, step: str, rows: list[dict]) -> None:
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
        for name in ("metrics.json", "state.pt", "table.md", *weights):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)


def markdown_table(rows: list[dict]) -> str:
    """The rows of a run as a Markdown table; accuracies on the test set in percent."""
    controls = [row["control_images"] for row in rows if "control_images" in row]
    head = [
        "density",
        "validation",
        "test",
        "MACs by gates",
        "MACs by zeros",
        "fewer MACs",
        f"own gates on {controls[0]} images" if controls else "own gates",
        "another image's gates",
        "mean gate",
        "mean gate's winners, own values",
        "most winner sets in a layer",
    ]
    lines = []
    for row in rows:
        dense, active = row["macs_dense"], row["macs_gates"]
        cells = [
            "plain" if row["density"] is None else f"{row['density']:g}",
            f"{row['val_accuracy']:.1%}",
            f"{row['test_accuracy']:.1%}",
            f"{active / 1e6:.3f} M",
            f"{row['macs_zeros'] / 1e6:.3f} M",
            f"{dense / active:.2f}x",
        ]
        if "own_gates" in row:
            cells += [f"{row[key]:.1%}" for key in CONTROLS]
            cells += [str(max(row["distinct_sets"].values()))]
        else:  # a plain network
            cells += [""] * (len(CONTROLS) + 1)
        lines.append(cells)
    return markdown(head, lines) + "\n"


def provenance(metrics: dict) -> str:
    """One line: the command of a run, and where, when and with what it ran."""
    threads, torch_version = metrics["threads"], metrics["versions"]["torch"]
    return (
        f"`{metrics['command']}`: {metrics['date']}, {metrics['device']}, "
        f"{threads} thread{'s' * (threads > 1)}, torch {torch_version}."
    )


def _new_metrics(settings: dict, device: torch.device, processes: int) -> dict:
    import torchvision

    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    return {
        "command": _command(settings),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "seed": settings["seed"],
        "device": name,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "fbs_tutorial": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "settings": settings,
        "steps_done": [],
        "finished": False,
        "rows": [],
    }


def _command(settings: dict) -> str:
    """The command line that makes this run, in one process or more."""
    words = ["python -m fbs_tutorial train", f"--data {shlex.quote(settings['data'])}"]
    words += [f"--model {settings['model']}", f"--seed {settings['seed']}"]
    if settings["kind"] == "finetune":
        step = settings["steps"][0]
        words += [f"--from {shlex.quote(settings['checkpoint'])}", f"--density {step['density']!r}"]
        words += [f"--lr {step['lr']!r}"]
    else:
        words += ["--densities " + ",".join(map(repr, settings["densities"]))]
        words += {"any": ["--any-density"], "static": ["--static"]}.get(settings["kind"], [])
    for option in ("epochs", "plain_epochs", "batch", "size"):
        flag = "--" + option.replace("_", "-")
        words += [f"{flag} {settings[option]}"] if settings[option] else []
    words += ["--freeze-norms"] if settings["freeze_norms"] else []
    return " ".join(words)
