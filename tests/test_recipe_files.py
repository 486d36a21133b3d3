"""The recipes that come with the repository can be read, and differ in what they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur.compare import CONTROLS, Comparison, requests
from secateur.core.graph import Graph
from secateur.core.method import shapes
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.methods.batch_bridgeout import BatchBridgeout
from secateur.methods.fine_pruning import FinePruning
from secateur.models import build
from secateur.recipe import Recipe
from secateur.run import method_of

FOLDER = Path(__file__).parents[1] / "recipes"
COMPARISONS = sorted(FOLDER.glob("compare-*.toml"))
PAPERS = ("vgg16", "resnet56", "resnet110", "small", "textures")  # how recipes end that follow one paper's table
FILES = sorted(set(FOLDER.glob("*.toml")) - set(COMPARISONS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_can_be_read_and_its_method_made(path: Path) -> None:
    recipe = Recipe.read(path)
    method = method_of(recipe)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.repair == ()  # papers know of none
    assert shapes(method) == (recipe.shape is not None)
    if recipe.shape is not None and not isinstance(method, FinePruning):  # which looks at images as well
        with method.training(build(recipe.model, classes=10)) as shaper:
            assert shaper is not None
    assert path.read_text("utf-8").startswith("# ")


def planned(name: str) -> tuple[Graph, Plan]:
    """Return what the recipe of this name would remove from a network that nobody has trained."""
    recipe = Recipe.read(FOLDER / f"{name}.toml")
    torch.manual_seed(0)
    model = build(recipe.model, classes=10)
    graph = trace(model, torch.randn(1, 3, 32, 32)).choose(recipe.groups)
    target = None if recipe.keep is None else Target(recipe.keep, recipe.of)
    return graph, method_of(recipe).plan(
        Problem(model, graph, target, limits=Limits(recipe.min_units, recipe.multiple))
    )


@pytest.mark.parametrize(
    ("name", "macs"),
    [("filter_std_vgg16", 0.658), ("filter_std_resnet110", 0.613), ("weak_subnetwork_vgg16", None)],
)
def test_recipes_that_look_at_weights_alone_make_a_plan(name: str, macs: float | None) -> None:
    """Those of Li et al. (2017) keep the share of the MACs that their tables say."""
    graph, plan = planned(name)
    assert plan.edits
    share = size(graph, plan).macs / size(graph).macs
    assert share == pytest.approx(macs or share, abs=5e-4)
    assert 0.1 < share < 1.0


def test_batch_bridgeout_loses_as_many_filters_as_in_the_released_code() -> None:
    graph, plan = planned("batch_bridgeout")
    gone = {graph.group(name).size: len(units) for name, units in plan.dropped().items()}
    assert gone == {size: int(size * 0.4) for size in (64, 128, 256, 512)}
    assert len(plan.dropped()) == 13


def test_the_chain_of_self_grouping_rises() -> None:
    recipe = Recipe.read(FOLDER / "self_grouping_resnet56.toml")
    percents = [options["conv"] for options in (recipe.options, *(stage.options for stage in recipe.then))]
    assert percents == [10, 20, 30, 40, 50, 60]
    assert recipe.rounds == 1


def test_every_recipe_has_the_command_that_makes_its_table() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    names = set(re.findall(r"paper_tables\.py (\w+)", text))
    assert names == {path.stem for path in FILES if path.stem.split("_")[-1] in PAPERS}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_can_be_read_and_gives_all_the_same_number_of_epochs(path: Path) -> None:
    comparison = Comparison.read(path)
    assert len(comparison.seeds) >= 3
    trained = set(CONTROLS) if comparison.budget() else {"random", "uniform"}  # nothing to train the others for
    assert set(comparison.controls or ()) == trained
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
