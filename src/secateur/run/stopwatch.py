"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from secateur.training import History

T = TypeVar("T")


@dataclass
class Clock:
    """Adds up the wall-clock time of stages.

    Attributes:
        seconds: of each stage that is over.
    """

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _open: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        outer, self._open[stage] = self._open.get(stage), start
        try:
            yield
        finally:
            del self._open[stage]
            if outer is not None:
                self._open[stage] = outer
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add time that a stage has taken, perhaps in an earlier run."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def now(self) -> dict[str, float]:
        """Return the seconds of each stage up to now, those under way included."""
        begun = time.perf_counter()
        under_way = {stage: self.seconds.get(stage, 0.0) + begun - start for stage, start in self._open.items()}
        return {**self.seconds, **under_way}

    def training(self, stage: str, train: Callable[[], T], seconds: Callable[[T], float]) -> T:
        """Return what comes of a training, and count what an earlier run has done of it as well.

        Args:
            stage: that the training belongs to.
            train: trains, or goes on from a checkpoint.
            seconds: that all of the training has taken, in whichever run.
        """
        start = time.perf_counter()
        with self(stage):
            found = train()
        self.add(stage, max(0.0, seconds(found) - (time.perf_counter() - start)))
        return found


def of_epochs(history: History) -> float:
    """Return the seconds that all epochs of a training have taken."""
    return sum(row.seconds for row in history.rows)
