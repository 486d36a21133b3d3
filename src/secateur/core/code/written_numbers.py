"""Sizes written into Python code: find the number in a module's own forward, and write another.

A module whose forward says ``x.view(-1, 32, 4, 4)`` cannot run with 20 channels. Its own forward (child modules
stay calls) is recorded with ``torch.fx``; the recorded program names each number as a constant or as something
computed from a shape, and a constant can be replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from secateur.core.interrupts import deferred

# calls whose arguments may hold the size of a channel dimension, by the name that both torch.fx and a
# torch-function mode give them
RESHAPING = frozenset(
    {
        "view", "reshape", "expand", "unflatten", "pad", "split", "split_with_sizes",
        "narrow", "__getitem__", "repeat", "chunk", "broadcast_to", "unsafe_split", "unsafe_split_with_sizes",
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    }
)  # fmt: skip

Path = tuple[int | str, ...]

CONSTANT = "secateur.constant"  # in a node's meta: a tensor that the forward itself makes

_RECORDING = threading.RLock()  # torch.fx patches nn.Module for the process: two at once would leave it patched


class _OwnForward(fx.Tracer):
    """Records one module's forward; every child module is a single call."""

    def __init__(self, buffers: bool) -> None:
        super().__init__()
        self.proxy_buffer_attributes = buffers
        self._thread = threading.get_ident()

    # while torch.fx records, the calls and attributes of all modules of the process go through these two
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def call_name(function: Callable[..., Any] | str) -> str:
    """Return the common name of a torch function, tensor method or operator."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    return "__getitem__" if name == "getitem" else name


def is_reshaping(name: str, args: Sequence[Any]) -> bool:
    """Tell whether a call is one whose written sizes matter; picking by one integer is not."""
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, slice) for part in index)
    return bool(name in RESHAPING)


def record(module: nn.Module) -> fx.Graph | None:
    """Record the module's own forward in its present mode; None if it cannot be recorded.

    Tensors that the forward makes of numbers are in the meta of the nodes that read them, under ``CONSTANT``.
    """
    # calls on buffers are calls like others, but some code decides by what a buffer holds
    found = _record(module, _OwnForward(buffers=True))
    return found if found is not None else _record(module, _OwnForward(buffers=False))


def _record(module: nn.Module, tracer: _OwnForward) -> fx.Graph | None:
    own = vars(module).get("forward")
    if own is not None:  # a forward of this one object, as networks have that put another method in its place
        if getattr(own, "__self__", None) is not module:
            return None
        tracer.traced_func_name = own.__name__
    before = set(vars(module))
    try:
        with _RECORDING, deferred:  # torch.fx patches nn.Module meanwhile
            graph = tracer.trace(module)
            made = {name: vars(module)[name] for name in set(vars(module)) - before}
            for node in graph.nodes:
                if node.op == "get_attr" and node.target in made:
                    node.meta[CONSTANT] = made[node.target]
            return graph
    except Exception:  # torch.fx runs foreign code on stand-ins: whatever that raises means "not recordable"
        return None
    finally:
        for name in set(vars(module)) - before:
            del vars(module)[name]
        # it is part of a cycle, which would keep the parameters of a discarded network alive
        tracer.root, tracer.submodule_paths = nn.Module(), {}


def reshaping_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Return the recorded reshaping calls in order."""
    return [
        node
        for node in graph.nodes
        if node.op in ("call_function", "call_method")
        and is_reshaping(call_name(node.target), node.args)
        and node.args  # calls by keywords alone are not numbered where a run is watched either
        and not _is_shape(node.args[0])
    ]


def _is_shape(value: object) -> bool:
    """Slicing ``x.shape`` is Python arithmetic, not a call on a tensor."""
    if not isinstance(value, fx.Node):
        return True
    if value.op == "call_method":
        return value.target == "size"
    return value.op == "call_function" and value.target is getattr and bool(value.args[1] == "shape")


def at(arguments: Mapping[str, Any], path: Path) -> Any:
    """Return the entry of nested arguments that ``path`` leads to."""
    value: Any = arguments
    for step in path:
        value = getattr(value, str(step)) if isinstance(value, slice) else value[step]
    return value


def is_written(graph: fx.Graph | None, call: int, function: str, path: Path) -> bool | None:
    """Tell whether a size is a constant in a recorded forward (True) or computed (False); None if unknown."""
    if graph is None:
        return None
    nodes = reshaping_nodes(graph)
    if call >= len(nodes) or call_name(nodes[call].target) != function:
        return None
    try:
        value = at({"args": nodes[call].args, "kwargs": nodes[call].kwargs}, path)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return isinstance(value, int)


def write(node: fx.Node, path: Path, value: int) -> None:
    """Put a number into the arguments of a recorded call."""
    arguments = replaced({"args": tuple(node.args), "kwargs": dict(node.kwargs)}, path, value)
    node.args, node.kwargs = arguments["args"], arguments["kwargs"]


def replaced(value: Any, path: Path, new: Any) -> Any:
    """Return nested containers with another entry where ``path`` leads; the given ones stay as they are."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(value, slice):
        parts = {name: getattr(value, name) for name in ("start", "stop", "step")}
        parts[str(step)] = replaced(parts[str(step)], rest, new)
        return slice(parts["start"], parts["stop"], parts["step"])
    if isinstance(value, Mapping):
        return {key: replaced(item, rest, new) if key == step else item for key, item in value.items()}
    items = [replaced(item, rest, new) if i == step else item for i, item in enumerate(value)]
    return tuple(items) if isinstance(value, tuple) else items


def differences(one: fx.Graph, other: fx.Graph) -> dict[tuple[int, Path], tuple[int, int]] | None:
    """Return the numbers in which two recordings differ, each as (number of the node, path) -> both numbers.

    None if they differ in anything else.
    """
    if len(one.nodes) != len(other.nodes):
        return None
    mine = {node: number for number, node in enumerate(one.nodes)}
    theirs = {node: number for number, node in enumerate(other.nodes)}
    found: dict[tuple[int, Path], tuple[int, int]] = {}
    for number, (a, b) in enumerate(zip(one.nodes, other.nodes, strict=True)):
        if a.op != b.op or not _same_target(a, b):
            return None
        parts: list[tuple[Path, Any, Any]] = [(("args",), a.args, b.args), (("kwargs",), a.kwargs, b.kwargs)]
        while parts:
            path, left, right = parts.pop()
            inner, others = _entries(left), _entries(right)
            if type(left) is not type(right) or inner.keys() != others.keys():
                return None
            parts += [((*path, step), inner[step], others[step]) for step in inner]
            if isinstance(left, fx.Node):
                unlike = mine[left] != theirs[right]
            elif type(left) is int:
                unlike = False
                if left != right:
                    found[number, path] = (left, right)
            else:
                unlike = not inner and left is not right and left != right
            if unlike:
                return None
    return found


def _entries(value: Any) -> dict[int | str, Any]:
    """Return what containers in the arguments of a recorded call hold; nothing of anything else."""
    if isinstance(value, slice):
        return {name: getattr(value, name) for name in ("start", "stop", "step")}
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else {}


def _same_target(a: fx.Node, b: fx.Node) -> bool:
    if (CONSTANT in a.meta) != (CONSTANT in b.meta):
        return False
    if CONSTANT not in a.meta:
        return bool(a.target == b.target)
    one, other = a.meta[CONSTANT], b.meta[CONSTANT]
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
