"""Recurrent layers after convolutions: what can go, exactly, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count
from secateur.outcome import Width, widths

KINDS: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
LSTM_FIRST = [kind if kind is nn.LSTM else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
CELLS: dict[type[nn.Module], int] = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}
CHANNELS, HIDDEN, STEPS, IMAGES = 6, 5, 8, 2
MAPS = IMAGES * 4 * STEPS * 9 * (1 * 8 + 8 * CHANNELS)


class Reader(nn.Module):
    """Two convolutions, the mean of each column, a recurrent layer over the columns, a linear layer."""

    def __init__(self, kind: Any, packed: str = "", begin: str = "", **options: Any) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, CHANNELS, 3, padding=1)
        self.r = kind(CHANNELS, HIDDEN, **options)
        self.first = nn.Linear(CHANNELS, HIDDEN) if begin == "computed" else None
        width = (options.get("proj_size") or HIDDEN) * (1 + options.get("bidirectional", False))
        self.o, self.packed, self.begin = nn.Linear(width, 7), packed, begin

    def forward(self, x: Tensor) -> Tensor:
        y = self.d(self.c(x).relu()).mean(2).permute(2, 0, 1)
        y = y.transpose(0, 1) if self.r.batch_first else y
        start: Any = None
        if self.first is not None:
            start = self.first(y.mean(1 if self.r.batch_first else 0)).unsqueeze(0)
        elif self.begin == "zeros":
            start = torch.zeros(1, IMAGES, HIDDEN)
        if not self.packed:
            return self.o(self.r(y, start)[0])
        out, _ = self.r(pack_padded_sequence(y, [STEPS, 5], batch_first=self.r.batch_first))
        return self.o(out.data if self.packed == "data" else pad_packed_sequence(out)[0])


class Stepping(nn.Module):
    """The same with a cell, step by step."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, CHANNELS, 3, padding=1)
        self.r, self.o = kind(CHANNELS, HIDDEN), nn.Linear(HIDDEN, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.d(self.c(x).relu()).mean(2), None
        for step in range(STEPS):
            state = self.r(y[:, :, step], state)
        return self.o(state[0] if isinstance(state, tuple) else state)


class Ends(Reader):
    """Reads the last states of all layers and directions."""

    def forward(self, x: Tensor) -> Tensor:
        _, ends = self.r(self.d(self.c(x).relu()).mean(2).permute(2, 0, 1))
        ends = ends[0] if isinstance(ends, tuple) else ends
        return self.o(torch.cat([ends[-2], ends[-1]], 1))


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(IMAGES, 1, 4, STEPS, generator=torch.Generator().manual_seed(0), dtype=dtype)


def check(model: nn.Module, dtype: torch.dtype = torch.float32) -> Graph:
    """Cut a third of every group, and some of each alone: exact, and of the size that was foretold."""
    torch.manual_seed(0)
    model = model.to(dtype).eval()
    x = inputs(dtype)
    graph = trace(model, x)
    assert size(graph).macs == count(model, x).macs
    plans = [Plan((DropUnits(group.name, (0, group.size - 1)),)) for group in graph.groups]
    plans.append(Plan(tuple(DropUnits(group.name, tuple(range(0, group.size - 1, 3))) for group in graph.groups)))
    for plan in plans:
        thin = apply(model, graph, plan)
        assert verify(model, graph, plan, thin, x).exact
        found = count(thin, x)
        assert (found.macs, found.params) == (size(graph, plan).macs, size(graph, plan).params)
        assert size(trace(thin, x)).macs == found.macs
    return graph


def groups(graph: Graph) -> dict[str, int]:
    return {group.name: group.size for group in graph.groups}


@pytest.mark.parametrize("kind", LSTM_FIRST)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 2},
        {"bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
    ],
)
def test_inputs_and_hidden_units_go(kind: Any, options: dict[str, Any]) -> None:
    graph = check(Reader(kind, **options))
    assert groups(graph) == {"c": 8, "d": CHANNELS, "r": HIDDEN}
    layers, ways = options.get("num_layers", 1), 1 + options.get("bidirectional", False)
    inside = CHANNELS + (layers - 1) * ways * HIDDEN + layers * HIDDEN
    recurrent = IMAGES * STEPS * ways * KINDS[kind] * HIDDEN * inside
    assert size(graph).macs == MAPS + recurrent + IMAGES * STEPS * ways * HIDDEN * 7


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("onednn", [True, False])
def test_no_processor_matters(kind: Any, onednn: bool) -> None:
    with torch.backends.mkldnn.flags(enabled=onednn):
        found = check(Reader(kind)), check(Reader(kind), torch.float64)
    assert [groups(graph) for graph in found] == [{"c": 8, "d": CHANNELS, "r": HIDDEN}] * 2
    assert size(found[0]).macs == size(found[1]).macs


