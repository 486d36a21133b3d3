"""What the modules of a network keep between runs, beside tensors: remembered, and put back entry by entry."""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))  # attributes of every module, most of them empty dictionaries of hooks and parts
_TABLES = (dict, OrderedDict, defaultdict)
_BARE = frozenset({int, float, bool, str, bytes, type(None)})  # hold nothing, and cannot be changed
_PLAIN = _BARE | {tuple}
_DEEPEST = 4  # containers and objects within each other, the innermost counted too
_MOST = 1000  # entries of a container that are looked into
_FOREIGN = (sys.stdlib_module_names - {"types"}) | {"torch", "numpy"}  # types: SimpleNamespace


def keeping(modules: Iterable[nn.Module]) -> list[Callable[[], object]]:
    """Return what puts back the attributes, parts and hooks of modules, and what their attributes hold.

    These are lists, sets, dictionaries and objects of classes that are no part of Python or torch.
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
                restore += [_restoring(each) for each in _reached(value, seen) if type(each) not in _PLAIN]
            elif value:
                restore.append(_restoring(value))
            elif type(value) in _TABLES:  # nine of ten: a network has hundreds of modules
                empty.append(value)
    return [*restore, partial(_empty_again, empty)]


def kept_tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return the tensors that modules keep as attributes, or in what their attributes hold; no parts or buffers."""
    seen: set[int] = set()
    items = [item for module in modules for item in vars(module).items()]
    values = [value for name, value in items if type(value) not in _BARE and name not in _OWN]
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
    kind = type(value)
    if kind in _TABLES:
        parts: list[Any] = list(value.values())
    elif kind is list or issubclass(kind, tuple):
        parts = list(value)
    else:
        own = _attributes(value)
        parts = list(own.values()) if own is not None else []
    for part in parts if depth < _DEEPEST and len(parts) <= _MOST else ():
        if type(part) not in _BARE:
            yield from _reached(part, seen, depth + 1)


def _restoring(value: Any) -> Callable[[], object]:
    """Return what puts a container or an object back; nothing happens to anything else."""
    kind = type(value)
    if kind in _TABLES:
        return partial(_restore_ordered, value, dict(value))
    if kind is list:
        return partial(_restore_list, value, list(value))
    if kind is set:
        return partial(_restore_set, value, set(value))
    own = _attributes(value)
    return (lambda: None) if own is None else partial(_restore_table, own, dict(own))


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return the dictionary of an object's own attributes, None where it is of no such kind."""
    kind: Any = type(value)  # isinstance would wake lazy objects
    if issubclass(kind, nn.Module | type) or kind.__module__.partition(".")[0] in _FOREIGN:
        return None
    with suppress(AttributeError):
        own: Any = object.__getattribute__(value, "__dict__")
        return own if type(own) is dict else None
    return None


def _restore_table(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    for name in [name for name in table if name not in before]:
        del table[name]
    for name, value in before.items():
        if name not in table or table[name] is not value:
            table[name] = value


def _restore_ordered(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    _restore_table(table, before)
    if list(table) != list(before):  # hooks run in their order
        table.clear()
        table.update(before)


def _restore_list(items: list[Any], before: list[Any]) -> None:
    if len(items) != len(before) or any(a is not b for a, b in zip(items, before, strict=True)):
        items[:] = before


def _restore_set(members: set[Any], before: set[Any]) -> None:
    if members != before:
        members.clear()
        members |= before
