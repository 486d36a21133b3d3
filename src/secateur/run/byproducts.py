"""What a stage tells the run beside its own result, kept with that result, so that nothing of it is lost in a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.core.sensitivity import Curve
from secateur.core.trials import Search

if TYPE_CHECKING:
    from secateur.run.job import Job

BESIDE = "beside"
"""Under what name a file holds it."""


class Byproducts:
    """The images that a run has looked at, and the searches, curves and seconds that it has gained since now."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._searches, self._curves, self._seconds = len(job.searches), len(job.curves), job.clock.now()

    def noted(self) -> dict[str, Any]:
        """Return what has come since, in values that JSON has."""
        job = self._job
        passed = {stage: now - self._seconds.get(stage, 0.0) for stage, now in job.clock.now().items()}
        return {
            "calibration": job.calibration(),
            "searches": [search.to_dict() for search in job.searches[self._searches :]],
            "curves": [[curve.to_dict() for curve in each] for each in job.curves[self._curves :]],
            "seconds": {stage: seconds for stage, seconds in passed.items() if seconds},
        }

    def recall(self, values: Any) -> None:
        """Take over what an earlier run noted, wholly or not at all.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if that is not what it is.
        """
        job = self._job
        searches = [Search.from_dict(each) for each in values["searches"]]
        curves = [tuple(Curve.from_dict(curve) for curve in each) for each in values["curves"]]
        seconds = {str(stage): float(passed) for stage, passed in values["seconds"].items()}
        job.looked_at = str(values["calibration"]) or job.looked_at
        job.searches += searches
        job.curves += curves
        for stage, passed in seconds.items():
            job.clock.add(stage, passed)
