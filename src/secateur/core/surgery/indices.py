"""Buffers that pick channels by their numbers: what is left of the channels is numbered anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.core.graph import Graph, staying
from secateur.errors import PlanError


def follow_indices(graph: Graph, keep: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Renumber what is left of buffers of numbers.

    Args:
        graph: of the network before the cut.
        keep: the units that stay.
        tensors: what is left of each parameter and buffer, changed in place.

    Raises:
        PlanError: if a buffer picks a channel that is gone, as it does if it holds other numbers than when it was read.
    """
    for name, units in graph.indices.items():
        stays, numbers = staying(units, keep), tensors[name]
        if bool(stays.all()):
            continue
        old = numbers.long().cpu() % len(stays)  # they may count from the end
        if not bool(stays[old].all()):
            raise PlanError(f"'{name}' picks other channels than in the traced network; trace this model first")
        numbers.copy_((torch.cumsum(stays, 0) - 1)[old])
