"""Optimal brain surgeon over whole units: which unit can best be done without once all others are refitted.

For a reader with inputs ``X`` and weights ``W`` let ``H = X'X + s I``. Without the columns ``R`` of a unit, and with all
other weights refitted, the squared error rises by ``tr(W_R' (H^-1_RR)^-1 W_R)``; after it, ``W -= H^-1_.R K W_R`` and
``H^-1 -= H^-1_.R K H^-1_R.`` with ``K = (H^-1_RR)^-1`` (Hassibi & Stork 1993 for single weights; Meng et al. 2024,
arXiv 2403.12983, for structures). Going on unit by unit gives the whole curve of errors from one factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SINGLY = 2500  # columns beyond which several units go at once
_SHARE = 64  # then one of so many of those that are left


@dataclass
class Reader:
    """One layer's view of the units of a group.

    Attributes:
        inverse: ``H^-1`` for the columns of the units, ``(units * each, units * each)`` float64, unit by unit.
        weight: the weights of these columns, ``(units * each, outputs)`` float64.
        scale: what errors are divided by.
    """

    inverse: Tensor
    weight: Tensor
    scale: float


def eliminate(
    readers: Sequence[Reader], units: int, *, order: Sequence[int] | None = None, least: int = 1, snap: int = 0
) -> tuple[list[int], list[float]]:
    """Drop units one after the other, always the one whose loss is smallest, or in an order.

    Args:
        readers: all that read the units; their tensors are used up.
        units: how many there are.
        order: units in the order in which they are to go; None for the best.
        least: how many stay.

    Returns:
        The units in the order in which they went, and the error when the first 0, 1, 2, ... of them are gone.
    """
    alive = list(range(units))
    gone: list[int] = []
    errors = [0.0]
    queue = list(order) if order is not None else None
    while len(alive) > least and (queue is None or queue):
        if len(alive) == snap:
            for reader in readers:
                reader.snapshot = reader.weight.clone()
        wide = max(len(reader.inverse) for reader in readers)
        at_once = max(1, len(alive) // _SHARE) if wide > _SINGLY else 1
        at_once = min(at_once, len(alive) - least)
        if queue is None:
            losses = sum(_losses(reader, len(alive)) for reader in readers)
            assert isinstance(losses, Tensor)
            chosen = torch.topk(losses, at_once, largest=False).indices.tolist()
        else:
            chosen = [alive.index(unit) for unit in queue[:at_once]]
            queue = queue[at_once:]
        risen = sum(_drop(reader, chosen, len(alive)) for reader in readers)
        each = risen / len(chosen)
        for place in chosen:
            gone.append(alive[place])
            errors.append(errors[-1] + max(0.0, each))
        left = [place for place in range(len(alive)) if place not in set(chosen)]
        alive = [alive[place] for place in left]
        for reader in readers:
            _without(reader, left, len(left) + len(chosen))
    return gone, errors


def _losses(reader: Reader, units: int) -> Tensor:
    """Return what each unit's going would cost, ``(units,)``."""
    each = len(reader.inverse) // units
    blocks = reader.inverse.view(units, each, units, each).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    weight = reader.weight.view(units, each, -1)
    solved = torch.linalg.solve(blocks, weight)
    return (weight * solved).sum((1, 2)) / reader.scale


def _drop(reader: Reader, places: Sequence[int], units: int) -> float:
    """Refit what is left to the loss of units, in place, and return by how much the error rises."""
    each = len(reader.inverse) // units
    rows = torch.cat([torch.arange(place * each, (place + 1) * each) for place in places])
    block, across, weight = reader.inverse[rows][:, rows], reader.inverse[:, rows], reader.weight[rows]
    solved = torch.linalg.solve(block, torch.cat([weight, across.T], 1))
    outputs = weight.shape[1]
    loss = float((weight * solved[:, :outputs]).sum()) / reader.scale
    reader.weight -= across @ solved[:, :outputs]
    reader.inverse.addmm_(across, solved[:, outputs:], alpha=-1)
    return loss


def _without(reader: Reader, left: Sequence[int], units: int) -> None:
    each = len(reader.inverse) // units
    columns = (torch.tensor(left, dtype=torch.long)[:, None] * each + torch.arange(each)).flatten()
    reader.inverse = reader.inverse[columns][:, columns]
    reader.weight = reader.weight[columns]
