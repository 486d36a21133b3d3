"""How many weights go from each layer, and which layers these are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur.core.selection.zero_counts import check_said, counts, down, smallest_go, weights_of
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import SettingError, TargetError
from shaped import IMAGES, net


def test_the_stem_and_the_last_layer_are_left_out_if_they_are_to_be() -> None:
    graph = trace(net(), IMAGES)
    assert weights_of(graph, stem=True, last=True) == tuple(f"{layer}.weight" for layer in (0, 3, 6, 8, 12))
    assert weights_of(graph, stem=False, last=True) == ("3.weight", "6.weight", "8.weight", "12.weight")
    assert weights_of(graph, stem=False, last=False) == ("3.weight", "6.weight", "8.weight")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_is_one_whether_images_are_grey_or_not(channels: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    graph = trace(net, torch.randn(1, channels, 8, 8))
    assert weights_of(graph, stem=True, last=True) == ("0.weight", "4.weight")
    assert weights_of(graph, stem=False, last=True) == ("4.weight",)


def test_a_ratio_is_rounded_down_and_leaves_something_of_every_layer() -> None:
    assert [down(0.29, 100), down(0.95, 1000), down(0.999, 10), down(0.0, 7)] == [29, 950, 9, 0]
    graph = trace(net(), IMAGES)
    found = counts(graph, weights_of(graph, stem=True, last=True), None, 0.99)
    assert all(count < math.prod(graph.tensors[name][0]) for name, count in found.items())
    with pytest.raises(TargetError, match="left alone"):
        counts(graph, (), None, 0.5)


def test_a_target_is_met_to_the_weight_by_the_same_share_of_all() -> None:
    model = net()
    graph = trace(model, IMAGES)
    found = counts(graph, weights_of(graph, stem=False, last=False), Target(0.4, "nonzero"), None)
    plan = smallest_go(model, found)
    assert 0.39 * size(graph).nonzero < size(graph, plan).nonzero <= 0.4 * size(graph).nonzero
    shares = [count / math.prod(graph.tensors[name][0]) for name, count in found.items()]
    assert max(shares) - min(shares) < 0.02
    with pytest.raises(TargetError, match="remain; ask for at least that"):
        counts(graph, weights_of(graph, stem=False, last=False), Target(0.05, "nonzero"), None)


def test_what_is_zero_already_counts_first() -> None:
    model = net()
    with torch.no_grad():
        model[6].weight[:, 0] = 0.0
    (edit,) = smallest_go(model, {"6.weight": 10}).edits
    assert not edit.mask()[:, 0].any()  # type: ignore[union-attr]
    assert int(edit.mask().sum()) == 50  # type: ignore[union-attr]


def test_weights_that_are_not_numbers_cannot_be_ranked() -> None:
    model = net()
    with torch.no_grad():
        model[6].weight[0, 0] = float("nan")
    with pytest.raises(SettingError, match="weights of '6' contain NaN"):
        smallest_go(model, {"6.weight": 10})


def test_how_much_goes_is_said_once_and_in_zeros() -> None:
    check_said(Target(0.5, "nonzero"), None)
    check_said(None, 0.5)
    with pytest.raises(SettingError, match="both a target and a ratio"):
        check_said(Target(0.5, "nonzero"), 0.5)
    with pytest.raises(TargetError, match="say how much goes: a target"):
        check_said(None, None)
    with pytest.raises(TargetError, match="leave the macs as they are; set the target in nonzero") as caught:
        check_said(Target(0.5, "macs"), None)
    assert caught.value.reachable == 1.0
