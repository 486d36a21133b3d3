from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.core.plan import Block
from secateur.core.sizes.regrouped import Layout, blocks_of
from secateur.core.zeros.block_execution import executing
from secateur.core.zeros.blocks import BlockConv2d, BlockLayer, BlockLinear

EQUAL = Layout(6, 6, (Block((0, 2, 4), (1, 3)), Block((1, 3, 5), (0, 5))))
UNEVEN = Layout(6, 6, (Block((0, 5), (1, 2, 3)), Block((1, 2, 4), (3, 5)), Block((3,), ())))


@st.composite
def masks(draw: Any) -> Tensor:
    """Any pattern of (outputs, inputs) in which something is read; rows repeat so that blocks form."""
    outputs, inputs = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=inputs, max_size=inputs)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    picked = draw(st.lists(st.integers(0, len(rows) - 1), min_size=outputs, max_size=outputs))
    mask = torch.tensor([rows[i] for i in picked])
    mask[draw(st.integers(0, outputs - 1)), draw(st.integers(0, inputs - 1))] = True
    return mask


@st.composite
def convolutions(draw: Any, mask: Tensor) -> nn.Conv2d:
    torch.manual_seed(draw(st.integers(0, 99)))
    kernel = draw(st.sampled_from([1, 2, 3, (1, 3)]))
    return nn.Conv2d(
        mask.shape[1],
        mask.shape[0],
        kernel,
        stride=draw(st.sampled_from([1, 2, (2, 1)])),
        padding=draw(st.sampled_from([0, 1, (0, 2), "valid"])),
        dilation=draw(st.sampled_from([1, 2])),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
    )


def layout_of(mask: Tensor) -> Layout:
    return Layout(mask.shape[0], mask.shape[1], blocks_of(mask))


def with_zeros(layer: nn.Module, mask: Tensor) -> nn.Module:
    """The same layer with its full weight and zeros outside the blocks, held there in the backward pass too."""
    twin = copy.deepcopy(layer)
    shaped = mask.reshape(*mask.shape, *[1] * (layer.weight.dim() - 2))
    with torch.no_grad():
        twin.weight.mul_(shaped)
    twin.weight.register_hook(lambda gradient: gradient * shaped)
    return twin


def assert_equal_in_every_way(layer: nn.Module, blocked: BlockLayer, mask: Tensor, x: Tensor) -> None:
    twin = with_zeros(layer, mask)
    for execution in ("blocks", "dense"):
        for training in (False, True):
            blocked.train(training).zero_grad()
            twin.train(training).zero_grad()
            mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            with executing(blocked, execution):
                found = blocked(mine)
                expected = twin(theirs)
                assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
                found.square().sum().backward()
            expected.square().sum().backward()
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
            assert torch.allclose(gradient_of(blocked), twin.weight.grad, rtol=1e-4, atol=1e-4)
            with torch.no_grad(), executing(blocked, execution):
                assert torch.allclose(blocked(x), expected, rtol=1e-5, atol=1e-5)


def gradient_of(blocked: BlockLayer) -> Tensor:
    """The gradient of the blocks, laid out as the full weight is."""
    twin = copy.deepcopy(blocked)
    with torch.no_grad():
        for block, own in zip(twin.blocks, blocked.blocks, strict=True):
            block.weight.copy_(own.weight.grad)
    return twin.weight


@given(mask=masks(), data=st.data())
def test_a_block_convolution_is_the_dense_one_with_zeros(mask: Tensor, data: st.DataObject):
    layer = data.draw(convolutions(mask))
    blocked = BlockConv2d.of(layer, layout_of(mask))
    assert_equal_in_every_way(layer, blocked, mask, torch.randn(2, mask.shape[1], 6, 7))
    assert sum(p.numel() for p in blocked.parameters()) == int(mask.sum()) * layer.weight[0, 0].numel() + (
        0 if layer.bias is None else len(layer.bias)
    )


@given(mask=masks(), bias=st.booleans(), lead=st.sampled_from([(2,), (2, 3), ()]))
def test_a_block_linear_layer_is_the_dense_one_with_zeros(mask: Tensor, bias: bool, lead: tuple[int, ...]):
    layer = nn.Linear(mask.shape[1], mask.shape[0], bias)
    blocked = BlockLinear.of(layer, layout_of(mask))
    assert_equal_in_every_way(layer, blocked, mask, torch.randn(*lead, mask.shape[1]))


@given(mask=masks())
def test_the_full_weight_and_the_blocks_tell_the_same(mask: Tensor):
    layer = nn.Conv2d(mask.shape[1], mask.shape[0], 3)
    blocked = BlockConv2d.of(layer, layout_of(mask))
    assert torch.equal(blocked.weight, layer.weight * mask[:, :, None, None])
    assert torch.equal(blocked.bias, layer.bias)
    assert torch.equal(blocked.layout().mask(), mask)
    again = BlockConv2d.of(blocked, blocked.layout())
    assert torch.equal(again.weight, blocked.weight)


