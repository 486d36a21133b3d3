"""Trained weights on another data set: what comes over, what is drawn anew, and that it survives a save."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import secateur
from secateur.data import Data
from secateur.errors import ModelError, SettingError
from secateur.models import build
from secateur.recipe import Recipe
from secateur.run import model_of, run_recipe, subject
from secateur.training import Settings

# knows one number of classes, whatever it is asked for
FIXED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.one, self.two, self.scores = nn.Conv2d(channels, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 100)

    def forward(self, x):
        return self.scores(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))
"""


@pytest.fixture
def recipe(tmp_path: Path, data: Data, train: Settings, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return a recipe that moves a network of 100 classes to the small set of these tests, which has 5."""
    (tmp_path / "net.py").write_text(FIXED)
    monkeypatch.setattr(subject, "load_data", lambda spec, **how: data)
    spec = f"{tmp_path / 'net.py'}:Net"
    save_file(build(spec).state_dict(), tmp_path / "w.safetensors")
    return Recipe(
        model=spec,
        weights=str(tmp_path / "w.safetensors"),
        transfer=True,
        data="colours",
        method="weak_subnetwork",
        keep=0.7,
        train=train,
        pretrain=replace(train, epochs=8),
        latency=False,
    )


@pytest.mark.parametrize("method", ["weak_subnetwork", "self_grouping"])
def test_a_network_moves_to_other_classes_and_is_pruned(recipe: Recipe, method: str, tmp_path: Path) -> None:
    options = {"fc": 90.0, "groups": 4} if method == "self_grouping" else {}
    asked = replace(recipe, method=method, options=options)
    result = run_recipe(asked)
    assert result.dense.scores.out_features == result.model.scores.out_features == 5
    assert result.pretrain is not None
    assert result.before.quality is not None
    assert result.before.quality.value > 0.8
    assert result.after.counts.macs <= 0.7 * result.before.counts.macs
    loaded = secateur.load(result.save(tmp_path / "out"), build=build)
    assert loaded.recipe == asked
    x = result.example_inputs
    assert torch.allclose(loaded.model(x), result.model.eval()(x), atol=1e-5)


def test_all_but_the_classifier_comes_over(recipe: Recipe, data: Data) -> None:
    from safetensors.torch import load_file

    theirs, own = load_file(recipe.weights), model_of(recipe, data).state_dict()
    assert own["scores.weight"].shape == (5, 12)
    assert all(torch.equal(own[name], theirs[name]) for name in own if not name.startswith("scores"))
    again = model_of(recipe, data).state_dict()
    assert torch.equal(own["scores.weight"], again["scores.weight"])  # drawn with the seed
    other = model_of(replace(recipe, seed=1), data).state_dict()
    assert not torch.equal(own["scores.weight"], other["scores.weight"])


def test_a_transfer_without_weights_or_data_is_refused(recipe: Recipe) -> None:
    for missing in ({"weights": ""}, {"data": ""}):
        with pytest.raises(SettingError, match="moves trained 'weights' to other 'data'; give both"):
            replace(recipe, **missing)


def test_weights_of_other_classes_hint_at_the_transfer(tmp_path: Path) -> None:
    save_file(build("lenet5", classes=7, channels=1).state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    recipe = Recipe(model="lenet5", weights=weights, data="mnist5k", method="magnitude", keep=0.5)
    with pytest.raises(ModelError, match=r"\(7,\) .* but \(10,\) in the model; weights of other classes need"):
        run_recipe(recipe)


def test_the_documented_recipe_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text("utf-8")
    (found,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    recipe = Recipe.from_toml(found)
    assert (recipe.transfer, recipe.weights, recipe.pretrain.epochs) == (True, "pretrained", 10)
