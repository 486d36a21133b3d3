"""Intra-kernel regular pruning: as many weights in every kernel, few patterns, at rest under the target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nets import Head, conv, images, lived_in
from secateur import check_method
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.core.zeros.strided import StridedConv2d
from secateur.errors import SettingError, TargetError
from secateur.methods.kernel_pattern import KernelPattern

NET = lived_in(nn.Sequential(conv(3, 8), conv(8, 12), conv(12, 6, 5), conv(6, 10, 1), Head(10))).eval()
GRAPH = trace(NET, images(1))


def masks(plan: Plan) -> dict[str, torch.Tensor]:
    return {edit.tensor: edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}


@pytest.mark.parametrize("per", ["layer", "filter", "input"])
def test_every_kernel_keeps_as_many_weights_by_few_patterns(per: Any) -> None:
    plan = KernelPattern(n=3, patterns=5, per=per).plan(Problem(NET, GRAPH))
    found = masks(plan)
    assert list(found) == ["1.0.weight", "2.0.weight"]  # neither the stem nor single weights
    for mask in found.values():
        kernels = mask.flatten(2).flatten(0, 1)
        assert bool((kernels.sum(1) == 3).all())
        assert 1 < len(kernels.unique(dim=0)) <= 5
    assert plan.notes == (
        "every kernel of 2 layers keeps 3 of 25 or 3 of 9 weights, in one of at most 5 patterns, which 3 bits name",
    )
    strided = type(apply(NET, GRAPH, plan)[1][0]) is StridedConv2d
    assert strided == (per == "input")


def test_without_a_number_or_target_four_stay() -> None:
    assert masks(KernelPattern().plan(Problem(NET, GRAPH)))["1.0.weight"].flatten(2).sum(2).unique().tolist() == [4]
    assert "0.0.weight" in masks(KernelPattern(stem=True).plan(Problem(NET, GRAPH)))


@pytest.mark.parametrize(("keep", "count"), [(0.99, (8, 22)), (0.8, (7, 19)), (0.6, (5, 14))])
def test_a_target_takes_the_largest_share_that_meets_it(keep: float, count: tuple[int, int]) -> None:
    plan = KernelPattern().plan(Problem(NET, GRAPH, Target(keep, "nonzero")))
    whole = size(GRAPH).nonzero
    assert size(GRAPH, plan).nonzero <= keep * whole
    found = [mask.flatten(2).sum(2) for mask in masks(plan).values()]
    assert all(bool((each == each[0, 0]).all()) for each in found)
    more = [min(int(each[0, 0]) + 1, top) for each, top in zip(found, (9, 25), strict=True)]
    assert whole - 96 * (9 - more[0]) - 72 * (25 - more[1]) > keep * whole
    assert count[0] - 1 <= int(found[0][0, 0]) <= count[0] + 1


def test_promises() -> None:
    check_method(KernelPattern(patterns=2, per="input", stem=True), networks={"chain": (NET, images(4))})
    assert KernelPattern().plan(Problem(NET, GRAPH, Target(1.0, "nonzero"))) == EMPTY


def test_bad_input_is_refused_in_one_sentence() -> None:
    for wrong in ({"n": 0}, {"patterns": 0}):
        with pytest.raises(SettingError, match="must be at least 1, not 0: every kernel keeps something"):
            KernelPattern(**wrong)
    with pytest.raises(SettingError, match=r"n 9 does not fit the 3x3 kernels of '1\.0': it must lie in 1 to 8"):
        KernelPattern(n=9).plan(Problem(NET, GRAPH))
    with pytest.raises(SettingError, match="both a target and n say how much stays"):
        KernelPattern(n=4).plan(Problem(NET, GRAPH, Target(0.5, "nonzero")))
    with pytest.raises(TargetError, match="zeroed weights leave the macs as they are"):
        KernelPattern().plan(Problem(NET, GRAPH, Target(0.5)))
    with pytest.raises(TargetError, match="with one weight in every kernel") as caught:
        KernelPattern().plan(Problem(NET, GRAPH, Target(0.05, "nonzero")))
    assert caught.value.reachable is not None
    KernelPattern().plan(Problem(NET, GRAPH, Target(caught.value.reachable, "nonzero")))
    pointwise = nn.Sequential(conv(3, 8), conv(8, 8, 1), Head(8)).eval()
    with pytest.raises(TargetError, match="no prunable layer of this network has kernels of more than one weight"):
        KernelPattern().plan(Problem(pointwise, trace(pointwise, images(1))))
    broken = lived_in(nn.Sequential(conv(3, 8), conv(8, 8), Head(8))).eval()
    with torch.no_grad():
        broken[1][0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(SettingError, match=r"the weights of '1\.0' contain NaN"):
        KernelPattern().plan(Problem(broken, trace(broken, images(1))))
