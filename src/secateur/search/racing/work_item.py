"""Work for one worker: which candidates to take how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