@pytest.mark.parametrize("kind", CELLS)
def test_cells_too(kind: Any) -> None:
    graph = check(Stepping(kind))
    assert groups(graph) == {"c": 8, "d": CHANNELS, "r": HIDDEN}
    recurrent = IMAGES * STEPS * CELLS[kind] * HIDDEN * (CHANNELS + HIDDEN)
    assert size(graph).macs == MAPS + recurrent + IMAGES * HIDDEN * 7


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_of_an_lstm_with_projections_what_is_projected_stays() -> None:
    graph = check(Reader(nn.LSTM, proj_size=3, num_layers=2, bidirectional=True))
    assert groups(graph) == {"c": 8, "d": CHANNELS, "r": 3}
    each = [4 * HIDDEN * (read + 3) + 3 * HIDDEN for read in (CHANNELS, 6)]
    assert size(graph).macs == MAPS + IMAGES * STEPS * (2 * sum(each) + 6 * 7)
    pinned = [row for row in graph.explain().rows if row.layer == "r" and not row.prunable]
    assert "an LSTM with projections tells its states from each other" in pinned[0].reason


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("packed", ["data", "padded"])
def test_sequences_of_unequal_length(kind: Any, packed: str) -> None:
    graph = check(Reader(kind, packed=packed))
    assert groups(graph)["d"] == CHANNELS
    rows = STEPS + 5
    outputs = rows if packed == "data" else 2 * STEPS
    recurrent = rows * KINDS[kind] * HIDDEN * (CHANNELS + HIDDEN)
    assert size(graph).macs == MAPS + recurrent + outputs * HIDDEN * 7


@pytest.mark.parametrize("kind", KINDS)
def test_last_states(kind: Any) -> None:
    assert groups(check(Ends(kind, num_layers=2, bidirectional=True))) == {"c": 8, "d": CHANNELS, "r": HIDDEN}


def test_a_state_that_is_given_with_a_fixed_size_keeps_the_hidden_units_and_says_why() -> None:
    graph = check(Reader(nn.GRU, begin="zeros"))
    assert groups(graph) == {"c": 8, "d": CHANNELS}
    [row] = [row for row in graph.explain().rows if row.layer == "r"]
    assert row.reason.startswith("the hidden state of a recurrent layer starts from a tensor whose size is fixed")
    assert row.remedy.startswith("leave the initial state out")


def test_a_state_that_is_computed_goes_along() -> None:
    assert groups(check(Reader(nn.GRU, begin="computed"))) == {"c": 8, "d": CHANNELS, "first": HIDDEN}


def test_channels_that_are_the_time_stay() -> None:
    class Sideways(Reader):
        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(self.d(self.c(x).relu()).mean(2)[:, :, :CHANNELS].transpose(0, 1))[0])

    assert groups(check(Sideways(nn.GRU))) == {"c": 8, "r": HIDDEN}


def test_the_thin_layer_says_its_sizes_and_trains() -> None:
    model = Reader(nn.LSTM, num_layers=2).eval()
    graph = trace(model, inputs())
    thin = apply(model, graph, Plan((DropUnits("d", (1, 2)), DropUnits("r", (0,)))))
    assert (thin.r.input_size, thin.r.hidden_size) == (CHANNELS - 2, HIDDEN - 1)  # type: ignore[union-attr]
    thin.train()(inputs()).sum().backward()
    assert all(parameter.grad is not None for parameter in thin.parameters())


@pytest.mark.parametrize(("kind", "gates"), [*KINDS.items(), *CELLS.items()])
def test_explanations_and_results_count_hidden_units(kind: type[nn.Module], gates: int) -> None:
    torch.manual_seed(0)
    both = {"bidirectional": True} if kind in KINDS else {}
    net = (Reader(kind, **both) if kind in KINDS else Stepping(kind)).eval()
    assert next(p for n, p in net.named_parameters() if n.startswith("r.weight_hh")).shape[0] == gates * HIDDEN
    graph = trace(net, torch.randn(IMAGES, 1, 4, STEPS))
    row = next(row for row in graph.explain().rows if row.layer == "r")
    assert (row.width, row.prunable) == (HIDDEN, HIDDEN)
    thin = apply(net, graph, Plan((DropUnits("r", (0, 2)),)))
    assert [width for width in widths(graph, net, thin) if width.layer == "r"] == [Width("r", HIDDEN, HIDDEN - 2)]


def test_projected_units_are_what_a_projection_gives() -> None:
    net = Reader(nn.LSTM, proj_size=3).eval()
    graph = trace(net, torch.randn(IMAGES, 1, 4, STEPS))
    assert {(row.width, row.prunable) for row in graph.explain().rows if row.layer == "r"} == {(HIDDEN, 0), (3, 3)}
