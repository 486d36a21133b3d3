from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import Graph, Group, Member
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.limits import Limits, halved, small, static_multiple
from secateur.core.trace import trace
from secateur.errors import SettingError


def group(size: int, *spans: int, name: str = "g") -> Group:
    """Return a group that the first dimension makes and the others read, with so many channels for each unit."""
    members = [
        Member(f"{i}.weight", min(i, 1), "reads" if i else "makes", torch.arange(size).repeat_interleave(span))
        for i, span in enumerate(spans or (1,))
    ]
    return Group(name, size, tuple(members))


def network(*groups: Group) -> Graph:
    return Graph(groups, (), {}, frozenset(), (), {}, (), (), {})


# -- the static rule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "spans", "multiple"),
    [
        (64, (1, 1), 16),
        (32, (1, 1), 16),  # just two of them
        (31, (1, 1), 8),
        (24, (1, 1), 8),
        (17, (1, 1), 8),
        (15, (1, 1), 4),
        (3, (1, 1), 1),
        (1, (1, 1), 1),
        (12, (64, 64), 1),  # heads of 64 channels: any number of them is whole blocks
        (64, (4, 4), 4),
        (64, (8, 8), 2),
        (64, (24, 24), 2),  # two units of 24 channels are three blocks
        (64, (49,), 16),
        (64, (1, 49), 16),  # a flattened map of 7x7: the layer that reads it has as few whole blocks as the one before
        (64, (16, 1), 16),  # the layer that asks for most decides
        (64, (16, 8), 2),
    ],
)
def test_the_static_rule(size: int, spans: tuple[int, ...], multiple: int) -> None:
    assert static_multiple(group(size, *spans)) == multiple
    assert Limits().multiple_of(group(size, *spans)) == multiple


def test_units_of_different_widths_count_as_single_channels() -> None:
    uneven = Member("a.weight", 0, "makes", torch.tensor([0] * 16 + [1] * 48 + [2] * 16))
    assert Group("a", 3, (uneven,)).spans == (1,)
    assert Limits().multiple_of(Group("a", 3, (uneven,))) == 1
    wide = torch.arange(40).repeat_interleave(16)
    assert Limits().multiple_of(Group("a", 40, (Member("a.weight", 0, "makes", wide[:-1]),))) == 16


def test_norms_and_biases_do_not_ask_for_multiples() -> None:
    norm = Member("bn.weight", 0, "scales", torch.arange(64))
    assert Group("a", 64, (norm,)).spans == ()
    assert Limits().multiple_of(Group("a", 64, (norm,))) == 1  # nothing computes with them in blocks


def test_positions_of_other_groups_do_not_count() -> None:
    made = Member("cat.weight", 1, "reads", torch.tensor([-1] * 5 + [unit for unit in range(64) for _ in range(8)]))
    assert Group("a", 64, (made,)).spans == (8,)
    assert Limits().multiple_of(Group("a", 64, (made,))) == 2


@given(st.integers(1, 600), st.lists(st.integers(1, 70), min_size=1, max_size=3))
def test_every_group_can_lose_something_and_what_stays_is_whole_blocks(size: int, spans: list[int]) -> None:
    found = group(size, *spans)
    multiple = static_multiple(found)
    assert size >= 2 * multiple or multiple == 1
    assert 16 % multiple == 0
    if size >= 32:
        assert all(multiple * span % 16 == 0 for span in spans)


def test_networks_with_maps_that_are_flattened() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 9, 40), nn.Linear(40, 5))
    graph = trace(net, images(1))
    assert {g.name: (g.spans, Limits().multiple_of(g)) for g in graph.groups} == {"0": ((1, 9), 16), "3": ((1, 1), 16)}


# -- multiples that are given -------------------------------------------------------------------------------


