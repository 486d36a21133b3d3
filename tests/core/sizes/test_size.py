from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nets import images, make
from secateur.core.graph import Cost, Graph
from secateur.core.graph.written_sizes import Axis
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.sizes.size import Measure, Size, Target, ruler, size, sliced, zero_masks
from secateur.core.trace import trace
from secateur.errors import PlanError, SettingError
from strategies import networks, plans


@pytest.fixture(scope="module")
def plain() -> Graph:
    return trace(make("plain"), images(1))


def plain_size(one: int, two: int, batch: int = 1) -> Size:
    """The size of the plain network with these widths, by hand."""
    params = 27 * one + 2 * one + 9 * one * two + 2 * two + 5 * two + 5
    macs = batch * (27 * one * 64 + 9 * one * two * 16 + 5 * two)
    return Size(params=params, macs=macs, nonzero=params, units=one + two)


# -- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), [(8, 16), (7, 16), (8, 1), (3, 5), (1, 1)])
def test_sizes_are_those_computed_by_hand(plain: Graph, one: int, two: int) -> None:
    plan = Plan((DropUnits("0.0", tuple(range(8 - one))), DropUnits("2.0", tuple(range(two, 16)))))
    assert size(plain, plan) == plain_size(one, two)


def test_macs_count_the_whole_batch_and_params_do_not() -> None:
    graph = trace(make("plain"), images(3))
    assert size(graph) == plain_size(8, 16, batch=3)


def test_a_layer_that_is_called_twice_costs_twice_and_weighs_once() -> None:
    graph = trace(make("called twice"), images(1))
    found = size(graph, Plan((DropUnits("stem.0", (0, 1)),)))
    assert found.macs == 64 * (27 * 6 + 2 * 9 * 6 * 6) + 5 * 6
    assert found.params == 27 * 6 + 2 * 6 + 9 * 6 * 6 + 2 * 6 + 5 * 6 + 5


def test_grouped_convolutions_cost_their_own_group_only() -> None:
    graph = trace(make("grouped conv"), images(1))
    # one of four positions from each group of 16 inputs, two of six from each group of 24 outputs
    found = size(graph, Plan((DropUnits("stem.0", (0,)), DropUnits("grouped.0", (1, 4)))))
    assert found.macs == 64 * (27 * 12 + 9 * (12 // 4) * 16) + 5 * 16


def test_buffers_are_not_parameters() -> None:
    graph = trace(make("buffer scale"), images(1))
    assert "scale" in graph.tensors
    assert "scale" not in graph.parameters
    assert size(graph).params == 27 * 8 + 16 + 9 * 8 * 6 + 12 + 5 * 6 + 5


def test_macs_are_exact_where_float32_is_not(plain: Graph) -> None:
    """16,777,217 is the first whole number that float32 does not hold."""
    units = torch.arange(24)
    cost = Cost("huge", 16_777_217, (Axis(1_000_003, units), Axis(9, torch.zeros(0, dtype=torch.long))))
    graph = Graph(plain.groups, (), {}, frozenset(), (cost, cost), {}, (), (), {})
    keep = torch.arange(24) % 3 != 0
    assert ruler(graph).macs(keep) == 2 * 16_777_217 * (1_000_003 + 16) * 9


@given(net=networks(), data=st.data())
def test_removing_more_never_makes_a_network_larger(net: nn.Module, data: st.DataObject) -> None:
    graph = trace(net, images(1))
    plan = data.draw(plans(graph))
    more = Plan((*plan.edits, *data.draw(plans(graph)).edits))
    small, large = size(graph, more), size(graph, plan)
    assert small.macs <= large.macs
    assert small.params <= large.params
    assert small.units == graph.units - sum(len(units) for units in more.dropped().values())
    assert size(graph, Plan(more.edits[::-1])) == small


# -- the ruler ----------------------------------------------------------------------------------------------


def test_the_ruler_agrees_with_size_and_is_made_once(plain: Graph) -> None:
    plan = Plan((DropUnits("0.0", (1, 2)), DropUnits("2.0", (0,))))
    keep, rule = plain.kept(plan), ruler(plain)
    found = size(plain, plan)
    assert {m: rule.measure(m, keep) for m in ("macs", "params", "units", "nonzero")} == {
        "macs": found.macs,
        "params": found.params,
        "units": found.units,
        "nonzero": found.params,
    }
    assert found.of("macs") == found.macs
    assert ruler(plain) is rule
    assert ruler(plain.without("0.0")) is not rule


def test_the_ruler_knows_the_shape_of_every_tensor(plain: Graph) -> None:
    rule, keep = ruler(plain), plain.kept(Plan((DropUnits("0.0", (0, 3)), DropUnits("2.0", (15,)))))
    assert rule.shape("0.0.weight", keep) == (6, 3, 3, 3)
    assert rule.shape("2.0.weight", keep) == (15, 6, 3, 3)
    assert rule.shape("2.1.running_mean", keep) == (15,)
    assert rule.shape("2.1.num_batches_tracked", keep) == ()
    assert rule.shape("3.fc.weight", keep) == (5, 15)


def test_a_network_without_layers_that_multiply_costs_nothing() -> None:
    graph = trace(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), images(1))
    assert size(graph) == Size(0, 0, 0, 0)


# -- targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_fraction_lies_in_0_1(keep: float) -> None:
    with pytest.raises(SettingError, match=r"keep must be in \(0, 1\]"):
        Target(keep)


def test_an_unknown_measure_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match="unknown measure 'flops'; choose one of macs, params, nonzero, units"):
        Target(0.5, "flops")  # type: ignore[arg-type]


