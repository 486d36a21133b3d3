from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.plan import EMPTY, Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.errors import PlanError

names = st.text(min_size=1, max_size=12)
numbers = st.sets(st.integers(0, 60), max_size=20).map(lambda found: tuple(sorted(found)))
drops = st.builds(DropUnits, names, numbers)
regroups = st.builds(Regroup, names, st.lists(st.builds(Block, numbers, numbers), max_size=4).map(tuple))


@st.composite
def zeros(draw: st.DrawFn) -> ZeroWeights:
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    bits = draw(st.lists(st.booleans(), min_size=torch.Size(shape).numel(), max_size=torch.Size(shape).numel()))
    return ZeroWeights.of(draw(names), torch.tensor(bits).reshape(shape))


edits = st.one_of(drops, regroups, zeros())


@given(st.builds(Plan, st.lists(edits, max_size=6).map(tuple), free_outputs=st.lists(names, max_size=3).map(tuple)))
def test_json_gives_the_plan_back(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize("free", ['"feats"', "[1]", "{}", json.dumps(["x" * 1001]), json.dumps(["x"] * 1025)])
def test_free_outputs_are_a_list_of_paths(free: str) -> None:
    with pytest.raises(PlanError, match="is not a plan"):
        Plan.from_json(f'{{"format": 1, "edits": [], "free_outputs": {free}}}')


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ((), ""),
        ((0,), "0"),
        ((0, 1), "0-1"),
        ((0, 1, 2, 3, 7, 9, 10), "0-3,7,9-10"),
        ((5, 7, 9), "5,7,9"),
        (tuple(range(1000)), "0-999"),
    ],
)
def test_units_are_written_as_ranges(units: tuple[int, ...], text: str) -> None:
    plan = Plan((DropUnits("layer1.0.conv1", units),))
    assert json.loads(plan.to_json()) == {"format": 1, "edits": [{"drop": "layer1.0.conv1", "units": text}]}
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"format": 1}',
        '{"edits": []}',
        '{"format": "one", "edits": []}',
        '{"format": 1, "edits": [{}]}',
        '{"format": 1, "edits": ["drop"]}',
        '{"format": 1, "edits": [{"drop": "a"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": "3-"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": "x"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": "4-2"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": "1,1"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": "2,1"}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": [1, 2]}]}',
        '{"format": 1, "edits": [{"drop": "a", "units": 5}]}',
        '{"format": 1, "edits": [{"zero": "a", "shape": [3, 3], "keep": "AAAA"}]}',
        '{"format": 1, "edits": [{"zero": "a", "shape": [8], "keep": "§"}]}',
        '{"format": 1, "edits": [{"zero": "a", "shape": "8", "keep": "AA=="}]}',
        '{"format": 1, "edits": [{"regroup": "a", "blocks": [["0"]]}]}',
    ],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert "\n" not in str(caught.value)


def test_every_cut_of_the_file_is_refused() -> None:
    text = Plan((DropUnits("a", (1, 2, 5)), ZeroWeights.of("b.weight", torch.ones(3, 4)))).to_json()
    for length in range(len(text)):
        with pytest.raises(PlanError, match="cut short"):
            Plan.from_json(text[:length])


def test_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(PlanError, match=r"format 2.*upgrade"):
        Plan.from_json('{"format": 2, "edits": []}')


@pytest.mark.parametrize("units", [(1, 1), (2, 1), (-1, 3)])
def test_units_are_distinct_and_ascending(units: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="group 'a'"):
        DropUnits("a", units)


def test_masks_are_packed_in_row_major_order() -> None:
    keep = torch.tensor([[True, False, True], [True, True, True], [False, False, False], [True, False, False]])
    edit = ZeroWeights.of("w", keep)
    assert edit == ZeroWeights("w", (4, 3), bytes([0b10111100, 0b01000000]))
    assert torch.equal(edit.mask(), keep)


@given(zeros())
def test_masks_unpack_to_what_was_packed(edit: ZeroWeights) -> None:
    assert edit.mask().shape == edit.shape
    assert ZeroWeights.of(edit.tensor, edit.mask()) == edit


def test_a_mask_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(PlanError, match=r"mask of 'w' has 1 bytes where shape \(3, 3\) needs 2"):
        ZeroWeights("w", (3, 3), b"\0")


def test_dropped_units_of_one_group_add_up() -> None:
    plan = Plan((DropUnits("a", (1, 5)), DropUnits("b", ()), DropUnits("a", (0, 5))))
    assert plan.dropped() == {"a": (0, 1, 5)}
    assert EMPTY.dropped() == {}


def test_what_a_plan_does_is_said_of_each_kind_of_edit_once() -> None:
    drop, group = DropUnits("a", (0,)), Regroup("b", (Block((0,), (0,)),))
    zero = ZeroWeights.of("c", torch.tensor([True, False]))
    assert EMPTY.doing == "removing nothing"
    assert Plan((zero, zero)).doing == "setting weights to zero"
    assert Plan((group,)).doing == "removing connections"
    assert Plan((drop, zero, drop)).doing == "removing channels, setting weights to zero"
