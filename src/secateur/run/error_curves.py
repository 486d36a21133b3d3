"""What units are worth once their readers are fitted anew: measured once for each network and order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.selection.error_curves import ErrorCurve
from secateur.measure.forward import device_of, moved
from secateur.reconstruction import blind_curves, error_curves
from secateur.run.job import Job

Key = tuple[object, ...]


def measuring(
    job: Job, model: nn.Module, graph: Graph, owner: nn.Module
) -> Callable[[Mapping[str, Tensor] | None], Sequence[ErrorCurve]]:
    """Return what measures the error curves of a network of this run, or estimates them where there are no images.

    A budget decides many times on one network: the curves of an order are measured once.

    Args:
        job: the run.
        model: the network, or a copy of it on another device.
        graph: of the network.
        owner: the network itself, whose curves they are.
    """
    batches = job.image_batches()

    def measured(scores: Mapping[str, Tensor] | None) -> Sequence[ErrorCurve]:
        key = (owner, graph, None if scores is None else _digest(scores))  # which keeps both: an id may be had again
        if key not in job.error_curves:
            with job.clock("reconstruct"):
                job.error_curves[key] = found(scores)
        return job.error_curves[key]

    def found(scores: Mapping[str, Tensor] | None) -> Sequence[ErrorCurve]:
        if batches is None:
            return blind_curves(model, graph, moved(job.inputs, device_of(model)), scores=scores)
        return error_curves(model, graph, batches, scores=scores, seed=job.seed, tell=job.tell)

    return measured


def _digest(scores: Mapping[str, Tensor]) -> Key:
    return tuple((name, values.double().cpu().numpy().tobytes()) for name, values in scores.items())
