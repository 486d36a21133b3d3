"""The result of reading a network."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.core.graph.explanation import Explanation, explain
from secateur.core.graph.structure import Structure


@dataclass(frozen=True, eq=False)
class Graph(Structure):
    """A network read into groups of units, with its attributes as ``Structure`` names them."""

    def explain(self) -> Explanation:
        """List every layer as prunable (with whom) or pinned (why, and what could be done)."""
        return explain(self)
