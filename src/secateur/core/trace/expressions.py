"""What expressions in the source give: numbers, sizes read off tensors, and what code chooses."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable

from torch import Tensor, nn

from secateur.core.code.source import dotted
from secateur.core.code.written_numbers import Path

_STEADY = frozenset(
    {
        "size", "dim", "numel", "int", "len", "min", "max", "sum", "abs", "round", "floor", "ceil", "prod", "range",
        "zip", "enumerate",
    }
)  # fmt: skip
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul
}  # fmt: skip


def within(node: ast.expr, path: Path) -> tuple[ast.expr, int | None] | None:
    """Follow a path through what is written as tuples, lists and slices; the last step also through a name."""
    for number, step in enumerate(path):
        if isinstance(node, ast.Slice) and step in ("start", "stop"):
            bound = node.lower if step == "start" else node.upper
            if bound is None:
                return None
            node = bound
        elif isinstance(node, (ast.Tuple, ast.List)) and isinstance(step, int):
            before = node.elts[: step + 1]
            if step >= len(node.elts) or any(isinstance(each, ast.Starred) for each in before):
                return None
            node = node.elts[step]
        elif isinstance(step, int) and number == len(path) - 1 and dotted(node):
            return node, step
        else:
            return None
    return None if isinstance(node, (ast.Slice, ast.Starred)) else (node, None)


def number_in(node: ast.expr) -> int | None:
    """Return the whole number that is written, be it as a sum or product of numbers; None of all else."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number_in(node.operand)
        return None if value is None else -value
    if not isinstance(node, ast.BinOp) or type(node.op) not in _ARITHMETIC:
        return None
    left, right = number_in(node.left), number_in(node.right)
    return None if left is None or right is None else _ARITHMETIC[type(node.op)](left, right)


def is_steady(node: ast.AST) -> bool:
    """Whether what an expression gives goes by its parts alone, and not by a choice."""
    if isinstance(node, ast.Call):
        named = node.func.attr if isinstance(node.func, ast.Attribute) else dotted(node.func)
        return named in _STEADY
    return not isinstance(
        node, (ast.IfExp, ast.BoolOp, ast.Compare, ast.Lambda, ast.NamedExpr, ast.Dict, ast.JoinedStr)
    )


def argument(call: ast.AST | None, name: str, place: int) -> ast.expr | None:
    """Return what a call gives for an argument; a constant where it is left out; None if nobody can say."""
    if not isinstance(call, ast.Call) or any(isinstance(each, ast.Starred) for each in call.args):
        return None
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    if place < len(call.args):
        return call.args[place]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), ast.Constant(0))


def bindings_of(name: str, function: ast.AST) -> list[ast.expr | None]:
    """Return what a name is set to in a function, one by one; None where that is no plain assignment."""
    found: list[ast.expr | None] = []
    for each in ast.walk(function):
        if isinstance(each, (ast.Assign, ast.AnnAssign)):
            targets, value = each.targets if isinstance(each, ast.Assign) else [each.target], each.value
        elif isinstance(each, (ast.For, ast.comprehension)):
            targets, value = [each.target], each.iter
        else:
            targets, value = [], None
        found += [value for target in targets if name in names_in(target)]
    stored = [
        n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
    ]
    return found if len(stored) == len(found) else [None]


def is_own(node: ast.expr, owner: object) -> bool:
    """Tell whether an expression is made of numbers and of what ``self`` itself holds, be it in lists and tables.

    What modules and tensors in there say changes with them, and what a property says may.

    Args:
        node: the expression.
        owner: what ``self`` stands for.
    """
    return all(
        not isinstance(part, ast.Call)
        and (not isinstance(part, ast.Name) or part.id == "self")
        and (not isinstance(part, ast.Attribute) or _is_held(part, owner))
        for part in ast.walk(node)
    )


def _is_held(node: ast.Attribute, owner: object) -> bool:
    if not isinstance(node.value, ast.Name):
        return False
    value = inspect.getattr_static(owner, node.attr, None)  # a module or parameter is found nowhere so
    return value is not None and not isinstance(value, Tensor | nn.Module) and not hasattr(type(value), "__get__")


def is_shape(node: ast.expr) -> bool:
    """Whether an expression reads sizes off a tensor."""
    if isinstance(node, ast.Subscript):
        return is_shape(node.value)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "size"
    return isinstance(node, ast.Attribute) and node.attr == "shape"


def names_in(node: ast.expr) -> set[str]:
    """Return the names that an expression looks up or sets."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
