"""Which numbers does the code of a module speak of, and could it be given tensors that the example did not have?"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from torch import Tensor, nn

from secateur.core.code.functions import names_in

_TOTALS = frozenset({"sum", "mean", "norm", "prod"})  # of all of a tensor, where they are given nothing
_NOTHING = frozenset({"PRECALL", "PUSH_NULL", "CACHE"})  # between a method and its call in some versions of Python
_OF_A_LAYER = frozenset({"in_channels", "in_features"})
_NO_SETTINGS = (nn.Module, Tensor, FunctionType, ModuleType)
_DEPTH = 3  # of settings in settings


def speaks_of(modules: Iterable[nn.Module], sizes: frozenset[int]) -> bool:
    """Tell whether own code of modules can cut a tensor to one of some sizes: names it, or asks a layer for it.

    Functions that the code names are looked at too. Constructors are not, and neither is torch, which names no sizes.
    """
    seen = set[int]()
    return any(
        (_own(module) and sizes.intersection(_whole(vars(module).values())))
        or any(_cuts(function, sizes, seen) for function in _functions(module))
        for module in modules
    )


def takes_more(modules: Iterable[nn.Module]) -> bool:
    """Tell whether the forward of some module has arguments that a call can leave out and that could be tensors.

    What a switch, a number or a name stands for otherwise is no tensor.
    """
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for module in modules:
        if not _own(module):
            continue
        for each in inspect.signature(module.forward).parameters.values():
            left_out = each.default is not inspect.Parameter.empty
            if each.kind in kinds or (left_out and not isinstance(each.default, (bool, int, float, str))):
                return True
    return False


def _cuts(function: FunctionType, sizes: frozenset[int], seen: set[int]) -> bool:
    if id(function) in seen:
        return False
    seen.add(id(function))
    names, values = names_in(function.__code__), list(_values(function))
    if sizes.intersection(_whole(values)) or _OF_A_LAYER & names or ("shape" in names and _weighs(function.__code__)):
        return True
    called = (inspect.unwrap(value) for value in values if isinstance(value, FunctionType))
    return any(_cuts(it, sizes, seen) for it in called if isinstance(it, FunctionType) and not _of_torch(it))


def _weighs(code: CodeType) -> bool:
    """Tell whether code takes a layer's weight, for anything but a total of it, which has no sizes."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _NOTHING]
    taken = (at for at, step in enumerate(steps) if step.opcode in dis.hasname and step.argval == "weight")
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return any(not _totals(steps[at + 1 : at + 3]) for at in taken) or any(map(_weighs, inner))


def _totals(then: Sequence[dis.Instruction]) -> bool:
    """Tell whether two steps look up a total and call it with nothing."""
    return len(then) == 2 and then[0].argval in _TOTALS and then[1].opname.startswith("CALL") and not then[1].arg


def _of_torch(function: FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] == "torch"


def _own(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.nn.") or "forward" in vars(module)


def _functions(module: nn.Module) -> Iterator[FunctionType]:
    own = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.nn.")]
    for name, value in (*(item for kind in own for item in vars(kind).items()), *vars(module).items()):
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        if name != "__init__" and isinstance(function, FunctionType):
            yield function


def _values(function: FunctionType) -> Iterator[Any]:
    yield from _constants(function.__code__)
    yield from function.__defaults__ or ()
    yield from (function.__globals__.get(name) for name in names_in(function.__code__))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _constants(code: CodeType) -> Iterator[Any]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _constants(value)
        else:
            yield value


def _whole(values: Iterable[Any], depth: int = _DEPTH) -> Iterator[int]:
    """Yield the whole numbers among values, and in the lists, tables and settings among them."""
    for value in values:
        if type(value) is int:
            yield value
        elif depth and not isinstance(value, _NO_SETTINGS):
            yield from _whole(_inside(value), depth - 1)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[Any, Any]", value).values())
    if isinstance(value, (tuple, list, set, frozenset)):
        return cast("Iterable[Any]", value)
    return list(vars(value).values()) if hasattr(value, "__dict__") else ()
