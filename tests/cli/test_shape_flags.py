"""``--image`` and ``--image-size``: what a network takes where there are no images, or the shape of those."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from commands import Call
from secateur import artifact
from secateur.models import build

HALF = ("--keep", "0.6", "--no-latency", "--export", "")
GREY = """
from torch import nn

def grey():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )
"""


def pictures(folder: Path, colours: bool) -> str:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for number in range(70):
        shape = (28, 28, 3) if colours else (28, 28)
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")
    return folder.name


def shape_of(ended: object, folder: str = "new") -> list[int]:
    return artifact.load(folder, build=build).measurement["example"]["shape"]


def test_a_grey_network_needs_no_images(secateur: Call, tmp_path: Path):
    (tmp_path / "mine.py").write_text(GREY)
    words = ("--model", "mine.py:grey", *HALF)
    refused = secateur("prune", *words, "--out", "new")
    assert refused.status == 1
    assert "name the shape of one (--image, such as 1x28x28)" in refused.err
    ended = secateur("prune", *words, "--image", "1x20x24", "--out", "new")
    assert ended.status == 0, ended.err
    assert shape_of(ended) == [1, 1, 20, 24]
    again = secateur("run", "new", "--trust", "--out", "again", "--quiet")
    assert again.status == 0, again.err
    assert shape_of(again, "again") == [1, 1, 20, 24]
    planned = secateur("plan", *words[:4], "--image", "1x20x24", "--json")
    assert (
        json.loads(planned.out)["before"]["macs"]
        == json.loads(secateur("measure", *words[:2], "--image", "1x20x24", "--no-latency", "--json").out)["counts"][
            "macs"
        ]
    )
    assert "'image' in the recipe, such as" in secateur("run", recipe(tmp_path), "--trust", "--out", "x").err


def recipe(folder: Path) -> Path:
    text = 'model = "mine.py:grey"\nexport = []\nlatency = false\n[target]\nkeep = 0.5\n[method]\nname = "magnitude"\n'
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


def test_the_size_counts_without_images(secateur: Call):
    macs = {}
    for size in ("32", "64"):
        plan = json.loads(secateur("plan", "--model", "resnet20", "--keep", "0.5", "--image-size", size, "--json").out)
        measured = secateur("measure", "--model", "resnet20", "--image-size", size, "--no-latency", "--json")
        macs[size] = plan["before"]["macs"]
        assert json.loads(measured.out)["counts"]["macs"] == macs[size]
    assert macs["64"] > 3.9 * macs["32"]
    built = json.loads(secateur("measure", "--model", "lenet5", "--image-size", "32", "--no-latency", "--json").out)
    assert built["counts"]["params"] == sum(p.numel() for p in build("lenet5", channels=1, image=32).parameters())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--data", "mnist5k", "--image-size", "32"),
            "are 1x28x28 and stay so, not 1x32x32 as asked: leave --image-size",
        ),
        (
            ("--data", "mnist5k", "--image", "3x28x28"),
            "are 1x28x28 and stay so, not 3x28x28 as asked: leave --image out",
        ),
        (("--image", "3x32x32", "--image-size", "32"), "--image says height and width, so leave --image-size out"),
        (("--image", "3x32"), '--image must be channels, height and width such as "3x32x32", not'),
        (("--image", "16"), "not '16'; a size alone is given with --image-size"),
        (("--image", "0x32x32"), '--image must be channels, height and width such as "3x32x32", not'),
    ],
)
def test_what_would_be_ignored_is_refused(secateur: Call, words: tuple[str, ...], sentence: str):
    for verb in ("plan", "prune"):
        ended = secateur(verb, "--model", "lenet5", "--keep", "0.5", *words)
        assert ended.status == 1
        assert sentence in ended.err
    ended = secateur("explain", "--model", "lenet5", *words)
    assert (ended.status, sentence in ended.err) == (1, True)


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_lenet_takes_the_pictures_as_they_are(secateur: Call, tmp_path: Path, colours: bool, labelled: bool):
    channels = 3 if colours else 1
    save_file(build("lenet5", classes=10, channels=channels).state_dict(), tmp_path / "w.safetensors")
    pictures(tmp_path / ("folder/train/a" if labelled else "folder"), colours)
    where = ("--data", "imagefolder:folder", "--image-size", "28") if labelled else ("--calibrate", "folder")
    words = ("--model", "lenet5", "--weights", "w.safetensors", "--classes", "10", "--method", "magnitude", *where)
    ended = secateur("prune", *words, *HALF, "--workers", "0", "--out", "new")
    assert ended.status == 0, ended.err
    assert shape_of(ended) == [1, channels, 28, 28]


def test_pictures_are_read_in_the_shape_that_is_named(secateur: Call, tmp_path: Path):
    save_file(build("lenet5", channels=1, image=20).state_dict(), tmp_path / "w.safetensors")
    pictures(tmp_path / "folder", True)
    pictures(tmp_path / "labelled" / "train" / "a", True)
    words = ("--model", "lenet5", "--weights", "w.safetensors", "--image", "1x20x20", "--classes", "10", *HALF)
    for number, where in enumerate((("--calibrate", "folder"), ("--data", "imagefolder:labelled"))):
        ended = secateur("prune", *words, *where, "--method", "magnitude", "--workers", "0", "--out", f"new{number}")
        assert ended.status == 0, ended.err
        assert shape_of(ended, f"new{number}") == [1, 1, 20, 20]


def test_the_usual_images_of_a_network_without_any(secateur: Call, tmp_path: Path):
    save_file(build("lenet5", channels=1).state_dict(), tmp_path / "w.safetensors")
    ended = secateur("prune", "--model", "lenet5", "--weights", "w.safetensors", *HALF, "--out", "new")
    assert ended.status == 0, ended.err
    assert shape_of(ended) == [1, 1, 28, 28]
    assert torch.isfinite(artifact.load("new").model.conv1.weight).all()
