"""Does a criterion rank units as their loss would? Rank correlations with what each unit really costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.errors import SettingError


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation between scores and what units cost; NaN where one of them is constant.

    Attributes:
        groups: within each group of which at least two units were tried.
        overall: over all of these units, as if their scores could be compared between groups.
    """

    groups: Mapping[str, float]
    overall: float


@checked
def loss_changes(problem: Problem, most: int | None = None) -> dict[str, Tensor]:
    """Return by how much the loss on held-out examples rises as each unit alone goes (the oracle).

    Each unit takes a pass over the held-out examples, so that this is for studies, and for small networks.

    Args:
        problem: with data.
        most: units tried in each group, drawn from ``problem.rng``; None for all.

    Returns:
        For each group that may be pruned ``(size,)`` float64, NaN for units that were not tried.

    Raises:
        DataError: if there is no data.
        SettingError: if fewer than two units of a group are to be tried.
    """
    if most is not None and most < 2:
        raise SettingError(f"ranks need two units of each group at least, not {most}")
    dense, found = problem.loss_after(Plan()), dict[str, Tensor]()
    for group in problem.graph.free:
        changes = torch.full((group.size,), torch.nan, dtype=torch.float64)
        order = torch.randperm(group.size, generator=problem.rng)[:most] if most else torch.arange(group.size)
        for unit in order.tolist():
            changes[unit] = problem.loss_after(Plan((DropUnits(group.name, (unit,)),))) - dense
        found[group.name] = changes
    return found


@checked
def rank_correlation(
    scores: Mapping[str, Tensor], changes: Mapping[str, Tensor], *, absolute: bool = True
) -> RankCorrelation:
    """Compare scores with what the loss says, both low where a unit goes first.

    Args:
        scores: ``(size,)`` for each group, as ``ScoreMethod.scores`` returns them.
        changes: from ``loss_changes``; units with NaN are left out.
        absolute: whether a unit counts by the size of the change, or by the change, so that one whose loss falls
            without it goes before one that does nothing. Molchanov et al. (2017) found the size to prune better.
    """
    pairs = dict[str, tuple[Tensor, Tensor]]()
    for name in scores.keys() & changes.keys():
        tried = ~changes[name].isnan()
        if int(tried.sum()) > 1:
            change = changes[name][tried]
            pairs[name] = scores[name].double()[tried], change.abs() if absolute else change
    groups = {name: spearman(*pairs[name]) for name in changes if name in pairs}
    columns = [torch.cat(column) for column in zip(*pairs.values(), strict=True)]
    return RankCorrelation(groups, spearman(*columns) if columns else float("nan"))


@checked
def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two vectors of equal length, ties by their mean rank; NaN if one is constant."""
    from scipy.stats import rankdata  # whose import takes long

    ranks = [np.asarray(rankdata(values.numpy()), dtype=np.float64) for values in (first, second)]
    one, other = (values - values.mean() for values in ranks)
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 0 else float("nan")
