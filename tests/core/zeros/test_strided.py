"""The smaller matrix product computes what the convolution with zeros computes, and surgery puts it in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur
from nets import images, make
from secateur.core.graph import tensor_of
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import trace
from secateur.core.zeros.block_execution import execute, execution_of
from secateur.core.zeros.patterns import stride_mask, strided_mask
from secateur.core.zeros.strided import StridedConv2d
from secateur.errors import PlanError
from secateur.export import export_pt2
from secateur.measure import count, fastest
from secateur.methods.random_masks import RandomMasks
from secateur.run import prune


@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 4), st.integers(2, 4)),
    step=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    polarity=st.sampled_from(["keep", "drop"]),
    data=st.data(),
)
def test_both_ways_compute_the_same(inputs, outputs, kernel, step, padding, dilation, bias, polarity, data) -> None:
    size = kernel[0] * kernel[1]
    stride = data.draw(st.integers(2, size))
    offsets = [data.draw(st.integers(0, stride - 1)) for _ in range(inputs)]
    mask = torch.stack([stride_mask(kernel, stride, offset, polarity) for offset in offsets])
    layer = nn.Conv2d(inputs, outputs, kernel, step, padding, dilation, bias=bias).eval()
    x = torch.randn(2, inputs, 9, 10)
    with torch.no_grad():
        layer.weight.mul_(mask)
        expected = layer(x)
        StridedConv2d.take(layer)
        assert torch.equal(layer(x), expected)
        layer.execution = "strided"
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        assert layer._packed.weight.shape[1] == int(mask.sum())  # type: ignore[union-attr]
        layer.weight.mul_(2)  # what was looked up is looked up again
        bias_part = 0 if layer.bias is None else layer.bias[:, None, None]
        torch.testing.assert_close(layer(x) - bias_part, 2 * (expected - bias_part), rtol=1e-5, atol=1e-5)


def test_a_weight_of_zeros_leaves_the_bias() -> None:
    layer = nn.Conv2d(2, 3, 3).eval()
    StridedConv2d.take(layer)
    layer.execution = "strided"
    with torch.no_grad():
        layer.weight.zero_()
        found = layer(torch.randn(1, 2, 5, 5))
    assert torch.equal(found, layer.bias[None, :, None, None].expand(1, 3, 3, 3))  # type: ignore[index]


@pytest.mark.parametrize("fused", [False, True])
def test_what_an_optimizer_has_learnt_is_what_runs(fused: bool) -> None:
    """Fused optimizers change weights without raising their version counter."""
    layer = nn.Conv2d(4, 4, 3)
    StridedConv2d.take(layer)
    layer.execution = "strided"
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    x = torch.randn(2, 4, 6, 6)
    for _ in range(2):
        with torch.no_grad():
            expected = nn.functional.conv2d(x, layer.weight, layer.bias)
            assert torch.allclose(layer.eval()(x), expected, atol=1e-5)
        layer(x).square().sum().backward()
        optimizer.step()


def test_with_gradients_it_is_an_ordinary_convolution() -> None:
    layer = nn.Conv2d(2, 3, 3).eval()
    StridedConv2d.take(layer)
    layer.execution = "strided"
    layer(torch.randn(1, 2, 5, 5)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    ],
)
def test_other_convolutions_are_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(PlanError, match="only convolutions with one group"):
        StridedConv2d.take(layer)


def strided_plan(graph: secateur.Graph, name: str = "2.0.weight") -> Plan:
    offsets = torch.arange(graph.tensors[name][0][1]) % 3
    return Plan((ZeroWeights.of(name, strided_mask(graph, name, 3, offsets)),))


def test_surgery_puts_it_where_zeros_are_alike_for_all_outputs() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    plan = strided_plan(graph)
    thin = apply(net, graph, plan)
    assert type(thin.get_submodule("2.0")) is StridedConv2d
    assert type(net.get_submodule("2.0")) is nn.Conv2d
    assert thin.state_dict().keys() == net.state_dict().keys()
    kernels = torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    free = Plan((ZeroWeights.of("2.0.weight", kernels[:, :, None, None].expand(16, 8, 3, 3)),))
    assert type(apply(net, graph, free).get_submodule("2.0")) is nn.Conv2d
    execute(thin, {"2.0": "strided", "0.0": "strided"})
    assert execution_of(thin) == {"2.0": "strided"}
    assert verify(net, graph, plan, thin, images(3)).exact
    assert count(thin, images(1)).macs == count(net, images(1)).macs


def test_it_is_cut_further_like_any_convolution() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    thin = apply(net, graph, strided_plan(graph))
    execute(thin, {"2.0": "strided"})
    run(thin, images(1))
    again = trace(thin, images(1))
    plan = Plan((DropUnits("0.0", (1, 4)), DropUnits("2.0", (0, 3, 7))))
    thinner = apply(thin, again, plan)
    assert tensor_of(thinner, "2.0.weight").shape == (13, 6, 3, 3)
    assert execution_of(thinner) == {"2.0": "strided"}
    assert verify(thin, again, plan, thinner, images(3)).exact


def test_the_choice_is_timed_saved_and_exported(tmp_path: Path) -> None:
    net = make("plain")
    method = RandomMasks(granularity="strided", stride=3, candidates=1)
    from secateur.data import from_arrays

    x, y = torch.rand(60, 3, 8, 8), torch.randint(5, (60,))
    data = from_arrays((x, y), (x[:20], y[:20]), (x[20:], y[20:]), classes=5, layout="NCHW")
    result = prune(net, None, method, data=data, latency=False)
    assert set(fastest(result.model, images(1), seconds=0.001)) == {"2.0"}
    execute(result.model, {"2.0": "strided"})
    loaded = secateur.load(result.save(tmp_path / "out"), dense=make("plain"))
    assert execution_of(loaded.model) == {"2.0": "strided"}
    torch.testing.assert_close(run(loaded.model, images(4)), run(result.model, images(4)), rtol=0, atol=0)
    assert export_pt2(result.model, images(1), tmp_path / "model.pt2").difference < 1e-5
