"""Rules for recurrent layers and their cells, each read as one call, however the processor carries it out.

A unit of the hidden state owns one row of every gate, in the weights of the inputs and in those of the state, and is
read by a column of the weights of the state and by whatever reads the output. All gates of one unit are its own, so
that it can go exactly. The layers and directions of one module have one width: the same unit goes from each. Of an
LSTM with projections the projected units can go in this way, and what is projected stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.core.trace.calls_made import Call
from secateur.core.trace.mix import axis, contract, place
from secateur.core.trace.state import State

GIVEN = "the hidden state of a recurrent layer starts from a tensor whose size is fixed"
LEAVE_OUT = "leave the initial state out, or compute it from the layers before"
PROJECTED = "an LSTM with projections tells its states from each other by their widths"
TIME = "positions of a sequence that a recurrent layer runs along"


@dataclass(frozen=True, eq=False)
class _Cell:
    """The weights of one layer in one direction.

    Attributes:
        inputs: ``(gates x hidden, inputs)``.
        state: ``(gates x hidden, width of the state)``.
        biases: each ``(gates x hidden,)``.
        projection: ``(width of the state, hidden)``; None without.
    """

    inputs: Tensor
    state: Tensor
    biases: tuple[Tensor, ...]
    projection: Tensor | None

    @property
    def gates(self) -> int:
        """Rows for each hidden unit."""
        hidden = self.state.shape[1] if self.projection is None else self.projection.shape[1]
        return self.inputs.shape[0] // hidden


def begin(state: State, zeros: Tensor) -> Tensor:
    """The zeros that a layer makes for itself to start from follow its width."""
    if zeros.dim() and zeros.shape[-1] > 1:
        state.set(zeros, [place(state.fresh(zeros.shape[-1]), zeros, -1)])
    return zeros


def _layers(state: State, args: Sequence[Any], out: Sequence[Tensor]) -> None:
    """``(input, state, weights, ...)``, or ``(data, batch sizes, state, weights, ...)`` of a packed sequence."""
    at = 3 if isinstance(args[3], (tuple, list)) else 2
    weights, biased, layers, bidirectional = list(args[at]), bool(args[at + 1]), int(args[at + 2]), bool(args[at + 5])
    each = len(weights) // (layers * (2 if bidirectional else 1))
    cells = [_cell(weights[i : i + each], biased) for i in range(0, len(weights), each)]
    rows = [cells[i : i + 1 + bidirectional] for i in range(0, len(cells), 1 + bidirectional)]
    hidden = _run(state, args[0], _states(args[at - 1]), rows)
    output, *ends = out
    wide = None if hidden is None else hidden.repeat(1 + bidirectional)
    state.set(output, [place(wide, output, -1)])
    _set_ends(state, ends, hidden, projected=cells[0].projection is not None)


def _single(state: State, args: Sequence[Any], out: Any) -> None:
    """``(input, state, weights of the inputs, of the state, biases)``."""
    biases = tuple(bias for bias in args[4:6] if bias is not None)
    hidden = _run(state, args[0], _states(args[1]), [[_Cell(args[2], args[3], biases, None)]])
    _set_ends(state, out if isinstance(out, (tuple, list)) else [out], hidden, projected=False)


def _cell(weights: Sequence[Tensor], biased: bool) -> _Cell:
    biases = tuple(weights[2:4]) if biased else ()
    rest = weights[2 + len(biases) :]
    return _Cell(weights[0], weights[1], biases, rest[0] if rest else None)


def _states(given: Any) -> list[Tensor]:
    return [given] if isinstance(given, Tensor) else list(given)


def _run(state: State, x: Tensor, begins: Sequence[Tensor], layers: Sequence[Sequence[_Cell]]) -> Tensor | None:
    """Tie inputs, weights and states together; return the labels of the hidden units, None where they stay."""
    for layer in state.labels(x):
        if layer.shape[-1] == 1:
            state.pin(layer.reshape(-1), TIME)
    read = state.vector(x, x.dim() - 1)
    hidden = _hidden(state, [cell for cells in layers for cell in cells], begins)
    times = x.numel() // x.shape[-1]
    for cells in layers:
        for cell in cells:
            contract(state, read, state.vector(cell.inputs, 1), state.is_weight(cell.inputs))
            for weight in (cell.inputs, cell.state, cell.projection):
                if weight is not None:
                    _note(state, weight, times, 1 if weight is cell.projection else cell.gates)
        read = None if hidden is None else hidden.repeat(len(cells))
    return hidden


def _hidden(state: State, cells: Sequence[_Cell], begins: Sequence[Tensor]) -> Tensor | None:
    """Return the labels of the hidden state after tying to it all that goes with it; None where it must stay."""
    width = cells[0].state.shape[1]
    units: list[Tensor | None] = []
    for cell in cells:
        columns = state.vector(cell.state, 1)
        if cell.projection is None:
            owners = [(cell.inputs, 0), (cell.state, 0), *((bias, 0) for bias in cell.biases)]
        else:
            owners = [(cell.projection, 0)]
            _pin_projected(state, cell)
        units += [columns, *(state.vector(tensor, dim) for tensor, dim in owners)]
    own = [_own(state, tensor) for tensor in (begins[:1] if cells[0].projection is not None else begins)]
    known = [vector.reshape(-1, width) for vector in (*units, *own) if vector is not None]
    silenceable = all(state.is_weight(cell.state) for cell in cells)
    if len(known) < len(units) + len(own) or not silenceable:
        for vector in known:
            state.pin(vector.reshape(-1), GIVEN, LEAVE_OUT)
        return None
    for vector in known:
        state.unite(vector, known[0][:1])
    return known[0][0]


def _own(state: State, begin: Tensor) -> Tensor | None:
    """Return the labels of an initial state along its width; those along layers or images stay."""
    for layer in state.labels(begin):
        if layer.shape[-1] == 1:
            state.pin(layer.reshape(-1), TIME)
    return state.vector(begin, begin.dim() - 1)


def _pin_projected(state: State, cell: _Cell) -> None:
    assert cell.projection is not None
    for tensor, dim in ((cell.inputs, 0), (cell.state, 0), (cell.projection, 1), *((bias, 0) for bias in cell.biases)):
        rows = state.vector(tensor, dim)
        if rows is not None:
            state.pin(rows, PROJECTED)


def _note(state: State, weight: Tensor, times: int, gates: int) -> None:
    """Say what the dimensions of a weight do, and count it: every row of the input meets it once."""
    rows, columns = state.vector(weight, 0), state.vector(weight, 1)
    state.mark(rows, "makes", gates)
    state.mark(columns, "reads")
    axes = (axis(weight.shape[0], rows), axis(weight.shape[1], columns))
    state.calls.append(Call(state.module, times, axes))


def _set_ends(state: State, ends: Sequence[Tensor], hidden: Tensor | None, *, projected: bool) -> None:
    """The last states: hidden ones, and those of the cells, which projections do not touch."""
    for number, tensor in enumerate(ends):
        state.set(tensor, [] if number and projected else [place(hidden, tensor, -1)])


RULES: dict[str, Callable[[State, Sequence[Any], Any], None]] = {
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], _layers),
    **dict.fromkeys(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], _single),
}
