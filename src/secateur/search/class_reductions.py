"""What single units mean to single classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of


def reductions_by_class(model: nn.Module, graph: Graph, group: str, held: HeldOut) -> Tensor:
    """Return by how much the accuracy on each class falls without each unit alone, ``(units, classes)`` float64.

    NaN for classes without images; negative where the network does better without the unit.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        group: name of the group whose units are tried.
        held: labelled images.
    """
    plans = [Plan((DropUnits(group, (unit,)),)) for unit in range(graph.group(group).size)]
    found = torch.full((len(plans), int(held.labels.max()) + 1), torch.nan, dtype=torch.float64)
    for label in held.labels.unique().tolist():
        own = held.labels == label
        search = best_of(model, graph, [*plans, EMPTY], HeldOut(held.images[own], held.labels[own]), complete=True)
        errors = torch.tensor([trial.error for trial in search.trials], dtype=torch.float64)
        found[:, label] = errors[:-1] - errors[-1]
    return found
