"""What a newcomer meets first is in step: ranges, README, commands, and what the wheel holds."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

import fbs_tutorial

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
README = (ROOT / "README.md").read_text()


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
    for target in re.findall(r"\bmake ([a-z]+)", README):
        if target != "and":
            assert re.search(rf"^{target}:", makefile, re.M), target


def test_readme_links_lead_somewhere_and_pictures_have_alt_texts():
    for bang, alt, target in re.findall(r"(!?)\[([^\]]*)\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
        assert not bang or len(alt) > 20


def test_readme_table_is_what_the_shipped_runs_say():
    sys.path.insert(0, str(ROOT / "tools"))
    from ship_digits import with_table

    assert with_table(README) == README


def test_a_missing_dependency_is_named_with_its_remedy(tmp_path):
    (tmp_path / "safetensors.py").write_text(
        "raise ModuleNotFoundError('No module', name='safetensors')"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fbs_tutorial"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "needs safetensors: run  pip install safetensors" in done.stderr
