"""The thin network of uniform width from new weights, which a comparison trains from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import cut
from secateur.data import Data
from secateur.events import Tell
from secateur.methods.random_units import RandomUnits
from secateur.recipe import Recipe
from secateur.run import example_of, graph_of, model_of
from secateur.run.replanning import carried_out


def uniform(recipe: Recipe, keep: float, data: Data, tell: Tell) -> nn.Module:
    """Return the thin network of a recipe with new weights, at the scale with which its author would draw them.

    Args:
        recipe: names the network; its seed draws the weights.
        keep: fraction of what the recipe measures by.
        data: that the network is for.
        tell: hears the progress.

    Raises:
        CutError: if the network cannot be cut.
        TargetError: if it cannot be made so small.
    """
    fresh = model_of(replace(recipe, weights="", transfer=False), data)
    example, target = example_of(recipe, data), Target(keep, recipe.of)
    limits = Limits(recipe.min_units, recipe.multiple)

    def read(tried: Sequence[Plan] = ()) -> Graph:
        return graph_of(recipe, fresh, example, tell=tell, tried=tried)

    def work(graph: Graph) -> nn.Module:
        rng = torch.Generator().manual_seed(recipe.seed)
        # of uniform scope: the same widths, and no choice among new weights
        plan = RandomUnits().plan(Problem(fresh, graph, target, limits=limits, rng=rng))
        return cut(fresh, graph, plan, example)

    thin = carried_out(read(), work, read)[1]
    rescale(thin, fresh)
    return thin


def rescale(thin: nn.Module, dense: nn.Module) -> None:
    """Give new weights that were drawn for wide layers the scale that they would have been drawn with for thin ones.

    Initialisations scale with one over the root of the number of inputs, which surgery has made smaller.
    """
    wide = dict(dense.named_parameters())
    with torch.no_grad():
        for name, weight in thin.named_parameters():
            if weight.dim() > 1 and name in wide:
                weight *= math.sqrt(wide[name][0].numel() / max(1, weight[0].numel()))
