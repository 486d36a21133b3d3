"""Optimal brain surgeon over whole units: which unit can best be done without once all others are refitted.

For a reader with inputs ``X`` and weights ``W`` let ``H = X'X + s I``. Without the columns ``R`` of a unit, and with
all other weights refitted, the squared error rises by ``tr(W_R' (H^-1_RR)^-1 W_R)``; after it, ``W -= H^-1_.R K W_R``
and ``H^-1 -= H^-1_.R K H^-1_R.`` with ``K = (H^-1_RR)^-1`` (Hassibi & Stork, *Second order derivatives for network
pruning*, 1993, for single weights; Meng et al., OSSCAR, 2024, arXiv 2403.12983, for structures). Going on unit by unit
gives the whole curve of errors from one factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

_SINGLY = 2500
"""Columns beyond which several units go at once."""
_SHARE = 64
"""Then one of so many of those that are left."""
FEW = 8
"""Units of a group up to which all choices are tried."""


@dataclass
class Reader:
    """One layer's view of the units of a group.

    Attributes:
        inverse: ``H^-1`` for the columns of the units, ``(units * each, units * each)`` float64, unit by unit.
        weight: the weights of these columns, ``(units * each, outputs)`` float64.
        scale: what squared errors are divided by.
    """

    inverse: Tensor
    weight: Tensor
    scale: float


def eliminate(
    readers: Sequence[Reader], units: int, *, order: Sequence[int] | None = None
) -> tuple[list[int], list[float]]:
    """Drop units one after the other, always the one whose loss is smallest, or in an order, until one is left.

    Args:
        readers: all that read the units; their tensors are used up.
        units: how many there are.
        order: units in the order in which they are to go; None for the best.

    Returns:
        The units in the order in which they went, and the error when the first 0, 1, 2, ... of them are gone.
    """
    alive, gone, errors = list(range(units)), list[int](), [0.0]
    most = units - 1 if order is None else min(units - 1, len(order))
    while len(gone) < most:
        wide = max(len(reader.inverse) for reader in readers)
        at_once = min(max(1, len(alive) // _SHARE) if wide > _SINGLY else 1, most - len(gone))
        if order is None:
            losses = torch.stack([_losses(reader, len(alive)) for reader in readers]).sum(0)
            places = torch.topk(losses, at_once, largest=False).indices.tolist()
        else:
            places = [alive.index(unit) for unit in order[len(gone) : len(gone) + at_once]]
        risen = sum(_drop(reader, places, len(alive)) for reader in readers)
        for place in places:
            gone.append(alive[place])
            errors.append(errors[-1] + max(0.0, risen) / len(places))
        left = [place for place in range(len(alive)) if place not in set(places)]
        for reader in readers:
            _shrink(reader, left, len(alive))
        alive = [alive[place] for place in left]
    return gone, errors


def best_choices(readers: Sequence[Reader], units: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """Try all choices of units, and return the best of each size, ascending, from none to all but one.

    Args:
        readers: all that read the units; left as they are.
        units: how many there are, at most ``FEW`` in reasonable time.

    Returns:
        For each number of units which ones should go, and the error that this leaves.
    """
    choices, errors = list[tuple[int, ...]]([()]), [0.0]
    for some in range(1, units):
        losses = {
            gone: sum(_loss(reader, gone, units) for reader in readers) for gone in combinations(range(units), some)
        }
        best = min(losses, key=lambda gone: losses[gone])
        choices.append(best)
        errors.append(max(errors[-1], losses[best]))
    return choices, errors


def _loss(reader: Reader, gone: Sequence[int], units: int) -> float:
    """Return by how much the error rises when these units go."""
    columns = _columns(gone, len(reader.inverse) // units)
    weight = reader.weight[columns]
    return float((weight * torch.linalg.solve(reader.inverse[columns][:, columns], weight)).sum()) / reader.scale


def _losses(reader: Reader, units: int) -> Tensor:
    """Return what each unit's going would cost, ``(units,)``."""
    each = len(reader.inverse) // units
    blocks = reader.inverse.view(units, each, units, each).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    weight = reader.weight.view(units, each, -1)
    return (weight * torch.linalg.solve(blocks, weight)).sum((1, 2)) / reader.scale


def _drop(reader: Reader, places: Sequence[int], units: int) -> float:
    """Refit what is left to the loss of units, in place, and return by how much the error rises."""
    each = len(reader.inverse) // units
    rows = _columns(places, each)
    across, weight = reader.inverse[:, rows], reader.weight[rows]
    solved = torch.linalg.solve(across[rows], torch.cat([weight, across.T], 1))
    outputs = weight.shape[1]
    loss = float((weight * solved[:, :outputs]).sum()) / reader.scale
    reader.weight -= across @ solved[:, :outputs]
    reader.inverse.addmm_(across, solved[:, outputs:], alpha=-1)
    return loss


def _shrink(reader: Reader, left: Sequence[int], units: int) -> None:
    """Take out the columns of all units but some."""
    columns = _columns(left, len(reader.inverse) // units)
    reader.inverse = reader.inverse[columns][:, columns]
    reader.weight = reader.weight[columns]


def _columns(places: Sequence[int], each: int) -> Tensor:
    return (torch.tensor(places, dtype=torch.long)[:, None] * each + torch.arange(each)).flatten()
