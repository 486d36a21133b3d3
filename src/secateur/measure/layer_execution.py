"""Blocks or one wide layer, all positions of a kernel or some: which runs faster is measured, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.zeros.blocks import BlockLayer, Execution
from secateur.core.zeros.strided import StridedConv2d, StridedExecution
from secateur.measure.forward import ExampleInputs, call, device_of, evaluating, moved
from secateur.measure.quiet_exporters import ready_to_compile
from secateur.rules import Seconds


@checked
def fastest(
    model: nn.Module, example_inputs: ExampleInputs, *, seconds: Seconds = 0.1
) -> Mapping[str, Execution | StridedExecution]:
    """Time block layers and strided convolutions both ways on what they get to see, and let each run the faster way.

    Narrow blocks do not fill a vector unit or a GPU; then a layer is faster on its full weight, with zeros outside
    the blocks. Likewise a convolution whose zeros form a pattern is faster as a smaller product on some machines and
    sizes only. The results are equal to rounding. What is saved does not depend on the choice, and MACs are always
    those of the blocks, and those of all positions.

    Args:
        model: these layers get their ``execution`` set; nothing else changes.
        example_inputs: of the batch size to be fast for; moved to the model's device.
        seconds: to time each layer each way for, at least.

    Returns:
        The choice for each such layer by its name; empty for a network without any.

    Raises:
        ModelError: if the model does not run on the example inputs.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BlockLayer | StridedConv2d)}
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


def _faster(layer: BlockLayer | StridedConv2d, x: Tensor, seconds: float) -> Execution | StridedExecution:
    if isinstance(layer, BlockLayer):
        times = {way: _timed(layer, way, x, seconds) for way in get_args(Execution)}
        layer.execution = min(times, key=lambda way: times[way])
    else:
        times = {way: _timed(layer, way, x, seconds) for way in get_args(StridedExecution)}
        layer.execution = min(times, key=lambda way: times[way])
    return layer.execution


def _timed(layer: Any, execution: str, x: Tensor, seconds: float) -> float:
    ready_to_compile()
    from torch.utils.benchmark import Timer

    with evaluating(layer), torch.inference_mode():
        layer.execution = execution
        layer(x)
        timer = Timer("layer(x)", globals={"layer": layer, "x": x}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=seconds).median
