"""Which module is running, the how-manieth call of a kind it makes, and which operators it runs."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from secateur.core.interrupts import deferred
from secateur.core.torch_modes import OperatorMode


def bound(func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a Python function by their names, defaults included."""
    call = inspect.signature(func).bind(*args, **named)
    call.apply_defaults()
    return call.arguments


class ModuleStack:
    """While active, knows whose forward is running; global hooks leave the model itself untouched.

    What other threads run, be it the same network, is not its affair.

    Attributes:
        entered: how often each module has been called in this forward of the network.
        arrive: hears each module's name and positional inputs before its forward runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.arrive: Callable[[str, Any], None] | None = None
        self.entered: dict[str, int] = {}
        self._root = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._path: list[str] = []
        self._made: dict[tuple[str, str], int] = {}
        self._hooks: list[RemovableHandle] = []

    def __len__(self) -> int:
        """Return how many modules the network has."""
        return len(self._names)

    def named(self) -> dict[int, str]:
        """Return the first name of each module by its ``id``."""
        return self._names

    @property
    def current(self) -> str:
        """Name of the module whose forward is running; empty for the network itself."""
        return self._path[-1] if self._path else ""

    @property
    def module(self) -> nn.Module:
        """The module whose forward is running; the network itself where none is."""
        return self._root.get_submodule(self.current)

    @property
    def running(self) -> bool:
        """Whether any module's forward is running."""
        return bool(self._path)

    def number(self, kind: str) -> int:
        """Return how many calls of this kind the current module has made before in this forward, and count one."""
        place = (self.current, kind)
        self._made[place] = self._made.get(place, 0) + 1
        return self._made[place] - 1

    def __enter__(self) -> ModuleStack:
        self._thread = threading.get_ident()
        try:
            with deferred:
                self._hooks = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with deferred:
            for hook in self._hooks:
                hook.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() != self._thread:  # the hooks are the whole process's
            return
        if module is self._root:  # a new forward, perhaps after one that was broken off
            self._path.clear()
            self._made.clear()
            self.entered.clear()
        name = self._names.get(id(module), self.current)
        self._path.append(name)
        self.entered[name] = self.entered.get(name, 0) + 1
        if self.arrive is not None:
            self.arrive(name, inputs)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._path and threading.get_ident() == self._thread:
            self._path.pop()


class Operators(OperatorMode):
    """While active, every operator that runs is heard.

    Args:
        hear: is called with the operator, its positional and named arguments and what it returned.
    """

    def __init__(self, hear: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._hear = hear

    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        out = func(*args, **named)
        self._hear(func, args, named, out)
        return out
