"""Work for one worker, and who carries it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.search.engine import Engine, Step
from secateur.search.held_out import HeldOut


@dataclass(frozen=True)
class Stretch:
    """Take these candidates on to image ``stop``.

    Attributes:
        seen: for each candidate, how many images it has seen and how many of them it got wrong.
        stop: image to stop before.
        limits: errors with which each may still win; None: none is given up.
    """

    seen: Mapping[int, tuple[int, int]]
    stop: int
    limits: Mapping[int, int] | None = None


def split(stretch: Stretch, pieces: int) -> list[Stretch]:
    """Deal the candidates of a stretch out to at most so many smaller ones."""
    numbers = list(stretch.seen)
    return [
        Stretch(
            {i: stretch.seen[i] for i in numbers[start::pieces]},
            stretch.stop,
            None if stretch.limits is None else {i: stretch.limits[i] for i in numbers[start::pieces]},
        )
        for start in range(min(pieces, len(numbers)))
    ]


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

    def __init__(self, model: nn.Module, graph: Graph, plans: Sequence[Plan], held: HeldOut) -> None:
        self._subject = (model, graph, plans, held)
        self._engine: Engine | None = None

    def run(self, stretches: Sequence[Stretch]) -> Iterator[Step]:
        """Carry them out one after the other."""
        for stretch in stretches:
            self._engine = self._engine or Engine(*self._subject)
            yield from self._engine.advance(stretch.seen, stretch.stop, stretch.limits)

    def close(self) -> None:
        """Nothing was started."""
