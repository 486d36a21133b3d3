"""Sizes that Python code holds: where they stand, and of which channels they speak."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.core.code.source import Spot


@dataclass(frozen=True, eq=False)
class Axis:
    """One factor of a cost: positions that can vanish (``units``, numbered over the whole graph) and fixed ones."""

    fixed: int
    units: Tensor


@dataclass(frozen=True, eq=False)
class WrittenSize:
    """A number in the arguments of a call that must follow the widths: ``sign`` times what is left of ``axis``.

    ``spot`` is where in the source it stands; None where it is at no one place there that can be changed.
    """

    path: tuple[int | str, ...]
    sign: int
    axis: Axis
    spot: Spot | None = None


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A size written into Python code: the ``call``-th reshaping call in the own forward of ``module``.

    With ``training`` it is the ``call``-th in training mode, where alone it is made.
    """

    module: str
    call: int
    function: str
    literals: tuple[WrittenSize, ...]
    training: bool = False


@dataclass(frozen=True, eq=False)
class Assignment:
    """A number in an attribute of ``module``, or in what the attribute holds, that is what is left of ``axis``."""

    module: str
    name: str
    path: tuple[int | str, ...]
    axis: Axis


def count(axis: Axis, keep: Tensor) -> int:
    """Return how many positions of the axis are left under ``keep``."""
    return axis.fixed + int(keep[axis.units].sum())
