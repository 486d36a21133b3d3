"""Images with masks: how they may lie, what their numbers mean, and that both are changed alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.data import load_calibration, load_data, with_task
from secateur.data import masks as masks_of
from secateur.errors import DataError
from secateur.tasks import Segmentation

SIDE = 16


def scene(number: int, size: tuple[int, int] = (24, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture and its mask: a rectangle of class 1 or 2, whose grey is 100 times its class."""
    rng = np.random.default_rng(number)
    mask = np.zeros(size[::-1], np.uint8)
    top, left = (int(it) for it in rng.integers(0, 8, 2))
    mask[top : top + 9, left : left + 11] = 1 + number % 2
    return np.repeat((mask * 100)[..., None], 3, 2), mask


def put(images: Path, masks: Path, count: int = 6, ending: str = "png", start: int = 0) -> None:
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        image, mask = scene(number)
        Image.fromarray(image).save(images / f"{number:02}.png")
        Image.fromarray(mask).convert("RGB" if ending == "webp" else "L").save(
            masks / f"{number:02}.{ending}", **({"lossless": True} if ending == "webp" else {})
        )


def load(root: Path, **settings: Any) -> Any:
    return load_data(f"segmentation:{root}", image_size=SIDE, **{"workers": 0, **settings})


LAYOUTS = {
    "inside": lambda root, split: (root / split / "images", root / split / "masks"),
    "labels": lambda root, split: (root / split / "images", root / split / "labels"),
    "across": lambda root, split: (root / "images" / split, root / "annotations" / split),
    "camvid": lambda root, split: (root / split, root / f"{split}annot"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("splits", "sizes"),
    [(["train"], (16, 2, 2)), (["train", "val"], (18, 2, 4)), (["train", "val", "test"], (20, 4, 4))],
)
def test_layouts_are_read_and_missing_splits_held_out(
    tmp_path: Path, layout: str, splits: list[str], sizes: tuple[int, ...]
):
    for split in splits:
        put(*LAYOUTS[layout](tmp_path, split), count=20 if split == "train" else 4)
    data = load(tmp_path)
    assert tuple(data.size(split) for split in ("train", "val", "test")) == sizes
    assert (data.classes, data.shape, data.task) == (3, (3, SIDE, SIDE), Segmentation())
    paths = [path for part in data.source.parts.values() for path in part.images]
    assert len(set(paths)) == len(paths)
    for part in data.source.parts.values():
        assert [Path(path).stem for path in part.images] == [Path(path).stem for path in part.masks]


@pytest.mark.parametrize("val", ["val", "valid"])
def test_a_folder_without_splits_and_that_of_voc_are_read(tmp_path: Path, val: str):
    put(tmp_path / "flat" / "images", tmp_path / "flat" / "masks", count=20)
    assert load(tmp_path / "flat").size("train") == 16
    voc = tmp_path / "voc"
    put(voc / "JPEGImages", voc / "SegmentationClass", count=12)
    for path in (voc / "JPEGImages").iterdir():
        path.rename(path.with_suffix(".jpg"))
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, numbers in (("train", range(6)), (val, range(6, 9)), ("test", range(9, 12))):
        (lists / f"{split}.txt").write_text("".join(f"{number:02}\n" for number in numbers))
    data = load(voc)
    assert [data.size(split) for split in ("train", "val", "test")] == [6, 3, 3]
    (lists / "train.txt").write_text("77\n")
    with pytest.raises(DataError, match=r"names '.*77\.jpg', which is not there"):
        load(voc)


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop_flip"])
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_masks_are_changed_as_their_images_are(tmp_path: Path, augment: str, ending: str):
    put(tmp_path / "images", tmp_path / "masks", count=10, ending=ending)
    data = load(tmp_path, mean=[0, 0, 0], std=[1, 1, 1], val_fraction=0.2)
    (images, masks), *_ = data.batches("train", 6, augment=augment, shuffle=True, seed=2)
    assert (images.shape, masks.shape, masks.dtype) == ((6, 3, SIDE, SIDE), (6, SIDE, SIDE), torch.int64)
    assert bool((masks == 255).any()) == ("crop" in augment)
    said = torch.where(masks == 255, 0, masks)
    assert float(((images[:, 0] * 255 - 100 * said).abs() > 60).float().mean()) < 0.06  # edges are smoothed
    assert set(masks.unique().tolist()) - {255} == {0, 1, 2}


@pytest.mark.parametrize("ignore", [-1, -100, 256])
def test_numbers_that_no_pixel_has_can_be_ignored(tmp_path: Path, ignore: int):
    put(tmp_path / "images", tmp_path / "masks", count=10)
    usual, other = (load(tmp_path, task=Segmentation(ignore=each), val_fraction=0.2) for each in (255, ignore))
    (_, masks), *_ = usual.batches("train", 6, augment="crop_flip", seed=2)
    (_, found), *_ = other.batches("train", 6, augment="crop_flip", seed=2)
    assert found.dtype == torch.int64
    assert bool((found == ignore).any())
    torch.testing.assert_close(found, torch.where(masks == 255, ignore, masks), rtol=0, atol=0)


def test_nothing_lies_outside_of_an_image_where_no_number_is_ignored(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=10)
    data = load(tmp_path, task=Segmentation(ignore=None), val_fraction=0.2)
    (_, masks), *_ = data.batches("train", 6, augment="crop", seed=2)
    assert set(masks.unique().tolist()) == {0, 1, 2}


def test_batches_depend_on_the_seed_not_on_workers_or_processes(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=14)
    one_pass = {"augment": "crop_flip", "shuffle": True, "seed": 4}
    single = list(load(tmp_path).batches("train", 4, **one_pass))
    others = list(load(tmp_path, workers=2).batches("train", 4, **one_pass))
    halves = [list(load(tmp_path).batches("train", 4, rank=rank, world=2, **one_pass)) for rank in range(2)]
    assert len(single) == 3
    for number, batch in enumerate(single):
        for place in range(2):
            assert torch.equal(others[number][place], batch[place])
            for rank in range(2):
                assert torch.equal(halves[rank][number][place], batch[place][rank::2])
    again, *_ = load(tmp_path).batches("train", 4, **{**one_pass, "seed": 5})
    assert not torch.equal(again[1], single[0][1])


def test_the_example_is_the_first_validation_image_and_calibration_takes_images(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    data = load(tmp_path)
    (images, _), *_ = data.batches("val", 2)
    assert torch.equal(data.example(), images[:1])
    found = load_calibration(data, count=5)
    assert (found.count, found.batches[0].shape[1:]) == (5, (3, SIDE, SIDE))


def test_grey_images_are_asked_for_by_a_number(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    data = load(tmp_path, channels=1)
    assert (data.shape, len(data.mean), data.example().shape) == ((1, SIDE, SIDE), 1, (1, 1, SIDE, SIDE))


def test_the_ignored_number_decides_how_many_classes_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    data = load(tmp_path)
    read = list[str]()
    get = masks_of.read_mask
    monkeypatch.setattr(masks_of, "read_mask", lambda path, table: read.append(path) or get(path, table))
    other = with_task(data, Segmentation(ignore=2))
    assert (other.classes, other.task, read) == (2, Segmentation(ignore=2), [])
    (_, masks), *_ = other.batches("train", 8, augment="crop")
    assert 255 not in masks.unique().tolist()
    assert (
        load(tmp_path, classes=7).classes == with_task(load(tmp_path, classes=7), Segmentation(ignore=2)).classes == 7
    )


def test_palettes_and_few_bits_are_numbers(tmp_path: Path):
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    picture = Image.fromarray(mask).convert("P")
    picture = Image.frombytes("P", (2, 2), mask.tobytes())
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    picture.save(tmp_path / "palette.png")
    assert masks_of.read_mask(str(tmp_path / "palette.png"), None).tolist() == mask.tolist()
    Image.fromarray(mask > 1).save(tmp_path / "bits.png")
    assert masks_of.read_mask(str(tmp_path / "bits.png"), None).tolist() == [[0, 0], [1, 1]]


def test_colours_need_a_table(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    colours = np.array([(9, 9, 9), (255, 0, 0), (0, 0, 255)], np.uint8)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(path))]).save(path)
    with pytest.raises(DataError, match=r"holds colours, and nothing says which class each one is.*class_dict\.csv"):
        load(tmp_path)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,9,9,9\nroad,255,0,0\ntree, 0, 0, 255\n")
    data = load(tmp_path)
    assert (data.classes, data.names) == (3, ("sky", "road", "tree"))
    assert set(next(iter(data.batches("train", 8)))[1].unique().tolist()) == {0, 1, 2}
    (tmp_path / "class_dict.csv").write_text("sky,9,9,9\nroad,255,0,0\n")
    with pytest.raises(DataError, match="holds the colour 0,0,255"):
        load(tmp_path)
    (tmp_path / "class_dict.csv").write_text("sky,9,9,9\nroad,9,9,9\n")
    with pytest.raises(DataError, match=r"line 2 of '.*class_dict\.csv' \(road,9,9,9\) must be a class with a colour"):
        load(tmp_path)


def test_where_a_table_says_the_classes_few_masks_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    (tmp_path / "class_dict.csv").write_text("sky,9,9,9\nroad,255,0,0\ntree,0,0,255\nsign,1,2,3\n")
    monkeypatch.setattr(masks_of, "MOST_TRIED", 4)
    read = list[str]()
    get = masks_of.read_mask
    monkeypatch.setattr(masks_of, "read_mask", lambda path, table: read.append(path) or get(path, table))
    assert load(tmp_path).classes == 4
    assert len(read) == 4


def test_the_colours_of_a_palette_decide_where_there_is_a_table(tmp_path: Path):
    path = tmp_path / "palette.png"
    picture = Image.frombytes("P", (2, 2), bytes([0, 1, 1, 0]))
    picture.putpalette([255, 0, 0, 9, 9, 9])
    picture.save(path)
    table = masks_of.ColourTable(("sky", "road"), (0x090909, 0xFF0000))
    assert masks_of.read_mask(str(path), table).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match=r"255,0,0, unknown to the table: add it, or remove the table"):
        masks_of.read_mask(str(path), masks_of.ColourTable(("sky",), (0x090909,)))


