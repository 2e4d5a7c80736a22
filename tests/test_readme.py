"""The walks through the package are true: the code runs, files that are named exist, a run leaves
what is said."""

import re
import shlex
from pathlib import Path

import torch

import fbs_tutorial
from fbs_tutorial import load_data
from fbs_tutorial.__main__ import _parser, main
from fbs_tutorial.checkpoints import load_network

ROOT, PACKAGE = Path(__file__).parents[1], Path(fbs_tutorial.__file__).parent
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "package.md").read_text()
WALKS = PAGE[PAGE.index("## Inside the package") :]
WALK = re.search(r"```python\n(.*?)```", WALKS, re.S)[1]


def test_the_image_goes_all_the_way_and_the_shapes_are_as_written(capsys):
    names = {}
    exec(WALK, names)
    for name, shape in re.findall(r"^(\w+) = .*# \[([\d, ]+)\]", WALK, re.M):
        assert list(names[name].shape) == [int(size) for size in shape.split(",")], name
    won = int(re.search(r"(\d+) of its values won", WALK)[1])
    assert (names["pi"] != 0).sum() <= won == names["pi"].shape[1] / 2
    assert "conv2" in capsys.readouterr().out


def test_two_looks_in_five_lines(capsys):
    section = README[README.index("## Budgets per image") : README.index("## Is it as good?")]
    names = {"images": torch.stack([image for image, _ in load_data("digits")[1]])}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], names)
    assert names["answers"].shape == (500,) and 0 < names["found"].second.sum() < 100
    assert "tensor" in capsys.readouterr().out


def test_the_files_and_folders_exist():
    tree = re.findall(r"^  (\w+/|\w+\.py(?:  \w+\.py)*)", WALKS, re.M)
    named = re.findall(r"[\w/]+\.py\b|assets/", WALKS) + tree
    assert len(named) > 15
    for name in " ".join(named).split():
        assert (PACKAGE / name).exists(), name


def test_the_tree_has_every_wing():
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert wings == set(re.findall(r"^  (\w+)/  ", WALKS, re.M))


def test_every_command_of_the_page_can_be_read():
    section = PAGE[PAGE.index("## Commands") : PAGE.index("### Training")]
    commands = re.findall(r"^python -m fbs_tutorial (.*?)(?:  +#|$)", section, re.M)
    kinds = [_parser().parse_args(shlex.split(command)).run.__name__ for command in commands]
    names = "train prune compare choice stability evaluate bench budget live"
    assert set(kinds) == {f"_{name}" for name in re.findall(r"\w+", names)}


def test_a_run_leaves_the_files_that_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", "digits", "--densities", "1.0,0.9", "--epochs", "1"]) == 0
    folder = tmp_path / re.search(r"makes the folder `(.*?)`", WALKS)[1]
    weights = re.search(r"weights are written \((.*?), …\)", WALKS)[1].replace("`", "").split(", ")
    files = {*weights, "metrics.json", "log.csv", "table.md", "accuracy_macs.png", "curve.png"}
    assert {path.name for path in folder.iterdir()} == files
    for name in files:
        assert name in WALKS
    network, header = load_network(folder / "d0.9.safetensors")
    assert network.conv2.density == 1.0 and float(header["density"]) == 0.9
