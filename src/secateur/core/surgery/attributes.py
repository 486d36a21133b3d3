"""Numbers in the attributes of a module: which of them its code takes its sizes from, and what they must become.

``x.split((self.c, self.c), 1)`` needs no other code: it needs another ``c``, which the other methods of the class
then use as well. Which attribute a size comes from is found by trying: one number is changed, the forward recorded
anew, and what has become of the sizes says what depends on it.
"""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from secateur.core.code.functions import names_in
from secateur.core.code.number_holders import held_by, renewed
from secateur.core.code.written_numbers import Path, differences, record
from secateur.core.interrupts import deferred
from secateur.core.surgery.untouched import untouched

_PLAIN = frozenset(vars(nn.Module()))
_DEEPEST = 6  # values in values; what holds itself has no end
_MOST = 64  # attempts at a combination of numbers for one module
INDIRECT = frozenset({"getattr", "vars", "__dict__", "__getattribute__", "attrgetter", "eval", "exec"})


@dataclass(frozen=True)
class Number:
    """A whole number in an attribute: the attribute itself, or what the values in it hold, see ``held_by``."""

    name: str
    path: Path
    value: int


def numbers(module: nn.Module) -> list[Number]:
    """Return the whole numbers in the attributes of a module and of its own classes."""
    found: dict[str, Any] = {name: value for name, value in vars(module).items() if name not in _PLAIN}
    for kind in type(module).__mro__:
        if kind is nn.Module:
            break
        for name, value in vars(kind).items():
            if not name.startswith("__") and not isinstance(value, types.FunctionType):
                found.setdefault(name, value)
    return [Number(name, path, value) for name, held in found.items() for path, value in _leaves(held, ())]


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, int]]:
    if type(value) is int:
        yield path, value
    for step, item in held_by(value) if len(path) < _DEEPEST else ():
        yield from _leaves(item, (*path, step))


def assign(module: nn.Module, changes: Mapping[Number, int]) -> None:
    """Set numbers; containers are made anew, because others may hold the same, and class attributes shadowed."""
    for number, value in changes.items():
        setattr(module, number.name, renewed(getattr(module, number.name), number.path, value))


@contextlib.contextmanager
def _with(module: nn.Module, changes: Mapping[Number, int]) -> Generator[None]:
    names = {number.name for number in changes}
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    try:
        assign(module, changes)
        yield
    finally:
        with deferred:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(before)


def mentioned(kind: type, function: str = "forward") -> frozenset[str]:
    """Return the names that a method and the methods it may call look up.

    If any of ``INDIRECT`` is among them, it may look up others.
    """
    seen: set[str] = set()
    waiting = [function]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
            waiting += _names(vars(owner).get(name))
    return frozenset(seen)


def _names(value: Any) -> list[str]:
    """Return the names in the code of a function, a property or a method of a class."""
    parts = [value, *(getattr(value, part, None) for part in ("fget", "__func__", "func", "__wrapped__"))]
    return [name for part in parts if isinstance(part, types.FunctionType) for name in names_in(part.__code__)]


Programs = tuple[fx.Graph, fx.Graph]  # of evaluation and of training


def recorded(module: nn.Module, *, alike: bool = False) -> Programs | bool:
    """Record the forward in both modes; where it cannot be, tell in which one (True: in training).

    Where the mode is known to make no difference (``alike``), one recording stands for both.
    """
    was_training = module.training
    graphs: list[fx.Graph] = []
    try:
        for training in (False,) if alike else (False, True):
            module.training = training
            with untouched(module):  # or stand-ins would be left in what it keeps between calls
                graph = record(module)
            if graph is None:
                return training
            graphs.append(graph)
    finally:
        module.training = was_training
    return graphs[0], graphs[-1]


def solve(module: nn.Module, now: Programs, wanted: Programs) -> dict[Number, int] | None:
    """Find the numbers with which the module's own code does what is wanted, and nothing else.

    Args:
        module: left as it is.
        now: what its forward does.
        wanted: the same but for some whole numbers.

    Returns:
        What to set; None if no numbers in its attributes do, or different ones would do as well, of which other
        methods of the class may use either.
    """
    wishes = moves(now, wanted)
    if not wishes:
        return None
    names = mentioned(type(module))
    usable = [number for number in numbers(module) if number.name in names or names & INDIRECT]
    alike = not names & {"training", *INDIRECT} and differences(*now) == {}
    options: list[list[tuple[Number, int] | None]] = []
    reach: dict[Number, Set[Place]] = {}
    for number in usable:
        values, reach[number] = _values(module, number, now, wishes, alike)
        if values:
            options.append([None, *((number, value) for value in values)])
    tried = map(dict, (filter(None, chosen) for chosen in itertools.islice(itertools.product(*options), 1, _MOST + 1)))
    able = (made for made in tried if wishes.keys() <= set[Place]().union(*(reach[number] for number in made)))
    fitting = [made for made in able if _does(module, made, wanted, alike)]
    fitting.sort(key=len)
    least = [made for made in fitting if len(made) == len(fitting[0])]
    return least[0] if len(least) == 1 and _combinations(options) <= _MOST else None


def _combinations(options: Sequence[Sequence[object]]) -> int:
    total = 1
    for each in options:
        total *= len(each)
    return total


Place = tuple[int, int, Path]  # mode, number of the node, path
Moves = dict[Place, tuple[int, int]]  # before, after


def moves(now: Programs, then: Programs) -> Moves | None:
    """Return the numbers in which two recordings differ; None if they differ in anything else."""
    found: Moves = {}
    for mode, (before, after) in enumerate(zip(now, then, strict=True)):
        different = differences(before, after)
        if different is None:
            return None
        found |= {(mode, *place): pair for place, pair in different.items()}
    return found


def _values(
    module: nn.Module, number: Number, now: Programs, wishes: Moves, alike: bool
) -> tuple[list[int], Set[Place]]:
    """Return what the number may have to become, nothing if no wished-for size comes from it, and all that does."""
    found: dict[int, None] = {}
    reach: set[Place] = set()
    for step in (1, number.value or 1):
        with _with(module, {number: number.value + step}):
            then = recorded(module, alike=alike)
        moved = None if isinstance(then, bool) else moves(now, then)
        if moved is None:
            continue
        reach |= moved.keys()
        for place in moved.keys() & wishes.keys():
            before, wished = wishes[place]
            slope = (moved[place][1] - before) / step
            candidates = [number.value + (wished - before) / slope]
            if before:
                candidates.append(number.value * wished / before)
            found |= dict.fromkeys(int(each) for each in candidates if each == int(each))
        if moved:
            break
    found.pop(number.value, None)
    return sorted(found), reach


def _does(module: nn.Module, changes: Mapping[Number, int], wanted: Programs, alike: bool) -> bool:
    with _with(module, changes):
        then = recorded(module, alike=alike)
    return not isinstance(then, bool) and moves(wanted, then) == {}
