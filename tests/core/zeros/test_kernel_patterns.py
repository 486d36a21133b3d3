"""Patterns of kernels: the best of each, and the few that serve all."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nets import Head, conv, images, lived_in
from secateur.core.trace import trace
from secateur.core.zeros import kernel_patterns as kp

KERNEL = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.9, 0.1], [0.0, 0.3, 0.4]])


def kept(values: torch.Tensor, count: int, most: int) -> float:
    return float((values * kp.assigned(values, kp.choose(values, count, most))).sum())


def test_the_best_pattern_of_a_kernel() -> None:
    (pattern,) = kp.own_best(KERNEL.flatten()[None].double(), 4)
    assert pattern.nonzero().flatten().tolist() == [0, 4, 7, 8]
    assert float(KERNEL.flatten()[pattern].sum()) == pytest.approx(2.1)
    assert float(KERNEL.sum()) == pytest.approx(2.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 1000))
def test_few_patterns_keep_as_many_positions_and_more_of_them_never_less(count: int, most: int, seed: int) -> None:
    values = torch.rand(20, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    chosen = kp.choose(values, count, most)
    assert len(chosen) <= most
    assert chosen.sum(1).tolist() == [count] * len(chosen)
    assert bool((kp.assigned(values, chosen).sum(1) == count).all())
    assert torch.equal(kp.choose(values, count, most + 1)[: len(chosen)], chosen)
    assert kept(values, count, most + 1) >= kept(values, count, most)
    everything = math.comb(9, count)
    assert torch.equal(kp.assigned(values, kp.choose(values, count, everything)), kp.own_best(values, count))


def test_each_choice_is_the_one_with_which_all_together_keep_most() -> None:
    values = torch.rand(30, 4, dtype=torch.float64)
    known = kp.own_best(values, 2).unique(dim=0).double()
    first = kp.choose(values, 2, 1).double()
    assert float((values @ first.T).sum()) == pytest.approx(float((values @ known.T).sum(0).max()))
    two = max(float((values @ torch.stack([first[0], other]).T).amax(1).sum()) for other in known)
    assert kept(values, 2, 2) == pytest.approx(two)


def test_patterns_that_keep_nothing_more_are_not_chosen() -> None:
    values = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 5 + [[0.0, 0.0, 0.0, 0.0]]).double()
    assert kp.choose(values, 2, 8).tolist() == [[True, True, False, False]]
    assert kp.choose(torch.zeros(3, 4).double(), 1, 8).tolist() == [[True, False, False, False]]


def test_work_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(30, 9, dtype=torch.float64)
    whole = kp.assigned(values, kp.choose(values, 4, 5))
    monkeypatch.setattr(kp, "_ROWS", 7)
    assert torch.equal(kp.assigned(values, kp.choose(values, 4, 5)), whole)


def test_who_shares_a_pattern() -> None:
    net = lived_in(nn.Sequential(conv(3, 8), conv(8, 12, groups=2), nn.ConvTranspose2d(12, 6, 3), Head(6)))
    graph = trace(net, images(1))
    for name, rows, columns in (("1.0.weight", 12, 4), ("2.weight", 12, 6)):
        weight = net.get_parameter(name)
        found = {per: kp.mask(weight, kp.owners(graph, name, per), 4, 3) for per in ("layer", "filter", "input")}
        for mask in found.values():
            assert mask.shape == weight.shape
            assert bool((mask.flatten(2).sum(2) == 4).all())
            assert len(mask.flatten(2).flatten(0, 1).unique(dim=0)) <= 3
        made, read = ("filter", "input") if name == "1.0.weight" else ("input", "filter")  # along the rows, the columns
        assert all(torch.equal(found[made][row, 0], found[made][row, column]) for row, column in pairs(rows, columns))
        halves = found[read].unflatten(0, (2, -1)) if name == "1.0.weight" else found[read][None]
        assert bool((halves == halves[:, :1]).all())
    assert len(kp.owners(graph, "1.0.weight", "input").unique()) == 8  # two groups of four maps


def pairs(rows: int, columns: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(rows), range(columns)))
