"""Channels that meet in a grid, some of which can go and some of which cannot: always settled, and in one sweep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nets import lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import components as under_test
from secateur.core.trace import trace
from secateur.core.trace.clock import Clock
from secateur.core.trace.components import Components, Ties
from secateur.core.trace.state import State
from secateur.errors import TraceError


def shuffled(x: Tensor, parts: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, parts, c // parts, h, w).transpose(1, 2).reshape(n, c, h, w)


class WithInput(nn.Module):
    """A channel shuffle that the input meets: prunable and fixed channels in one grid."""

    def __init__(self, parts: int = 2, makes: int = 3) -> None:
        super().__init__()
        self.parts = parts
        self.first = nn.Conv2d(3, makes, 3, padding=1)
        self.middle, self.last = nn.Conv2d(makes + 3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(shuffled(torch.cat((self.first(x), x), 1), self.parts))))


class Again(nn.Module):
    """Shuffles one after the other, each of which meets what the last one has left."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(6, 3, 1) for _ in range(times))
        self.middle, self.last = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffled(torch.cat((x, x), 1), 3)
        for layer in self.layers:
            x = shuffled(torch.cat((layer(x), x[:, :3]), 1), 2)
        return self.last(torch.relu(self.middle(x)))


class Dimensions(nn.Module):
    """Filters along other dimensions of the map, whose outputs are shuffled with the input, as in DiCENet."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.high = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.first, self.mix, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(12, 6, 1, groups=2), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        high = self.high(x.transpose(1, 2)).transpose(1, 2)
        return self.last(torch.relu(self.mix(shuffled(torch.cat((self.deep(x), high, x), 1), 3))))


@pytest.mark.parametrize(
    "net", [WithInput(), WithInput(3, 9), WithInput(2, 9), Again(1), Again(5), Dimensions()], ids=lambda n: str(n)[:8]
)
def test_fixed_and_free_channels_in_one_grid(net: nn.Module) -> None:
    example = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = lived_in(net)
    graph = trace(net, example, seconds=60)
    plan = Plan(tuple(DropUnits(group.name, tuple(range(group.size // 2))) for group in graph.groups))
    assert verify(net, graph, plan, apply(net, graph, plan), example).exact


def test_what_only_meets_beside_the_grid_stays_free() -> None:
    graph = trace(WithInput(), torch.randn(2, 3, 8, 8), seconds=60)
    assert [(group.name, group.size) for group in graph.groups] == [("middle", 8)]
    assert any(pin.tensor == "first.weight" and pin.dim == 0 and pin.count == 3 for pin in graph.pins)


def test_long_chains_take_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Components of the whole network are found as often for many grids as for few."""
    solved: list[int] = []
    of = Components._tied  # pyright: ignore[reportPrivateUsage]

    def counted(self: Components, edges: list[tuple[Tensor, Tensor]]) -> Tensor:
        solved.append(len(edges))
        return of(self, edges)

    monkeypatch.setattr(Components, "_tied", counted)
    counts: list[int] = []
    for times in (2, 20):
        solved.clear()
        trace(Again(times), torch.randn(1, 3, 8, 8))
        counts.append(len(solved))
    assert counts[0] == counts[1]


def test_ties_are_those_of_connected_components() -> None:
    generator = torch.Generator().manual_seed(0)
    ties, pairs = Ties(torch.arange(200)), list[Tensor]()
    for _ in range(12):
        pairs.append(torch.randint(0, 200, (2, 9), generator=generator))
        ties.tie(*pairs[-1])
        want = under_test._connected(*torch.cat(pairs, 1), 200)  # pyright: ignore[reportPrivateUsage]
        assert torch.equal(want[:, None] == want, ties.of[:, None] == ties.of)


def test_the_patience_ends_while_grids_are_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State.of(nn.Conv2d(3, 4, 1))
    for _ in range(3):
        state.grids.append(state.fresh(6).reshape(2, 3))
    now = iter([0.0, 0.5, 2.0])
    monkeypatch.setattr("secateur.core.trace.clock.time.monotonic", lambda: next(now))
    with pytest.raises(TraceError, match="grid"):
        Components(state, Clock("Net", 1.0))
