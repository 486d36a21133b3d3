"""``--calibrate``: unlabelled images from the command line."""

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

QUICK = ("--keep", "0.5", "--no-latency", "--export", "")


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """Return a folder of pictures as CIFAR has them, two classes deep."""
    image = pytest.importorskip("PIL.Image")
    for label in ("cats", "dogs"):
        (tmp_path / "photographs" / label).mkdir(parents=True)
        for number in range(8):
            seed = number + 8 * (label == "dogs")  # repeats would count once
            pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "photographs" / label / f"{number}.png")
    return "photographs"


def test_weights_and_a_folder_of_pictures_are_enough(secateur: Call, tmp_path: Path, photographs: str):
    save_file(build("resnet20", classes=100).state_dict(), tmp_path / "w.safetensors")
    words = ("--model", "resnet20", "--weights", "w.safetensors", "--calibrate", photographs, *QUICK)
    ended = secateur("prune", *words, "--out", "small")
    assert ended.status == 0, ended.err
    assert "Images: 16 unlabelled images (pictures in 'photographs', 32x32 pixels, " in ended.said
    assert "at least 64 are advised" in ended.out.replace("\n", " ")
    assert "repaired from 16 unlabelled images" in ended.out.replace("\n", " ")
    assert "Repaired: reconstruct" in ended.out
    assert '[method]\nname = "reconstruction"' in (tmp_path / "small" / "recipe.toml").read_text()
    assert "reading unlabelled images" in ended.err
    assert "warning: 16 unlabelled images" in ended.err.replace("\n", " ")
    loaded = artifact.load(tmp_path / "small")
    assert loaded.model.linear.out_features == 100
    assert loaded.measurement["after"]["quality"] is None
    assert loaded.measurement["example"]["shape"] == [1, 3, 32, 32]
    assert loaded.measurement["calibration"].startswith("16 unlabelled images")
    assert "16 unlabelled images" in (tmp_path / "small" / "report.html").read_text()


def test_a_recipe_with_a_folder_of_pictures_repeats_the_result(secateur: Call, tmp_path: Path, photographs: str):
    save_file(build("nets.py:coloured").state_dict(), tmp_path / "w.safetensors")
    words = ("--model", "nets.py:coloured", "--weights", "w.safetensors", "--calibrate", photographs, *QUICK)
    ended = secateur("prune", *words, "--out", "small", "--quiet")
    assert ended.status == 0, ended.err
    assert "Repaired: reconstruct" in ended.out
    again = secateur("run", "small", "--out", "again", "--json", "--trust")
    assert again.status == 0, again.err
    weights = [(tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("small", "again")]
    assert weights[0] == weights[1]


def test_files_of_arrays_and_fewer_images(secateur: Call, tmp_path: Path):
    np.savez(
        tmp_path / "digits.npz",
        images=np.random.default_rng(0).integers(0, 256, (90, 28, 28), np.uint8),
        labels=np.arange(90),
    )
    network = ("--model", "lenet5", "--calibrate", "digits.npz", "--calibrate-images", "80")
    ended = secateur("prune", *network, "--mean", "0.13", "--std", "0.31", *QUICK, "--out", "new", "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["example"]["shape"] == [1, 1, 28, 28]
    assert found["calibration"].startswith("80 unlabelled images")
    recipe = artifact.load(tmp_path / "new").recipe
    assert recipe is not None
    assert (recipe.calibrate, recipe.calibrate_images) == ("digits.npz", 80)


def test_plan_takes_them_too(secateur: Call, photographs: str):
    ended = secateur("plan", "--model", "resnet20", "--calibrate", photographs, "--keep", "0.5", "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--calibrate", "nowhere"], "there is no folder or file 'nowhere'"),
        (["--calibrate", "nets.py"], "'nets.py' is no file of arrays, which end in .npy, .npz, .safetensors"),
        (["--calibrate", "empty"], "there are no pictures in 'empty'"),
        (["--calibrate", "x.npy", "--calibrate-images", "0"], "--calibrate-images must be a whole number of images"),
        (["--calibrate", "x.npy", "--data", "mnist5k"], "the network takes (1, 28, 28): give 1 channel"),
        (["--calibrate", "nan.npy"], "hold NaN or infinite values"),
        (["--repair", "reconstruct"], "repairs need images, labels or not; give --calibrate"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_sentence(secateur: Call, tmp_path: Path, words: list[str], sentence: str):
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "x.npy", torch.rand(9, 3, 32, 32).numpy())
    np.save(tmp_path / "nan.npy", np.full((9, 3, 32, 32), np.nan))
    ended = secateur("prune", "--model", "lenet5", *QUICK, *words, "--out", "new", "--quiet")
    assert ended.status == 1, ended
    assert sentence in ended.err.replace("\n", " ")
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_result_is_evaluated_as_its_images_were_normalised(secateur: Call, tmp_path: Path):
    np.save(tmp_path / "digits.npy", np.random.default_rng(0).integers(0, 256, (70, 28, 28), np.uint8))
    words = ("--model", "lenet5", "--calibrate", "digits.npy", "--classes", "10")
    ended = secateur("prune", *words, "--mean", "0.25", "--std", "0.5", *QUICK, "--out", "small")
    assert ended.status == 0, ended.err
    found = json.loads(secateur("evaluate", "small", "--data", "mnist5k", "--json").out)
    assert (found["mean"], found["std"]) == ([0.25], [0.5])
    asked = ("--data", "mnist5k", "--mean", "0.1", "--std", "0.2", "--json")
    assert json.loads(secateur("evaluate", "small", *asked).out)["mean"] == [0.1]
    network = json.loads((tmp_path / "small" / "measurement.json").read_text())
    assert network["normalisation"] == {"mean": [0.25], "std": [0.5]}


WAYS = """
import torch.nn.functional as F
from torch import nn

class Ways(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.outer, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        pair = (self.inner, self.outer) if len(x) < 60 else (self.outer, self.inner)
        x = F.relu(self.stem(x))
        for layer in pair:
            x = x + F.relu(layer(x))
        return self.head(x.mean((2, 3)))
"""


@pytest.mark.parametrize("command", ["plan", "prune"])
def test_where_ways_part_the_usual_method_makes_room(secateur: Call, tmp_path: Path, command: str):
    (tmp_path / "ways.py").write_text(WAYS)
    np.save(tmp_path / "x.npy", torch.randn(180, 3, 8, 8).numpy())
    words = ["--model", "ways.py:Ways", "--calibrate", "x.npy", "--keep", "0.5", "--quiet"]
    words += ["--no-latency", "--export", "", "--out", "small"] if command == "prune" else []
    ended = secateur(command, *words)
    assert ended.status == 0, ended.err
    assert ended.err.count("warning: ") == 1
    assert "cannot be fitted: magnitude chooses what goes" in ended.err
    if command == "prune":
        assert '[method]\nname = "magnitude"' in (tmp_path / "small" / "recipe.toml").read_text()
    ended = secateur(command, *words, "--method", "reconstruction", "--force")
    assert ended.status == 1
    assert "takes other ways for other images, so its layers cannot be fitted: switch" in ended.err
