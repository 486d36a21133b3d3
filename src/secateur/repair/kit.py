"""Repairs one after the other, each with what it brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs
from secateur.data import Data
from secateur.errors import SettingError, nearest
from secateur.events import Event, Tell, ignore
from secateur.measure import Accuracy, accuracy
from secateur.recipe import REPAIRS
from secateur.repair.compensation import compensate
from secateur.repair.reconstruction import reconstruct
from secateur.training import recalibrate

STEPS = REPAIRS
"""Every repair by name, in the order in which they make sense together."""


@dataclass(frozen=True)
class Repair:
    """One repair and what it brought, on the validation images.

    Attributes:
        step: which repair.
        layers: how many layers it changed.
        before: accuracy without it; None where there is no labelled data to measure it on.
        after: accuracy with it; None in the same case.
    """

    step: str
    layers: int
    before: Accuracy | None
    after: Accuracy | None


def repair(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    steps: Sequence[str],
    *,
    data: Data | None = None,
    seed: int = 0,
    tell: Tell = ignore,
) -> tuple[Repair, ...]:
    """Repair a pruned network without training or labels, and measure each step where there are labels.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes, see ``secateur.data.load_calibration``.
        steps: of ``STEPS``, in the order in which to take them.
        data: validation images to measure on; None for none.
        seed: of what is drawn.
        tell: hears the progress.

    Raises:
        SettingError: if a step is unknown.
    """
    check(steps)
    now, done = _judge(thin, data), list[Repair]()
    for step in steps:
        tell(Event("repair", f"repairing: {step}"))
        layers = take(step, dense, thin, graph, plan, images, seed)
        after = _judge(thin, data)
        done.append(Repair(step, layers, now, after))
        now = after
    return tuple(done)


def take(
    step: str, dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan, images: Sequence[Inputs], seed: int
) -> int:
    """Take one step of a repair and return how many layers it changed; ``thin`` is changed in place.

    Args:
        step: of ``STEPS``.
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes.
        seed: of what is drawn.
    """
    if step == "recalibrate":
        return recalibrate(thin, ((batch, None) for batch in images))
    if step == "compensate":
        return len(compensate(dense, thin, graph, plan, images))
    return len(reconstruct(dense, thin, graph, plan, images, seed=seed))


def check(steps: Sequence[str]) -> None:
    """Refuse unknown repairs.

    Raises:
        SettingError: with the nearest known name.
    """
    for step in steps:
        if step not in STEPS:
            raise SettingError(f"unknown repair '{step}'{nearest(step, STEPS)}; choose of {', '.join(STEPS)}")


def _judge(network: nn.Module, data: Data | None) -> Accuracy | None:
    return None if data is None else accuracy(network, data.batches("val"))
