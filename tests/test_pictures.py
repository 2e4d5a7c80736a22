import os
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fbs_tutorial import data, load_data
from fbs_tutorial.data import Files, as_tensors, fingerprint


@pytest.fixture
def folder(photographs, tmp_path):
    return photographs(tmp_path / "data")


def load(folder, **options):
    """The two data sets, and what `load_data` says of the folder."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        parts = load_data(folder, **options)
    return *parts, [str(warning.message) for warning in said]


def test_of_an_orderly_folder_nothing_is_said(folder):
    train, test, said = load(folder)
    assert said == [] and train.classes == test.classes == ["cat", "dog"] and len(train) == 6


def test_the_order_is_that_of_torchvision(folder):
    from torchvision.datasets import ImageFolder

    for name in ("10.PNG", "B.png", "sub/1.png", "sub.d/1.png", "a/b/1.png"):
        path = folder / "train" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    train, _, said = load(folder)
    assert train.samples == train.imgs == ImageFolder(folder / "train").samples and said == []


def test_hidden_folders_and_other_files_are_left_out_and_said(folder):
    train = folder / "train"
    (train / ".ipynb_checkpoints").mkdir()
    (train / "cat" / ".ipynb_checkpoints").mkdir()
    (train / "cat" / "0.png").rename(train / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
    for name in ("._1.png", ".DS_Store", "notes.txt", "film.GIF", "README"):
        (train / "cat" / name).write_text("x")
    (train / "stray.png").write_text("x")
    part, test, said = load(folder)
    assert part.classes == ["cat", "dog"] and part.targets == [0, 0, 1, 1, 1] and len(test) == 6
    (line,) = said
    assert re.search(r"train: skipped hidden folders \(\.ipynb_checkpoints, cat/\.ipynb_ch", line)
    for kind in ("1 .gif", "1 .png", "1 .txt", "2 hidden files", "1 README"):
        assert kind in line


def test_a_link_that_leads_back_is_not_followed(folder):
    cat = folder / "train" / "cat"
    (cat / "itself").symlink_to(cat)
    (cat / "everything").symlink_to(folder)
    (cat / "more").mkdir()
    (cat / "more" / "up").symlink_to("..")
    part, _, said = load(folder)
    assert part.targets == [0, 0, 0, 1, 1, 1]
    (line,) = said
    assert "links to what is read already (cat/everything, cat/itself, cat/more/up)" in line


def test_a_class_folder_that_is_a_link_to_nothing_is_refused(folder):
    for part in ("train", "val"):
        (folder / part / "bird").symlink_to("/nowhere/birds")
    says = r"train/bird is a link to /nowhere/birds, which is not there"
    with pytest.raises(FileNotFoundError, match=says):
        load_data(folder)


def test_a_link_to_a_class_elsewhere_is_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "cats"
    elsewhere.parent.mkdir()
    (folder / "train" / "cat").rename(elsewhere)
    (folder / "train" / "cat").symlink_to(elsewhere)
    part, _, said = load(folder)
    assert part.targets == [0, 0, 0, 1, 1, 1] and said == []


def test_a_class_without_pictures_says_what_it_has(folder):
    cat = folder / "val" / "cat"
    for path in cat.iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(FileNotFoundError, match=r"val/cat has no pictures .*; it holds 3 \.gif"):
        load_data(folder)


@pytest.mark.parametrize("beside", [None, ".DS_Store", "notes.txt"])
def test_classes_one_folder_too_deep_are_refused(beside, folder):
    for part in ("train", "val"):
        (folder / part).rename(folder / "images")
        (folder / part).mkdir()
        (folder / "images").rename(folder / part / "images")
        if beside is not None:
            (folder / part / "images" / beside).write_text("x")
    says = r"train has one class folder, images, which holds cat/, dog/.*: move .* up into train/"
    with pytest.raises(FileNotFoundError, match=says):
        load_data(folder)


def test_one_class_is_refused(folder):
    for part in ("train", "val"):
        for path in (folder / part / "dog").iterdir():
            path.unlink()
        (folder / part / "dog").rmdir()
    says = r"train has one class folder, cat, which holds 3 \.png files: two classes or more"
    with pytest.raises(FileNotFoundError, match=says):
        load_data(folder)


def test_train_and_val_one_folder_too_deep_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs train/ and val/.*; it holds data/$"):
        load_data(tmp_path)


def test_pictures_without_class_folders_are_named(folder):
    for path in list((folder / "train").glob("*/*")):
        path.rename(folder / "train" / f"{path.parent.name}{path.name}")
    for name in ("cat", "dog"):
        (folder / "train" / name).rmdir()
    with pytest.raises(FileNotFoundError, match=r"no class folders; it holds 6 \.png files"):
        load_data(folder)


@pytest.mark.parametrize(("inside", "lines"), [(("red", "blue"), 1), (("images",), 0)])
def test_classes_that_hold_folders_themselves_are_said(inside, lines, photographs, tmp_path):
    """Domains with classes, perhaps; of one folder in each, as Tiny ImageNet has, nothing."""
    folder = photographs(tmp_path)
    for path in list(folder.glob("*/*/*.png")):
        for name in inside:
            (path.parent / name).mkdir(exist_ok=True)
            Image.open(path).save(path.parent / name / path.name)
        path.unlink()
    part, _, said = load(folder)
    assert part.classes == ["cat", "dog"] and len(said) == lines
    assert all("the classes are cat, dog, which hold folders themselves, such" in s for s in said)


RAMP = np.linspace(0, 65535, 6 * 8).reshape(6, 8).astype("uint16")


@pytest.mark.parametrize("name", ["x.png", "x.tiff", "x.pgm"])
@pytest.mark.parametrize("workers", [0, 2])
def test_16_bits_are_scaled_to_8(name, workers, folder, monkeypatch):
    monkeypatch.setattr(data, "WORKERS", workers)
    Image.fromarray(RAMP).save(folder / "train" / "cat" / name)
    train, _ = load_data(folder)
    (index,) = (i for i, (path, _) in enumerate(train.samples) if path.endswith(name))
    image = next(iter(Files(train).batches([torch.tensor([index])], 0)))[0]
    expected = torch.from_numpy(RAMP / 65535).float().expand(3, -1, -1)
    torch.testing.assert_close(image, expected, rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("kind", ["float32", "int32"])
@pytest.mark.parametrize("workers", [0, 2])
def test_32_bits_are_refused_with_the_file(kind, workers, folder, monkeypatch):
    monkeypatch.setattr(data, "WORKERS", workers)
    Image.fromarray(RAMP.astype(kind)).save(folder / "train" / "cat" / "0.tiff")
    train, _ = load_data(folder)
    with pytest.raises(FileNotFoundError, match=rf"cat/0.tiff is damaged \(32-bit {kind[:3]}") as e:
        list(Files(train).batches([torch.arange(3)], 0))
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_of_pictures_are_as_bright_as_before(mode, folder):
    path = folder / "train" / "cat" / "-.tiff"  # the first
    Image.new("RGB", (8, 8), "white").convert(mode).save(path)
    assert load_data(folder)[0][0][0].mean() > 0.99


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("trouble", ["link", "gone", "a folder"])
def test_a_picture_that_cannot_be_read_is_named_in_one_line(trouble, workers, folder, monkeypatch):
    monkeypatch.setattr(data, "WORKERS", workers)
    path = folder / "train" / "dog" / "1.png"
    if trouble == "link":
        path.unlink()
        path.symlink_to("nowhere.png")
    files = Files(load_data(folder)[0])
    if trouble != "link":
        path.unlink()
    if trouble == "a folder":
        path.mkdir()
    says = {
        "link": r"^\S*dog/1.png, a link to nowhere.png, cannot be read: No such file or directory$",
        "gone": r"^\S*dog/1.png cannot be read: No such file or directory$",
        "a folder": r"^\S*dog/1.png cannot be read: Is a directory$",
    }
    with pytest.raises(FileNotFoundError, match=says[trouble]):
        list(files.batches([torch.tensor([0, 1]), torch.tensor([4])], 0))


def test_a_folder_that_cannot_be_read_is_not_left_out(folder, monkeypatch):
    (folder / "train" / "cat" / "more").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(FileNotFoundError, match=r"Permission denied.*cat/more"):
        load_data(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pipe_is_not_waited_for(workers, folder, monkeypatch):
    monkeypatch.setattr(data, "WORKERS", workers)
    os.mkfifo(folder / "train" / "cat" / "0-.png")
    with pytest.raises(FileNotFoundError, match=r"cat/0-.png is damaged .it is empty"):
        list(Files(load_data(folder)[0]).batches([torch.arange(3)], 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_name_of_two_lines_is_one(workers, folder, monkeypatch):
    monkeypatch.setattr(data, "WORKERS", workers)
    (folder / "train" / "cat" / "0\n1.png").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"^\S*cat/0 1.png is damaged .*cannot identify"):
        list(Files(load_data(folder)[0]).batches([torch.arange(3)], 0))


def test_a_fingerprint_tells_data_sets_apart(folder):
    first = fingerprint(*load_data(folder))
    assert first == fingerprint(*load_data(folder)) and first.startswith("12 images, sha256 ")
    seen = {first}
    path = folder / "val" / "dog" / "0.png"
    for change in (
        lambda: path.write_bytes(path.read_bytes() + b" "),
        lambda: path.rename(path.with_name("9.png")),
        lambda: path.with_name("9.png").rename(folder / "val" / "cat" / "9.png"),
        lambda: (folder / "val" / "cat" / "9.png").unlink(),
    ):
        change()
        seen.add(fingerprint(*load_data(folder)))
    assert len(seen) == 5
    moved = folder.rename(folder.with_name("elsewhere"))
    assert fingerprint(*load_data(moved)) in seen, "the folder's own name does not count"
    images, labels = as_tensors(load_data("digits")[0])
    other = torch.utils.data.TensorDataset(images, labels.flip(0))
    assert fingerprint(load_data("digits")[0]) != fingerprint(other)


def test_links_to_themselves_and_class_folders_that_lead_back_are_left_out_and_said(
    photographs, tmp_path
):
    data = photographs(tmp_path / "data")
    (data / "train" / "cat" / "x").symlink_to("x")
    for part in ("train", "val"):
        (data / part / "up").symlink_to(data)
        (data / part / "all").symlink_to(data / part)
    with pytest.warns(UserWarning, match="all, up"):
        train, test = load_data(str(data))
    assert train.classes == ["cat", "dog"] and len(train) == len(test) == 6
