"""Functions behind decorators, partials and methods, and the same with other code."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

_DEEPEST = 5  # decorators around one another


def functions_in(value: object, depth: int = _DEEPEST) -> Iterator[FunctionType]:
    """Yield the functions that a value is, or that decorators have put into it."""
    if isinstance(value, (staticmethod, classmethod)):
        yield from functions_in(value.__func__, depth)
    elif isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from functions_in(part, depth)
    elif isinstance(value, functools.cached_property):
        yield from functions_in(value.func, depth)
    elif isinstance(value, FunctionType):
        yield value
        if depth:
            for inner in _contents(value):
                yield from functions_in(inner, depth - 1)


def _contents(function: FunctionType) -> list[object]:
    found: list[object] = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    return found


def names_in(code: CodeType) -> set[str]:
    """Return the names that code looks up, and that the code in it does."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def rewrapped(value: Any, old: FunctionType, new: FunctionType) -> Any:
    """Return what decorators have made of a function, with another one inside."""
    if value is old:
        return new
    if isinstance(value, (staticmethod, classmethod)):
        inner = rewrapped(value.__func__, old, new)
        return value if inner is value.__func__ else type(value)(inner)
    if isinstance(value, property):
        get, put, remove = (rewrapped(part, old, new) for part in (value.fget, value.fset, value.fdel))
        same = get is value.fget and put is value.fset and remove is value.fdel
        return value if same else type(value)(get, put, remove, value.__doc__)
    if isinstance(value, functools.cached_property):
        inner = rewrapped(value.func, old, new)
        if inner is value.func:
            return value
        made: Any = functools.cached_property(inner)
        made.attrname = value.attrname
        return made
    if not isinstance(value, FunctionType) or not any(each is old for each in functions_in(value)):
        return value
    cells = tuple(_cell(cell, old, new) for cell in value.__closure__ or ())
    return twin(value, value.__code__, cells, old, new)


def _cell(cell: types.CellType, old: FunctionType, new: FunctionType) -> types.CellType:
    try:
        before = cell.cell_contents
    except ValueError:
        return cell
    after = rewrapped(before, old, new)
    return cell if after is before else types.CellType(after)


def twin(
    function: FunctionType,
    code: CodeType,
    cells: tuple[types.CellType, ...],
    old: FunctionType | None = None,
    new: FunctionType | None = None,
) -> FunctionType:
    """Return a function with other code or cells, and everything else of the given one; its globals are the same."""
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__annotations__ = dict(function.__annotations__)
    made.__dict__.update(function.__dict__)
    if new is not None and "__wrapped__" in made.__dict__:
        made.__dict__["__wrapped__"] = rewrapped(made.__dict__["__wrapped__"], old, new)  # type: ignore[arg-type]
    made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return made
