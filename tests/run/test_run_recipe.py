"""``run_recipe``: that what a recipe asks for is what is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import secateur
from secateur.core.sizes.size import Target
from secateur.data import Data
from secateur.errors import DataError, ModelError, SettingError, TargetError
from secateur.methods.magnitude import Magnitude
from secateur.models import build
from secateur.recipe import Recipe
from secateur.run import data_of, example_of, model_of, recipes, run_recipe, subject
from secateur.training import Settings
from states import tensors

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=5, channels=3):
        super().__init__()
        self.one, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.fc = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.fc(torch.relu(self.two(x)).mean((2, 3)))
"""


@pytest.fixture
def recipe(tmp_path: Path, data: Data, train: Settings, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return a recipe whose network comes from a file, and whose data is the small set of these tests."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.setattr(subject, "load_data", lambda spec, **how: data)
    return Recipe(
        model=f"{tmp_path / 'net.py'}:Net",
        data="colours",
        method="magnitude",
        keep=0.5,
        of="params",
        train=train,
        latency=False,
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_groups_inside_blocks_arrive_before_and_after_a_training(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        NET.replace(
            "return self.fc(torch.relu(self.two(x))",
            "y = self.two(x)\n        return self.fc(torch.relu(y + self.more(x))",
        ).replace("self.two, self.fc", "self.more = nn.Conv2d(8, 12, 1)\n        self.two, self.fc")
    )
    for pretrain in (None, recipe.train):
        result = run_recipe(replace(recipe, groups="inside blocks", keep=0.7, pretrain=pretrain))
        assert [set(plan.dropped()) for plan in result.plans] == [{"one"}]


def test_everything_that_is_asked_for_arrives(recipe: Recipe) -> None:
    asked = replace(
        recipe,
        options={"norm": "l2"},
        rounds=2,
        leave=("two",),
        min_units=2,
        multiple=2,
        keep=0.5,
        pretrain=recipe.train,
    )
    result = run_recipe(asked)
    assert result.recipe == asked
    assert result.method == Magnitude(norm="l2")
    assert result.target == Target(0.5, "params")
    assert [set(plan.dropped()) for plan in result.plans] == [{"one"}, {"one"}]
    assert {width.layer: width.after for width in result.widths}["two"] == 12
    assert {width.layer: width.after for width in result.widths}["one"] % 2 == 0
    assert len(result.histories) == 2
    assert result.pretrain is not None
    assert len(result.pretrain.rows) == 2
    assert {"train", "fine-tune", "trace"} <= set(result.seconds)
    assert result.before.latency is None
    assert result.after.counts.params <= 0.5 * result.before.counts.params


def test_equal_recipes_give_equal_networks(recipe: Recipe) -> None:
    one, two = run_recipe(recipe), run_recipe(Recipe.from_toml(recipe.to_toml()))
    assert one.plans == two.plans
    assert same(tensors(one.model), tensors(two.model))
    assert not same(tensors(one.model), tensors(run_recipe(replace(recipe, seed=1)).model))


def test_the_dense_network_is_trained_first(recipe: Recipe) -> None:
    raw = run_recipe(replace(recipe, train=None))
    trained = run_recipe(replace(recipe, train=None, pretrain=replace(recipe.train, epochs=8)))
    assert raw.pretrain is None
    assert raw.before.quality is not None
    assert trained.before.quality is not None
    assert trained.before.quality.value > 0.8 > 0.5 > raw.before.quality.value


def test_weights_are_read(recipe: Recipe, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(77)
        net = build(recipe.model)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.0)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    result = run_recipe(replace(recipe, weights=str(tmp_path / "w.safetensors"), train=None))
    assert same(tensors(result.dense), tensors(net))


def test_weights_that_do_not_fit_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = model_of(recipe, None)
    save_file({**net.state_dict(), "fc.weight": torch.zeros(7, 12)}, path)
    with pytest.raises(ModelError, match=r"'fc\.weight' has shape \(7, 12\).* but \(5, 12\) in the model"):
        run_recipe(replace(recipe, weights=str(path)))
    save_file({name: tensor for name, tensor in net.state_dict().items() if name != "fc.bias"}, path)
    with pytest.raises(ModelError, match=r"1 entry \(fc\.bias\) of the model is missing"):
        run_recipe(replace(recipe, weights=str(path)))
    save_file({**net.state_dict(), "fc.bias": torch.full((5,), float("nan"))}, path)
    with pytest.raises(ModelError, match=r"'fc\.bias' .* holds NaN"):
        run_recipe(replace(recipe, weights=str(path)))
    with pytest.raises(ModelError, match=r"absent\.pt does not exist"):
        run_recipe(replace(recipe, weights=str(tmp_path / "absent.pt")))


def test_what_is_saved_is_loaded_from_the_recipe_alone(tmp_path: Path) -> None:
    recipe = Recipe(model="secateur:lenet5", data="mnist5k", method="random_units", keep=0.3, latency=False)
    result = run_recipe(recipe)
    loaded = secateur.load(result.save(tmp_path / "out"))
    assert loaded.recipe == recipe
    assert loaded.plans == result.plans
    assert same(tensors(loaded.model), tensors(result.model))
    assert result.after.quality is not None
    assert result.after.quality.examples == 1000


# what the recipe names


def test_each_data_set_has_splits_of_its_own_unless_told_otherwise() -> None:
    recipe = Recipe(model="lenet5", data="mnist5k", method="magnitude", keep=0.5)
    for fraction, sizes in ((None, (3500, 500, 1000)), (0.1, (3600, 400, 1000))):
        found = data_of(replace(recipe, val_fraction=fraction))
        assert found is not None
        assert tuple(found.size(split) for split in ("train", "val", "test")) == sizes
    found = data_of(replace(recipe, train_images=100))
    assert found is not None
    assert tuple(found.size(split) for split in ("train", "val", "test")) == (100, 500, 1000)
    found = data_of(replace(recipe, mean=(0.5,), std=(0.25,)))
    assert found is not None
    assert (found.mean, found.std) == ((0.5,), (0.25,))


def test_without_data_the_example_is_an_image_of_the_networks_usual_size_drawn_by_the_seed() -> None:
    recipe = Recipe(model="resnet20", method="magnitude", keep=0.5)
    assert data_of(recipe) is None
    assert example_of(recipe, None).shape == (1, 3, 32, 32)
    assert example_of(replace(recipe, model="torchvision:resnet18"), None).shape == (1, 3, 224, 224)
    assert torch.equal(example_of(recipe, None), example_of(recipe, None))
    assert not torch.equal(example_of(recipe, None), example_of(replace(recipe, seed=1), None))


def test_classes_come_from_the_recipe_before_the_data(recipe: Recipe, data: Data) -> None:
    assert model_of(recipe, data).get_parameter("fc.weight").shape[0] == 5
    assert model_of(replace(recipe, classes=9), data).get_parameter("fc.weight").shape[0] == 9


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "magnitud"}, SettingError, "did you mean 'magnitude'"),
        ({"options": {"nrom": "l1"}}, SettingError, "did you mean 'norm'"),
        ({"options": {"norm": "l3"}}, SettingError, "'norm' must be one of l1, l2, not 'l3'"),
        ({"model": "secateur:vgg16"}, ModelError, "did you mean 'vgg16_bn'"),
        ({"model": "absent.py:Net"}, ModelError, "no Python file"),
        ({"leave": ("onne",)}, SettingError, r"matches 'onne', .* left alone \(did you mean 'one'\?\)"),
    ],
)
def test_names_that_are_unknown_are_answered(
    changes: dict[str, object], error: type[Exception], message: str, recipe: Recipe
) -> None:
    with pytest.raises(error, match=message):
        run_recipe(replace(recipe, **changes))  # type: ignore[arg-type]


