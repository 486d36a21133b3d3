"""The times of layers that a run shares its cut out by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from secateur.budget import Budget
from secateur.core.graph import Graph
from secateur.core.knapsack import Times
from secateur.core.method import Method
from secateur.errors import SettingError
from secateur.events import Event
from secateur.measure import Runtime, side_by_side
from secateur.measure.forecast import Forecast
from secateur.measure.forward import device_of
from secateur.measure.layer_table import LayerTable
from secateur.measure.runtimes import threads_set

if TYPE_CHECKING:
    from secateur.run.job import Job


def shares_by_latency(method: Method) -> bool:
    """Say whether a method shares its cut out by the times of layers."""
    return getattr(method, "allocate", "") == "latency"


def check_timing(methods: Sequence[Method], latency: bool, budget: Budget | None) -> None:
    """Refuse shares by latency where nothing may be timed.

    Raises:
        SettingError: if times are needed and not allowed.
    """
    allowed = latency or (budget is not None and budget.max_latency is not None)
    if not allowed and any(shares_by_latency(method) for method in methods):
        raise SettingError(
            "allocate='latency' needs the times of layers, but nothing may be timed (latency=False); allow it, or "
            "choose another way to allocate"
        )


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


def _forecast(job: Job, model: nn.Module, graph: Graph) -> Forecast:
    runtime, threads = place_of_use(job)
    settled = {} if job.settled is None else job.settled.found.get("latency", {})
    whole: float | None = settled.get("forecast_milliseconds") if model is job.dense else None
    if whole is None:
        timed = side_by_side({"dense": model}, job.inputs, runtime, threads=threads, seconds=0.5)
        whole = timed.latencies["dense"].milliseconds
    table = LayerTable.here(runtime, threads, device_of(model))
    return Forecast.of(model, graph, job.inputs, table, whole)
