from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nets import images
from secateur.core.graph import Graph, Group
from secateur.core.plan import DropUnits, Plan
from secateur.core.selection.target_selection import Step, by_share, family, fit, plan_of, steps
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import SettingError, TargetError
from strategies import networks
from toys import scored, toy

SCOPES = ("uniform", "global")


def taken(ordered: list[Step]) -> list[tuple[str, tuple[int, ...]]]:
    return [(step.group, step.units) for step in ordered]


# -- limits and steps ---------------------------------------------------------------------------------------


def test_the_lowest_goes_first_and_ties_go_by_number() -> None:
    group = Group("a", 7, ())
    scores = torch.tensor([2.0, 1.0, 2.0, 1.0, 0.5, 2.0, 1.0])
    assert [s.units for s in steps(group, scores, Limits())] == [(4,), (1,), (3,), (6,), (0,), (2,)]


def test_ties_go_by_number_in_large_groups() -> None:
    """Sorts that are not stable show it only beyond a few dozen entries."""
    scores = (torch.arange(3000) % 3).float()
    order = [unit for s in steps(Group("a", 3000, ()), scores, Limits()) for unit in s.units]
    assert order == [u for rest in range(3) for u in range(rest, 3000, 3)][:-1]


def test_scores_are_compared_in_full_precision() -> None:
    scores = torch.tensor([1.0 + 1e-12, 1.0, 1.0 - 1e-12], dtype=torch.float64)
    assert [s.units for s in steps(Group("a", 3, ()), scores, Limits())] == [(2,), (1,)]


def test_infinite_scores_never_go() -> None:
    scores = torch.tensor([math.inf, 3.0, math.inf, 1.0])
    assert [s.units for s in steps(Group("a", 4, ()), scores, Limits())] == [(3,), (1,)]
    assert not steps(Group("a", 2, ()), torch.tensor([math.inf, math.inf]), Limits())


@pytest.mark.parametrize(("min_units", "left"), [(1, 1), (2, 2), (5, 5), (6, 6), (7, 6), (100, 6)])
def test_floors_hold_and_small_groups_are_left_whole(min_units: int, left: int) -> None:
    done = steps(Group("a", 6, ()), torch.arange(6.0), Limits(min_units=min_units))
    assert 6 - sum(len(s.units) for s in done) == left


@pytest.mark.parametrize(
    ("width", "multiple", "min_units", "widths"),
    [
        (12, 4, 1, [8, 4]),
        (13, 4, 1, [12, 8, 4]),  # the first step only evens out
        (15, 4, 1, [12, 8, 4]),
        (12, 4, 5, [8]),
        (12, 4, 8, [8]),
        (7, 8, 1, []),  # narrower than one multiple: nothing to round to but zero
        (8, 8, 1, []),
        (9, 8, 1, [8]),
        (6, 1, 4, [5, 4]),
    ],
)
def test_widths_are_multiples(width: int, multiple: int, min_units: int, widths: list[int]) -> None:
    done = steps(Group("a", width, ()), torch.arange(float(width)), Limits(min_units, multiple))
    left, found = width, []
    for step in done:
        left -= len(step.units)
        found.append(left)
    assert found == widths
    assert [unit for step in done for unit in step.units] == list(range(width - left))


def test_units_that_never_go_stop_a_step_that_would_need_them() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, math.inf, math.inf, math.inf])
    assert [s.units for s in steps(Group("a", 8, ()), scores, Limits(multiple=2))] == [(0, 1), (2, 3)]


# -- families -----------------------------------------------------------------------------------------------


def test_uniform_takes_the_same_share_of_every_group() -> None:
    graph = toy(4, 8)
    # scores of b are a hundred times those of a: uniform does not look at that
    ordered = family(graph, scored(a=[4, 3, 2, 1], b=[100 * i for i in range(8)]), "uniform", Limits())
    assert taken(ordered) == [
        ("b", (0,)),
        ("a", (3,)), ("b", (1,)),  # a quarter of each
        ("b", (2,)),
        ("a", (2,)), ("b", (3,)),
        ("b", (4,)),
        ("a", (1,)), ("b", (5,)),
        ("b", (6,)),
    ]  # fmt: skip


def test_global_takes_the_lowest_wherever_it_is() -> None:
    graph = toy(3, 3, 3)
    scores = scored(a=[5, 1, 9], b=[2, 2, 2], c=[7, 8, 0])
    ordered = family(graph, scores, "global", Limits())
    assert taken(ordered) == [("c", (2,)), ("a", (1,)), ("b", (0,)), ("b", (1,)), ("a", (0,)), ("c", (0,))]


def test_equal_scores_go_in_the_order_of_the_groups() -> None:
    ordered = family(toy(3, 3), scored(b=[1, 1, 1], a=[1, 1, 1]), "global", Limits())
    assert taken(ordered) == [("a", (0,)), ("a", (1,)), ("b", (0,)), ("b", (1,))]


def test_a_step_of_several_units_goes_by_its_highest_score() -> None:
    ordered = family(toy(6, 6), scored(a=[0, 9, 9, 9, 9, 9], b=[5, 6, 7, 8, 8, 8]), "global", Limits(multiple=2))
    assert taken(ordered) == [("b", (0, 1)), ("b", (2, 3)), ("a", (0, 1)), ("a", (2, 3))]


