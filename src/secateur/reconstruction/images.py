"""Batches of model inputs, however they are nested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from secateur.measure.forward import tensors


def one(inputs: Any) -> Any:
    """Return the first image of a batch."""
    if isinstance(inputs, Tensor):
        return inputs[:1] if inputs.dim() else inputs
    if isinstance(inputs, Mapping):
        return {name: one(value) for name, value in cast("Mapping[Any, Any]", inputs).items()}
    if isinstance(inputs, tuple | list):
        values = [one(value) for value in cast("tuple[Any, ...]", inputs)]
        return tuple(values) if isinstance(inputs, tuple) else values
    return inputs


def count(inputs: Any) -> int:
    """Return how many images a batch holds."""
    return next((len(tensor) for tensor in tensors(inputs) if tensor.dim()), 1)
