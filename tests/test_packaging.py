"""What a newcomer meets first is in step: ranges, README, commands, and what the wheel holds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import fbs_tutorial

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
README = (ROOT / "README.md").read_text()
RESULTS_PATH = ROOT / "benchmarks" / "README.md"
RESULTS = RESULTS_PATH.read_text()


def listed(name):
    """The list called ``name`` of pyproject.toml; Python 3.10 has no tomllib."""
    block = re.search(rf"^{name} = \[(.*?)\]", PYPROJECT, re.S | re.M)[1]
    return re.findall(r'"(.+?)"', block)


def test_environment_yml_has_the_ranges_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *pip, package = environment["dependencies"][-1]["pip"]
    assert pip == listed("dependencies") + listed("lab") + listed("test")
    assert package == "--editable ."
    python = re.search(r'requires-python = "(.+)"', PYPROJECT)[1]
    assert f"python{python}" in environment["dependencies"]


def test_versions_agree():
    assert f"version: {fbs_tutorial.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", README + RESULTS):
        if target != "and":
            assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_lead_somewhere_and_pictures_have_alt_texts():
    for folder, page in ((ROOT, README), (ROOT / "benchmarks", RESULTS)):
        for bang, alt, target in re.findall(r"(!?)\[([^\]]*)\]\((?!http)([^)]+)\)", page):
            file, _, heading = target.partition("#")
            assert (folder / file).exists(), target
            assert not bang or len(alt) > 20
            assert not heading or heading in headings(folder / file if file else RESULTS_PATH)


def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_table_of_results_is_what_the_shipped_runs_say():
    sys.path.insert(0, str(ROOT / "tools"))
    from ship_digits import with_table

    assert with_table(RESULTS) == RESULTS


def test_tables_of_cifar10_are_what_the_shipped_networks_say():
    sys.path.insert(0, str(ROOT / "tools"))
    from readme import between_marks
    from ship_cifar10 import tables

    for name, text in tables().items():
        assert between_marks(RESULTS, name, text) == RESULTS
        assert text in (ROOT / "benchmarks" / "cifar10.md").read_text()
    made = [row for row in tables()["cifar10"].splitlines() if "recipe script" in row]
    assert [row.split("|")[1].strip() for row in made] == ["FBS for d = 0.5, distilled"]
    assert "not the package's command" in made[0]


def test_the_first_picture_is_of_cifar10_with_the_small_plain_networks_in_it():
    sys.path.insert(0, str(ROOT / "tools"))
    from ship_cifar10 import picture

    assert re.search(r"!\[.*?\]\((.*?)\)", README)[1] == "benchmarks/cifar10.png"
    figure, sentence = picture()
    names = [text.get_text() for text in figure.axes[0].texts]
    assert {"small plain", "small plain, distilled", "published: the authors' release"} < set(names)
    assert all(name in sentence for name in names)


def test_a_missing_dependency_is_named_with_its_remedy(tmp_path):
    (tmp_path / "safetensors.py").write_text(
        "raise ModuleNotFoundError('No module', name='safetensors')"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fbs_tutorial"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "needs safetensors: run  pip install safetensors" in done.stderr


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PLANTED = ("view.js", "kernel.cpp", "page.html", "style.css", "assets/a/net.safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout that also has a subpackage of its own, ``new.newer``."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, checkout)
    package = checkout / "fbs_tutorial"
    shutil.copytree(ROOT / package.name, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "newer/__init__.py", *(f"newer/{name}" for name in PLANTED)):
        path = package / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", checkout, checkout)
    return next(checkout.glob("*.whl"))


def test_the_wheel_holds_every_subpackage_and_file_of_the_package(wheel):
    package = wheel.parent / "fbs_tutorial"
    files = {str(p.relative_to(wheel.parent)) for p in package.rglob("*") if p.is_file()}
    packed = {name for name in ZipFile(wheel).namelist() if not re.match(r"[^/]*dist-info/", name)}
    assert packed == files
    assert {f"fbs_tutorial/new/newer/{name}" for name in PLANTED} < files


TRAIN_AND_ACCELERATE = """
import sys
from pathlib import Path
import torch
import fbs_tutorial
from fbs_tutorial import accelerate, load_data, load_pretrained
from fbs_tutorial.__main__ import main
from fbs_tutorial.checkpoints import ASSETS, load_network

assert Path(fbs_tutorial.__file__).parents[1] == Path(sys.argv[1]), fbs_tutorial.__file__
step = ["--from", ASSETS / "digits" / "d0.5.safetensors", "--density", "0.4", "--lr", "0.01"]
assert main(["train", "--out", "run", *map(str, step), "--epochs", "1", "--batch", "1000"]) == 0
images = torch.stack([load_data("digits")[1][i][0] for i in range(3)])
for network in (load_pretrained("digits"), load_network(Path("run", "d0.4.safetensors"))[0]):
    torch.testing.assert_close(accelerate(network)(images), network(images), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_the_installed_wheel_trains_a_step_and_accelerates(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_ACCELERATE, site],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
