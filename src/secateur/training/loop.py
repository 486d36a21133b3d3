"""``fit``: checks, device, speed and randomness around the epochs, and giving the network back as it came.

All randomness of epoch n (order, augmentation, dropout) is drawn from one number made of the seed and n. That
is why a training that goes on after a kill needs no generator's state to give the same weights, and why every
process of a multi-process training draws the same noise for the weights they share.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.untouched import ordinary
from secateur.core.zeros.shaper import Shaper
from secateur.data import Data
from secateur.errors import ModelError, TrainingError
from secateur.events import Tell, ignore
from secateur.measure.forward import call, device_of, dtype_of, evaluating, moved
from secateur.measure.quality import typed
from secateur.progress import shown
from secateur.rules import AnySeed, Rule
from secateur.tasks import Classification
from secateur.training import checkpoint as disk
from secateur.training.epochs import Training
from secateur.training.history import History, Speed
from secateur.training.objective import check_lesson, warn_of_numbers
from secateur.training.placement import accelerated, device_type, placed, speaking
from secateur.training.settings import Settings
from secateur.training.share import Share, trained_on
from secateur.training.speed import Memory, choose, fixed
from secateur.training.undone import undone

_DATA = Rule(
    lambda value: all(callable(getattr(value, name, None)) for name in ("batches", "size", "example")),
    "a data set, which secateur.load_data returns, or what has its batches, size and example",
)
_TURN = threading.RLock()


@checked
@shown
@apart("teacher")
def fit(
    model: nn.Module,
    data: Annotated[Data, _DATA],
    settings: Settings,
    *,
    shaper: Shaper | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    seed: AnySeed = 0,
    memory: Memory = Memory(),  # noqa: B008  (frozen)
    progress: bool | None = None,
    tell: Tell = ignore,
) -> History:
    """Train the network in place.

    Afterwards it has its device, memory format and train/eval modes of before, and no gradients; parameters
    with ``requires_grad=False`` are not touched, and torch's global random state is not disturbed. After an error
    it has the weights with which it came, and a checkpoint holds the epochs that were whole. Where a loader yields
    more batches than its length says, or fewer, all are learned from, and the schedule goes by its length. Under
    torchrun or ``accelerate launch`` every process calls this alike; they train together, and only the first one
    writes and tells.

    Args:
        model: returns what the task of the data needs: for classification class scores (N, classes), or an output
            with ``logits``, or a tuple that begins with them.
        data: gives the batches, and says what the task is; each process asks for its own share of every batch.
        settings: everything else about the training.
        shaper: acts before every batch (drawing noise, for instance), adds its ``penalty`` to the loss and acts
            after every optimizer step (holding masks, for instance). Its ``state_dict`` is part of the
            checkpoint; what it draws from the generator it is given is the same after a resume.
        teacher: network to learn from where ``settings.distill`` is above 0; in eval mode meanwhile, not
            trained.
        checkpoint: file that is replaced after each epoch. If it is there, training goes on from it; on the
            CPU the weights are then those of an uninterrupted training, bit for bit.
        seed: of order, augmentation and dropout; at least 0.
        memory: where the way to run it is found, if it was chosen before, and left, if it is chosen now; several
            processes share that of the first one.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: instead of a display, hears the progress about twenty times an epoch, and one sentence per epoch.

    Returns:
        One row per epoch (of earlier, interrupted runs too), and the speed settings used.

    Raises:
        SettingError: if the seed is out of range.
        DataError: if the data knows no such augmentation, cannot be divided into such batches, or gives none.
        ModelError: if the network, or the teacher, returns nothing that the task can use, or scores too few classes.
        TrainingError: if there is nothing to train, the device or the teacher is missing, the checkpoint
            belongs to another training, or the loss is not finite; in that last case the network has the
            weights of the last good epoch.
    """
    check_lesson(data, settings)
    warn_of_numbers(data, settings, tell)
    _check(model, data, settings, teacher, seed)
    _check_outputs(model, data, teacher if settings.distill else None)
    kind = device_type(settings)
    owner = disk.fingerprint(model, settings, seed, trained_on(data))
    saved = None if checkpoint is None else disk.read(Path(checkpoint), owner)
    with ExitStack() as stack:
        stack.enter_context(alone())
        stack.enter_context(speaking(None if checkpoint is None else Path(checkpoint)))
        stack.enter_context(own_randomness(kind))
        with accelerated(kind, "float32") as accelerator:
            share = Share(data, settings, seed, accelerator)
            speed = _speed(model, share, _saved_speed(checkpoint, saved, accelerator.device.type), memory, tell)
        accelerator = stack.enter_context(accelerated(kind, speed.precision))
        stack.enter_context(placed(model, accelerator.device, speed))
        stack.enter_context(placed(teacher if settings.distill else None, accelerator.device, speed))
        share = Share(data, settings, seed, accelerator)
        training = Training(model, share, speed, shaper, teacher, tell)
        stack.enter_context(undone(model))
        try:
            return training.run(None if checkpoint is None else Path(checkpoint), owner, saved)
        finally:
            training.parts.optimizer.zero_grad(set_to_none=True)


def _check(model: nn.Module, data: Data, settings: Settings, teacher: nn.Module | None, seed: int) -> None:
    if settings.distill and teacher is None:
        raise TrainingError(f"'distill' is {settings.distill} but there is no teacher; give one, or set 'distill' to 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("there is nothing to train: no parameter of the network has requires_grad=True")
    if settings.select == "best" and not data.size("val"):
        raise TrainingError("'select' is 'best' but there are no validation images; hold some out, or use 'last'")


def _check_outputs(model: nn.Module, data: Data, teacher: nn.Module | None) -> None:
    widths: list[int] = []
    for network in [model] if teacher is None else [model, teacher]:
        example = moved(typed(data.example(), dtype_of(network)), device_of(network))
        with evaluating(network), torch.no_grad():
            output = data.task.output(call(network, example))
        if isinstance(data.task, Classification):
            widths.append(output.shape[1])
    if not widths or data.classes is None:
        return
    if min(widths) < data.classes:
        raise ModelError(
            f"{data.name} has {data.classes} classes but the network scores {min(widths)}; "
            "build the network with as many classes as the data has"
        )
    if widths[0] != widths[-1]:
        raise ModelError(f"the teacher scores {widths[-1]} classes and the network {widths[0]}; they must be the same")


@contextmanager
def alone() -> Generator[None]:
    """Let the trainings of one process take turns, each as if no mode of autograd were around the call.

    A training seeds torch's global generator and takes over accelerate's state, which all threads share.
    """
    with _TURN, ordinary():
        yield


@contextmanager
def own_randomness(kind: str) -> Generator[None]:
    """Put torch's global random state back afterwards, that of the CUDA device included where ``kind`` is that."""
    devices = [torch.cuda.current_device()] if kind == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


