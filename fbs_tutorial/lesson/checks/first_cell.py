"""What the first cell of every notebook asks: is everything here?"""

import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from ..._version import __version__
from .engine import CheckResult

NEEDED = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "ipywidgets", "tqdm")
WANTED = ("anywidget",)  # without it the living network is a slider and a still picture


def environment() -> CheckResult:
    """Versions and device of this notebook's Python, and what to do if something is missing."""
    found, missing = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    found += [f"{name} {version(name)}" for name in WANTED if find_spec(name)]
    device = f"GPU ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "CPU"
    text = (
        f"fbs_tutorial {__version__}, Python {platform.python_version()}, device: {device}\n"
        + textwrap.fill(", ".join(found), 96, initial_indent="  ", subsequent_indent="  ")
    )
    if missing:
        remedy = f"run  %pip install {' '.join(missing)}  in a cell, then restart the kernel"
        return CheckResult(False, f"missing: {', '.join(missing)}; {remedy}\n  {text}")
    return CheckResult(True, f"everything is here: {text}")
