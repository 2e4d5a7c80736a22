"""A notebook alone: its first cell, the address of a fork, the wheels, and other versions."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_packaging import listed

from fbs_tutorial import checkpoints, load_data, load_pretrained

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
colab, run_notebooks, shapes, wheels = map(
    import_module, ("colab", "run_notebooks", "shapes", "wheels")
)
WHEEL = "fbs_dynamic_pruning-1-py3-none-any.whl"
ALL_HERE = ("numpy", "matplotlib", "ipywidgets", "tqdm", "safetensors", "anywidget")


class Machine:
    """Runs the set-up cell in a folder, and keeps what pip was asked for."""

    def __init__(self, monkeypatch, folder, here=ALL_HERE, fails=False):
        self.asked, self.here, self.fails = [], here, fails
        self.folder, self.path = folder, list(sys.path)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", self.path)
        monkeypatch.setattr(subprocess, "run", self.pip)
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: SimpleNamespace(origin="there") if name in self.here else None,
        )

    def pip(self, command, **options):
        start, asked = command[:5], command[5:]
        assert start == [sys.executable, "-m", "pip", "install", "--quiet"]
        self.asked.append([Path(word).name for word in asked])
        return SimpleNamespace(returncode=self.fails, stdout="no network\n")

    def run(self, address=""):
        """What is new in sys.path."""
        cell = re.sub('address = ".*?"', f'address = "{address}"', run_notebooks.SETUP)
        before = len(self.path)
        exec(cell.replace("checks.environment()", "pass"), {})
        assert Path.cwd() == self.folder
        return self.path[before:]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    return lambda folder=tmp_path, **options: Machine(monkeypatch, folder, **options)


def a_course(folder):
    (folder / "fbs_tutorial").mkdir(parents=True)
    (folder / "fbs_tutorial" / "__init__.py").touch()


def test_set_up_leaves_an_installed_course_alone(machine, tmp_path):
    a_course(tmp_path)
    (tmp_path / WHEEL).touch()
    installed = machine(here=("fbs_tutorial",))
    assert (installed.run(), installed.asked) == ([], [])


def test_set_up_takes_the_wheel_before_the_folder_and_the_full_one_before_the_small(
    machine, tmp_path
):
    for name in (WHEEL, WHEEL.replace("-1-", "-1-0small-")):
        (tmp_path / name).touch()
    a_course(tmp_path / "course")
    alone = machine()
    assert (alone.run(), alone.asked) == ([], [["--no-deps", WHEEL]])


@pytest.mark.parametrize("where", ["beside", "above", "here"])
def test_set_up_finds_the_folder_of_the_course(machine, tmp_path, where):
    here = tmp_path / "notebooks"
    here.mkdir()
    course = {"beside": here / "course", "above": tmp_path, "here": here}[where]
    a_course(course)
    alone = machine(here, here=())
    assert (alone.run(), alone.asked) == ([str(course)], [])


def test_set_up_goes_to_the_address_of_a_fork_and_installs_only_what_is_missing(machine):
    fork = colab.Fork("owner/name", "v1")
    alone = machine(here=set(ALL_HERE) - {"safetensors", "anywidget"})
    assert alone.run(fork.archive) == []
    assert alone.asked == [["--no-deps", "v1.zip"], ["safetensors", "anywidget"]]


def test_set_up_may_install_all_that_the_package_needs_but_torch():
    named = re.search(r'names = "(.*?)"', run_notebooks.SETUP)[1].split()
    assert "torch" not in " ".join(named)
    needed = {Requirement(text).name for text in listed("dependencies")}
    assert {*named} == needed - {"torch", "torchvision", "scikit-learn"} | {"anywidget"}


def test_set_up_prints_what_pip_says_when_it_cannot(machine, tmp_path, capsys):
    (tmp_path / WHEEL).touch()
    machine(fails=True).run()
    assert re.search(rf"pip could not install .*{WHEEL}:\nno network\n$", capsys.readouterr().out)


def test_set_up_sees_what_pip_puts_into_the_home_of_a_user(machine, tmp_path, monkeypatch):
    (tmp_path / WHEEL).touch()
    alone = machine()
    monkeypatch.setattr("site.ENABLE_USER_SITE", True)
    monkeypatch.setattr("site.getusersitepackages", lambda: "home")
    assert alone.run() == ["home"]


def test_set_up_says_in_one_sentence_what_to_do(machine):
    with pytest.raises(AssertionError, match="put the folder of the course, or its wheel, beside"):
        machine().run()


def test_a_data_set_can_be_named_in_a_cell(monkeypatch, tmp_path):
    monkeypatch.setenv("FBS_DATA", "")
    with pytest.raises(FileNotFoundError, match="in a notebook: %env FBS_DATA=folder"):
        load_data("cifar10")
    monkeypatch.setenv("FBS_DATA", str(tmp_path))  # what %env does, long after the import
    with pytest.raises(FileNotFoundError, match=f"damaged in {tmp_path}"):
        load_data("cifar10")


def files_of(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def course(tmp_path):
    """A copy of what `make colab` changes, without an address."""
    names = ("tools/setup_cell.txt", "fbs_tutorial/_version.py", "README.md")
    for path in (*map(ROOT.joinpath, names), *ROOT.glob("notebooks/*.ipynb")):
        target = tmp_path / "course" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    colab.write(tmp_path / "course", None)
    return tmp_path / "course"


def make_colab(course, repo, *more):
    command = [sys.executable, ROOT / "tools/colab.py", "--root", course, "--repo", repo, *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_without_an_address_no_badge_is_shown_and_writing_none_changes_nothing(course):
    before = files_of(course)
    assert not any(b"colab.research" in content for content in before.values())
    assert make_colab(course, "").stdout == "the course has no address\n"
    assert files_of(course) == before


def test_the_address_of_a_fork_is_written_moved_and_undone(course):
    before = files_of(course)
    assert make_colab(course, "first/fork", "--tag", "of-first").returncode == 0
    first = files_of(course)
    assert make_colab(course, "Second/fork.py", "--tag", "term/v2.1").returncode == 0
    second = files_of(course)
    assert {path for path in before if before[path] != second[path]} == set(before)
    swapped = {
        path: content.replace(b"first/fork", b"Second/fork.py").replace(b"of-first", b"term/v2.1")
        for path, content in first.items()
    }
    assert swapped == second
    assert make_colab(course, "").returncode == 0
    assert files_of(course) == before


def test_a_notebook_of_a_fork_is_whole_on_colab(course):
    colab.write(course, colab.Fork("owner/name", "v1"))
    at = "https://colab.research.google.com/github/owner/name/blob/v1/notebooks"
    setup = (course / "tools/setup_cell.txt").read_text().rstrip()
    assert 'address = "https://github.com/owner/name/archive/v1.zip"' in setup
    for path in sorted(course.glob("notebooks/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        title, _, badge = notebook.cells[0].source.split("\n")[:3]
        assert title.startswith(f"# {path.name[:2]} · ") and badge.endswith(f"({at}/{path.name})")
        assert not re.search(r"\]\((\.\.|\w+\.ipynb)", prose)
        assert f"({at}/" in prose.partition(badge)[2]
        assert "glossary" not in prose or "/name/blob/v1/docs/glossary.md" in prose
        assert next(c for c in notebook.cells if c.cell_type == "code").source == setup
        assert (
            f"[![Open in Colab]({colab.BADGE[18:].split(')')[0]})]({at}/{path.name}) ["
            in (course / "README.md").read_text()
        )


def test_links_of_every_kind_become_absolute_and_code_stays():
    fork = colab.Fork("owner/name", "v1")
    text = "[a](01_b.ipynb#c) ![d](../docs/e.png) [f](../g.md#h) [i](https://j) `k[0](l)` [m](#n)"
    there = colab.with_links(text, None, fork)
    assert re.findall(r"\]\((.*?)\)", there) == [
        f"{fork.colab}/notebooks/01_b.ipynb#c",
        "https://github.com/owner/name/raw/v1/docs/e.png",
        "https://github.com/owner/name/blob/v1/g.md#h",
        "https://j",
        "l",
        "#n",
    ]
    assert colab.with_links(there, fork, None) == text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["https://github.com/owner/name"], "REPO must be OWNER/NAME as on GitHub, got 'https:"),
        (["owner"], "REPO must be OWNER/NAME as on GitHub, got 'owner'"),
        (["owner/name", "--tag", "a b"], "TAG must be a tag or a branch, got 'a b'"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_before_anything_is_written(course, words, says):
    before = files_of(course)
    done = make_colab(course, *words)
    assert done.returncode == 2 and done.stderr.startswith(says)
    assert files_of(course) == before


def test_make_colab_without_a_repository_says_what_it_needs():
    done = subprocess.run(["make", "colab"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode and "say which: make colab REPO=owner/name" in done.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return wheels.build("small", tmp_path_factory.mktemp("small"))


def test_the_small_wheel_has_all_but_the_weights_of_cifar10(small):
    package = ROOT / "fbs_tutorial"
    left_out = set((ROOT / wheels.CIFAR).glob("*.safetensors"))
    files = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    names = {n for n in ZipFile(small).namelist() if ".dist-info/" not in n}
    expected = {str(path.relative_to(ROOT)) for path in files - left_out}
    assert names == expected | {str(wheels.CIFAR / "elsewhere.json")}
    prints = json.loads(ZipFile(small).read(str(wheels.CIFAR / "elsewhere.json")))
    assert prints == {p.name: sha256(p.read_bytes()).hexdigest() for p in left_out}
    assert "-0small-py3-none-any" in small.name and small.stat().st_size < 4e6


@pytest.fixture
def small_edition(small, tmp_path, monkeypatch):
    """The package's weights as the small wheel has them, and an address that has the rest."""
    ZipFile(small).extractall(tmp_path)
    monkeypatch.setattr(checkpoints, "ASSETS", tmp_path / "fbs_tutorial" / "assets")
    monkeypatch.setattr(checkpoints, "ADDRESS", ROOT.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize("density", [None, "plain", 0.5])
def test_a_small_edition_fetches_weights_once(small_edition, density, monkeypatch):
    fetched = load_pretrained("cifar10", density).state_dict()
    monkeypatch.setattr(checkpoints, "ADDRESS", "")
    again = load_pretrained("cifar10", density).state_dict()
    monkeypatch.undo()
    shipped = load_pretrained("cifar10", density).state_dict()
    assert all(shipped[n].equal(fetched[n]) and shipped[n].equal(again[n]) for n in shipped)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "no address tells where to fetch it: install the full wheel, or put the file into"),
        (
            "file:///nowhere",
            "nowhere/fbs_tutorial/assets/cifar10/any.safetensors cannot be fetched",
        ),
    ],
)
def test_a_small_edition_says_what_it_lacks(small_edition, monkeypatch, address, says):
    monkeypatch.setattr(checkpoints, "ADDRESS", address)
    with pytest.raises(checkpoints.CheckpointError, match=says):
        load_pretrained("cifar10")
    assert load_pretrained("digits")