def _saved_speed(checkpoint: str | Path | None, saved: Any, device: str) -> Speed | None:
    """Return the interrupted run's speed if it ran on such a device."""
    if saved is None:
        return None
    with disk.resuming(checkpoint):
        return Speed(**saved[0]["speed"]) if saved[0]["device"] == device else None


def _speed(model: nn.Module, share: Share, saved: Speed | None, memory: Memory, tell: Tell) -> Speed:
    """Return the speed that the settings fix, else the interrupted run's, else one chosen before, else a measured one.

    What the clock decides is written down before the first step, or another run would train in another way.
    """
    settings, device = share.settings, share.accelerator.device
    known = fixed(settings)
    if known is not None:
        return known
    main = share.accelerator.is_main_process
    known = memory.recall(device.type) if saved is None and main else saved
    known = _shared(known, share)
    if known is None:
        batches = share.train(0)
        first = list(itertools.islice(batches, 1))
        if not first:
            raise TrainingError(f"the training split of {share.data.name} gives no batch; use a smaller 'batch_size'")
        steps = len(batches) * settings.epochs
        chosen = choose(model, share.task, first[0], settings, device, steps=steps, tell=tell if main else ignore)
        known = _shared(chosen, share) or chosen
    if main:
        memory.note(known, device.type)
    asked = {name: getattr(settings, name) for name in asdict(known) if getattr(settings, name) != "auto"}
    return Speed(**{**asdict(known), **asked})


def _shared(speed: Speed | None, share: Share) -> Speed | None:
    """Return what the first process has."""
    if share.world == 1:
        return speed
    from accelerate.utils import broadcast_object_list

    held: list[Speed | None] = broadcast_object_list([speed])
    return held[0]
