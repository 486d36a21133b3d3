"""The pipeline of a run: read, settle, foretell, cut round by round, and measure before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan
from secateur.core.sizes.size import Size, Target, size
from secateur.core.surgery import zeros_left
from secateur.events import Event
from secateur.measure import Measurement, SpeedUp
from secateur.measure.forward import repeated
from secateur.outcome import Step, widths
from secateur.run import budget_target, headline_speed, preflight, shown_answers, speed_forecast
from secateur.run.counted_alike import REGIONS, counted_alike
from secateur.run.fine_tuned import warn_if_worse
from secateur.run.job import Job
from secateur.run.layer_times import aligned
from secateur.run.result import Result
from secateur.run.round import Round
from secateur.run.time_budget import spend
from secateur.training import History


@dataclass(frozen=True)
class Pipeline:
    """What is done in a run, in its order.

    Attributes:
        job: what was asked for, and what comes of it on the way.
    """

    job: Job

    def run(self, rounds: int) -> Result:
        """Go through all rounds and measure."""
        job = self.job
        self.begin()
        steps = [*self.first_steps(rounds), *job.then]
        assert job.graph is not None
        self.foretell(job.graph)
        graph = job.graph  # which both may have read anew
        before = job.measure(job.dense, "the dense network", job.tested)
        if job.data is not None and job.tested is None:
            preflight.warn_of_seen(job.dense, job.data, before.quality, job.place, job.tell)
        job.tested = before.quality
        dense_size, zeros = size(graph), EMPTY
        model, graphs, plans, histories, differences = job.dense, list[Graph](), list[Plan](), list[History](), [0.0]
        cut, middle, spent, left = None, None, None, 1.0
        for number, step in enumerate(steps, 1):
            if number > 1:
                graph = job.read(model)
            target = self.share(graph, dense_size, step.target)
            now = Round(job, number, step.method, target, model, graph, tuple(plans), zeros)
            plan, difference = now.cut()
            graph = now.graph
            left *= size(graph, plan).macs / max(1, size(graph).macs)
            graphs.append(graph)
            plans.append(plan)
            job.cuts += [(graph, plan)] if job.free_outputs else []
            differences.append(difference)
            if job.repair and plan.edits:
                if number == len(steps) and job.data is not None:
                    cut = job.measure(now.model, "the network before its repair")
                now.mend(plan)
            model, zeros = now.model, zeros_left(now.model, graph, plan)
            if job.minutes is not None:  # which are for the last round
                if number == len(steps):
                    middle, spent = spend(job, now, plan)
            elif job.train is not None and job.data is not None:
                batch = repeated(job.data.example(), min(job.train.batch_size, 64))
                job.speed_up(model, batch)  # for what comes now
                if number == len(steps):
                    middle = job.measure(model, "the network before fine-tuning")
                histories.append(now.recover(plan))
        job.speed_up(model, job.inputs)
        after = job.measure(model, "the pruned network")
        ran = after.counts.macs
        cut, middle, after = (found and counted_alike(found, before, left) for found in (cut, middle, after))
        assert after is not None
        if after.counts.macs != ran:
            plans[-1] = replace(plans[-1], notes=(*plans[-1].notes, REGIONS.format(ran)))
        if middle is not None and job.train is not None and histories:
            warn_if_worse(middle, after, job.train, job.tell)
        if middle is not None and job.settled is not None and "drop" in job.settled.found:
            job.settled = budget_target.lost_again(job, job.settled, model)
        answers = shown_answers.compared(job, model) if job.answers else {}
        speed = self.time(model)  # when all else is done
        if job.latency and speed is not None:
            before, after = replace(before, latency=speed.dense), replace(after, latency=speed.pruned)
        found = self.result(model, graphs, plans, before, after, speed, differences)
        return replace(found, predictions=answers, cut=cut, middle=middle, histories=tuple(histories), minutes=spent)

    def begin(self) -> None:
        """Read the dense network, unless that was done, and settle what is asked of it."""
        job = self.job
        with job.clock("trace"):
            graph = job.graph = job.graph or job.read(job.dense)
        preflight.warn_of_unreached(graph, job.tell)
        self.settle(graph)
        preflight.warn_of_uncounted(graph, job.tell)

    def result(
        self,
        model: nn.Module,
        graphs: Sequence[Graph],
        plans: Sequence[Plan],
        before: Measurement,
        after: Measurement,
        speed: SpeedUp | None,
        differences: Sequence[float],
    ) -> Result:
        """Return what came of all cuts, without what was measured between them.

        Args:
            model: the pruned network.
            graphs: of the networks that the cuts began with; of the dense one alone where nothing was cut.
            plans: what was removed, cut by cut.
            before: measurement of the dense network.
            after: the same of the pruned one.
            speed: both timed in turns; None if they were not.
            differences: between the silenced and the cut network, cut by cut.
        """
        job = self.job
        return Result(
            model=model,
            dense=job.dense,
            plans=tuple(plans),
            graphs=tuple(graphs),
            before=before,
            cut=None,
            middle=None,
            after=after,
            histories=(),
            shaped=tuple(job.shaped),
            repairs=tuple(job.repairs),
            calibration=job.calibration(),
            normalisation=job.normalisation(),
            classes=None if job.data is None else job.data.classes,
            pretrain=None,
            explanation=graphs[0].explain(),
            widths=widths(graphs[0], job.dense, model),
            verification=max(differences, default=0.0),
            method=job.method,
            target=job.target,
            then=job.then,
            example_inputs=job.inputs,
            searches=tuple(job.searches),
            sensitivity=tuple(job.curves),
            budget=job.settled.found if job.settled else {},
            speed=speed if job.latency else None,
            foretold=job.foretold.to_dict() if job.foretold else {},
            chosen=dict(job.choices.made),
            multiples={group.name: job.limits.multiple_of(group) for group in graphs[0].free},
            seconds=job.clock.seconds,
        )

    def check(self, graph: Graph) -> None:
        """Refuse targets that no plan can meet."""
        job = self.job
        for step in (Step(job.method, job.target), *job.then):  # the last of the first rounds is the hardest
            step.method.check(step.target)
            preflight.check_target(graph, step.method, step.target, job.limits)

    def settle(self, graph: Graph) -> None:
        """Choose the runtime and the widths that run fast there, and turn a budget into the target that meets it.

        Raises:
            TargetError: if no plan can meet the target; without a budget before anything is timed or written.
        """
        job = self.job
        if job.budget is None:
            self.check(graph)
        if job.runtime is None and job.timed:
            job.runtime = headline_speed.chosen(job)
        job.limits = aligned(job, graph)
        if job.budget is not None:
            with job.clock("budget"):
                graph, job.settled = budget_target.settled(job, graph, job.budget)
            job.graph = graph
            job.target, job.limits = job.settled.target, job.settled.limits
            job.method = job.settled.method(job.method)
            self.check(graph)

    def foretell(self, graph: Graph) -> None:
        """Say how fast the network will get, where long work follows, or what widths that were asked for will cost."""
        job = self.job
        job.graph, job.foretold = speed_forecast.foretold(job, graph)
        if job.foretold is not None:
            job.tell(Event("warning" if job.foretold.warns else "forecast", job.foretold.sentence()))

    def first_steps(self, rounds: int) -> list[Step]:
        """Return the rounds in which the first target is approached, in equal steps on a logarithmic scale."""
        job = self.job
        if job.target is None:
            return [Step(job.method, None)] * rounds
        keeps = [job.target.keep ** (number / rounds) for number in range(1, rounds + 1)]
        return [Step(job.method, replace(job.target, keep=keep)) for keep in keeps]

    def share(self, graph: Graph, dense_size: Size, target: Target | None) -> Target | None:
        """Return a target relative to the network that the round begins with."""
        if target is None:
            return None
        goal = target.keep * dense_size.of(target.of)
        return replace(target, keep=min(1.0, goal / max(1, size(graph).of(target.of))))

    def time(self, model: nn.Module) -> SpeedUp | None:
        """Time the dense and the pruned network in turns, unless nothing may be timed."""
        job = self.job
        if not job.timed:
            return None
        assert job.runtime is not None
        with job.clock("measure"):
            speed = headline_speed.timed_together(job.dense, model, job.inputs, job.runtime, job.threads, job.tell)
        if job.settled is not None and "latency" in job.settled.found:
            job.settled = budget_target.timed_again(job, job.settled, speed)
        return speed
