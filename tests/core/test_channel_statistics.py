"""Norms, means and softmaxes over channels: removal and silencing still compute the same function."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, masked, verify
from secateur.core.trace import trace
from secateur.core.trace.rules import NORMS
from secateur.core.trace.state import State


class GroupNormed(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), nn.GroupNorm(groups, 12), nn.Conv2d(12, 4, 1)
        nn.init.uniform_(self.norm.weight)
        nn.init.uniform_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sigmoid(self.norm(self.a(x))))


class LayerNormed(nn.Module):
    """A layer norm over channels of a map, channels last in between, residual like in ConvNeXt."""

    kind: type[nn.Module] = nn.LayerNorm

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 10, 2, 2), self.kind(10)
        self.up, self.down, self.head = nn.Linear(10, 20), nn.Linear(20, 10), nn.Linear(10, 3)
        for parameter in self.norm.parameters():
            nn.init.uniform_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean((1, 2)))


class RmsNormed(LayerNormed):
    kind = nn.RMSNorm


class FunctionNormed(nn.Module):
    """Norms called as functions of torch itself, with weight and bias by position."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.w, self.v = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
        self.x, self.y = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.group_norm(self.a(x), 1, self.w, self.v)
        x = torch.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], self.x, self.y)
        return self.b(x.permute(0, 3, 1, 2))


class SpatialGate(nn.Module):
    """The spatial half of CBAM: mean and maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        gate = self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return self.b(x * torch.sigmoid(gate))


class ChannelSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.softmax(self.a(x), dim=1))


class StandardisedConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = StandardisedConv(3, 8, 3), StandardisedConv(8, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


NETWORKS = {
    "one group": (lambda: GroupNormed(1), 1, 12),
    "few groups": (lambda: GroupNormed(2), 1, 6),
    "many groups": (lambda: GroupNormed(6), 1, 6),
    "a group a channel": (lambda: GroupNormed(12), 1, 12),
    "layer norm": (LayerNormed, 2, 30),
    "RMS norm": (RmsNormed, 2, 30),
    "norms as functions": (FunctionNormed, 1, 8),
    "spatial gate": (SpatialGate, 1, 8),
    "softmax": (ChannelSoftmax, 1, 8),
    "weight standardisation": (Standardised, 2, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("step", [2, 3])
def test_removal_equals_silencing(name: str, step: int) -> None:
    make, groups, units = NETWORKS[name]
    model = make().double().eval()
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, torch.randn(1, 3, 8, 8, dtype=torch.float64))
    assert (len(graph.groups), graph.units) == (groups, units)
    plan = Plan(tuple(DropUnits(g.name, tuple(range(0, g.size - 1, step))) for g in graph.groups))
    thin = apply(model, graph, plan)
    check = verify(model, graph, plan, thin, torch.randn(3, 3, 8, 8, dtype=torch.float64))
    assert check.difference < 1e-12, check
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_thin_norms_say_how_wide_they_are() -> None:
    for make in (LayerNormed, RmsNormed):
        model = make().eval()
        graph = trace(model, torch.randn(1, 3, 8, 8))
        thin = apply(model, graph, Plan((DropUnits("stem", (0, 1, 2)),)))
        assert thin.get_submodule("norm").normalized_shape == (7,)


def test_a_fused_rms_norm_ties_its_weight_to_the_channels() -> None:
    norm = nn.RMSNorm(6)
    state, x = State.of(norm), torch.randn(2, 6)
    state.set(x, [state.fresh(6).reshape(1, 6)])
    NORMS["_fused_rms_norm"](state, (x, [6], norm.weight, 1e-6), x.clone())
    assert [one.numel() for one, _ in state.edges] == [6]


def test_zeroing_alone_would_not_do() -> None:
    """The statistic must run over what is kept: zeroed channels would still count in a layer norm's mean."""
    model = LayerNormed().eval()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    stream = next(g for g in graph.groups if g.size == 10)
    plan = Plan((DropUnits(stream.name, (0, 1, 2)),))
    x = torch.randn(2, 3, 8, 8)
    with masked(model, graph, plan), torch.no_grad():
        right = model(x)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("stem.weight", "stem.bias", "down.weight", "down.bias"):
            zeroed.get_parameter(name)[:3] = 0
        wrong = zeroed(x)
    assert (right - wrong).abs().max() > 1e-3


def test_silencing_ends_with_the_block_even_after_an_error() -> None:
    model = LayerNormed().eval()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    plan = Plan(tuple(DropUnits(g.name, (0, 2)) for g in graph.groups))
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    with pytest.raises(RuntimeError), masked(model, graph, plan):
        model(torch.randn(2, 4, 8, 8))
    assert torch.equal(model(x), expected)


def test_every_run_of_a_silenced_network_sees_the_kept_channels() -> None:
    model = LayerNormed().eval()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    plan = Plan(tuple(DropUnits(g.name, (0, 2)) for g in graph.groups))
    x = torch.randn(2, 3, 8, 8)
    expected = apply(model, graph, plan)(x)
    with masked(model, graph, plan):
        for _ in range(3):
            assert torch.allclose(model(x), expected, atol=1e-6)


def test_the_silenced_network_has_gradients() -> None:
    model = LayerNormed()
    graph = trace(model, torch.randn(1, 3, 8, 8))
    plan = Plan(tuple(DropUnits(g.name, (0, 2)) for g in graph.groups))
    thin = apply(model, graph, plan).double()
    model.double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with masked(model, graph, plan):
        model(x).square().sum().backward()
    thin(x).square().sum().backward()
    kept = [i for i in range(10) if i not in (0, 2)]
    assert torch.allclose(model.stem.weight.grad[kept], thin.stem.weight.grad)
