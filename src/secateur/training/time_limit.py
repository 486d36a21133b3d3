"""Training until the time is up, with the best state that was seen on held-out images as the result.

Unlike ``loop.fit`` it has no number of epochs to reach: it stops in time, in the middle of a pass if need be, and gives
the network back as it was unless held-out images say that another state is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.events import Event, Tell, ignore
from secateur.training import checkpoint as disk
from secateur.training.history import Speed
from secateur.training.lesson_kind import Judgement, Lesson
from secateur.training.loop import alone, own_randomness
from secateur.training.optimizers_and_schedules import lasting, optimizer
from secateur.training.placement import accelerated, device_type, placed
from secateur.training.share import number_of
from secateur.training.steps import NotFiniteError, Parts
from secateur.training.undone import undone

if TYPE_CHECKING:
    from accelerate import Accelerator

    from secateur.core.zeros.shaper import Shaper

Now = Callable[[], float]

_LOOK = 9.0  # training lasts so many times as long as the look at the held-out images that follows it
_SAVE = 60.0  # seconds after which a kill may cost no more than that
_FADING = 0.9  # of the longest batch so far, at each batch: the first one loads kernels, and is the slowest by far
_NEWS = 100  # events in all
_SHAPING = 1  # the stream of random numbers that is the shaper's


@dataclass(frozen=True)
class Taught:
    """How the time was used.

    Attributes:
        begun: seconds that were gone when it began, which a training that goes on after a kill remembers.
        seconds: in all, with those.
        steps: of the optimizer.
        passes: over the training images.
        before: of the network as it came.
        after: of the network as it is now, which is the best that was seen; ``before`` where nothing was better.
        selected: the step after which it was seen; 0: the network has not changed.
        ended: why it ended: ``"time"``, ``"passes"``, or ``"diverged"`` where a loss was not finite.
    """

    begun: float
    seconds: float
    steps: int
    passes: float
    before: Judgement
    after: Judgement
    selected: int
    ended: str


def within(
    model: nn.Module,
    lesson: Lesson,
    seconds: float,
    *,
    used: float = 0.0,
    shaper: Shaper | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
    now: Now = time.monotonic,
    tell: Tell = ignore,
) -> Taught:
    """Train in place until the time is up, and keep the best state, the one of before included.

    Held-out images are looked at so seldom that it takes a tenth of the time. The learning rate follows its schedule
    over the time (or the passes, whichever end first) instead of over the epochs. In float32 and contiguous unless the
    settings say otherwise; nothing is compiled, for that takes a minute or two. Modes, device and the global random
    state are afterwards those of before.

    Args:
        model: the network.
        lesson: what it learns from.
        seconds: of wall-clock time that everything may take, ``used`` included.
        used: of these, what is gone already.
        shaper: acts before every batch and after every step, as in ``fit``.
        checkpoint: file that is replaced at every look at the held-out images and once a minute; if it is there,
            training goes on from it, and what it had used counts.
        seed: of order, augmentation and dropout.
        now: a clock, in seconds.
        tell: hears the progress.

    Raises:
        TrainingError: if the checkpoint is damaged or of another training, or cannot be written.
        DataError: if a pass over the examples gives no batch. After any error the network is as it came.
    """
    settings, kind = lesson.settings, device_type(lesson.settings)
    asked = {name: getattr(settings, name) for name in ("precision", "memory_format")}
    speed = Speed(**{name: value for name, value in asked.items() if value != "auto"})
    owner = disk.fingerprint(model, settings, seed, lesson.name)
    saved = None if checkpoint is None else disk.read(checkpoint, owner)
    with ExitStack() as stack:
        stack.enter_context(alone())
        stack.enter_context(own_randomness(kind))
        accelerator = stack.enter_context(accelerated(kind, speed.precision))
        stack.enter_context(placed(model, accelerator.device, speed))
        stack.enter_context(placed(lesson.teacher, accelerator.device, speed))
        course = _Course(model, lesson, seconds, used, shaper, seed, now, tell, accelerator, speed)
        stack.enter_context(undone(model))
        try:
            return course.run(checkpoint, owner, saved)
        finally:
            course.parts.optimizer.zero_grad(set_to_none=True)


class _Course:
    """A training under way; the arguments are those of ``within``."""

    def __init__(
        self,
        model: nn.Module,
        lesson: Lesson,
        seconds: float,
        used: float,
        shaper: Shaper | None,
        seed: int,
        now: Now,
        tell: Tell,
        accelerator: Accelerator,
        speed: Speed,
    ) -> None:
        self.model, self.lesson, self.seconds, self.seed, self.now, self.tell = model, lesson, seconds, seed, now, tell
        self.begun = self.used = self.saved = self.looked = self.told = used  # seconds, when the clock was last read
        self.read = now()
        self.turn = self.seen = self.selected = 0  # passes begun, batches seen, step of the best state
        self.at = 0  # step at which the held-out images were last looked at
        self.longest = self.looking = self.saving = 0.0  # seconds of a batch, a look at held-out images, a checkpoint
        network = lesson.open(model, accelerator)
        rule = optimizer([p for p in model.parameters() if p.requires_grad], lesson.settings)
        self.parts = Parts(
            network=network,
            task=lesson.task,
            teacher=lesson.teacher,
            optimizer=rule,
            stepper=rule if accelerator.scaler is None else accelerator.prepare(rule),
            schedule=lasting(rule, lesson.settings, self.share),
            accelerator=accelerator,
            settings=lesson.settings,
            speed=speed,
            shaper=shaper,
            tell=tell,
            rng=torch.Generator(accelerator.device),
            total=0,
        )
        accelerator.gradient_accumulation_steps = lesson.settings.accumulate
        rule.zero_grad(set_to_none=True)

    def share(self) -> float:
        """Return how much of the training is over, in [0, 1]: of its time or of its passes, whichever is more."""
        passes = self.lesson.passes
        begun = 0.0 if passes is None else self.seen / max(passes * self.lesson.count(), 1)
        return min(1.0, max(self.used / self.seconds, begun))

    def run(self, checkpoint: Path | None, owner: str, saved: Any) -> Taught:
        """Train from the beginning, or go on from what ``disk.read`` returned."""
        if saved is None:
            self.before = self.best = self._judged()
            self.tensors = disk.snapshot(self.model)
            self._write(checkpoint, owner)
        else:
            with disk.resuming(checkpoint):
                self._resume(*saved)
            self.tell(Event("train", f"going on after step {self.parts.steps}, from {checkpoint}"))
        ended = self._train(checkpoint, owner)
        if ended != "diverged" and self.parts.steps > self.at:
            self._look()
        disk.restore(self.model, self.tensors)
        self._write(checkpoint, owner)
        passes = self.seen / max(self.lesson.count(), 1)
        return Taught(self.begun, self.used, self.parts.steps, passes, self.before, self.best, self.selected, ended)

    def _train(self, checkpoint: Path | None, owner: str) -> str:
        """Train until the time is up; return why it ended."""
        for batch in self._batches():
            if self.used + self.longest + self.looking + self.saving > self.seconds:
                return "time"
            if self.lesson.passes is not None and self.seen >= self.lesson.passes * self.lesson.count():
                return "passes"
            try:
                self._step(batch)
            except NotFiniteError:
                return "diverged"
            if self.used - self.looked >= _LOOK * self.looking and self.parts.steps > self.at:
                self._look()
                self._write(checkpoint, owner)
            elif checkpoint is not None and self.used - self.saved >= _SAVE:
                self._write(checkpoint, owner)
        return "passes"

    def _batches(self) -> Iterator[Any]:
        """Yield batches, pass after pass; all randomness of a pass is drawn from the seed and its number."""
        while self.lesson.count():
            self.turn += 1
            number = number_of(self.seed, self.turn)
            torch.default_generator.manual_seed(number)
            if self.parts.accelerator.device.type == "cuda":
                torch.cuda.manual_seed(number)
            self.parts.rng.manual_seed(number_of(self.seed, self.turn, _SHAPING))
            seen = self.seen
            yield from self.lesson.batches(number)
            if self.seen == seen:
                raise DataError("the training examples come to no batch: give a loader that can be read again")

    def _step(self, batch: Any) -> None:
        parts = self.parts
        parts.prepare()
        loss = self.lesson.loss(parts, batch)
        if not math.isfinite(float(loss.detach())):
            raise NotFiniteError
        penalty = parts.shaper.penalty() if parts.shaper is not None else None
        parts.accelerator.backward(loss if penalty is None else loss + penalty)
        self.seen += 1
        if self.seen % parts.settings.accumulate == 0:
            parts.update()
        self.longest = max(_FADING * self.longest, self._clock())
        if self.used - self.told >= self.seconds / _NEWS:
            self.told = self.used
            self.tell(Event("train", "", round(self.used), max(1, round(self.seconds)), {"loss": float(loss.detach())}))

    def _look(self) -> None:
        """Judge the network, and remember it if it is better than any before."""
        found = self._judged()
        self.at = self.parts.steps
        if found.better_than(self.best):
            self.best, self.selected, self.tensors = found, self.parts.steps, disk.snapshot(self.model)

    def _judged(self) -> Judgement:
        found = self.lesson.judge(self.model)
        self.looking, self.looked = self._clock(), self.used
        return found

    def _clock(self) -> float:
        """Read the clock; return the seconds since it was last read."""
        now = self.now()
        past, self.read = now - self.read, now
        self.used += past
        return past

    def _write(self, path: Path | None, owner: str) -> None:
        if path is None:
            return
        plain, momenta = disk.optimizer_state(self.parts.optimizer)
        shaper = self.parts.shaper
        facts = {
            "fingerprint": owner,
            "begun": self.begun,
            "used": self.used,
            "longest": self.longest,
            "looking": self.looking,
            "turn": self.turn,
            "seen": self.seen,
            "steps": self.parts.steps,
            "at": self.at,
            "selected": self.selected,
            "before": asdict(self.before),
            "best": asdict(self.best),
            "optimizer": plain,
        }
        disk.write(
            path,
            facts,
            model=disk.snapshot(self.model),
            best=self.tensors,
            optimizer=momenta,
            shaper={} if shaper is None else shaper.state_dict(),
        )
        self.saving, self.saved = self._clock(), self.used

    def _resume(self, facts: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.tensors = disk.snapshot(self.model)
        for name, tensor in self.tensors.items():
            tensor.copy_(groups["best"][name])
        disk.restore_optimizer(self.parts.optimizer, facts["optimizer"], groups.get("optimizer", {}))
        if self.parts.shaper is not None and "shaper" in groups:
            self.parts.shaper.load_state_dict(groups["shaper"])
        self.used = self.saved = self.looked = self.told = float(facts["used"])
        self.begun, self.longest, self.looking = (float(facts[name]) for name in ("begun", "longest", "looking"))
        self.turn, self.seen, self.selected, self.at = (int(facts[name]) for name in ("turn", "seen", "selected", "at"))
        self.parts.steps = int(facts["steps"])
        self.before, self.best = Judgement.of(facts["before"]), Judgement.of(facts["best"])
        disk.restore(self.model, groups["model"])
