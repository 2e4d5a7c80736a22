import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fbs_tutorial import load_data
from fbs_tutorial.data import as_tensors, stratified_split


def test_digits():
    train, test = map(as_tensors, load_data("digits"))
    assert train[0].shape == (1297, 1, 16, 16) and test[0].shape == (500, 1, 16, 16)
    for images, labels in (train, test):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.min() == 0 and 0.9 < images.max() <= 1
        assert labels.unique().tolist() == list(range(10))


def test_an_item_is_an_image_and_its_class():
    image, label = load_data("digits")[0][0]
    assert image.shape == (1, 16, 16) and 0 <= int(label) < 10


def test_digits_are_the_same_every_time():
    first, second = load_data("digits"), load_data("digits")
    for a, b in zip(first, second, strict=True):
        assert all(map(torch.equal, as_tensors(a), as_tensors(b)))


def test_no_digit_is_in_both_parts():
    images = torch.cat([as_tensors(part)[0] for part in load_data("digits")])
    assert len(images.unique(dim=0)) == 1797


def test_every_digit_has_its_share_of_the_test_set():
    train, test = (as_tensors(part)[1].bincount() for part in load_data("digits"))
    assert ((train + test) * 500 / 1797 - test).abs().max() < 1


@pytest.mark.parametrize(("count", "seed"), [(30, 0), (30, 1), (97, 0)])
def test_stratified_split(count, seed):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 210)
    rest, held_out = stratified_split(labels, count, seed)
    assert len(held_out) == count
    assert torch.cat([rest, held_out]).sort().values.tolist() == list(range(300))
    assert torch.equal(rest, rest.sort().values)
    assert torch.equal(held_out, held_out.sort().values)
    shares = labels.bincount() * count / 300
    assert (labels[held_out].bincount(minlength=3) - shares).abs().max() < 1
    assert torch.equal(stratified_split(labels, count, seed)[1], held_out)
    assert not torch.equal(stratified_split(labels, count, seed + 1)[1], held_out)


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (level, 0, 255)).save(path)


@pytest.mark.parametrize("held_out", ["val", "test"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_of_class_folders(tmp_path, held_out, kind):
    for part in ("train", held_out):
        picture(tmp_path / part / "cat" / "1.png", 51)
        picture(tmp_path / part / "dog" / "1.png", 102)
    train, test = load_data(kind(tmp_path))
    for part in (train, test):
        images, labels = as_tensors(part)
        assert images.shape == (2, 3, 4, 6) and labels.tolist() == [0, 1]
        torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.2, 0.4]))
        assert (images[:, 2] == 1).all()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_folder_without_a_part_is_refused_with_the_remedy(tmp_path, missing):
    for part in {"train", "val"} - {missing}:
        picture(tmp_path / part / "cat" / "1.png", 0)
    with pytest.raises(FileNotFoundError, match=r"needs train/ and val/ \(or test/\)"):
        load_data(tmp_path)


def test_a_folder_with_an_empty_class_is_refused(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png", 0)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"not a folder of class folders.*cat"):
        load_data(tmp_path)


def test_a_folder_whose_parts_differ_in_classes_is_refused(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png", 0)
    picture(tmp_path / "val" / "dog" / "1.png", 0)
    with pytest.raises(FileNotFoundError, match="train/ and val/ differ in classes"):
        load_data(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_set_without_a_folder_says_where_to_get_it(name, monkeypatch):
    monkeypatch.setenv("FBS_DATA", "")
    with pytest.raises(FileNotFoundError, match=f"{name} needs a folder: .*FBS_DATA.*download"):
        load_data(name)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_set_that_is_not_in_the_folder_says_where_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FBS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{name} is missing .*FBS_DATA.*download"):
        load_data(name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"something else", b"\0\0\x08\x03" + b"\0\0\0\5" * 3],
    ids=["empty", "foreign", "cut off"],
)
def test_a_damaged_set_says_what_to_do(content, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"fashion_mnist is missing or damaged.*download"):
        load_data("fashion_mnist", tmp_path)


@pytest.mark.skipif(not os.environ.get("FBS_DATA"), reason="FBS_DATA is not set")
def test_cifar10():
    train, test = load_data("cifar10")
    assert (len(train), len(test)) == (50000, 10000)
    image, label = test[0]
    assert image.shape == (3, 32, 32) and image.min() >= 0 and image.max() <= 1
    assert label == 3
