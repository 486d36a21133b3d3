"""What the modules of a network keep between runs, beside tensors: remembered, and put back entry by entry."""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))  # attributes of every module, most of them empty dictionaries of hooks and parts
_TABLES = (dict, OrderedDict, defaultdict)  # without a method that another class has written
_NUMBERS = (bytearray, array)
_BARE = frozenset({int, float, bool, str, bytes, type(None)})  # hold nothing, and cannot be changed
_PLAIN = _BARE | {tuple}
_DEEPEST = 4  # containers and objects within each other, the innermost counted too
_MOST = 1000  # entries of a container that are looked into
_FOREIGN = (sys.stdlib_module_names - {"types"}) | {"torch", "numpy"}  # types: SimpleNamespace


def keeping(modules: Iterable[nn.Module]) -> list[Callable[[], object]]:
    """Return what puts back the attributes, parts and hooks of modules, and what their attributes hold.

    These are lists, queues, arrays, sets and dictionaries, also of classes that are made from them, and objects of
    classes that are no part of Python or torch.
    """
    restore: list[Callable[[], object]] = []
    empty: list[Any] = []
    seen: set[int] = set()
    for module in modules:
        own = vars(module)
        restore.append(partial(_restore_table, own, dict(own)))
        for name, value in own.items():
            if type(value) in _BARE:
                continue
            if name not in _OWN:
                held = [each for each in _reached(value, seen) if type(each) not in _PLAIN]
                restore += [step for each in held for step in _restoring(each)]
            elif value:
                restore += _restoring(value)
            elif type(value) in _TABLES:  # nine of ten: a network has hundreds of modules
                empty.append(value)
    return [*restore, partial(_empty_again, empty)]


def kept_tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return the tensors that modules keep as attributes, or in what their attributes hold; no parts or buffers."""
    seen: set[int] = set()
    own = [vars(module) for module in modules]
    values = [held[name] for held in own for name in held if name not in _OWN and type(held[name]) not in _BARE]
    return [each for value in values for each in _reached(value, seen) if isinstance(each, Tensor)]


def _empty_again(tables: Iterable[dict[Any, Any]]) -> None:
    for table in tables:
        if table:
            table.clear()


def _reached(value: Any, seen: set[int], depth: int = 1) -> Iterator[Any]:
    """Yield a value, and what it holds that was not met before."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    kind: Any = type(value)  # isinstance would wake lazy objects
    parts = [*(_attributes(value) or {}).values(), *_slots(value).values()]
    if issubclass(kind, dict):
        parts += dict.values(value)
    elif issubclass(kind, list | tuple | deque):
        parts += value
    for part in parts if depth < _DEEPEST and len(parts) <= _MOST else ():
        if type(part) not in _BARE:
            yield from _reached(part, seen, depth + 1)


def _restoring(value: Any) -> list[Callable[[], object]]:
    """Return what puts a container or an object back; nothing for anything else."""
    kind: Any = type(value)
    restore: list[Callable[[], object]] = []
    if issubclass(kind, dict):
        restore.append(partial(_restore_ordered, value, dict(dict.items(value))))
    elif issubclass(kind, set):
        restore.append(partial(_restore_set, value, set(value)))
    elif issubclass(kind, list | deque):
        restore.append(partial(_restore_row, value, list(value)))
    elif issubclass(kind, _NUMBERS):
        restore.append(partial(_restore_numbers, value, value[:]))
    own = _attributes(value)
    if own is not None:
        restore.append(partial(_restore_table, own, dict(own)))
    slots = _slots(value)
    if slots:
        restore.append(partial(_restore_slots, value, slots))
    return restore


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the dictionary of an object's own attributes, None where it is of no such kind."""
    if _is_foreign(type(value)):
        return None
    with suppress(AttributeError):
        own: Any = object.__getattribute__(value, "__dict__")
        return own if type(own) is dict else None
    return None


def _slots(value: Any) -> dict[str, Any]:
    """Return what an object keeps in slots; nothing where it is of no such kind."""
    found: dict[str, Any] = {}
    kind: Any = type(value)
    for name in () if _is_foreign(kind) else slots_of(kind):
        with suppress(AttributeError):  # nothing is in it yet
            found[name] = object.__getattribute__(value, name)
    return found


@lru_cache
def _is_foreign(kind: type) -> bool:
    return issubclass(kind, (nn.Module, type)) or kind.__module__.partition(".")[0] in _FOREIGN


@lru_cache
def slots_of(kind: type) -> tuple[str, ...]:
    """Return the names in ``__slots__`` of a class and of those that it is made from."""
    found = [slots for base in kind.__mro__ if (slots := vars(base).get("__slots__"))]
    return tuple(name for slots in found for name in ([slots] if isinstance(slots, str) else slots))


def _restore_table(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    base: Any = (
        OrderedDict if isinstance(table, OrderedDict) else dict
    )  # not what another class has made of its methods
    for name in [name for name in base.keys(table) if name not in before]:
        base.__delitem__(table, name)
    for name, value in before.items():
        if not base.__contains__(table, name) or base.__getitem__(table, name) is not value:
            base.__setitem__(table, name, value)


def _restore_ordered(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    _restore_table(table, before)
    base: Any = OrderedDict if isinstance(table, OrderedDict) else dict
    if list(base.keys(table)) != list(before):  # hooks run in their order
        base.clear(table)
        base.update(table, before)


def _restore_row(items: list[Any] | deque[Any], before: list[Any]) -> None:
    base: Any = deque if isinstance(items, deque) else list
    if len(items) != len(before) or any(a is not b for a, b in zip(items, before, strict=True)):
        base.clear(items)
        base.extend(items, before)


def _restore_numbers(items: Any, before: Any) -> None:
    if items != before:
        items[:] = before


def _restore_set(members: set[Any], before: set[Any]) -> None:
    if members != before:
        set.clear(members)
        set.update(members, before)


def _restore_slots(value: Any, before: dict[str, Any]) -> None:
    now = _slots(value)
    for name in now.keys() - before.keys():
        object.__delattr__(value, name)
    for name, kept in before.items():
        if name not in now or now[name] is not kept:
            object.__setattr__(value, name, kept)
