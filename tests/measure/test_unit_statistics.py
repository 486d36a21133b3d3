"""What units send and how the loss answers to gates on them, by hand and against networks without the unit."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError
from secateur.measure.gradient import loss_with_gradient
from secateur.measure.unit_sites import Position, Seen, refuse_unseen, shared_out, visible, watching
from secateur.measure.unit_statistics import Activity, activity, gate_gradients
from secateur.tasks import CLASSIFICATION, Custom


def chain() -> nn.Sequential:
    """Two channels: 2x - 1 and -x, rectified and read."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
        net[0].bias.zero_()
        net[1].bias.copy_(torch.tensor([-1.0, 0.0]))
        net[1].eps = 0.0
    return net


PICTURE = torch.tensor([[1.0, -1.0], [0.5, 2.0]]).reshape(1, 1, 2, 2)


def seen_at(net: nn.Module, graph: Graph, position: Position, pictures: Tensor = PICTURE) -> Activity:
    return activity(net, graph, [pictures], {position: torch.ones(graph.units, dtype=torch.bool)})


def test_positions_are_before_the_norm_behind_the_rectifier_and_behind_the_pool() -> None:
    net = chain()
    graph = trace(net, PICTURE)
    made, rectified, read = (seen_at(net, graph, it) for it in ("made", "rectified", "read"))
    assert made.mean.tolist() == [2.5 / 2, -2.5 / 4]
    assert rectified.mean.tolist() == [(1 + 0 + 0 + 3) / 4, 1 / 4]
    assert read.mean.tolist() == [3.0, 1.0]
    assert [it.zeros.tolist() for it in (made, rectified, read)] == [[0.0, 0.0], [0.5, 0.75], [0.0, 0.0]]
    assert rectified.square.tolist() == [10 / 4, 1 / 4]
    assert made.size.tolist() == [2.25, 4.5 / 4]
    assert [it.numbers.tolist() for it in (made, rectified, read)] == [[4.0, 4.0], [4.0, 4.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 12, 3, groups=2),  # loses a channel of each group
        nn.ConvTranspose2d(8, 16, 3, groups=4),  # and this one whole groups
        nn.Conv2d(8, 12, 3, groups=4),
    ],
)
def test_what_grouped_layers_make_is_seen_behind_them(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(layer.out_channels, 4, 1)).eval()
    graph, pictures = trace(net, torch.randn(2, 3, 8, 8)), torch.randn(2, 3, 8, 8)
    units = graph.tensors["1.bias"][1][0]
    with torch.no_grad():
        zeros = (net[:3](pictures) == 0).double().mean((0, 2, 3))
    for unit in units.unique():
        expected = float(zeros[units == unit].mean())
        assert float(seen_at(net, graph, "rectified", pictures).zeros[unit]) == pytest.approx(expected)


def test_a_threshold_at_zero_is_a_rectifier() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Threshold(0, 0), nn.Conv2d(2, 1, 1))
    graph = trace(net, PICTURE)
    assert visible(net, graph, PICTURE, "rectified").tolist() == [True, True]
    net[1] = nn.Threshold(0, 1)
    assert visible(net, graph, PICTURE, "rectified").tolist() == [False, False]


def test_a_limit_makes_small_values_zeros_and_batches_add_up() -> None:
    net = chain()
    graph = trace(net, PICTURE)
    where = {"made": torch.ones(2, dtype=torch.bool)}
    found = activity(net, graph, [PICTURE, -PICTURE, PICTURE], where, limit=torch.tensor([1.0, 0.5]))
    assert found.zeros.tolist() == [0.25, 0.25]
    assert found.numbers.tolist() == [12.0, 12.0]
    with pytest.raises(DataError, match="there is no batch of images"):
        activity(net, graph, [], where)


class Odd(nn.Module):
    """Rectifiers of all kinds of spelling, behind sums, a concatenation and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        self.side, self.shared, self.last = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = self.one(x) + self.two(x)
        joined = torch.cat([total, self.side(x)], 1).clamp(min=0)
        again = F.relu(self.shared(joined) + joined)
        return self.last(F.hardtanh(self.shared(again), 0.0, 6.0))


def test_a_unit_is_seen_where_it_is_first_rectified() -> None:
    torch.manual_seed(0)
    net = Odd()
    graph = trace(net, PICTURE)
    assert [(group.name, group.size) for group in graph.groups] == [("one", 2), ("side", 2)]
    found = seen_at(net, graph, "rectified")
    expected = torch.cat([net.one(PICTURE) + net.two(PICTURE), net.side(PICTURE)], 1).relu()
    assert found.numbers.tolist() == [4.0] * 4
    torch.testing.assert_close(found.mean, expected.mean((0, 2, 3)).double().detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["cat([x, x])", "grouped conv", "squeeze and excite", "flatten a map", "tied", "plain"]
)
def test_layers_show_what_is_given_to_them(name: str) -> None:
    net = make(name)
    graph = trace(net, images())
    found = shared_out(net, graph, images(), ("read", "made"))
    assert bool(found["read"].all())
    refuse_unseen(graph, found)


class Attention(nn.Module):
    """Two layers whose outputs are multiplied with each other, and a third behind a function without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 6) for _ in range(3))
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT
        found = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)
        return F.linear(found, self.weight).mean(1)


