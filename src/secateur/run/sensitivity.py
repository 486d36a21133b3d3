"""Sensitivity as a run measures it: on its validation images, noted in its work folder, kept for its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.selection.sensitivity_curves import Curve
from secateur.core.sizes.limits import Limits
from secateur.data import Data
from secateur.events import Tell
from secateur.search.racing.evaluation import held_for
from secateur.search.sensitivity import IMAGES, curves


def measuring(
    model: nn.Module,
    graph: Graph,
    data: Data | None,
    limits: Limits,
    work: Path | None,
    tell: Tell,
    keep: list[tuple[Curve, ...]],
) -> Callable[[Mapping[str, Tensor]], Sequence[Curve]] | None:
    """Return what measures a curve for each group with scores; None without data.

    Args:
        model: the network of this round.
        graph: its graph.
        data: whose validation images are looked at, the first ``IMAGES`` of them.
        limits: floors and multiples.
        work: folder in which groups are noted as they are done; None for none.
        tell: hears the progress.
        keep: gets the curves.
    """
    if data is None:
        return None

    def measure(scores: Mapping[str, Tensor]) -> Sequence[Curve]:
        held = held_for(data.task, data.batches("val"), model, IMAGES)
        found = curves(model, graph, scores, held, limits=limits, work=work, tell=tell)
        keep.append(found)
        return found

    return measure
