"""One pruning under way: what was asked for, and what has come of it so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.budget import Budget
from secateur.core.graph import Graph, Groups
from secateur.core.method import Method, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.search_results import Search
from secateur.core.selection.sensitivity_curves import Curve
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import Inputs
from secateur.core.surgery.forward import describe
from secateur.core.trace import Trials
from secateur.core.zeros.block_execution import execute, execution_of
from secateur.data import Calibration, Data, load_calibration
from secateur.data.calibration import COUNT
from secateur.data.lazy_batches import Later
from secateur.data.loaders import LoaderSource
from secateur.events import Event, Tell
from secateur.measure import Measurement, Quality, Runtime, fastest
from secateur.measure.forecast import Forecast
from secateur.outcome import Step
from secateur.repair import Repair
from secateur.run import preflight
from secateur.run.budget_terms import Settled
from secateur.run.byproducts import Byproducts
from secateur.run.device_placement import measure_at
from secateur.run.fallback import FEWEST_CHOSEN
from secateur.run.recorded_choices import Choices
from secateur.run.speed_promise import Foretold
from secateur.run.stopwatch import Clock
from secateur.run.work_folder import Work
from secateur.training import History, Settings


@dataclass
class Job:
    """One call of ``prune`` under way: the state that all of its steps share."""

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
    tested: Quality | None = None
    answers: bool = True
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
    trusting: bool = True  # in what was read, until a cut fails
    sped_up: int = 0
    settled: Settled | None = None
    forecast: Forecast | None = None
    foretold: Foretold | None = None
    looked_at: list[str] = field(default_factory=list[str])  # unlabelled images, in words; the last says it
    searches: list[Search] = field(default_factory=list[Search])
    shaped: list[History] = field(default_factory=list[History])
    repairs: list[Repair] = field(default_factory=list[Repair])
    cuts: list[tuple[Graph, Plan]] = field(default_factory=list[tuple[Graph, Plan]])  # where outputs lose channels
    curves: list[tuple[Curve, ...]] = field(default_factory=list[tuple[Curve, ...]])
    error_curves: dict[tuple[object, ...], Sequence[ErrorCurve]] = field(
        default_factory=dict[tuple[object, ...], Sequence[ErrorCurve]]
    )

    def read(self, model: nn.Module, tried: Sequence[Plan] = ()) -> Graph:
        """Trace a network, perhaps again after plans that failed; refuse one without anything to prune.

        Trials wait for the first real cut where none but proved networks are made, and until one has failed.
        """
        how: dict[str, Any] = {"free_outputs": self.free_outputs, "groups": self.groups, "patience": self.patience}
        scores = all(isinstance(m, ScoreMethod) for m in (self.method, *(step.method for step in self.then)))
        self.trusting = self.trusting and scores and not tried  # searches make networks that nobody proves
        trials: Trials = "where needed" if self.trusting else "always"
        return preflight.read(model, self.inputs, self.leave, **how, tell=self.tell, tried=tried, trials=trials)

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
        if found is not None:
            self.looked_at.append(found.note)
        return found

    def image_batches(self) -> Sequence[Inputs] | None:
        """Return the batches of ``images``, not read before somebody looks at them."""
        if self.calibrate is None and self.data is None:
            return None
        return Later(lambda: () if self.images is None else self.images.batches)

    def calibration(self) -> str:
        """Return which unlabelled images were used, in words; empty if nobody has looked at any."""
        return self.looked_at[-1] if self.looked_at else ""

    def beside(self) -> Byproducts:
        """Return what takes note of what the run gains from now on."""
        return Byproducts(self.looked_at, self.searches, self.curves, self.clock)

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

    def measure(self, model: nn.Module, name: str, tested: Quality | None = None) -> Measurement:
        """Count, and test on the test split unless that was done before."""
        self.tell(Event("measure", f"measuring {name}"))
        with self.clock("measure"):
            found = measure_at(model, self.inputs, self.data if tested is None else None, self.place, tell=self.tell)
        return found if tested is None else replace(found, quality=tested)

    def checkpoint(self, name: str, model: nn.Module, method: Method) -> Path | None:
        """Return where the checkpoint of a training of this network goes, None without a work folder."""
        return None if self.work is None else self.work.place(name, model, method)
