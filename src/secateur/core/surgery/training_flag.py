"""Does the code of a network look at whether it trains, or whether gradients are wanted?

Where it does not, a run in training mode is the same run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.module_calls import ModuleStack
from secateur.core.shared_contexts import Together
from secateur.core.surgery.steady_draws import Steady
from secateur.core.surgery.training_mode_check import in_training
from secateur.core.surgery.untouched import unseen, untouched
from secateur.core.torch_modes import FunctionMode

_HEAR: list[tuple[int, Callable[[nn.Module | None], object]]] = []  # by thread
_GRADIENTS = tuple(vars(torch._C.TensorBase)[name] for name in ("requires_grad", "is_leaf", "grad_fn"))  # pyright: ignore[reportPrivateUsage]
_SAMPLES, _PIXELS = 8, 2


class _Mode:
    """Stands in for the attribute ``training`` of all modules of the process, and tells whose is read."""

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        value = vars(module).get("training") if module is not None else None
        if module is None or value is None:
            raise AttributeError("training")
        _tell(module)
        return value

    def __set__(self, module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value


def _tell(module: nn.Module | None) -> None:
    for thread, hear in tuple(_HEAR):
        if thread == threading.get_ident():
            hear(module)


class _Gradients(FunctionMode):
    """Tells when code looks at what a tensor knows of gradients."""

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if getattr(func, "__self__", None) in _GRADIENTS:
            _tell(None)
        return func(*args, **named)


@contextmanager
def _installed() -> Generator[None]:
    enabled = torch.is_grad_enabled  # which no mode of torch hears

    def heard() -> bool:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(("torch.", "secateur.")):  # pyright: ignore[reportPrivateUsage]
            _tell(None)
        return enabled()

    setattr(nn.Module, "training", _Mode())  # noqa: B010 - it is no attribute of the class otherwise
    try:
        torch.is_grad_enabled = heard
        yield
    finally:
        torch.is_grad_enabled = enabled
        delattr(nn.Module, "training")


_listening = Together(_installed)


@contextmanager
def asking(stack: ModuleStack) -> Generator[set[str]]:
    """Collect the names of the modules whose mode some forward looks at, but for norms, dropouts and the like.

    So are those whose own code looks at whether gradients are wanted.

    The network takes the same way until it looks, so that nobody who would look in training mode is missed.
    """
    asked: set[str] = set()

    def hear(module: nn.Module | None) -> None:
        module = stack.module if module is None else module
        if stack.running and in_training(module):
            asked.add(stack.named().get(id(module), ""))

    here = (threading.get_ident(), hear)
    with _listening(), _Gradients():
        _HEAR.append(here)
        try:
            yield asked
        finally:
            _HEAR.remove(here)


def asks_aloud(model: nn.Module) -> bool:
    """Tell whether all code of a network that looks at its mode is heard, see ``asking``.

    So it is not in scripted modules, which look below Python, in those that have a ``training`` of their own, and in
    ours.
    """
    return not any(
        isinstance(module, torch.jit.ScriptModule)
        or hasattr(type(module), "training")
        or type(module).__module__.startswith("secateur.")
        for module in model.modules()
    )


def may_differ(model: nn.Module, asked: set[str], arrivals: Mapping[str, Sequence[Tensor]]) -> bool:
    """Tell whether one of the modules that were asked for does more in training than to scale samples as a whole.

    Args:
        model: the network.
        asked: names of modules.
        arrivals: labels of what enters each module, which have the sizes of its channels.
    """
    return not all(_scales_samples(model.get_submodule(name), arrivals.get(name, ())) for name in asked)


def _scales_samples(module: nn.Module, arrivals: Sequence[Tensor]) -> bool:
    """Try a module without any tensors of its own, as for stochastic depth, on its own."""
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())) or not arrivals:
        return False
    shapes = {(_SAMPLES, *(size if size > 1 else _PIXELS for size in layer.shape[1:])) for layer in arrivals}
    with untouched(module), unseen(), torch.enable_grad():
        module.training = True
        return all(_scales(module, shape) for shape in sorted(shapes))


def _scales(module: nn.Module, shape: Sequence[int]) -> bool:
    """Tell whether samples of a shape are scaled, and by the same factors if they have half as many channels."""
    narrow = (shape[0], -(-shape[1] // 2), *shape[2:]) if len(shape) > 1 else shape
    for each in (shape, narrow):
        given = 1 + torch.rand(each)
        made = _made(module, given)
        if not isinstance(made, Tensor) or made.shape != given.shape:
            return False
        parts = (made / given).flatten(1)
        if not bool((parts != 0).any()) or not torch.allclose(parts, parts[:, :1].expand_as(parts)):
            return False
    with Steady():
        wide, few = (_made(module, torch.ones(each)).flatten(1)[:, 0] for each in (shape, narrow))
    return torch.allclose(wide, few)


def _made(module: nn.Module, given: Tensor) -> Any:
    try:
        return module(given.clone())
    except Exception:  # it wants more than a tensor
        return None
