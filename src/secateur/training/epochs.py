"""The epochs of one training: train, validate, remember, save; or go on where an earlier one was cut off."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError
from secateur.events import Event, Tell, ignore
from secateur.measure.quiet_exporters import ready_to_compile
from secateur.training import checkpoint as disk
from secateur.training.batchnorm import recalibrate
from secateur.training.history import History, Row, Speed, row_of
from secateur.training.objective import Outputs
from secateur.training.optimizers_and_schedules import optimizer, schedule
from secateur.training.share import Share, number_of
from secateur.training.steps import NotFiniteError, Parts, lr_of, train_epoch
from secateur.training.undone import DivergedError

if TYPE_CHECKING:
    from secateur.core.zeros.shaper import Shaper

_RECALIBRATION_BATCHES = 200
_SHAPING = 1  # the stream of random numbers that is the shaper's

_NOTHING_LEARNED = (
    "the loss was 0 on every training {}, so that nothing is learned from them: look at what is wanted of each, as at "
    "masks of which no pixel counts, or images that are all of one class"
)


class Training:
    """One training of a network that is on its device already.

    Args:
        model: trained in place.
        share: this process's batches.
        speed: as chosen; the accelerator of ``share`` has its precision.
        shaper: see ``fit``.
        teacher: on the same device; used where ``settings.distill`` is above 0.
        tell: hears about progress from the first process.
    """

    def __init__(
        self,
        model: nn.Module,
        share: Share,
        speed: Speed,
        shaper: Shaper | None,
        teacher: nn.Module | None,
        tell: Tell,
    ) -> None:
        self.model, self.share, self.settings, self.accelerator = (
            model,
            share,
            share.settings,
            share.accelerator,
        )
        self.tell = tell if self.accelerator.is_main_process else ignore
        self.rows: list[Row] = []
        self.best: tuple[int, dict[str, Tensor]] | None = None
        self.good: dict[str, Tensor] = {}
        rule = optimizer([p for p in model.parameters() if p.requires_grad], self.settings)
        rule.zero_grad(set_to_none=True)
        self.batches = len(share.train(0))
        steps = math.ceil(self.batches / self.settings.accumulate)
        rates = schedule(rule, self.settings, steps)
        network: Any = self.accelerator.prepare(Outputs(model, share.task))
        # accelerate's wrapper looks for optional packages on every step; only gradient scaling needs it
        stepper = rule if self.accelerator.scaler is None else self.accelerator.prepare(rule)
        if speed.compile == "on":
            ready_to_compile()
            network = torch.compile(network)
        taught = teacher.eval() if teacher is not None and self.settings.distill else None
        self.parts = Parts(
            network=network,
            task=share.task,
            teacher=taught,
            optimizer=rule,
            stepper=stepper,
            schedule=rates,
            accelerator=self.accelerator,
            settings=self.settings,
            speed=speed,
            shaper=shaper,
            tell=self.tell,
            rng=torch.Generator(self.accelerator.device),
            total=steps * self.settings.epochs,
        )

    def run(self, checkpoint: Path | None, owner: str, saved: Any) -> History:
        """Train the epochs that are not in ``saved``, which ``checkpoint.read`` returned."""
        if saved is not None:
            with disk.resuming(checkpoint):
                self._resume(*saved)
            self.tell(Event("train", f"going on after epoch {len(self.rows)}, from {checkpoint}"))
        elif self.settings.recalibrate:
            recalibrate(self.model, itertools.islice(self.share.plain(), _RECALIBRATION_BATCHES))
        for epoch in range(len(self.rows) + 1, self.settings.epochs + 1):
            self._epoch(epoch, checkpoint)
            if checkpoint is not None and self.accelerator.is_main_process:
                self._write(checkpoint, owner)
        selected = len(self.rows)
        if self.best is not None:
            selected, tensors = self.best
            disk.restore(self.model, tensors)
        loss = self.rows[selected - 1].val_loss if self.rows else None
        if loss is not None and not math.isfinite(loss):  # each loss of training is that before a step, but for this
            trouble = NotFiniteError(f"the validation loss is {loss} after the last step")
            if self.good:
                disk.restore(self.model, self.good)
            raise DivergedError(_advice(trouble, selected, self.settings.lr, checkpoint))
        return History(tuple(self.rows), self.parts.speed, selected, self.share.task.metric)

    def _epoch(self, epoch: int, checkpoint: Path | None) -> None:
        number = number_of(self.share.seed, epoch)
        torch.default_generator.manual_seed(number)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(number)
        self.parts.rng.manual_seed(number_of(self.share.seed, epoch, _SHAPING))
        good = self.good = disk.snapshot(self.model)
        started, lr = time.perf_counter(), lr_of(self.parts.optimizer)
        try:
            train_loss, train_metric = train_epoch(self.parts, self.share.train(epoch), epoch)
            self._settle()
            if epoch == 1 and train_loss == 0:
                self.tell(Event("warning", _NOTHING_LEARNED.format(self.share.task.example)))
        except NotFiniteError as trouble:
            disk.restore(self.model, good)
            raise DivergedError(_advice(trouble, epoch, self.settings.lr, checkpoint)) from None
        except RuntimeError as error:
            if not any(kind.__module__.startswith("torch._dynamo") for kind in type(error).__mro__):
                raise
            raise TrainingError(
                f"torch.compile cannot compile this network here ({type(error).__name__}); train with compile 'off'"
            ) from error
        val_loss, val_metric = self.share.validate(self.model)
        row = Row(epoch, train_loss, train_metric, val_loss, val_metric, lr, time.perf_counter() - started)
        if self.settings.select == "best" and self._best_so_far(val_metric):
            self.best = epoch, disk.snapshot(self.model)
        self.rows.append(row)
        self._tell_epoch(row)

    def _best_so_far(self, value: float | None) -> bool:
        key = self.share.task.metric.key
        return all(key(value) > key(row.val_metric) for row in self.rows)

    def _settle(self) -> None:
        """Give all processes the first one's batch-norm statistics, and check what was learned."""
        if self.share.world > 1:
            from accelerate.utils import broadcast

            broadcast(list(self.model.buffers()))
        sums = [parameter.detach().sum() for parameter in self.model.parameters()]
        if not bool(torch.isfinite(torch.stack([value.float() for value in sums])).all()):
            raise NotFiniteError("a weight is nan or infinite after the last step")

    def _tell_epoch(self, row: Row) -> None:
        text = f"epoch {row.epoch} of {self.settings.epochs}: loss {row.train_loss:.4f}"
        if row.val_metric is not None:
            metric = self.share.task.metric
            text += f", validation {metric.name} {metric.text(row.val_metric)}"
        values = {name: float(value) for name, value in asdict(row).items() if value is not None}
        done, total = row.epoch * self.batches, self.settings.epochs * self.batches
        self.tell(Event("train", text, done, total, values))

    def _write(self, path: Path, owner: str) -> None:
        plain, momenta = disk.optimizer_state(self.parts.optimizer)
        scaler = self.accelerator.scaler
        facts = {
            "fingerprint": owner,
            "device": self.accelerator.device.type,
            "speed": asdict(self.parts.speed),
            "rows": [asdict(row) for row in self.rows],
            "steps": self.parts.steps,
            "optimizer": plain,
            "schedule": disk.schedule_state(self.parts.schedule),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": self.best[0] if self.best is not None else 0,
        }
        disk.write(
            path,
            facts,
            model=disk.snapshot(self.model),
            best=self.best[1] if self.best is not None else {},
            optimizer=momenta,
            shaper={} if self.parts.shaper is None else self.parts.shaper.state_dict(),
        )

    def _resume(self, facts: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        disk.restore_optimizer(self.parts.optimizer, facts["optimizer"], groups.get("optimizer", {}))
        self.parts.schedule.load_state_dict(facts["schedule"])
        if self.accelerator.scaler is not None and facts["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        if self.parts.shaper is not None and "shaper" in groups:
            self.parts.shaper.load_state_dict(groups["shaper"])
        self.parts.steps = int(facts["steps"])
        self.rows = [row_of(row) for row in facts["rows"]]
        if facts["best"]:
            self.best = facts["best"], dict(groups["best"])
        disk.restore(self.model, groups["model"])


def _advice(trouble: NotFiniteError, epoch: int, lr: float, checkpoint: Path | None) -> str:
    before = "its state before training" if epoch == 1 else f"the end of epoch {epoch - 1}"
    where = f", which is also saved in {checkpoint}," if checkpoint is not None and epoch > 1 else ""
    return (
        f"{trouble} of epoch {epoch}; the network has been put back to {before}{where} and can be "
        f"trained again with a lower 'lr' (it was {lr:g}) or with 'clip_grad'"
    )
