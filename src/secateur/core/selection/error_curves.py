"""How much of what the readers of a group put out is lost for good as its units go, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from secateur.errors import SettingError


@dataclass(frozen=True)
class ErrorCurve:
    """What the best refit of a group's readers cannot bring back, for each number of units that are gone.

    Errors are squared and relative: divided by the variance of what a reader puts out, a shortcut that is added to it
    included, so that groups can be compared. Those of several readers are added up; 1 for each reader means that
    nothing it puts out follows its inputs any more.

    Attributes:
        group: its name.
        order: the units that may go, in the order in which they go.
        error: error left when the first 0, 1, 2, ... of them are gone; never falls. Where it is infinite, or ends
            early, nothing is known but that the error is beyond all others.
        choices: for each number of units which ones go at best, ascending, where that was tried; then the errors are
            theirs. Empty: the first of ``order``.
        weight: how much its errors count beside those of other groups where a cut is shared out.

    Raises:
        SettingError: if there are more errors than units can go, none at all, or if they fall.
    """

    group: str
    order: tuple[int, ...]
    error: tuple[float, ...]
    choices: tuple[tuple[int, ...], ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        rises = all(before <= after for before, after in pairwise(self.error))
        if not 1 <= len(self.error) <= len(self.order) + 1 or not math.isfinite(self.error[0]) or not rises:
            raise SettingError(
                f"the error curve of group '{self.group}' must begin with a finite error, never fall, and have at most "
                f"one value more than its {len(self.order)} units; sort what was measured with a running maximum"
            )

    def damage(self, gone: int) -> float:
        """Return by how much the error has risen when so many units are gone; ``inf`` where that is not known."""
        return self.error[gone] - self.error[0] if gone < len(self.error) else math.inf

    def chosen(self, gone: int) -> tuple[int, ...]:
        """Return the units that go where so many do, ascending."""
        return self.choices[gone] if gone < len(self.choices) else tuple(sorted(self.order[:gone]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; None for an error that is not finite."""
        errors = [error if math.isfinite(error) else None for error in self.error]
        choices = {"choices": [list(choice) for choice in self.choices]} if self.choices else {}
        return {"group": self.group, "order": list(self.order), "error": errors, "weight": self.weight, **choices}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ErrorCurve:
        """Return the curve that ``to_dict`` was called on."""
        return ErrorCurve(
            group=str(values["group"]),
            order=tuple(int(unit) for unit in values["order"]),
            error=tuple(math.inf if error is None else float(error) for error in values["error"]),
            choices=tuple(tuple(int(unit) for unit in choice) for choice in values.get("choices", ())),
            weight=float(values.get("weight", 1.0)),
        )
