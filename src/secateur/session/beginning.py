"""What a session asks for, checked and settled before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from secateur.core.graph import Groups
from secateur.core.method import Method
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.task import Task
from secateur.errors import SettingError
from secateur.events import Tell
from secateur.methods import default, find, name_of
from secateur.repair import chosen
from secateur.run.device_placement import place_for
from secateur.run.fallback import for_images
from secateur.run.given_inputs import fitted, looked_at
from secateur.run.job import Job
from secateur.run.latency_aware_methods import decides_by_the_clock
from secateur.run.preflight import check_goals
from secateur.run.recorded_choices import Choices


def begun(
    dense: nn.Module,
    example_inputs: Any,
    method: Method | str | None,
    goal: Target | None,
    *,
    data: Any,
    task: Task | None,
    calibrate: Any,
    calibrate_images: int,
    repair: Sequence[str],
    leave: tuple[str, ...],
    free_outputs: tuple[str, ...],
    groups: Groups,
    limits: Limits,
    seed: int,
    patience: float | None,
    tell: Tell,
) -> Job:
    """Return the run that a session is, see ``Session`` for what is asked.

    Raises:
        SecateurError: one of its kinds.
    """
    seen = data is not None or calibrate is not None
    named = method is not None
    asked = default(images=seen) if method is None else method
    asked = find(asked)() if isinstance(asked, str) else asked
    if decides_by_the_clock(asked):
        raise SettingError(
            f"{name_of(asked)} shares out by the times of layers, and a session times nothing while a network trains: "
            "choose another way to share out"
        )
    check_goals([(asked, goal)], told_later=False)
    steps = chosen(repair, images=seen)
    images, unlabelled, found = looked_at(
        dense, data, calibrate, example_inputs, task=task, count=calibrate_images, seed=seed
    )
    inputs = fitted(dense, found, unlabelled)
    asked, steps = for_images(unlabelled, images, calibrate_images, asked, steps, method_asked=named, tell=tell)
    return Job(
        dense=dense,
        inputs=inputs,
        method=asked,
        target=goal,
        data=images,
        train=None,
        leave=leave,
        limits=limits,
        seed=seed,
        latency=False,
        work=None,
        tell=tell,
        place=place_for(dense),
        patience=patience,
        repair=steps,
        calibrate=unlabelled,
        calibrate_images=calibrate_images,
        groups=groups,
        free_outputs=free_outputs,
        choices=Choices(None, {}, tell),
    )
