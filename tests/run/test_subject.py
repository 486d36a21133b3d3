"""What a recipe says of its data reaches what reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateur.errors import DataError, ModelError
from secateur.recipe import Recipe
from secateur.run import data_of, model_of
from secateur.run.subject import task_in
from secateur.spelling import spelt_for
from task_worlds import NETWORKS


def streets(root: Path) -> Path:
    for split, classes in (("train", 2), ("val", 2), ("test", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(4):
            mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % classes
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
            Image.fromarray(mask * 100).save(root / split / "images" / f"{number}.png")
    return root


def recipe(root: Path, **more: object) -> Recipe:
    (root / "nets.py").write_text(NETWORKS)
    settings = {"model": f"{root / 'nets.py'}:segmenter", "data": f"segmentation:{root}", "image_size": 8, "workers": 0}
    return Recipe(**{**settings, "method": "magnitude", **more})  # type: ignore[arg-type]


def test_classes_that_only_test_masks_show_are_named_with_the_network(tmp_path: Path):
    streets(tmp_path)
    short = data_of(recipe(tmp_path))
    assert short is not None
    assert short.classes == 2
    for surface, remedy in (("python", r"\(classes=3\)"), ("flags", "--classes 3"), ("recipe", "classes = 3")):
        with (
            spelt_for(surface),
            pytest.raises(DataError, match=f"holds the class 2, but there are 2 classes.*{remedy}"),
        ):
            list(short.batches("test"))
    asked = recipe(tmp_path, classes=3)
    whole = data_of(asked)
    assert whole is not None
    assert (whole.classes, model_of(asked, whole).head.out_channels) == (3, 3)
    assert sum(len(masks) for _, masks in whole.batches("test")) == 4


def test_a_network_of_fewer_classes_than_the_data_is_refused_and_one_of_more_is_not():
    digits = {"model": "lenet5", "data": "mnist5k", "method": "magnitude"}
    with pytest.raises(DataError, match=r"mnist5k has 10 classes, and the network would have 4: leave classes= out"):
        data_of(Recipe(**digits, classes=4))
    found = data_of(Recipe(**digits, classes=20))
    assert found is not None
    assert found.classes == 10
    embeddings = data_of(Recipe(**digits, classes=4, task="retrieval"))
    assert embeddings is not None
    assert embeddings.classes is None


def held_out(tmp_path: Path, **more: object) -> list[float]:
    settings = {"model": "lenet5", "data": f"pairs:{tmp_path}", "method": "magnitude", "image_size": 8, "workers": 0}
    data = data_of(Recipe(**{**settings, **more}))  # type: ignore[arg-type]
    assert data is not None
    return [round(float(image.mean()), 3) for images, _ in data.batches("val") for image in images]


def test_the_same_images_are_held_out_whatever_the_seed_where_the_split_has_one_of_its_own(tmp_path: Path):
    for split in ("train", "test"):
        for kind in ("inputs", "targets"):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(12):
                Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(tmp_path / split / kind / f"{number}.png")
    drawn = [held_out(tmp_path, seed=seed) for seed in range(6)]
    assert len(set(map(tuple, drawn))) > 1
    for seed in range(6):
        assert held_out(tmp_path, seed=seed, split_seed=2) == drawn[2]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("mine.py:fails", r"the task of .*mine\.py:fails cannot be built: ValueError: no"),
        ("mine.py:makee", r"has no function 'makee' \(did you mean 'make'\?\) to build the task with"),
        ("other.py:make", r"there is no Python file .*other\.py to take the task from"),
        ("mine.py", r"mine\.py' lacks the function that makes the task: write .*mine\.py:FUNCTION"),
        ("mine.py:make", r"mine\.py:make must return a task .*, not 3"),
    ],
)
def test_code_that_makes_no_task_is_named_as_such(tmp_path: Path, named: str, said: str) -> None:
    (tmp_path / "mine.py").write_text("def make():\n    return 3\n\ndef fails():\n    raise ValueError('no')\n")
    asked = Recipe(model="lenet5", method="magnitude", task=str(tmp_path / named))
    with pytest.raises(ModelError, match=said):
        task_in(asked)
    (tmp_path / "asked.toml").write_text(asked.to_toml())
    with pytest.raises(
        ModelError, match=r"the task of the recipe comes from your own code|lacks the function that makes"
    ):
        task_in(Recipe.read(tmp_path / "asked.toml"))
