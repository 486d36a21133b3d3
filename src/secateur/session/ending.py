"""What comes out of a session, measured as ``prune`` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY
from secateur.core.surgery.untouched import private
from secateur.measure import Measurement, Runtime
from secateur.measure.forward import device_of
from secateur.run import Result, headline_speed, shown_answers
from secateur.run.pipeline import Pipeline
from secateur.session.progress_state import Done


def measured(pipeline: Pipeline, done: Done) -> Measurement:
    """Return what the original network is like; measured once, and kept in what is done."""
    if done.before is None:
        done.before = pipeline.job.measure(pipeline.job.dense, "the dense network")
    return done.before


def result_of(
    pipeline: Pipeline,
    model: nn.Module,
    graphs: Sequence[Graph],
    done: Done,
    *,
    latency: bool,
    runtime: Runtime | None,
    threads: int | None,
) -> Result:
    """Return a result with the network in it as it is now, see ``Session.finish``."""
    job = pipeline.job
    job.runtime, job.among, job.threads = headline_speed.asked_for(runtime, threads, None)
    before = measured(pipeline, done)
    after = job.measure(model, "the pruned network")
    speed = None
    job.latency = latency
    try:
        if latency:
            headline_speed.check_runtime(job.runtime, device_of(job.dense))
            job.runtime = job.runtime or headline_speed.chosen(job)
            speed = pipeline.time(private(model))
            if speed is not None:
                before, after = replace(before, latency=speed.dense), replace(after, latency=speed.pruned)
        found = pipeline.result(model, graphs, done.plans or [EMPTY], before, after, speed, done.differences)
        found = replace(found, predictions=shown_answers.compared(job, model))
    finally:
        job.latency = False
    return found
