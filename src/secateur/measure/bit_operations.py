"""How many operations on bits a network takes that computes with few bits a number, and which weights lie on grids.

Source: Hawks et al., "Ps and Qs", Frontiers in Artificial Intelligence 4, 2021, after Baskin et al., "UNIQ", 2018: a
layer of m outputs that read n numbers each, of which a share p has a weight that is not zero, takes
``m n (p b_a b_w + b_a + b_w + log2 n)`` of them, b_a being the bits of what it reads and b_w those of its weights; a
convolution takes as many at each place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.zeros.number_grids import LAYERS, WHOLE, lies_on_grid, output_axis
from secateur.errors import SettingError, nearest
from secateur.measure.forward import call, device_of, evaluating, moved


def layer_operations(outputs: int, inputs: int, left: float, weight_bits: int, input_bits: int) -> float:
    """Return what one place of a layer takes.

    Args:
        outputs: numbers that it puts out.
        inputs: numbers that each of them is made of.
        left: share of the weights that are not zero.
        weight_bits: of each weight.
        input_bits: of each number that is read.
    """
    return outputs * inputs * (left * input_bits * weight_bits + input_bits + weight_bits + math.log2(inputs))


def bit_operations(
    model: nn.Module, example_inputs: Any, bits: Mapping[str, int] | int = WHOLE, activations: int = WHOLE
) -> float:
    """Return how many operations on bits the layers of a network take for one example.

    Args:
        model: run once in eval mode, and left as it is.
        example_inputs: what its forward takes.
        bits: of the weights of each layer, by its name, ``WHOLE`` where nothing is said; or one number for all.
        activations: bits of what each layer reads but the first, which reads ``WHOLE``.

    Raises:
        SettingError: if a name is none of a convolution or linear layer.
        ModelError: if the network does not run.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    for name in () if isinstance(bits, int) else bits:
        if name not in layers:
            raise SettingError(f"there is no convolution or linear layer '{name}'{nearest(name, layers)}")
    found: list[float] = []

    def add(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight: Any = layer.weight
        made = _channels(layer)
        numbers = inputs[0] if output_axis(layer) else output  # a transposed one works at each place of its input
        channels: Any = layer.in_channels if output_axis(layer) else made
        places = numbers.numel() / channels / len(output)
        kept = float((weight != 0).float().mean())
        own = bits if isinstance(bits, int) else bits.get(name, WHOLE)
        read = activations if found else WHOLE
        found.append(places * layer_operations(made, weight.numel() // made, kept, own, read))

    handles = [layer.register_forward_hook(partial(add, name)) for name, layer in layers.items()]
    try:
        with evaluating(model), torch.no_grad():
            call(model, moved(example_inputs, device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    return sum(found)


def grids_of(model: nn.Module, among: Sequence[int]) -> dict[str, int]:
    """Return the fewest of these bits on whose grid the weights of each layer lie; those on none are left out."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)]
    found: dict[str, int] = {}
    for name, layer in layers:
        weight: Any = layer.weight
        fitting = [bits for bits in sorted(among) if bits < WHOLE and lies_on_grid(weight, bits, output_axis(layer))]
        if fitting:
            found[name] = fitting[0]
    return found


def _channels(layer: nn.Module) -> int:
    sizes: Any = layer
    return sizes.out_features if isinstance(layer, nn.Linear) else sizes.out_channels