def test_equal_blocks_without_a_common_input_are_one_grouped_convolution():
    layer = nn.Conv2d(6, 6, 3, padding=1)
    blocked = BlockConv2d.of(layer, EQUAL)
    (grouped,) = blocked.blocks
    assert (grouped.groups, grouped.weight.shape) == (2, (6, 2, 3, 3))
    assert_equal_in_every_way(layer, blocked, EQUAL.mask(), torch.randn(2, 6, 5, 5))
    assert blocked.layout() == EQUAL
    assert len(BlockConv2d.of(layer, UNEVEN).blocks) == 2


def test_filters_without_inputs_put_out_their_bias_and_cost_nothing():
    layer = nn.Conv2d(6, 6, 3, padding=1)
    out = BlockConv2d.of(layer, UNEVEN)(torch.randn(2, 6, 5, 5))
    assert torch.equal(out[:, 3], layer.bias[3].expand(2, 5, 5))


def test_what_belongs_to_the_layer_carries_over():
    layer = nn.Conv2d(6, 6, 3, padding=1).double().to(memory_format=torch.channels_last).eval()
    layer.weight.requires_grad_(False)
    seen: list[int] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    blocked = BlockConv2d.of(layer, UNEVEN)
    blocked(torch.randn(1, 6, 5, 5, dtype=torch.float64))
    assert seen == [1]
    assert not any(module.training for module in blocked.modules())
    assert {p.dtype for p in blocked.parameters()} == {torch.float64}
    assert [b.weight.requires_grad for b in blocked.blocks] == [False, False]
    assert blocked.blocks[0].bias.requires_grad
    assert blocked.blocks[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert (blocked.in_channels, blocked.out_channels) == (6, 6)
    assert "weights=108" in repr(blocked)


def test_the_full_weight_follows_the_blocks():
    """It is put together once outside of training, and again when a block has changed."""
    blocked = BlockConv2d.of(nn.Conv2d(6, 6, 3), UNEVEN).eval()
    x = torch.randn(1, 6, 5, 5)
    with torch.no_grad(), executing(blocked, "dense"):
        first = blocked(x)
        assert torch.equal(blocked(x), first)
        blocked.blocks[0].weight.mul_(2)
        changed = blocked(x)
        blocked.load_state_dict({name: value * 1 for name, value in blocked.state_dict().items()})
        assert torch.allclose(blocked(x), changed)
    assert not torch.allclose(first, changed)
    with torch.no_grad():
        assert torch.allclose(blocked(x), changed, atol=1e-5)
        assert blocked.half()(x.half()).dtype == torch.float16


@pytest.mark.parametrize("fused", [False, True])
def test_what_an_optimizer_has_learnt_is_what_runs(fused: bool):
    """Fused optimizers change weights without raising their version counter."""
    blocked = BlockConv2d.of(nn.Conv2d(6, 6, 3), UNEVEN)
    optimizer = torch.optim.AdamW(blocked.parameters(), lr=0.1, fused=fused)
    x = torch.randn(4, 6, 5, 5)
    for _ in range(2):
        with torch.no_grad():
            with executing(blocked.eval(), "dense"):
                dense = blocked(x)
            assert torch.allclose(blocked(x), dense, atol=1e-5)
        blocked(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("execution", ["blocks", "dense"])
@pytest.mark.parametrize("layout", [EQUAL, UNEVEN])
def test_mixed_precision_compilers_and_exporters_take_it(layout: Layout, execution: str):
    blocked = nn.Sequential(BlockConv2d.of(nn.Conv2d(6, 6, 3), layout), nn.ReLU()).eval()
    x = torch.randn(2, 6, 5, 5)
    with executing(blocked, execution):
        expected = blocked(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert blocked(x).dtype == torch.bfloat16
        compiled = torch.compile(blocked, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), expected, atol=1e-6)
        program = torch.export.export(blocked, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        assert torch.allclose(program.module()(torch.cat([x, x]))[:2], expected, atol=1e-6)


def test_a_step_of_training_equals_that_of_the_masked_layer():
    layer = nn.Linear(6, 6)
    blocked, twin = BlockLinear.of(layer, UNEVEN), with_zeros(layer, UNEVEN.mask())
    x = torch.randn(4, 6)
    for model in (blocked, twin):
        F.mse_loss(model(x), torch.ones(4, 6)).backward()
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1).step()
    assert torch.allclose(blocked.weight, twin.weight, atol=1e-6)
    assert torch.allclose(blocked.bias, twin.bias, atol=1e-6)
