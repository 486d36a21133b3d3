"""Numbers by which Python tells objects apart (``id``), kept by a network to find its own parts: a copy has others."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn

from secateur.core.code.functions import functions_in, names_in
from secateur.errors import ModelError

_DEEPEST = 3  # containers in containers
_MOST = 10_000  # entries; no table of a network's parts is longer
_CONTAINERS: tuple[Any, ...] = (dict, list, tuple, set, frozenset)
_HERE = "name layers by strings, or compute the numbers where they are used"


def refuse_object_numbers(model: nn.Module) -> None:
    """Refuse a network that keeps the ``id`` of itself or of one of its parts, for its copies would go other ways.

    Raises:
        ModelError: saying where the number is kept, and of what it is.
    """
    if not any(map(_asks_for_ids, {type(module) for module in model.modules()})):
        return  # such as numbers that only an optimizer asks for
    own: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    own |= {id(tensor): name for named in (model.named_parameters(), model.named_buffers()) for name, tensor in named}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            found = next((number for number in _numbers(value) if number in own), None)
            if found is not None:
                where = f"{name}.{attribute}" if name else attribute
                raise ModelError(
                    f"{type(model).__name__} cannot be copied: '{where}' holds the id of "
                    f"{_called(own[found])}, which another object has in a copy; {_HERE}"
                )


def _asks_for_ids(kind: type) -> bool:
    """Tell whether code of a class, or functions beside it that this names, looks for the ``id`` of something.

    How its objects begin is left out, and torch's own code.
    """
    own = (each for each in kind.__mro__ if each.__module__.partition(".")[0] != "torch")
    members = (value for each in own for name, value in vars(each).items() if name != "__init__")
    waiting, seen = [function for value in members for function in functions_in(value)], set[FunctionType]()
    while waiting:
        function = waiting.pop()
        names = names_in(function.__code__)
        if "id" in names:
            return True
        seen.add(function)
        others = (function.__globals__.get(name) for name in names)
        waiting += [it for it in others if isinstance(it, FunctionType) and it not in seen and _beside(it, function)]
    return False


def _beside(one: FunctionType, other: FunctionType) -> bool:
    return one.__globals__ is other.__globals__


def of_another(model: nn.Module, error: Exception) -> str:
    """Return what to say of a table in which a part of a network was looked up in vain; empty for other errors."""
    if not isinstance(error, KeyError) or not error.args:
        return ""
    key = error.args[0]
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    if id(key) not in parts and not (type(key) is int and key in parts):
        return ""
    return f": its code looks for a part of itself in a table that knows those of another copy; {_HERE}"


def _numbers(value: Any, depth: int = 0) -> Iterator[int]:
    """Yield the whole numbers among keys and values of plain containers."""
    kind: Any = type(value)  # isinstance would wake lazy objects
    if kind is int:
        yield value
    elif depth < _DEEPEST:
        plain = next((it for it in _CONTAINERS if issubclass(kind, it)), None)  # whose own methods none has replaced
        if plain is not None and plain.__len__(value) <= _MOST:
            table = dict.values(value) if plain is dict else ()
            for each in (*plain.__iter__(value), *table):
                yield from _numbers(each, depth + 1)


def _called(name: str) -> str:
    return f"'{name}'" if name else "the network itself"
