from __future__ import annotations

import pytest
import torch
from PIL import Image

from secateur.data import load_data
from secateur.errors import DataError

COLOURS = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cow": (10, 10, 250)}


def fill(root, splits, count=10, size=(40, 30)):
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                shade = tuple(max(0, part - number) for part in colour)
                Image.new("RGB", size, shade).save(folder / f"{number}.png")
    return root


def load(root, **settings):
    return load_data(f"imagefolder:{root}", image_size=16, **{"workers": 0, **settings})


def labels(data, split):
    return torch.cat([y for _, y in data.batches(split, 7)])


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (["train"], (24, 3, 3)),
        (["train", "test"], (27, 3, 30)),
        (["train", "val"], (27, 3, 30)),
        (["train", "val", "test"], (30, 30, 30)),
        (["train", "valid"], (27, 3, 30)),
        (["train", "valid", "test"], (30, 30, 30)),
    ],
)
def test_missing_splits_are_held_out_of_training(tmp_path, splits, sizes):
    data = load(fill(tmp_path / "pets", splits))
    assert tuple(data.size(split) for split in ("train", "val", "test")) == sizes
    assert (data.name, data.classes, data.shape) == ("pets", 3, (3, 16, 16))
    paths = [path for split in ("train", "val", "test") for path in data.source.parts[split].paths]
    assert len(set(paths)) == len(paths) == 30 * len(splits)
    for split in ("train", "val", "test"):
        assert torch.bincount(labels(data, split)).tolist() == [data.size(split) // 3] * 3


def test_training_images_that_nobody_shuffles_mix_the_classes(tmp_path):
    data = load(fill(tmp_path, ["train", "val", "test"]))
    assert len(labels(data, "train")[:10].unique()) == 3
    assert labels(data, "test").tolist() == [0] * 10 + [1] * 10 + [2] * 10


def test_fewer_training_images_are_a_mixed_part_of_all(tmp_path):
    data = load(fill(tmp_path, ["train", "test"]), train_images=8)
    assert tuple(data.size(split) for split in ("train", "val", "test")) == (8, 3, 30)
    assert len(labels(data, "train").unique()) > 1
    whole = load(tmp_path)
    assert data.source.parts["train"].paths == whole.source.parts["train"].paths[:8]


def test_pictures_are_resized_and_normalised(tmp_path):
    data = load(fill(tmp_path, ["train", "test"]), mean=[0, 0, 0], std=[1 / 255] * 3)
    for x, y in data.batches("test", 30):
        assert x.shape == (30, 3, 16, 16)
        assert x.dtype == torch.float32
        expected = torch.tensor(list(COLOURS.values())).float()[y]
        assert ((expected - x.mean((2, 3))).clamp(min=-9.5) <= 9.5).all()
        assert torch.equal(x.mean((2, 3)).argmax(1), y)
    assert data.example().shape == (1, 3, 16, 16)
    first, _ = next(iter(data.batches("val", 1)))
    assert torch.equal(data.example(), first)


def test_evaluation_shows_the_centre_and_training_crops(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("L", (64, 32), 0)
            picture.paste(255, (16, 0, 48, 32))
            picture.save(tmp_path / "train" / name / f"{number}.png")
    data = load(tmp_path, val_fraction=0.25)
    x, _ = next(iter(data.batches("train", 4)))
    assert (x == x[:, :, :1, :1]).all()
    x, _ = next(iter(data.batches("train", 4, augment="crop_flip")))
    assert not (x == x[:, :, :1, :1]).all()


@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
def test_pictures_depend_on_the_seed_not_on_workers_or_processes(tmp_path, augment):
    root = tmp_path
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(6):
            noise = torch.randint(256, (20, 20), generator=torch.Generator().manual_seed(number))
            Image.fromarray(noise.byte().numpy()).save(root / "train" / name / f"{number}.png")
    pass_ = {"augment": augment, "shuffle": True, "seed": 4}
    single = list(load(root).batches("train", 4, **pass_))
    workers = list(load(root, workers=2).batches("train", 4, **pass_))
    state = torch.get_rng_state()
    halves = [list(load(root).batches("train", 4, rank=rank, world=2, **pass_)) for rank in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    other = list(load(root).batches("train", 4, **{**pass_, "seed": 5}))
    for number, (x, y) in enumerate(single):
        assert torch.equal(workers[number][0], x)
        assert torch.equal(workers[number][1], y)
        for rank in range(2):
            assert torch.equal(halves[rank][number][0], x[rank::2])
    assert not torch.equal(other[0][0], single[0][0])


def test_a_picture_that_cannot_be_read_is_named_in_one_sentence(tmp_path):
    fill(tmp_path, ["train", "test"], count=4)
    (tmp_path / "test" / "bee" / "2.png").write_bytes(b"not a picture")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"the image '.*2\.png' cannot be read") as caught:
            list(load(tmp_path, workers=workers, val_fraction=0.3).batches("test", 4))
        assert "\n" not in str(caught.value)


def test_wrong_layouts_are_explained(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no folder 'train' \(it holds no folders\)"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        load(tmp_path)
    (tmp_path / "train" / "ant").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    fill(tmp_path, ["train"])
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="dog' holds no images"):
        load(tmp_path)


def test_a_class_without_training_images_is_named(tmp_path):
    fill(tmp_path, ["train", "test"])
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(DataError, match="has a class 'dog' that the training images do not have"):
        load(tmp_path)


def test_labels_follow_the_training_classes_where_some_are_not_tested(tmp_path):
    fill(tmp_path, ["train", "test"], count=2)
    for number in range(2):
        (tmp_path / "test" / "ant" / f"{number}.png").unlink()
    (tmp_path / "test" / "ant").rmdir()
    data = load(tmp_path, val_fraction=0.5)
    assert labels(data, "test").tolist() == [1, 1, 2, 2]