def test_units_that_no_layer_reads_are_seen_where_they_are_made_or_refused() -> None:
    torch.manual_seed(0)
    net, pictures = Attention(), torch.randn(2, 4, 3, 3)
    graph = trace(net, pictures)
    found = shared_out(net, graph, pictures, ("read", "made"))
    assert not bool(found["read"].any())
    assert bool(found["made"].all())
    with pytest.raises(SettingError, match="the units of 'v' are never seen"):
        refuse_unseen(graph, shared_out(net, graph, pictures, ("read",)))
    assert not bool(visible(net, graph, pictures, "rectified").any())


class Linear(nn.Module):
    """A residual stream without bends, made by three layers and read by three, so that gates are no approximation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 4, 1, bias=False) for n in (3, 4, 4))
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(x)
        return self.head((x + self.b(x.detach() * 0 + 1)).mean((2, 3)))


WEIGHTED = Custom(lambda output, targets: (output * targets).sum(1).mean(), lambda output, targets: 0.0)


@functools.cache
def weighted() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(5, 3, 4, 4, generator=rng), torch.randn(5, 2, generator=rng)


def loss_without(net: nn.Module, graph: Graph, unit: int, batch: Any) -> float:
    (group,) = graph.groups
    with masked(net, graph, Plan((DropUnits(group.name, (unit,)),))):
        return float(loss_with_gradient(net, batch, WEIGHTED).detach())


def test_a_gate_on_all_makers_is_one_on_all_readers_where_nothing_bends() -> None:
    torch.manual_seed(0)
    net, batch = Linear(), weighted()
    graph = trace(net, batch[0])
    everything = torch.ones(graph.units, dtype=torch.bool)
    made, read = (
        next(gate_gradients(net, graph, [batch], WEIGHTED, {place: everything})) for place in ("made", "read")
    )
    torch.testing.assert_close(made.gradients, read.gradients, rtol=1e-4, atol=1e-6)
    assert made.gradients.shape == (5, graph.units)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_where_the_loss_is_linear_in_a_unit_the_gate_says_what_its_loss_costs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 2)
    ).eval()
    batch = weighted()
    graph = trace(net, batch[0])
    everything = torch.ones(graph.units, dtype=torch.bool)
    dense = float(loss_with_gradient(net, batch, WEIGHTED).detach())
    lost = torch.tensor([dense - loss_without(net, graph, unit, batch) for unit in range(6)]).double()
    for place in ("read", "rectified"):
        (found,) = gate_gradients(net, graph, [batch], WEIGHTED, {place: everything})
        torch.testing.assert_close(found.gradients.sum(0), lost, rtol=1e-4, atol=1e-6)
        assert found.positions.tolist() == [1.0 if place == "read" else 4.0] * 6


def test_rows_that_belong_to_one_example_are_its_own() -> None:
    """Crops of an image that go through the network as a batch of their own."""

    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            crops = x.unflatten(2, (2, 2)).transpose(1, 2).flatten(0, 1)
            return self.fc(self.conv(crops).relu().mean((2, 3))).unflatten(0, (-1, 2)).sum(1)

    torch.manual_seed(0)
    net, (pictures, wanted) = Crops(), weighted()
    graph = trace(net, pictures)
    everything = {"read": torch.ones(graph.units, dtype=torch.bool)}
    (together,) = gate_gradients(net, graph, [(pictures, wanted)], WEIGHTED, everything)
    singly = [(x[None], y[None]) for x, y in zip(pictures, wanted, strict=True)]
    apart = gate_gradients(net, graph, singly, WEIGHTED, everything)
    torch.testing.assert_close(5 * together.gradients, torch.cat([it.gradients for it in apart]), rtol=1e-4, atol=1e-6)


def test_a_network_whose_loss_has_no_gradient_has_none() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    graph = trace(net, images())
    batch = (images(), torch.tensor([0, 1]))
    (found,) = gate_gradients(net, graph, [batch], CLASSIFICATION, {"read": torch.zeros(graph.units, dtype=torch.bool)})
    assert not bool(found.gradients.any())


def test_hooks_are_gone_afterwards_also_when_the_network_fails() -> None:
    net = chain()
    graph = trace(net, PICTURE)

    def fail(seen: Seen) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watching(net, graph, "read", fail, torch.ones(2, dtype=torch.bool)):
        net(PICTURE)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    net(PICTURE)
