"""What each group loses with its units where there are no images: estimated from weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from secateur.core.batchnorm_folding import fusible
from secateur.core.graph import Graph, Group, layer_of, tensor_of, unit_rows
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.surgery import Inputs
from secateur.core.surgery.private_copies import apart
from secateur.reconstruction.curves import STREAM
from secateur.reconstruction.elimination import Reader, eliminate, order_of
from secateur.reconstruction.sites import norm_scale
from secateur.reconstruction.unit_behaviour import Trial, Trials
from secateur.reconstruction.unit_similarity import Behaviour, course, given, moments

PULL = 0.2
"""Ridge, as a share of the mean square of what a unit sends: strong, for the moments are only estimated."""


def shares(
    model: nn.Module, graph: Graph, inputs: Inputs, gone: Mapping[str, Sequence[int]]
) -> dict[str, tuple[Behaviour, Tensor]]:
    """Return for each group that loses units how much of each is given to each kept one.

    Args:
        model: the dense network, left as it is.
        graph: its graph.
        inputs: what its forward takes; their values do not matter.
        gone: the units that go, by group.

    Returns:
        How the units behave, and ``(size, size)`` as ``unit_similarity.given`` returns it; without the groups in which
        not even copies of a unit can stand in for it.
    """
    trials = Trials(model, graph, inputs)
    norms, asked, found = _norms(trials), list[Trial](), dict[str, tuple[Behaviour, Tensor]]()
    for name, units in gone.items():
        group, left = graph.group(name), sorted(set(range(graph.group(name).size)) - set(units))
        pairs = ((unit, left[n % len(left)]) for n, unit in enumerate(units) if left)
        asked.append(Trial.of(group, course(model, graph, group, norms), pairs))
    behaviours = trials.behaviours(asked)
    for trial in asked:
        behaviour = behaviours[trial.group.name]
        if behaviour is not None:
            of = moments(model, trial.group, trial.found, behaviour)
            found[trial.group.name] = behaviour, given(*of, list(gone[trial.group.name]), PULL)
    return found


@apart("model")
def blind_curves(
    model: nn.Module, graph: Graph, inputs: Inputs, *, scores: Mapping[str, Tensor] | None = None
) -> list[ErrorCurve]:
    """Return for each group the order in which its units go and the error that is left, estimated from weights alone.

    As ``error_curves``, but the second moments of what units send are those of ``unit_similarity.moments``, one number
    for each pair of units, and what a reader loses is divided by what it puts out under the same. That is enough to
    share out the cut, and not to choose units by: they go in the order of the sums of the magnitudes of their filters.

    Args:
        model: the dense network, left as it is.
        graph: its graph.
        inputs: what its forward takes; their values do not matter.
        scores: ``(size,)`` for each group: the lowest go first, ``inf`` never; None: the smallest filters first.

    Raises:
        ModelError: if the network does not run on the inputs.
    """
    trials = Trials(model, graph, inputs)
    norms, curves = _norms(trials), list[ErrorCurve]()
    asked = [
        Trial.of(it, course(model, graph, it, norms), ((unit, unit - 1) for unit in range(1, it.size, 2)))
        for it in graph.free
    ]
    behaviours = trials.behaviours(asked)
    for group, way in ((trial.group, trial.found) for trial in asked):
        behaviour = behaviours[group.name]
        alike, norm = moments(model, group, way, behaviour or "other")
        if behaviour is None:
            alike = torch.eye(group.size, dtype=torch.float64)
        values = _norms_of_filters(model, group) if scores is None or group.name not in scores else scores[group.name]
        gone, errors = eliminate(_readers(model, group, norms, alike, norm), group.size, order=order_of(values))
        weight = STREAM if group.name in graph.streams else 1.0
        curves.append(ErrorCurve(group.name, tuple(gone), tuple(accumulate(errors, max)), (), weight))
    return curves


def _norms_of_filters(model: nn.Module, group: Group) -> Tensor:
    total = torch.zeros(group.size, dtype=torch.float64)
    for rows in group.rows(model, "makes"):
        total += rows.abs().sum(1).double().cpu()
    return total


def _norms(trials: Trials) -> dict[str, str]:
    """Return the batch norm that alone reads a layer, for each that has one, found on the copy that trials are on."""
    return dict(fusible(trials.model, trials.inputs))


def _readers(model: nn.Module, group: Group, norms: Mapping[str, str], alike: Tensor, norm: Tensor) -> list[Reader]:
    """Return what each layer that reads a group says of it; if there is none, units count by their own norms."""
    square = alike + PULL * torch.eye(group.size, dtype=torch.float64)
    inverse = torch.linalg.inv(square)
    found: list[Reader] = []
    for member in group.members:
        if member.role != "reads":
            continue
        weight = tensor_of(model, member.tensor).detach().double().cpu()
        layer = layer_of(member.tensor)
        if layer in norms and member.dim == 1:
            scale = norm_scale(model, norms[layer], len(weight))
            weight = weight * scale.reshape([-1] + [1] * (weight.dim() - 1))
        rows = unit_rows(weight, member, group.size) * norm[:, None]
        if bool(rows.isfinite().all()):
            found.append(Reader(inverse.clone(), rows, max(float((rows * (alike @ rows)).sum()), 1e-30)))
    if not found:
        whole = max(float(norm.square().sum()), 1e-30)
        found = [Reader(torch.eye(group.size, dtype=torch.float64), norm[:, None], whole)]
    return found
