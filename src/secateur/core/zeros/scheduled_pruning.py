"""Shapers that take more and more weights out of play, as a schedule says, and hold them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur.core.zeros.masks import Masking, Masks, smallest
from secateur.core.zeros.schedules import Course, OneShot, between
from secateur.core.zeros.shaper import Moment

Choice = Callable[[float], Mapping[str, Tensor]]
"""Says who stays in play, from how much of the way is behind."""


class ScheduledPruning(Masking):
    """Asks who stays in play at every change of a course, and holds the others at zero in between.

    Args:
        masks: of the network that trains.
        course: when how much goes.
        choose: says who stays.
        restart: whether the optimizer starts anew at every change.
        changed: is called after every change, and after a resume.
        rewind: is called at every change while the network trains, once it is known who stays.
    """

    def __init__(
        self,
        masks: Masks,
        course: Course,
        choose: Choice,
        *,
        restart: bool = False,
        changed: Callable[[], None] = lambda: None,
        rewind: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(masks)
        self._course, self._choose, self._restart = course, choose, restart
        self._changed, self._rewind, self._stage = changed, rewind, 0

    @torch.no_grad()
    def before_batch(self, moment: Moment) -> None:
        """Choose where a change is due.

        Raises:
            TrainingError: if the training is too short for the schedule.
        """
        self._course.check(moment.steps)
        stage = self._course.stage(moment.step, moment.steps)
        if stage <= self._stage:
            return
        self._turn(stage, self._rewind)
        if self._restart:
            moment.restart()

    def finish(self) -> None:
        """Leave in the network what the end of the course says, and zeros where they are held."""
        if self._stage < self._course.stages:
            self._turn(self._course.stages)
        self._masks.hold()

    def _turn(self, stage: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._stage = stage
        keeps = self._choose(self._course.progress(stage))
        meanwhile()
        self._masks.put(keeps)
        self._changed()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the masks, and how many changes there have been."""
        return {"stage": torch.tensor(self._stage), **self._masks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        self._stage = int(state["stage"])
        self._masks.load_state_dict(state)
        self._changed()


def rising(
    masks: Masks,
    counts: Mapping[str, int],
    first: float = 0.0,
    last: float | None = None,
    *,
    returns: bool = False,
) -> Choice:
    """Return the choice that takes the smallest weights of each layer.

    Args:
        masks: of the network that trains.
        counts: how many weights of each have gone in the end.
        first: share of each that goes at once.
        last: share of each that their number is, before it was rounded; None: what it is exactly.
        returns: whether weights out of play are compared like the others, and so may come back.
    """

    def choose(progress: float) -> dict[str, Tensor]:
        keeps: dict[str, Tensor] = {}
        for name, count in counts.items():
            sizes, keep = masks.sizes(name), masks.keep(name)
            end = count / keep.numel() if last is None else last
            so_far = count if progress >= 1.0 else between(min(first, end), end, progress, keep.numel())
            keeps[name] = smallest(sizes if returns else sizes.where(keep, -1.0), so_far)
        return keeps

    return choose


class SoftShrinking(Masking):
    """Makes the smallest weights of each layer a little smaller after every step; later they go, and are held.

    Args:
        masks: of the network that trains.
        counts: how many weights of each layer these are.
        factor: what they are multiplied by, in [0, 1].
        end: when the smallest of that moment go.
        ramp: on which course their number rises; None: it is what it is from the start.
    """

    def __init__(
        self, masks: Masks, counts: Mapping[str, int], factor: float, end: OneShot, ramp: Course | None = None
    ) -> None:
        super().__init__(masks)
        self._counts, self._factor, self._end, self._ramp = counts, factor, end, ramp
        self._steps, self._held = 0, False

    def before_batch(self, moment: Moment) -> None:
        """Let the smallest weights go where it is time."""
        self._steps = moment.steps
        if not self._held and self._end.stage(moment.step, moment.steps):
            self._mask()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Shrink the smallest weights of this moment, or hold those that have gone."""
        if self._held:
            super().after_step(step)
            return
        progress = 1.0 if self._ramp is None else self._ramp.progress(self._ramp.stage(step, self._steps))
        for name, keep in self._choose(progress).items():
            tensor = self._masks.tensor(name)
            tensor.copy_(torch.where(keep, tensor, tensor * self._factor))

    def finish(self) -> None:
        """Leave zeros where the smallest weights of the network are, as it has become."""
        self._mask()

    def _mask(self) -> None:
        self._held = True
        self._masks.put(self._choose(1.0))

    def _choose(self, progress: float) -> Mapping[str, Tensor]:
        return rising(self._masks, self._counts, returns=True)(progress)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the masks, and whether they are held."""
        return {"held": torch.tensor(self._held), **self._masks.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        self._held = bool(state["held"])
        self._masks.load_state_dict(state)
