"""Sizes written into Python code: find the number in a module's own forward, and write another.

A module whose forward says ``x.view(-1, 32, 4, 4)`` cannot run with 20 channels. Its own forward (child modules
stay calls) is recorded with ``torch.fx``; the recorded program names each number as a constant or as something
computed from a shape, and a constant can be replaced. The module object, its class, parameters and hooks stay.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from secateur.errors import ModelError

# calls whose arguments may hold the size of a channel dimension, by the name that both torch.fx and a
# torch-function mode give them
RESHAPING = frozenset(
    {
        "view", "reshape", "expand", "unflatten", "pad", "split", "split_with_sizes",
        "narrow", "__getitem__", "repeat", "chunk", "broadcast_to",
    }
)  # fmt: skip

Path = tuple[int | str, ...]

_RECORDING = threading.RLock()  # torch.fx patches nn.Module for the process: two at once would leave it patched


class _OwnForward(fx.Tracer):
    """Records one module's forward; every child module is a single call."""

    def __init__(self) -> None:
        super().__init__()
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
    """Record the module's own forward in its present mode; None if it cannot be recorded."""
    tracer = _OwnForward()
    try:
        with _RECORDING:
            return tracer.trace(module)
    except Exception:  # torch.fx runs foreign code on stand-ins: whatever that raises means "not recordable"
        return None
    finally:  # it is part of a cycle, which would keep the parameters of a discarded network alive
        tracer.root, tracer.submodule_paths = nn.Module(), {}


def reshaping_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Return the recorded reshaping calls in order."""
    return [
        node
        for node in graph.nodes
        if node.op in ("call_function", "call_method")
        and is_reshaping(call_name(node.target), node.args)
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


def rewrite(module: nn.Module, changes: Sequence[tuple[int, str, Path, int]]) -> None:
    """Replace constants in the module's own forward, in training and in evaluation mode.

    Args:
        module: changed in place: it gets a forward of its own.
        changes: (number of the reshaping call, its name, path of the constant, new value).

    Raises:
        ModelError: if the forward cannot be recorded or has other calls than expected.
    """
    was_training = module.training
    forwards: list[Callable[..., Any]] = []
    for training in (False, True):
        module.training = training
        graph = record(module)
        nodes = reshaping_nodes(graph) if graph is not None else []
        if graph is None or any(c >= len(nodes) or call_name(nodes[c].target) != f for c, f, _, _ in changes):
            module.training = was_training
            raise ModelError(
                f"the sizes written in {type(module).__name__}.forward cannot be adapted in "
                f"{'training' if training else 'evaluation'} mode; compute them from the input's shape instead"
            )
        for call, _, path, value in changes:
            _write(nodes[call], path, value)
        forwards.append(_compile(module, graph))
    module.training = was_training
    module.forward = types.MethodType(_by_mode(*forwards), module)


def _write(node: fx.Node, path: Path, value: int) -> None:
    arguments = _replaced({"args": tuple(node.args), "kwargs": dict(node.kwargs)}, path, value)
    node.args, node.kwargs = arguments["args"], arguments["kwargs"]


def _replaced(value: Any, path: Path, new: int) -> Any:
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(value, slice):
        parts = {name: getattr(value, name) for name in ("start", "stop", "step")}
        parts[str(step)] = _replaced(parts[str(step)], rest, new)
        return slice(parts["start"], parts["stop"], parts["step"])
    if isinstance(value, Mapping):
        return {key: _replaced(item, rest, new) if key == step else item for key, item in value.items()}
    items = [_replaced(item, rest, new) if i == step else item for i, item in enumerate(value)]
    return tuple(items) if isinstance(value, tuple) else items


def _compile(module: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    """Turn the recorded program into a function of (self, inputs); constants it needs become attributes."""
    compiled = fx.GraphModule(module, graph)
    for node in graph.nodes:
        if node.op == "get_attr":
            root = str(node.target).partition(".")[0]
            if not hasattr(module, root):
                value = getattr(compiled, root)
                module.register_buffer(root, value, persistent=False) if isinstance(value, torch.Tensor) else setattr(
                    module, root, value
                )
    graph.owning_module = None  # a cycle, which would keep the parameters of a discarded network alive
    return type(compiled).forward


def _by_mode(evaluating: Callable[..., Any], training: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (training if self.training else evaluating)(self, *args, **kwargs)

    return forward
