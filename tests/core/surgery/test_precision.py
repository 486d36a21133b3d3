from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nets import NETS, images, lived_in, make
from secateur.core.surgery import run
from secateur.core.surgery.forward import forward, tensors_in
from secateur.core.surgery.precision import InDouble
from secateur.core.surgery.verification import relative_difference


class Mixed(nn.Module):
    """Makes numbers of its own, converts, indexes and writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.conv(x)) * self.scale
        canvas = torch.zeros(y.shape, dtype=torch.float32)
        canvas[:, ::2] = y[:, ::2]
        canvas += torch.arange(y.shape[-1]) / 4
        self.seen[0] = 1 / 3
        self.seen[1:].fill_(0.1)
        self.seen.mul_(2)
        values, places = torch.topk(canvas.float().flatten(1), 5)
        return {"values": values.to(self.scale.dtype), "places": places, "mean": torch.mean(y, (2, 3))}


@pytest.mark.parametrize("name", NETS)
def test_what_is_computed_is_what_a_copy_in_float64_computes(name: str) -> None:
    net, x = make(name), images(2)
    before = copy.deepcopy(net.state_dict())
    expected = run(copy.deepcopy(net).double(), x.double())
    with InDouble():
        found = run(net, x)
    assert {tensor.dtype for tensor in tensors_in(found)} == {torch.float64}
    assert relative_difference(expected, found) < 1e-13
    assert relative_difference(expected, run(net, x)) > 1e-9  # float32 is not that precise
    for key, value in net.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])


def test_numbers_made_on_the_way_are_as_precise_and_what_is_written_stays() -> None:
    torch.manual_seed(0)
    net = lived_in(Mixed())
    twin = copy.deepcopy(net).double().eval()
    x = images(2)
    with InDouble():
        found = forward(net, x)
    assert {key: value.dtype for key, value in found.items()} == {
        "values": torch.float64,
        "places": torch.int64,
        "mean": torch.float64,
    }
    y = twin.norm(twin.conv(x.double())) * twin.scale
    canvas = torch.zeros_like(y)
    canvas[:, ::2] = y[:, ::2]
    canvas += torch.arange(y.shape[-1]) / 4
    values, places = torch.topk(canvas.flatten(1), 5)
    torch.testing.assert_close(found["values"], values, rtol=1e-13, atol=1e-13)
    assert torch.equal(found["places"], places)
    torch.testing.assert_close(found["mean"], y.mean((2, 3)), rtol=1e-13, atol=1e-13)
    assert net.seen.dtype == torch.float32
    torch.testing.assert_close(net.seen, torch.tensor([2 / 3, 0.2, 0.2]))
    with InDouble():
        made = torch.ones(2, out=torch.empty(2, dtype=torch.float64))
    assert made.dtype == torch.float64
