"""Runs on unlabelled images: from where they come, what follows from them, and when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from nets import Plain, images, lived_in
from secateur.artifact import document
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem
from secateur.data import Calibration, Data, from_loaders, load_calibration
from secateur.data.arrays import from_arrays
from secateur.events import Event
from secateur.measure.forward import tensors
from secateur.methods.magnitude import Magnitude
from secateur.methods.reconstruction import Reconstruction
from secateur.models import build
from secateur.recipe import Recipe
from secateur.report import outcome
from secateur.run import Result, example_of, images_of, model_of, prune, run_recipe
from secateur.run.calibration_images import named_images
from secateur.training import recalibrate

SHAPE = (3, 8, 8)


@dataclass(frozen=True)
class Looking(ScoreMethod):
    """Notes the images that it is shown; ``looks``: whether it looks at them."""

    paper: ClassVar[Paper] = Paper("On tests", "Ada Author", "Journal of Tests", 2020)
    seen: ClassVar[list[Any]] = []
    looks: bool = True

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.arange(group.size).float()

    def plan(self, problem: Problem) -> Any:
        self.seen.append(problem.images)
        if self.looks and problem.images is not None:
            self.seen[-1] = list(problem.images)
        return super().plan(problem)


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Looking.seen.clear()


class Named(nn.Module):
    """Takes its two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, *, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(image * scale[:, None, None, None])}


