"""Measuring the sensitivity of every group, the part of the network before it computed once, and noted as it goes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.selection.search_results import key_of
from secateur.core.selection.sensitivity_curves import LEVELS, Curve, points
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import masked
from secateur.errors import ModelError
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import call, evaluating
from secateur.search.content_digest import digest
from secateur.search.racing.candidates import Bench, Ways
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.losses import Point, counted, measured
from secateur.search.task_examples import Examples, sound
from secateur.search.trial_journal import Journal
from secateur.tasks import CLASSIFICATION

IMAGES = 2048
"""Validation images that are looked at, unless told otherwise."""


def curves(
    model: nn.Module,
    graph: Graph,
    scores: Mapping[str, Tensor],
    held: HeldOut | Examples,
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    levels: int = LEVELS,
    work: Path | None = None,
    tell: Tell = ignore,
) -> tuple[Curve, ...]:
    """Return a curve for each group with scores, in the order of the graph.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        scores: for each group, ``(size,)``; the lowest go first.
        held: the images, or the examples of another task.
        limits: floors and multiples; curves end where these do.
        levels: points of a curve besides the dense network.
        work: folder in which every group is noted when it is done, so that a killed measurement goes on.
        tell: hears the progress.

    Raises:
        ModelError: if the network gives no class scores, or scores that are not finite.
    """
    ladders = [
        Ladder(group.name, tuple(group.layers), group.size, tuple(points(group, scores[group.name], limits, levels)))
        for group in graph.free
        if group.name in scores
    ]
    return along(model, graph, ladders, held, work=work, tell=tell)


@dataclass(frozen=True)
class Ladder:
    """How one group or layer loses more and more, all others whole.

    Attributes:
        name: of the group or layer.
        layers: that it consists of.
        size: how many units, or other things that go one by one, it has.
        rungs: how many stay, falling, and the plan that does so.
    """

    name: str
    layers: tuple[str, ...]
    size: int
    rungs: tuple[tuple[int, Plan], ...]


def along(
    model: nn.Module,
    graph: Graph,
    ladders: Sequence[Ladder],
    held: HeldOut | Examples,
    *,
    work: Path | None = None,
    tell: Tell = ignore,
) -> tuple[Curve, ...]:
    """Return a curve for each ladder that has rungs, in their order; arguments and errors as for ``curves``."""
    journal = Journal(None if work is None else work / f"sensitivity-{_name(model, held, ladders)}.jsonl", _read)
    try:
        start = _dense(model, held, journal)
        # a measurement that goes on runs the rest as it ran what is there: sums are rounded otherwise in other ways
        ways = next((ways for _, ways in map(_read, journal.entries.values()) if ways is not None), None)
        for number, ladder in enumerate(ladders, 1):
            tell(Event("sensitivity", "measuring the sensitivity of each group", number - 1, len(ladders)))
            if number not in journal.entries and ladder.rungs:
                plans = [plan for _, plan in ladder.rungs]
                if isinstance(held, Examples):
                    found = _judged(model, graph, plans, held)
                    journal.note(number, {"points": [_noted(point) for point in found]})
                    continue
                bench = Bench(model, graph, plans, held, ways, timed=False)
                ways = ways or bench.ways
                found = measured(bench, range(len(plans)), held)
                journal.note(number, {"points": [_noted(point) for point in found], "ways": asdict(ways)})
        tell(Event("sensitivity", step=len(ladders), total=len(ladders)))
        return tuple(
            Curve(
                group=ladder.name,
                layers=ladder.layers,
                size=ladder.size,
                kept=(ladder.size, *(kept for kept, _ in ladder.rungs)),
                loss=(start[0], *(loss for loss, _ in _read(journal.entries[number])[0])),
                values=(start[1], *(value for _, value in _read(journal.entries[number])[0])),
                metric=held.task.metric if isinstance(held, Examples) else None,
            )
            for number, ladder in enumerate(ladders, 1)
            if ladder.rungs
        )
    finally:
        journal.close()


def _judged(model: nn.Module, graph: Graph, plans: Sequence[Plan], held: Examples) -> list[Point]:
    """Return loss and metric under each plan, one after the other."""
    points = list[Point]()
    for plan in plans:
        with masked(model, graph, plan) as network:
            loss, error = held.loss_and_error(network)
        points.append((loss, held.task.metric.value_of(error)))
    return points


def _dense(model: nn.Module, held: HeldOut | Examples, journal: Journal) -> Point:
    if 0 not in journal.entries and isinstance(held, Examples):
        loss, error = sound(model, held)
        journal.note(0, {"points": [_noted((loss, held.task.metric.value_of(error)))]})
    elif 0 not in journal.entries:
        assert isinstance(held, HeldOut)
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), evaluating(model):
            for images, labels in zip(held.images.split(held.batch), held.labels.split(held.batch), strict=True):
                total += counted(CLASSIFICATION.output(call(model, images)).float(), labels)
        loss, accuracy = (total / len(held)).tolist()
        if not math.isfinite(loss):
            raise ModelError("the network's class scores are not finite before anything is pruned; load sound weights")
        journal.note(0, {"points": [_noted((loss, accuracy))]})
    return _read(journal.entries[0])[0][0]


def _read(entry: Mapping[str, Any]) -> tuple[list[Point], Ways | None]:
    """Return the points of an entry, and how they were found but for the dense network's."""
    found = [(math.inf if loss is None else float(loss), float(value)) for loss, value in entry["points"]]
    return found, Ways(**entry["ways"]) if "ways" in entry else None


def _noted(point: Point) -> tuple[float | None, float]:
    loss, value = point
    return loss if math.isfinite(loss) else None, value


def _name(model: nn.Module, held: HeldOut | Examples, ladders: Sequence[Ladder]) -> str:
    """Return a name for everything that the numbers depend on."""
    state = digest({**dict(model.named_parameters()), **dict(model.named_buffers())})
    several = isinstance(held, Examples)
    seen = held.fingerprint() if several else digest({"images": held.images, "labels": held.labels})
    plans = [key_of(plan) for ladder in ladders for _, plan in ladder.rungs]
    return hashlib.sha256(" ".join([state, seen, *plans]).encode()).hexdigest()[:12]
