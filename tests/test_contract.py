import ast
import inspect
import operator
import re
import sys
from pathlib import Path
from statistics import median

import pytest

import fbs_tutorial

PACKAGE = Path(fbs_tutorial.__file__).parent

SIGNATURES = {
    "channel_saliency": "x, reduce='l1'",
    "active_channels": "channels, density",
    "winner_take_all": "g, density",
    "GatedConv2d": "in_channels, out_channels, kernel_size, stride=1, padding=0, *, "
    "groups=1, density=1.0, activation=True, reduce='l1'",
    "ChannelPruning": "*modules, density=1.0, normalize=True",
    "set_density": "model, density",
    "saliency_penalty": "model",
    "convert": "model, density=1.0, *, gates='neutral'",
    "calibrate": "model, images, densities",
    "count_macs": "model, images, by='gates'",
    "how_dynamic": "model, images, labels",
    "look_again": "model, images, first, second, threshold, *, average=False",
    "accelerate": "model, backend='auto', *, check=True",
    "prune_kernels": "model, percent, score='max'",
    "slimming_penalty": "model",
    "slim": "model, percent",
    "StripeConv2d": "in_channels, out_channels, kernel_size, stride=1, padding=0, bias=False",
    "add_skeletons": "model",
    "skeleton_penalty": "model",
    "update_skeletons": "model, threshold",
    "prune_stripes": "model, threshold",
    "load_data": "name, root=None",
    "load_pretrained": "name, density=None",
    "models.mcifarnet": "num_classes=10",
}


def test_the_package_gives_exactly_these_names():
    names = {name.split(".")[0] for name in SIGNATURES}
    assert set(fbs_tutorial.__all__) == names
    assert all(hasattr(fbs_tutorial, name) for name in names)
    assert len(fbs_tutorial.__all__) == len(set(fbs_tutorial.__all__))


@pytest.mark.parametrize(("name", "arguments"), SIGNATURES.items())
def test_signature(name, arguments):
    """The contract's arguments, in its order and with its defaults; any others are optional."""
    given = inspect.signature(operator.attrgetter(name)(fbs_tutorial)).parameters
    promised = inspect.signature(eval(f"lambda {arguments}: None")).parameters
    assert list(given)[: len(promised)] == list(promised)
    for name, argument in given.items():
        if name in promised:
            assert argument.replace(annotation=argument.empty) == promised[name]
        else:
            assert argument.default is not argument.empty


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_public_name_has_a_docstring_that_names_its_errors(name):
    """All of them refuse bad input, so each says with which errors."""
    docstring = operator.attrgetter(name)(fbs_tutorial).__doc__
    assert re.search(r"\bRaises\b.*Error", docstring, re.S)


# What each part of the package may import of it: one way, from the paper to the lesson.
LAYERS = {
    "method": [],
    "models": ["method"],
    "data": ["files", "pictures"],
    "pictures": ["files", "method"],
    "console": [],
    "files": [],
    "machine": [],
    "_version": [],
    "tables": [],
    "checkpoints": ["_version", "files", "method", "models", "static"],
    "static": ["method"],
    "execution": ["method", "static"],
    "training": [
        "_version",
        "checkpoints",
        "console",
        "data",
        "files",
        "machine",
        "method",
        "models",
        "static",
        "tables",
    ],
}
LAYERS["bench"] = [*LAYERS["training"], "execution", "training"]
LAYERS["lesson"] = [*LAYERS["bench"], "bench"]
LAYERS["__main__"] = [*LAYERS["lesson"], "lesson"]
LAYERS["__init__"] = [*LAYERS["bench"]]


def imports(path):
    """The modules that a file of the package imports, those of the package by their full names."""
    package = ["fbs_tutorial", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level])
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f"{base}.{name}" for name in names)


def part(path):
    """The wing of a file, or the file itself where it stands alone."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    allowed = {part(path), *LAYERS[part(path)]}
    for name in imports(path):
        if name.split(".")[0] == "fbs_tutorial":
            assert name.split(".")[1] in allowed, name


@pytest.mark.parametrize("path", [path for path in FILES if part(path) == "method"])
def test_the_method_imports_torch_and_the_standard_library_alone(path):
    for name in imports(path):
        assert name.split(".")[0] in {"fbs_tutorial", "torch", *sys.stdlib_module_names}


def definitions(path, *kinds):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def lines(function):
    return function.end_lineno - function.lineno + 1


def is_triton_kernel(function):
    return any(ast.unparse(mark).startswith("triton.jit") for mark in function.decorator_list)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_longer_than_a_screen(path):
    """Docstrings count; a Triton kernel is one piece and may be longer."""
    for function in definitions(path, ast.FunctionDef):
        assert is_triton_kernel(function) or lines(function) <= 60, function.name


def test_most_functions_are_short():
    assert median(lines(f) for path in FILES for f in definitions(path, ast.FunctionDef)) <= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_module_offers_has_a_docstring(path):
    """A function of five lines or fewer may do with its name and types."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert lines(node) <= 5 or ast.get_docstring(node), node.name
