"""Values that hold numbers, and the same values with another number: containers, settings, functions that are bound."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any

from secateur.core.code.written_numbers import Path

_ARGS, _KEYWORDS, _FUNCTION = "args", "keywords", "func"


def held_by(value: Any) -> Iterator[tuple[int | str, Any]]:
    """Yield what lists, tuples, dicts, settings, partial functions and closures hold; nothing of anything else."""
    if type(value) in (list, tuple) or _is_named(value):
        yield from enumerate(value)
    elif type(value) is dict:
        yield from ((key, item) for key, item in value.items() if type(key) in (int, str))
    elif isinstance(value, functools.partial):
        yield _ARGS, value.args
        yield _KEYWORDS, value.keywords
        yield _FUNCTION, value.func
    elif isinstance(value, types.FunctionType):
        for number, cell in enumerate(value.__closure__ or ()):
            if _contents(cell) is not value:
                yield number, _contents(cell)
    elif _is_settings(value):
        yield from vars(value).items()


def renewed(value: Any, path: Path, new: Any) -> Any:
    """Return the value with another one where ``path`` leads; the given ones stay, for others may hold them too."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    inner = renewed(dict(held_by(value))[step], rest, new)
    if type(value) in (list, tuple) or _is_named(value):
        items = [inner if number == step else item for number, item in enumerate(value)]
        return type(value)(*items) if _is_named(value) else type(value)(items)
    if type(value) is dict:
        return {key: inner if key == step else item for key, item in value.items()}
    if isinstance(value, functools.partial):
        parts = {**dict(held_by(value)), step: inner}
        return type(value)(parts[_FUNCTION], *parts[_ARGS], **parts[_KEYWORDS])
    if isinstance(value, types.FunctionType):
        cells = [types.CellType(inner) if n == step else cell for n, cell in enumerate(value.__closure__ or ())]
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
        made.__kwdefaults__, made.__qualname__, made.__doc__ = value.__kwdefaults__, value.__qualname__, value.__doc__
        made.__dict__.update(value.__dict__)
        return made
    twin = copy.copy(value)
    object.__setattr__(twin, str(step), inner)
    return twin


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(type(value), "_fields")


def _is_settings(value: Any) -> bool:
    """Tell whether a value is a plain record; objects of other classes may mean anything by what they hold."""
    if isinstance(value, types.SimpleNamespace):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__")
