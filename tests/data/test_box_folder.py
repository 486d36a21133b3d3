"""Images with boxes in COCO's JSON: what is read of it, what is refused, and that boxes follow their images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secateur import events
from secateur.data import load_calibration, load_data
from secateur.errors import DataError
from secateur.tasks import Detection

SIDE = 32
WIDE, HIGH = 40, 20


def table(count: int, *, start: int = 0) -> dict[str, Any]:
    """Return a file for pictures with one box each, of two categories whose ids are 7 and 3."""
    return {
        "images": [
            {"id": 100 + number, "file_name": f"{number:02}.png", "width": WIDE, "height": HIGH}
            for number in range(start, start + count)
        ],
        "annotations": [
            {"id": number, "image_id": 100 + number, "category_id": (7, 3)[number % 2], "bbox": list(box(number))}
            for number in range(start, start + count)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def box(number: int) -> tuple[int, int, int, int]:
    rng = np.random.default_rng(number)
    return int(rng.integers(2, 20)), int(rng.integers(1, 8)), 14, 10


def pictures(folder: Path, count: int, *, start: int = 0) -> None:
    """Write black pictures with a bright rectangle of their own where the box is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        picture = Image.new("RGB", (WIDE, HIGH))
        x, y, wide, high = box(number)
        picture.paste((180 + 3 * number,) * 3, (x, y, x + wide, y + high))
        picture.save(folder / f"{number:02}.png")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def simple(root: Path, content: dict[str, Any] | None = None, count: int = 12) -> Path:
    pictures(root / "images", count)
    write(root / "train.json", table(count) if content is None else content)
    return root


def load(root: Path, **settings: Any) -> Any:
    return load_data(f"coco:{root}", image_size=SIDE, **{"workers": 0, **settings})


