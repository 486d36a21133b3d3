"""Repairs one after the other, each with what it brought."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

from secateur.arguments import checked
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, left, run
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.removal import check as belongs
from secateur.data import Data
from secateur.errors import DataError, SettingError, nearest
from secateur.events import Event, Tell, heard, ignore
from secateur.measure import Quality, quality
from secateur.measure.forward import device_of, joinable, joined, length, moved
from secateur.recipe_rules import DATA_FREE, REPAIRS
from secateur.reconstruction import refit
from secateur.repair.compensation import compensate
from secateur.repair.error import squared_errors
from secateur.repair.folding import fold
from secateur.repair.record import MIN_IMAGES_FOR_MEANS, Judge, Repair
from secateur.rules import Seed
from secateur.spelling import setting
from secateur.training import recalibrate

STEPS = REPAIRS
"""Every repair by name, in the order in which they are carried out, whatever the order in which they are asked for.

A fit brings the outputs of the dense network back, and to these belong its statistics. Means that are folded in
before it are then corrected twice; statistics that are estimated before it are those of a network that is no more, and
after it they stretch outputs that least squares has drawn together on purpose. So it makes the others needless, and
they are carried out only where it reaches no layer. Statistics come last, for they cover a mean that was folded into a
batch norm; the other way round it would count twice. What was folded into other units has no mean left to fold in.
"""

DEFAULT = ("reconstruct",)
"""What is done where nobody has asked for anything, and images are at hand."""

WITHOUT_IMAGES = ("fold",)
"""What is done where nobody has asked for anything, and there are none."""

MIN_IMAGES_TO_FIT = 8
"""Images below which layers are not fitted: fresh images would gain less than by ``fold``, or lose."""


@checked
@apart("dense")
def repair(
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    steps: Sequence[str],
    *,
    data: Data | None = None,
    seed: Seed = 0,
    judge: Judge | None = None,
    tell: Tell = ignore,
) -> tuple[Repair, ...]:
    """Repair a pruned network without training or labels, and measure each step where there are labels.

    Args:
        dense: the network before surgery, left as it is.
        thin: what ``apply`` returned; changed in place.
        graph: the graph of the dense network.
        plan: what was removed.
        images: batches of what the network takes, see ``secateur.data.load_calibration``.
        steps: of ``STEPS``, in any order; see there for what is carried out of them.
        data: validation images to measure on; None for none.
        seed: of what is drawn.
        judge: what the images are as a judge of ``fold``, which is taken back where it leaves more than the judge
            allows. None: it stays whatever it leaves.
        tell: hears the progress; where nobody listens, warnings are Python's.

    Raises:
        DataError: if there are no images.
        ModelError: if the dense network does not run on them.
        PlanError: if graph or plan are of another network.
        SettingError: if a step is unknown.
    """
    check(steps)
    belongs(dense, graph, graph.kept(plan), plan)
    if not images:
        raise DataError("there are no images to repair by; give at least one batch of what the network takes")
    run(dense, moved(images[0], device_of(dense)))
    tell = heard(tell)
    tell(Event("repair", "repairing"))
    now, done = _judge(thin, data), list[Repair]()
    for step, layers in taken(steps, dense, thin, graph, plan, images, seed, judge, tell):
        after = _judge(thin, data)
        done.append(Repair(step, layers, now, after))
        now = after
    for each in done:
        if each.layers and (left := [step for step in ordered(steps) if step in _needless(each.step)]):
            tell(Event("warning", f"without {' and '.join(left)}: it would undo part of what {each.step} has won"))
            break
    return tuple(done)


def taken(
    steps: Sequence[str],
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    seed: int,
    judge: Judge | None = None,
    tell: Tell = ignore,
) -> Iterator[tuple[str, int]]:
    """Take repairs in their order, without those that others have made needless; ``thin`` is changed in place.

    See ``repair``.

    Yields:
        After each step its name, and how many layers it changed.
    """
    needless: tuple[str, ...] = ()
    for step in ordered(steps):
        if step in needless:
            continue
        bare = copy.deepcopy(thin) if step in DATA_FREE and judge is not None else None
        layers = take(step, dense, thin, graph, plan, images, seed, tell)
        if layers and bare is not None and judge is not None:
            before, after = squared_errors(dense, (bare, thin), images, partial(left, graph, plan))
            if not after <= judge.times * before:
                thin.load_state_dict(bare.state_dict())
                tell(Event("warning", f"without {step}: it would bring {judge.name} further from the dense network"))
                continue
        yield step, layers
        if layers:
            needless += _needless(step)


def _needless(step: str) -> tuple[str, ...]:
    """Return the repairs that one which has reached any layer makes needless."""
    if step == "reconstruct":
        return tuple(other for other in STEPS if other != step)
    return ("compensate",) if step == "fold" else ()


def take(
    step: str,
    dense: nn.Module,
    thin: nn.Module,
    graph: Graph,
    plan: Plan,
    images: Sequence[Inputs],
    seed: int,
    tell: Tell = ignore,
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
        tell: hears the progress, where it is worth telling.
    """
    if step == "recalibrate":
        return recalibrate(thin, ((batch, None) for batch in _even(images)))
    if step == "fold":
        return len(fold(dense, thin, graph, plan, images))
    if step == "compensate":
        return len(compensate(dense, thin, graph, plan, images))
    return len(refit(dense, thin, graph, plan, images, seed=seed, tell=tell))


