"""The times of layers that a run chooses widths and shares its cut out by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.selection.costs import Times
from secateur.core.sizes.limits import Limits
from secateur.errors import SecateurError, first_line
from secateur.events import Event
from secateur.measure import Runtime, side_by_side
from secateur.measure.alignment import measured_limits, worth_timing
from secateur.measure.forecast import Forecast
from secateur.measure.forward import device_of
from secateur.measure.layer_table import LayerTable
from secateur.measure.runtimes import threads_set
from secateur.run.device_placement import several_processes
from secateur.run.job import Job


def place_of_use(job: Job) -> tuple[Runtime, int]:
    """Return the runtime that the network is meant for, and the threads of the CPU."""
    with threads_set(job.threads) as used:
        return job.runtime or "eager", used


def timing(job: Job, model: nn.Module, graph: Graph) -> Callable[[], Times] | None:
    """Return what times the layers of a network of this run, once for each graph; None where nothing may be timed.

    Where a budget was settled by a forecast, that one is taken, or after a kill one that is scaled alike.
    """
    if not job.latency and (job.budget is None or job.budget.max_latency is None):
        return None

    def times() -> Times:
        if job.forecast is None or job.forecast.graph is not graph:
            job.tell(Event("layers", "timing layers"))
            job.forecast = _forecast(job, model, graph)
        return job.forecast.times

    return times


def aligned(job: Job, graph: Graph) -> Limits:
    """Return the limits of a run with the multiples that run fast where it is meant to run, if they may be timed.

    Layers are timed on one thread, whose times other programs disturb the least; blocks of channels do not depend on
    the number of threads. Where several processes train, the static rule lets all of them decide alike.

    Raises:
        ArtifactError: if the choice cannot be written into the work folder.
    """
    limits, device = job.limits, device_of(job.dense)
    if not (limits.auto and not limits.by_group and job.timed and not several_processes() and worth_timing(graph)):
        return limits

    def choose() -> dict[str, Any]:
        job.tell(Event("layers", "timing layers"))
        try:
            with job.clock("layers"):
                table = LayerTable.here(job.runtime or "eager", 1, device)
                found = measured_limits(Forecast.of(job.dense, graph, job.inputs, table, 1.0), limits, tell=job.tell)
        except (SecateurError, RuntimeError) as error:  # a runtime that cannot have a layer alone
            job.tell(
                Event("warning", f"widths are chosen by rule, for layers cannot be timed here ({first_line(error)})")
            )
            found = limits
        return {"multiples": dict(found.by_group), "source": found.source}

    def read(found: dict[str, Any]) -> Limits:
        return replace(limits, by_group=tuple(found["multiples"].items()), source=found["source"])

    return job.choices.take("widths", job.dense, (limits, job.runtime), choose, read)


def _forecast(job: Job, model: nn.Module, graph: Graph) -> Forecast:
    runtime, threads = place_of_use(job)
    settled = {} if job.settled is None else job.settled.found.get("latency", {})
    whole: float | None = settled.get("forecast_milliseconds") if model is job.dense else None
    if whole is None:
        timed = side_by_side({"dense": model}, job.inputs, runtime, threads=threads, seconds=0.5)
        whole = timed.latencies["dense"].milliseconds
    table = LayerTable.here(runtime, threads, device_of(model))
    return Forecast.of(model, graph, job.inputs, table, whole)
