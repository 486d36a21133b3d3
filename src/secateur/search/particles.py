"""A particle filter over plans: those with few errors are copied and varied, again and again; the best ever wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from secateur.core.plan import Plan
from secateur.core.selection.search_results import Search, Trial

Vary = Callable[[Plan, Plan], Plan]
"""Makes a new plan of a copy and of another plan that was copied."""


def importance(errors: Sequence[float]) -> Tensor:
    """Return the weights of particles, ``exp(-(e - min e) / tau)`` over their sum, tau the deviation of the errors.

    Errors that are not finite weigh nothing; if none is, or all are equal, all weigh the same.
    """
    found = torch.tensor(errors, dtype=torch.float64)
    sound = torch.isfinite(found)
    if not bool(sound.any()):
        return torch.full((len(found),), 1 / len(found), dtype=torch.float64)
    deviation, least = found[sound].std(correction=0), found[sound].min()
    scaled = (found - least) / deviation if deviation > 0 else torch.zeros_like(found)
    weights = torch.where(sound, torch.exp(-scaled), 0.0)
    return weights / weights.sum()


def systematic(weights: Tensor, start: float) -> list[int]:
    """Return which particles are copied, as many as there are: those under equally spaced points.

    Args:
        weights: (particles,), of sum one.
        start: the first point, in [0, 1 / particles).
    """
    ends = weights.double().cumsum(0)
    points = start + torch.arange(len(weights), dtype=torch.float64) / len(weights)
    return torch.searchsorted(ends, points, right=True).clamp_max(len(weights) - 1).tolist()


def filtered(
    plans: Sequence[Plan], judge: Callable[[Sequence[Plan]], Search], vary: Vary, generations: int, rng: torch.Generator
) -> tuple[Plan, Search]:
    """Return the best plan that was ever tried, and what is known of all of them in their order.

    Args:
        plans: the first generation.
        judge: tries the plans of a generation, each to the end.
        vary: changes each copy but one of the best.
        generations: how many, the first included.
        rng: the randomness.
    """
    tried, trials = list[Plan](), list[Trial]()
    now = list(plans)
    while True:
        search = judge(now)
        tried += now
        trials += search.trials
        if len(tried) >= generations * len(plans):
            break
        errors = [trial.error for trial in search.trials]
        copies = systematic(importance(errors), float(torch.rand((), generator=rng, dtype=torch.float64)) / len(now))
        leader = _best(search.trials)
        if leader in copies:
            copies.remove(leader)
        mates = torch.randint(len(now), (len(now),), generator=rng).tolist()
        parents = [leader, *copies]
        varied = [vary(now[copy], now[parents[mate % len(parents)]]) for copy, mate in zip(copies, mates, strict=False)]
        now = [now[leader], *varied[: len(now) - 1]]
    best = _best(trials)
    return tried[best], replace(search, trials=tuple(trials), best=best)


def _best(trials: Sequence[Trial]) -> int:
    """Return the first one with the fewest errors; those without a number come last."""
    return min(range(len(trials)), key=lambda i: (not math.isfinite(trials[i].error), trials[i].error, i))
