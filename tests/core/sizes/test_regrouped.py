from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nets import images, make
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.regrouped import blocks_of, layouts, merged, why_not, without_unread
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, masked, relative_difference, run
from secateur.core.trace import trace
from secateur.errors import PlanError
from strategies import networks

TWO = (Block(tuple(range(10)), (0, 1, 2)), Block(tuple(range(10, 16)), (2, 5)))


def random_blocks(outputs: int, inputs: int, seed: int, share: float = 0.5) -> tuple[Block, ...]:
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(3, inputs, generator=generator) < share
    patterns[0, int(torch.randint(inputs, (), generator=generator))] = True
    return blocks_of(patterns[torch.cat([torch.zeros(1), torch.rand(outputs - 1, generator=generator) * 3]).long()])


def regroupings(model: nn.Module, graph, seed: int, share: float = 0.5) -> Plan:
    names = [name for name, _ in model.named_modules() if not why_not(model, graph, name)]
    shapes = {name: graph.tensors[f"{name}.weight"][0] for name in names}
    return Plan(
        tuple(Regroup(n, random_blocks(s[0], s[1], seed + i, share)) for i, (n, s) in enumerate(shapes.items()))
    )


def test_outputs_with_the_same_inputs_form_a_block():
    mask = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    assert set(blocks_of(mask)) == {Block((0, 2), (0, 2)), Block((1,), (1,)), Block((3,), ())}
    assert merged([Block((3,), (0, 2)), Block((), (1,)), Block((0,), (0, 2))]) == (Block((0, 3), (0, 2)),)


def test_blocks_are_numbered_as_in_the_thin_layer_and_joined_where_they_become_equal():
    graph = trace(make("plain"), images(1))
    blocks = (Block(tuple(range(8)), (0, 1)), Block(tuple(range(8, 16)), (0, 2)))
    plan = Plan((Regroup("2.0", blocks), DropUnits("0.0", (1, 2)), DropUnits("2.0", (0, 9))))
    (layout,) = layouts(graph, plan, graph.kept(plan)).values()
    assert (layout.outputs, layout.inputs) == (14, 6)
    assert layout.blocks == (Block(tuple(range(14)), (0,)),)


def test_two_edits_of_a_layer_allow_what_both_allow():
    graph = trace(make("plain"), images(1))
    plan = Plan((Regroup("2.0", TWO), Regroup("2.0", (Block(tuple(range(16)), (2, 3)),))))
    assert layouts(graph, plan)["2.0"].mask().sum(1).tolist() == [1] * 16


def test_size_on_paper_by_hand():
    graph = trace(make("plain"), images(1))
    dense, paper = size(graph), size(graph, Plan((Regroup("2.0", TWO),)))
    assert paper.params == dense.params - 9 * (16 * 8 - 10 * 3 - 6 * 2) == paper.nonzero
    assert paper.macs == dense.macs - 16 * 9 * (16 * 8 - 10 * 3 - 6 * 2)  # maps of 4x4
    zeros = ZeroWeights.of("2.0.weight", torch.arange(8).reshape(1, 8, 1, 1).expand(16, 8, 3, 3) != 2)
    both = size(graph, Plan((Regroup("2.0", TWO), zeros)))
    assert (both.params, both.params - both.nonzero) == (paper.params, 16 * 9)  # input 2 is in both blocks


@given(net=networks(), seed=st.integers(0, 99))
def test_what_is_unread_can_go_without_a_trace(net: nn.Module, seed: int):
    net = net.double()
    x = images(1, dtype=torch.float64)
    graph = trace(net, x)
    plan = regroupings(net, graph, seed, share=0.3)
    fewer = without_unread(graph, plan)
    assert fewer.edits[-len(plan.edits) :] == plan.edits or not plan.edits
    others = images(2, seed=1, dtype=torch.float64)
    with masked(net, graph, plan):
        expected = run(net, others)
    assert relative_difference(expected, run(apply(net, graph, fewer), others)) < 1e-9
    assert without_unread(graph, fewer) == fewer


def test_unread_units_go_back_through_the_layers_and_floors_hold():
    graph = trace(make("plain"), images(1))
    plan = Plan((Regroup("3.fc", (Block((0, 1, 2, 3, 4), (0, 11)),)), Regroup("2.0", TWO)))
    any_width = Limits(multiple=1)
    assert without_unread(graph, plan, any_width).dropped() == {
        "0.0": (3, 4, 6, 7),  # output 0 reads 0-2, output 11 reads 2 and 5
        "2.0": (*range(1, 11), *range(12, 16)),
    }
    floors = without_unread(graph, plan, Limits(6, 3)).dropped()
    assert (len(floors["0.0"]), len(floors["2.0"])) == (2, 10)
    left_alone = without_unread(graph.without("2.0"), plan, any_width).dropped()
    assert left_alone == {"0.0": (3, 4, 6, 7)}


def test_units_in_a_mean_over_channels_stay():
    net = make("channel statistics (CBAM)")
    graph = trace(net, images(1))
    plan = Plan(tuple(Regroup(n, (Block(tuple(range(o)), (0,)),)) for n, o in (("mix.0", 6), ("down", 4))))
    assert not without_unread(graph, plan).dropped().get("before.0")


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("depth multiplier", "depthwise.0", "no plain 2-d convolution"),
        ("linear, written view, transposed conv", "up", "no plain 2-d convolution"),
        ("tied", "a", "another layer owns the same weight"),
        ("plain", "nowhere", "no such layer"),
        ("plain", "2.0", ""),
    ],
)
def test_what_can_be_regrouped(name: str, layer: str, reason: str):
    net = make(name)
    assert reason in why_not(net, trace(net, images(1)), layer)
    assert bool(reason) == bool(why_not(net, trace(net, images(1)), layer))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("plain", Regroup("2.0", (Block(tuple(range(16)), (8,)),)), "ascending and below 8"),
        ("plain", Regroup("2.0", (Block(tuple(range(16)), (1, 1)),)), "ascending and below 8"),
        ("plain", Regroup("2.0", (Block(tuple(range(16)), ()),)), "read no input at all"),
        ("plain", Regroup("2.1", (Block(tuple(range(16)), (0,)),)), "no plain 2-d convolution"),
        ("depth multiplier", Regroup("depthwise.0", (Block(tuple(range(16)), (0,)),)), "no plain 2-d convolution"),
        ("tied", Regroup("a", (Block(tuple(range(8)), (0,)),)), "another layer owns the same weight"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_all(name: str, edit: Regroup, message: str):
    net = make(name)
    graph = trace(net, images(1))
    for act in (lambda p: apply(net, graph, p), lambda p: masked(net, graph, p).__enter__()):
        with pytest.raises(PlanError, match=message) as caught:
            act(Plan((edit,)))
        assert "\n" not in str(caught.value)


def test_blocks_whose_inputs_all_go_are_refused():
    net = make("plain")
    graph = trace(net, images(1))
    plan = Plan((Regroup("2.0", (Block(tuple(range(16)), (0, 1)),)), DropUnits("0.0", (0, 1))))
    with pytest.raises(PlanError, match=r"removes all that the blocks of '2\.0' read"):
        apply(net, graph, plan)
