"""The author's own functions with other numbers in their source, and nothing else changed."""

from __future__ import annotations

import ast
import itertools
import linecache
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CellType, FunctionType
from typing import Any

from torch import nn

from secateur.core.code.functions import functions_in, rewrapped, twin
from secateur.core.code.source import MADE, Hop, Range, Spot, Written, compiled, key_of, lines_of, looked_up, written
from secateur.errors import ModelError

_NUMBERS = itertools.count()
_BEFORE = "secateur_before"
Changes = Sequence[tuple[Spot, int]]


# pickles of pruned modules name this class: keep its place and its fields
@dataclass(frozen=True)
class Edited:
    """A function of somebody's class, or one that such a function calls, with other text.

    Attributes:
        name: attribute of the class, or how the function that calls it names it.
        key: its name inside of decorators.
        line: where the text begins in the author's file.
        text: of the whole function.
        owner: the class that it is written in; empty if none.
        helpers: names in the text that stand for other functions that are changed.
        held: whether it is no method but a function that a module holds in that attribute.
    """

    name: str
    key: str
    line: int
    text: str
    owner: str
    helpers: tuple[tuple[str, Edited], ...] = ()
    held: bool = False


def edited(module: nn.Module, earlier: Iterable[Edited], changes: Changes) -> tuple[Edited, ...]:
    """Return the functions that have to be replaced to change some numbers, with those replaced before.

    Args:
        module: in which those before are in place.
        earlier: what was replaced before.
        changes: numbers in its methods, in functions that it holds and in what these call, and what they become.

    Raises:
        ModelError: if the source is not at hand, or two numbers would have to stand at one place.
    """
    known = {each.name: each for each in earlier}
    for name in dict.fromkeys(spot.route[0].name for spot, _ in changes):
        own = [(spot, value) for spot, value in changes if spot.route[0].name == name]
        hop = own[0][0].route[0]
        function = _inner(vars(module)[name] if hop.held else _attribute(type(module), name), hop)
        known[name] = replace(_edited(name, function, known.get(name), own, 0), held=hop.held)
    return tuple(known.values())


def _edited(name: str, function: FunctionType | None, before: Edited | None, changes: Changes, depth: int) -> Edited:
    source = None if function is None else written(function)
    if function is None or source is None:
        raise ModelError(f"the source of '{name}' is not at hand, so that no size in it can be changed")
    helpers = {} if before is None else dict(before.helpers)
    pieces = dict(_numbers([each for each in changes if len(each[0].route) == depth + 1], source))
    further: dict[Hop, list[tuple[Spot, int]]] = {}
    for spot, value in changes:
        if len(spot.route) > depth + 1:
            further.setdefault(spot.route[depth + 1], []).append((spot, value))
    for hop, inside in further.items():
        child = _inner(looked_up(function, hop.name), hop)
        made = _edited(hop.name, child, helpers.get(hop.name), inside, depth + 1)
        if hop.name in helpers:
            helpers[hop.name] = replace(made, name=helpers[hop.name].name)
        elif hop.at is not None:
            text = "".join(source.lines)
            own = next(n for i in itertools.count(1) if (n := f"{hop.name.rpartition('.')[2]}_{i}") not in text)
            while own in helpers:
                own += "_"
            helpers[own], pieces[hop.at] = made, own
    line, text = _text(source, pieces)
    key = before.key if before is not None else function.__code__.co_qualname
    return Edited(name, key, line, text, source.owner, tuple(helpers.items()))


def _numbers(changes: Changes, source: Written) -> Iterable[tuple[Range, str]]:
    """Return the text for each expression that becomes a number, or a sequence with other numbers in it."""
    places: dict[Range, dict[int | None, int]] = {}
    for spot, value in changes:
        if places.setdefault(spot.at, {}).setdefault(spot.index, value) != value:
            raise ModelError(f"the size in line {spot.at[0]} of {spot.route[-1].key[0]} would have to be two numbers")
    for at, entries in places.items():
        if None in entries:
            yield at, str(entries[None])
            continue
        whole, parts, done = _piece(source.lines, at), "", 0
        for index, value in sorted((int(index or 0), value) for index, value in entries.items()):
            parts += f"*{whole}[{done}:{index}], {value}, "
            done = index + 1
        yield at, f"({parts}*{whole}[{done}:])"


