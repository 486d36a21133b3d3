"""What a stage tells the run beside its own result, kept with that result, so that nothing of it is lost in a kill."""

from __future__ import annotations

from typing import Any

from secateur.core.selection.search_results import Search
from secateur.core.selection.sensitivity_curves import Curve
from secateur.run.stopwatch import Clock

BESIDE = "beside"
"""Under what name a file holds it."""


class Byproducts:
    """The images that a run has looked at, and the searches, curves and seconds that it has gained since now.

    Args:
        looked_at: which unlabelled images were looked at, in words; the last says it.
        searches: of the run, to which others are added.
        curves: the same.
        clock: the same.
    """

    def __init__(
        self, looked_at: list[str], searches: list[Search], curves: list[tuple[Curve, ...]], clock: Clock
    ) -> None:
        self._looked_at, self._searches, self._curves, self._clock = looked_at, searches, curves, clock
        self._begun = len(searches), len(curves), clock.now()

    def noted(self) -> dict[str, Any]:
        """Return what has come since, in values that JSON has."""
        searches, curves, seconds = self._begun
        passed = {stage: now - seconds.get(stage, 0.0) for stage, now in self._clock.now().items()}
        return {
            "calibration": self._looked_at[-1] if self._looked_at else "",
            "searches": [search.to_dict() for search in self._searches[searches:]],
            "curves": [[curve.to_dict() for curve in each] for each in self._curves[curves:]],
            "seconds": {stage: seconds for stage, seconds in passed.items() if seconds},
        }

    def recall(self, values: Any) -> None:
        """Take over what an earlier run noted, wholly or not at all.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if that is not what it is.
        """
        searches = [Search.from_dict(each) for each in values["searches"]]
        curves = [tuple(Curve.from_dict(curve) for curve in each) for each in values["curves"]]
        seconds = {str(stage): float(passed) for stage, passed in values["seconds"].items()}
        looked_at = str(values["calibration"])
        self._looked_at += [looked_at] if looked_at else []
        self._searches += searches
        self._curves += curves
        for stage, passed in seconds.items():
            self._clock.add(stage, passed)