def test_an_unknown_data_set_is_answered() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'mnist5' \(did you mean 'mnist5k'\?\)"):
        run_recipe(Recipe(model="lenet5", data="mnist5", method="magnitude", keep=0.5))


# refusing early


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: object, **how: object) -> None:
        raise AssertionError("the long training began")

    monkeypatch.setattr(recipes, "fit", fit)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"keep": 0.001}, TargetError),
        ({"leave": ("on",)}, SettingError),
        ({"leave": ("one", "two")}, TargetError),
        ({"method": "magic"}, SettingError),
        ({"min_units": 12}, TargetError),
    ],
)
def test_what_cannot_work_is_refused_before_the_dense_network_is_trained(
    changes: dict[str, object], error: type[Exception], recipe: Recipe
) -> None:
    with pytest.raises(error):
        run_recipe(replace(recipe, pretrain=recipe.train, **changes))  # type: ignore[arg-type]


def test_training_needs_data(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="training the dense network needs data"):
        run_recipe(replace(recipe, data="", pretrain=recipe.train))
    with pytest.raises(DataError, match="fine-tuning needs data"):
        run_recipe(replace(recipe, data=""))


def test_a_network_with_too_few_classes_is_refused(recipe: Recipe) -> None:
    with pytest.raises((ModelError, DataError), match="the network would have 3: leave classes"):
        run_recipe(replace(recipe, classes=3))
