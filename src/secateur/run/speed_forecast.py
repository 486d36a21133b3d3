"""How much faster a network will get, said before the work: a stand-in of the same widths is timed, untrained.

The time of a pass does not depend on the weights but on the widths, which are known before the training. So the
network is cut by the plan, thrown away after it was timed in turns with the dense one, and the work begins. Where the
widths are not known, or the times scatter, nothing is promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.method import ScoreMethod, shapes
from secateur.core.plan import Plan
from secateur.core.selection.target_selection import family, meet
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import cut
from secateur.errors import CutError, SecateurError, TargetError
from secateur.events import Tell, ignore
from secateur.measure import Runtime, SpeedUp, fastest, side_by_side
from secateur.measure.forecast import Forecast, LayerTime
from secateur.measure.forward import device_of
from secateur.measure.layer_table import LayerTable
from secateur.measure.runtimes import known, threads_set
from secateur.measure.speed_up import DENSE, PRUNED
from secateur.methods import name_of
from secateur.methods.reconstruction import Reconstruction
from secateur.run.job import Job
from secateur.run.replanning import carried_out
from secateur.run.round import Round
from secateur.run.speed_promise import FAR, Foretold

UNSURE = 0.3
"""Width of an interval, relative to the speed-up, with which nothing is promised."""

_SECONDS = 0.5
_AUTO = "auto"


def evenly(graph: Graph, target: Target, limits: Limits) -> Plan:
    """Return the plan with which every group loses the same share.

    Raises:
        TargetError: if the target cannot be met.
    """
    scores = {group.name: torch.zeros(group.size) for group in graph.free}
    return meet(graph, partial(family, graph, scores, "uniform"), target, limits)


def foretell(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    inputs: Any,
    runtime: Runtime,
    *,
    threads: int | None = None,
    auto: Plan | None = None,
    tell: Tell = ignore,
) -> Foretold:
    """Time a network of the widths that a plan leaves, in turns with the dense one.

    Args:
        model: the dense network.
        graph: read from it.
        plan: what will be removed, or as much of each group.
        inputs: of the batch size to be fast for.
        runtime: in what; ``compile`` is timed, though it takes its minutes.
        threads: of the CPU.
        auto: the plan that ``multiple="auto"`` leads to, where the user has asked for other widths.
        tell: hears the progress.

    Raises:
        CutError: if a plan cannot be carried out.
    """
    macs = size(graph).macs / max(1, size(graph, plan).macs)
    networks = {DENSE: model, PRUNED: cut(model, graph, plan, inputs)}
    if auto is not None:
        networks[_AUTO] = cut(model, graph, auto, inputs)
    try:
        for network in networks.values():
            if network is not model:
                fastest(network, inputs)  # as the result will be before it is timed
        found = side_by_side(networks, inputs, runtime, threads=threads, seconds=_SECONDS, tell=tell)
    except SecateurError as error:
        return Foretold(macs, None, (str(error),))
    speed = SpeedUp.of(found)
    if speed.high - speed.low > UNSURE * speed.ratio:
        scatter = f"the times scatter too much ({speed.low:.2f} to {speed.high:.2f} times the speed)"
        return Foretold(macs, None, (scatter,))
    price = None if auto is None else found.ratio(PRUNED, _AUTO)
    foretold = Foretold(macs, speed, (), price)
    if not foretold.warns:
        return foretold
    whole = found.latencies[DENSE].milliseconds
    return Foretold(macs, speed, _reasons(model, graph, plan, inputs, speed, whole), price)


def foretold(job: Job, graph: Graph) -> tuple[Graph, Foretold | None]:
    """Foretell a run that takes long, or whose widths somebody has asked for; None for others.

    Returns:
        The network as it was read in the end, if a plan could not be carried out, and what to expect.
    """
    met = job.settled is not None and "latency" in job.settled.found
    long = (
        job.train is not None
        or job.minutes is not None
        or job.shaping is not None
        or not isinstance(job.method, ScoreMethod)
    )
    if not job.latency or met or job.target is None or not (long or not job.limits.auto):
        return graph, None
    searches, target = len(job.searches), job.target

    def work(graph: Graph) -> Foretold | None:
        del job.searches[searches:]
        return _of(job, graph, target)

    with job.clock("foretell"):
        try:
            return carried_out(graph, work, partial(job.read, job.dense))
        except CutError as error:  # of another plan than that of the run, perhaps
            return graph, Foretold(0.0, None, (str(error),))


def _of(job: Job, graph: Graph, target: Target) -> Foretold | None:
    assert job.runtime is not None
    if not isinstance(job.method, ScoreMethod | Reconstruction):
        why = f"{name_of(job.method)} finds out by itself what goes from each layer"
        return Foretold(0.0, None, (why,))
    trained = job.shaping is not None and shapes(job.method)  # before it decides
    # curves take long, and are measured when the round begins
    curves = isinstance(job.method, Reconstruction) or job.method.allocate in ("sensitivity", "reconstruction")
    even = trained or curves
    now = Round(job, 1, job.method, target, job.dense, graph)

    def decided(limits: Limits) -> Plan:
        return evenly(graph, target, limits) if even else now.ask([], limits)

    try:
        plan = decided(job.limits)
        auto = None if job.limits.auto else decided(replace(job.limits, multiple="auto", parts=0))
    except TargetError:  # said when it matters, with what can be reached
        return None
    found = foretell(job.dense, graph, plan, job.inputs, job.runtime, threads=job.threads, auto=auto, tell=job.tell)
    return replace(found, evenly=even)


def _reasons(model: nn.Module, graph: Graph, plan: Plan, inputs: Any, speed: SpeedUp, whole: float) -> tuple[str, ...]:
    """Say what the times of single layers show: work that is not in them, and layers that do not get faster."""
    with threads_set(speed.threads) as threads:
        table = LayerTable.here(known(speed.runtime), threads, device_of(model))
        try:
            forecast = Forecast.of(model, graph, inputs, table, whole)
            rest, layers = forecast.rest, forecast.layers(graph.kept(plan))
        except SecateurError:  # the layers alone cannot be timed
            return ()
    reasons: list[str] = []
    if rest > 0.2:
        reasons.append(f"{rest:.0%} of its time is not in convolutions but in normalisation, activations and the like")
    return (*reasons, *_bound_by_memory(layers))


def _bound_by_memory(layers: Sequence[LayerTime]) -> list[str]:
    """Name the layers whose time falls much less than their MACs and that weigh the most in the end."""
    after = sum(layer.after for layer in layers)
    slow = [
        layer
        for layer in layers
        if layer.thin.macs < layer.dense.macs and layer.before / layer.after < FAR * layer.dense.macs / layer.thin.macs
    ]
    slow.sort(key=lambda layer: -layer.after)
    weight = sum(layer.after for layer in slow) / after if after else 0.0
    if weight < 0.2:
        return []
    names = ", ".join(layer.name for layer in slow[:3]) + (f" and {len(slow) - 3} more" if len(slow) > 3 else "")
    verb = "are" if len(slow) > 1 else "is"
    return [f"{names} {verb} bound by memory or overhead, with {weight:.0%} of what the layers take in the end"]