class Positional(Named):
    """Takes them in their order."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(image=image, scale=scale)


def folder(path: Path, count: int = 70, size: tuple[int, int] = (8, 8)) -> Path:
    path.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def cut(net: nn.Module, example: Any = None, **how: Any) -> Result:
    return prune(net, example, **{"method": Looking(), "target": 0.5, "latency": False, **how})


def drift(result: Result, inputs: Any) -> float:
    """Return how far the pruned network is from the dense one."""
    with torch.no_grad():
        one, two = (
            next(tensors(net.eval()(**inputs) if isinstance(inputs, Mapping) else net.eval()(*inputs)))
            for net in (result.dense, result.model)
        )
    return float((one - two).square().sum())


# what is repaired, and by what


@pytest.mark.parametrize("kind", [Positional, Named])
def test_networks_of_several_inputs_are_repaired_without_labels_or_examples(kind: type[Named]) -> None:
    net = lived_in(kind())
    rows: Any = {"scale": torch.rand(100) + 0.5, "image": images(100)}
    rows = rows if kind is Named else (rows["image"], rows["scale"])
    recalibrate(net, ((batch, None) for batch in load_calibration(rows).batches))  # so that it fits these images
    plain = cut(net, calibrate=rows, calibrate_images=80, repair=())
    mended = cut(net, calibrate=rows, calibrate_images=80, repair=("reconstruct",))
    assert [(step.step, step.before, step.after) for step in mended.repairs] == [("reconstruct", None, None)]
    assert mended.plans == plain.plans
    assert mended.before.quality is None
    assert drift(mended, rows) < 0.8 * drift(plain, rows)
    assert [len(next(tensors(batch))) for batch in Looking.seen[0]] == [80]
    assert type(Looking.seen[0][0]) is (dict if kind is Named else tuple)
    assert all(len(tensor) == 1 for tensor in tensors(mended.example_inputs))


def test_a_folder_is_enough(tmp_path: Path) -> None:
    net = lived_in(Plain())
    result = prune(net, target=0.5, calibrate=folder(tmp_path / "photographs"), latency=False)
    assert isinstance(result.method, Reconstruction)
    assert [(step.step, step.before, step.after) for step in result.repairs] == [("reconstruct", None, None)]
    assert result.repairs[0].layers > 0
    assert result.cut is None
    assert list(result.stages) == ["dense", "repaired"]
    assert ", repaired from 70 unlabelled images." in outcome(document(result))
    assert result.example_inputs.shape == (1, *SHAPE)
    assert result.calibration.startswith("70 unlabelled images (pictures in")
    assert "ImageNet" in result.calibration


def test_the_method_that_nobody_names_looks_at_images_where_there_are_any(data: Data) -> None:
    asked = {"target": 0.5, "latency": False}
    assert isinstance(prune(Plain(), data=data, **asked).method, Reconstruction)
    assert isinstance(prune(Plain(), images(1), **asked).method, Magnitude)


def test_a_named_network_is_built_for_the_images() -> None:
    digits = load_calibration(torch.rand(70, 1, 28, 28))
    result = prune("lenet5", calibrate=digits, target=0.5, repair="compensate", latency=False)
    assert result.example_inputs.shape == (1, 1, 28, 28)
    assert result.repairs[0].layers > 0


def test_repairs_are_measured_where_there_are_labels_whatever_they_are_made_with(data: Data) -> None:
    net = lived_in(Plain())
    own, other = (cut(net, None, data=data, repair="reconstruct", calibrate=more) for more in (None, images(99)))
    for result in (own, other):
        [done] = result.repairs
        assert done.before is not None
        assert done.after is not None
        assert done.after.examples == data.size("val")
    assert own.repairs[0].before == other.repairs[0].before
    assert own.repairs[0].after != other.repairs[0].after


# where images come from


def test_without_calibration_images_they_are_training_images_drawn_by_the_seed(data: Data) -> None:
    for seed in (0, 0, 1):
        cut(Plain(), None, data=data, calibrate_images=20, seed=seed)
    one, again, other = (batches[0] for batches in Looking.seen)
    assert one.shape == (20, *SHAPE)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    train = torch.cat([x for x, _ in data.batches("train")])
    assert all(bool((train == image).flatten(1).all(1).any()) for image in one)


def test_without_data_there_are_none() -> None:
    assert cut(Plain(), images(1)).calibration == ""
    assert Looking.seen == [None]


def test_training_images_are_read_only_if_somebody_looks(data: Data) -> None:
    heard: list[Event] = []
    result = cut(Plain(), None, method=Looking(looks=False), data=data, repair=(), tell=heard.append)
    assert result.calibration == ""
    assert "images" not in {event.stage for event in heard} | set(result.seconds)
    result = cut(Plain(), None, data=data, tell=heard.append)
    assert result.calibration.startswith("80 unlabelled images (training images of colours)")
    assert "images" in {event.stage for event in heard} & set(result.seconds)


@pytest.mark.parametrize(("count", "warned"), [(63, True), (64, False)])
def test_few_images_are_warned_of(count: int, warned: bool) -> None:
    heard: list[Event] = []
    cut(Plain(), calibrate=images(count), repair="reconstruct", tell=heard.append)
    texts = [event.text for event in heard if event.stage == "warning"]
    few = "63 unlabelled images (arrays, not normalised here): at least 64 are advised, and up to 1,000 make the result"
    assert texts == ([f"{few} more accurate"] if warned else [])


def test_images_are_normalised_as_the_data_is(data: Data, tmp_path: Path) -> None:
    photographs = folder(tmp_path / "photographs")
    raw = load_calibration(photographs, mean=[0.0] * 3, std=[1.0] * 3).batches[0]
    assert isinstance(raw, Tensor)

    def taken(data: Data | None, **more: Any) -> Tensor:
        found = named_images(photographs, data, count=100, seed=0, **more)
        assert found is not None
        [batch] = found.batches
        assert isinstance(batch, Tensor)
        return batch

    def scaled(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    usual = scaled((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(taken(data), scaled(data.mean, data.std))
    torch.testing.assert_close(taken(None), usual)
    loader = [(images(4), torch.arange(4))]  # which has normalised by itself, nobody knows how
    torch.testing.assert_close(taken(from_loaders(loader, loader, loader, 5)), usual)
    torch.testing.assert_close(taken(data, mean=[0.5] * 3, std=[2.0] * 3), scaled((0.5,) * 3, (2.0,) * 3))


# resuming


@dataclass(frozen=True)
class Slow(Looking):
    """Counts how often it is asked, and takes long enough for the answer to be kept."""

    calls: ClassVar[list[int]] = []

    def plan(self, problem: Problem) -> Any:
        self.calls.append(1)
        return super().plan(problem)


def test_a_plan_is_decided_again_on_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.run.work_folder.WORTH_KEEPING", 0.0)
    Slow.calls.clear()
    net, some = Plain(), images(90)
    for expected, more in (
        (1, {"calibrate": some}),
        (1, {"calibrate": some.clone()}),
        (2, {"calibrate": some + 1e-3}),
        (3, {"calibrate": some, "calibrate_images": 80}),
        (4, {}),
        (4, {"calibrate_images": 80}),
    ):
        cut(net, images(1), method=Slow(), work=tmp_path, **more)
        assert len(Slow.calls) == expected


def test_a_plan_is_decided_again_on_another_number_of_training_images(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.run.work_folder.WORTH_KEEPING", 0.0)
    Slow.calls.clear()
    net = Plain()
    for expected, count in ((1, 30), (1, 30), (2, 40)):
        cut(net, None, method=Slow(), data=data, calibrate_images=count, work=tmp_path)
        assert len(Slow.calls) == expected


# recipes

NET = """
from torch import nn

