"""Where in the source the sizes of a call stand: found from the frames of the run that makes it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from secateur.core.code.functions import functions_in
from secateur.core.code.source import Hop, Spot, call_at, dotted, holds, key_of, looked_up, range_of, written
from secateur.core.code.written_numbers import Path
from secateur.core.surgery.generated import origin_of
from secateur.core.trace.expressions import (
    argument,
    bindings_of,
    is_own,
    is_shape,
    is_steady,
    names_in,
    number_in,
    within,
)
from secateur.core.trace.frames import first, frames, function_of, is_inside

NO_SOURCE = "whose source is not at hand"
NO_NUMBER = "in an expression that gives more than this number"
ARGUMENT = "by an argument that calls may give otherwise"
CHOICE = "by code that may decide otherwise elsewhere"
SEVERAL = "by one expression for different channels"
NO_WAY = "in a function that the module's methods do not call by its name"


@dataclass(frozen=True)
class _Level:
    """A function on the way, the frame that runs it, and the frame that has called it if it is no method."""

    hop: Hop
    function: Any  # a FunctionType, which some checkers take for a method
    frame: FrameType
    caller: FrameType | None = None


class Places:
    """Tells where the arguments of the running call stand, for one call of a torch function.

    Args:
        names: of the network's modules, by their ``id``.
        func: what is called.
        count: how many positional arguments it has.
    """

    def __init__(self, names: Mapping[int, str], func: Callable[..., Any], count: int) -> None:
        self._names, self._func, self._count = names, func, count
        self._frames = frames()
        self._why = NO_SOURCE
        self._module = ""
        self._levels: list[_Level] = []
        self._node: ast.Call | ast.Subscript | None = None
        if self._frames:
            inner = self._frames[0]
            self._node = call_at(inner.f_code, inner.f_lasti, inner.f_globals)
            if self._node is not None and self._climb():
                self._why = NO_NUMBER

    def spot(self, path: Path, size: int) -> Spot | str:
        """Return where the size at a path in the arguments stands, or why it is at no one place that can be changed."""
        if self._node is None or not self._levels:
            return self._why
        found = self._expression(self._node, path)
        if found is None:
            return NO_NUMBER
        node, index = found
        if index is None and self._value(node) not in (size, None):
            return NO_NUMBER
        reason = self._varies(node, len(self._levels) - 1)
        if reason:
            return reason
        route = tuple(level.hop for level in self._levels)
        number = None if index is not None else number_in(node)
        own = is_own(node, self._frames[0].f_locals.get("self"))
        return Spot(self._module, route, range_of(node), index, number, own)

    # -- which function ----------------------------------------------------------------------------------------

    def _climb(self) -> bool:
        """Find the way from a method of a module to the innermost frame."""
        self._why = NO_WAY
        code = self._frames[0].f_code
        levels: list[_Level] = []
        for place, frame in enumerate(self._frames):
            if not holds(frame.f_code, code):
                continue
            method = self._method(frame, frame.f_code)
            if method is not None:
                name, found = method
                levels.append(_Level(Hop(name, key_of(found.__code__)), found, frame))
                return self._arrive(levels, first(frame))
            code = frame.f_code  # of the function that has made the one inside
            if any(outer.f_code is not code and holds(outer.f_code, code) for outer in self._frames[place + 1 :]):
                continue
            step = self._called_by(self._frames[place + 1 :], code)
            if step is None:
                continue
            caller, hop, found, bound = step
            levels.append(_Level(hop, found, frame, None if bound else caller))
            if bound is not None:
                return self._arrive(levels, bound)
            code = caller.f_code
        return False

    def _arrive(self, levels: list[_Level], module: object) -> bool:
        if any(written(level.function) is None for level in levels):
            self._why = NO_SOURCE
            return False
        self._module, self._levels = self._names[id(module)], levels[::-1]
        return True

    def _method(self, frame: FrameType, code: CodeType) -> tuple[str, FunctionType] | None:
        """Return the name and function of the method of one of the network's modules that a frame runs."""
        module = first(frame)
        if not isinstance(module, nn.Module) or id(module) not in self._names:
            return None
        origin = origin_of(type(module))
        if origin is not None and origin.source:  # a recording, to which no source of the author's belongs
            return None
        seen: set[str] = set()
        for kind in type(module).__mro__:
            if kind.__module__.partition(".")[0] == "torch":
                continue
            for name, value in vars(kind).items():
                if name not in seen:
                    for function in functions_in(value):
                        if function.__code__ is code:
                            return name, function
                seen.add(name)
        return None

    def _called_by(
        self, frames: Sequence[FrameType], code: CodeType
    ) -> tuple[FrameType, Hop, FunctionType, nn.Module | None] | None:
        for frame in frames:
            if is_inside(frame):
                continue
            call = call_at(frame.f_code, frame.f_lasti, frame.f_globals)
            name = dotted(call.func) if isinstance(call, ast.Call) else ""
            if not name or not isinstance(call, ast.Call):
                return None
            first, _, rest = name.partition(".")
            if first in frame.f_locals and first not in frame.f_code.co_freevars:
                owner = frame.f_locals[first]
                return self._static(frame, owner, rest, code)
            outer = function_of(frame)
            found = looked_up(outer, name)
            for function in functions_in(found):
                if function.__code__ is code:
                    return frame, Hop(name, key_of(code), range_of(call.func)), function, None
            return None
        return None

    def _static(
        self, frame: FrameType, owner: object, name: str, code: CodeType
    ) -> tuple[FrameType, Hop, FunctionType, nn.Module | None] | None:
        """A function in an attribute of a module, or a static or class method."""
        if not isinstance(owner, nn.Module) or id(owner) not in self._names:
            return None
        held = name in vars(owner)
        for function in functions_in(vars(owner)[name] if held else inspect.getattr_static(type(owner), name, None)):
            if function.__code__ is code:
                return frame, Hop(name, key_of(code), held=held), function, owner
        return None

    # -- which expression --------------------------------------------------------------------------------------

    def _expression(self, node: ast.Call | ast.Subscript, path: Path) -> tuple[ast.expr, int | None] | None:
        if isinstance(node, ast.Subscript):
            return within(node.slice, path[2:]) if path[:2] == ("args", 1) else None
        if any(keyword.arg is None for keyword in node.keywords):
            return None
        kind, which, *rest = path
        if kind == "kwargs":
            return self._named(node, str(which), tuple(rest))
        place = int(which) - self._before(node)
        stars = [i for i, each in enumerate(node.args) if isinstance(each, ast.Starred)]
        if not stars:
            if place < len(node.args):
                return within(node.args[place], tuple(rest))
            return self._named(node, self._name(int(which)), tuple(rest))
        given = self._count - self._before(node)
        if len(stars) > 1 or place < 0:
            return None
        if place < stars[0]:
            return within(node.args[place], tuple(rest))
        behind = len(node.args) - stars[0] - 1
        if place >= given - behind:
            return within(node.args[place - given], tuple(rest))
        starred = node.args[stars[0]]
        assert isinstance(starred, ast.Starred)
        return None if rest else within(starred.value, (place - stars[0],))

    def _named(self, node: ast.Call, name: str, rest: Path) -> tuple[ast.expr, int | None] | None:
        found = next((keyword.value for keyword in node.keywords if keyword.arg == name), None)
        return None if found is None else within(found, rest)

    def _name(self, place: int) -> str:
        try:
            return list(inspect.signature(self._func).parameters)[place]
        except (ValueError, TypeError, IndexError):
            return ""

    def _before(self, node: ast.Call) -> int:
        """How many of the call's arguments stand before its parentheses: a tensor whose method it is, or none."""
        name, frame = dotted(node.func), self._frames[0]
        if not name:
            return int(isinstance(node.func, ast.Attribute))
        first, *rest = name.split(".")
        value = frame.f_locals.get(first, frame.f_globals.get(first))
        if not rest:
            return int(isinstance(getattr(value, "__self__", None), Tensor))
        rest.pop()
        for part in rest:
            value = getattr(value, part, None) if isinstance(value, (ModuleType, type)) else None
        return 0 if isinstance(value, (ModuleType, type)) else 1

    def _value(self, node: ast.expr) -> object:
        """Return the number that a name or a number gives; None of all else."""
        if isinstance(node, ast.Name):
            return self._frames[0].f_locals.get(node.id)
        return number_in(node)

    def _varies(self, node: ast.expr, depth: int, seen: frozenset[str] = frozenset()) -> str:
        """Return why an expression may give another number elsewhere, where the channels are the same; empty if not.

        It may where the code decides, or takes what callers give. What is read off a tensor goes by its channels.
        """
        level = self._levels[depth]
        source = written(level.function)
        if source is None or not all(is_steady(each) for each in ast.walk(node)):
            return CHOICE
        code = level.function.__code__
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 12)]
        for name in names_in(node) - seen:
            value = level.frame.f_locals.get(name, self._frames[0].f_locals.get(name, nn))
            if isinstance(value, (Tensor, nn.Module, ModuleType)) or name in code.co_freevars:
                continue
            bindings = bindings_of(name, source.node)
            if name in arguments:
                if bindings or level.caller is None:
                    return ARGUMENT
                call = call_at(level.caller.f_code, level.caller.f_lasti, level.caller.f_globals)
                given = argument(call, name, arguments.index(name))
                reason = CHOICE if given is None else self._varies(given, depth - 1)
            elif bindings and all(each is not None and is_shape(each) for each in bindings):
                reason = ""
            else:
                bound = bindings[0] if len(bindings) == 1 else None
                reason = CHOICE if bound is None else self._varies(bound, depth, seen | {name})
            if reason:
                return reason
        return ""
