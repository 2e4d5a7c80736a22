"""Execute notebooks headless, cell by cell, and save them with their outputs.

    python tools/run_notebooks.py [--out FOLDER] NOTEBOOK ...

Without --out the notebooks themselves are refreshed. Widgets are left out of what is saved: without
a kernel they cannot be drawn, and their state breaks the rendering on GitHub. The first code cell
of every notebook is the one in ``setup_cell.txt``; outputs of cells that reveal an answer are
folded.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from queue import Empty

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

QUIET = ["--IPKernelApp.log_level=40"]
SETUP = (Path(__file__).parent / "setup_cell.txt").read_text(encoding="utf-8").rstrip()
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}  # on Colab, and in Jupyter
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the executed copies")
    options = parser.parse_args()
    failed = [path.name for path in options.notebooks if not run(path, options.out)]
    if failed:
        print("failed:", ", ".join(failed), file=sys.stderr)
    return bool(failed)


def run(path: Path, out: Path | None) -> bool:
    """Execute one notebook and save it; False if a cell raised, and then nothing is saved."""
    notebook = nbformat.read(path, as_version=4)
    put_setup_cell(notebook)
    fold_answers(notebook)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        extra_arguments=QUIET,
        resources={"metadata": {"path": path.parent}},
    )
    start = time.monotonic()
    try:
        with (
            client.setup_kernel(),
            tqdm(notebook.cells, desc=path.name, unit="cell") as cells,
        ):
            look_again(client.kc.shell_channel)
            for index, cell in enumerate(cells):
                client.execute_cell(cell, index)
    except CellExecutionError as error:
        print(f"{path.name}, cell {index}:\n{error}", file=sys.stderr)
        return False
    print(f"{path.name}: {time.monotonic() - start:.1f} s")
    target = path if out is None else out / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    without_widgets(notebook)
    temporary = target.with_suffix(".new")
    nbformat.write(notebook, temporary)
    os.replace(temporary, target)
    return True


def put_setup_cell(notebook: nbformat.NotebookNode) -> None:
    """The first code cell becomes the one that all notebooks share, with its source folded."""
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = SETUP
    first.metadata = nbformat.from_dict(FOLDED)


def fold_answers(notebook: nbformat.NotebookNode) -> None:
    """The saved answer to a guess is out of sight until the reader runs its cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"^\w+\.reveal\(", cell.source, re.M):
            cell.metadata["jupyter"] = {"outputs_hidden": True}


def look_again(channel: object) -> None:
    """Ask the channel for a reply every second anew.

    When the client answers a widget on it, the news that a reply has come can be lost, and it
    would wait until the cell's time is over.
    """
    get_msg = channel.get_msg

    async def get_msg_in_turns(timeout: float) -> dict:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return await get_msg(timeout=min(1.0, max(0.0, deadline - time.monotonic())))
            except Empty:
                if time.monotonic() >= deadline:
                    raise

    channel.get_msg = get_msg_in_turns


def without_widgets(notebook: nbformat.NotebookNode) -> None:
    """Drop widgets, timestamps and the kernel's exact version from what is saved."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            for out in cell.outputs:
                if "text/html" in out.get("data", {}):  # what a widget offers in its place
                    out.data.pop(WIDGET, None)
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]


if __name__ == "__main__":
    sys.exit(main())
