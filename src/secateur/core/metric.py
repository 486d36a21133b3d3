"""A number that says how well a network does: its name, unit and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from secateur.rules import text as words
from secateur.rules import whole
from secateur.typed import check_types


@dataclass(frozen=True)
class Metric:
    """A number that says how well a network does.

    Attributes:
        name: as the field calls it.
        unit: what is written behind it; with ``"%"`` values are fractions in [0, 1] that are shown in hundredths.
        higher_is_better: its direction.
        digits: decimal places that are shown.

    Raises:
        SettingError: if one of them is out of range.
    """

    name: Annotated[str, words("a name", 1)]
    unit: Annotated[str, words("a unit")] = ""
    higher_is_better: bool = True
    digits: Annotated[int, whole(0, "decimal places", most=12)] = 3

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def scale(self) -> float:
        """What values are multiplied with to be shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def title(self) -> str:
        """Its name with the unit, as for an axis."""
        return f"{self.name} in {self.unit}" if self.unit else self.name

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        return f"{self.scale * value:.{self.digits}f}{f' {self.unit}' if self.unit else ''}"

    def change(self, before: float, after: float) -> str:
        """Return the difference of two values, with its sign; that of shares in points."""
        unit = "points" if self.unit == "%" else self.unit
        difference = round(self.scale * (after - before), self.digits) + 0.0  # which makes -0 a 0
        return f"{difference:+.{self.digits}f}{f' {unit}' if unit else ''}"

    def lost(self, before: float, after: float) -> float:
        """Return by how much ``after`` is worse, in the unit of the values; negative if it is better.

        Infinite where only one of them is NaN, which is worse than anything; 0 where both are.
        """
        was, now = self.key(before), self.key(after)
        return 0.0 if was == now else was - now

    def error(self, value: float) -> float:
        """Return a number that is smaller the better a value is: the share that is missing, else the value turned."""
        if math.isnan(value):
            return math.inf
        return 1.0 - value if self.unit == "%" and self.higher_is_better else -self.key(value)

    def value_of(self, error: float) -> float:
        """Return the value that has this error."""
        if self.unit == "%" and self.higher_is_better:
            return 1.0 - error
        return -error if self.higher_is_better else error

    def key(self, value: float | None) -> float:
        """Return what is larger the better a value is; NaN and None are worse than anything."""
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.higher_is_better else -value
