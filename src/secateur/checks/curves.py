"""Error curves for tiny networks whose layers nobody fits: made up, as the images are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.selection.error_curves import ErrorCurve


def error_curves(graph: Graph, scores: Mapping[str, Tensor] | None) -> list[ErrorCurve]:
    """Return a curve for each group, the same each time: every unit counts more than the one before, all of them 1.

    Args:
        graph: the network.
        scores: the lowest go first, ``inf`` never goes; None: in the order of the units' numbers.
    """
    found: list[ErrorCurve] = []
    for group in graph.free:
        if scores is None or group.name in scores:
            values = torch.zeros(group.size) if scores is None else scores[group.name]
            order = torch.argsort(values, stable=True)[: int(torch.isfinite(values).sum())].tolist()
            errors = [(gone / group.size) ** 2 for gone in range(len(order) + 1)]
            found.append(ErrorCurve(group.name, tuple(order), tuple(errors)))
    return found
