"""Swaps and crossover leave as much in every layer as there was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nets import Head, conv, images, lived_in
from secateur.core.graph import tensor_of
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.selection.mask_moves import crossed, place_of, swapped
from secateur.core.sizes.limits import Limits
from secateur.core.trace import trace
from secateur.core.zeros import patterns
from secateur.errors import PlanError
from secateur.search.joint_masks import Lottery

NET = lived_in(nn.Sequential(conv(3, 8), conv(8, 12), conv(12, 8, groups=2), conv(8, 6, 1), Head(6))).eval()
GRAPH = trace(NET, images(1))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lottery(seed: int, ratio: float | None = 0.4) -> Lottery:
    return Lottery(GRAPH, NET, None, Limits(multiple=1), rng(seed), ratio)


def left(plan: Plan) -> dict[str, int]:
    """Return how much goes or stays in each layer."""
    return {
        place_of(edit): int(edit.mask().sum()) if isinstance(edit, ZeroWeights) else len(plan.dropped()[place_of(edit)])
        for edit in plan.edits
    }


def drawn(what: str, seed: int) -> list[Plan]:
    if what == "maps":
        return lottery(seed).maps(2)
    return lottery(seed).zeros(2, "kernels") if what == "kernels" else lottery(seed, None).strided(2, 2, even=True)


ALIVE = {name: torch.ones(GRAPH.tensors[name][0][:2], dtype=torch.bool) for name in patterns.maskable(GRAPH)}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["maps", "kernels", "strided"]), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_every_layer_keeps_just_as_much(what: Any, share: float, seed: int) -> None:
    one, other = drawn(what, seed)
    assert left(one) == left(other)
    moved = swapped(GRAPH, one, share, rng(seed), "strided" if what == "strided" else "kernels", ALIVE)
    mixed = crossed(one, other, 0.5, rng(seed))
    assert left(moved) == left(one) == left(mixed)
    assert moved != one or what == "strided"  # maps of a layer that exchange equal patterns stay as they are
    for edit in moved.edits:
        if isinstance(edit, ZeroWeights) and what == "kernels":
            kernels = patterns.by_kernel(edit.mask())
            assert torch.equal(kernels.any(2), kernels.all(2))
        elif isinstance(edit, ZeroWeights) and edit.tensor == "1.0.weight":
            assert bool((edit.mask() == edit.mask()[:1]).all())  # the kernels that leave a map share a pattern


def test_a_mixed_plan_has_every_layer_from_one_of_both() -> None:
    one, other = drawn("maps", 3)
    assert crossed(one, other, 0.0, rng(0)) == one
    assert crossed(one, other, 1.0, rng(0)) == other
    taken = [
        sum(a == b for a, b in zip(crossed(one, other, 0.5, rng(s)).edits, other.edits, strict=True)) for s in range(40)
    ]
    assert 0 < sum(taken) / 40 < len(one.edits)
    assert all(edit in (*one.edits, *other.edits) for edit in crossed(one, other, 0.5, rng(1)).edits)
    with pytest.raises(PlanError, match="only where they change the same"):
        crossed(one, Plan(other.edits[:1]), 0.5, rng(0))


def test_the_share_that_changes_places() -> None:
    (one, _) = lottery(0).zeros(2, "kernels")
    before = {edit.tensor: edit.mask() for edit in one.edits if isinstance(edit, ZeroWeights)}
    changes = list[int]()
    for seed in range(30):
        edit = next(e for e in swapped(GRAPH, one, 0.05, rng(seed), "kernels", ALIVE).edits if e.tensor == "1.0.weight")
        changes.append(int((patterns.by_kernel(edit.mask() != before["1.0.weight"]).any(2)).sum()) // 2)
    assert 1.4 < sum(changes) / 30 < 2.4  # 5 % of the 38 that go are 1.9
    assert set(changes) == {1, 2}


def test_kernels_that_were_zero_stay_zero() -> None:
    net = lived_in(nn.Sequential(conv(3, 4), conv(4, 6), Head(6))).eval()
    with torch.no_grad():
        net[1][0].weight[:3, 0] = 0.0
    graph = trace(net, images(1))
    (plan,) = Lottery(graph, net, None, Limits(), rng(0), 0.5).zeros(1, "kernels")
    alive = {"1.0.weight": patterns.by_kernel(tensor_of(net, "1.0.weight") != 0).any(2)}
    for seed in range(5):
        (edit,) = swapped(graph, plan, 1.0, rng(seed), "kernels", alive).edits
        assert isinstance(edit, ZeroWeights)
        assert not bool(edit.mask()[:3, 0].any())
        assert int(patterns.by_kernel(edit.mask()).any(2).sum()) == 12
