"""Bayesian optimisation: find the lowest value of an expensive function in few evaluations.

A Gaussian process with one length scale for each number (Matern 5/2) is fitted to what is known, and the point with
the largest expected improvement is tried next; where a constraint is measured too, that is weighed with the chance
that it holds. Both are Optuna's. A proposal follows from the trials before it, the seed and its number alone, which is
why a search that goes on after a kill, or has other helpers, finds the same.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from secateur.errors import ModelError, SettingError
from secateur.search.trial_journal import Journal

Point = tuple[float, ...]
Box = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation has found.

    Attributes:
        value: to be made small; NaN where the function has none.
        excess: by how much a constraint is violated; 0 or less where it holds; None without a constraint.
        error: share of wrong images behind the value.
        size: share of the network that is left.
    """

    value: float
    excess: float | None = None
    error: float = 0.0
    size: float = 1.0


@dataclass(frozen=True)
class Tried:
    """A point and what was found there."""

    point: Point
    outcome: Outcome

    @property
    def feasible(self) -> bool:
        """Whether it has a value and respects the constraint."""
        return math.isfinite(self.outcome.value) and (self.outcome.excess or 0.0) <= 0


Evaluate = Callable[[Sequence[Point]], Iterable[Outcome]]
Propose = Callable[[Sequence[Tried], Box, Sequence[int], int], list[Point]]


def minimise(
    evaluate: Evaluate,
    box: Box,
    *,
    trials: int,
    starts: int = 20,
    batch: int = 1,
    first: Sequence[Point] = (),
    seed: int = 0,
    propose: Propose | None = None,
    journal: Journal | None = None,
    heard: Callable[[int, Tried], None] = lambda number, tried: None,
) -> list[Tried]:
    """Try so many points, and return them in the order of their numbers.

    Args:
        evaluate: gives the outcomes of points, in their order, one after the other.
        box: lowest and highest value of each number of a point.
        trials: how many points in all.
        starts: how many of them are drawn at random, those to begin with included.
        batch: how many points are proposed at a time, and so can be tried side by side.
        first: points to begin with.
        seed: of all randomness, at least 0.
        propose: from known trials, the box, seeds and a number, so many new points; the Gaussian process if None.
        journal: of an earlier, unfinished search of the same kind.
        heard: is told each trial with its number.

    Raises:
        ModelError: if the function has a value nowhere.
    """
    notes, ask = journal or Journal(None, read), propose or gaussian_process
    done: list[Tried] = []
    given = list(first)[:trials]
    starts = max(min(starts, trials), len(given), 1)
    while len(done) < trials:
        number = len(done)
        if number < starts:
            points = [given[i] if i < len(given) else uniform(box, (seed, i)) for i in range(number, starts)]
        else:
            points = ask(done, box, (seed, number), min(batch, trials - number))
        for tried in _carried_out(points, number, evaluate, notes):
            heard(len(done), tried)
            done.append(tried)
        if not any(math.isfinite(tried.outcome.value) for tried in done):
            raise ModelError(
                f"none of {len(done)} candidates gave a finite objective; look for NaN in the network's weights, "
                "its outputs and the images"
            )
    return done


def _carried_out(points: Sequence[Point], number: int, evaluate: Evaluate, notes: Journal) -> Iterable[Tried]:
    """Evaluate the points that the journal does not know."""
    known: dict[int, Outcome] = {}
    for i, point in enumerate(points, number):
        noted = read(notes.entries[i]) if i in notes.entries else None
        if noted is not None and noted.point == tuple(point):
            known[i] = noted.outcome
    new = iter(evaluate([point for i, point in enumerate(points, number) if i not in known]))
    for i, point in enumerate(points, number):
        outcome = known.get(i)
        if outcome is None:
            outcome = next(new)
            notes.note(i, {"point": list(point), "outcome": {**asdict(outcome), "value": repr(outcome.value)}})
        yield Tried(point, outcome)


def read(entry: Mapping[str, Any]) -> Tried:
    """Return the trial of a journal's entry; fails where it is none."""
    found = entry["outcome"]
    excess = None if found["excess"] is None else float(found["excess"])
    outcome = Outcome(float(found["value"]), excess, float(found["error"]), float(found["size"]))
    return Tried(tuple(map(float, entry["point"])), outcome)


def best(tried: Sequence[Tried]) -> Tried | None:
    """Return the lowest value among those that respect the constraint, of equal ones the first; None without any."""
    return min((t for t in tried if t.feasible), key=lambda t: t.outcome.value, default=None)


def uniform(box: Box, seeds: Sequence[int]) -> Point:
    """Draw a point."""
    rng = np.random.default_rng(list(seeds))
    return tuple(float(rng.uniform(low, high)) for low, high in box)


def random_points(tried: Sequence[Tried], box: Box, seeds: Sequence[int], count: int) -> list[Point]:
    """Propose without looking at what is known."""
    return [uniform(box, (seeds[0], seeds[1] + i)) for i in range(count)]


def gaussian_process(tried: Sequence[Tried], box: Box, seeds: Sequence[int], count: int) -> list[Point]:
    """Propose the points with the largest expected improvement.

    Raises:
        SettingError: if Optuna is missing.
    """
    optuna = need_optuna()
    names = [f"x{i:03}" for i in range(len(box))]
    space = {
        name: optuna.distributions.FloatDistribution(low, high) for name, (low, high) in zip(names, box, strict=True)
    }
    values = [t.outcome.value for t in tried if math.isfinite(t.outcome.value)]
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.enable_grad():  # a training may ask in between its steps
            warnings.simplefilter("ignore")
            seed = int(np.random.default_rng(list(seeds)).integers(2**31))
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
            study = optuna.create_study(sampler=sampler)
            for t in tried:
                point = [min(max(x, low), high) for x, (low, high) in zip(t.point, box, strict=True)]
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(zip(names, point, strict=True)),
                        distributions=space,
                        value=t.outcome.value if math.isfinite(t.outcome.value) else max(values),
                        constraints=None if t.outcome.excess is None else {"excess": t.outcome.excess},
                    )
                )
            asked = [study.ask(space) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(level)
    return [tuple(float(trial.params[name]) for name in names) for trial in asked]


def need_optuna() -> Any:
    """Return the module of Optuna.

    Raises:
        SettingError: if it is missing or too old.
    """
    try:
        optuna: Any = importlib.import_module("optuna")
    except ImportError:
        raise SettingError('Bayesian optimisation needs Optuna; run: pip install "secateur[bayes]"') from None
    if int(optuna.__version__.partition(".")[0]) < 5:
        raise SettingError(
            f"Bayesian optimisation needs Optuna 5 or newer, not {optuna.__version__}; run: "
            'pip install -U "secateur[bayes]"'
        )
    return optuna
