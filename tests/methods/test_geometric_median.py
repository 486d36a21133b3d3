"""Sums of distances between filters, by hand, and what they do not depend on."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import make
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.errors import SettingError
from secateur.methods.geometric_median import GeometricMedian
from secateur.methods.magnitude import Magnitude

IMAGE = torch.ones(1, 1, 2, 2)


def asked(*filters: list[float], keep: float = 0.7) -> Problem:
    rows = torch.tensor(filters)
    net = nn.Sequential(nn.Conv2d(rows.shape[1], len(rows), 1, bias=False), nn.ReLU(), nn.Conv2d(len(rows), 2, 1))
    with torch.no_grad():
        net[0].weight.copy_(rows[:, :, None, None])
    image = IMAGE.expand(1, rows.shape[1], 2, 2)
    return Problem(net, trace(net, image), Target(keep, "units"), limits=Limits(multiple=1))


def scores(problem: Problem, distance: Literal["l2", "l1", "cosine"] = "l2") -> Tensor:
    return GeometricMedian(distance=distance).score(problem.graph.group("0"), problem)


def test_the_filter_in_the_middle_goes_first_though_not_the_smallest() -> None:
    problem = asked([0.0], [2.0], [10.0])
    assert scores(problem).tolist() == [12.0, 10.0, 18.0]
    assert GeometricMedian().plan(problem).dropped() == {"0": (1,)}
    assert Magnitude().plan(problem).dropped() == {"0": (0,)}


def test_the_distances_by_hand() -> None:
    """From each corner of a rectangle of 3 by 4 it is 3, 4 and 5, or 7, to the others."""
    problem = asked([0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [3.0, 4.0])
    assert scores(problem).tolist() == pytest.approx([12.0] * 4)
    assert scores(problem, "l1").tolist() == pytest.approx([14.0] * 4)


def test_angles_do_not_see_sizes() -> None:
    """At 0, 45, 90 and 180 degrees: the cosines are 0.707, 0 and -1, and so on."""
    root = 0.5**0.5
    problem = asked([1.0, 0.0], [5.0, 5.0], [0.0, 0.1], [-2.0, 0.0])
    assert scores(problem, "cosine").tolist() == pytest.approx([4 - root, 3 - root, 3 - root, 4 + root], abs=1e-6)


MANY = asked(*[[0.0] * 3] * 30)  # beyond 25 rows torch computes distances by a product of matrices


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(-3, 3))
def test_only_differences_matter(seed: int, shift: float) -> None:
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        MANY.model.get_parameter("0.weight").copy_((rows + shift)[:, :, None, None])
    expected = (rows[:, None] - rows).norm(dim=2).sum(1)
    torch.testing.assert_close(scores(MANY), expected, rtol=1e-5, atol=1e-5)


def test_copies_go_before_all_others() -> None:
    problem = asked([3.0, 4.0], [-1.0, 2.0], [3.0, 4.0], [0.0, -5.0], [3.0, 4.0], keep=0.8)
    (gone,) = GeometricMedian().plan(problem).dropped()["0"]
    assert gone in (0, 2, 4)


def test_a_stream_is_compared_by_all_layers_that_make_it() -> None:
    net = make("option A")
    graph = trace(net, torch.ones(1, 3, 8, 8))
    group = max(graph.groups, key=lambda each: len(each.layers))
    assert len(group.layers) > 1
    rows = torch.cat(list(group.rows(net, "makes")), 1).double()
    found = GeometricMedian().score(group, Problem(net, graph))
    torch.testing.assert_close(found, (rows[:, None] - rows).norm(dim=2).sum(1))


def test_weights_that_are_not_numbers_and_other_distances_are_refused() -> None:
    with pytest.raises(SettingError, match="contain NaN"):
        GeometricMedian().plan(asked([1.0], [float("nan")], [2.0]))
    with pytest.raises(SettingError, match="must be one of l2, l1, cosine"):
        GeometricMedian(distance="far")  # pyright: ignore[reportArgumentType]
