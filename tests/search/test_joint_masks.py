"""Masks drawn over all layers: what every one of them keeps (the drawing itself: tests of random_masks)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets import Head, conv, images, lived_in
from secateur.core.plan import ZeroWeights
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import TargetError
from secateur.search.joint_masks import Lottery

NET = lived_in(nn.Sequential(conv(3, 8), conv(8, 12), Head(12))).eval()
GRAPH = trace(NET, images(1))


def lottery(target: Target | None = None, seed: int = 0) -> Lottery:
    return Lottery(GRAPH, NET, target, Limits(), torch.Generator().manual_seed(seed))


def test_even_strides_all_keep_as_much_and_differ() -> None:
    plans = lottery().strided(20, 2, even=True)
    assert {size(GRAPH, plan).nonzero for plan in plans} == {size(GRAPH).nonzero - 4 * 12 * (4 + 5)}
    assert len(set(plans)) > 10
    (edit,) = plans[0].edits
    assert isinstance(edit, ZeroWeights)
    assert bool((edit.mask() == edit.mask()[:1]).all())  # all kernels that leave a map share its pattern


def test_a_target_holds_for_the_mask_that_keeps_most() -> None:
    left = sorted(size(GRAPH, plan).nonzero for plan in lottery().strided(20, 2))
    assert left[0] < left[-1]  # of nine positions one offset keeps five and the other four
    whole = size(GRAPH).nonzero
    with pytest.raises(TargetError, match="this pattern leaves") as caught:
        lottery(
            Target(left[-2] / whole, "nonzero") if left[-2] < left[-1] else Target(left[0] / whole, "nonzero")
        ).strided(20, 2)
    assert caught.value.reachable == left[-1] / whole
    assert len(lottery(Target(left[-1] / whole, "nonzero")).strided(20, 2)) == 20
