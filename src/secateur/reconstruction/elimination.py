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

_STEPS = 256
"""Steps in which a group goes at most: of larger groups several units go at once."""
_WIDE = 2500
"""Columns of a reader beyond which they are half as many, and numbers are of float32."""
FEW = 8
"""Units of a group up to which all choices are tried."""


@dataclass
class Reader:
    """One layer's view of the units of a group.

    Attributes:
        inverse: ``H^-1`` for the columns of the units, ``(units * each, units * each)`` float64, unit by unit.
        weight: the weights of these columns, ``(units * each, outputs)`` float64.
        scale: what squared errors are divided by.
        units: which units of the group those are, ascending, int64; None: all of them. Each group of a grouped
            convolution is a reader of its own, mostly of a few.
    """

    inverse: Tensor
    weight: Tensor
    scale: float
    units: Tensor | None = None

    def own(self, units: int) -> Tensor:
        """Return which of so many units are read."""
        return torch.arange(units) if self.units is None else self.units


def order_of(scores: Tensor) -> list[int]:
    """Return units in the order of their scores, the lowest first, without those of ``inf``, which never go."""
    return [unit for unit in torch.argsort(scores.double(), stable=True).tolist() if scores[unit] < torch.inf]


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
    going = [_Going(reader, units) for reader in readers]
    left = torch.ones(units, dtype=torch.bool)
    gone, errors = list[int](), [0.0]
    most = units - 1 if order is None else min(units - 1, len(order))
    steps = _STEPS // 2 if any(len(reader.inverse) > _WIDE for reader in readers) else _STEPS
    while len(gone) < most:
        at_once = min(max(1, units // steps), most - len(gone))
        if order is None:
            losses = torch.stack([one.losses() for one in going]).sum(0)
            losses[~left] = torch.inf
            chosen: list[int] = torch.topk(losses, at_once, largest=False).indices.tolist()
        else:
            chosen = list(order[len(gone) : len(gone) + at_once])
        risen = sum(one.drop(chosen) for one in going)
        left[chosen] = False
        gone += chosen
        errors += [errors[-1] + max(0.0, risen) * part / at_once for part in range(1, at_once + 1)]
    return gone, errors


class _Going:
    """A reader whose units go.

    The inverse is not brought up to date as a whole: ``H^-1`` at any time is what it was at first minus ``F' F``, whose
    factor gains a few rows with each unit, so that a step reads the factor once and writes next to nothing.
    """

    def __init__(self, reader: Reader, units: int) -> None:
        self.all, self.own, self.scale = units, reader.own(units), reader.scale
        self.units, self.each = len(self.own), len(reader.inverse) // len(self.own)
        self.place = torch.full((units,), -1)
        self.place[self.own] = torch.arange(self.units)
        kind = torch.float32 if len(reader.inverse) > _WIDE else torch.float64
        self.inverse, self.weight = reader.inverse.to(kind), _turned(reader.weight).to(kind)
        whole = self.inverse.view(self.units, self.each, self.units, self.each)
        self.blocks = whole.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
        self.factor = torch.empty_like(self.inverse)
        self.rank = 0
        self.lost: Tensor | None = None

    def losses(self) -> Tensor:
        """Return what each unit's going would cost, ``(units of the group,)``; of those that are gone anything."""
        if self.lost is None:
            self.lost = torch.zeros(self.all, dtype=torch.float64)
            self.lost[self.own] = self._losses()
        return self.lost

    def _losses(self) -> Tensor:
        if self.each == 1:
            return (self.weight.square().sum(1) / self.blocks.flatten()).double() / self.scale
        weight = self.weight.view(self.units, self.each, -1)
        found = torch.linalg.solve(self.blocks, weight @ weight.transpose(1, 2))
        return found.diagonal(dim1=1, dim2=2).sum(1).double() / self.scale

    def drop(self, chosen: Sequence[int]) -> float:
        """Refit what is left to the loss of units of the group, and return by how much the error rises."""
        places = self.place[list(chosen)]
        places = places[places >= 0]
        if not len(places):
            return 0.0
        self.lost = None
        rows = _columns(places, self.each)
        known = self.factor[: self.rank]
        across = self.inverse[rows] - known[:, rows].T @ known  # both are symmetric, and rows lie together in memory
        root, failed = torch.linalg.cholesky_ex(across[:, rows])
        if int(failed):  # rounding has eaten what is left of it: these units are combinations of others
            block = across[:, rows]
            root = torch.diag(block.diagonal().clamp(min=1e-12 * float(self.inverse.diagonal().max())).sqrt())
        more = torch.linalg.solve_triangular(root, across, upper=False)
        turned = torch.linalg.solve_triangular(root, self.weight[rows], upper=False)
        self.weight.addmm_(more.T, turned, alpha=-1)
        self.factor[self.rank : self.rank + len(rows)] = more
        self.rank += len(rows)
        by_unit = more.view(len(rows), self.units, self.each).permute(1, 2, 0)
        self.blocks.baddbmm_(by_unit, by_unit.transpose(1, 2), alpha=-1)
        self.blocks[places] = torch.eye(self.each, dtype=self.blocks.dtype)
        self.weight[rows] = 0
        return float(turned.square().sum()) / self.scale


def _turned(weight: Tensor) -> Tensor:
    """Return weights of no more outputs than columns that give the same losses, which know no directions of outputs."""
    if weight.shape[1] <= weight.shape[0]:
        return weight
    return torch.linalg.qr(weight.T, mode="r").R.T.contiguous()


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
    own = reader.own(units)
    places = torch.isin(own, torch.tensor(gone)).nonzero().flatten()
    columns = _columns(places, len(reader.inverse) // len(own))
    weight = reader.weight[columns]
    return float((weight * torch.linalg.solve(reader.inverse[columns][:, columns], weight)).sum()) / reader.scale


def _columns(places: Tensor, each: int) -> Tensor:
    return (places[:, None] * each + torch.arange(each)).flatten()
