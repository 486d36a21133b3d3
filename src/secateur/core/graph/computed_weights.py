"""How a layer computes its weight anew in each run, where it does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """Weight norm: a weight that is a direction over its length, times a gain (Salimans and Kingma, 2016).

    Attributes:
        direction: name of the parameter ``v``.
        gain: name of the parameter ``g``.
        dim: dimension along which each position has a length and gain of its own, -1 = there is only one.
    """

    direction: str
    gain: str
    dim: int


@dataclass(frozen=True)
class Transformed:
    """A layer whose weight is computed anew in each run, in a way in which channels cannot go.

    Attributes:
        width: how many channels it puts out, 0 = it is no layer of its own.
        reason: why its channels stay.
        remedy: the call that makes it an ordinary layer.
    """

    width: int
    reason: str
    remedy: str
