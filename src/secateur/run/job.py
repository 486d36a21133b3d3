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

from secateur.core.graph import Graph
from secateur.core.method import Method
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.select import Limits
from secateur.core.size import Target, size
from secateur.core.surgery import apply, hold, verify
from secateur.core.trials import Search
from secateur.data import Data
from secateur.errors import TargetError, VerificationError
from secateur.events import Event, Tell
from secateur.measure import Measurement, accuracy, fastest, measure
from secateur.run import beforehand
from secateur.run.result import Result, widths
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
    clock: Clock = field(default_factory=Clock)
    searches: list[Search] = field(default_factory=list[Search])

    def run(self, rounds: int) -> Result:
        """Go through all rounds and measure."""
        with self.clock("trace"):
            graph = self.read(self.dense)
        beforehand.check_target(graph, self.method, self.target, self.limits)
        dense_size = size(graph).of(self.target.of) if self.target else 1
        before = self.measure(self.dense, "the dense network", self.latency)
        model, plans, histories, differences = self.dense, list[Plan](), list[History](), [0.0]
        first, middle = graph, None
        for number in range(1, rounds + 1):
            model = self.shape(model, number)
            if number > 1:
                graph = self.read(model)
            plan = self.decide(model, graph, self.share(graph, dense_size, number, rounds), plans, number)
            thin, difference = self.act(model, graph, plan)
            plans.append(plan)
            differences.append(difference)
            model = thin
            if self.train is not None and self.data is not None:
                if number == rounds:
                    middle = self.measure(model, "the network before fine-tuning", False)
                with self.clock("fine-tune"):
                    histories.append(self.recover(model, graph, plan, number))
        fastest(model, self.inputs)
        after = self.measure(model, "the pruned network", self.latency)
        return Result(
            model=model,
            dense=self.dense,
            plans=tuple(plans),
            before=before,
            middle=middle,
            after=after,
            histories=tuple(histories),
            pretrain=None,
            explanation=first.explain(),
            widths=widths(first, self.dense, model),
            verification=max(differences),
            method=self.method,
            target=self.target,
            example_inputs=self.inputs,
            searches=tuple(self.searches),
            seconds=self.clock.seconds,
        )

    def read(self, model: nn.Module) -> Graph:
        """Trace a network; refuse one without anything to prune."""
        self.tell(Event("trace", "reading the network"))
        return beforehand.read(model, self.inputs, self.leave)

    def share(self, graph: Graph, dense_size: int, number: int, rounds: int) -> Target | None:
        """Return the target of a round relative to the network that the round begins with."""
        if self.target is None:
            return None
        goal = self.target.keep ** (number / rounds) * dense_size
        return replace(self.target, keep=min(1.0, goal / max(1, size(graph).of(self.target.of))))

    def shape(self, model: nn.Module, number: int) -> nn.Module:
        """Train with the method's own regulariser before it decides, if it has one."""
        if self.train is None or self.data is None or type(self.method).training is Method.training:
            return model
        shaped = copy.deepcopy(model)
        with self.clock("shape"), self.method.training(shaped) as shaper:
            fit(
                shaped,
                self.data,
                self.train,
                shaper=shaper,
                checkpoint=self.place(f"shape-{number}.ckpt", model),
                seed=self.seed + number,
                tell=self.tell,
            )
        return shaped

    def decide(self, model: nn.Module, graph: Graph, target: Target | None, plans: Sequence[Plan], number: int) -> Plan:
        """Ask the method for a plan, and see to it that the plan meets the target."""
        self.tell(Event("plan", "deciding what to remove"))
        found: list[Search] = []
        problem = Problem(
            model=model,
            graph=graph,
            target=target,
            loss=self.loss(),
            batches=None if self.data is None else self.data.batches("train", 128, seed=self.seed),
            validation=None if self.data is None else self.data.batches("val", EVALUATION_BATCH),
            history=tuple(plans),
            limits=self.limits,
            rng=torch.Generator().manual_seed(self.seed * 1000 + number),
            work=None if self.work is None else self.work.folder,
            tell=self.tell,
            found=found.append,
        )
        with self.clock("plan"):
            if self.work is None:
                plan = self.method.plan(problem)
            else:
                facts = (
                    self.method,
                    target,
                    self.limits,
                    tuple(self.leave),
                    self.seed,
                    tuple(plans),
                    self.about_data(),
                )
                plan = self.work.plan(f"plan-{number}.json", model, facts, lambda: self.method.plan(problem))
                found = self.work.searches(f"found-{number}.json", model, facts, found)
        self.searches.extend(found)
        self.check_size(graph, plan, target)
        return plan

    def check_size(self, graph: Graph, plan: Plan, target: Target | None) -> None:
        """Refuse a plan that does not do what was asked; the shipped methods never make one."""
        if target is None:
            return
        left, whole = size(graph, plan).of(target.of), size(graph).of(target.of)
        if left > target.keep * whole * (1 + 1e-12) + 1e-9:  # both are whole numbers
            raise TargetError(
                f"{type(self.method).__name__} left {left / whole:.3g} of the {target.of} where at most "
                f"{target.keep:.3g} was asked for; take another method, or test this one with secateur.check_method"
            )

    def about_data(self) -> tuple[object, ...]:
        """Return what a plan that was decided on the data depends on."""
        data = self.data
        return () if data is None else (data.name, data.size("train"), data.size("val"), data.mean, data.std)

    def act(self, model: nn.Module, graph: Graph, plan: Plan) -> tuple[nn.Module, float]:
        """Cut, and prove that nothing else changed."""
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
        return thin, check.difference

    def recover(self, model: nn.Module, graph: Graph, plan: Plan, number: int) -> History:
        """Fine-tune with silenced weights held at zero."""
        assert self.train is not None
        assert self.data is not None
        return fit(
            model,
            self.data,
            self.train,
            shaper=hold(model, graph, plan),
            teacher=self.dense if self.train.distill else None,
            checkpoint=self.place(f"round-{number}.ckpt", model),
            seed=self.seed + number,
            tell=self.tell,
        )

    def measure(self, model: nn.Module, name: str, latency: bool) -> Measurement:
        """Count, test on the test split, and time."""
        self.tell(Event("measure", f"measuring {name}"))
        batches = None if self.data is None else self.data.batches("test", EVALUATION_BATCH)
        with self.clock("measure"):
            return measure(model, self.inputs, batches, time=latency, tell=self.tell)

    def loss(self) -> Callable[[nn.Module], float] | None:
        """Return the loss on the validation images as a function of a network."""
        data = self.data
        if data is None:
            return None
        return lambda network: accuracy(network, data.batches("val", EVALUATION_BATCH)).loss

    def place(self, name: str, model: nn.Module) -> Path | None:
        """Return where the checkpoint of a training of this network goes, None without a work folder."""
        return None if self.work is None else self.work.place(name, model, self.method)
