"""One round of a pruning: decide, cut, verify, repair, recover."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.method import Method, naming_what_widens, shapes
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import Hold, apply, carrying_out, check_training, hold, prove, prove_elsewhere
from secateur.core.surgery.steady_draws import DRAWN
from secateur.errors import BranchingError, TargetError
from secateur.events import Event, Tell, warn
from secateur.measure import quality
from secateur.repair import DATA_FREE, WITHOUT_IMAGES, Repair, fold_constants, helps, repair
from secateur.run.calibration_images import repaired_by
from secateur.run.device_placement import mended_there, there
from secateur.run.error_curves import measuring as fitting
from secateur.run.fallback import without_fit
from secateur.run.job import Job
from secateur.run.latency_aware_methods import decides_by_the_clock
from secateur.run.layer_times import place_of_use, timing
from secateur.run.replanning import carried_out
from secateur.run.sensitivity import measuring
from secateur.run.stopwatch import of_epochs
from secateur.training import History, fit


@dataclass
class Round:
    """A network on its way through one round: what the round begins with, and its steps in their order.

    Attributes:
        job: the run that the round is part of.
        number: of the round, from 1.
        method: decides what goes.
        target: what to keep of ``model``; None: the method's own rates decide.
        model: the network; the steps that change it put another in its place and leave this one as it is.
        graph: of the network that the round begins with.
        plans: those of the rounds before.
        zeros: the weights that the rounds before have silenced.
        begun: the network as the cut found it, with what the method itself has trained; None before the cut.
    """

    job: Job
    number: int
    method: Method
    target: Target | None
    model: nn.Module
    graph: Graph
    plans: tuple[Plan, ...] = ()
    zeros: Plan = EMPTY
    begun: nn.Module | None = None

    def cut(self) -> tuple[Plan, float]:
        """Decide and cut; return the plan, and how far the network is from the silenced one.

        Raises:
            TargetError: if the plan keeps more than was asked.
            VerificationError: if the new network computes something else.
        """
        self.shape()
        searches = len(self.job.searches)

        def work(graph: Graph) -> tuple[Plan, nn.Module, float]:
            self.graph = graph
            del self.job.searches[searches:]
            plan = self.decide()
            with carrying_out(plan):
                return self.act(plan.with_zeros(self.zeros) if self.zeros.edits else plan)

        self.graph, (plan, thin, difference) = carried_out(self.graph, work, partial(self.job.read, self.model))
        self.begun, self.model = self.model, thin
        return plan, difference

    def shape(self) -> None:
        """Train with the method's own regulariser before it decides, if it has one."""
        job = self.job
        if job.shaping is None or job.data is None or not shapes(self.method):
            return
        before, self.model = self.model, copy.deepcopy(self.model)
        masks = {edit.tensor: edit.mask() for edit in self.zeros.edits if isinstance(edit, ZeroWeights)}
        settings, data = job.shaping, job.data

        def trained() -> History:
            with naming_what_widens(self.method), self.method.shaping(self.problem(job.searches, self.model)) as shaper:
                return fit(
                    self.model,
                    data,
                    settings,
                    shaper=Hold(self.model, masks, shaper) if masks else shaper,
                    teacher=job.dense if settings.distill else None,
                    checkpoint=job.checkpoint(f"shape-{self.number}.ckpt", before, self.method),
                    seed=job.seed + self.number,
                    memory=job.choices.speed("shape", job.dense, settings),
                    tell=job.tell,
                )

        job.shaped.append(job.clock.training("shape", trained, of_epochs))

    def decide(self) -> Plan:
        """Ask the method for a plan, and see to it that the plan meets the target."""
        job, method = self.job, self.method
        job.tell(Event("plan", "deciding what to remove"))
        with job.clock("plan"):
            left_alone = (tuple(job.leave), job.groups)
            facts = (method, self.target, job.limits, left_alone, job.seed, self.plans, job.about_data())
            facts = (*facts, self.graph.tried) if self.graph.tried else facts
            facts = facts if job.trusting else (*facts, "after trials")  # which may have pinned something
            facts = (*facts, ("free outputs", *self.graph.free_outputs)) if self.graph.free_outputs else facts
            name, beside = f"plan-{self.number}", job.beside()
            if decides_by_the_clock(method):  # and no two measurements are alike
                facts, asked = (*facts, *place_of_use(job)), lambda: self.found().to_json()
                plan = job.choices.take(name, self.model, facts, asked, Plan.from_json, beside=beside, bound=True)
            elif job.work is None or getattr(method, "allocate", "") == "sensitivity":  # which notes its own steps
                plan = self.found()
            else:
                plan = job.work.plan(f"{name}.json", self.model, facts, self.found, beside)
        self.check_size(plan)
        said = (*plan.notes, job.limits.note_of(self.graph, plan), self.graph.spared)
        notes, free = tuple(filter(None, said)), self.graph.free_outputs
        return replace(plan, notes=notes, tried=self.graph.tried, free_outputs=free)

    def found(self) -> Plan:
        """Return the method's plan; the run keeps what a search for it has tried."""
        searches = list[Search]()
        plan = self.ask(searches)
        self.job.searches += searches
        return plan

    def ask(self, found: list[Search], limits: Limits | None = None) -> Plan:
        """Return the method's plan under the run's limits or others, made on the accelerator if there is one."""

        def decided(model: nn.Module) -> Plan:
            found.clear()
            problem = self.problem(found, model)
            return self.method.plan(problem if limits is None else replace(problem, limits=limits))

        with naming_what_widens(self.method):
            plan = there(self.model, self.job.place, decided, self.job.tell)
        if self.job.forecast is not None:
            self.job.forecast.table.save()
        return plan

    def problem(self, found: list[Search], model: nn.Module) -> Problem:
        """Return everything that a method may look at in this round.

        Args:
            found: takes the searches that the method carries out.
            model: the network, or a copy of it on another device.
        """
        job = self.job
        work = None if job.work is None else job.work.folder
        return Problem(
            model=model,
            graph=self.graph,
            target=self.target,
            loss=self.loss(),
            batches=None if job.data is None else job.data.batches("train", 128, seed=job.seed),
            images=job.image_batches(),
            errors=fitting(job, model, self.graph, self.model),
            blind=job.image_batches() is None,
            shaped=bool(job.shaped),
            validation=None if job.data is None else job.data.batches("val"),
            task=None if job.data is None else job.data.task,
            history=self.plans,
            limits=job.limits,
            rng=torch.Generator().manual_seed(job.seed * 1000 + self.number),
            work=work,
            tell=job.tell,
            found=found.append,
            sensitivity=measuring(model, self.graph, job.data, job.limits, work, job.tell, job.curves),
            time=timing(job, self.model, self.graph),
        )

    def loss(self) -> Callable[[nn.Module], float] | None:
        """Return the loss on the validation examples as a function of a network; its error where a task has none."""
        data = self.job.data
        return None if data is None else lambda network: quality(network, data.batches("val"), data.task).loss_or_error

    def check_size(self, plan: Plan) -> None:
        """Refuse a plan that does not do what was asked; the shipped methods never make one."""
        if (target := self.target) is None:
            return
        left, whole = size(self.graph, plan).of(target.of), size(self.graph).of(target.of)
        if left > target.keep * whole * (1 + 1e-12) + 1e-9:  # both are whole numbers
            raise TargetError(
                f"{type(self.method).__name__} left {left / whole:.3g} of the {target.of} where at most "
                f"{target.keep:.3g} was asked for; take another method, or test this one with secateur.check_method"
            )

    def act(self, plan: Plan) -> tuple[Plan, nn.Module, float]:
        """Cut, and prove that nothing else changed; what sends constants goes too, where others can send them."""
        job, model, graph = self.job, self.model, self.graph
        job.tell(Event("apply", f"{plan.doing} and comparing with the silenced network"))
        with job.clock("apply"):
            thin = apply(model, graph, plan)
        with job.clock("verify"):
            proof = prove(model, graph, plan, thin, job.inputs)
            trains = prove_elsewhere(model, graph, plan, thin, job.inputs, proof)
        if proof.check.draws:
            warn(DRAWN, job.tell)
            plan = replace(plan, notes=(*plan.notes, DRAWN))
        if "compensate" not in job.repair:  # which would add once more what the constants gave; a fit sees them added
            folded = fold_constants(model, graph, plan, job.inputs, job.limits)
            (plan, thin), trains = folded or (plan, thin), trains and not folded
        if not trains:
            with job.clock("verify"):
                check_training(model, thin, job.inputs)
        return plan, thin, proof.check.difference

    def mend(self, plan: Plan) -> None:
        """Repair without training what the cut has damaged; without a fit where none can be had and nobody named one.

        Raises:
            BranchingError: if none can be had and somebody has named it, or a budget was settled by it.
        """
        job, thin = self.job, self.model
        with job.clock("repair"):
            if job.repair_asked or job.budget is not None:
                job.repairs += self._mended(plan)
                return
            bare = copy.deepcopy(thin.state_dict())
            try:
                done = self._mended(plan)
            except BranchingError as error:  # what was decided, and perhaps trained, before the cut stays
                _, job.repair = without_fit(
                    error, job.method, job.repair, then=job.then, method_asked=True, repair_asked=False, tell=job.tell
                )
                thin.load_state_dict(bare)
                done = self._mended(plan)
            job.repairs += done

    def _mended(self, plan: Plan) -> Sequence[Repair]:
        job, begun, thin = self.job, self.begun, self.model
        assert begun is not None

        def fitted(dense: nn.Module, thin: nn.Module) -> tuple[Repair, ...]:
            steps = self.helping(dense, thin, plan, job.repair, job.tell)
            images, judge = repaired_by(job, steps)
            return repair(
                dense, thin, self.graph, plan, images, steps, data=job.data, seed=job.seed, judge=judge, tell=job.tell
            )

        def mended() -> tuple[Repair, ...]:
            return mended_there(begun, thin, job.place, fitted, job.tell)

        if job.work is None:
            return mended()
        facts, name = (plan, job.repair, job.seed, job.about_data()), f"repaired-{self.number}.safetensors"
        always = job.train is not None or job.minutes is not None
        return job.work.repairs(name, begun, facts, thin, mended, job.beside(), always=always)

    def helping(self, dense: nn.Module, thin: nn.Module, plan: Plan, steps: Sequence[str], tell: Tell) -> Sequence[str]:
        """Return repairs without those that the few images of a run do not carry; ``fold`` stands in for a fit."""
        job = self.job
        if job.images is None or not job.images.few or DATA_FREE.issuperset(steps):
            return steps
        if helps(steps, dense, thin, self.graph, plan, repaired_by(job, steps)[0], job.seed):
            return steps
        instead = WITHOUT_IMAGES if {"reconstruct", *WITHOUT_IMAGES}.intersection(steps) else ()
        after = f"; {' and '.join(instead)} alone, without looking at any, is tried instead" if instead else ""
        what = " and ".join(steps)
        tell(Event("warning", f"without {what}: of so few images, some that it had not seen got worse by it{after}"))
        return instead

    def recover(self, plan: Plan) -> History:
        """Fine-tune with silenced weights held at zero."""
        job, train = self.job, self.job.train
        assert train is not None
        assert job.data is not None
        if train.recalibrate and any(each.step == "reconstruct" and each.layers for each in job.repairs):
            job.tell(Event("warning", "without recalibrate before fine-tuning: it would undo part of the repair"))
            train = replace(train, recalibrate=False)
        training = partial(
            fit,
            self.model,
            job.data,
            train,
            shaper=hold(self.model, self.graph, plan),
            teacher=job.dense if train.distill else None,
            checkpoint=job.checkpoint(f"round-{self.number}.ckpt", self.model, self.method),
            seed=job.seed + self.number,
            memory=job.choices.speed("train", job.dense, train),
            tell=job.tell,
        )
        return job.clock.training("fine-tune", training, of_epochs)