def _even(images: Sequence[Inputs]) -> Sequence[Inputs]:
    """Return batches of which the last is not much smaller: each counts the same, and a single image has no spread."""
    if len(images) < 2 or 2 * length(images[-1]) > length(images[-2]) or not joinable(images[-2:]):
        return images
    return [*images[:-2], joined(images[-2:])]


def chosen(steps: Sequence[str] | str | None, *, images: bool) -> tuple[str, ...]:
    """Return the repairs that a run carries out, in their order.

    Args:
        steps: what was asked for, in any order; None for ``DEFAULT`` where there are images, else ``WITHOUT_IMAGES``;
            ``"none"`` for nothing.
        images: whether there are any.

    Raises:
        DataError: if a repair that looks at images is asked for without any.
        SettingError: if one is unknown.
    """
    if steps is None:
        return DEFAULT if images else WITHOUT_IMAGES
    asked = (steps,) if isinstance(steps, str) else tuple(steps)
    asked = () if asked == ("none",) else asked
    check(asked)
    if not images and not DATA_FREE.issuperset(asked):
        raise DataError(
            f"repairs need images, labels or not; give {setting('calibrate')} or {setting('data')}, or take fold "
            "alone, which needs none"
        )
    return ordered(asked)


def affordable(steps: Sequence[str], images: int) -> tuple[str, ...]:
    """Return the repairs that so many different images are enough for, in their order.

    Where there are too few for a fit, ``fold`` stands in for it, as where there are none; a single one is no sample of
    anything, and what looks at none is left.

    Args:
        steps: what was asked for, known repairs.
        images: how many there are.
    """
    if images < MIN_IMAGES_TO_FIT and "reconstruct" in steps:
        steps = [*WITHOUT_IMAGES, *(step for step in steps if step != "reconstruct")]
    return tuple(step for step in ordered(steps) if images >= MIN_IMAGES_FOR_MEANS or step in DATA_FREE)


def ordered(steps: Sequence[str]) -> tuple[str, ...]:
    """Return known repairs in the order in which they are carried out, each once."""
    return tuple(step for step in STEPS if step in steps)


def check(steps: Sequence[str]) -> None:
    """Refuse unknown repairs.

    Raises:
        SettingError: with the nearest known name.
    """
    for step in steps:
        if step not in STEPS:
            raise SettingError(f"unknown repair '{step}'{nearest(step, STEPS)}; choose of {', '.join(STEPS)}")


def _judge(network: nn.Module, data: Data | None) -> Quality | None:
    return None if data is None else quality(network, data.batches("val"), data.task)
