"""How much is left after each cut on the way to a goal."""

from __future__ import annotations

from typing import Literal

Schedule = Literal["geometric", "linear"]


def keeps(keep: float, steps: int, schedule: Schedule) -> tuple[float, ...]:
    """Return the fraction of the original network that each cut leaves; the last is the goal.

    Args:
        keep: the goal, in (0, 1].
        steps: how many cuts.
        schedule: geometric cuts take the same share of what is there, linear ones the same share of the original.
    """
    parts = [number / steps for number in range(1, steps)]
    if schedule == "linear":
        return (*(1 - (1 - keep) * part for part in parts), keep)
    return (*(keep**part for part in parts), keep)
