"""One cut of a network that trains: decided once, carried out and followed in all processes or in none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply
from secateur.core.surgery.untouched import private
from secateur.errors import ModelError, PlanError, TargetError, TraceError
from secateur.run.job import Job
from secateur.run.pipeline import Pipeline
from secateur.run.preflight import warn_of_random_weights
from secateur.run.round import Round
from secateur.session.agreement import alike, decided
from secateur.session.holders import Holders
from secateur.session.in_training import InTraining
from secateur.session.progress_state import Done, other_network


def cut(pipeline: Pipeline, network: InTraining, done: Done, target: Target | None, held: Holders) -> None:
    """Cut a network in place, and note in what is done what was removed; after an error nothing has changed.

    Args:
        pipeline: decides.
        network: becomes thinner.
        done: so far.
        target: of the original network; None: the method's own rates decide.
        held: what follows.
    """
    job = pipeline.job
    model = private(network.model)  # what reads and cuts shall not be seen by whoever trains
    warn_of_random_weights(model, job.tell)  # by now: it may have been trained from scratch
    rounds, first = list[Round](), not done.plans

    def begun(graph: Graph) -> Round:
        share = pipeline.share(graph, network.whole, target)
        return Round(job, len(done.plans) + 1, job.method, share, model, graph, tuple(done.plans), network.zeros)

    def decide() -> tuple[Plan, float]:
        rounds.append(begun(_graph(job, model, first=first)))
        return rounds[0].cut()

    def prepare() -> Callable[[], None]:
        if rounds:
            now = rounds[0]
        else:  # another process has decided
            now = begun(_graph(job, model, plan, first=first))
            now.begun, now.model = model, apply(model, now.graph, plan)
        if job.repair and plan.edits:
            now.mend(plan)
        return network.prepared(now.model, now.graph, plan, job.inputs, held)

    noted = len(job.searches), len(job.repairs)
    try:
        plan, difference = decided(decide)
        ready = alike(prepare)
    except Exception:
        del job.searches[noted[0] :], job.repairs[noted[1] :]
        raise
    ready()
    done.plans.append(plan)
    done.differences.append(difference)


def replay(job: Job, network: InTraining, done: Done, held: Holders) -> None:
    """Cut as another session has done, when the whole of it can be.

    Args:
        job: with the graph of the original network.
        network: which nobody has cut.
        done: by the other session.
        held: what follows.

    Raises:
        ArtifactError: if the network is not the original one of that session.
        PlanError: for what cannot follow.
    """

    def carried_out() -> list[tuple[nn.Module, Graph, Plan]]:
        held.check(done.plans)
        found, model = list[tuple[nn.Module, Graph, Plan]](), private(network.model)
        try:
            for plan in done.plans:
                graph = _graph(job, model, plan, first=not found)
                found.append((apply(model, graph, plan), graph, plan))
                model = private(found[-1][0])
        except (PlanError, ModelError, TraceError, TargetError) as error:
            raise other_network(str(error)) from error
        return found

    for thin, graph, plan in alike(carried_out):
        alike(partial(network.prepared, thin, graph, plan, job.inputs, held))()


def _graph(job: Job, model: nn.Module, plan: Plan = EMPTY, *, first: bool) -> Graph:
    """Return the graph of a network for a plan, read anew unless that of the original is the same."""
    fresh = first and job.graph is not None and job.graph.tried == plan.tried
    return job.graph if fresh and job.graph is not None else job.read(model, plan.tried)
