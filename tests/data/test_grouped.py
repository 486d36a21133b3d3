"""Retrieval: training batches of several images of each class, and splits with classes of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from secateur.data import from_arrays, load_data, with_task
from secateur.errors import DataError
from secateur.tasks import Classification, Retrieval


def fill(root: Path, counts: dict[str, int]) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (12, 12), (20 * place, 3 * number, 7)).save(root / name / f"{number:02}.png")
    return root


def load(root: Path, **settings: Any) -> Any:
    return load_data(f"retrieval:{root}", image_size=8, **{"workers": 0, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "train", {"a": 9, "b": 12, "c": 8, "d": 5, "e": 3})
    fill(tmp_path / "val", {"a": 3, "f": 3})
    fill(tmp_path / "test", {"f": 2, "g": 4})
    return tmp_path


@pytest.mark.parametrize("val", ["val", "valid"])
def test_splits_may_have_classes_of_their_own(folder: Path, val: str):
    (folder / "val").rename(folder / val)
    data = load(folder)
    assert (data.classes, data.names, data.task) == (None, tuple("abcdefg"), Retrieval())
    labels = torch.cat([y for _, y in data.batches("test", 4)])
    assert labels.tolist() == [5, 5, 6, 6, 6, 6]
    assert [data.size(split) for split in ("train", "val", "test")] == [37, 6, 6]


def test_training_batches_hold_four_images_of_each_class(folder: Path):
    data = load(folder)
    batches = data.batches("train", 8, shuffle=True, seed=3)
    found = [(images, labels) for images, labels in batches]
    assert len(found) == len(batches) == 4  # 2 + 3 + 2 + 1 + 1 groups, two in a batch
    for images, labels in found:
        assert images.shape == (8, 3, 8, 8)
        assert all(count in (0, 4, 8) for count in torch.bincount(labels).tolist())
    assert sum(len(labels.unique()) == 2 for _, labels in found) >= 3
    whole = [image for images, labels in found for image in images[labels != 4]]
    assert len({image.numpy().tobytes() for image in whole}) == len(whole)  # a class of three shows one again


def test_batches_depend_on_the_seed_and_processes_share_them_class_by_class(folder: Path):
    one_pass = {"augment": "crop_flip", "shuffle": True, "seed": 4}
    single = list(load(folder).batches("train", 16, **one_pass))
    other = list(load(folder).batches("train", 16, **{**one_pass, "seed": 5}))
    assert not torch.equal(single[0][0], other[0][0])
    for rank in range(2):
        share = list(load(folder, workers=2).batches("train", 16, rank=rank, world=2, **one_pass))
        assert len(share) == len(single) == 2
        for (images, labels), (every, _) in zip(share, single, strict=True):
            assert torch.equal(images, every[rank::2])
            assert all(count in (0, 4, 8) for count in torch.bincount(labels).tolist())


@pytest.mark.parametrize("batch_size", [2, 4, 6, 100])
def test_any_batch_size_gives_batches_of_two_classes(folder: Path, batch_size: int):
    batches = list(load(folder).batches("train", batch_size, shuffle=True))
    assert batches
    for _, labels in batches:
        present = torch.bincount(labels)
        assert int(present[present > 0].min()) >= 2


def test_passes_in_order_show_each_image_once(folder: Path):
    labels = torch.cat([y for _, y in load(folder).batches("train", 8)])
    assert torch.bincount(labels).tolist() == [9, 12, 8, 5, 3]


def test_one_class_is_refused(tmp_path: Path):
    fill(tmp_path / "train", {"a": 9})
    with pytest.raises(DataError, match="learned from images of two classes or more, and there is one"):
        load(tmp_path).batches("train", 8, shuffle=True)


@pytest.mark.parametrize("name", ["imagefolder", "retrieval"])
def test_batches_and_classes_follow_the_task_however_the_folder_is_named(tmp_path: Path, name: str):
    for split, count in (("train", 16), ("test", 4)):
        fill(tmp_path / split, {"a": count, "b": count, "c": count})
    for task, classes in ((Retrieval(), None), (Classification(), 3)):
        data = load_data(f"{name}:{tmp_path}", task=task, image_size=8, workers=0)
        other = Classification() if classes is None else Retrieval()
        there_and_back = with_task(with_task(data, other), task)
        for found in (data, there_and_back):
            assert (found.classes, found.names) == (classes, ("a", "b", "c"))
            counts = [torch.bincount(y, minlength=3) for _, y in found.batches("train", 8, shuffle=True, seed=3)]
            assert all(bool(((it == 0) | (it == 4) | (it == 8)).all()) for it in counts) == (classes is None)


def test_classification_needs_training_images_of_every_class(folder: Path):
    with pytest.raises(DataError, match=r"has a class 'f' that the training images do not have"):
        load(folder, task=Classification())
    with pytest.raises(DataError, match=r"the class 'f' of .* has no training images, which classification needs"):
        with_task(load(folder), Classification())


def test_arrays_are_grouped_for_retrieval_too():
    images, labels = torch.rand(40, 3, 6, 6), torch.arange(40) % 5
    data = with_task(from_arrays((images, labels), (images, labels), classes=9), Retrieval())
    assert (data.classes, with_task(data, Classification()).classes) == (None, 9)
    for x, y in data.batches("train", 8, shuffle=True, augment="crop_flip"):
        assert len(x) == len(y) == 8
        assert set(torch.bincount(y).tolist()) <= {0, 4, 8}
    assert sum(len(y) for _, y in data.batches("train", 8)) == data.size("train")


@pytest.mark.parametrize("counts", [{"a": 6, "b": 6}, dict.fromkeys("abcdefghij", 5), {"a": 20, "b": 9, "c": 1}])
def test_what_is_held_out_can_be_found(tmp_path: Path, counts: dict[str, int]):
    fill(tmp_path / "train", counts)
    data, again = load(tmp_path), load(tmp_path)
    for split in ("val", "test"):
        shown = torch.bincount(data.source.parts[split].labels)
        assert int(shown.max()) >= 2
        assert 1 not in shown.tolist()
        assert data.source.parts[split].paths == again.source.parts[split].paths


def test_splits_in_which_nothing_can_be_found_are_named(tmp_path: Path):
    fill(tmp_path / "train", {"a": 5, "b": 3})
    with pytest.raises(DataError, match="the val split is missing and cannot be held out: 6 training images of 2 c"):
        load(tmp_path)
    fill(tmp_path / "val", {"c": 2, "d": 1})
    fill(tmp_path / "test", {"c": 1, "d": 1})
    with pytest.raises(
        DataError, match=r"no class has two of the 2 test images of .*: put 2 or more of a class into 't"
    ):
        load(tmp_path)
    for split in ("val", "test"):
        shutil.rmtree(tmp_path / split)
        fill(tmp_path / split, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="no class has two of the 2 val images"):
        with_task(load_data(f"imagefolder:{tmp_path}", workers=0), Retrieval())
