"""The source of functions: which text their code was made of, and where in it a call stands."""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import io
import itertools
import linecache
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

Range = tuple[int, int, int, int]  # first line, column there, last line, column behind; columns count bytes of UTF-8
Key = tuple[str, int, str]  # of code: its file, its first line, its name

_FLAGS = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
_NESTED = 0x10  # in the flags of code: made inside of another function
MADE = "<secateur "  # how the names of files begin that there are only for changed functions; a number ends them
_OUTSIDE = "_outside"


@dataclass(frozen=True)
class Hop:
    """A function on the way from a module to a size in the code.

    Attributes:
        name: attribute of the module's class, or how the code before it names the function.
        key: of its code, inside of decorators.
        at: where the code before it names it; None of a method.
        held: whether it is no method but a function that the module holds in that attribute.
    """

    name: str
    key: Key
    at: Range | None = None
    held: bool = False


@dataclass(frozen=True)
class Spot:
    """The expression in the source that gives a size.

    Attributes:
        module: name of the module whose method the code is, or is called by.
        route: that method, and the functions that lead from there to the one that holds the expression.
        at: where the expression stands.
        index: which entry of it the size is, where it gives several.
        number: what it is, if it is a number and nothing else.
        own: whether it is made of numbers and of attributes of the module that are no shapes of tensors, so that no
            tensor changes it.
    """

    module: str
    route: tuple[Hop, ...]
    at: Range
    index: int | None = None
    number: int | None = None
    own: bool = False


@dataclass(frozen=True, eq=False)
class Written:
    """A function as it is written.

    Attributes:
        node: of the whole function.
        lines: of the file.
        owner: the class that it is written in, by whose name Python spells private names; empty if none.
        imports: those of the whole file, by which Python makes other code of ``F.relu(x)`` than of ``x.relu()``.
    """

    node: ast.FunctionDef | ast.Lambda
    lines: tuple[str, ...]
    owner: str
    imports: tuple[ast.stmt, ...] = ()

    @property
    def start(self) -> int:
        """Its first line, decorators included."""
        decorators = [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list
        return min(each.lineno for each in (self.node, *decorators))


def key_of(code: CodeType) -> Key:
    """Return what code is known by; that of a copy of a changed function by the same."""
    file = code.co_filename
    return file.rpartition(" ")[0] if file.startswith(MADE) else file, code.co_firstlineno, code.co_name


def holds(outer: CodeType, code: CodeType) -> bool:
    """Tell whether code is that of a function, or of one that is made inside of it."""
    return outer is code or any(holds(each, code) for each in outer.co_consts if isinstance(each, CodeType))


def lines_of(text: str) -> list[str]:
    """Return the lines that Python counts in a text."""
    return io.StringIO(text).readlines()


# -- text -----------------------------------------------------------------------------------------------------


class _File:
    """The text of a file as a tree, with the functions, calls and subscripts in it by where they stand."""

    def __init__(self, text: str) -> None:
        self.lines = tuple(lines_of(text))
        self.functions: dict[int, list[tuple[ast.FunctionDef | ast.Lambda, str]]] = {}
        self.ends: dict[tuple[int, int], ast.Call | ast.Subscript] = {}
        tree = ast.parse(text)
        self.imports = tuple(_imports(tree))
        waiting: list[tuple[ast.AST, str]] = [(tree, "")]
        while waiting:
            node, owner = waiting.pop()
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                start = Written(node, (), "").start
                self.functions.setdefault(start, []).append((node, owner))
            elif isinstance(node, (ast.Call, ast.Subscript)):
                self.ends[node.end_lineno or 0, node.end_col_offset or 0] = node
            inside = node.name if isinstance(node, ast.ClassDef) else owner
            waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def _imports(node: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import) or (isinstance(child, ast.ImportFrom) and child.module != "__future__"):
            yield child
        elif isinstance(child, ast.stmt) and not isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ):
            yield from _imports(child)


@functools.lru_cache(maxsize=16)  # trees are large, and networks come in few files
def _parsed(text: str) -> _File | None:
    try:
        return _File(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _file(code: CodeType, space: dict[str, Any]) -> _File | None:
    return _parsed("".join(linecache.getlines(code.co_filename, space)))


_WRITTEN: weakref.WeakKeyDictionary[FunctionType, Written | None] = weakref.WeakKeyDictionary()


def written(function: FunctionType) -> Written | None:
    """Return a function as it is written; None if there is no text, or what stands there is not what is run."""
    if function not in _WRITTEN:
        _WRITTEN[function] = _found(function)
    return _WRITTEN[function]


def _found(function: FunctionType) -> Written | None:
    code, file = function.__code__, _file(function.__code__, function.__globals__)
    if file is None:
        return None
    for node, owner in file.functions.get(code.co_firstlineno, []):
        found = Written(node, file.lines, owner, file.imports)
        made = compiled(found, code.co_filename, function, ())
        if made is not None and _alike(made, code):
            return found
    return None


def compiled(source: Written, file: str, like: FunctionType, names: Sequence[str]) -> CodeType | None:
    """Return the code of a function, in which ``names`` are looked up where it is made, beside those of ``like``."""
    code, node = like.__code__, source.node
    inner: ast.stmt = ast.Assign([ast.Name("_", ast.Store())], node) if isinstance(node, ast.Lambda) else node
    free = [*(name for name in code.co_freevars if name != "__class__" or not source.owner), *names]
    if source.owner:
        inner = ast.ClassDef(source.owner, [], [], [inner], [])
    arguments = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    outside = ast.Module([*source.imports, ast.FunctionDef(_OUTSIDE, arguments, [inner], [])], [])
    ast.fix_missing_locations(outside)
    try:
        made: CodeType = compile(outside, file, "exec", code.co_flags & _FLAGS, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    waiting = [made]
    for each in waiting:  # from the outside inwards
        if each.co_name == code.co_name and each.co_firstlineno == source.start:
            return each.replace(co_qualname=code.co_qualname)
        waiting += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
    return None


def _alike(a: CodeType, b: CodeType) -> bool:
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount")
    same = all(getattr(a, name) == getattr(b, name) for name in names) and not (a.co_flags ^ b.co_flags) & ~_NESTED
    if not same or len(a.co_consts) != len(b.co_consts) or list(a.co_positions()) != list(b.co_positions()):
        return False
    pairs = zip(a.co_consts, b.co_consts, strict=True)
    return all(
        _alike(x, y) if isinstance(x, CodeType) and isinstance(y, CodeType) else type(x) is type(y) and x == y
        for x, y in pairs
    )


def call_at(code: CodeType, instruction: int, space: dict[str, Any]) -> ast.Call | ast.Subscript | None:
    """Return the call or subscript that code carries out; ``instruction`` is that of a frame, ``space`` its globals."""
    file = _file(code, space)
    place = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if file is None or place is None or place[1] is None or place[3] is None:
        return None
    return file.ends.get((place[1], place[3]))


def range_of(node: ast.expr) -> Range:
    """Return where an expression stands."""
    return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0


def dotted(node: ast.expr) -> str:
    """Return a name, or a name with attributes, as it is written; empty of any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def looked_up(function: FunctionType, name: str) -> Any:
    """Return what a function's code means by a name that is not its own, with attributes; None if nothing."""
    first, *rest = name.split(".")
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        value = (
            cells[first].cell_contents if first in cells else function.__globals__.get(first, vars(builtins).get(first))
        )
        for part in rest:
            value = getattr(value, part)
    except (AttributeError, ValueError):
        return None
    return value
