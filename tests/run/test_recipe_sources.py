"""What a recipe names is known by its content."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path

import pytest

from secateur.errors import ArtifactError
from secateur.recipe import Recipe
from secateur.run import run_recipe
from secateur.run.sources import RECORD, change, hold, noted, recorded, sources

NET = "from torch import nn\nfrom layers import first\n\n"
NET += "def build():\n    return nn.Sequential(first(), nn.ReLU(), last())\n\n"
NET += "def last():\n    return nn.Conv2d(8, 4, 1)\n"
LAYERS = "from torch import nn\n\ndef first():\n    return nn.Conv2d(3, 8, 3)\n"


@pytest.fixture
def named(tmp_path: Path) -> Recipe:
    """Return a recipe that names one of each."""
    (tmp_path / "own.py").write_text(NET)
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "other.py").write_text("")
    (tmp_path / "dense.safetensors").write_bytes(b"weights")
    for split, count in (("train", 3), ("test", 2)):
        folder = tmp_path / "pictures" / split / "cats"
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.png").write_bytes(b"x" * number)
    (tmp_path / "images.npy").write_bytes(b"array")
    return Recipe(
        model=f"{tmp_path / 'own.py'}:build",
        weights=str(tmp_path / "dense.safetensors"),
        data=f"imagefolder:{tmp_path / 'pictures'}",
        calibrate=str(tmp_path / "images.npy"),
        method="magnitude",
    )


def test_all_that_a_recipe_names_is_looked_at(named: Recipe) -> None:
    found = sources(named)
    assert [(each.setting, each.files) for each in found] == [
        ("model", 2), ("weights", 1), ("data", 5), ("calibrate", 1)
    ]  # fmt: skip
    assert noted([asdict(each) for each in found]) == found
    assert change(found, named) == ""
    assert sources(Recipe(model="resnet20", data="mnist5k", weights="pretrained", method="magnitude")) == ()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("own.py", "the code of the network"),
        ("layers.py", "the code of the network"),
        ("dense.safetensors", "the weights file"),
        ("pictures/train/cats/1.png", "the data set"),
        ("images.npy", "what holds the calibration images"),
    ],
)
def test_a_change_is_named(file: str, said: str, named: Recipe, tmp_path: Path) -> None:
    before = sources(named)
    path = tmp_path / file
    path.write_bytes(path.read_bytes() + b"\n# more")
    assert change(before, named).startswith(said)
    path.unlink()
    if file in ("dense.safetensors", "images.npy"):  # what is not there contradicts nothing
        assert change(before, named) == ""


def test_a_picture_more_is_counted(named: Recipe, tmp_path: Path) -> None:
    before = sources(named)
    (tmp_path / "pictures" / "test" / "cats" / "new.png").touch()
    assert change(before, named).endswith("has changed since (5 files then, 6 now)")


def test_what_is_beside_changes_nothing(named: Recipe, tmp_path: Path) -> None:
    before = sources(named)
    (tmp_path / "other.py").write_text("other")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    assert change(before, named) == ""


def test_a_package_is_followed_by_its_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = Path("nets")
    (package / "deep").mkdir(parents=True)
    for name, text in (
        ("__init__", ""), ("made", "from . import parts\nfrom .deep.core import x\nimport torch"), ("parts", ""),
        ("deep/__init__", ""), ("deep/core", "from ..parts import y\nfrom .. import made"), ("unused", ""),
    ):  # fmt: skip
        (package / f"{name}.py").write_text(text)
    recipe = Recipe(model="nets.made:build", method="magnitude")
    [before] = sources(recipe)
    assert before.files == 5
    (package / "unused.py").write_text("1")
    assert change([before], recipe) == ""
    (package / "deep" / "core.py").write_text("1")
    assert change([before], recipe)


def test_what_was_saved_before_there_was_a_record_says_nothing(named: Recipe, tmp_path: Path) -> None:
    for old in (None, [], [{"setting": "weights"}], 3, ["x"]):
        assert change(noted(old), named) == ""
    assert recorded(tmp_path) == ()
    (tmp_path / RECORD).write_text("{ no JSON")
    assert recorded(tmp_path) == ()


def test_work_of_other_files_is_not_gone_on_with(named: Recipe, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert hold(work, named) == hold(work, named) == sources(named)
    (tmp_path / "dense.safetensors").write_bytes(b"other weights")
    with pytest.raises(ArtifactError, match=r"work holds work of this recipe, but the weights file .* delete it"):
        hold(work, named)
    assert len(hold(work, dataclasses.replace(named, weights=""))) == 3


def test_a_run_in_a_work_folder_refuses_other_code(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NET.replace("first()", "nn.Conv2d(3, 8, 3)").replace("from layers", "# "))
    recipe = Recipe(model=f"{tmp_path / 'own.py'}:build", image="3x8x8", method="magnitude", keep=0.5, latency=False)
    result = run_recipe(recipe, work=tmp_path / "work")
    assert result.sources == sources(recipe)
    with (tmp_path / "own.py").open("a") as file:
        file.write("# another activation, say\n")
    with pytest.raises(ArtifactError, match="the code of the network"):
        run_recipe(recipe, work=tmp_path / "work")
