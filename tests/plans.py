"""Plans, and what makes them, for the tests of several parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.core.graph import Graph, Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem


def blind(*_: Any) -> list[Plan]:
    """In place of the trials of a network: none, as if all of them had fitted by chance."""
    return []


def half(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(g.name, tuple(range(0, g.size, 2))[: g.size // 2]) for g in graph.groups))


def third(graph: Graph) -> Plan:
    """Drop another number of units from each group, so that widths that must be equal are not by chance."""
    return Plan(
        tuple(
            DropUnits(group.name, tuple(range(min(group.size - 1, group.size // 3 + number))))
            for number, group in enumerate(graph.groups)
        )
    )


def sizes(graph: Graph) -> dict[str, int]:
    return {g.name: g.size for g in graph.groups}


@dataclass(frozen=True)
class Numbered(ScoreMethod):
    """Units go in the order of their numbers."""

    paper: ClassVar[Paper] = Paper("t", "a", "v", 2000)

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.arange(group.size).float()