def test_a_number_holds_for_every_group() -> None:
    assert [Limits(multiple=12).multiple_of(group(size)) for size in (64, 12, 5)] == [12, 12, 12]
    assert [Limits(multiple=8, parts=2).multiple_of(group(size)) for size in (64, 12, 5, 3)] == [8, 4, 2, 1]
    assert Limits(multiple=12, parts=3).multiple_of(group(5)) == 3  # no further than it is even
    assert small(16, 24) == 8
    assert small(16, 24, parts=0) == 16


def test_what_was_measured_goes_before_the_rule() -> None:
    limits = Limits(by_group=(("a", 32), ("b", 1)), source="as timed")
    assert limits.multiple_of(group(128, name="a")) == 32
    assert limits.multiple_of(group(128, name="b")) == 1
    assert limits.multiple_of(group(128, name="c")) == 16
    assert Limits(multiple=4, by_group=(("a", 32),)).multiple_of(group(128, name="a")) == 4


def test_limits_survive_json() -> None:
    limits = Limits(3, "auto", 2, (("layer1.0.conv1", 32), ("fc", 8)), "as timed here", 1)
    again = Limits(**json.loads(json.dumps(dataclasses.asdict(limits))))
    assert again == limits
    assert hash(again) == hash(limits)
    assert Limits(by_group=[["a", 4]]) == Limits(by_group=(("a", 4),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "width", "allowed"),
    [
        (Limits(), 48, True),
        (Limits(), 40, False),
        (Limits(halvings=1), 40, True),
        (Limits(min_units=40), 32, False),
        (Limits(min_units=100, multiple=1), 64, True),  # groups that are smaller than the floor stay whole
        (Limits(min_units=100, multiple=1), 63, False),
        (Limits(multiple=5), 40, True),
        (Limits(multiple=5), 41, False),
    ],
)
def test_which_widths_are_allowed(limits: Limits, width: int, allowed: bool) -> None:
    assert limits.allow(group(64), width) is allowed


# -- finer --------------------------------------------------------------------------------------------------


