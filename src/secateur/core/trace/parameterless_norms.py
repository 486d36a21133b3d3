"""Norms without any tensors, whose width is a number alone: it follows from the channels that enter them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from secateur.core.code.written_numbers import Path
from secateur.core.graph.written_sizes import Assignment
from secateur.core.layer_families import CHANNEL_NORMS
from secateur.core.trace.resolve import Units
from secateur.core.trace.state import State

Sizes = Iterator[tuple[str, Path, int, int, int]]  # attribute, path in it, its value, dimension of the input, every


def bare_widths(model: nn.Module, state: State, units: Units) -> tuple[Assignment, ...]:
    """Describe how the numbers in norms that have no weights follow from the widths."""
    found: list[Assignment] = []
    for name, module in model.named_modules():
        arriving = state.arrivals.get(name, [])
        if not arriving or any(True for _ in (*module.parameters(), *module.buffers())):
            continue
        for attribute, path, value, dim, every in _sizes(module, arriving[0].dim()):
            atoms = _along(arriving, dim, value * every, units)
            if atoms is not None:
                found.append(Assignment(name, attribute, path, units.axis(atoms[::every])))
    return tuple(found)


def _sizes(module: nn.Module, dims: int) -> Sizes:
    if isinstance(module, CHANNEL_NORMS):
        alone = isinstance(module, _InstanceNorm) and dims == module._get_no_batch_dim()  # pyright: ignore
        yield "num_features", (), module.num_features, 0 if alone else 1, 1
    elif isinstance(module, nn.GroupNorm):
        inner = module.num_channels // module.num_groups
        yield "num_channels", (), module.num_channels, 1, 1
        if module.num_groups > inner:  # whole groups go, see the tracer's rule
            yield "num_groups", (), module.num_groups, 1, inner
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        shape = tuple(module.normalized_shape)
        for place, size in enumerate(shape):
            yield "normalized_shape", (place,), size, place - len(shape), 1


def _along(arriving: list[Tensor], dim: int, size: int, units: Units) -> Tensor | None:
    """Return the labels of the channels that enter, None where there are none or those of another call are others."""
    rows = [
        layer.movedim(dim, 0).reshape(size, -1)[:, 0]
        for layer in arriving
        if -layer.dim() <= dim < layer.dim() and layer.shape[dim] == size > 1
    ]
    numbers = [units.of(row) for row in rows]
    alike = all(torch.equal(numbers[0], other) for other in numbers[1:])
    return rows[0] if rows and alike and bool((numbers[0] >= 0).any()) else None
