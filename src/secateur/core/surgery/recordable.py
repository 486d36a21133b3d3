"""Does a recording with ``torch.fx`` hold all that a forward does?

A recording has the calls on tensors of one run. Choices that Python makes, what is kept in attributes, contexts,
random numbers and numbers read from attributes are not in it, or only as they were. So a forward may run as it was
recorded only where its source holds nothing of the kind; what is not known to be harmless is taken for harmful.
"""

from __future__ import annotations

import ast
import inspect
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.core.code.functions import functions_in
from secateur.core.code.source import dotted, looked_up, written
from secateur.core.surgery.generated import origin_of

_STATEMENTS = (
    ast.FunctionDef,
    ast.Lambda,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.For,
    ast.Return,
    ast.Pass,
    ast.Expr,
)
_EXPRESSIONS = (
    ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.List, ast.Subscript,
    ast.Slice, ast.Starred, ast.keyword, ast.operator, ast.unaryop, ast.expr_context, ast.arguments, ast.arg,
    ast.ListComp, ast.comprehension,
)  # fmt: skip
_BUILTINS = frozenset({"range", "enumerate", "zip", "len", "tuple", "list", "reversed"})
_SIZES = frozenset({"shape", "size", "dim", "ndim", "T", "mT", "H", "mH", "device", "dtype", "real", "imag"})
# what leaves tensors, draws numbers, or makes tensors of nothing
_WORDS = (
    "item tolist numpy register backward requires_grad retain rand normal bernoulli multinomial poisson exponential "
    "uniform dropout is_ set_ get_ data cpu cuda zeros ones arange linspace full empty eye tensor as_tensor compile "
    "no_grad enable autocast grad manual default seed save load"
)
_LOSING = tuple(_WORDS.split())


def is_recordable(module: nn.Module, *, attributes: bool = False) -> bool:
    """Tell whether a recording of the module's own forward does in all circumstances what the forward does.

    Args:
        module: whose source is read.
        attributes: whether to ask what it does while the numbers in its attributes are these.
    """
    origin = origin_of(type(module))
    if isinstance(module, fx.GraphModule) or (origin is not None and origin.source):
        return True  # it is a recording
    own = vars(module).get("forward", type(module).forward)
    function = getattr(own, "__func__", own)
    if (getattr(function, "__module__", None) or "").partition(".")[0] == "torch":
        return True  # torch's own layers, of which the numbers in their attributes are all that matters
    return isinstance(function, FunctionType) and _Reading(module, attributes).is_plain(function)


class _Reading:
    """Goes through the source of a forward, and of what it calls."""

    def __init__(self, module: nn.Module, attributes: bool) -> None:
        self._module, self._attributes = module, attributes
        self._seen: set[FunctionType] = set()

    def is_plain(self, function: FunctionType) -> bool:
        """Whether a function only calls layers and functions of tensors, on and on."""
        source = written(function)
        if source is None:
            return False
        if function in self._seen:
            return True
        self._seen.add(function)
        node, arguments = source.node, function.__code__.co_varnames
        if not isinstance(node, ast.Lambda) and node.decorator_list:
            return False
        itself = arguments[0] if function.__code__.co_argcount else ""
        body = node.body if isinstance(node.body, list) else [node.body]
        return all(self._allows(each, function, itself) for part in body for each in ast.walk(part))

    def _allows(self, node: ast.AST, function: FunctionType, itself: str) -> bool:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)) or not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
            return False
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return all(isinstance(each, (ast.Name, ast.Tuple, ast.List)) for each in targets)
        if isinstance(node, ast.For):
            return not node.orelse
        if isinstance(node, ast.comprehension):
            return not node.ifs and not node.is_async
        if isinstance(node, ast.Call):
            return self._calls(node, function, itself)
        if isinstance(node, ast.Attribute):
            return isinstance(node.ctx, ast.Load) and self._reads(node, itself)
        if isinstance(node, ast.Subscript):
            return isinstance(node.ctx, ast.Load)
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id not in function.__code__.co_varnames
        ):
            found = looked_up(function, node.id)
            return isinstance(found, (ModuleType, FunctionType, type)) or callable(found)
        return True

    def _reads(self, node: ast.Attribute, itself: str) -> bool:
        """Whether an attribute is a part of the module, a parameter or buffer, or the name of a function or size."""
        name = dotted(node)
        if isinstance(node.value, ast.Name) and node.value.id == itself and itself:
            found = inspect.getattr_static(self._module, node.attr, None)
            held: Any = getattr(self._module, node.attr, None) if found is None else found
            return node.attr == "training" or isinstance(held, (nn.Module, Tensor, FunctionType)) or self._attributes
        if name.startswith(f"{itself}.") and itself:
            owner = self._module
            for part in name.split(".")[1:-1]:
                owner = getattr(owner, part, None)  # type: ignore[assignment]
            found = getattr(owner, node.attr, None)
            known = isinstance(found, (nn.Module, Tensor)) or callable(found) or self._attributes
            return isinstance(owner, (nn.Module, Tensor)) and known
        return node.attr in _SIZES or not node.attr.startswith(_LOSING)

    def _calls(self, node: ast.Call, function: FunctionType, itself: str) -> bool:
        name = dotted(node.func)
        first, _, rest = name.partition(".")
        if name and first == itself:
            held = getattr(self._module, rest, None) if "." not in rest else None
            if isinstance(held, nn.Module):
                return True
            of_class = inspect.getattr_static(type(self._module), rest, None)
            if rest in vars(self._module) or not isinstance(of_class, FunctionType):
                return self._layer(rest)
            return self.is_plain(of_class)
        if name and first not in function.__code__.co_varnames:
            found = looked_up(function, name)
            if isinstance(found, FunctionType) and not (found.__module__ or "").startswith("torch"):
                return found in list(functions_in(found)) and self.is_plain(found)
            if name == "getattr":
                return self._attributes and len(node.args) == 2 and isinstance(node.args[1], ast.Constant)
            return name in _BUILTINS or self._of_torch(name, found)
        if isinstance(node.func, ast.Name):
            return False if not name else self._is_loop_variable(node.func.id, function)
        if isinstance(node.func, ast.Attribute):
            return hasattr(Tensor, node.func.attr) and not node.func.attr.startswith(_LOSING)
        return isinstance(node.func, ast.Subscript) and dotted(node.func.value).startswith(f"{itself}.")

    def _layer(self, path: str) -> bool:
        owner: Any = self._module
        for part in path.split("."):
            owner = getattr(owner, part, None)
        return isinstance(owner, nn.Module) or (
            callable(owner)
            and hasattr(Tensor, path.rpartition(".")[2])
            and not path.rpartition(".")[2].startswith(_LOSING)
        )

    def _of_torch(self, name: str, found: object) -> bool:
        last = getattr(found, "__name__", name.rpartition(".")[2])
        known = any(getattr(space, last, None) is found for space in (torch, nn.functional, torch.fft, torch.linalg))
        return found is not None and known and not isinstance(found, type) and not last.startswith(_LOSING)

    def _is_loop_variable(self, name: str, function: FunctionType) -> bool:
        """Whether a name stands for the modules of a list one after another."""
        source = written(function)
        return source is not None and any(
            isinstance(each, (ast.For, ast.comprehension))
            and name in {n.id for n in ast.walk(each.target) if isinstance(n, ast.Name)}
            for each in ast.walk(source.node)
        )