def test_the_default_measure_is_macs() -> None:
    assert Target(1.0) == Target(1.0, "macs")


# -- slices and masks ---------------------------------------------------------------------------------------


def test_slices_keep_what_belongs_to_no_unit_or_to_a_kept_one() -> None:
    tensor = torch.arange(24).reshape(4, 6)
    rows, columns = torch.tensor([0, -1, 1, 0]), torch.tensor([2, 2, 3, -1, 3, 2])
    keep = torch.tensor([False, True, True, False])
    assert sliced(tensor, (rows, columns), keep).tolist() == [[6, 7, 9, 11], [12, 13, 15, 17]]
    assert sliced(tensor, (None, columns), keep).tolist() == tensor[:, [0, 1, 3, 5]].tolist()
    assert sliced(tensor, (rows, None), torch.ones(4, dtype=torch.bool)) is tensor


def test_masks_of_one_tensor_meet_and_shrink_with_it(plain: Graph) -> None:
    one, two = torch.ones(5, 16, dtype=torch.bool), torch.ones(5, 16, dtype=torch.bool)
    one[0, 3], two[1, 4], two[2, 0] = False, False, False
    plan = Plan((DropUnits("2.0", (0,)), ZeroWeights.of("3.fc.weight", one), ZeroWeights.of("3.fc.weight", two)))
    mask = zero_masks(plain, plan, plain.kept(plan))["3.fc.weight"]
    assert (~mask).nonzero().tolist() == [[0, 2], [1, 3]]  # the third went with its unit
    found = size(plain, plan)
    assert found.params - found.nonzero == 2


def test_units_that_go_take_their_zeros_along(plain: Graph) -> None:
    mask = torch.ones(16, 8, 3, 3, dtype=torch.bool)
    mask[4] = False
    plan = Plan((ZeroWeights.of("2.0.weight", mask),))
    assert size(plain, plan).nonzero == plain_size(8, 16).params - 72
    both = Plan((*plan.edits, DropUnits("2.0", (4,))))
    assert size(plain, both) == plain_size(8, 15)


def test_foreign_masks_are_refused(plain: Graph) -> None:
    for plan, message in (
        (Plan((ZeroWeights.of("3.fc.weight", torch.ones(5, 15)),)), r"'3.fc.weight' with shape \(5, 15\)"),
        (Plan((ZeroWeights.of("3.fc.other", torch.ones(5, 16)),)), "'3.fc.other'"),
    ):
        with pytest.raises(PlanError, match=message):
            size(plain, plan)


@given(net=networks(), data=st.data())
def test_masks_count_what_is_zero(net: nn.Module, data: st.DataObject) -> None:
    graph = trace(net, images(1))
    plan = data.draw(plans(graph, zeros=True))
    keep = graph.kept(plan)
    masks = zero_masks(graph, plan, keep)
    found = size(graph, plan)
    assert found.nonzero == found.params - sum(int((~mask).sum()) for mask in masks.values())
    for name, mask in masks.items():
        assert tuple(mask.shape) == ruler(graph).shape(name, keep)
        assert mask.numel() == math.prod(ruler(graph).shape(name, keep))


@pytest.mark.parametrize(
    ("keep", "of", "hint"),
    [
        (403000, "macs", r"; for a number of MACs give budget=Budget\(max_macs=403000\) instead$"),
        (403000, "params", r"; for a number of parameters give budget=Budget\(max_params=403000\) instead$"),
        (50, "macs", "; 50 % is 0.5$"),
        (403000, "units", "it is the fraction that stays$"),
        (float("nan"), "macs", "it is the fraction that stays$"),
        (10**400, "macs", "it is the fraction that stays$"),
    ],
)
def test_a_target_that_is_no_fraction_says_what_to_give(keep: float, of: Measure, hint: str) -> None:
    with pytest.raises(SettingError, match=hint):
        Target(keep, of)
