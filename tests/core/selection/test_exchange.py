"""Widths for a limit of size, compared with all combinations of widths."""

from __future__ import annotations

import numpy as np
import pytest

import ladders
from secateur.core.graph import Graph
from secateur.core.selection.exchange import least_lost


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
@pytest.mark.parametrize("costs", [ladders.chain, ladders.hub])
@pytest.mark.parametrize("sizes", [(64, 64, 64), (24, 20, 16, 24)])
def test_the_error_is_within_a_hundredth_of_the_best_whatever_the_curves(
    sizes: tuple[int, ...], costs: object, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    graph = ladders.graph_of(*sizes)
    made = costs(graph, rng.choice([1, 2, 4, 9], len(sizes) + 1).tolist())  # type: ignore[operator]
    for shapes in (("rising",), ("any",), ladders.SHAPES):
        curves = [ladders.curve(rng, group, str(rng.choice(shapes))) for group in graph.groups]
        for share in (0.8, 0.5, 0.2):
            standing = ladders.standing_of(graph, made, curves)
            goal = int(share * standing.total)
            places = least_lost(standing, goal)
            assert places is not None
            standing.move_all(places)
            assert standing.total <= goal
            assert standing.lost <= 1.01 * ladders.least(graph, made, curves, goal)


def error(graph: Graph, share: float, **curves: list[float]) -> dict[str, int] | None:
    made = [
        ladders.ErrorCurve(name, tuple(range(graph.group(name).size)), tuple(values)) for name, values in curves.items()
    ]
    standing = ladders.standing_of(graph, ladders.chain(graph, [1] * (len(graph.groups) + 1)), made)
    return least_lost(standing, int(share * standing.total))


def test_a_group_alone_takes_the_widest_width_that_fits() -> None:
    graph = ladders.graph_of(8)  # (3 + 10) for each unit, and its curve is hollow: a descent would jump to the end
    assert error(graph, 0.5, g0=[0.0, 0.5, 0.6, 0.65, 0.7, 0.72, 0.73, 0.74]) == {"g0": 4}


def test_what_is_gone_for_nothing_makes_room_for_the_others() -> None:
    graph = ladders.graph_of(4, 4)
    # costs 3 a + a b + 10 b, 68 in all: without two units of the first 54, which leaves no need to touch the second
    assert error(graph, 0.8, g0=[0.0, 0.0, 0.0, 0.9], g1=[0.0, 0.1, 0.2, 0.3]) == {"g0": 2, "g1": 0}


def test_a_limit_out_of_reach_has_no_widths() -> None:
    assert error(ladders.graph_of(4, 4), 0.1, g0=[0.0, 0.1, 0.2, 0.3], g1=[0.0, 0.1, 0.2, 0.3]) is None
