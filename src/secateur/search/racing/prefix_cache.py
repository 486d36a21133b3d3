"""Compute once what all candidates share: the calls of a forward before the first edited weight is read.

Silencing changes only the weights that *read* a removed unit. Up to the first of them the dense network and all
candidates compute the same, the layers that make the removed units included; so the results of these calls are
recorded on the dense network and handed to each candidate instead of being computed again. Where a thin layer reads
a recorded map, the map is narrowed to the channels that the candidate keeps.

The calls are told apart by their order, which a forward with the same inputs always repeats; whatever does not fit
raises ``TapeError``, and every candidate is compared with the silenced network before it is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.channel_statistics import is_statistic
from secateur.core.code.written_numbers import call_name
from secateur.core.torch_modes import FunctionMode


class TapeError(Exception):
    """A forward does not follow the recorded one; the candidate must be run without the tape."""


class _Reached(Exception):
    """The forward has come to the first edited weight."""


@dataclass(frozen=True, eq=False)
class Tape:
    """The shared calls of a forward on one batch, in order: name and result of each."""

    names: tuple[str, ...]
    results: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Narrow:
    """Which channels a thin layer reads, out of how many in the dense network."""

    kept: Tensor
    full: int


def record(
    model: nn.Module, images: Tensor, edited: list[Tensor], statistics: bool, needed: frozenset[int] | None = None
) -> Tape:
    """Run the dense network up to the first call that gets an edited weight.

    Args:
        model: in evaluation mode.
        images: one batch.
        edited: the weights that some candidate changes.
        statistics: whether to stop also before the first call that may average or normalise over channels.
        needed: numbers of the calls whose results are wanted later, None for all; others are not kept in memory.
    """
    recorder = _Recorder({id(tensor) for tensor in edited}, statistics, needed)
    try:
        with recorder:
            model(images)
    except _Reached:
        pass
    return Tape(tuple(recorder.names), tuple(recorder.results))


class _Recorder(FunctionMode):
    def __init__(self, edited: set[int], statistics: bool, needed: frozenset[int] | None) -> None:
        super().__init__()
        self._edited, self._statistics, self._needed = edited, statistics, needed
        self.names: list[str] = []
        self.results: list[Any] = []

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = call_name(func)
        if (self._statistics and is_statistic(name)) or any(id(x) in self._edited for x in tree_leaves((args, named))):
            raise _Reached
        result = func(*args, **named)
        kept = self._needed is None or len(self.names) in self._needed or not isinstance(result, Tensor)
        self.results.append(result if kept else _FORGOTTEN)
        self.names.append(name)
        return result


_FORGOTTEN = torch.empty(0)


@dataclass(frozen=True, eq=False)
class _Call:
    """A call after the shared ones, with all its tensors, which are held so that no two share an id."""

    name: str
    args: tuple[Any, ...]
    special: bool
    used: list[Tensor]
    made: list[Tensor]


_IN_PLACE = ("relu", "add")


def _special(kwargs: Mapping[str, Any] | None) -> bool:
    """Tell whether keywords ask for more than the plain call; ``F.relu`` always says ``inplace=False``."""
    return any(value is not False for value in (kwargs or {}).values())


def _in_place(name: str, args: tuple[Any, ...]) -> Tensor | None:
    """Do a call inside its first argument, which saves memory traffic; None if it does not fit there."""
    first = args[0]
    if name == "relu" and len(args) == 1:
        return torch.relu_(first)
    if name == "add" and len(args) == 2 and isinstance(args[1], Tensor):
        other = args[1]
        return first.add_(other) if (other.shape, other.dtype) == (first.shape, first.dtype) else None
    return None


class Replay(FunctionMode):
    """While active, the first calls of a forward return what is on the tape.

    Args:
        tape: the recorded calls.
        narrow: for weights of a thin network, by id: which channels of a dense input they read.
        watch: whether to find out which results are used later, see ``needed`` and ``spare``.
        spare: calls that may write into their first argument, see ``spare``.
    """

    def __init__(
        self,
        tape: Tape,
        narrow: Mapping[int, Narrow],
        watch: bool = False,
        spare: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._watch, self._allowed, self._calls, self._later = watch, spare, list[_Call](), 0
        self._tape, self._narrow = tape, narrow
        self._next = 0
        self._places: dict[int, int] = {}
        self._used: set[int] = set()
        if watch:
            for place, result in enumerate(tape.results):
                self._places |= {id(leaf): place for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}

    @property
    def needed(self) -> frozenset[int]:
        """Numbers of the recorded calls whose results were used after the last of them."""
        return frozenset(self._used)

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        tape = self._tape
        if self._next < len(tape.names):
            if call_name(func) != tape.names[self._next]:
                raise TapeError(f"call {self._next} is {call_name(func)}, recorded was {tape.names[self._next]}")
            self._next += 1
            return tape.results[self._next - 1]
        self._later += 1
        if self._watch:
            used = [x for x in tree_leaves((args, named)) if isinstance(x, Tensor)]
            self._used |= {self._places[id(x)] for x in used if id(x) in self._places}
            result = func(*self._fitting(args), **named)
            made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
            self._calls.append(_Call(call_name(func), args, _special(named), used, made))
            return result
        if self._allowed.get(self._later - 1) == call_name(func) and not _special(named):
            found = _in_place(call_name(func), args)
            if found is not None:
                return found
        return func(*self._fitting(args), **named)

    def spare(self, out: Any) -> dict[int, str]:
        """Return which later calls could write into their first argument, by their number: nobody else looks at it.

        Args:
            out: what the forward returned; that is looked at.
        """
        made = {id(x) for call in self._calls for x in call.made}
        uses = Counter(i for call in self._calls for i in {id(x) for x in call.used})
        leaves = [x for x in tree_leaves((out, self._tape.results)) if isinstance(x, Tensor)]
        alive = {id(x): x for x in [*leaves, *(x for call in self._calls for x in (*call.used, *call.made))]}
        memory = Counter(x.untyped_storage().data_ptr() for x in alive.values())
        looked_at = {id(x) for x in leaves}
        found: dict[int, str] = {}
        for number, call in enumerate(self._calls):
            first = call.args[0] if call.args else None
            if call.name not in _IN_PLACE or call.special or not isinstance(first, Tensor):
                continue
            own = id(first) in made and uses[id(first)] == 1 and id(first) not in looked_at
            if own and memory[first.untyped_storage().data_ptr()] == 1 and not first.requires_grad:
                found[number] = call.name
        return found

    def _fitting(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Narrow the input of a thin layer if it is a map of the dense network."""
        if len(args) < 2 or not isinstance(args[0], Tensor):
            return args
        found = self._narrow.get(id(args[1]))
        if found is None:
            return args
        dim = args[0].dim() - args[1].dim() + 1  # channels come before the dimensions that a kernel has
        if args[0].shape[dim] != found.full:
            return args
        layout = torch.channels_last if _is_channels_last(args[0]) else torch.contiguous_format
        return (args[0].index_select(dim, found.kept).contiguous(memory_format=layout), *args[1:])


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
