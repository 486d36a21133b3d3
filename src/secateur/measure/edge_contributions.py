"""How much each kernel of a layer adds to what the layer puts out, on images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import layer_of
from secateur.core.layer_families import CONVOLUTIONS, TRANSPOSED
from secateur.core.surgery import Inputs, run
from secateur.errors import DataError, SettingError
from secateur.measure.forward import device_of, moved


def edge_contributions(model: nn.Module, names: Sequence[str], batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """Return the mean size of what each kernel makes of the map that it reads, before the maps are added.

    Args:
        model: the network, left as it is.
        names: weights of convolutions or linear layers.
        batches: what its forward takes.

    Returns:
        For each name the mean over images and positions, of the shape of the first two dimensions of the weight,
        float64 on the CPU.

    Raises:
        DataError: if there is no batch.
        SettingError: if a layer is never called, or computes its weight anew.
    """
    sums, calls, seen = dict[str, Tensor](), dict[str, int](), 0
    with ExitStack() as stack:
        for name in names:
            module: Any = model.get_submodule(layer_of(name))
            if not isinstance(module, (*CONVOLUTIONS, nn.Linear)) or name != f"{layer_of(name)}.weight":
                raise _hidden(name)
            of = _linear if isinstance(module, nn.Linear) else _convolution(module)

            def hear(module: Any, given: Any, named: Any, name: str = name, of: Callable[..., Tensor] = of) -> None:
                found = of(module, given[0] if given else named["input"])
                sums[name] = sums[name] + found if name in sums else found
                calls[name] = calls.get(name, 0) + len(given[0] if given else named["input"])

            stack.callback(module.register_forward_pre_hook(hear, with_kwargs=True).remove)
        for batch in batches:
            run(model, moved(batch, device_of(model)))
            seen += 1
    if not seen:
        raise DataError("there is no batch of images to look at; give the method more images")
    for name in names:
        if name not in sums:
            raise _hidden(name)
    return {name: sums[name] / calls[name] for name in names}


def _hidden(name: str) -> SettingError:
    return SettingError(
        f"what the kernels of '{layer_of(name)}' add is never seen: no layer is called that has them as its own "
        "weight; leave that layer alone ('leave'), or judge kernels by their weights"
    )


def _linear(module: nn.Linear, given: Tensor) -> Tensor:
    """Return the sum over examples of |x * w|, ``(out, in)``."""
    sizes = given.detach().double().abs().flatten(1, -2).mean(1) if given.dim() > 2 else given.detach().double().abs()
    return module.weight.detach().double().abs().cpu() * sizes.sum(0).cpu()


def _convolution(layer: nn.Module) -> Callable[[Any, Tensor], Tensor]:
    """Return a function that runs a layer map by map and returns the sum over examples of its mean outputs."""
    single: Any = copy.deepcopy(layer)
    transposed, groups = isinstance(layer, TRANSPOSED), int(single.groups)
    single.groups, single.in_channels, single.bias = 1, 1, None

    def add_up(module: Any, given: Tensor) -> Tensor:
        weight, maps = module.weight.detach(), given.detach()
        shape, inputs = weight.shape, maps.shape[1]
        found = torch.zeros(shape[:2], dtype=torch.float64)
        each, rows = inputs // groups, shape[0] // groups
        for c in range(inputs):
            block, place = divmod(c, each)
            own = slice(block * rows, (block + 1) * rows)
            part = weight[c : c + 1] if transposed else weight[own, place : place + 1]
            single.weight = nn.Parameter(part, requires_grad=False)
            sizes = single(maps[:, c : c + 1]).double().abs().flatten(2).mean(2).sum(0).cpu()
            if transposed:
                found[c] = sizes
            else:
                found[own, place] = sizes
        return found

    return add_up
