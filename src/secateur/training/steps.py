"""One pass over the training examples: the inner loop, which does as little as possible besides training."""

from __future__ import annotations

import math
import sys
from collections.abc import Sized
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from secateur.core.surgery.forward import spread
from secateur.core.zeros.shaper import Moment
from secateur.errors import DataError, ModelError
from secateur.events import Event, Tell
from secateur.measure.forward import call_on, moved
from secateur.tasks import Task
from secateur.training.history import Speed
from secateur.training.objective import first_not_finite, loss_of
from secateur.training.placement import memory_format
from secateur.training.settings import Settings
from secateur.training.shared_norms import SharedNorms

if TYPE_CHECKING:
    from accelerate import Accelerator

    from secateur.core.zeros.shaper import Shaper

_NEWS = 20  # events per epoch; on CUDA also how often the losses are looked at, which waits for the device


class NotFiniteError(Exception):
    """A loss or a weight is nan or infinite; says which, and at which step of the epoch."""


@dataclass
class Parts:
    """Everything that a training step touches.

    Attributes:
        network: the prepared stand-in of the model, which returns what ``Task.output`` does.
        task: what is learned, its labels smoothed as the settings say; None where ``loss`` is not asked.
        teacher: placed and in eval mode; None without distillation.
        optimizer: torch's own.
        stepper: the optimizer, or accelerate's wrapper of it where gradients are scaled.
        rng: what a shaper draws from, on the training device.
        total: optimizer steps of the whole training.
        steps: of these, how many are behind.
        end: how many are behind when the epoch ends, however many batches it comes to.
    """

    network: nn.Module
    task: Task | None
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    stepper: Any
    schedule: LRScheduler
    accelerator: Accelerator
    settings: Settings
    speed: Speed
    shaper: Shaper | None
    tell: Tell
    rng: torch.Generator
    total: int
    steps: int = 0
    end: int = sys.maxsize

    @property
    def step(self) -> int:
        """Number of the next optimizer step, from 0; those beyond the end of an epoch count as its last."""
        return max(0, min(self.steps, self.end - 1))

    def prepare(self) -> None:
        """Let the shaper act before a batch."""
        if self.shaper is not None:
            with torch.no_grad():
                self.shaper.before_batch(Moment(self.step, self.total, self.rng, self.optimizer.state.clear))

    def placed(self, batch: Any) -> Any:
        """Return a batch on the training device."""
        return moved(batch, self.accelerator.device, non_blocking=True)

    def loss(self, batch: Any) -> tuple[Tensor, Any]:
        """Return the mean loss, a scalar, and what the network returned for a batch on the training device.

        Raises:
            DataError: if the batch is empty, or none of the task.
        """
        assert self.task is not None
        if not self.task.count(batch):
            raise DataError("a training batch has no examples: let the loader leave empty ones out")
        inputs = moved(self.task.inputs(batch, training=True), self.accelerator.device, memory_format(self.speed))
        taught = None
        if self.teacher is not None:
            with torch.no_grad(), self.accelerator.autocast():
                taught = self.task.output(spread(self.teacher, inputs))
        # torch.compile cannot look through the mode: there each process keeps its own statistics
        shared = self.accelerator.num_processes > 1 and self.speed.compile != "on"
        with SharedNorms() if shared else nullcontext():
            try:
                output = call_on(self.network, inputs)
            except ModelError as error:
                cause = error.__cause__
                self.task.check_network(self.network, batch, cause if isinstance(cause, Exception) else error)
                raise
        return loss_of(self.task, output, batch, taught, self.settings), output

    def update(self) -> None:
        """Take one optimizer step with the gradients at hand, and forget them."""
        if self.settings.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_grad)
        self.stepper.step()
        planned = self.steps < self.end
        if planned and not getattr(self.stepper, "step_was_skipped", False):
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.shaper is not None:
            with torch.no_grad():
                self.shaper.after_step(self.step)
        self.steps += planned

    def make_up(self, took: int, planned: int) -> None:
        """Take the step of a window that ended early, as if it had been planned so.

        Args:
            took: batches whose gradients are at hand, over ``planned``.
            planned: batches of the window.
        """
        weights = [weight for weight in self.network.parameters() if weight.grad is not None]
        for weight in weights:
            assert weight.grad is not None
            weight.grad *= planned / took
            if self.accelerator.num_processes > 1:  # which have not shared them, for the last batch was to come
                weight.grad.copy_(cast("Tensor", self.accelerator.reduce(weight.grad, "mean")))
        self.accelerator.sync_gradients = True
        self.update()

    def leap(self) -> None:
        """Pass over the steps of an epoch that has ended early, so that the next one begins where it was planned."""
        for _ in range(self.end - self.steps):
            self.schedule.step()
        self.steps = self.end


