"""Where the labels of parameters stand, and which labels may not go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """One dimension of a parameter or buffer, whose positions are atoms ``start .. start + size - 1``."""

    tensor: str
    dim: int
    start: int
    size: int

    def has(self, atoms: Tensor) -> Tensor:
        """Return for each label whether it stands here."""
        return (atoms >= self.start) & (atoms < self.start + self.size)


@dataclass(frozen=True)
class Pinning:
    """Labels that may not go; ``output`` is the path of what the network returns of them, if that is why."""

    atoms: Tensor
    reason: str
    remedy: str
    output: str | None = None