def test_fetched_weights_of_another_content_are_refused(small_edition, monkeypatch):
    other = small_edition / checkpoints.ASSETS / "cifar10" / "any.safetensors"
    address = small_edition / "other"
    shutil.copytree(small_edition / "fbs_tutorial" / "assets", address / "fbs_tutorial/assets")
    (address / "fbs_tutorial/assets/cifar10" / other.name).write_bytes(b"something else")
    monkeypatch.setattr(checkpoints, "ADDRESS", address.as_uri())
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(checkpoints.CheckpointError, match="invalid hash value"):
            load_pretrained("cifar10")


def test_a_small_edition_names_the_densities_it_can_fetch(small_edition):
    with pytest.raises(ValueError, match=r"one of 0\.3, 0\.5 for cifar10, got 0\.9"):
        load_pretrained("cifar10", 0.9)


def pins(shape):
    lines = (ROOT / "tests" / f"{shape}.txt").read_text().splitlines()
    return dict(line.removesuffix(".*").split("==") for line in lines if "==" in line)


def ranges(*lists):
    wanted = [Requirement(text) for name in lists for text in listed(name)]
    return {requirement.name: requirement.specifier for requirement in wanted}


def lowest(specifiers):
    return next(spec.version for spec in specifiers if spec.operator == ">=")


