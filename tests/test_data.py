import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbs_tutorial import data, load_data
from fbs_tutorial.__main__ import main
from fbs_tutorial.data import (
    Files,
    as_tensors,
    augment,
    draw_moves,
    in_order,
    labels_of,
    spread,
    stratified_split,
)
from fbs_tutorial.training.recipes import RECIPES


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


def picture(path, level, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 0, 255)).save(path)


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


def test_photographs_come_in_the_size_asked_for(tmp_path, photographs):
    for part in load_data(photographs(tmp_path), size=16):
        images, labels = as_tensors(part)
        assert images.shape == (6, 3, 16, 16) and labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert images.min() >= 0 and images.max() <= 1


def test_without_a_random_crop_the_middle_is_cut_out(tmp_path):
    pixels = np.zeros((64, 128, 3), "uint8")
    pixels[4:60, 36:92] = 255  # the middle 56 of 64 pixels
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "1.png")
    images, _ = as_tensors(load_data(tmp_path, size=56)[1])  # scaled to 64 first
    assert (images == 1).all()


def test_random_crops_are_drawn_anew_and_the_test_images_have_none(tmp_path, photographs):
    train, test = load_data(photographs(tmp_path), size=16, augment=True)
    assert not torch.equal(train[0][0], train[0][0])
    assert torch.equal(test[0][0], test[0][0])


def batches_of(files, order, seed):
    return [x.clone() for x in files.batches([torch.tensor(i) for i in order], seed)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crop_depends_on_the_seed_and_the_image_alone(
    workers, tmp_path, monkeypatch, photographs
):
    monkeypatch.setattr(data, "WORKERS", workers)
    files = Files(load_data(photographs(tmp_path), size=16, augment=True)[0])
    first, second = batches_of(files, [[0, 1, 2], [3, 4, 5]], seed=7)
    (others,) = batches_of(files, [[5, 1]], seed=7)
    assert torch.equal(others, torch.stack([second[2], first[1]]))
    assert not torch.equal(others, batches_of(files, [[5, 1]], seed=8)[0])


def test_files_are_read_in_the_order_asked_for_and_can_be_cut(tmp_path, photographs):
    train, _ = load_data(photographs(tmp_path), size=16)
    images, labels = as_tensors(train)
    assert torch.equal(labels_of(train), labels)
    chosen = torch.tensor([4, 0, 3])
    part = Files(train)[chosen], labels[chosen]
    assert len(part[0]) == 3
    read = list(in_order(part, 2))
    assert torch.equal(torch.cat([x for x, _ in read]), images[chosen])
    assert torch.cat([y for _, y in read]).tolist() == [1, 0, 1]
    x, y = spread((Files(train), labels), 2)
    assert torch.equal(x, images[[0, 5]]) and y.tolist() == [0, 1]


def test_tensors_and_files_give_the_same_batches(tmp_path, photographs):
    train, _ = load_data(photographs(tmp_path), size=16)
    images, labels = as_tensors(train)
    for a, b in zip(
        in_order((images, labels), 4), in_order((Files(train), labels), 4), strict=True
    ):
        assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["empty", "cut off", "text"])
