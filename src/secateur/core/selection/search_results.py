"""What a search over candidate plans has found, as plain numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.metric import Metric
from secateur.core.plan import Plan


def key_of(plan: Plan) -> str:
    """Return a name for the content of a plan: equal plans have equal keys, on every machine."""
    return hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trial:
    """What is known about one candidate.

    Attributes:
        key: of its plan, see ``key_of``.
        errors: how many images it got wrong.
        images: out of how many; fewer than all if it was given up because it could not win any more.
        guess: share of wrong images to be expected of it, if it was given up; those that it saw are not typical. Of
            other tasks the error by their metric.
    """

    key: str
    errors: int
    images: int
    guess: float | None = None

    @property
    def error(self) -> float:
        """Share of wrong images; an estimate if it was given up."""
        if self.guess is not None:
            return self.guess
        return self.errors / self.images if self.images else float("nan")


@dataclass(frozen=True)
class Tuning:
    """What a search over pruning parameters adds to its trials.

    Attributes:
        names: of the parameters: the layer, or the first of some layers that share it.
        points: for each trial, its parameters.
        values: for each trial, its objective; None where it had none.
        sizes: for each trial, the share of the network that it leaves.
        of: what that is a share of.
        goal: share that may be left at most; None where size is traded for accuracy.
        course: (optimizer steps taken, share of the network in play, share of wrong images) before this search,
            after it and, if it went on, at the end of the training.
    """

    names: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]
    values: tuple[float | None, ...]
    sizes: tuple[float, ...]
    of: str
    goal: float | None = None
    course: tuple[tuple[int, float, float], ...] = ()

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Tuning:
        """Return the tuning whose fields these are, as JSON has them."""
        return Tuning(
            names=tuple(values["names"]),
            points=tuple(tuple(point) for point in values["points"]),
            values=tuple(values["values"]),
            sizes=tuple(values["sizes"]),
            of=str(values["of"]),
            goal=values["goal"],
            course=tuple((int(step), float(size), float(error)) for step, size, error in values["course"]),
        )


@dataclass(frozen=True)
class Search:
    """All candidates of one search, in the order in which they were drawn.

    Attributes:
        trials: one per candidate.
        best: number of the winner.
        images: how many images a complete trial sees.
        exact: whether the winner has provably the fewest errors of all candidates.
        metric: what the errors are of, see ``Metric.error``; None for the share of wrong images.
        winners: numbers of the best, the best first, where they were asked for: of equally good ones that with the
            smaller loss, then the first.
        tuning: parameters and objectives, where pruning parameters were searched for.
    """

    trials: tuple[Trial, ...]
    best: int
    images: int
    exact: bool = True
    tuning: Tuning | None = None
    metric: Metric | None = None
    winners: tuple[int, ...] = ()

    def curve(self) -> list[float]:
        """Return the smallest error among the first 1, 2, ... candidates (estimates where they were given up)."""
        out: list[float] = []
        for trial in self.trials:
            out.append(min(trial.error, out[-1]) if out else trial.error)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "best": self.best,
            "images": self.images,
            "exact": self.exact,
            "trials": [
                {"key": t.key, "errors": t.errors, "images": t.images} | ({} if t.guess is None else {"guess": t.guess})
                for t in self.trials
            ],
            **({} if self.tuning is None else {"tuning": asdict(self.tuning)}),
            **({} if self.metric is None else {"metric": asdict(self.metric)}),
            **({"winners": list(self.winners)} if self.winners else {}),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Search:
        """Return the search that ``to_dict`` was called on."""
        trials = tuple(
            Trial(str(t["key"]), int(t["errors"]), int(t["images"]), t.get("guess")) for t in values["trials"]
        )
        tuning = Tuning.from_dict(values["tuning"]) if "tuning" in values else None
        metric = Metric(**values["metric"]) if "metric" in values else None
        winners = tuple(int(number) for number in values.get("winners", ()))
        return Search(
            trials, int(values["best"]), int(values["images"]), bool(values["exact"]), tuning, metric, winners
        )
