"""The course of a run: which operators, on what, of which sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from secateur.core.trace.each import flat


class Course:
    """Notes one run, so that it can be compared with another one.

    Tensors are numbered as they are made, and parameters go by their names, so that two courses are equal only if the
    same values enter the same operators.

    Args:
        names: of parameters and buffers, by the ``id`` of the tensor.
    """

    def __init__(self, names: Mapping[int, tuple[str, Tensor]]) -> None:
        self.steps: list[tuple[object, ...]] = []
        self._names = names
        self._numbers: dict[int, int] = {}

    def note(self, module: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Add an operator that has run."""
        step: list[object] = [module, func]
        for value in flat([args, kwargs]):
            if isinstance(value, Tensor):
                known = self._names.get(id(value))
                step.append(known[0] if known is not None else self._numbers.get(id(value), -1))
            elif type(value) is int:
                step.append(value)
        for value in flat(out):
            if isinstance(value, Tensor):
                step.append(value.shape)
                self._numbers[id(value)] = len(self.steps)
        self.steps.append(tuple(step))
