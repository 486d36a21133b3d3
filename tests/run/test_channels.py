"""Pictures have as many channels as the network takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from secateur import prune
from secateur.data import Calibration, load_data
from secateur.data.folder import IMAGENET
from secateur.data.picture_source import LUMA
from secateur.recipe import Recipe
from secateur.run import data_of, images_of, prune_as, run_recipe
from secateur.run.calibration_images import named_images, suited

MEAN = sum(weight * value for weight, value in zip(LUMA, IMAGENET[0], strict=True))
STD = sum(weight * value for weight, value in zip(LUMA, IMAGENET[1], strict=True))
CODE = """
from torch import nn
def net(classes=2):
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for count, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / "pets" / place).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(4 * count + number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / place / f"{number}.png")
    return tmp_path / "pets"


def net(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))


def as_grey(folder: Path) -> torch.Tensor:
    with Image.open(folder / "test" / "a" / "0.png") as opened:
        luma = torch.from_numpy(np.asarray(opened.convert("L")).astype(np.float32))
    return (luma / 255 - MEAN) / STD


def batch(found: Calibration | None) -> torch.Tensor:
    assert found is not None
    return found.batches[0]  # type: ignore[return-value]


def test_a_network_of_one_channel_gets_the_pictures_of_a_folder_in_grey(folder: Path) -> None:
    found = batch(named_images(folder / "test", None, count=8, seed=0, model=net(1)))
    assert found.shape == (8, 1, 16, 16)
    assert any(torch.allclose(image[0], as_grey(folder), atol=1e-4) for image in found)
    assert batch(named_images(folder, None, count=2, seed=0, model=net(3))).shape == (2, 3, 16, 16)


def test_a_network_of_three_channels_gets_three_of_grey_pictures(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "x.png")
    found = batch(named_images(tmp_path, None, count=1, seed=0, model=net(3), mean=[0.0] * 3, std=[1.0] * 3))
    assert torch.allclose(found[0], torch.from_numpy(grey).expand(3, -1, -1) / 255)


def test_labelled_pictures_follow_the_network_too(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", image_size=16, workers=0, val_fraction=0.25)
    assert suited(data, net(3)) is data
    found = suited(data, net(1))
    assert (found.shape, found.mean, found.std) == ((1, 16, 16), (MEAN,), (STD,))
    images, labels = next(iter(found.batches("test", 8)))
    assert images.shape == (8, 1, 16, 16)
    assert labels.tolist() == [0] * 4 + [1] * 4
    again = suited(found, net(3))
    assert (again.shape, again.mean) == ((3, 16, 16), (MEAN,) * 3)


def test_a_single_mean_asks_for_grey(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", image_size=16, workers=0, val_fraction=0.25, mean=[0.5], std=[0.25])
    assert data.shape == (1, 16, 16)
    assert data.example().shape == (1, 1, 16, 16)


def test_prune_takes_a_folder_for_a_grey_network(folder: Path) -> None:
    result = prune(net(1).eval(), calibrate=folder, target=0.6, method="reconstruction", latency=False)
    assert result.example_inputs.shape == (1, 1, 16, 16)
    assert "those of grey" in result.calibration


@pytest.mark.parametrize("labelled", [True, False])
def test_recipes_do_as_well(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool) -> None:
    (tmp_path / "code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    where = {"data": f"imagefolder:{folder}"} if labelled else {"calibrate": str(folder)}
    recipe = Recipe(model="code.py:net", method="magnitude", keep=0.6, image_size=16, workers=0, latency=False, **where)
    result = run_recipe(recipe)
    assert result.example_inputs.shape == (1, 1, 16, 16)
    assert prune_as(recipe, net(1), data_of(recipe)).example_inputs.shape == (1, 1, 16, 16)
    if not labelled:
        assert batch(images_of(recipe, None, model=net(1))).shape[1] == 1
