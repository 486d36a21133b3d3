"""Whether a repair from a few images helps others: it is tried on some of them and judged by the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, left
from secateur.core.surgery.private_copies import apart
from secateur.measure.forward import joinable, joined, length, part
from secateur.repair.error import squared_errors
from secateur.repair.repairs import taken

ALONE = 8
"""Images below which each of them is held out in turn; of more, one of ``SHARE`` is held out, once."""

SHARE = 4


@apart("dense", "thin")
def helps(
    steps: Sequence[str],
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    seed: int,
) -> bool:
    """Tell whether repairs bring images that they have not seen closer to the outputs of the dense network.

    Args:
        steps: of ``STEPS``.
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned, left as it is.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes, few of them.
        seed: of what is drawn.
    """
    before = after = 0.0
    for known, held in _folds(images):
        tried = copy.deepcopy(thin)
        for _ in taken(steps, dense, tried, graph, plan, known, seed):
            pass
        bare, mended = squared_errors(dense, (thin, tried), held, partial(left, graph, plan))
        before, after = before + bare, after + mended
    return after < before


def _folds(images: Sequence[Inputs]) -> Iterator[tuple[Sequence[Inputs], Sequence[Inputs]]]:
    """Yield batches to repair by, and those that judge; of images of several sizes each batch judges in turn."""
    if not joinable(images):
        for number, held in enumerate(images):
            yield [*images[:number], *images[number + 1 :]], [held]
        return
    whole = joined(images)
    count = length(whole)
    place = torch.arange(count)
    turns = [place == one for one in range(count)] if count < ALONE else [place % SHARE == SHARE - 1]
    for held in turns:
        if 0 < int(held.sum()) < count:
            yield [part(whole, ~held)], [part(whole, held)]