def train_epoch(parts: Parts, batches: Any, epoch: int) -> tuple[float, float | None]:
    """Train on all batches once.

    Rates and shapers follow the plan, in which every epoch has as many steps as the batches say they are; where there
    are more of them, or fewer, all of these are learned from.

    Args:
        parts: what is trained, and with what.
        batches: sized iterable of what the task takes; this process's share.
        epoch: counted from 1, for the events.

    Returns:
        The mean loss over the examples of all processes, and the share of them that came out right where the task
        counts such.

    Raises:
        NotFiniteError: soon after a loss that is nan or infinite, in all processes alike.
        DataError: if there is no batch.
    """
    log = _Log(parts, batches, epoch)
    window = parts.settings.accumulate
    total = len(batches)
    parts.end = parts.total * epoch // parts.settings.epochs
    parts.network.train()
    start = end = done = 0  # of a window, in batches
    for index, batch in enumerate(map(parts.placed, batches)):
        if index == end:  # a shorter window at the end of the epoch averages over what it has
            start, end = end, min(end + window, total) if end < total else end + window
        done = index + 1
        last = done == end
        if window > 1:
            parts.accelerator.sync_gradients = last
            parts.accelerator.gradient_accumulation_steps = end - start
        parts.prepare()
        with nullcontext() if last else parts.accelerator.no_sync(parts.network):
            loss, output = parts.loss(batch)
            penalty = parts.shaper.penalty() if parts.shaper is not None else None
            parts.accelerator.backward(loss if penalty is None else loss + penalty)
        log.add(index, loss.detach(), output, batch)
        if last:
            parts.update()
    if not done:
        raise DataError(f"the training batches of epoch {epoch} are none: give a loader that can be read again")
    if done < end:
        parts.make_up(done - start, end - start)
    parts.leap()
    return log.means()


class _Log:
    """Collects losses and right answers on the device, and looks at them seldom."""

    def __init__(self, parts: Parts, batches: Sized, epoch: int) -> None:
        self.device = parts.accelerator.device
        assert parts.task is not None
        self._parts, self._task = parts, parts.task
        self._epoch = epoch
        self._total = len(batches)
        self._every = max(1, self._total // _NEWS)
        self._each = self.device.type == "cpu" and parts.accelerator.num_processes == 1
        self._losses = torch.zeros(max(1, self._total), device=self.device)
        self._right: Tensor | None = torch.zeros((), dtype=torch.int64, device=self.device)
        self._sizes: list[int] = []
        self._looked = 0

    def add(self, index: int, loss: Tensor, output: Any, batch: Any) -> None:
        if index >= len(self._losses):
            self._losses = torch.cat([self._losses, torch.zeros_like(self._losses)])
        self._losses[index] = loss
        with torch.no_grad():
            right = None if self._right is None else self._task.right(output, batch)
        self._right = None if self._right is None or right is None else self._right + right
        self._sizes.append(self._task.count(batch))
        if self._each and not math.isfinite(value := float(loss)):
            raise NotFiniteError(f"the training loss became {value} at step {index + 1}")
        if (index + 1) % self._every == 0 or index + 1 == self._total:
            self._look(index + 1)

    def _look(self, done: int) -> None:
        """Check the losses since the last look, over all processes, and tell their mean."""
        accelerator = self._parts.accelerator
        fresh: Any = self._losses[self._looked : done].clone()
        if accelerator.num_processes > 1:
            fresh = accelerator.reduce(fresh, "mean")
        if not self._each and (bad := first_not_finite(fresh)) >= 0:
            raise NotFiniteError(f"the training loss became {float(fresh[bad])} at step {self._looked + bad + 1}")
        self._looked = done
        values = {
            "epoch": float(self._epoch),
            "loss": float(fresh.mean()),
            "lr": lr_of(self._parts.optimizer),
        }
        before = (self._epoch - 1) * self._total
        self._parts.tell(
            Event("train", "", before + min(done, self._total), self._parts.settings.epochs * self._total, values)
        )

    def means(self) -> tuple[float, float | None]:
        count = len(self._sizes)
        if self._looked < count:
            self._look(count)
        sizes = torch.tensor(self._sizes, dtype=torch.float64, device=self.device)
        right = torch.full((), torch.nan, device=self.device) if self._right is None else self._right
        sums: Any = torch.stack([(self._losses[:count] * sizes).sum(), right.double(), sizes.sum()])
        if self._parts.accelerator.num_processes > 1:
            sums = self._parts.accelerator.reduce(sums, "sum")
        loss, counted, examples = sums.tolist()
        return loss / examples, None if self._right is None else counted / examples


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate that the next step will use."""
    return float(optimizer.param_groups[0]["lr"])