PLACES = {
    "beside images": (lambda split: f"{split}.json", lambda split: "images"),
    "as published": (lambda split: f"annotations/instances_{split}2017.json", lambda split: f"{split}2017"),
    "inside": (lambda split: f"{split}/_annotations.coco.json", lambda split: split),
    "across": (lambda split: f"annotations/{split}.json", lambda split: f"images/{split}"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_files_are_found_where_they_usually_lie(tmp_path: Path, place: str, val: str):
    notes, folder = PLACES[place]
    for at, split in enumerate(("train", val, "test")):
        pictures(tmp_path / folder(split), 4, start=4 * at)
        write(tmp_path / notes(split), table(4, start=4 * at))
    data = load(tmp_path)
    assert [data.size(split) for split in ("train", "val", "test")] == [4, 4, 4]
    assert (data.classes, data.names, data.task) == (3, ("background", "dog", "cat"), Detection())
    assert [Path(image.path).stem for image in data.source.parts["val"].images] == ["04", "05", "06", "07"]


def test_missing_splits_are_held_out(tmp_path: Path):
    data = load(simple(tmp_path, count=20))
    assert [data.size(split) for split in ("train", "val", "test")] == [16, 2, 2]


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop_flip"])
def test_boxes_follow_their_images(tmp_path: Path, augment: str):
    data = load(simple(tmp_path))
    assert (data.mean, data.std, data.shape) == ((0.0,) * 3, (1.0,) * 3, (3, SIDE, SIDE))
    moved = 0
    for seed in range(3):
        for images, targets in data.batches("train", 5, augment=augment, shuffle=True, seed=seed):
            assert images.shape == (len(targets), 3, SIDE, SIDE)
            assert 0 <= float(images.min()) <= float(images.max()) <= 1
            for image, target in zip(images, targets, strict=True):
                assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
                for x1, y1, x2, y2 in target["boxes"].tolist():
                    white = torch.nonzero(image[0] > 0.5)
                    edges = [*white.min(0).values.tolist(), *(white.max(0).values + 1).tolist()]
                    assert np.allclose([y1, x1, y2, x2], edges, atol=1.1)
                    moved += abs(x2 - x1 - 14 * SIDE / WIDE) > 1.1 or abs(y2 - y1 - 10 * SIDE / HIGH) > 1.1
    assert bool(moved) == ("crop" in augment)


def test_boxes_that_a_crop_leaves_no_area_go_with_their_labels(tmp_path: Path):
    content = table(12)
    for entry in content["annotations"]:
        entry["bbox"] = [0, 0, 3, 20]
    data = load(simple(tmp_path, content))
    targets = [target for _, batch in data.batches("train", 4, augment="crop", seed=1) for target in batch]
    assert {len(target["boxes"]) for target in targets} == {0, 1}
    assert all(target["boxes"].shape == (len(target["labels"]), 4) for target in targets)


def test_labels_count_from_one_in_the_order_of_the_ids(tmp_path: Path):
    data = load(simple(tmp_path))
    for image in data.source.parts["train"].images:
        assert image.labels == ((2, 1)[int(Path(image.path).stem) % 2],)


@pytest.mark.parametrize("split", ["train", "test"])
def test_crowds_stay_crowds_of_which_nothing_is_learned(tmp_path: Path, split: str):
    content = table(12)
    content["annotations"] += [{**entry, "id": 50 + entry["id"], "iscrowd": 1} for entry in content["annotations"]]
    data = load(simple(tmp_path, content), val_fraction=0.2)
    (images, targets), *_ = data.batches(split, 2, augment="crop_flip" if split == "train" else "none")
    assert [target["iscrowd"].tolist() for target in targets] == [[0, 1]] * 2
    _, learned = data.task.inputs((images, targets), training=True)
    for target, left in zip(targets, learned, strict=True):
        assert torch.equal(left["boxes"], target["boxes"][:1])


def test_images_without_boxes_stay(tmp_path: Path):
    content = table(12)
    del content["annotations"][:6]
    data = load(simple(tmp_path, content), val_fraction=0.1)
    boxes = [len(image.boxes) for part in data.source.parts.values() for image in part.images]
    assert sorted(boxes) == [0] * 6 + [1] * 6
    empty = [
        one for _, batch in data.batches("train", 4, augment="crop_flip") for one in batch if not len(one["boxes"])
    ]
    assert empty
    assert all(one["boxes"].shape == (0, 4) and one["labels"].shape == (0,) for one in empty)


def test_boxes_are_clipped_and_those_without_area_left_out_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(events, "_SAID", set())
    content = table(12)
    content["annotations"][0]["bbox"] = [30, 10, 15, 14]
    content["annotations"][1]["bbox"] = [5, 5, 0, 9]
    content["annotations"][2]["bbox"] = [50, 5, 9, 9]
    content["annotations"][3]["bbox"] = [39.9999999, 4, 10, 10]  # which is 40 in float32
    with pytest.warns(UserWarning, match=r"train\.json' has 3 boxes without area on their images") as caught:
        data = load(simple(tmp_path, content))
    assert len(caught) == 1
    found = {Path(it.path).stem: it.boxes for part in data.source.parts.values() for it in part.images}
    assert [found[f"{number:02}"] for number in range(4)] == [((30.0, 10.0, 40.0, 20.0),), (), (), ()]
    assert len(list(data.batches("train", 4))) == 3


def test_batches_depend_on_the_seed_not_on_workers_or_processes(tmp_path: Path):
    simple(tmp_path)
    one_pass = {"augment": "crop_flip", "shuffle": True, "seed": 4}
    single = list(load(tmp_path).batches("train", 4, **one_pass))
    others = list(load(tmp_path, workers=2).batches("train", 4, **one_pass))
    halves = [list(load(tmp_path).batches("train", 4, rank=rank, world=2, **one_pass)) for rank in range(2)]
    for number, (images, targets) in enumerate(single):
        assert torch.equal(others[number][0], images)
        for rank in range(2):
            assert torch.equal(halves[rank][number][0], images[rank::2])
            for one, other in zip(halves[rank][number][1], targets[rank::2], strict=True):
                assert torch.equal(one["boxes"], other["boxes"])


def test_the_network_takes_a_list_of_images(tmp_path: Path):
    data = load(simple(tmp_path))
    (images, _), *_ = data.batches("val", 1)
    example = data.example()
    assert isinstance(example, tuple)
    assert [len(example), len(example[0])] == [1, 1]
    assert torch.equal(example[0][0], images[0])
    found = load_calibration(data, count=7)
    assert (found.count, found.different) == (7, 7)
    assert [len(images) for (images,) in found.batches] == [7]
    assert found.example()[0][0].shape == (3, SIDE, SIDE)
    assert [len(images) for (images,) in found.at_most(3).batches] == [3]


def change(**changes: Any) -> Any:
    """Return what changes the first entry of lists in a file, or replaces these whole."""

    def apply(content: dict[str, Any]) -> dict[str, Any]:
        for name, value in changes.items():
            if isinstance(value, dict):
                content[name][0] |= value
            else:
                content[name] = value
        return content

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(annotations={"category_id": 9}), "annotation 0 is of the category 9, unknown there"),
        (change(annotations={"category_id": [7]}), "is of the category \\[7\\], unknown there"),
        (change(annotations={"image_id": 9}), "annotation 0 is of the image 9, unknown there"),
        (change(annotations={"id": 1}), "two of the annotations have the id 1"),
        (change(images={"id": 101}), "two of the images have the id 101"),
        (change(categories={"id": 3}), "two of the categories have the id 3"),
        (change(annotations={"bbox": [1, 2, math.nan, 4]}), r"the bbox of annotation 0 \(.*nan.*\) is not four finite"),
        (change(annotations={"bbox": [1, 2, 10**400, 4]}), "is not four finite numbers"),
        (change(annotations={"bbox": [1, 2, 3]}), "is not four finite numbers"),
        (change(annotations={"bbox": None}), "is not four finite numbers"),
        (change(images={"file_name": "none.png"}), "there is no image 'none.png'|1 images that are not there"),
        (change(images={"file_name": None}), "has no file_name"),
        (change(images={"width": None}), "has no width and height in pixels"),
        (change(images=[]), "it has no images"),
        (change(categories=[]), "it has no categories"),
        (change(annotations=None), "it is no COCO file, which has lists of images, annotations and categories"),
        (lambda content: [content], "it is no COCO file"),
    ],
)
def test_files_that_contradict_themselves_are_refused_in_one_sentence(tmp_path: Path, spoil: Any, message: str):
    simple(tmp_path, spoil(table(12)))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert "train.json" in str(caught.value)


def test_a_file_of_other_images_is_refused(tmp_path: Path):
    content = table(12)
    for entry in content["images"]:
        entry |= {"width": 15, "height": 9}
    with pytest.raises(DataError, match="boxes lie mostly outside of their images: it belongs to other ones"):
        load(simple(tmp_path, content))
    for entry in content["images"]:
        entry |= {"width": 90, "height": 90}
    data = load(simple(tmp_path, content))
    with pytest.raises(DataError, match=r"has 40 x 20 pixels, but its boxes are said to be of one of 90 x 90"):
        list(data.batches("train", 4))


def test_splits_must_number_their_categories_alike(tmp_path: Path):
    simple(tmp_path)
    content = table(4)
    content["categories"][0]["name"] = "cow"
    write(tmp_path / "val.json", content)
    with pytest.raises(DataError, match="number their categories differently"):
        load(tmp_path)


def test_files_that_are_not_there_or_damaged_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no COCO file for training: call it train\.json"):
        load(tmp_path)
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DataError, match=r"the boxes in '.*train\.json' cannot be read"):
        load(tmp_path)
    (tmp_path / "train.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"the boxes in '.*train\.json' cannot be read"):
        load(tmp_path)
