"""Hearing what torch is asked to do while a block of code runs: its Python functions, and the operators below them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.interrupts import deferred


def _enter(enter: Callable[[], object], leave: Callable[[None, None, None], object]) -> None:
    """Enter a mode so that Ctrl-C finds it either active and to be left, or not active."""
    active = False
    try:
        with deferred:
            enter()
            active = True
    except BaseException:
        if active:
            leave(None, None, None)
        raise


class FunctionMode(TorchFunctionMode):
    """While active, ``_called`` stands in for every function of torch, also for methods and attributes of tensors."""

    def __enter__(self) -> Self:
        _enter(super().__enter__, self.__exit__)
        return self

    def __exit__(self, *error: Any) -> None:
        with deferred:
            super().__exit__(*error)

    @abstractmethod
    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what the function is to return."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._called(func, args, kwargs or {})


class OperatorMode(TorchDispatchMode):
    """While active, ``_ran`` stands in for every operator, below autograd and the decompositions of functions."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]

    def __enter__(self) -> Self:
        _enter(super().__enter__, self.__exit__)
        return self

    def __exit__(self, *error: Any) -> None:
        with deferred:
            super().__exit__(*error)

    @abstractmethod
    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return what the operator is to return."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._ran(func, args, kwargs or {})
