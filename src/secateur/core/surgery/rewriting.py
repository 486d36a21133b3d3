"""Sizes written into Python code are made those of the thinner network."""

from __future__ import annotations

import ast
import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import FunctionType
from typing import NamedTuple

from torch import fx, nn

from secateur.core.code.functions import functions_in
from secateur.core.code.source import Spot, key_of, range_of, written
from secateur.core.code.written_numbers import Path, call_name, is_written, reshaping_nodes, write
from secateur.core.surgery.attributes import INDIRECT, Number, Programs, assign, mentioned, moves, recorded, solve
from secateur.core.surgery.generated import replace_forward, replace_numbers
from secateur.core.surgery.module_fingerprint import fingerprint
from secateur.core.surgery.recordable import is_recordable
from secateur.errors import ModelError


class Change(NamedTuple):
    """A size that becomes another one: the ``call``-th reshaping call of a module's own forward, and its arguments.

    Attributes:
        function: name of the call.
        path: of the size in its arguments.
        spot: where it stands in the source; None if it stands at no one place there.
        numbered: whether the call has this number in a recording of the module's forward.
    """

    call: int
    function: str
    path: Path
    value: int
    spot: Spot | None = None
    numbered: bool = True


class _Way(NamedTuple):
    """How a module comes to other sizes.

    Attributes:
        numbers: to set in its attributes.
        done: whether that is all.
        recorded: what its forward is to do, where a recording holds all of it.
    """

    numbers: Mapping[Number, int]
    done: bool
    recorded: Programs | None = None


class Ways:
    """The ways that were found for the modules of one network: those that are made alike go the same."""

    def __init__(self) -> None:
        self._found: dict[Hashable, _Way] = {}

    def of(self, module: nn.Module, changes: Sequence[Change]) -> _Way:
        """Return how this module comes to its sizes, from another that is alike if there was one."""
        spots = [each if each.spot is None else each._replace(spot=replace(each.spot, module="")) for each in changes]
        mark = fingerprint(module)
        key = (mark, tuple(spots))
        found = None if mark is None else self._found.get(key)
        if found is None:
            found = _way(module, changes)
            if mark is not None and found.recorded is None:
                self._found[key] = found
        return found


def rewrite(module: nn.Module, changes: Sequence[Change], ways: Ways | None = None) -> None:
    """Replace sizes in the module's own code, for training and for evaluation mode.

    Where the sizes come from numbers in its attributes, these are set. Where that is all it takes the class stays, else
    the module gets a subclass of its class: with the source of its methods in which only the numbers are others, or,
    where they stand at no one place, with a forward that is recorded with ``torch.fx``.

    Args:
        module: changed in place.
        changes: all that is to change.
        ways: those that were found for other modules of the network.

    Raises:
        ModelError: if the sizes stand at no one place in the source, and the forward cannot be recorded, has other
            calls than expected, or does what a recording loses.
    """
    changes = [each for each in changes if each.spot is None or each.spot.number != each.value]
    if not changes:
        return
    way = (ways or Ways()).of(module, changes)
    assign(module, way.numbers)  # other methods of the class may use them, also where the forward takes more
    if way.done:
        return
    if all(change.spot is not None for change in changes):
        replace_numbers(module, [(change.spot, change.value) for change in changes if change.spot is not None])
    elif way.recorded is not None:
        replace_forward(module, *way.recorded)
    else:
        raise _refusal(module, "" if is_recordable(module) else "alone")


def _way(module: nn.Module, changes: Sequence[Change]) -> _Way:
    programs = _programs(module, changes) if all(change.numbered for change in changes) else None
    if programs is None:
        return _Way({}, done=False)
    now, named, wanted = programs
    plain = is_recordable(module)
    if plain and moves(now, wanted) == {}:
        return _Way({}, done=True)
    numbers = solve(module, now, named)
    if numbers and not (is_recordable(module, attributes=True) or _only_there(module, numbers, changes)):
        numbers = None
    done = bool(numbers) and all(_is_number(graph, change) for graph in now for change in changes)
    return _Way(numbers or {}, done, wanted if plain and not done else None)


def _programs(module: nn.Module, changes: Sequence[Change]) -> tuple[Programs, Programs, Programs] | None:
    """Return what the forward does, what it would do with other numbers in it, and what it is to do."""
    now = recorded(module)
    if isinstance(now, bool):
        return None
    named, wanted = copy.deepcopy(now), copy.deepcopy(now)
    for mode in (0, 1):
        if not _change(wanted[mode], changes):
            return None
        _change(named[mode], [c for c in changes if _is_number(now[mode], c)])
    return now, named, wanted


def _change(graph: fx.Graph, changes: Iterable[Change]) -> bool:
    nodes = reshaping_nodes(graph)
    if any(c.call >= len(nodes) or call_name(nodes[c.call].target) != c.function for c in changes):
        return False
    for change in changes:
        write(nodes[change.call], change.path, change.value)
    return True


def _is_number(graph: fx.Graph, change: Change) -> bool:
    return is_written(graph, change.call, change.function, change.path) is True


def _only_there(module: nn.Module, numbers: Iterable[Number], changes: Sequence[Change]) -> bool:
    """Whether a module's code looks at some of its attributes for the sizes that change, and for nothing else."""
    kind, names = type(module), {number.name for number in numbers}
    methods = mentioned(kind)
    if methods & INDIRECT:
        return False
    spots = [change.spot for change in changes]
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for value in (vars(owner).get(name) for name in methods):
            for function in functions_in(value):
                if names & set(function.__code__.co_names) and not _inside(function, names, spots):
                    return False
    return True


def _inside(function: FunctionType, names: set[str], spots: Sequence[Spot | None]) -> bool:
    source = written(function)
    if source is None:
        return False
    own = [spot.at for spot in spots if spot is not None and spot.route[-1].key == key_of(function.__code__)]
    read = [range_of(n) for n in ast.walk(source.node) if isinstance(n, ast.Attribute) and n.attr in names]
    return all(any(at[:2] <= each[:2] and each[2:] <= at[2:] for at in own) for each in read)


def _refusal(module: nn.Module, alone: str) -> ModelError:
    return ModelError(
        f"the sizes written in {type(module).__name__}.forward cannot be adapted{' ' * bool(alone)}{alone}; "
        "compute them from the input's shape instead"
    )
