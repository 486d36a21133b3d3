"""What comes out of a pruning run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.arguments import checked
from secateur.core.graph import Graph, maker_of, tensor_of
from secateur.core.graph.explanation import Explanation
from secateur.core.method import Method
from secateur.core.plan import Plan
from secateur.core.selection.search_results import Search
from secateur.core.selection.sensitivity_curves import Curve
from secateur.core.sizes.size import Target
from secateur.core.surgery import migrate_through
from secateur.measure import Measurement, SpeedUp, deploy
from secateur.outcome.network_stages import DISTILLED, stages, way_of
from secateur.outcome.source import Source
from secateur.outcome.spent import Spent
from secateur.outcome.step import Step
from secateur.recipe import Recipe
from secateur.repair import Repair
from secateur.rules import Seconds, Threads
from secateur.training import History
from secateur.typed import check_types


@dataclass(frozen=True)
class Width:
    """Output channels of a layer, or hidden units of one direction, in the dense and in the pruned network."""

    layer: str
    before: int
    after: int


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """What came out of a pruning run, see ``secateur.Result``, which can be saved.

    Attributes:
        model: the pruned network.
        dense: the network that went in; the same object that was given, untouched.
        plans: what was removed, round by round.
        before: measurement of the dense network.
        cut: the same after the last cut and before its repair; quality and size only. None where nothing was repaired,
            or where there are no labels.
        middle: the same before the last fine-tuning, after its repair if there was one. None without fine-tuning, or
            where the minutes that there were for it have gained nothing.
        after: measurement of the pruned network.
        histories: the fine-tuning of each round; empty without.
        pretrain: the training of the dense network, if the recipe asked for one.
        explanation: what could be pruned and what not, and why.
        widths: output channels of every layer, before and after; of a recurrent one the hidden units of one direction.
        verification: largest relative difference between the pruned and the silenced network, over all rounds.
        method: the method with its settings.
        target: what was asked; None if the method's settings said it all.
        then: the steps that followed, with methods and targets of their own.
        example_inputs: what the networks were traced, measured and verified on.
        recipe: what to write down so that the run can be repeated; None for a network that has no name.
        searches: every candidate that was tried, and how it did, for methods that search; one for each round.
        sensitivity: how the network suffers when one group alone is pruned, for each round that measured it.
        repairs: what was repaired without training after each cut, with accuracies on the validation images.
        calibration: how many unlabelled images were used, and what more would bring; empty if none were.
        normalisation: mean and standard deviation per channel, for pixels in 0..1, with which the images of the run
            were normalised; None where they came as the network takes them.
        classes: how many the data has, which the network was built for; None where it has none, or there is none.
        shaped: the method's own training before each decision; empty where it has none.
        speed: how much faster the pruned network is, both timed in turns when all else was done; None if not timed.
        budget: what was measured to meet a budget, see ``Settled.found``; empty without.
        foretold: the speed-up that was promised before the work, see ``run.speed_forecast``; empty without.
        multiples: of what the width of each group was to be a multiple, by its name.
        chosen: what the clock has decided, by name; a run that is otherwise alike and is given it (``prune(chosen=)``)
            ends with the same numbers.
        sources: the files that the recipe names, as they were; empty without a recipe.
        minutes: how they were used, see ``Spent``; None where none were given.
        seconds: wall-clock time of each stage.
        predictions: what the dense and the pruned network make of some test examples, drawn, the worst disagreement
            first, see ``secateur.predictions``; empty without test examples, or where nobody knows how to draw them.
        graphs: how the network was read that each round began with, the dense one first.
    """

    model: nn.Module
    dense: nn.Module
    plans: tuple[Plan, ...]
    before: Measurement
    middle: Measurement | None
    after: Measurement
    histories: tuple[History, ...]
    pretrain: History | None
    explanation: Explanation
    widths: tuple[Width, ...]
    verification: float
    method: Method
    target: Target | None
    example_inputs: Any
    recipe: Recipe | None = None
    searches: tuple[Search, ...] = ()
    sensitivity: tuple[tuple[Curve, ...], ...] = ()
    then: tuple[Step, ...] = ()
    shaped: tuple[History, ...] = ()
    repairs: tuple[Repair, ...] = ()
    calibration: str = ""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    classes: int | None = None
    speed: SpeedUp | None = None
    budget: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cut: Measurement | None = None
    foretold: Mapping[str, Any] = field(default_factory=dict[str, Any])
    multiples: Mapping[str, int] = field(default_factory=dict[str, int])
    chosen: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sources: tuple[Source, ...] = ()
    minutes: Spent | None = None
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    predictions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    graphs: tuple[Graph, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)

    def __repr__(self) -> str:
        """Return one line; the fields hold whole networks and plans."""
        macs, kept = self.before.counts.macs, self.after.counts.macs
        speed = f", {self.speed.ratio:.2f} times as fast in {self.speed.runtime}" if self.speed else ""
        what = "counted MACs" if self.after.counts.uncounted else "MACs"
        size = f"{kept:,} of {macs:,} {what}{speed}"
        story = "; ".join(filter(None, (size, *self._came_about())))
        return f"<{type(self).__name__} of {type(self.method).__name__}: {story}>"

    def _came_about(self) -> Iterator[str]:
        """Yield what was done after the cut, and how well each network that the run had does where it is known."""
        steps = dict.fromkeys(each.step for each in self.repairs if each.layers)
        if steps:
            yield f"repaired by {' and '.join(steps)}"
        if self.repairs and not steps:
            yield "nothing to repair"
        known = [(name, found.quality) for name, found in self.stages.items() if found.quality is not None]
        if known:
            metric = known[0][1].metric
            yield f"test {metric.name} {', '.join(f'{name} {metric.text(found.value)}' for name, found in known)}"
        elif DISTILLED in self.stages:
            yield DISTILLED

    @property
    def stages(self) -> dict[str, Measurement]:
        """Return the measurements by what was measured: ``dense``, ``cut``, ``repaired`` and ``fine-tuned`` (or
        ``distilled``).

        Those that the run had, in this order; of several rounds the last. Without labels there is no ``cut`` beside
        ``repaired``, for nothing but the size is known, and both have the same.
        """
        way = way_of(None if self.minutes is None else vars(self.minutes))
        return stages(self.before, self.cut, self.middle, self.after, repaired=bool(self.repairs), way=way)

    @property
    def graph(self) -> Graph:
        """Return how the dense network was read: its groups, which the first plan speaks of."""
        return self.graphs[0]

    def migrate(self, optimizer: torch.optim.Optimizer) -> None:
        """Make an optimizer of the network that was given steer the pruned one, see ``secateur.migrate_optimizer``.

        Raises:
            ModelError: if it holds parameters of another network; nothing has been changed then.
            PlanError: if layers were regrouped, whose weights are others afterwards.
        """
        migrate_through(optimizer, self.dense, self.model, list(zip(self.graphs, self.plans, strict=False)))

    def deploy(self, *, time: bool = True, seconds: Seconds = 0.5, threads: Threads = None) -> nn.Module:
        """Return the pruned network ready to run, see ``secateur.measure.deploy``, which also says what it did."""
        return deploy(self.model, self.example_inputs, time=time, seconds=seconds, threads=threads).model


def widths(graph: Graph, dense: nn.Module, thin: nn.Module) -> tuple[Width, ...]:
    """Compare the output channels of every layer of the dense and the pruned network."""
    found = (
        Width(maker_of(name), *(graph.width(name, tensor_of(model, name).shape[dim]) for model in (dense, thin)))
        for name, roles in graph.roles.items()
        if "makes" in roles and name in graph.parameters
        for dim in [roles.index("makes")]
    )
    return tuple(dict.fromkeys(found))  # the weights of a recurrent layer have the same rows
