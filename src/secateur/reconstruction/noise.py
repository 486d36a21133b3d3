"""Inputs of the same kind as an example, whose values say more of a network than those of an example may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery import Inputs
from secateur.measure.forward import device_of, moved, refilled, tensors


def noises(model: nn.Module, inputs: Inputs, *, single: bool = False) -> Iterator[Any]:
    """Yield inputs of the same structure, shapes and types, the best first, the example last; one image of a batch.

    First come the values of the example in another order. So they are in its range, and where they are all alike there
    are random ones instead. Integers stay where they are, whatever their type: they are indices, classes or masks.

    Args:
        model: on whose device they are.
        inputs: the example.
        single: whether numbers of half precision become single ones.
    """
    found = list(tensors(inputs))
    if not found:
        yield inputs
        return
    lengths = {len(it) for it in found if it.dim()}
    alone = len(lengths) == 1 and lengths.pop() > 1
    for rows in (True, False) if alone else (False,):
        values = [it.detach()[:1] if rows and it.dim() else it.detach() for it in found]
        if single:
            values = [it.float() if it.dtype in (torch.float16, torch.bfloat16) else it for it in values]
        for some in (*_mixed(values), values):
            yield moved(refilled(inputs, iter(some)), device_of(model))


def _mixed(values: list[Tensor]) -> Iterator[list[Tensor]]:
    varied = [it.is_floating_point() and bool((it != it.round()).any()) for it in values]
    if any(varied):
        draw = torch.Generator().manual_seed(0)
        yield [_shuffled(it, draw) if mix else it for it, mix in zip(values, varied, strict=True)]
        return
    for random in (torch.randn, torch.rand):
        draw = torch.Generator().manual_seed(0)
        same = [it.is_floating_point() and it.numel() > 1 and bool((it == it.flatten()[0]).all()) for it in values]
        if any(same):
            yield [random(it.shape, generator=draw).to(it) if mix else it for it, mix in zip(values, same, strict=True)]


def _shuffled(value: Tensor, draw: torch.Generator) -> Tensor:
    order = torch.randperm(value.numel(), generator=draw).to(value.device)
    return value.flatten()[order].view(value.shape)
