"""One pruning under way: what was asked for, the rounds, and what is measured before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.budget import Budget
from secateur.core.blocks import execute, execution_of
from secateur.core.error_curves import ErrorCurve
from secateur.core.graph import Graph, Groups
from secateur.core.limits import Limits
from secateur.core.method import Method
from secateur.core.plan import EMPTY, Plan
from secateur.core.sensitivity import Curve
from secateur.core.size import Size, Target, size
from secateur.core.surgery import Inputs, zeros_left
from secateur.core.surgery.forward import describe
from secateur.core.trials import Search
from secateur.data import Calibration, Data, load_calibration
from secateur.data.calibration import COUNT, Later
from secateur.data.loaders import LoaderSource
from secateur.events import Event, Tell
from secateur.measure import Accuracy, Measurement, Runtime, SpeedUp, fastest
from secateur.measure.forecast import Forecast
from secateur.repair import Repair
from secateur.run import beforehand, budgeting, foretelling, headline
from secateur.run.bargain import Settled
from secateur.run.choices import Choices
from secateur.run.clock import Clock
from secateur.run.fallback import FEWEST_CHOSEN
from secateur.run.foretelling import Foretold
from secateur.run.minutes import spend
from secateur.run.place import measure_at
from secateur.run.result import Result, widths
from secateur.run.round import Round
from secateur.run.step import Step
from secateur.run.timing import aligned
from secateur.run.work import Work
from secateur.training import History, Settings


@dataclass
class Job:
    """One call of ``prune`` under way."""

    dense: nn.Module
    inputs: Any
    method: Method
    target: Target | None
    data: Data | None
    train: Settings | None
    leave: Sequence[str]
    limits: Limits
    seed: int
    latency: bool
    work: Work | None
    tell: Tell
    place: torch.device
    then: tuple[Step, ...] = ()
    shaping: Settings | None = None
    patience: float | None = None
    budget: Budget | None = None
    tested: Accuracy | None = None
    repair: tuple[str, ...] = ()
    repair_asked: bool = True  # by somebody: never replaced by what needs no fit
    calibrate: Calibration | None = None
    calibrate_images: int = COUNT
    runtime: Runtime | None = None
    threads: int | None = None
    among: tuple[Runtime, ...] = ("eager", "channels_last")
    minutes: float | None = None
    groups: Groups = "all"
    free_outputs: tuple[str, ...] = ()

    choices: Choices = field(default_factory=Choices)

    # what comes of it on the way
    clock: Clock = field(default_factory=Clock)
    graph: Graph | None = None
    sped_up: int = 0
    settled: Settled | None = None
    forecast: Forecast | None = None
    foretold: Foretold | None = None
    looked_at: str = ""  # images of an earlier run, whose work this one goes on from
    searches: list[Search] = field(default_factory=list[Search])
    shaped: list[History] = field(default_factory=list[History])
    repairs: list[Repair] = field(default_factory=list[Repair])
    cuts: list[tuple[Graph, Plan]] = field(default_factory=list[tuple[Graph, Plan]])  # where outputs lose channels
    curves: list[tuple[Curve, ...]] = field(default_factory=list[tuple[Curve, ...]])
    error_curves: dict[tuple[object, ...], Sequence[ErrorCurve]] = field(
        default_factory=dict[tuple[object, ...], Sequence[ErrorCurve]]
    )

    def run(self, rounds: int) -> Result:
        """Go through all rounds and measure."""
        with self.clock("trace"):
            graph = self.graph = self.graph or self.read(self.dense)
        beforehand.warn_of_unreached(graph, self.tell)
        self.settle(graph)
        beforehand.warn_of_uncounted(graph, self.tell)
        steps = [*self.first_steps(rounds), *self.then]
        self.foretell(self.graph)
        graph = self.graph  # which both may have read anew
        before = self.measure(self.dense, "the dense network", self.tested)
        if self.data is not None and self.tested is None:
            beforehand.warn_of_seen(self.dense, self.data, before.accuracy, self.place, self.tell)
        self.tested = before.accuracy
        dense_size, zeros = size(graph), EMPTY
        model, plans, histories, differences = self.dense, list[Plan](), list[History](), [0.0]
        first, cut, middle, spent = graph, None, None, None
        for number, step in enumerate(steps, 1):
            if number > 1:
                graph = self.read(model)
            target = self.share(graph, dense_size, step.target)
            now = Round(self, number, step.method, target, model, graph, tuple(plans), zeros)
            plan, difference = now.cut()
            first, graph = (now.graph if number == 1 else first), now.graph
            plans.append(plan)
            self.cuts += [(graph, plan)] if self.free_outputs else []
            differences.append(difference)
            if self.repair and plan.edits:
                if number == len(steps) and self.data is not None:
                    cut = self.measure(now.model, "the network before its repair")
                now.mend(plan)
            model, zeros = now.model, zeros_left(now.model, graph, plan)
            if self.minutes is not None:  # which are for the last round
                if number == len(steps):
                    middle, spent = spend(self, now, plan)
            elif self.train is not None and self.data is not None:
                batch = self.data.example().repeat(min(self.train.batch_size, 64), 1, 1, 1)
                self.speed_up(model, batch)  # for what comes now
                if number == len(steps):
                    middle = self.measure(model, "the network before fine-tuning")
                histories.append(now.recover(plan))
        self.speed_up(model, self.inputs)
        after = self.measure(model, "the pruned network")
        speed = self.time(model)  # when all else is done
        if self.latency and speed is not None:
            before, after = replace(before, latency=speed.dense), replace(after, latency=speed.pruned)
        return Result(
            model=model,
            dense=self.dense,
            plans=tuple(plans),
            before=before,
            cut=cut,
            middle=middle,
            after=after,
            histories=tuple(histories),
            shaped=tuple(self.shaped),
            repairs=tuple(self.repairs),
            calibration=self.calibration(),
            normalisation=self.normalisation(),
            pretrain=None,
            explanation=first.explain(),
            widths=widths(first, self.dense, model),
            verification=max(differences),
            method=self.method,
            target=self.target,
            then=self.then,
            example_inputs=self.inputs,
            searches=tuple(self.searches),
            sensitivity=tuple(self.curves),
            budget=self.settled.found if self.settled else {},
            speed=speed if self.latency else None,
            minutes=spent,
            foretold=self.foretold.to_dict() if self.foretold else {},
            chosen=dict(self.choices.made),
            multiples={group.name: self.limits.multiple_of(group) for group in first.free},
            seconds=self.clock.seconds,
        )

    def check(self, graph: Graph) -> None:
        """Refuse targets that no plan can meet."""
        for step in (Step(self.method, self.target), *self.then):  # the last of the first rounds is the hardest
            step.method.check(step.target)
            beforehand.check_target(graph, step.method, step.target, self.limits)

    def settle(self, graph: Graph) -> None:
        """Choose the runtime and the widths that run fast there, and turn a budget into the target that meets it.

        Raises:
            TargetError: if no plan can meet the target; without a budget before anything is timed or written.
        """
        if self.budget is None:
            self.check(graph)
        if self.runtime is None and self.timed:
            self.runtime = headline.chosen(self)
        self.limits = aligned(self, graph)
        if self.budget is not None:
            with self.clock("budget"):
                graph, self.settled = budgeting.settled(self, graph, self.budget)
            self.graph = graph
            self.target, self.limits = self.settled.target, self.settled.limits
            self.method = self.settled.method(self.method)
            self.check(graph)

    def foretell(self, graph: Graph) -> None:
        """Say how fast the network will get, where long work follows, or what widths that were asked for will cost."""
        self.graph, self.foretold = foretelling.foretold(self, graph)
        if self.foretold is not None:
            self.tell(Event("warning" if self.foretold.warns else "forecast", self.foretold.sentence()))

    def first_steps(self, rounds: int) -> list[Step]:
        """Return the rounds in which the first target is approached, in equal steps on a logarithmic scale."""
        if self.target is None:
            return [Step(self.method, None)] * rounds
        keeps = [self.target.keep ** (number / rounds) for number in range(1, rounds + 1)]
        return [Step(self.method, replace(self.target, keep=keep)) for keep in keeps]

    def read(self, model: nn.Module, tried: Sequence[Plan] = ()) -> Graph:
        """Trace a network, perhaps again after plans that failed; refuse one without anything to prune."""
        how: dict[str, Any] = {"free_outputs": self.free_outputs, "groups": self.groups, "patience": self.patience}
        return beforehand.read(model, self.inputs, self.leave, **how, tell=self.tell, tried=tried)

    def share(self, graph: Graph, dense_size: Size, target: Target | None) -> Target | None:
        """Return a target relative to the network that the round begins with."""
        if target is None:
            return None
        goal = target.keep * dense_size.of(target.of)
        return replace(target, keep=min(1.0, goal / max(1, size(graph).of(target.of))))

    def about_data(self) -> tuple[object, ...]:
        """Return what a plan that was decided on the data, or on unlabelled images, depends on."""
        data, given = self.data, self.calibrate
        known = () if data is None else (data.name, data.size("train"), data.size("val"), data.mean, data.std)
        if given is not None:
            return (*known, given.count, given.digest())
        return known if data is None else (*known, self.calibrate_images)

    @cached_property
    def images(self) -> Calibration | None:
        """Unlabelled images: those that were given, else some of the training images; None without either."""
        found = self.calibrate
        if found is None and self.data is not None:
            self.tell(Event("images", "reading unlabelled images"))
            with self.clock("images"):
                found = load_calibration(self.data, count=self.calibrate_images, seed=self.seed, example=self.inputs)
            for doubt in found.doubts:  # those of images that were given have been told
                if doubt != found.note or found.different >= FEWEST_CHOSEN:
                    self.tell(Event("warning", doubt))
        return found

    def image_batches(self) -> Sequence[Inputs] | None:
        """Return the batches of ``images``, not read before somebody looks at them."""
        if self.calibrate is None and self.data is None:
            return None
        return Later(lambda: () if self.images is None else self.images.batches)

    def calibration(self) -> str:
        """Return which unlabelled images were used, in words; empty if nobody has looked at any."""
        used = vars(self).get("images")
        return used.note if isinstance(used, Calibration) else self.looked_at

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and deviation with which the images of the run were normalised, None where nobody knows."""
        data, given = self.data, self.calibrate
        if data is not None and not isinstance(data.source, LoaderSource):
            return data.mean, data.std
        return None if given is None or given.mean is None or given.std is None else (given.mean, given.std)

    @property
    def timed(self) -> bool:
        """Whether anything is timed at all; a limit of latency asks for it as well."""
        return self.latency or (self.budget is not None and self.budget.max_latency is not None)

    def speed_up(self, model: nn.Module, inputs: Any) -> None:
        """Let layers that can run in several ways run in the fastest, unless nothing may be timed.

        The ways agree to rounding only, so what follows depends on which was taken.
        """
        if not self.timed or not execution_of(model):
            return
        self.sped_up += 1

        def read(how: dict[str, str]) -> dict[str, str]:
            execute(model, how)
            return how

        self.choices.take(
            f"execution-{self.sped_up}",
            model,
            (describe(inputs),),
            lambda: dict(fastest(model, inputs)),
            read,
        )

    def time(self, model: nn.Module) -> SpeedUp | None:
        """Time the dense and the pruned network in turns, unless nothing may be timed."""
        if not self.timed:
            return None
        assert self.runtime is not None
        with self.clock("measure"):
            speed = headline.timed_together(self.dense, model, self.inputs, self.runtime, self.threads, self.tell)
        if self.settled is not None and "latency" in self.settled.found:
            self.settled = budgeting.timed_again(self, self.settled, speed)
        return speed

    def measure(self, model: nn.Module, name: str, tested: Accuracy | None = None) -> Measurement:
        """Count, and test on the test split unless that was done before."""
        self.tell(Event("measure", f"measuring {name}"))
        untested = self.data if tested is None else None
        batches = None if untested is None else untested.batches("test")
        with self.clock("measure"):
            found = measure_at(model, self.inputs, batches, self.place, tell=self.tell)
        return found if tested is None else replace(found, accuracy=tested)

    def checkpoint(self, name: str, model: nn.Module, method: Method) -> Path | None:
        """Return where the checkpoint of a training of this network goes, None without a work folder."""
        return None if self.work is None else self.work.place(name, model, method)
