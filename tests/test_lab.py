"""`make lab` hands JupyterLab notebooks that it need not change when they are opened."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel

ROOT = Path(__file__).parents[1]
LAB = ROOT / "tools" / "lab"


@pytest.fixture
def contents(tmp_path):
    """The contents manager of the configuration, in a folder with one notebook."""
    config = SimpleNamespace(ServerApp=SimpleNamespace())
    exec((LAB / "jupyter_server_config.py").read_text(), {"get_config": lambda: config})
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.write(notebook, tmp_path / "one.ipynb")
    (tmp_path / "text.txt").write_text("text")
    return config.ServerApp.contents_manager_class(root_dir=str(tmp_path))


def test_an_opened_notebook_names_this_kernel_already(contents, tmp_path):
    before = (tmp_path / "one.ipynb").read_text()
    metadata = asyncio.run(contents.get("one.ipynb"))["content"]["metadata"]
    assert metadata["language_info"] == IPythonKernel.language_info
    assert metadata["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert (tmp_path / "one.ipynb").read_text() == before


def test_a_notebook_of_another_kernel_and_other_files_stay_as_they_are(contents, tmp_path):
    notebook = json.loads((tmp_path / "one.ipynb").read_text())
    notebook["metadata"]["kernelspec"]["name"] = "julia"
    (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
    metadata = asyncio.run(contents.get("one.ipynb"))["content"]["metadata"]
    assert metadata["language_info"] == {"name": "python"}
    assert asyncio.run(contents.get("text.txt"))["content"] == "text"
    assert asyncio.run(contents.get("one.ipynb", content=False))["content"] is None
    assert asyncio.run(contents.get(""))["type"] == "directory"


def test_make_lab_uses_it_and_asks_nothing_about_news():
    assert 'JUPYTER_CONFIG_PATH="$(CURDIR)/tools/lab:' in (ROOT / "Makefile").read_text()
    overrides = json.loads((LAB / "labconfig" / "default_setting_overrides.json").read_text())
    said = overrides["@jupyterlab/apputils-extension:notification"]
    assert said == {"fetchNews": "false", "checkForUpdates": False}
