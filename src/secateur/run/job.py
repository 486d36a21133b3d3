"""One pruning under way: the rounds, and what each of their steps does."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.budget import Budget
from secateur.core.graph import Graph
from secateur.core.method import Method, shapes
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.select import Limits
from secateur.core.sensitivity import Curve
from secateur.core.size import Size, Target, size
from secateur.core.surgery import Hold, apply, hold, verify, zeros_left
from secateur.core.trials import Search
from secateur.data import Data
from secateur.errors import TargetError, VerificationError
from secateur.events import Event, Tell
from secateur.measure import Accuracy, Measurement, accuracy, fastest, measure
from secateur.repair import Repair, fold_constants, repair
from secateur.run import beforehand, budgeting
from secateur.run.bargain import Settled
from secateur.run.expectation import expect
from secateur.run.result import Result, widths
from secateur.run.sensitivity import measuring
from secateur.run.step import Step
from secateur.run.work import Work
from secateur.training import History, Settings, fit

EVALUATION_BATCH = 256


@dataclass
class Clock:
    """Adds up the wall-clock time of stages."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


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
    then: tuple[Step, ...] = ()
    clock: Clock = field(default_factory=Clock)
    searches: list[Search] = field(default_factory=list[Search])
    shaped: list[History] = field(default_factory=list[History])
    shaping: Settings | None = None
    patience: float | None = None
    budget: Budget | None = None
    tested: Accuracy | None = None
    settled: Settled | None = None
    repair: tuple[str, ...] = ()
    repairs: list[Repair] = field(default_factory=list[Repair])
    curves: list[tuple[Curve, ...]] = field(default_factory=list[tuple[Curve, ...]])

    def run(self, rounds: int) -> Result:
        """Go through all rounds and measure."""
        with self.clock("trace"):
            graph = self.read(self.dense)
        self.settle(graph)
        steps = [*self.first_steps(rounds), *self.then]
        for step in (Step(self.method, self.target), *self.then):  # the last of the first rounds is the hardest
            step.method.check(step.target)
            beforehand.check_target(graph, step.method, step.target, self.limits)
        self.foretell(graph)
        before = self.measure(self.dense, "the dense network", self.latency, self.tested)
        dense_size, zeros = size(graph), EMPTY
        model, plans, histories, differences = self.dense, list[Plan](), list[History](), [0.0]
        first, middle = graph, None
        for number, step in enumerate(steps, 1):
            if number > 1:
                graph = self.read(model)
            target = self.share(graph, dense_size, step.target)
            model = self.shape(model, graph, target, step.method, plans, zeros, number)
            plan = self.decide(model, graph, target, step.method, plans, number)
            plan = plan.with_zeros(zeros) if zeros.edits else plan
            plan, thin, difference = self.act(model, graph, plan)
            self.mend(model, thin, graph, plan)
            plans.append(plan)
            differences.append(difference)
            model, zeros = thin, zeros_left(thin, graph, plan)
            if self.train is not None and self.data is not None:
                batch = self.data.example().repeat(min(self.train.batch_size, 64), 1, 1, 1)
                fastest(model, batch)  # for what comes now
                if number == len(steps):
                    middle = self.measure(model, "the network before fine-tuning", False)
                with self.clock("fine-tune"):
                    histories.append(self.recover(model, graph, plan, step.method, number))
        fastest(model, self.inputs)
        if self.settled is not None and len(steps) > 1:
            self.settled = budgeting.timed_again(self, self.settled, model)
        after = self.measure(model, "the pruned network", self.latency)
        return Result(
            model=model,
            dense=self.dense,
            plans=tuple(plans),
            before=before,
            middle=middle,
            after=after,
            histories=tuple(histories),
            shaped=tuple(self.shaped),
            repairs=tuple(self.repairs),
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
            seconds=self.clock.seconds,
        )

    def settle(self, graph: Graph) -> None:
        """Turn a budget, if there is one, into the target and the widths that meet it."""
        if self.budget is not None:
            with self.clock("budget"):
                self.settled = budgeting.settled(self, graph, self.budget)
            self.target, self.limits = self.settled.target, self.settled.limits

    def foretell(self, graph: Graph) -> None:
        """Warn where the network will not get as fast as its MACs promise."""
        met = self.settled is not None and "latency" in self.settled.found
        if not self.latency or self.target is None or met:
            return
        with self.clock("foretell"):
            expected = expect(self.dense, graph, self.inputs, self.target, self.limits)
        if expected is not None and expected.far:
            self.tell(Event("warning", expected.sentence()))

    def first_steps(self, rounds: int) -> list[Step]:
        """Return the rounds in which the first target is approached, in equal steps on a logarithmic scale."""
        if self.target is None:
            return [Step(self.method, None)] * rounds
        keeps = [self.target.keep ** (number / rounds) for number in range(1, rounds + 1)]
        return [Step(self.method, replace(self.target, keep=keep)) for keep in keeps]

    def read(self, model: nn.Module) -> Graph:
        """Trace a network; refuse one without anything to prune."""
        self.tell(Event("trace", "reading the network"))
        return beforehand.read(model, self.inputs, self.leave, patience=self.patience, tell=self.tell)

    def share(self, graph: Graph, dense_size: Size, target: Target | None) -> Target | None:
        """Return a target relative to the network that the round begins with."""
        if target is None:
            return None
        goal = target.keep * dense_size.of(target.of)
        return replace(target, keep=min(1.0, goal / max(1, size(graph).of(target.of))))

    def shape(
        self,
        model: nn.Module,
        graph: Graph,
        target: Target | None,
        method: Method,
        plans: Sequence[Plan],
        zeros: Plan,
        number: int,
    ) -> nn.Module:
        """Train with the method's own regulariser before it decides, if it has one."""
        if self.shaping is None or self.data is None or not shapes(method):
            return model
        shaped = copy.deepcopy(model)
        masks = {edit.tensor: edit.mask() for edit in zeros.edits if isinstance(edit, ZeroWeights)}
        problem = self.problem(shaped, graph, target, plans, number, self.searches)
        with self.clock("shape"), method.shaping(problem) as shaper:
            history = fit(
                shaped,
                self.data,
                self.shaping,
                shaper=Hold(shaped, masks, shaper) if masks else shaper,
                teacher=self.dense if self.shaping.distill else None,
                checkpoint=self.place(f"shape-{number}.ckpt", model, method),
                seed=self.seed + number,
                tell=self.tell,
            )
        self.shaped.append(history)
        return shaped

    def decide(
        self,
        model: nn.Module,
        graph: Graph,
        target: Target | None,
        method: Method,
        plans: Sequence[Plan],
        number: int,
    ) -> Plan:
        """Ask the method for a plan, and see to it that the plan meets the target."""
        self.tell(Event("plan", "deciding what to remove"))
        found: list[Search] = []
        problem = self.problem(model, graph, target, plans, number, found)
        with self.clock("plan"):
            if self.work is None or getattr(method, "allocate", "") == "sensitivity":  # which notes its own steps
                plan = method.plan(problem)
            else:
                facts = (
                    method,
                    target,
                    self.limits,
                    tuple(self.leave),
                    self.seed,
                    tuple(plans),
                    self.about_data(),
                )
                plan = self.work.plan(f"plan-{number}.json", model, facts, lambda: method.plan(problem))
                found = self.work.searches(f"found-{number}.json", model, facts, found)
        self.searches.extend(found)
        self.check_size(graph, plan, target, method)
        return plan

    def problem(
        self,
        model: nn.Module,
        graph: Graph,
        target: Target | None,
        plans: Sequence[Plan],
        number: int,
        found: list[Search],
    ) -> Problem:
        """Return everything that a method may look at in a round."""
        work = None if self.work is None else self.work.folder
        return Problem(
            model=model,
            graph=graph,
            target=target,
            loss=self.loss(),
            batches=None if self.data is None else self.data.batches("train", 128, seed=self.seed),
            validation=None if self.data is None else self.data.batches("val", EVALUATION_BATCH),
            history=tuple(plans),
            limits=self.limits,
            rng=torch.Generator().manual_seed(self.seed * 1000 + number),
            work=work,
            tell=self.tell,
            found=found.append,
            sensitivity=measuring(model, graph, self.data, self.limits, work, self.tell, self.curves),
        )

    def check_size(self, graph: Graph, plan: Plan, target: Target | None, method: Method) -> None:
        """Refuse a plan that does not do what was asked; the shipped methods never make one."""
        if target is None:
            return
        left, whole = size(graph, plan).of(target.of), size(graph).of(target.of)
        if left > target.keep * whole * (1 + 1e-12) + 1e-9:  # both are whole numbers
            raise TargetError(
                f"{type(method).__name__} left {left / whole:.3g} of the {target.of} where at most "
                f"{target.keep:.3g} was asked for; take another method, or test this one with secateur.check_method"
            )

    def about_data(self) -> tuple[object, ...]:
        """Return what a plan that was decided on the data depends on."""
        data = self.data
        return () if data is None else (data.name, data.size("train"), data.size("val"), data.mean, data.std)

    def act(self, model: nn.Module, graph: Graph, plan: Plan) -> tuple[Plan, nn.Module, float]:
        """Cut, and prove that nothing else changed; what sends constants goes too, where others can send them."""
        self.tell(Event("apply", "removing channels and comparing with the silenced network"))
        with self.clock("apply"):
            thin = apply(model, graph, plan)
        with self.clock("verify"):
            check = verify(model, graph, plan, thin, self.inputs)
        if not check.exact:
            raise VerificationError(
                f"the pruned network differs from the silenced one by {check.difference:.2g} (relative), first at "
                f"'{check.layer}'; nothing was written. Leave that layer alone (--leave) and report this network"
            )
        if not self.repair:  # which estimates what the dense network sent there, and would add it once more
            plan, thin = fold_constants(model, graph, plan, self.inputs, self.limits) or (plan, thin)
        return plan, thin, check.difference

    def mend(self, model: nn.Module, thin: nn.Module, graph: Graph, plan: Plan) -> None:
        """Repair without training what the cut has damaged, if asked."""
        if self.repair and self.data is not None:
            with self.clock("repair"):
                self.repairs += repair(model, thin, graph, plan, self.data, self.repair, seed=self.seed, tell=self.tell)

    def recover(self, model: nn.Module, graph: Graph, plan: Plan, method: Method, number: int) -> History:
        """Fine-tune with silenced weights held at zero."""
        assert self.train is not None
        assert self.data is not None
        return fit(
            model,
            self.data,
            self.train,
            shaper=hold(model, graph, plan),
            teacher=self.dense if self.train.distill else None,
            checkpoint=self.place(f"round-{number}.ckpt", model, method),
            seed=self.seed + number,
            tell=self.tell,
        )

    def measure(self, model: nn.Module, name: str, latency: bool, tested: Accuracy | None = None) -> Measurement:
        """Count, test on the test split unless that was done before, and time."""
        self.tell(Event("measure", f"measuring {name}"))
        untested = self.data if tested is None else None
        batches = None if untested is None else untested.batches("test", EVALUATION_BATCH)
        with self.clock("measure"):
            found = measure(model, self.inputs, batches, time=latency, tell=self.tell)
        return found if tested is None else replace(found, accuracy=tested)

    def loss(self) -> Callable[[nn.Module], float] | None:
        """Return the loss on the validation images as a function of a network."""
        data = self.data
        if data is None:
            return None
        return lambda network: accuracy(network, data.batches("val", EVALUATION_BATCH)).loss

    def place(self, name: str, model: nn.Module, method: Method) -> Path | None:
        """Return where the checkpoint of a training of this network goes, None without a work folder."""
        return None if self.work is None else self.work.place(name, model, method)
