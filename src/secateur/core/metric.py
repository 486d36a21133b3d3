"""A number that says how well a network does: its name, unit and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from secateur.errors import SettingError
from secateur.rules import text as words
from secateur.rules import whole
from secateur.spelling import setting
from secateur.typed import check_types

_ANSWERS = "without labels it is the share of the answers that may change, which cannot be more than 1"


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


def refuse_endless(max_drop: float, metric: Metric | None) -> None:
    """Refuse a largest drop that nothing can exceed, which mostly was meant in hundredths.

    Args:
        max_drop: of the metric, in the unit of its values.
        metric: None where there are no labels: then it is a share of the answers.

    Raises:
        SettingError: naming the unit.
    """
    if max_drop < 1 or (metric is not None and metric.unit != "%"):
        return
    what = f"{metric.name} is a share, which cannot lose more than 1" if metric is not None else _ANSWERS
    unit = "%" if metric is None else "point" if max_drop == 1 else "points"
    remedy = f"set {max_drop / 100:g} for {max_drop:g} {unit}"
    raise SettingError(f"{setting('max_drop')} is {max_drop:g}, and {what}; {remedy}")
