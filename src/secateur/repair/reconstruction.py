"""Least squares: the weights with which what is left comes closest to what the dense network puts out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from secateur import reconstruction
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.events import Tell, ignore


def reconstruct(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    *,
    seed: int = 0,
    tell: Tell = ignore,
) -> tuple[str, ...]:
    """Fit every layer, first to last, to the outputs of the dense network; see ``secateur.reconstruction.refit``.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes.
        seed: of the places of maps that are drawn.
        tell: hears the progress.

    Returns:
        Names of the layers that were changed.
    """
    return reconstruction.refit(dense, thin, graph, plan, images, seed=seed, tell=tell)
