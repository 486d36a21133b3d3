"""Weights and inputs on grids: the paper's rule by hand, gradients that pass, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.core.zeros.number_grids import WHOLE, InputRounding, NumberGrids, lies_on_grid, output_axis, rounded
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError

CHANNEL = torch.tensor([[0.9, -0.31, 0.04, 0.0, 0.52]])


@pytest.mark.parametrize(
    ("bits", "values"),
    [
        (4, (0.9, -0.2571, 0.0, 0.0, 0.5143)),
        (6, (0.9, -0.3194, 0.0290, 0.0, 0.5226)),
        (WHOLE, (0.9, -0.31, 0.04, 0.0, 0.52)),
    ],
)
def test_one_channel_by_hand(bits: int, values: tuple[float, ...]) -> None:
    torch.testing.assert_close(rounded(CHANNEL, bits), torch.tensor([values]), atol=5e-5, rtol=0)


@given(seed=st.integers(0, 999), bits=st.sampled_from([2, 3, 4, 8, 12, 16]), axis=st.integers(0, 1))
@settings(max_examples=25, deadline=None)
def test_rounding_is_idempotent_symmetric_and_keeps_zeros(seed: int, bits: int, axis: int) -> None:
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    weight[1] = 0.0
    once = rounded(weight, bits, axis)
    torch.testing.assert_close(rounded(once, bits, axis), once, rtol=1e-5, atol=0)
    assert torch.equal(rounded(-weight, bits, axis), -once)
    assert not bool(once[1].any())
    assert lies_on_grid(once, bits, axis)
    assert bits > 12 or not lies_on_grid(weight, bits, axis)
    levels = [len(channel.unique()) for channel in once.unbind(axis)]
    assert max(levels) <= 2**bits - 1


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    weight = torch.randn(3, 5, requires_grad=True)
    outside = torch.randn(3, 5)
    (rounded(weight, 4) * outside).sum().backward()
    assert torch.equal(weight.grad, outside)


def test_inputs_are_rounded_by_a_range_that_follows() -> None:
    part, layer = InputRounding(4), nn.Linear(3, 1)
    x = torch.tensor([[0.0, 0.24, 3.0]])
    assert torch.equal(part(layer.eval(), (x,))[0], x)  # before there is a range
    assert torch.allclose(part(layer.train(), (x,))[0], torch.tensor([[0.0, 0.2, 3.0]]))  # of fifteenths
    assert torch.allclose(part(layer.eval(), (2 * x,))[0], torch.tensor([[0.0, 0.4, 3.0]]))  # and clipped
    part(layer.train(), (2 * x,))
    assert float(part.high) == pytest.approx(3.3)
    part(layer, (-x,))
    signed = part(layer.eval(), (torch.tensor([[-0.4, 0.0, 9.0]]),))[0]
    assert torch.equal(signed[0, 1], torch.tensor(0.0))
    assert float(signed[0, 0]) < 0 < float(signed[0, 2]) <= 3.5


def test_nothing_is_left_of_it_but_rounded_weights() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2), nn.Flatten(), nn.Linear(50, 2))
    layers = {name: module for name, module in net.named_children() if hasattr(module, "weight")}
    names, before, own = list(net.state_dict()), copy.deepcopy(net), dict(net.named_parameters())
    bits = {"0": 8, "2": 3, "4": WHOLE}
    grids = NumberGrids(layers, bits, 3, Shaper())
    x = torch.randn(2, 2, 6, 6)
    with grids.attached():
        inside = net(x)
    assert list(net.state_dict()) == names
    assert {name: id(tensor) for name, tensor in net.named_parameters()} == {n: id(t) for n, t in own.items()}
    assert torch.equal(net(x), before(x))
    assert not torch.equal(inside, before(x))
    grids.settle()
    assert all(lies_on_grid(layer.weight, bits[name], output_axis(layer)) for name, layer in layers.items())
    assert torch.equal(net[4].weight, before[4].weight)
    state = grids.state_dict()
    assert set(state) == {"range/2", "range/4"}  # the first reads images
    other = NumberGrids(layers, bits, 3, Shaper())
    other.load_state_dict(state)
    with grids.attached():
        expected = net.eval()(x)
    with other.attached():
        assert torch.equal(net(x), expected)


def test_a_weight_that_is_computed_already_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(SettingError, match=r"weight of 'fc' has a parametrization already; remove it$"):
        NumberGrids({"fc": layer}, {"fc": 8}, 8, Shaper())
