"""Networks on paper for tests of widths: groups, what they cost as products, and error curves of several shapes."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from secateur.core.graph import Graph, Group
from secateur.core.graph.written_sizes import Axis
from secateur.core.selection.costs import Product, Sizes
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.target_selection import Step
from secateur.core.selection.width_ladders import Ladder, Standing

SHAPES = ("rising", "any", "falling", "jumps")
"""How much each unit adds to an error: more than the one before, no matter, less, or nearly nothing but at times."""


def graph_of(*sizes: int) -> Graph:
    """Return a graph of groups that no layer makes or reads."""
    groups = tuple(Group(f"g{number}", size, ()) for number, size in enumerate(sizes))
    return Graph(groups, (), {}, frozenset(), (), {}, (), (), {})


def fixed(count: int) -> Axis:
    return Axis(count, torch.empty(0, dtype=torch.long))


def axis(graph: Graph, name: str) -> Axis:
    first = graph.offsets[name]
    return Axis(0, torch.arange(first, first + graph.group(name).size))


def chain(graph: Graph, scales: list[int]) -> Sizes:
    """Return the sizes of layers that each read one group and make the next; the first reads 3, the last makes 10."""
    axes = [fixed(3), *(axis(graph, group.name) for group in graph.groups), fixed(10)]
    pairs = zip(scales, itertools.pairwise(axes), strict=True)
    return Sizes(tuple(Product(scale, pair) for scale, pair in pairs))


def hub(graph: Graph, scales: list[int]) -> Sizes:
    """Return the sizes of layers that all read or make the first group, as in a residual network."""
    first = axis(graph, "g0")
    others = [axis(graph, group.name) for group in graph.groups[1:]]
    return Sizes(
        (
            Product(3 * scales[0], (first,)),
            *(Product(2 * scale, (first, other)) for scale, other in zip(scales[1:], others, strict=False)),
        )
    )


def curve(rng: np.random.Generator, group: Group, shape: str) -> ErrorCurve:
    """Return a drawn curve that reaches between 0.2 and 1 when one unit is left."""
    rises = rng.exponential(size=group.size - 1)
    if shape == "rising":
        rises = np.sort(rises**2)
    elif shape == "falling":
        rises = np.sort(rises)[::-1]
    elif shape == "jumps":
        rises = np.where(rng.random(len(rises)) < 0.2, rises, 1e-4)
    errors = np.concatenate([[0.0], rises.cumsum()])
    errors *= rng.uniform(0.2, 1.0) / max(errors[-1], 1e-9)
    return ErrorCurve(group.name, tuple(rng.permutation(group.size).tolist()), tuple(errors.tolist()))


def standing_of(graph: Graph, costs: Sizes, curves: list[ErrorCurve]) -> Standing:
    """Return all groups at place 0 of ladders with a rung for every unit but the last."""
    ladders = {
        curve.group: Ladder(
            tuple((Step(curve.group, (unit,)),) for unit in curve.order[: len(curve.error) - 1]), np.array(curve.error)
        )
        for curve in curves
    }
    return Standing(graph, ladders, costs, torch.ones(graph.units, dtype=torch.bool))


def least(graph: Graph, costs: Sizes, curves: list[ErrorCurve], goal: int) -> float:
    """Return the least sum of errors of all combinations of widths that cost no more than a goal.

    Costs are products of widths, so that all combinations are counted at once.
    """
    sizes = [group.size for group in graph.groups]
    widths = np.meshgrid(*(np.arange(size, 0, -1.0) for size in sizes), indexing="ij", sparse=True)
    of = {int(graph.offsets[group.name]): width for group, width in zip(graph.groups, widths, strict=True)}
    cost, error = 0.0, 0.0
    for term in costs.terms:
        part = float(term.scale)
        for each in term.axes:
            part = part * (of[int(each.units[0])] if len(each.units) else each.fixed)
        cost = cost + part
    for number, found in enumerate(curves):
        error = error + np.array(found.error).reshape([-1 if n == number else 1 for n in range(len(sizes))])
    return float(np.broadcast_to(error, np.shape(cost))[np.asarray(cost) <= goal].min())
