"""Batches of model inputs, however they are nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from secateur.measure.forward import refilled, tensors


def few(inputs: Any, most: int = 2) -> Any:
    """Return the first images of a batch; of two, what is the same for all images shows by its shape."""
    if isinstance(inputs, Tensor):
        return inputs[:most] if inputs.dim() else inputs
    if isinstance(inputs, Mapping):
        return {name: few(value, most) for name, value in cast("Mapping[Any, Any]", inputs).items()}
    if isinstance(inputs, tuple | list):
        values = [few(value, most) for value in cast("tuple[Any, ...]", inputs)]
        return tuple(values) if isinstance(inputs, tuple) else values
    return inputs


def joined(batches: Sequence[Any]) -> Any:
    """Return all images in one batch."""
    columns = zip(*(tensors(batch) for batch in batches), strict=True)
    return refilled(batches[0], (torch.cat(column) if column[0].dim() else column[0] for column in columns))
