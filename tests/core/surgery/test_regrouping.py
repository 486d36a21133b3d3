from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nets import SOME_FIRST, images, make
from secateur.core.graph import Graph
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.sizes.regrouped import blocks_of, why_not
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, hold, masked, relative_difference, run, verify
from secateur.core.trace import trace
from secateur.core.zeros.blocks import BlockConv2d, BlockLayer, BlockLinear
from secateur.export import export_onnx, export_pt2
from secateur.measure import count, fastest
from strategies import networks, plans

BLOCKS = (Block(tuple(range(10)), (0, 1, 2)), Block(tuple(range(10, 14)), (2, 5)), Block((14, 15), ()))
EQUAL = (Block(tuple(range(0, 16, 2)), (0, 1, 2)), Block(tuple(range(1, 16, 2)), (3, 5, 7)))


def regrouped(model: nn.Module, graph: Graph, seed: int) -> tuple[Regroup, ...]:
    """Regroup every layer that can be into up to three random blocks, one of which may read nothing."""
    generator = torch.Generator().manual_seed(seed)
    edits: list[Regroup] = []
    for name, _ in model.named_modules():
        if why_not(model, graph, name):
            continue
        outputs, inputs = graph.tensors[f"{name}.weight"][0][:2]
        patterns = torch.rand(3, inputs, generator=generator) < torch.tensor([[0.7], [0.4], [0.1]])
        patterns[0, 0] = True
        which = torch.randint(3, (outputs,), generator=generator)
        which[0] = 0
        edits.append(Regroup(name, blocks_of(patterns[which])))
    return tuple(edits)


@given(net=networks(), data=st.data())
def test_regrouping_and_removal_equal_silence(net: nn.Module, data: st.DataObject):
    net = net.double()
    graph = trace(net, images(1, dtype=torch.float64))
    drops = data.draw(plans(graph)).edits
    edits = regrouped(net, graph, data.draw(st.integers(0, 99)))
    plan = Plan((*drops, *edits))
    keep = graph.kept(plan)
    kept_reads = [e for e in edits if _still_reads(graph, e, keep)]
    plan = Plan((*drops, *kept_reads))
    thin = apply(net, graph, plan)
    others = images(2, seed=1, dtype=torch.float64)
    with masked(net, graph, plan):
        expected = run(net, others)
    assert relative_difference(expected, run(thin, others)) < 1e-9
    paper = size(graph, plan)
    with FlopCounterMode(display=False) as counter:
        run(thin, images(1, dtype=torch.float64))
    assert paper.params == sum(p.numel() for p in thin.parameters())
    assert paper.macs == counter.get_total_flops() // 2


def _still_reads(graph: Graph, edit: Regroup, keep: torch.Tensor) -> bool:
    from secateur.core.sizes.regrouped import layouts

    return layouts(graph, Plan((edit,)), keep)[edit.layer].pairs > 0