def test_a_damaged_picture_is_named_with_the_remedy(
    damage, workers, tmp_path, monkeypatch, photographs
):
    monkeypatch.setattr(data, "WORKERS", workers)
    path = photographs(tmp_path) / "train" / "dog" / "1.png"
    path.write_bytes({"empty": b"", "cut off": path.read_bytes()[:400], "text": b"a"}[damage])
    files = Files(load_data(tmp_path, size=16)[0])
    with pytest.raises(FileNotFoundError, match=r"^\S*dog/1.png is damaged .*replace it"):
        batches_of(files, [[0, 1], [4]], seed=0)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"size": 4}, ValueError, "size must be an int >= 8 or None, got 4"),
        ({"size": True}, TypeError, "size must be an int >= 8 or None, got True"),
        ({"size": 32.0}, TypeError, "size.*32.0"),
        ({"augment": True}, ValueError, "augment=True needs a size"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(arguments, error, says, tmp_path, photographs):
    with pytest.raises(error, match=says):
        load_data(photographs(tmp_path), **arguments)


def test_a_set_of_one_size_takes_no_other():
    with pytest.raises(ValueError, match="the images of digits have one size, got 32"):
        load_data("digits", size=32)


@pytest.fixture
def imagenette(tmp_path, monkeypatch, photographs):
    """Imagenette with two classes and three pictures each, as torchvision stores it."""
    monkeypatch.setattr(data, "IMAGENETTE", {"train": 6, "val": 6})
    photographs(tmp_path / "imagenette2-160", size=(213, 160))
    for part in ("train", "val"):
        for name, wnid in (("cat", "n01440764"), ("dog", "n02102040")):
            folder = tmp_path / "imagenette2-160" / part / name
            for path in folder.iterdir():
                Image.open(path).save(path.with_suffix(".JPEG"))
                path.unlink()
            folder.rename(folder.with_name(wnid))
    return tmp_path


def test_imagenette(imagenette, monkeypatch):
    monkeypatch.setenv("FBS_DATA", str(imagenette))
    train, test = load_data("imagenette")
    assert train.classes[0][0] == "tench"
    for part in (train, test):
        images, labels = as_tensors(part)
        assert images.shape == (6, 3, 128, 128)
        assert labels.tolist() == labels_of(part).tolist() == [0, 0, 0, 1, 1, 1]
    assert as_tensors(load_data("imagenette", imagenette, size=64)[1])[0].shape == (6, 3, 64, 64)


@pytest.mark.slow
def test_imagenette_can_be_trained_on(imagenette, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("FBS_DATA", str(imagenette))
    recipe = replace(RECIPES["imagenette"], validation=2, batch=2)
    monkeypatch.setitem(RECIPES, "imagenette", recipe)
    trained_briefly("imagenette", tmp_path / "run")


def trained_briefly(name, out):
    """Train a plain ResNet-18 for one epoch by the command; its row says what it can do."""
    options = ["--model", "resnet18", "--size", "32", "--plain", "--epochs", "1", "--out", str(out)]
    assert main(["train", "--data", str(name), *options]) == 0
    (row,) = json.loads((out / "metrics.json").read_text())["rows"]
    assert row["method"] == "plain" and 0 <= row["test_accuracy"] <= 1


@pytest.mark.slow
def test_imagewoof_can_be_trained_on_as_a_folder(photographs, tmp_path, capfd):
    """As its archive unpacks: class folders by WordNet number, .JPEG files, a table beside."""
    folder = photographs(tmp_path / "imagewoof2-160", size=(213, 160))
    for part in ("train", "val"):
        for name, wnid in (("cat", "n02086240"), ("dog", "n02087394")):
            (folder / part / name).rename(folder / part / wnid)
            for path in (folder / part / wnid).iterdir():
                Image.open(path).save(path.with_name(f"{wnid}_{path.stem}.JPEG"))
                path.unlink()
    (folder / "noisy_imagewoof.csv").write_text("path,noisy_labels_0\n")
    train, test = load_data(folder, size=32)
    assert train.classes == test.classes == ["n02086240", "n02087394"]
    assert as_tensors(test)[0].shape == (6, 3, 32, 32)
    trained_briefly(folder, tmp_path / "run")


def test_a_part_of_imagenette_is_refused_with_the_remedy(imagenette):
    next((imagenette / "imagenette2-160" / "val" / "n01440764").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=r"val holds 5 of 6 pictures; delete .*fetch it"):
        load_data("imagenette", imagenette)


def test_imagenette_with_a_strange_class_is_refused(imagenette):
    folder = imagenette / "imagenette2-160" / "val"
    (folder / "n01440764").rename(folder / "n00000000")
    with pytest.raises(
        FileNotFoundError, match=r"missing or damaged.*delete \S*imagenette2-160 and"
    ):
        load_data("imagenette", imagenette)


@pytest.mark.parametrize(
    ("size", "edition"), [(128, "-160"), (140, "-160"), (224, "-320"), (300, "")]
)
def test_the_smallest_edition_of_imagenette_that_is_large_enough_is_read(
    size, edition, imagenette, monkeypatch
):
    for other in ("-320", ""):
        shutil.copytree(imagenette / "imagenette2-160", imagenette / f"imagenette2{other}")
    path = Path(load_data("imagenette", imagenette, size=size)[0]._samples[0][0])
    assert path.relative_to(imagenette).parts[0] == f"imagenette2{edition}"


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenette"])
@pytest.mark.parametrize("download", [False, True])
def test_a_set_is_fetched_only_when_asked_for(name, download, tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []

    def instead_of(self, root, *args, download=False, **options):
        asked.append(download)
        raise RuntimeError("not there")

    kind = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST", "imagenette": "Imagenette"}
    monkeypatch.setattr(getattr(datasets, kind[name]), "__init__", instead_of)
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_data(name, tmp_path, download=download)
    assert asked == [download]


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenette"])
def test_a_set_without_a_folder_says_where_to_get_it(name, monkeypatch):
    monkeypatch.setenv("FBS_DATA", "")
    with pytest.raises(FileNotFoundError, match=f"{name} needs a folder: .*FBS_DATA.*download"):
        load_data(name)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenette"])
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


def test_augment_without_shift_and_flip_is_the_identity():
    images = torch.rand(8, 2, 6, 5)
    assert torch.equal(augment(images, draw_moves(8, 0, False, torch.Generator()), 0), images)


@pytest.mark.parametrize("flip", [False, True])
def test_augment_moves_each_image_by_some_pixels_and_mirrors_some(flip):
    images = torch.rand(256, 2, 5, 6)
    result = augment(images, draw_moves(256, 1, flip, torch.Generator().manual_seed(0)), 1)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    moved = [padded[:, :, i : i + 5, j : j + 6] for i in range(3) for j in range(3)]
    moved += [image.flip(3) for image in moved] if flip else []
    same = torch.stack([(image == result).flatten(1).all(1) for image in moved])  # [moves, N]
    assert same.any(0).all(), "each image is a move of itself"
    assert same.any(1).all(), "and every move occurs"
