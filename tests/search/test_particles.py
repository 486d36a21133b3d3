"""The particle filter: its weights, its resampling, and that breeding beats drawing at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch

from secateur.core.plan import DropUnits, Plan
from secateur.core.selection.mask_moves import crossed, swapped
from secateur.core.selection.search_results import Search, Trial, key_of
from secateur.search.particles import filtered, importance, systematic
from toys import toy

INF, NAN = float("inf"), float("nan")


def test_systematic_resampling_of_four_particles() -> None:
    weights = torch.tensor([0.5, 0.25, 0.15, 0.1])
    assert systematic(weights, 0.1 / 4) == [0, 0, 1, 2]
    assert systematic(weights, 0.9 / 4) == [0, 0, 1, 3]
    assert systematic(torch.full((4,), 0.25), 0.5 / 4) == [0, 1, 2, 3]


def test_particles_weigh_by_how_many_deviations_they_are_worse() -> None:
    found = importance([0.1, 0.3])  # the deviation is 0.1
    assert found.tolist() == pytest.approx([1 / (1 + torch.tensor(-2.0).exp().item()), 0.1192029], abs=1e-6)
    assert importance([0.2, 0.2, 0.2, 0.2]).tolist() == [0.25] * 4
    assert importance([0.2, NAN, 0.2, INF]).tolist() == [0.5, 0.0, 0.5, 0.0]
    assert importance([NAN, NAN]).tolist() == [0.5, 0.5]


GRAPH = toy(*[12] * 8)
COSTS = {group.name: torch.rand(12, generator=torch.Generator().manual_seed(7)) for group in GRAPH.groups}


def cost(plan: Plan) -> float:
    return sum(float(COSTS[name][list(units)].sum()) for name, units in plan.dropped().items())


def judged(plans: Sequence[Plan], seen: list[Plan]) -> Search:
    seen += plans
    trials = tuple(Trial(key_of(plan), 0, 1, cost(plan)) for plan in plans)
    return Search(trials, min(range(len(plans)), key=lambda i: cost(plans[i])), 1)


def draw(count: int, rng: torch.Generator) -> list[Plan]:
    return [
        Plan(
            tuple(
                DropUnits(group.name, tuple(torch.randperm(12, generator=rng)[:6].sort().values.tolist()))
                for group in GRAPH.groups
            )
        )
        for _ in range(count)
    ]


def bred(seed: int, seen: list[Plan]) -> tuple[Plan, Search]:
    rng = torch.Generator().manual_seed(seed)
    return filtered(
        draw(20, rng),
        partial(judged, seen=seen),
        lambda one, other: swapped(GRAPH, crossed(one, other, 0.5, rng), 0.05, rng, "kernels", {}),
        5,
        rng,
    )


def test_breeding_beats_drawing_where_units_count_alone() -> None:
    """The cost of a mask is the sum of the costs of its units; both try a hundred masks."""
    wins = 0
    for seed in range(10):
        seen = list[Plan]()
        best, search = bred(seed, seen)
        assert len(seen) == len(search.trials) == 100
        assert cost(best) == min(map(cost, seen))
        assert all(len(units) == 6 for plan in seen for units in plan.dropped().values())
        wins += cost(best) < min(map(cost, draw(100, torch.Generator().manual_seed(seed))))
    assert wins >= 8


def test_the_best_so_far_is_never_lost_and_the_same_seed_breeds_the_same() -> None:
    seen, again = list[Plan](), list[Plan]()
    best, search = bred(3, seen)
    assert bred(3, again) == (best, search)
    leaders = [min(map(cost, seen[start : start + 20])) for start in range(0, 100, 20)]
    assert leaders == sorted(leaders, reverse=True)
    assert search.trials[search.best].error == cost(best)
