"""Everything that a method may look at when it decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.selection.costs import Times
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.selection.search_results import Search
from secateur.core.selection.sensitivity_curves import Curve, points
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import Inputs, masked
from secateur.core.surgery.forward import count_of
from secateur.core.task import Task
from secateur.errors import DataError, SettingError
from secateur.events import Tell, ignore
from secateur.spelling import setting
from secateur.typed import check_types

Batches = Iterable[Any]


@checked
@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be pruned, by how much, and what is known.

    Attributes:
        model: the dense network of this round; methods must leave it as they find it.
        graph: its groups.
        target: how much may be kept; None if the method's own settings say it all.
        loss: loss of a network on held-out images, lower is better; None without data.
        batches: calibration batches from the training examples, as the task takes them; of classification ``(images,
            labels)``. None without data.
        images: calibration batches as the network's forward takes them, without labels; None where there are none.
            They are read when they are first looked at, and are on the CPU.
        validation: all held-out examples, likewise; None without data.
        task: what the network is for; None for classification.
        history: the plans of earlier rounds.
        limits: floors and multiples for every plan.
        rng: the only source of randomness, on the CPU.
        work: folder in which long work may note its steps, so that it goes on after a kill; None for none.
        tell: hears the progress of long work.
        found: gets what a search over many plans has found, to be kept with the run.
        sensitivity: measures a curve for each group with scores, faster than one by one; None: one by one.
        time: times the layers of the network where it is to run; None where nothing may be timed.
        errors: fits the readers of each group anew on images while its units go, in the order of scores, lowest first,
            or given None in the order in which the least is lost. May be asked several times. None: nothing does.
        shaped: whether the network has just been trained as the method's ``shaping`` says.
        blind: whether ``errors`` has no images and estimates them from weights alone.
    """

    model: nn.Module
    graph: Graph
    target: Target | None = None
    loss: Callable[[nn.Module], float] | None = None
    batches: Batches | None = None
    images: Sequence[Inputs] | None = None
    validation: Batches | None = None
    task: Task | None = None
    history: tuple[Plan, ...] = ()
    limits: Limits = field(default_factory=Limits)
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    work: Path | None = None
    tell: Tell = ignore
    found: Callable[[Search], None] = lambda search: None
    sensitivity: Callable[[Mapping[str, Tensor]], Sequence[Curve]] | None = None
    time: Callable[[], Times] | None = None
    errors: Callable[[Mapping[str, Tensor] | None], Sequence[ErrorCurve]] | None = None
    blind: bool = False
    shaped: bool = False

    def __post_init__(self) -> None:
        check_types(self)

    def loss_after(self, plan: Plan) -> float:
        """Return the loss of the network with the plan's units silenced; the model is restored.

        Raises:
            DataError: if there is no data.
        """
        if self.loss is None:
            raise DataError(f"this method measures the loss on held-out images; give {setting('data')}")
        with masked(self.model, self.graph, plan) as silenced:
            return self.loss(silenced)

    def times(self) -> Times:
        """Return how long the networks take that this one can be thinned to.

        Raises:
            SettingError: if nothing may be timed.
        """
        if self.time is None:
            raise SettingError(
                "sharing out by latency needs the times of layers, and this problem has none; prune with "
                "secateur.prune, which measures them, or give the problem a 'time'"
            )
        return self.time()

    def image_count(self) -> int | None:
        """Return how many images there are to look at, which are read for it; None without any."""
        return None if self.images is None else sum(count_of(batch) or 0 for batch in self.images)

    def error_curves(self, scores: Mapping[str, Tensor] | None = None) -> Sequence[ErrorCurve]:
        """Return what no refit of its readers can bring back as each group loses its units.

        Args:
            scores: ``(size,)`` for each group that has a curve; the lowest go first, ``inf`` never goes. None: for all
                groups that may be pruned, in the order in which the least is lost (optimal brain surgeon over units).

        Raises:
            DataError: if there are no images.
        """
        if self.errors is None:
            raise DataError(
                "sharing out by reconstruction fits layers anew on a few hundred images, labelled or not, and there "
                f"are none; give some ({setting('data')}, {setting('calibrate')}), or choose a method and shares that "
                "need weights alone"
            )
        return self.errors(scores)

    def curves(self, scores: Mapping[str, Tensor]) -> Sequence[Curve]:
        """Return how the network suffers when each group with scores alone loses its lowest units.

        Raises:
            DataError: if there is no data.
        """
        if self.sensitivity is not None:
            return self.sensitivity(scores)
        out: list[Curve] = []
        dense = self.loss_after(Plan())
        for group in self.graph.free:
            rungs = points(group, scores[group.name], self.limits) if group.name in scores else []
            if rungs:
                kept, losses = zip(*[(kept, self.loss_after(plan)) for kept, plan in rungs], strict=True)
                out.append(Curve(group.name, tuple(group.layers), group.size, (group.size, *kept), (dense, *losses)))
        return out
