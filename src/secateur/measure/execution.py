"""Blocks or one wide layer: which runs faster here is measured, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from ..core.blocks import BlockLayer, Execution
from .forward import ExampleInputs, call, device_of, evaluating, moved


def fastest(model: nn.Module, example_inputs: ExampleInputs, *, seconds: float = 0.1) -> Mapping[str, Execution]:
    """Time every block layer both ways on what it gets to see, and let it run the faster way from now on.

    Narrow blocks do not fill a vector unit or a GPU; then a layer is faster on its full weight, with zeros outside
    the blocks. The results are equal to rounding. What is saved does not depend on the choice, and MACs are always
    those of the blocks.

    Args:
        model: its block layers get their ``execution`` set; nothing else changes.
        example_inputs: of the batch size to be fast for; moved to the model's device.
        seconds: to time each layer each way for, at least.

    Returns:
        The choice for each block layer by its name; empty for a network without any.

    Raises:
        ModelError: if the model does not run on the example inputs.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BlockLayer)}
    if not layers:
        return {}
    seen: dict[str, Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(names[module], inputs[0].detach().clone())

    names: dict[nn.Module, str] = {module: name for name, module in layers.items()}
    hooks = [module.register_forward_pre_hook(watch) for module in layers.values()]
    try:
        with evaluating(model), torch.inference_mode():
            call(model, moved(example_inputs, device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _faster(layers[name], x, seconds) for name, x in seen.items()}


def _faster(layer: BlockLayer, x: Tensor, seconds: float) -> Execution:
    from torch.utils.benchmark import Timer

    times: dict[Execution, float] = {}
    with evaluating(layer), torch.inference_mode():
        for execution in get_args(Execution):
            layer.execution = execution
            layer(x)
            timer = Timer("layer(x)", globals={"layer": layer, "x": x}, num_threads=torch.get_num_threads())
            times[execution] = timer.blocked_autorange(min_run_time=seconds).median
    layer.execution = min(times, key=lambda execution: times[execution])
    return layer.execution
