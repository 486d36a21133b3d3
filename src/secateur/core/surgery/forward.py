"""Run any network on example inputs without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.errors import ModelError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model on example inputs in evaluation mode without gradients; every module's mode is restored.

    Raises:
        ModelError: if the forward fails.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            return _call(model, inputs)
    except Exception as error:
        if isinstance(error, (KeyboardInterrupt, MemoryError)):
            raise
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs ({describe(inputs)}): {first_line(error)}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def _call(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def describe(inputs: Inputs) -> str:
    """Return the shapes of example inputs for a message."""
    shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return f"shape {', '.join(shapes)}" if shapes else "no tensors"


def first_line(error: BaseException) -> str:
    """Return the first line of an error, its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
