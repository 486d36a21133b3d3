"""In which way block layers and strided convolutions run: their results agree to rounding, their times do not."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import cast, get_args

from torch import nn

from secateur.core.zeros.blocks import BlockLayer, Execution
from secateur.core.zeros.strided import StridedConv2d, StridedExecution


@contextlib.contextmanager
def executing(model: nn.Module, execution: Execution) -> Generator[None]:
    """Run all block layers of a network one way; on leaving, each goes back to its own."""
    layers = [module for module in model.modules() if isinstance(module, BlockLayer)]
    before: list[Execution] = [layer.execution for layer in layers]
    try:
        for layer in layers:
            layer.execution = execution
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.execution = own


def execution_of(model: nn.Module) -> dict[str, str]:
    """Return how each block layer and strided convolution runs, by its name; empty for a network without any."""
    return {
        name: module.execution
        for name, module in model.named_modules()
        if isinstance(module, BlockLayer | StridedConv2d)
    }


def execute(model: nn.Module, how: Mapping[str, str]) -> None:
    """Let layers run as ``execution_of`` said before; what is not named, or has no choice, stays as it is."""
    for name, module in model.named_modules():
        if isinstance(module, BlockLayer) and how.get(name) in get_args(Execution):
            module.execution = cast("Execution", how[name])
        if isinstance(module, StridedConv2d) and how.get(name) in get_args(StridedExecution):
            module.execution = cast("StridedExecution", how[name])
