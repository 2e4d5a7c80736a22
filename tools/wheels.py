"""Build the wheels of the package: the full one, and a small one that fetches its largest weights.

    python tools/wheels.py [--out FOLDER] [--only full|small]

The small wheel goes without the weights of the CIFAR-10 networks, which no notebook loads; in their
place it has a list of their names and fingerprints, and `load_pretrained` fetches them from the
address that `make colab` wrote. Where both wheels lie beside a notebook, it takes the full one.
"""

import argparse
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
CIFAR = Path("fbs_tutorial", "assets", "cifar10")
BUILDS = {"full": (), "small": ("--config-settings=--build-option=--build-number=0small",)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--only", choices=BUILDS, help="one of the two")
    options = parser.parse_args()
    for kind in [options.only] if options.only else BUILDS:
        path = build(kind, options.out)
        print(f"{kind} wheel: {path.stat().st_size / 1e6:.1f} MB, {path}")
    return 0


def build(kind: str, out: Path) -> Path:
    """The wheel of this kind, made from a copy: what an earlier build left cannot get into it."""
    with TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, copy)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "fbs_tutorial", copy / "fbs_tutorial", ignore=ignored)
        if kind == "small":
            leave_out(sorted((copy / CIFAR).glob("*.safetensors")))
        made = wheel_of(copy, Path(folder, "made"), BUILDS[kind])
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(made, out))


def leave_out(weights: list[Path]) -> None:
    """Delete these files of one folder; a list there says how to recognise each."""
    prints = {path.name: sha256(path.read_bytes()).hexdigest() for path in weights}
    (weights[0].parent / "elsewhere.json").write_text(json.dumps(prints, indent=1) + "\n")
    for path in weights:
        path.unlink()


def wheel_of(source: Path, out: Path, settings: tuple[str, ...]) -> Path:
    """The wheel that pip makes of a folder, with the setuptools of this Python."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-index", "--no-build-isolation", *settings]
    subprocess.run([*command, "-w", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


if __name__ == "__main__":
    sys.exit(main())
