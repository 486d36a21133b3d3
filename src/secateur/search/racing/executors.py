"""Who carries stretches out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.search.racing.error_counts import Engine, Step
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.work_item import Stretch


class Workers(Protocol):
    """Whoever carries out stretches."""

    @property
    def width(self) -> int:
        """How many stretches are carried out at a time."""
        ...

    def run(self, stretches: Sequence[Stretch]) -> Iterator[Step]:
        """Carry them out and yield steps as they become known, in any order."""
        ...

    def close(self) -> None:
        """Let go of whatever was started."""
        ...


class Here:
    """Carries out stretches in this process."""

    width = 1

    def __init__(
        self, model: nn.Module, graph: Graph, plans: Sequence[Plan], held: HeldOut, base: Plan = EMPTY
    ) -> None:
        self._subject, self._base = (model, graph, plans, held), base
        self._engine: Engine | None = None

    def run(self, stretches: Sequence[Stretch]) -> Iterator[Step]:
        """Carry them out, several candidates at a time."""
        if stretches:
            self._engine = self._engine or Engine(*self._subject, base=self._base)
            yield from self._engine.advance(stretches)

    def close(self) -> None:
        """Nothing was started."""