@given(st.data())
def test_groups_keep_their_own_order_under_any_scope(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    graph = toy(*sizes)
    values = st.sampled_from([0.0, 1.0, 1.0, 2.5, -1.0, math.inf])
    scores = {g.name: torch.tensor([data.draw(values) for _ in range(g.size)]) for g in graph.groups}
    limits = Limits(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    ordered = family(graph, scores, data.draw(st.sampled_from(SCOPES)), limits)
    for group in graph.groups:
        mine = [step for step in ordered if step.group == group.name]
        assert mine == steps(group, scores[group.name], limits)


def test_groups_left_alone_or_without_scores_stay() -> None:
    graph = toy(3, 3, 3)
    assert {s.group for s in family(graph, scored(a=[1, 2, 3], c=[1, 2, 3]), "global", Limits())} == {"a", "c"}
    apart = graph.without("c")
    assert {s.group for s in family(apart, scored(a=[1, 2, 3], c=[1, 2, 3]), "global", Limits())} == {"a"}


# -- fit ----------------------------------------------------------------------------------------------------


def test_as_few_steps_as_the_target_needs() -> None:
    graph = toy(4, 4, prices=(10, 1), fixed=6)  # 50 MACs
    ordered = family(graph, scored(a=[1, 3, 5, 7], b=[2, 4, 6, 8]), "global", Limits())
    assert fit(graph, ordered, Target(1.0)) == Plan()
    assert fit(graph, ordered, Target(0.8)) == Plan((DropUnits("a", (0,)),))
    assert fit(graph, ordered, Target(0.79)) == Plan((DropUnits("a", (0,)), DropUnits("b", (0,))))
    assert fit(graph, ordered, Target(0.77)) == Plan((DropUnits("a", (0, 1)), DropUnits("b", (0,))))


@given(net=networks(), data=st.data())
def test_the_target_is_met_and_one_step_less_would_miss_it(net: nn.Module, data: st.DataObject) -> None:
    graph = trace(net, images(1))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    scores = {g.name: torch.rand(g.size, generator=seed) for g in graph.groups}
    ordered = family(graph, scores, data.draw(st.sampled_from(SCOPES)), Limits(multiple=1))
    target = Target(data.draw(st.floats(0.05, 1.0)), data.draw(st.sampled_from(["macs", "params", "units", "nonzero"])))
    whole = size(graph).of(target.of)
    smallest = size(graph, Plan(tuple(DropUnits(s.group, s.units) for s in ordered))).of(target.of) / whole
    if smallest > target.keep:
        with pytest.raises(TargetError) as caught:
            fit(graph, ordered, target)
        assert caught.value.reachable == smallest
        return
    plan = fit(graph, ordered, target)
    assert size(graph, plan).of(target.of) <= target.keep * whole * (1 + 1e-9)
    count = sum(len(units) for units in plan.dropped().values())
    assert plan == Plan(fit_prefix(graph, ordered, count))
    if count:
        shorter = Plan(fit_prefix(graph, ordered, count - 1))
        assert size(graph, shorter).of(target.of) > target.keep * whole


def fit_prefix(graph: Graph, ordered: list[Step], count: int) -> tuple[DropUnits, ...]:
    """The edits of the first ``count`` steps (single units), in the order of the groups."""
    units: dict[str, list[int]] = {}
    for step in ordered[:count]:
        units.setdefault(step.group, []).extend(step.units)
    return tuple(DropUnits(g.name, tuple(sorted(units[g.name]))) for g in graph.groups if g.name in units)


@pytest.mark.parametrize("left", range(1, 101))
def test_a_decimal_means_the_whole_number_that_it_looks_like(left: int) -> None:
    """0.29 * 100 is 28.999999999999996 in binary: 29 units are meant."""
    graph = toy(100)
    plan = fit(graph, family(graph, {"a": torch.arange(100.0)}, "global", Limits()), Target(left / 100, "units"))
    assert size(graph, plan).units == left


def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    graph = toy(4, 4, prices=(10, 1), fixed=6)
    ordered = family(graph, scored(a=[1, 3, 5, 7], b=[2, 4, 6, 8]), "uniform", Limits(min_units=2))
    assert size(graph, fit(graph, ordered, Target(0.56))).macs == 28
    with pytest.raises(TargetError, match=r"cannot keep only 0\.55 of the macs.*0\.56 remain") as caught:
        fit(graph, ordered, Target(0.55))
    assert caught.value.reachable == 28 / 50
    with pytest.raises(TargetError, match=r"0\.49 of the units.*0\.5 remain"):
        fit(graph, ordered, Target(0.49, "units"))


@pytest.mark.parametrize("width", [3, 6, 7, 9, 11, 600, 6000])
def test_the_fraction_that_the_refusal_names_can_be_had(width: int) -> None:
    graph = toy(width)
    ordered = family(graph, {"a": torch.arange(float(width))}, "global", Limits())
    with pytest.raises(TargetError) as caught:
        fit(graph, ordered, Target(0.5 / width, "units"))
    named = float(str(caught.value).partition("removed ")[2].partition(" ")[0])
    assert size(graph, fit(graph, ordered, Target(named, "units"))).units == 1


def test_multiples_and_floors_are_kept_by_the_plan() -> None:
    graph = toy(12, 10)
    scores = scored(a=list(range(12)), b=list(range(10)))
    ordered = family(graph, scores, "global", Limits(min_units=3, multiple=4))
    plan = fit(graph, ordered, Target(0.6, "units"))
    left = {g.name: g.size - len(plan.dropped().get(g.name, ())) for g in graph.groups}
    assert left == {"a": 8, "b": 4}
    with pytest.raises(TargetError) as caught:
        fit(graph, ordered, Target(0.3, "units"))
    assert caught.value.reachable == 8 / 22


def test_what_is_settled_before_counts_and_stays_settled() -> None:
    graph = toy(10, 10)
    start = Plan((DropUnits("b", (1, 3, 5, 7, 9)),))
    ordered = family(graph, scored(a=list(range(10))), "uniform", Limits())
    assert fit(graph, ordered, Target(0.75, "units"), start) == start
    plan = fit(graph, ordered, Target(0.6, "units"), start)
    assert plan == Plan((DropUnits("a", (0, 1, 2)), *start.edits))


def test_a_plan_lists_groups_in_the_order_of_the_network() -> None:
    graph = toy(3, 2, 4)
    keep = torch.tensor([True, False, True, True, True, False, True, True, False])
    assert plan_of(graph, keep) == Plan((DropUnits("a", (1,)), DropUnits("c", (0, 3))))
    assert torch.equal(graph.kept(plan_of(graph, keep)), keep)


# -- fixed shares -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "share", "left"),
    [
        (64, 0.5, 32),
        (10, 0.7, 7),
        (10, 0.29, 2),  # int(2.9), as in the paper
        (100, 0.29, 29),  # 28.999999999999996 in binary
        (8, 1.0, 8),
        (8, 0.01, 1),
    ],
)
def test_a_share_leaves_the_whole_part(width: int, share: float, left: int) -> None:
    graph = toy(width)
    plan, settled = by_share(graph, {"a": torch.arange(float(width))}, [("a", share)], Limits())
    assert size(graph, plan).units == left
    assert plan.dropped().get("a", ()) == tuple(range(width - left))
    assert settled == {"a"}


def test_the_last_matching_pattern_decides() -> None:
    graph = toy(10, 10, 10)
    scores = scored(a=list(range(10)), b=list(range(10, 0, -1)), c=[0.0] * 10)
    plan, settled = by_share(graph, scores, [("*", 0.5), ("b", 0.8)], Limits())
    assert plan.dropped() == {"a": (0, 1, 2, 3, 4), "b": (8, 9), "c": (0, 1, 2, 3, 4)}
    assert settled == {"a", "b", "c"}
    plan, settled = by_share(graph, scores, [("b", 0.8), ("[bc]", 0.9)], Limits())
    assert plan.dropped() == {"b": (9,), "c": (0,)}
    assert settled == {"b", "c"}


def test_shares_respect_limits() -> None:
    graph = toy(16)
    scores = {"a": torch.arange(16.0)}
    assert size(graph, by_share(graph, scores, [("a", 0.1)], Limits(min_units=5))[0]).units == 5
    # 4.8 units are asked for: the next multiple of 4 that is not below
    assert size(graph, by_share(graph, scores, [("a", 0.3)], Limits(multiple=4))[0]).units == 4
    assert size(graph, by_share(graph, scores, [("a", 0.4)], Limits(multiple=4))[0]).units == 8


def test_a_pattern_without_a_match_is_an_error() -> None:
    graph = toy(4, 4)
    scores = scored(a=[1, 2, 3, 4], b=[1, 2, 3, 4])
    with pytest.raises(SettingError, match="no prunable layer matches 'z'"):
        by_share(graph, scores, [("a", 0.5), ("z", 0.5)], Limits())
    with pytest.raises(SettingError, match="no prunable layer matches 'b'"):
        by_share(graph.without("b"), scores, [("b", 0.5)], Limits())


def test_patterns_match_any_layer_that_makes_the_units() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)), images(1))
    scores = {g.name: torch.arange(float(g.size)) for g in graph.groups}
    plan, settled = by_share(graph, scores, [("1", 0.5)], Limits(multiple=1))
    assert plan == Plan((DropUnits("1", (0, 1, 2)),))
    assert settled == {"1"}


def test_a_rate_may_name_a_module_with_all_that_is_in_it() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3)), nn.Conv2d(16, 8, 1))
    graph = trace(nn.Sequential(*net, nn.Conv2d(8, 4, 1)).eval(), images(1))
    scores = {group.name: torch.arange(float(group.size)) for group in graph.free}
    plan, settled = by_share(graph, scores, [("0", 0.5)], Limits(multiple=1))
    assert set(settled) == {"0.0", "0.2"}
    assert {name: len(units) for name, units in plan.dropped().items()} == {"0.0": 4, "0.2": 8}
