"""Settling the budget of a run: what the run lends to the search for a target."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from secateur import reading
from secateur.budget import Budget
from secateur.core.graph import Graph
from secateur.core.method import Method, ScoreMethod
from secateur.core.metric import refuse_endless
from secateur.core.plan import Plan
from secateur.core.selection.error_shares import predicted
from secateur.core.selection.latency_knapsack import kept_importance
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import cut, hold
from secateur.data import Data
from secateur.errors import DataError, SettingError
from secateur.events import Event, ignore
from secateur.measure import SpeedUp
from secateur.measure.forecast import Forecast
from secateur.repair import taken
from secateur.run.budget_search import settle
from secateur.run.budget_terms import Alternative, Bargain, Decide, Settled
from secateur.run.calibration_images import repaired_by
from secateur.run.device_placement import quality_at
from secateur.run.job import Job
from secateur.run.latency_aware_methods import latency_aware
from secateur.run.latency_search import TOLERANCE
from secateur.run.replanning import carried_out
from secateur.run.round import Round
from secateur.search import task_examples
from secateur.spelling import setting, setting_as
from secateur.training import Settings, fit

_IMAGES = 1024  # of validation, to compare two networks on
_REPAIR_IMAGES = 512  # without labels


def check_budget(budget: Budget | None, data: Data | None, train: Settings | None) -> None:
    """Refuse a budget that cannot be settled here, before any work.

    Raises:
        DataError: if a drop of accuracy is limited without data.
        SettingError: if the drop is to count after a training that is not asked for, or is all that a share can lose.
    """
    if budget is None:
        return
    if budget.max_drop is not None and data is None:
        raise DataError(f"a limit on the drop of accuracy needs data; name a data set ({setting('data')})")
    if budget.max_drop is not None and budget.drop_after == "training" and train is None:
        raise SettingError("the drop is to count after fine-tuning, but none is asked for; give its epochs")
    if budget.max_drop is not None and data is not None:
        refuse_endless(budget.max_drop, data.task.metric)


def settled(job: Job, graph: Graph, budget: Budget) -> tuple[Graph, Settled]:
    """Return the target that a budget comes to, or what an earlier run of the same job came to.

    Returns:
        The network as it was read in the end, if a plan on the way could not be carried out, and the target.

    Raises:
        TargetError: if the limits cannot be met.
        CutError: if plans on the way cannot be carried out, however often they are decided.
    """
    job.tell(Event("budget", "looking for the largest network within the budget"))
    budget = replace(budget, runtime=job.runtime, threads=job.threads)
    facts = (job.method, budget, job.target, job.limits, tuple(job.leave), job.groups, job.seed, job.train)
    facts = (*facts, ("free outputs", *job.free_outputs)) if job.free_outputs else facts
    facts += (job.repair, job.about_data(), *([graph.tried] if graph.tried else []))
    readings = {graph.tried: graph}

    def come_to() -> str:
        curves = len(job.curves)

        def work(graph: Graph) -> Settled:
            job.forecast = None
            del job.curves[curves:]
            return settle(_bargain(job, graph, budget), budget, job.target)

        last, found = carried_out(graph, work, partial(job.read, job.dense))
        readings[last.tried] = last
        # as text, for TOML has no word for None
        return json.dumps({**asdict(found), "tried": [plan.to_json() for plan in last.tried]})

    def read(text: str) -> tuple[Graph, Settled]:
        found, tried = _read(text)
        if tried not in readings:
            readings[tried] = job.read(job.dense, tried)
        return readings[tried], found

    return job.choices.take("budget", job.dense, facts, come_to, read, beside=job.beside(), bound=True)


def _bargain(job: Job, graph: Graph, budget: Budget) -> Bargain:
    def decide(target: Target, limits: Limits) -> Plan:
        return _decided(job, graph, job.method, target, limits)

    def tested(plan: Plan) -> float:
        return _worth(job, graph, plan, trained=budget.drop_after == "training")

    bargain = Bargain(job.dense, graph, job.inputs, decide, job.limits, tell=job.tell)
    bargain = replace(bargain, alternative=_alternative(job, graph))
    return bargain if job.data is None else replace(bargain, worth=tested, metric=job.data.task.metric)


def _decided(job: Job, graph: Graph, method: Method, target: Target, limits: Limits) -> Plan:
    return Round(job, 1, method, target, job.dense, graph).ask([], limits)


def _alternative(job: Job, graph: Graph) -> Alternative | None:
    """Return latency-aware shares for a method whose shares nobody has chosen otherwise."""
    asked, method = job.method, latency_aware(job.method)
    if method is None:
        return None

    def decide(forecast: Forecast) -> Decide:
        job.forecast = forecast  # the rounds go by what the budget was settled by
        return lambda target, limits: _decided(job, graph, method, target, limits)

    if job.data is None:

        def kept(plan: Plan) -> float:
            problem = Round(job, 1, asked, None, job.dense, graph).problem([], job.dense)
            if isinstance(asked, ScoreMethod):
                return kept_importance(graph, asked.scores(problem), asked.scope, plan)
            errors = predicted(problem.error_curves(), plan).values()
            return max(0.0, 1.0 - sum(errors) / max(1, len(errors)))

        by = "kept importance" if isinstance(asked, ScoreMethod) else "predicted variance that layers keep"
        return Alternative(decide, kept, by)
    metric, shown = job.data.task.metric.name, f"{job.data.task.example}s"
    steps = job.repair or (() if job.train is None else ("recalibrate",))
    after = f" after {' and '.join(steps)}" if steps else ""
    return Alternative(
        decide, lambda plan: _promise(job, graph, plan, steps), f"{metric} on the validation {shown}{after}"
    )


def _promise(job: Job, graph: Graph, plan: Plan, steps: Sequence[str]) -> float:
    """Return what the network is worth under a plan on some validation examples, after repairs without training.

    Right after a cut it is often that of chance, and says nothing about what recovers.
    """
    data = job.data
    assert data is not None
    thin = _repaired(job, graph, plan, steps)
    some = list(task_examples.first(data.batches("val"), data.task, _IMAGES))
    return data.task.metric.key(quality_at(thin, some, data.task, job.place, job.tell).value)


def _repaired(job: Job, graph: Graph, plan: Plan, steps: Sequence[str]) -> nn.Module:
    """Return the network under a plan after repairs without training, as the run itself makes it."""
    thin = cut(job.dense, graph, plan, job.inputs)
    if steps and plan.edits:
        # silently: only what the cut that is settled on loses is worth a warning, and its round gives it
        steps = Round(job, 1, job.method, None, job.dense, graph).helping(job.dense, thin, plan, steps, ignore)
        some, judge = repaired_by(job, steps, _REPAIR_IMAGES)
        for _ in taken(steps, job.dense, thin, graph, plan, some, job.seed, judge):
            pass
    return thin


def timed_again(job: Job, settled: Settled, speed: SpeedUp) -> Settled:
    """Take over what the network that came out was measured to take, in turns with the dense one.

    After several rounds its widths may differ from those of the one cut that was settled on.

    Returns:
        The same with the latency of this network; a warning is told where it is longer than asked for.
    """
    latency = settled.found["latency"]
    share, (before, after) = 1 / speed.ratio, speed.milliseconds
    if share > latency["asked"] * (1 + TOLERANCE):
        took = f"takes {share:.3g} of the dense one's time in {speed.runtime}, where {latency['asked']:.3g} was asked"
        why = "its rounds led to other widths than one cut, or the machine is unsteady; ask for less"
        job.tell(Event("warning", f"the network {took} for: {why}"))
    now = {"measured": share, "dense_milliseconds": before, "milliseconds": after, "runtime": speed.runtime}
    high = 1 / speed.low if speed.low else math.inf
    now |= {"low": 1 / speed.high, "high": high, "differs": speed.differs}
    return replace(settled, found={**settled.found, "latency": {**latency, **now}})


def _worth(job: Job, graph: Graph, plan: Plan, *, trained: bool) -> float:
    """Return the metric, larger is better, on the validation examples after the repair and, if asked, fine-tuning."""
    assert job.data is not None
    thin = _repaired(job, graph, plan, job.repair)
    if trained and plan.edits:
        assert job.train is not None
        fit(
            thin,
            job.data,
            job.train,
            shaper=hold(thin, graph, plan),
            teacher=job.dense if job.train.distill else None,
            seed=job.seed + 1,
            memory=job.choices.speed("train", job.dense, job.train),
            tell=job.tell,
        )
    found = quality_at(thin, job.data.batches("val"), job.data.task, job.place, job.tell)
    return job.data.task.metric.key(found.value)


def lost_again(job: Job, settled: Settled, model: nn.Module) -> Settled:
    """Take over what a trained network loses on the validation examples: the target was chosen before it was trained.

    Returns:
        The same with the drop of this network; a warning is told where it is more than is allowed.
    """
    assert job.data is not None
    drop, metric = settled.found["drop"], job.data.task.metric
    values = [
        quality_at(each, job.data.batches("val"), job.data.task, job.place, job.tell).value
        for each in (job.dense, model)
    ]
    lost = metric.lost(values[0], values[1])
    if lost > drop["asked"] + 1e-9:
        without = ", or leave fine-tuning out" if lost > drop["found"] else ""
        job.tell(
            Event(
                "warning",
                f"the {metric.name} on the validation images went from {metric.text(values[0])} to "
                f"{metric.text(values[1])}, a loss of more than was allowed: give fine-tuning more {setting('epochs')} "
                f"or another {setting('lr')}, let each candidate be trained before it is judged "
                f"({setting_as('drop_after', 'training')}){without}",
            )
        )
    return replace(settled, found={**settled.found, "drop": {**drop, "trained": lost}})


def _read(text: str) -> tuple[Settled, tuple[Plan, ...]]:
    stored: dict[str, Any] = reading.values(text)
    tried = tuple(Plan.from_json(plan) for plan in stored.get("tried", ()))  # which earlier versions did not write
    return Settled(Target(**stored["target"]), Limits(**stored["limits"]), stored["found"], stored["allocate"]), tried
