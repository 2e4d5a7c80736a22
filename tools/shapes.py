"""Run the course with other versions than those in .venv: Colab's, and the oldest supported.

    python tools/shapes.py colab [--tests NAME ...] [--notebooks FILE ...]
    python tools/shapes.py oldest [--tests NAME ...] [--notebooks FILE ...]

The versions stand in tests/colab.txt and tests/oldest.txt. An environment is made once, in build/,
and anew when its file has changed; with nothing to run, that is all. A notebook runs there as in
the hands of a reader who has nothing else: alone in an empty folder, the package not installed, its
wheel beside it. The first cell has to bring the package and whatever else the environment lacks,
and nothing more.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from wheels import build

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
LACKED = ("safetensors>=0.4", "anywidget>=0.9", "psygnal")  # what a first cell may install
MAY_COME = {"fbs_dynamic_pruning", "safetensors", "anywidget", "psygnal"}
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--disable-warnings")
SPREAD = ("-m", "not slow", "-n", "logical", "--dist", "loadfile")
NBVAL = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300")
HIDDEN = ("PYTHONPATH", "VIRTUAL_ENV", "MPLBACKEND", "FBS_DATA")  # of whoever calls this


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=("colab", "oldest"))
    parser.add_argument("--tests", nargs="*", default=[], help="test files: live, macs, ...")
    parser.add_argument("--notebooks", nargs="*", default=[], type=Path)
    options = parser.parse_args()
    python = environment(options.shape)
    good = tested(python, options.tests)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        wheel = build("full", Path(folder)) if options.notebooks else None
        runs = list(pool.map(lambda path: alone(python, path, wheel), options.notebooks))
    if runs:
        good_ones = f"{runs.count(True)} passed, {runs.count(False)} failed"
        print(f"notebooks alone, {options.shape}: {good_ones}")
    return int(not (good and all(runs)))


def tested(python: Path, names: list[str]) -> bool:
    """Whether these test files of the checkout pass."""
    if not names:
        return True
    files = [f"tests/test_{name}.py" for name in names]
    with TemporaryDirectory() as folder:
        over = layer(python, Path(folder))
        run([over, "-m", "pip", "install", "--quiet", *LACKED], env=offline(python))
        return not run([over, *PYTEST, *SPREAD, *files], check=False).returncode


def alone(python: Path, notebook: Path, wheel: Path) -> bool:
    """Whether a notebook runs without an error in an empty folder beside the wheel."""
    start = time.monotonic()
    with TemporaryDirectory() as outer:
        folder, over = Path(outer, "folder"), Path(outer, "over")
        folder.mkdir()
        for path in (notebook, wheel):
            shutil.copy2(path, folder)
        command = [layer(python, over), *PYTEST, *NBVAL, notebook.name]
        done = run(command, folder, check=False, stdout=subprocess.PIPE, env=offline(python))
        came = {path.name.split("-")[0] for path in over.glob("lib/*/site-packages/*.dist-info")}
    last = (done.stdout.splitlines() or ["nothing ran"])[-1]
    words = f"{notebook.name}: {last}, {time.monotonic() - start:.0f} s with its environment"
    if done.returncode or "fbs_dynamic_pruning" not in came or came - MAY_COME:
        print(f"{done.stdout}\n{words} FAILED; its first cell installed {came}", flush=True)
        return False
    print(words, flush=True)
    return True


def layer(python: Path, folder: Path) -> Path:
    """The Python of a new environment that sees, beneath its own, all packages of another."""
    run([python, "-m", "venv", "--without-pip", folder])
    (own,) = folder.glob("lib/*/site-packages")
    (beneath,) = python.parents[1].glob("lib/*/site-packages")
    (own / "beneath.pth").write_text(f"{beneath}\n")
    return folder / "bin" / "python"


def offline(python: Path) -> dict[str, str]:
    """What makes pip install from an environment's folder of wheels alone."""
    wheels = python.parents[1] / "wheels"
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}


def environment(shape: str) -> Path:
    """The Python of a shape's environment, which is made now if it is not there."""
    pins = ROOT / "tests" / f"{shape}.txt"
    base = python_for(pins)
    key = sha256(pins.read_bytes() + base.encode()).hexdigest()[:12]
    folder = BUILD / f"{shape}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        for outdated in BUILD.glob(f"{shape}-*"):
            shutil.rmtree(outdated)
        run([base, "-m", "venv", folder])
        run([python, "-m", "pip", "install", "-qq", "--no-compile", "-r", pins])
        run([python, "-m", "pip", "download", "-qq", "--no-deps", "-d", folder / "wheels", *LACKED])
        (folder / "ready").touch()
    return python


def python_for(pins: Path) -> str:
    """The first Python on this machine of those that a file of versions lists.

    Raises:
        SystemExit: there is none of them.
    """
    listed = re.search(r"^# python: (.*)", pins.read_text(), re.M)[1].split()
    for version in listed:
        name = f"python{version}"
        found = [shutil.which(name), *Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}")]
        for path in filter(None, found):
            if not run([path, "-c", "import ssl"], check=False, stderr=subprocess.PIPE).returncode:
                return str(path)
    raise SystemExit(f"{pins.name} needs Python {' or '.join(listed)}, and none is on this machine")


def run(
    command: list, folder: Path = ROOT, env: dict | None = None, check: bool = True, **options
) -> subprocess.CompletedProcess:
    """A command on one thread that knows nothing of the environment this one runs in."""
    known = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    known |= {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", **(env or {})}
    words = list(map(str, command))
    return subprocess.run(words, cwd=folder, env=known, check=check, text=True, **options)


if __name__ == "__main__":
    sys.exit(main())
