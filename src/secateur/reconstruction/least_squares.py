"""Least squares with a pull towards the present weights, whose strength held-out images choose.

``min |E - X D|^2 + s |D|^2`` for the change ``D`` of the weights: ``E`` is what is missing at the outputs. A fifth of
the rows is left out of the first solutions; the pull under which these miss least on that fifth is taken, and all rows
together give the final one. Where no change is better than every solution, nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

PULLS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the pull, as shares of the mean square of the inputs."""
HELD_OUT = 5
"""One of so many rows is held out."""
MOST = 6000
"""Unknowns of an output beyond which the system is solved in the space of the rows."""
MOST_DUAL = 6000
"""Rows that are used there."""
_EXACT = 1200  # columns up to which products are summed up in float64


@dataclass
class Moments:
    """``X'X``, ``X'E`` and ``E'E`` of some rows, in float64 on the CPU, for each group of a layer."""

    square: Tensor
    product: Tensor
    missing: Tensor
    rows: int

    @staticmethod
    def of(inputs: Tensor, missing: Tensor) -> Moments:
        """Sum up rows.

        Args:
            inputs: (groups, rows, columns).
            missing: (groups, rows, outputs of a group).
        """
        kind = torch.float64 if inputs.shape[2] <= _EXACT and inputs.device.type != "mps" else torch.float32
        x, e = inputs.to(kind), missing.to(kind)
        turned = x.transpose(1, 2)
        return Moments(
            (turned @ x).double().cpu(),
            (turned @ e).double().cpu(),
            e.double().square().sum(1).cpu() if kind == torch.float64 else e.square().sum(1).double().cpu(),
            inputs.shape[1],
        )

    def add(self, other: Moments) -> None:
        """Add the sums of other rows."""
        self.square += other.square
        self.product += other.product
        self.missing += other.missing
        self.rows += other.rows

    def error(self, change: Tensor) -> Tensor:
        """Return the squared error that is left with a change of the weights, ``(groups, outputs)``."""
        left = self.missing - 2 * (change * self.product).sum(1) + (change * (self.square @ change)).sum(1)
        return left.clamp(min=0)


@dataclass
class Fit:
    """The rows of one problem, and its solution.

    Attributes:
        known: sums over the rows that solutions are made from, until the pull is chosen.
        held: sums over the rows that are held out.
        inputs: the rows themselves, for problems that are too wide for their normal equations.
        missing: the same of what is missing.
    """

    known: Moments | None = None
    held: Moments | None = None
    inputs: list[Tensor] = field(default_factory=list[Tensor])
    missing: list[Tensor] = field(default_factory=list[Tensor])
    _count: int = 0

    def add(self, inputs: Tensor, missing: Tensor, image: Tensor) -> None:
        """Add rows, see ``Moments.of``; those of an image, ``(rows,)``, are held out together or not at all."""
        number = image + self._count
        self._count += int(image[-1]) + 1
        if inputs.shape[2] > MOST:
            self.inputs.append(inputs.float().cpu())
            self.missing.append(missing.float().cpu())
            return
        apart = (number % HELD_OUT == 0).to(inputs.device)
        known, held = (Moments.of(inputs[:, chosen], missing[:, chosen]) for chosen in (~apart, apart))
        if self.known is None or self.held is None:
            self.known, self.held = known, held
        else:
            self.known.add(known)
            self.held.add(held)

    def solve(self) -> Solution | None:
        """Return the best change of the weights, None if no change is better, or the rows are of no use."""
        if self.inputs:
            return _in_row_space(torch.cat(self.inputs, 1), torch.cat(self.missing, 1))
        if self.known is None or self.held is None or not bool(self.known.square.isfinite().all()):
            return None
        before = float(self.held.missing.sum())
        if not bool(self.known.product.isfinite().all()) or before == 0.0:
            return None
        best, pull = before, None
        for strength in PULLS:
            change = _solved(self.known, strength)
            error = float("inf") if change is None else float(self.held.error(change).sum())
            if error < best:
                best, pull = error, strength
        if pull is None:
            return None
        self.known.add(self.held)
        change = _solved(self.known, pull)
        return None if change is None else Solution(change, pull, before, best)


@dataclass(frozen=True, eq=False)
class Solution:
    """How to change the weights.

    Attributes:
        change: (groups, columns, outputs of a group), float64.
        pull: strength of the pull that was chosen.
        before: squared error on the held-out rows without the change.
        after: with it, as solved from the other rows.
    """

    change: Tensor
    pull: float
    before: float
    after: float


def _solved(moments: Moments, strength: float) -> Tensor | None:
    pulled = ridged(moments.square, strength)
    factor, info = torch.linalg.cholesky_ex(pulled)
    if bool((info > 0).any()):
        return None
    change = torch.cholesky_solve(moments.product, factor)
    return change if bool(change.isfinite().all()) else None


def ridged(square: Tensor, strength: float) -> Tensor:
    """Return ``X'X`` with the pull on its diagonal, ``(groups, columns, columns)``."""
    mean = square.diagonal(dim1=1, dim2=2).mean(1)
    pull = strength * torch.where(mean > 0, mean, torch.ones_like(mean))
    return square + torch.diag_embed(pull[:, None].expand(-1, square.shape[1]))


def _in_row_space(inputs: Tensor, missing: Tensor) -> Solution | None:
    """Solve with ``D = X' (X X' + s I)^-1 E``, which is the same solution, for more columns than rows."""
    if inputs.shape[1] > MOST_DUAL:
        chosen = torch.linspace(0, inputs.shape[1] - 1, MOST_DUAL).long()
        inputs, missing = inputs[:, chosen], missing[:, chosen]
    number = torch.arange(inputs.shape[1])
    known, held = number % HELD_OUT != 0, number % HELD_OUT == 0
    kernel = (inputs @ inputs.transpose(1, 2)).double()
    missing = missing.double()
    if not bool(kernel.isfinite().all()) or not bool(missing.isfinite().all()):
        return None
    scale = inputs.shape[1] / inputs.shape[2]  # the mean square of a column against that of a row
    inside, across = kernel[:, known][:, :, known], kernel[:, held][:, :, known]
    before = float(missing[:, held].square().sum())
    best, pull = before, None
    for strength in PULLS:
        dual = torch.linalg.solve(ridged(inside, strength * scale), missing[:, known])
        error = float((missing[:, held] - across @ dual).square().sum())
        if error < best:
            best, pull = error, strength
    if pull is None:
        return None
    dual = torch.linalg.solve(ridged(kernel, pull * scale), missing)
    return Solution((inputs.transpose(1, 2).double() @ dual), pull, before, best)
