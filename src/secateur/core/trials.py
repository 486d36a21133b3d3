"""What a search over candidate plans has found, as plain numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """

    key: str
    errors: int
    images: int

    @property
    def error(self) -> float:
        """Share of wrong images; an estimate from the first images if it was given up."""
        return self.errors / self.images if self.images else float("nan")


@dataclass(frozen=True)
class Search:
    """All candidates of one search, in the order in which they were drawn.

    Attributes:
        trials: one per candidate.
        best: number of the winner.
        images: how many images a complete trial sees.
        exact: whether the winner has provably the fewest errors of all candidates.
    """

    trials: tuple[Trial, ...]
    best: int
    images: int
    exact: bool = True

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
            "trials": [{"key": t.key, "errors": t.errors, "images": t.images} for t in self.trials],
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Search:
        """Return the search that ``to_dict`` was called on."""
        trials = tuple(Trial(str(t["key"]), int(t["errors"]), int(t["images"])) for t in values["trials"])
        return Search(trials, int(values["best"]), int(values["images"]), bool(values["exact"]))