def net(classes=5, channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    )
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "images.npy", images(90).numpy())
    return Recipe(
        model=f"{tmp_path / 'net.py'}:net",
        method="magnitude",
        keep=0.5,
        latency=False,
        calibrate=str(tmp_path / "images.npy"),
        calibrate_images=70,
        repair=("reconstruct",),
    )


def test_a_recipe_needs_no_data(recipe: Recipe) -> None:
    one, two = run_recipe(recipe), run_recipe(Recipe.from_toml(recipe.to_toml()))
    assert one.calibration.startswith("70 unlabelled images ('")
    assert one.repairs[0].layers > 0
    assert one.example_inputs.shape == (1, *SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_classes_and_channels_follow_weights_and_images(recipe: Recipe, tmp_path: Path) -> None:
    save_file(build(recipe.model, classes=9, channels=1).state_dict(), tmp_path / "w.safetensors")
    np.save(tmp_path / "images.npy", images(90)[:, :1].numpy())
    asked = replace(recipe, weights=str(tmp_path / "w.safetensors"))
    found = images_of(asked, None)
    assert isinstance(found, Calibration)
    model = model_of(asked, None, found)
    assert model[0].in_channels == 1  # type: ignore[index]
    assert model[-1].out_features == 9  # type: ignore[index]
    assert example_of(asked, None, found).shape == (1, 1, 8, 8)
    assert run_recipe(asked).repairs


def test_pictures_are_of_the_size_that_a_network_is_for(tmp_path: Path) -> None:
    folder(tmp_path / "large", 2, (120, 100))
    for model, more, side in (
        ("resnet20", {}, 32),
        ("torchvision:resnet18", {}, 224),
        ("torchvision:resnet18", {"image_size": 64}, 64),
    ):
        asked = Recipe(model=model, method="magnitude", calibrate=str(tmp_path / "large"), workers=0, **more)
        found = images_of(asked, None)
        assert found is not None
        assert found.batches[0].shape == (2, 3, side, side)  # type: ignore[union-attr]
    labelled = from_arrays((images(40), torch.arange(40) % 4), (images(4), torch.arange(4)))
    found = images_of(asked, labelled)
    assert found is not None
    assert found.batches[0].shape == (2, 3, 64, 64)  # type: ignore[union-attr]
    found = images_of(replace(asked, image_size=None), labelled)
    assert found is not None
    assert found.batches[0].shape == (2, *SHAPE)  # type: ignore[union-attr]
    assert images_of(replace(asked, calibrate=""), labelled) is None