def _piece(lines: Sequence[str], at: Range) -> str:
    first, column, last, end = at
    if first == last:
        return lines[first - 1].encode()[column:end].decode()
    middle = lines[first : last - 1]
    return "".join([lines[first - 1].encode()[column:].decode(), *middle, lines[last - 1].encode()[:end].decode()])


def _text(source: Written, pieces: Mapping[Range, str]) -> tuple[int, str]:
    """Return a function with other pieces in it so that it stands on its own, and the line that it begins in."""
    lines = [line.encode() for line in source.lines]
    node, start, last = source.node, source.start, source.node.end_lineno or 0
    lines[last - 1] = lines[last - 1][: node.end_col_offset] + b"\n"
    for (first, column, final, end), piece in sorted(pieces.items(), reverse=True):
        kept = b"\n" * (final - first)  # every line keeps its number
        new = lines[first - 1][:column] + piece.encode() + kept + lines[final - 1][end:]
        lines[first - 1 : final] = new.splitlines(keepends=True)
    inside = bool(source.owner) and node.col_offset > 0
    if isinstance(node, ast.Lambda):
        lines[start - 1] = b" " * node.col_offset + lines[start - 1][node.col_offset :]
        head, tail = (f"class {source.owner}: _ = (" if inside else "_ = ("), ")\n"
    else:
        head, tail = (f"class {source.owner}:" if inside else "if 1:" if node.col_offset else ""), ""
    body = b"".join(lines[start - 1 : last]).decode()
    return max(start - 1, 1), f"{head}\n{body}{tail}"


def _attribute(kind: type, name: str) -> Any:
    return next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None)


def _inner(value: Any, hop: Hop) -> FunctionType | None:
    return next((each for each in functions_in(value) if key_of(each.__code__) == hop.key), None)


# -- making ---------------------------------------------------------------------------------------------------


def members(base: type[nn.Module], methods: Iterable[Edited]) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes of a class derived from ``base`` that replace its functions, and the files they are in.

    Raises:
        ModelError: if the base class does not have such functions.
    """
    found: dict[str, Any] = {}
    files: list[str] = []
    for each in methods:
        if each.held:
            continue
        old = _named(_attribute(base, each.name), each)
        new = _made(old, each, files)
        for name in dict.fromkeys(name for kind in base.__mro__ for name in vars(kind)):
            value = found.get(name, _attribute(base, name))
            changed = rewrapped(value, old, new)
            if changed is not value:
                found[name] = changed
    return found, files


def hold(module: nn.Module, functions: Iterable[Edited]) -> list[str]:
    """Put changed functions in the place of those that a module holds; return the files that they are in."""
    files: list[str] = []
    for each in functions:
        before = authors(vars(module).get(each.name))
        old = next((f for f in functions_in(before) if f.__code__.co_qualname == each.key), None)
        if each.held and old is not None:  # or somebody has put something else there
            new = rewrapped(before, old, _made(old, each, files))
            new.__dict__[_BEFORE] = before
            vars(module)[each.name] = new
    return files


def authors(function: Any) -> Any:
    """Return the function in whose place a changed one was put; any other value as it is."""
    return vars(function).get(_BEFORE, function) if isinstance(function, FunctionType) else function


def _named(value: Any, each: Edited) -> FunctionType:
    found = next((function for function in functions_in(value) if function.__code__.co_qualname == each.key), None)
    if found is None:
        raise ModelError(f"'{each.key}' is not what it was when this network was pruned: use the code of that time")
    return found


def _made(function: FunctionType, new: Edited, files: list[str]) -> FunctionType:
    file = f"{MADE}{function.__qualname__} {next(_NUMBERS)}>"
    lines = ["\n"] * (new.line - 1) + lines_of(new.text)
    source = _only(lines, new.owner)
    code = compiled(source, file, function, [name for name, _ in new.helpers])
    if code is None:
        raise ModelError(f"the changed source of '{new.key}' cannot be compiled")
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    files.append(file)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for name, helper in new.helpers:
        whole = looked_up(function, helper.name)
        old = _named(whole, helper)
        cells[name] = CellType(rewrapped(whole, old, _made(old, helper, files)))
    return twin(function, code, tuple(cells[name] for name in code.co_freevars))


def _only(lines: Sequence[str], owner: str) -> Written:
    waiting: list[ast.AST] = [ast.parse("".join(lines))]
    for node in waiting:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            return Written(node, tuple(lines), owner)
        waiting += ast.iter_child_nodes(node)
    raise ModelError("the changed source holds no function")
