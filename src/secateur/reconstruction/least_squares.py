"""Least squares with a pull towards the present weights, whose strength held-out images choose.

``min |E - X D|^2 + s |D|^2`` for the change ``D`` of the weights, where ``E`` is what is missing at the outputs. A
fifth of the images is left out of the first solutions; the pull under which these miss least there is taken, and all
images together give the final one. Where nothing is better than no change, nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

PULLS = (1e-6, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Strengths of the pull, as shares of the mean square of each input."""
HELD_OUT = 5
"""One of so many images is held out."""
MOST = 6000
"""Unknowns of an output beyond which the system is solved in the space of the rows."""
MOST_DUAL = 6000
"""Rows that are used there."""
STEPS = 100
"""Of conjugate gradients, where weights have to stay zero."""
DEAD = 1e-6
"""Share of the mean square of the inputs that an input has at least in the pull."""
RARE = 1e-2  # the same in a fit: what is hardly ever active would get weights by which further training diverges
_EXACT = 600  # columns up to which products are summed up in float64
_SLOW = 1500  # columns beyond which not all pulls are tried
_SLABS = 4  # of columns, in which wider products are made
_ROWS = 16384  # that are copied at a time


@dataclass
class Moments:
    """``X'X``, ``X'E`` and ``E'E`` of some rows, in float64 on the CPU, for each group of a layer."""

    square: Tensor
    product: Tensor
    missing: Tensor
    rows: int

    @staticmethod
    def of(inputs: Tensor, missing: Tensor, chosen: Tensor | None = None) -> Moments:
        """Sum up rows, some thousands at a time, so that copies of them take little memory.

        Args:
            inputs: (groups, rows, columns).
            missing: (groups, rows, outputs of a group).
            chosen: which rows, (rows,) int64; None: all.
        """
        groups, count, wide = inputs.shape
        exact = wide <= _EXACT and inputs.device.type != "mps"  # which has no float64
        kind = torch.float64 if exact else torch.float32
        square = inputs.new_zeros(groups, wide, wide, dtype=kind)
        product = inputs.new_zeros(groups, wide, missing.shape[2], dtype=kind)
        squares = product.new_zeros(groups, missing.shape[2])
        rows = torch.arange(count, device=inputs.device) if chosen is None else chosen
        for some in rows.split(_ROWS):
            x, e = inputs[:, some].to(kind), missing[:, some].to(kind)
            product.baddbmm_(x.transpose(1, 2), e)
            squares += e.square().sum(1)
            _add_square(square, x)
        _mirror(square)
        return Moments(square.cpu().double(), product.cpu().double(), squares.cpu().double(), len(rows))

    def add(self, other: Moments) -> None:
        """Add the sums of other rows."""
        self.square += other.square
        self.product += other.product
        self.missing += other.missing
        self.rows += other.rows

    def error(self, change: Tensor) -> float:
        """Return the squared error that is left with a change of the weights, ``(groups, columns, outputs)``."""
        left = self.missing - 2 * (change * self.product).sum(1) + (change * (self.square @ change)).sum(1)
        return float(left.clamp(min=0).sum())


