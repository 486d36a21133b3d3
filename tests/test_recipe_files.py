"""The recipes that come with the repository can be read, and differ in what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.compare import CONTROLS, Comparison, requests
from secateur.methods.batch_bridgeout import BatchBridgeout
from secateur.models import build
from secateur.recipe import Recipe
from secateur.run import method_of

FOLDER = Path(__file__).parents[1] / "recipes"
COMPARISONS = sorted(FOLDER.glob("compare-*.toml"))
FILES = sorted(set(FOLDER.glob("*.toml")) - set(COMPARISONS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_can_be_read_and_its_method_made(path: Path) -> None:
    recipe = Recipe.read(path)
    method = method_of(recipe)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.repair == ()  # papers know of none
    assert recipe.shape is not None
    with method.training(build(recipe.model, classes=10)) as shaper:
        assert shaper is not None
    assert path.read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_can_be_read_and_gives_all_the_same_number_of_epochs(path: Path) -> None:
    comparison = Comparison.read(path)
    assert len(comparison.seeds) >= 3
    assert set(comparison.controls or ()) == set(CONTROLS)
    for request in requests(comparison):
        parts = [settings.epochs for settings in (request.recipe.train, request.recipe.shape) if settings]
        if request.kind != "scratch":
            assert sum(parts) == comparison.budget()
    assert path.read_text("utf-8").startswith("# ")


def test_all_recipes_are_listed() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    assert len(FILES) >= 6
    assert all(f"]({path.name})" in text for path in [*FILES, *COMPARISONS])


def test_the_controls_differ_from_batch_bridgeout_in_the_noise_alone() -> None:
    main = Recipe.read(FOLDER / "batch_bridgeout.toml")
    noises: set[tuple[str, float, float]] = set()
    for path in FOLDER.glob("batch_bridgeout*.toml"):
        recipe = Recipe.read(path)
        assert replace(recipe, options=main.options) == main
        method = method_of(recipe)
        assert isinstance(method, BatchBridgeout)
        noises.add((method.noise, method.p, method.fraction))
    assert noises == {
        ("bridgeout", 0.3, 0.75),
        ("bridgeout", 0.0, 0.75),
        ("dropout", 0.3, 0.75),
        ("dropout", 0.3, 1.0),
    }