def test_the_oldest_versions_are_the_lowest_of_every_range():
    needed, all_ranges = ranges("dependencies", "lab"), ranges("dependencies", "lab", "test")
    assert needed.keys() <= pins("oldest").keys() <= all_ranges.keys()
    assert pins("oldest") == {name: lowest(all_ranges[name]) for name in pins("oldest")}
    python = re.search(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f"# python: {python} " in (ROOT / "tests/oldest.txt").read_text()


def test_what_colab_has_is_in_the_ranges():
    needed = ranges("dependencies", "test")
    for name in pins("colab").keys() & needed.keys():
        assert Version(pins("colab")[name]) in needed[name], name
    assert {"torch", "torchvision", "ipywidgets", "ipykernel", "ipython"} < pins("colab").keys()


def test_a_shape_takes_the_first_python_there_is(tmp_path):
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "a.txt").write_text(f"# python: 9.9 {own}\n")
    assert f"python{own}" in shapes.python_for(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("# python: 9.9 8.8\n")
    with pytest.raises(SystemExit, match=r"a\.txt needs Python 9\.9 or 8\.8, and none is on"):
        shapes.python_for(tmp_path / "a.txt")


ALONE = {
    "installs the wheel": ("1 + 1", "alone.ipynb: 2 passed", True),
    "fails": ("open('beside.txt')", "No such file or directory: 'beside.txt'", False),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "says", "good"), ALONE.values(), ids=ALONE)
def test_a_notebook_alone_gets_the_package_from_its_first_cell(
    code, says, good, small, tmp_path, capfd
):
    code = [nbformat.v4.new_code_cell(text) for text in (run_notebooks.SETUP, code)]
    (tmp_path / "beside.txt").touch()
    nbformat.write(nbformat.v4.new_notebook(cells=code), tmp_path / "alone.ipynb")
    done = shapes.alone(Path(sys.executable), tmp_path / "alone.ipynb", small)
    assert done == good and says in capfd.readouterr().out