@pytest.mark.parametrize("name", SOME_FIRST)
def test_every_kind_of_coupling_takes_block_layers_and_is_read_again(name: str):
    net = make(name)
    graph = trace(net, images(1))
    plan = Plan(regrouped(net, graph, 3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(3, seed=1)).exact
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    again = trace(thin, images(1))
    second = Plan(tuple(DropUnits(g.name, tuple(range(0, g.size, 2))[: g.size // 2]) for g in again.groups))
    thinner = apply(thin, again, second)
    assert verify(thin, again, second, thinner, images(3, seed=2)).exact
    assert size(again, second).macs == count(thinner, images(1)).macs


@pytest.mark.parametrize("blocks", [BLOCKS, EQUAL])
def test_blocks_are_regrouped_again_in_one_layer(blocks: tuple[Block, ...]):
    net = make("plain")
    graph = trace(net, images(1))
    thin = apply(net, graph, Plan((Regroup("2.0", blocks),)))
    again = trace(thin, images(1))
    if blocks is EQUAL:
        assert "no plain" in why_not(thin, again, "2.0.blocks.0")
        return
    finer = Plan((Regroup("2.0.blocks.0", (Block((0, 1), (1,)), Block(tuple(range(2, 10)), (0, 2)))),))
    thinner = apply(thin, again, finer)
    assert verify(thin, again, finer, thinner, images(3)).exact
    assert size(again, finer).params == sum(p.numel() for p in thinner.parameters())
    layer = thinner[2][0]
    assert isinstance(layer, BlockConv2d)
    assert not any(isinstance(block, BlockLayer) for block in layer.blocks)
    assert {(b.outputs, b.inputs) for b in layer.layout().blocks} == {
        ((0, 1), (1,)),
        (tuple(range(2, 10)), (0, 2)),
        ((10, 11, 12, 13), (2, 5)),
        ((14, 15), ()),
    }


def test_a_layer_that_reads_everything_stays_what_it_was():
    net = make("plain")
    graph = trace(net, images(1))
    plan = Plan((Regroup("2.0", (Block(tuple(range(16)), (0, 1, 2)),)), DropUnits("0.0", (3, 4, 5, 6, 7))))
    assert type(apply(net, graph, plan)[2][0]) is nn.Conv2d


def test_single_weights_inside_blocks_are_held_at_zero():
    net = make("plain")
    graph = trace(net, images(1))
    keep = torch.rand(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    bias = torch.tensor([1, 0, 1, 1, 0])
    plan = Plan(
        (
            Regroup("2.0", BLOCKS),
            ZeroWeights.of("2.0.weight", keep),
            Regroup("3.fc", (Block((0, 3), (1, 2, 5)), Block((1, 2, 4), ()))),
            ZeroWeights.of("3.fc.bias", bias),
            DropUnits("0.0", (1,)),
        )
    )
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    assert isinstance(thin[3].fc, BlockLinear)
    before = count(thin, images(1)).nonzero
    assert before == size(graph, plan).nonzero
    shaper = hold(thin, graph, plan)
    with torch.no_grad():
        for parameter in thin.parameters():
            parameter.add_(1.0)
    shaper.after_step(0)
    weight = thin[2][0].weight
    assert not weight[~keep[:, [0, 2, 3, 4, 5, 6, 7]]].any()
    assert thin[3].fc.bias.ne(0).tolist() == bias.bool().tolist()


def test_a_shared_layer_is_replaced_wherever_it_is():
    net = make("called twice")
    net.alias = net.shared[0]
    graph = trace(net, images(1))
    thin = apply(net, graph, Plan((Regroup("shared.0", (Block(tuple(range(8)), (1, 4)),)),)))
    assert thin.alias is thin.shared[0]
    assert isinstance(thin.alias, BlockConv2d)


@pytest.mark.parametrize("blocks", [BLOCKS, EQUAL])
def test_exports_compute_the_same(blocks: tuple[Block, ...], tmp_path: Path):
    pytest.importorskip("onnxruntime")
    net = make("plain")
    graph = trace(net, images(1))
    thin = apply(net, graph, Plan((Regroup("2.0", blocks),)))
    assert export_pt2(thin, images(1), tmp_path / "a.pt2").dynamic_batch
    assert export_onnx(thin, images(1), tmp_path / "a.onnx").dynamic_batch


def test_the_faster_execution_is_chosen_and_changes_no_size():
    net = make("plain")
    graph = trace(net, images(1))
    plan = Plan((Regroup("2.0", BLOCKS),))
    thin = apply(net, graph, plan)
    expected = run(thin, images(2))
    chosen = fastest(thin, images(2), seconds=1e-3)
    assert chosen == {"2.0": thin[2][0].execution}
    for execution in ("blocks", "dense"):
        thin[2][0].execution = execution
        assert count(thin, images(1)).macs == size(graph, plan).macs
        assert relative_difference(expected, run(thin, images(2))) < 1e-6
    assert fastest(net, images(1)) == {}