def test_halves_go_down_to_one() -> None:
    assert [halved(16, times) for times in range(6)] == [16, 8, 4, 2, 1, 1]
    assert [halved(24, times) for times in range(6)] == [24, 12, 6, 3, 1, 1]


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 70)), min_size=1, max_size=4),
    st.lists(st.integers(1, 100), max_size=4),
)
def test_finer_ends_with_any_width(shapes: list[tuple[int, int]], measured: list[int]) -> None:
    groups = [group(size, span, name=f"g{i}") for i, (size, span) in enumerate(shapes)]
    limits = Limits(by_group=tuple((f"g{i}", multiple) for i, multiple in enumerate(measured)))
    seen = [[limits.multiple_of(each) for each in groups]]
    for _ in range(8):  # 2**7 is above all of them
        following = limits.finer(groups)
        if following is None:
            break
        limits = following
        seen.append([limits.multiple_of(each) for each in groups])
    assert limits.finer(groups) is None
    assert set(seen[-1]) == {1}
    for coarse, fine in itertools.pairwise(seen):
        assert [max(1, multiple // 2) for multiple in coarse] == fine


def test_a_number_of_the_user_is_not_refined() -> None:
    assert Limits(multiple=16).finer([group(64)]) is None
    assert Limits().finer([group(3)]) is None
    assert Limits().finer([]) is None


# -- in words -----------------------------------------------------------------------------------------------


def test_the_note_says_which_multiples_and_why() -> None:
    graph = network(group(64, name="a"), group(64, name="b"), group(20, name="c"), group(3, name="d"))
    assert Limits(multiple=1).note(graph) == "widths are any number, as asked"
    assert Limits(multiple=8).note(graph) == "widths are multiples of 8, as asked"
    rule = "the rule for kernels that compute 16 channels at once, finer in small groups"
    said = f"widths are multiples of 16 in 2 groups, 8 in 1 group, 1 in 1 group, by {rule}"
    assert Limits().note(graph) == said
    timed = Limits(by_group=(("a", 32), ("b", 32), ("c", 4), ("d", 1)), source="the times of layers")
    assert timed.note(graph.without("d")) == (
        "widths are multiples of 32 in 2 groups, 4 in 1 group, by the times of layers"
    )
    assert "multiples of 8 in 2 groups" in Limits(halvings=1).note(graph)


def test_the_note_counts_groups_that_a_plan_leaves_finer() -> None:
    graph = network(group(64, name="a"), group(64, name="b"), group(20, name="c"))
    even, odd = DropUnits("a", tuple(range(16))), DropUnits("b", tuple(range(8)))
    rule = "the rule for kernels that compute 16 channels at once, finer in small groups"
    one = f"widths that are cut are multiples of 16 in 1 group, by {rule}"
    assert Limits().note_of(graph, Plan((even,))) == f"{one}; 2 groups keep their widths"  # 20 is no multiple of 8
    finer = "1 group finer than that, to meet what was asked"
    assert Limits().note_of(graph, Plan((even, odd))) == f"{one}; {finer}; 1 group keeps its width"
    fine, third = DropUnits("c", (0, 1)), DropUnits("c", tuple(range(4)))
    said = f"widths that are cut are multiples of 16 in 1 group, 8 in 1 group, by {rule}; {finer}"
    assert Limits().note_of(graph, Plan((even, odd, third))) == said
    said = "widths that are cut are finer than multiples that run fast, to meet what was asked"
    assert Limits().note_of(graph, Plan((odd, fine))) == f"{said}; 1 group keeps its width"
    asked = "widths that are cut are multiples of 16, as asked; 2 groups keep their widths"
    assert Limits(multiple=16).note_of(graph, Plan((even,))) == asked
    assert Limits().note_of(graph, Plan()) == ""  # which speaks of no widths


@pytest.mark.parametrize(("width", "multiple"), [(64, 16), (62, 16), (61, 16), (60, 4), (49, 4), (40, 8), (33, 4)])
def test_a_width_that_somebody_asked_for_is_met_nearly(width: int, multiple: int) -> None:
    found = Limits().multiple_near(group(64), width)
    assert found == multiple
    assert -width % found <= 0.05 * 64
    assert Limits(multiple=16).multiple_near(group(64), width) == 16  # a number is a number


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multiple", "fast"), ("multiple", 0), ("multiple", 7.5), ("multiple", True), ("multiple", -3),
        ("multiple", None), ("multiple", "8"), ("multiple", "AUTO"),
        ("min_units", 0), ("min_units", -3), ("min_units", 1.5), ("parts", -1), ("parts", True),
    ],
)  # fmt: skip
def test_bad_limits_are_refused_in_one_sentence(name: str, value: Any) -> None:
    wanted = {
        "multiple": '"auto" (for each group what runs fast) or a whole number of at least 1',
        "min_units": "a whole number of at least 1",
        "parts": "a whole number of at least 0",
    }[name]
    with pytest.raises(SettingError) as caught:
        Limits(**{name: value})
    said = str(caught.value)
    assert said.startswith(f"{name} must be {wanted}, not {value!r}")
    assert "\n" not in said


def test_a_word_that_is_nearly_right_is_asked_about() -> None:
    with pytest.raises(SettingError, match=r"not 'atuo' \(did you mean 'auto'\?\)"):
        Limits(multiple="atuo")  # type: ignore[arg-type]


class Heads(nn.Module):
    """Attention of four heads of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(8, 3 * 4 * 16), nn.Linear(4 * 16, 5), 4

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = (x := x.mean(1)).shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, 16).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


def test_heads_of_attention_are_blocks_already() -> None:
    [heads] = trace(Heads(), images(1)).groups
    assert heads.size == 4
    assert sorted(heads.spans) == [16, 48]
    assert Limits().multiple_of(heads) == 1


def test_small_networks_have_small_multiples() -> None:
    graph = trace(make("plain"), images(1))
    assert {g.name: (g.size, Limits().multiple_of(g)) for g in graph.groups} == {"0.0": (8, 4), "2.0": (16, 8)}
