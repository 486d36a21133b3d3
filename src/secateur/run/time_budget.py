"""What is made of a number of minutes after the last cut: the repair first, and training in the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery import hold, left, tensors_in
from secateur.errors import DataError, SettingError
from secateur.measure import Measurement
from secateur.outcome import Spent
from secateur.run.device_placement import several_processes
from secateur.run.job import Job
from secateur.run.round import Round
from secateur.spelling import setting
from secateur.training.lessons import FEWEST, Imitation, Labelled
from secateur.training.time_limit import Now, within

clock: Now = time.monotonic
"""What the minutes are read from."""


def check_minutes(minutes: float | None, *, images: bool) -> None:
    """Refuse minutes that nothing can be made of, before any work.

    Raises:
        DataError: without images.
        SettingError: if several processes run together, which no clock stops alike.
    """
    if minutes is None:
        return
    if not images:
        raise DataError(
            f"minutes need images, labels or not; give {setting('calibrate')} or {setting('data')}, or leave "
            "minutes out"
        )
    if several_processes():
        raise SettingError("minutes are for one process; start it alone, or give epochs instead of minutes")


def spend(job: Job, last: Round, plan: Plan) -> tuple[Measurement | None, Spent]:
    """Train the network of the last round in the time that its repairs have left, and keep the best state.

    What is measured on the way is not part of the minutes.

    Args:
        job: the run, with its minutes.
        last: its last round; its network is changed in place.
        plan: that of the round, whose zeros stay.

    Returns:
        How the network was before, None where that has gained nothing; and how the minutes were used.

    Raises:
        TrainingError: if the checkpoint of an earlier run is damaged.
    """
    assert job.minutes is not None
    repair = job.clock.seconds.get("repair", 0.0)
    found = _lesson(job, last, plan, 60 * job.minutes - repair)
    if isinstance(found, str):
        return None, Spent(job.minutes, repair, ended=found)
    lesson, held_out = found
    job.speed_up(last.model, job.inputs)
    middle = job.measure(last.model, "the network before training")
    train = partial(
        within,
        last.model,
        lesson,
        60 * job.minutes,
        used=repair,
        shaper=hold(last.model, last.graph, plan),
        checkpoint=job.checkpoint(f"minutes-{last.number}.ckpt", last.model, last.method),
        seed=job.seed + last.number,
        now=clock,
        tell=job.tell,
    )
    way: Literal["fine-tuning", "distillation"] = "fine-tuning" if isinstance(lesson, Labelled) else "distillation"
    taught = job.clock.training(_STAGES[way], train, lambda taught: taught.seconds - taught.begun)
    spent = Spent(
        job.minutes,
        taught.begun,
        taught.seconds - taught.begun,
        way=way,
        steps=taught.steps,
        passes=taught.passes,
        held_out=held_out,
        before=taught.before.loss,
        after=taught.after.loss,
        metric_before=taught.before.value,
        metric_after=taught.after.value,
        gained=taught.selected > 0,
        ended=_ENDS[taught.ended],
    )
    return middle if spent.gained else None, spent


_STAGES = {"fine-tuning": "fine-tune", "distillation": "distil"}

_ENDS = {
    "time": "the time was up",
    "passes": "the epochs that were asked for were over",
    "diverged": "a loss was not finite, which a smaller learning rate may help",
}


def _lesson(job: Job, last: Round, plan: Plan, left: float) -> tuple[Labelled | Imitation, int] | str:
    """Return what the network learns from and how many images judge it; or why it learns nothing, in words."""
    if not any(each.edits for each in (*last.plans, plan)):
        return "nothing was cut"
    if left <= 0:
        return "the repair has used the time" if job.minutes else "no time was given for it"
    if not any(parameter.requires_grad for parameter in last.model.parameters()):
        return "no parameter of the network may be trained"
    if job.data is not None and job.data.size("val"):
        return Labelled(job.data, job.train, job.dense), job.data.size("val")
    images = job.images
    assert images is not None
    if images.different < 2 * FEWEST:
        return f"{images.different} images are too few: {FEWEST} to learn from and {FEWEST} to judge by are the least"
    lesson = Imitation(job.dense, images.batches, f"{images.count}/{images.digest()}", partial(_left, tuple(job.cuts)))
    return lesson, len(lesson.held)


def _left(cuts: Sequence[tuple[Graph, Plan]], outputs: Any) -> list[Tensor]:
    """Return what cuts that follow each other have left of the outputs of the dense network."""
    tensors = tensors_in(outputs)
    for graph, plan in cuts:
        tensors = left(graph, plan, tensors)
    return tensors