def _edges(wide: int) -> list[tuple[int, int]]:
    slabs = 1 if wide <= _EXACT else _SLABS
    return list(pairwise(wide * part // slabs for part in range(slabs + 1)))


def _add_square(square: Tensor, x: Tensor) -> None:
    """Add ``x'x`` to the lower half of ``square``, ``(groups, columns, columns)``, and to some blocks above it."""
    for start, end in _edges(x.shape[2]):
        square[:, start:, start:end].baddbmm_(x[:, :, start:].transpose(1, 2), x[:, :, start:end])


def _mirror(square: Tensor) -> None:
    """Fill what ``_add_square`` has left out."""
    for start, end in _edges(square.shape[2]):
        square[:, start:end, end:] = square[:, end:, start:end].transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Solution:
    """How to change the weights.

    Attributes:
        change: ``(groups, columns, outputs of a group)``, float64.
        pull: strength of the pull that was chosen.
        before: squared error on the held-out images without the change.
        after: the same with it, as solved from the other images.
    """

    change: Tensor
    pull: float
    before: float
    after: float


@dataclass
class Fit:
    """The rows of one problem, and its solution.

    Attributes:
        known: sums over the rows that solutions are made from, until the pull is chosen.
        held: sums over the rows that are held out.
        inputs: the rows themselves, for problems that are too wide for their normal equations.
        missing: the same of what is missing.
        apart: which of these rows are held out.
        most: unknowns of an output up to which there are normal equations.
    """

    known: Moments | None = None
    held: Moments | None = None
    inputs: list[Tensor] = field(default_factory=list[Tensor])
    missing: list[Tensor] = field(default_factory=list[Tensor])
    apart: list[Tensor] = field(default_factory=list[Tensor])
    most: int = MOST
    _images: int = 0

    def add(self, inputs: Tensor, missing: Tensor, image: Tensor) -> None:
        """Add the rows of a batch.

        Args:
            inputs: (groups, rows, columns).
            missing: (groups, rows, outputs of a group).
            image: (rows,), which image of the batch each row is from; all rows of an image are held out, or none.
        """
        apart = ((image + self._images) % HELD_OUT == 0).to(inputs.device)
        self._images += int(image.max()) + 1
        if inputs.shape[2] > self.most:
            self.inputs.append(inputs.float().cpu())
            self.missing.append(missing.float().cpu())
            self.apart.append(apart.cpu())
            return
        known, held = (Moments.of(inputs, missing, rows.nonzero().flatten()) for rows in (~apart, apart))
        if self.known is None or self.held is None:
            self.known, self.held = known, held
        else:
            self.known.add(known)
            self.held.add(held)

    def solve(self, free: Tensor | None = None) -> Solution | None:
        """Return the best change of the weights; None if no change is better, or the rows are of no use.

        Args:
            free: ``(groups, columns, outputs of a group)`` bool, the weights that may change; None: all.
        """
        if self.inputs:
            found = torch.cat(self.inputs, 1), torch.cat(self.missing, 1), torch.cat(self.apart)
            return None if free is not None else _in_row_space(*found, min(MOST_DUAL, self.most))
        if self.known is None or self.held is None or not self.known.rows or not self.held.rows:
            return None
        if not all(bool(it.isfinite().all()) for it in (self.known.square, self.known.product, self.held.missing)):
            return None
        before = float(self.held.missing.sum())
        pull, best = self.chosen(free)
        if best >= before:
            return None
        self.known.add(self.held)
        change = solved(self.known, pull, free)
        return None if change is None else Solution(change, pull, before, best)

    def chosen(self, free: Tensor | None) -> tuple[float, float]:
        """Return the pull under which the held-out rows miss least, and what they miss.

        All are tried. Where each try is slow, the search starts at a common one and goes on while things improve: the
        error has one valley but for noise.
        """
        known, held = self.known, self.held
        assert known is not None
        assert held is not None
        errors = dict[int, float]()

        def error(number: int) -> float:
            if number not in errors:
                change = solved(known, PULLS[number], free)
                errors[number] = float("inf") if change is None else held.error(change)
            return errors[number]

        if known.square.shape[1] <= _SLOW:
            best = min(range(len(PULLS)), key=error)
            return PULLS[best], error(best)
        best = PULLS.index(1e-3)
        for step in (1, -1):
            while 0 <= best + step < len(PULLS) and error(best + step) < error(best):
                best += step
        return PULLS[best], error(best)


def solved(moments: Moments, strength: float, free: Tensor | None = None) -> Tensor | None:
    """Return the change of the weights under a pull, ``(groups, columns, outputs)``; None if there is none."""
    pulled = ridged(moments.square, strength, least=RARE)
    if free is not None:
        return _masked(pulled, moments.product, free)
    torch.linalg.cholesky_ex(pulled, out=(pulled, info := torch.empty(0, dtype=torch.int32)))
    if bool((info > 0).any()):
        return None
    change = torch.cholesky_solve(moments.product, pulled)
    return change if bool(change.isfinite().all()) else None


def ridged(square: Tensor, strength: float, *, least: float = DEAD) -> Tensor:
    """Return ``X'X`` with the pull on its diagonal, ``(groups, columns, columns)``.

    Each input is pulled in its own units, so that a unit of large values does not decide about all others.
    """
    own = square.diagonal(dim1=1, dim2=2)
    floor = least * own.mean(1, keepdim=True)
    pulled = square.clone()  # one copy and no other matrix: of wide layers they are large
    pulled.diagonal(dim1=1, dim2=2).add_(torch.where(floor > 0, torch.maximum(own, floor), 1.0), alpha=strength)
    return pulled


def inverted(square: Tensor) -> Tensor:
    """Return the inverse of symmetric positive matrices, ``(groups, columns, columns)``.

    Those that rounding has left without an inverse get the least raise of their diagonal that gives them one.
    """
    by = torch.zeros_like(square.diagonal(dim1=1, dim2=2))
    for power in range(-12, 1):
        raised = square.clone()
        raised.diagonal(dim1=1, dim2=2).add_(by)
        factor, failed = torch.linalg.cholesky_ex(raised, out=(raised, torch.empty(0, dtype=torch.int32)))
        if not bool((failed > 0).any()):
            break
        own = square.diagonal(dim1=1, dim2=2).abs()
        by = 10.0**power * torch.where(own > 0, own, torch.ones_like(own))
    else:
        factor = torch.diag_embed(by.sqrt())  # nothing but the diagonal is left
    return torch.cholesky_inverse(factor)


def _masked(square: Tensor, product: Tensor, free: Tensor) -> Tensor | None:
    """Solve ``square D = product`` within the free entries of ``D``, each output by conjugate gradients of its own."""
    by = 1 / square.diagonal(dim1=1, dim2=2)[:, :, None]
    change = torch.zeros_like(product)
    left = torch.where(free, product, 0.0)
    toward = left * by
    fall = (left * toward).sum(1, keepdim=True)
    enough = 1e-12 * fall
    for _ in range(STEPS):
        if bool((fall <= enough).all()):
            break
        moved = torch.where(free, square @ toward, 0.0)
        curved = (toward * moved).sum(1, keepdim=True)
        step = torch.where(curved > 0, fall / curved.clamp(min=1e-300), 0.0)
        change = change + step * toward
        left = left - step * moved
        scaled = left * by
        now = (left * scaled).sum(1, keepdim=True)
        toward = scaled + torch.where(fall > 0, now / fall.clamp(min=1e-300), 0.0) * toward
        fall = now
    return change if bool(change.isfinite().all()) else None


def _in_row_space(inputs: Tensor, missing: Tensor, apart: Tensor, most: int) -> Solution | None:
    """Solve with ``D = X' (X X' + s I)^-1 E``, which is the same solution, for more columns than rows."""
    if inputs.shape[1] > most:
        chosen = torch.linspace(0, inputs.shape[1] - 1, most).long()
        inputs, missing, apart = inputs[:, chosen], missing[:, chosen], apart[chosen]
    own = inputs.square().sum(1, keepdim=True)
    own = torch.maximum(own, RARE * own.mean(2, keepdim=True)).clamp(min=1e-30)
    scaled = inputs / own.sqrt()  # where the pull is the same for all columns
    kernel = (scaled @ scaled.transpose(1, 2)).double()
    missing = missing.double()
    if not bool(kernel.isfinite().all() & missing.isfinite().all()) or not bool(apart.any() & (~apart).any()):
        return None
    inside, across = kernel[:, ~apart][:, :, ~apart], kernel[:, apart][:, :, ~apart]
    before = float(missing[:, apart].square().sum())
    best, pull = before, None
    for strength in PULLS:
        dual = torch.linalg.solve(_raised(inside, strength * inside.shape[1] / len(apart)), missing[:, ~apart])
        error = float((missing[:, apart] - across @ dual).square().sum())
        if error < best:
            best, pull = error, strength
    if pull is None:
        return None
    dual = torch.linalg.solve(_raised(kernel, pull), missing)
    change = (scaled.transpose(1, 2) / own.sqrt().transpose(1, 2)).double() @ dual
    return Solution(change, pull, before, best)


def _raised(square: Tensor, by: float) -> Tensor:
    return square + by * torch.eye(square.shape[1], dtype=square.dtype)
