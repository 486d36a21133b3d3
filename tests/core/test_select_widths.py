"""Steps of several units: which go first, what is given back, and finer ones where a target is out of reach."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import images
from secateur.core.graph import Graph, Group, Member
from secateur.core.plan import DropUnits, Plan
from secateur.core.selection.target_selection import CLOSE, Scope, Step, family, fit, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import TargetError
from strategies import networks
from toys import scored, toy

SCOPES: tuple[Scope, ...] = ("uniform", "global")


def wide(*sizes: int, prices: tuple[int, ...] = (), layers: tuple[int, ...] = ()) -> Graph:
    """Return ``toy`` with groups that as many layers make or read as asked for, two unless told, channel by channel."""
    plain = toy(*sizes, prices=prices)
    groups = tuple(
        Group(g.name, g.size, tuple(Member(f"{g.name}{k}", k, "makes", torch.arange(g.size)) for k in range(touched)))
        for g, touched in zip(plain.groups, layers or [2] * len(sizes), strict=True)
    )
    return replace(plain, groups=groups)


def widths(graph: Graph, plan: Plan) -> list[int]:
    return [g.size - len(plan.dropped().get(g.name, ())) for g in graph.groups]


def test_groups_that_fewer_layers_touch_go_first_where_many_steps_tie() -> None:
    graph = wide(32, 32, 32, layers=(5, 2, 3))
    scores = {g.name: torch.arange(32.0) for g in graph.groups}
    assert [step.group for step in family(graph, scores, "uniform", Limits())] == ["b", "c", "a"]
    assert [step.group for step in family(graph, scores, "uniform", Limits(multiple=1))[:3]] == ["a", "b", "c"]
    graph = wide(32, 64, layers=(2, 3))  # the share decides before the number of layers does
    scores = {g.name: torch.arange(float(g.size)) for g in graph.groups}
    assert [step.group for step in family(graph, scores, "uniform", Limits())] == ["b", "a", "b", "b"]
    equal = {g.name: torch.zeros(g.size) for g in graph.groups}  # and scores that tie go as shares do
    assert [step.group for step in family(graph, equal, "global", Limits())] == ["a", "b", "b", "b"]


def test_what_the_last_step_took_too_much_is_given_back_the_last_first() -> None:
    """The dear group goes last and takes so much that the cheap one may come back, but for one step."""
    graph = wide(64, 64, prices=(1, 4))  # 320 MACs
    scores = scored(a=list(range(64)), b=list(range(100, 164)))
    ordered = family(graph, scores, "global", Limits())
    assert [step.group for step in ordered] == ["a"] * 3 + ["b"] * 3
    plan = fit(graph, ordered, Target(256 / 320))  # 272 without the last, 208 with it
    assert widths(graph, plan) == [64, 48]
    assert plan.dropped() == {"b": tuple(range(16))}
    assert widths(graph, fit(graph, ordered, Target(255 / 320))) == [48, 48]
    # where widths are single units nothing is given back: importance alone decides
    single = family(graph, scores, "global", Limits(multiple=1))
    assert widths(graph, fit(graph, single, Target(256 / 320))) == [1, 63]


def test_a_step_is_not_given_back_before_those_that_the_group_lost_after_it() -> None:
    graph = wide(64, 64, prices=(1, 4))
    ordered = family(graph, scored(a=list(range(64)), b=list(range(100, 164))), "global", Limits())
    plan = fit(graph, ordered, Target(225 / 320))  # room for one of the three steps of a: the lowest stay out
    assert plan.dropped() == {"a": tuple(range(32)), "b": tuple(range(16))}


def test_what_is_settled_before_is_never_given_back() -> None:
    graph = wide(64, 64)
    start = Plan((DropUnits("a", tuple(range(16))),))
    ordered = family(graph, {"b": torch.arange(64.0)}, "uniform", Limits())
    assert fit(graph, ordered, Target(1.0, "units"), start) == start
    assert widths(graph, fit(graph, ordered, Target(0.87, "units"), start)) == [48, 48]


WIDE = st.sampled_from([8, 16, 24, 32, 40, 48, 64, 96])


def drawn_network(data: st.DataObject) -> nn.Sequential:
    """Return a chain of convolutions that are wide enough for multiples, most with maps that are flattened behind."""
    sizes = data.draw(st.lists(WIDE, min_size=1, max_size=4))
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise([3, *sizes]):
        layers += [nn.Conv2d(one, other, 1), nn.ReLU()]
    if data.draw(st.booleans()):
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * sizes[-1], 5))
    return nn.Sequential(*layers, nn.Conv2d(sizes[-1], 5, 1))


def drawn_scores(graph: Graph, data: st.DataObject) -> dict[str, Tensor]:
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    return {g.name: torch.rand(g.size, generator=seed) for g in graph.groups}


MEASURES = st.sampled_from(["macs", "params", "units", "nonzero"])


@given(data=st.data())
def test_no_single_step_that_was_taken_last_could_still_come_back(data: st.DataObject) -> None:
    graph = trace(drawn_network(data), images(1))
    scores, scope = drawn_scores(graph, data), data.draw(st.sampled_from(SCOPES))
    limits = Limits(multiple=data.draw(st.sampled_from(["auto", 4, 5, 8])))
    ordered = family(graph, scores, scope, limits)
    target = Target(data.draw(st.floats(0.1, 1.0)), data.draw(MEASURES))
    goal = int(target.keep * size(graph).of(target.of) * (1 + 1e-12) + 1e-9)
    smallest = Plan(tuple(DropUnits(step.group, tuple(sorted(step.units))) for step in ordered))
    assume(size(graph, smallest).of(target.of) <= goal)
    plan = fit(graph, ordered, target)
    assert size(graph, plan).of(target.of) <= goal
    gone = {name: set(units) for name, units in plan.dropped().items()}
    assert all(limits.allow(graph.group(name), graph.group(name).size - len(units)) for name, units in gone.items())
    for group in graph.groups:
        lost = [step for step in ordered if step.group == group.name and set(step.units) <= gone.get(group.name, set())]
        # a group loses the lowest of its steps, whole
        assert lost == [step for step in ordered if step.group == group.name][: len(lost)]
        assert sum(len(step.units) for step in lost) == len(gone.get(group.name, ()))
        if lost:
            back = {**gone, group.name: gone[group.name] - set(lost[-1].units)}
            again = Plan(tuple(DropUnits(name, tuple(sorted(units))) for name, units in back.items() if units))
            assert size(graph, again).of(target.of) > goal


# -- meet ---------------------------------------------------------------------------------------------------


def met(graph: Graph, scores: dict[str, Tensor], scope: Scope, target: Target, limits: Limits) -> Plan:
    return meet(graph, partial(family, graph, scores, scope), target, limits)


def test_a_target_out_of_reach_is_met_with_finer_widths() -> None:
    graph = wide(64, 64)
    scores = {g.name: torch.arange(64.0) for g in graph.groups}
    asked: list[int] = []

    def order(limits: Limits) -> list[Step]:
        asked.append(limits.halvings)
        return family(graph, scores, "uniform", limits)

    for left, halvings in ((32, 0), (31, 1), (16, 1), (15, 2), (8, 2), (7, 3), (4, 3), (3, 4), (2, 4)):
        asked.clear()
        plan = meet(graph, order, Target(left / 128, "units"), Limits())
        assert asked[: halvings + 1] == list(range(halvings + 1))  # no finer than it must be
        assert len(asked) <= halvings + 2  # but where that misses by far, the finest of each group are looked at too
        rest = left - sum(widths(graph, plan))
        finest = 4 if 16 >> halvings > 4 else 1
        assert 0 <= rest < finest or rest <= (1 - CLOSE) * left
        if left == 32 >> halvings:  # such widths meet it to the unit
            assert all(width % (16 >> halvings) == 0 for width in widths(graph, plan))


def test_what_no_width_reaches_is_refused_with_what_the_finest_reach() -> None:
    graph = wide(64, 64)
    scores = {g.name: torch.arange(64.0) for g in graph.groups}
    with pytest.raises(TargetError, match=r"cannot keep only 0\.01 of the units.* 0\.0157 remain") as caught:
        met(graph, scores, "global", Target(0.01, "units"), Limits())
    assert caught.value.reachable == 2 / 128
    with pytest.raises(TargetError) as caught:
        met(graph, scores, "global", Target(0.05, "units"), Limits(min_units=5))
    assert caught.value.reachable == 10 / 128


def test_a_multiple_that_was_asked_for_is_not_refined() -> None:
    graph = wide(64, 64)
    scores = {g.name: torch.arange(64.0) for g in graph.groups}
    with pytest.raises(TargetError) as caught:
        met(graph, scores, "uniform", Target(0.2, "units"), Limits(multiple=16))
    assert caught.value.reachable == 0.25


@given(data=st.data())
def test_auto_reaches_whatever_single_units_reach(data: st.DataObject) -> None:
    net = data.draw(networks()) if data.draw(st.booleans()) else drawn_network(data)
    graph = trace(net, images(1))
    scores, scope = drawn_scores(graph, data), data.draw(st.sampled_from(SCOPES))
    target = Target(data.draw(st.floats(0.05, 1.0)), data.draw(MEASURES))
    least = data.draw(st.integers(1, 3))
    single = family(graph, scores, scope, Limits(least, 1))
    smallest = size(graph, Plan(tuple(DropUnits(step.group, tuple(sorted(step.units))) for step in single))).of(
        target.of
    )
    if smallest > target.keep * size(graph).of(target.of) * (1 + 1e-9):
        with pytest.raises(TargetError) as caught:
            met(graph, scores, scope, target, Limits(least))
        assert caught.value.reachable == smallest / size(graph).of(target.of)
        return
    plan = met(graph, scores, scope, target, Limits(least))
    assert size(graph, plan).of(target.of) <= target.keep * size(graph).of(target.of) * (1 + 1e-9)
    assert all(width >= min(least, group.size) for width, group in zip(widths(graph, plan), graph.groups, strict=True))


@pytest.mark.parametrize("keep", [0.95, 0.9, 0.8, 0.7, 0.6, 0.4])
@pytest.mark.parametrize("sizes", [(40, 40), (17, 33), (64, 24), (32,), (128, 20)])
def test_widths_that_are_given_back_stay_multiples_of_four(sizes: tuple[int, ...], keep: float) -> None:
    """One channel above a block can cost more than the next block: 33 channels took 1.7 times as long as 32."""
    graph = wide(*sizes)
    scores = {g.name: torch.arange(float(g.size)) for g in graph.groups}
    plan = meet(graph, lambda limits: family(graph, scores, "uniform", limits), Target(keep, "units"), Limits())
    for group in graph.groups:
        width = group.size - len(plan.dropped().get(group.name, ()))
        assert width == group.size or width % 4 == 0, (group.size, width)
    left = size(graph, plan).units
    assert left <= keep * sum(sizes)
    assert left > CLOSE * keep * sum(sizes) - 4


@pytest.mark.parametrize("keep", [0.999, 0.95, 0.9])
def test_giving_back_goes_on_with_what_is_still_gone(keep: float) -> None:
    graph = wide(32)
    plan = fit(
        graph,
        family(graph, {"a": torch.arange(32.0)}, "uniform", Limits()),
        Target(keep, "units"),
        limits=Limits(),
    )
    assert plan.dropped() == {"a": (0, 1, 2, 3)}  # 16 went at first, then 8 of them came back, then 4
