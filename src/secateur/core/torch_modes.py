"""Hearing what torch is asked to do while a block of code runs: its Python functions, and the operators below them."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.interrupts import deferred


class _Whole:
    """A mode that Ctrl-C finds either active and to be left, or not active."""

    def __enter__(self) -> Self:
        active = False
        try:
            with deferred:
                super().__enter__()  # type: ignore[misc]  # pyright: ignore
                active = True
        except BaseException:
            if active:
                self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        with deferred:
            super().__exit__(*error)  # type: ignore[misc]  # pyright: ignore


class FunctionMode(_Whole, TorchFunctionMode):
    """While active, ``_called`` stands in for every function of torch, also for methods and attributes of tensors."""

    @abstractmethod
    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what the function is to return."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._called(func, args, kwargs or {})


class OperatorMode(_Whole, TorchDispatchMode):
    """While active, ``_ran`` stands in for every operator, below autograd and the decompositions of functions.

    What it does itself is never compiled. torch would see to that, but by loading its compiler, which takes as long as
    reading a network; nothing can be compiled before somebody else has loaded it.
    """

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @abstractmethod
    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what the operator is to return."""

    def __enter__(self) -> Self:
        _stay_uncompiled()
        return super().__enter__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        _stay_uncompiled()
        return self._ran(func, args, kwargs or {})


def _stay_uncompiled() -> None:
    """Once somebody has loaded the compiler, do to ``OperatorMode`` what torch does to other modes."""
    if hasattr(sys.modules.get("torch._dynamo"), "disable"):
        OperatorMode.__torch_dispatch__ = _uncompiled()


@cache
def _uncompiled() -> Any:
    def dispatched(
        mode: OperatorMode, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return mode._ran(func, args, kwargs or {})  # pyright: ignore[reportPrivateUsage]

    return torch.compiler.disable(dispatched)
