"""Which precision, memory format and compilation a training runs fastest with: measured, not guessed."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from secateur.core.surgery.forward import spread
from secateur.errors import first_line
from secateur.events import Event, Tell, ignore
from secateur.measure import forward
from secateur.measure.forward import moved
from secateur.measure.quality import typed
from secateur.measure.quiet_exporters import ready_to_compile
from secateur.tasks import Task
from secateur.training.history import Speed
from secateur.training.objective import loss_of
from secateur.training.optimizers_and_schedules import optimizer
from secateur.training.placement import memory_format, move
from secateur.training.settings import Settings

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BUDGET = 10.0  # seconds for all candidates together
_WORTH = 20.0  # seconds of expected training below which measuring costs more than it gains
_WORTH_COMPILING = {"cpu": 1800.0, "cuda": 600.0}  # trying costs a minute or two, or half a one on CUDA
_MARGIN = 0.95  # an alternative must need less than this share of the default's time: noise decides nothing
_HOPELESS = 2.0  # a candidate whose first step takes so many times the best one's is not timed further
_CPU_STEP = 0.3  # seconds aimed at for a measured step on the CPU; there the time is proportional to the images


Step: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class _Trial:
    """What all candidates have in common."""

    model: nn.Module
    task: Task
    batch: Any
    settings: Settings
    device: torch.device

    def part(self, size: int) -> _Trial:
        """Return the trial on a part of its examples, or on all where they do not lie in rows."""
        rows = isinstance(self.batch, tuple | list) and all(isinstance(part, Tensor) for part in self.batch)
        return replace(self, batch=forward.part(self.batch, slice(size))) if rows else self

    def __len__(self) -> int:
        return self.task.count(self.batch)


@dataclass(frozen=True)
class Memory:
    """Where a training finds the speed that was chosen for it before, and leaves the one that it has chosen.

    Attributes:
        recall: takes the type of the device; returns None where nothing was chosen for it.
        note: takes the speed and the type of the device, before the first step.
    """

    recall: Callable[[str], Speed | None] = lambda device: None
    note: Callable[[Speed, str], None] = lambda speed, device: None


def choose(
    model: nn.Module,
    task: Task,
    batch: Any,
    settings: Settings,
    device: torch.device,
    *,
    steps: int,
    tell: Tell = ignore,
) -> Speed:
    """Return the fastest way to run this training on this device, by a few training steps on a copy of the
    network.

    Only settings that are ``"auto"`` are chosen, and only for trainings long enough to gain by it; short ones
    run in float32, contiguous, not compiled. Measuring takes at most about ten seconds or a twentieth of the
    training, trying compilation (only for trainings of ten minutes on CUDA, half an hour on the CPU) as long as
    compiling itself.

    Args:
        model: on any device; not changed.
        task: what it is trained for.
        batch: as the task takes it, on ``device``, of the size that one process trains with.
        settings: the fields precision, memory_format, compile, and what makes a step.
        device: where the training will run.
        steps: batches of the whole training.
        tell: hears the time of each candidate.
    """
    candidates = _candidates(settings, device)
    default = replace(candidates[0], compile="on" if settings.compile == "on" else "off")
    trial = _Trial(model, task, batch, settings, device)
    try:
        trial, expected = _sized(trial, candidates[0], steps)
        if expected < _WORTH:
            return default
        tell(Event("speed", "measuring how this training runs fastest"))
        best = _fastest(trial, candidates, min(_BUDGET / 2, 0.03 * expected), tell)
        if settings.compile == "auto" and expected > _WORTH_COMPILING[device.type]:
            return _compiled(trial, best, expected, tell)
        return replace(best, compile=default.compile)
    except (RuntimeError, TypeError, LookupError, ValueError, AssertionError) as error:  # which training will tell
        tell(Event("speed", f"speed was not measured ({first_line(error)}); taking the defaults"))
        return default


def fixed(settings: Settings) -> Speed | None:
    """Return the speed where there is no choice: settings that say all, or no epochs; else None."""
    asked = (settings.precision, settings.memory_format, settings.compile)
    if "auto" not in asked:
        return Speed(*cast("Any", asked))
    return None if settings.epochs else Speed()


def _candidates(settings: Settings, device: torch.device) -> list[Speed]:
    """Every combination of what is open, the default first."""
    quick = ("float32", "bf16") if _bf16(device) else ("float32",)
    precisions: Any = quick if settings.precision == "auto" else (settings.precision,)
    formats: Any = ("contiguous", "channels_last") if settings.memory_format == "auto" else (settings.memory_format,)
    return [Speed(precision, layout) for precision, layout in itertools.product(precisions, formats)]


def _bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]


def _sized(trial: _Trial, speed: Speed, steps: int) -> tuple[_Trial, float]:
    """Return the trial on as many images as are needed, and the seconds that the training will take about."""
    full = len(trial)
    if not full:  # which the training refuses
        return trial, 0.0
    if trial.device.type == "cuda":
        return trial, steps * _warm(_stepper(trial, speed), trial.device)
    size = min(2, full)
    part = trial.part(size)
    few = _stepper(part, speed)
    _warm(few, trial.device)
    one = _once(few, trial.device) / len(part)
    return trial.part(max(size, min(full, int(_CPU_STEP / one)))), steps * full * one


def _fastest(trial: _Trial, candidates: list[Speed], limit: float, tell: Tell) -> Speed:
    """Return the fastest candidate; the first one wins unless clearly beaten."""
    steps: dict[Speed, Step] = {}
    best = math.inf
    for speed in candidates:
        step = _stepper(trial, speed)
        first = _warm(step, trial.device)
        # the small constant is for the one-time costs of a first step, which tiny networks would fail on
        if first <= _HOPELESS * best + 0.1:
            steps[speed] = step
        else:
            _report(speed, first, tell)
        best = min(best, first)
    times = _alternate(steps, trial.device, limit)
    for speed, seconds in times.items():
        _report(speed, seconds, tell)
    default, winner = candidates[0], min(times, key=lambda speed: times[speed])
    return winner if times[winner] < _MARGIN * times[default] else default


def _compiled(trial: _Trial, speed: Speed, expected: float, tell: Tell) -> Speed:
    """Return the speed with compilation if the training saves at least twice what compiling costs."""
    candidate = replace(speed, compile="on")
    tell(Event("speed", "trying torch.compile, which may take a minute or two"))
    try:
        step, eager = _stepper(trial, candidate), _stepper(trial, speed)
        cost = _once(step, trial.device)
        times = _alternate({candidate: step, speed: eager}, trial.device, limit=2.0)
    except Exception as error:  # no C++ compiler, an unsupported operator: then it runs uncompiled, as by default
        tell(Event("speed", f"torch.compile does not work here ({type(error).__name__}); training without it"))
        return speed
    _report(candidate, times[candidate], tell)
    ratio = times[candidate] / times[speed]
    return candidate if ratio < _MARGIN and expected * (1 - ratio) > 2 * cost else speed


def _stepper(trial: _Trial, speed: Speed) -> Step:
    """Return a function that does one training step on a copy of the network."""
    network = move(copy.deepcopy(trial.model), trial.device, speed).train()
    if speed.compile == "on":
        ready_to_compile()
    run: Any = torch.compile(network) if speed.compile == "on" else network
    rule = optimizer([p for p in network.parameters() if p.requires_grad], trial.settings)
    inputs = moved(trial.task.inputs(trial.batch, training=True), trial.device, memory_format(speed))
    dtype = _DTYPES[speed.precision]

    def step() -> None:
        with torch.autocast(trial.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            output = trial.task.output(spread(run, inputs))
        loss_of(trial.task, typed(output, torch.float32), trial.batch, None, trial.settings).backward()
        rule.step()
        rule.zero_grad(set_to_none=True)

    return step


def _alternate(steps: dict[Speed, Step], device: torch.device, limit: float) -> dict[Speed, float]:
    """Return the median seconds of each step, run in turn so that a busy moment of the machine hits all alike."""
    times: dict[Speed, list[float]] = {speed: [] for speed in steps}
    started = time.perf_counter()
    for done in range(20):
        if done >= 3 and time.perf_counter() - started > limit:
            break
        for speed, step in steps.items():
            times[speed].append(_once(step, device))
    return {speed: statistics.median(taken) for speed, taken in times.items()}


def _warm(step: Step, device: torch.device) -> float:
    """Return the seconds of the last of the first steps, which on CUDA load kernels and are no measure."""
    if device.type == "cuda":
        for _ in range(3):
            step()
    return _once(step, device)


def _once(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _report(speed: Speed, seconds: float, tell: Tell) -> None:
    way = ", ".join([speed.precision, speed.memory_format] + ["compiled"] * (speed.compile == "on"))
    tell(Event("speed", f"{way}: {seconds * 1e3:.1f} ms a step", values={"milliseconds": seconds * 1e3}))