def deep(path: Path) -> None:
    Image.fromarray(np.full((20, 24), 700, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: Image.new("L", (9, 9)).save(path), r"has 9 x 9 pixels and its image '.*' 24 x 20: they must be"),
        (
            lambda path: Image.new("L", (24, 20), 9).save(path),
            r"holds the class 9, but there are 3 classes.*classes=10",
        ),
        (deep, "holds numbers of more than 8 bits"),
        (lambda path: Image.new("RGBA", (24, 20)).save(path), "has the mode RGBA, neither class numbers nor colours"),
        (lambda path: Image.new("L", (24, 20)).save(path, "JPEG"), "is a JPEG, which changes numbers"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_in_one_sentence(tmp_path: Path, spoil: Any, message: str):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    data = load(tmp_path, classes=3)
    spoil(Path(data.source.parts["train"].masks[0]))
    with pytest.raises(DataError, match=message) as caught:
        list(data.batches("train", 4))
    assert "\n" not in str(caught.value)


def test_masks_of_one_class_beside_the_ignored_number_are_refused(tmp_path: Path):
    put(tmp_path / "images", tmp_path / "masks", count=20)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(255 * (np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match="hold one class alone beside 255, which is ignored: write class numbers 0, 1"):
        load(tmp_path)


def test_files_without_partner_and_wrong_folders_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no training examples that are known as such: put them in train/images"):
        load(tmp_path)
    put(tmp_path / "images", tmp_path / "masks", count=4)
    (tmp_path / "masks" / "03.png").unlink()
    with pytest.raises(DataError, match=r"03\.png' has no file of the same name in '.*masks'"):
        load(tmp_path)
    (tmp_path / "images" / "03.png").unlink()
    (tmp_path / "images" / "02.png").unlink()
    with pytest.raises(DataError, match=r"masks/02\.png' has no file of the same name in '.*images'"):
        load(tmp_path)


def test_masks_for_testing_are_not_counted(tmp_path: Path):
    for split in ("train", "val", "test"):
        put(tmp_path / split / "images", tmp_path / split / "masks", count=4)
    (tmp_path / "test" / "masks" / "00.png").write_bytes(b"closed")
    assert load(tmp_path).classes == 3
