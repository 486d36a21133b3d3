"""Images with wanted images or numbers: how they lie, how they are cut, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.data import image_pairs, load_calibration, load_data
from secateur.errors import DataError
from secateur.tasks import Regression, Restoration


def noise(number: int, wide: int = 20, high: int = 16) -> Any:
    """Return a smooth picture of its own."""
    small = np.random.default_rng(number).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((wide, high), Image.Resampling.BILINEAR)


def put(one: Path, two: Path, count: int, scale: int = 1, size: tuple[int, int] = (20, 16)) -> None:
    for folder in (one, two):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = noise(number, size[0] * scale, size[1] * scale)
        picture.save(two / f"{number:02}.png")
        picture.resize(size, Image.Resampling.BOX).save(one / f"{number:02}.png")


def load(spec: str, **settings: Any) -> Any:
    return load_data(spec, **{"workers": 0, "image_size": 8, **settings})


@pytest.mark.parametrize("names", [("input", "target"), ("lr", "hr"), ("noisy", "clean")])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_pairs_are_cut_alike(tmp_path: Path, names: tuple[str, str], scale: int):
    put(*(tmp_path / "train" / name for name in names), count=12, scale=scale)
    data = load(f"pairs:{tmp_path}", image_size=8 * scale)
    assert (data.classes, data.shape) == (None, (3, 8, 8))
    assert data.task == Restoration(border=scale if scale > 1 else 0)
    for augment in ("none", "flip", "crop_flip"):
        one_pass = list(data.batches("train", 4, augment=augment, shuffle=True, seed=1))
        for given, wanted in one_pass:
            assert (given.shape[1:], wanted.shape[1:]) == ((3, 8, 8), (3, 8 * scale, 8 * scale))
            assert 0 <= float(wanted.min()) <= float(wanted.max()) <= 1
            shrunk = torch.nn.functional.avg_pool2d(wanted, scale) if scale > 1 else wanted
            assert torch.allclose(shrunk, given, atol=0.01)
        again = list(data.batches("train", 4, augment=augment, shuffle=True, seed=2))
        assert not torch.equal(again[0][0], one_pass[0][0])


def test_pairs_depend_on_the_seed_not_on_workers_or_processes(tmp_path: Path):
    put(tmp_path / "input", tmp_path / "target", count=14)
    one_pass = {"augment": "crop_flip", "shuffle": True, "seed": 4}
    single = list(load(f"pairs:{tmp_path}").batches("train", 4, **one_pass))
    others = list(load(f"pairs:{tmp_path}", workers=2).batches("train", 4, **one_pass))
    halves = [list(load(f"pairs:{tmp_path}").batches("train", 4, rank=it, world=2, **one_pass)) for it in range(2)]
    for number, batch in enumerate(single):
        for place in range(2):
            assert torch.equal(others[number][place], batch[place])
            for rank in range(2):
                assert torch.equal(halves[rank][number][place], batch[place][rank::2])


def test_whole_images_of_one_size_share_a_batch_and_others_come_one_by_one(tmp_path: Path):
    put(tmp_path / "train" / "input", tmp_path / "train" / "target", count=12)
    put(tmp_path / "test" / "input", tmp_path / "test" / "target", count=5)
    data = load(f"pairs:{tmp_path}")
    assert [len(given) for given, _ in data.batches("test", 4)] == [4, 1]
    for name in ("input", "target"):
        noise(9, 30, 12).save(tmp_path / "test" / name / "02.png")
    data = load(f"pairs:{tmp_path}")
    found = [given.shape for given, _ in data.batches("test", 4)]
    assert len(data.batches("test", 4)) == 5
    assert found == [(1, 3, 16, 20)] * 2 + [(1, 3, 12, 30)] + [(1, 3, 16, 20)] * 2
    shared = [len(list(data.batches("test", 4, rank=rank, world=2))) for rank in range(2)]
    assert sum(shared) == 5


def test_the_example_is_as_large_as_the_crops_of_training(tmp_path: Path):
    put(tmp_path / "input", tmp_path / "target", count=12, scale=2)
    data = load(f"pairs:{tmp_path}", image_size=16)
    (given, _), *_ = data.batches("val", 1)
    assert torch.equal(data.example(), given[:, :, 4:12, 6:14])
    found = load_calibration(data, count=5)
    assert (found.count, found.batches[0].shape) == (5, (5, 3, 8, 8))


@pytest.mark.parametrize("scale", ["", "?scale=2", "?scale=4"])
def test_smaller_copies_are_made_of_pictures(tmp_path: Path, scale: str):
    factor = int(scale[-1:] or 2)
    for number in range(12):
        noise(number, 35, 33).save(tmp_path / f"{number:02}.png")
    data = load(f"superresolution:{tmp_path}{scale}", image_size=24)
    assert (data.shape, data.task) == ((3, 24 // factor, 24 // factor), Restoration(border=factor))
    (given, wanted), *_ = data.batches("test", 1)
    high, wide = 33 // factor, 35 // factor
    assert (given.shape, wanted.shape) == ((1, 3, high, wide), (1, 3, high * factor, wide * factor))
    picture = Image.fromarray((wanted[0] * 255).round().byte().permute(1, 2, 0).numpy())
    small = torch.from_numpy(np.array(picture.resize((wide, high), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert torch.equal((given[0] * 255).round().byte(), small)
    (given, wanted), *_ = data.batches("train", 4)
    assert given.shape[-1] * factor == wanted.shape[-1] == 24


def test_grey_images_are_asked_for_by_a_number(tmp_path: Path):
    put(tmp_path / "input", tmp_path / "target", count=12)
    data = load(f"pairs:{tmp_path}", channels=1)
    (given, wanted), *_ = data.batches("train", 4)
    assert given.shape == wanted.shape == (4, 1, 8, 8)
    assert (data.mean, data.std) == ((0.0,), (1.0,))


def test_pairs_that_do_not_fit_are_named_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "input", tmp_path / "target", count=12, scale=2)
    noise(3, 41, 32).save(tmp_path / "target" / "03.png")
    with pytest.raises(DataError, match=r"03\.png' has 20 x 16 pixels and its target .* 41 x 32: .* 2 times as large"):
        load(f"pairs:{tmp_path}", val_fraction=0.01)
    monkeypatch.setattr(image_pairs, "MOST_CHECKED", 1)
    data = load(f"pairs:{tmp_path}", val_fraction=0.01)
    with pytest.raises(DataError, match=r"targets must be 2 times as large, as the first one is"):
        list(data.batches("train", 2))


def test_crops_larger_than_the_images_are_refused_before_any_work(tmp_path: Path):
    put(tmp_path / "input", tmp_path / "target", count=12)
    with pytest.raises(DataError, match=r"smaller than the crops of 17 pixels .* \(image_size=16 or less\)"):
        load(f"pairs:{tmp_path}", image_size=17)
    assert load(f"pairs:{tmp_path}", image_size=16).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("superresolution:{}?scale=9", "scale=9 is out of range"),
        ("superresolution:{}?scale=1", "scale=1 is out of range"),
        ("superresolution:{}?scale=1.5", "must be a whole number, 2 to 8"),
        ("superresolution:{}?scale=", "must be a whole number, 2 to 8"),
        ("superresolution:{}/nowhere", "there is no folder"),
        ("superresolution:{}", "there are no pictures in"),
        ("pairs:{}", "holds no training examples that are known as such: put them in train/input and train/target"),
        ("pairs:{}/nowhere", "there is no folder"),
    ],
)
def test_folders_of_another_kind_are_refused(tmp_path: Path, spec: str, message: str):
    with pytest.raises(DataError, match=message):
        load(spec.format(tmp_path))


# numbers


def numbered(root: Path, rows: list[str], count: int = 12) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise(number).save(root / f"{number:02}.png")
    (root / "targets.csv").write_text("\n".join(rows) + "\n")
    return root


ROWS = [f"{number:02}.png,{number},{number / 4}" for number in range(12)]


@pytest.mark.parametrize("heading", [[], ["file,age,weight"]])
@pytest.mark.parametrize("place", ["", "train"])
def test_numbers_come_with_their_images(tmp_path: Path, heading: list[str], place: str):
    numbered(tmp_path / place, [*heading, *ROWS])
    data = load(f"pairs:{tmp_path}")
    assert (data.classes, data.task, data.shape) == (None, Regression(), (3, 8, 8))
    seen = dict[int, float]()
    for split in ("train", "val", "test"):
        for images, numbers in data.batches(split, 4, augment="crop_flip" if split == "train" else "none"):
            assert (images.shape[1:], numbers.shape[1:], numbers.dtype) == ((3, 8, 8), (2,), torch.float32)
            seen |= {int(one): other for one, other in numbers.tolist()}
    assert seen == {number: number / 4 for number in range(12)}
    assert load_calibration(data, count=3).count == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["00.png,nan"], "line 1 of .* must be the name of a file and finite numbers"),
        ([*ROWS, "03.png,inf,2"], "line 13 of .* must be the name of a file and finite numbers"),
        ([*ROWS, "03.png,1e300,2"], "line 13 of .* must be the name of a file and finite numbers"),
        ([*ROWS, "03.png,,2"], "line 13 of .* must be the name of a file and finite numbers"),
        ([*ROWS, "03.png,2"], "line 13 of .* has 1 numbers and the ones before 2"),
        ([*ROWS, "./03.png,3,0.5"], r"line 13 of .* has other numbers for '\./03\.png' than line 4: remove one"),
        ([*ROWS, "77.png,2,3"], r"line 13 of .* names '.*77\.png', which is not there"),
        (["file,age"], "is empty: write a file and its numbers on each line"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path, rows: list[str], message: str):
    numbered(tmp_path, rows)
    with pytest.raises(DataError, match=message) as caught:
        load(f"pairs:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(20, 16), (16, 16)])
def test_images_with_numbers_are_seen_whole(tmp_path: Path, size: tuple[int, int]):
    numbered(tmp_path, ROWS)
    for number in range(12):
        noise(number, *size).save(tmp_path / f"{number:02}.png")
    data = load_data(f"pairs:{tmp_path}", image_size=16, workers=0)
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in (data.mean, data.std))
    for images, numbers in data.batches("train", 4):
        for image, number in zip(images, numbers[:, 0].tolist(), strict=True):
            whole = noise(int(number), *size).resize((16, 16), Image.Resampling.BILINEAR)
            seen = torch.from_numpy(np.array(whole)).permute(2, 0, 1) / 255
            torch.testing.assert_close(image * std + mean, seen, rtol=0, atol=1e-6)


def test_the_mark_at_the_beginning_of_a_text_is_no_part_of_a_name(tmp_path: Path):
    numbered(tmp_path, [f"\ufeff{ROWS[0]}", *ROWS[1:], ROWS[3]])
    assert sorted(len(it.paths) for it in load(f"pairs:{tmp_path}").source.parts.values()) == [1, 1, 11]


def test_splits_must_have_as_many_numbers(tmp_path: Path):
    numbered(tmp_path / "train", ROWS)
    numbered(tmp_path / "test", ["00.png,3"])
    with pytest.raises(DataError, match=r"the tables in .* have 2, 1 numbers for each image"):
        load(f"pairs:{tmp_path}")
