import ast
import inspect
import operator
import sys
from pathlib import Path

import pytest

import fbs_tutorial

PACKAGE = Path(fbs_tutorial.__file__).parent
METHOD = ["saliency", "wta", "gated", "macs", "dynamics"]

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
    "count_macs": "model, images, by='gates'",
    "how_dynamic": "model, images, labels",
    "accelerate": "model, backend='auto'",
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


@pytest.mark.parametrize("name", [name for name in SIGNATURES if "." not in name])
def test_every_public_name_has_a_docstring(name):
    assert getattr(fbs_tutorial, name).__doc__


def imports(module):
    """What a module of the package imports: (is it from the package, name)."""
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from ((False, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level > 0, node.module


@pytest.mark.parametrize("module", METHOD)
def test_the_method_imports_torch_alone(module):
    for from_the_package, name in imports(module):
        allowed = METHOD if from_the_package else {"torch", *sys.stdlib_module_names}
        assert name.split(".")[0] in allowed
