"""Several networks timed in turns, so that what slows the machine down for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.errors import SettingError, nearest
from secateur.events import Event, Tell, ignore
from secateur.measure.confidence_interval import differs, median_interval
from secateur.measure.forward import ExampleInputs, device_of, evaluating
from secateur.measure.latency import WARM_UP, Latency, batch_of
from secateur.measure.machine import steadiest_clock
from secateur.measure.runtimes import Ready, Runtime, ready, threads_set, verified
from secateur.rules import Seconds, Threads
from secateur.typed import check_types

ROUNDS = 11
"""Turns that are taken in any case; an interval of 95 % needs 6."""

MOST_ROUNDS = 41
"""Turns after which no more are taken, however wide the interval."""

NARROW = 0.03
"""Half width of an interval, relative to the ratio, at which no more turns are due."""

_PATIENCE = 4  # times the seconds asked for, after which no more turns are taken

Clock = Literal["wall", "processor"]
"""What a time is taken by: the clock on the wall, or how long all threads of this program have computed."""

_CLOCKS: tuple[Clock, ...] = ("wall", "processor")

_Times: TypeAlias = dict[str, list[list[tuple[float, float]]]]  # network, turn, pass: seconds by both clocks


@dataclass(frozen=True)
class Clocked:
    """Times of some networks by one clock.

    Attributes:
        latencies: median and spread of all passes of each network.
        turns: for each network the median of each turn, in milliseconds; equally numbered turns followed each other.
    """

    latencies: Mapping[str, Latency]
    turns: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        check_types(self)

    def ratios(self, of: str, to: str) -> list[float]:
        """Return how many times the latency of one network is that of another, turn by turn.

        Raises:
            SettingError: if there is no network of such a name.
        """
        for name in (of, to):
            if name not in self.turns:
                raise SettingError(f"no network '{name}' was timed{nearest(name, self.turns)}: {', '.join(self.turns)}")
        return [mine / yours for mine, yours in zip(self.turns[of], self.turns[to], strict=True)]

    def ratio(self, of: str, to: str) -> float:
        """Return the median of these."""
        return statistics.median(self.ratios(of, to))


@checked
@dataclass(frozen=True)
class SideBySide:
    """How fast some networks are in one runtime, by the clock that other programs disturb the least.

    Attributes:
        runtime: see ``Runtime``.
        latencies: median and spread of all passes of each network.
        turns: see ``Clocked``.
        differences: how far the outputs were from those of PyTorch eager, relative to the largest.
        clock: which clock the times are of: that of the processor for one thread of a CPU, else the one on the wall.
        other: the same passes by the other clock; None on a GPU, where the time of the processor means nothing.
    """

    runtime: Runtime
    latencies: Mapping[str, Latency]
    turns: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, float]
    clock: Clock = "wall"
    other: Clocked | None = None

    def __post_init__(self) -> None:
        check_types(self)

    def by(self, clock: Clock) -> Clocked | None:
        """Return the times by one of the clocks, None if there are none."""
        return Clocked(self.latencies, self.turns) if clock == self.clock else self.other

    def ratio(self, of: str, to: str) -> float:
        """Return how many times the latency of one network is that of another, the median over the turns."""
        return Clocked(self.latencies, self.turns).ratio(of, to)

    def interval(self, of: str, to: str) -> tuple[float, float]:
        """Return the interval of that ratio, see ``median_interval``."""
        return median_interval(Clocked(self.latencies, self.turns).ratios(of, to))

    def differ(self, of: str, to: str) -> bool:
        """Say whether two networks differ in their latency, or only by noise."""
        return differs(self.ratio(of, to), *self.interval(of, to))


def deciding_clock(threads: int, device: torch.device) -> Clock:
    """Return the clock that other programs disturb the least, see ``steadiest_clock``."""
    return "processor" if steadiest_clock(threads, device) is time.process_time else "wall"


@checked
@apart("networks")
def side_by_side(
    networks: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    runtime: Runtime = "eager",
    *,
    threads: Threads = None,
    seconds: Seconds = 1.0,
    tell: Tell = ignore,
) -> SideBySide:
    """Time networks in turns, after comparing what each puts out with PyTorch eager.

    Each pass is timed by two clocks, on the wall and of the processor. Turns go on until the ratio of each network to
    the first is known to ``NARROW`` with a confidence of 95 %, or patience ends.

    Args:
        networks: by name; all on one device. They stay as they are.
        example_inputs: what each of them takes, of the batch size to time.
        runtime: see ``Runtime``.
        threads: of the CPU; None means as many as torch has now.
        seconds: to time each network for, at least, over all turns; four times as long at most where the times are
            unsteady.
        tell: hears of each turn, under the stage ``"measure RUNTIME"``.

    Raises:
        ExportError: if a network cannot be converted for the runtime.
        ModelError: if a network does not run, or computes something else in the runtime.
        SettingError: if a setting is out of range, or the runtime is not installed.
    """
    if not networks:
        raise SettingError("there is no network to time; give one at least")
    with ExitStack() as stack:
        used = stack.enter_context(threads_set(threads))
        for model in networks.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        if runtime == "compile":
            torch.compiler.reset()  # else the networks of earlier calls count against dynamo's limit of variants
        made: dict[str, Ready] = {}
        differences: dict[str, float] = {}
        for name, model in networks.items():
            tell(Event(f"measure {runtime}", f"timing in {runtime}"))
            made[name] = ready(model, example_inputs, runtime, used)
            differences[name] = verified(model, example_inputs, made[name], runtime)
        device = device_of(next(iter(networks.values()), nn.Identity()))
        return in_turns(made, differences, runtime, batch_of(example_inputs), used, device, seconds, tell)


def in_turns(
    made: Mapping[str, Ready],
    differences: Mapping[str, float],
    runtime: Runtime,
    batch: int,
    threads: int,
    device: torch.device,
    seconds: float,
    tell: Tell = ignore,
) -> SideBySide:
    """Time what is ready to run, see ``side_by_side``; call it as ``ready`` is called."""
    clock = deciding_clock(threads, device)
    times = turns_of(made, seconds, clock, lambda turn: tell(Event(f"measure {runtime}", "", turn, ROUNDS)))
    found = {
        each: Clocked(
            {name: _latency(times[name], each, batch, threads, str(device), runtime) for name in made},
            {name: medians_of(times[name], each) for name in made},
        )
        for each in _CLOCKS
    }
    own, other = found[clock], found["wall" if clock == "processor" else "processor"]
    on_cpu = device.type == "cpu"
    return SideBySide(runtime, own.latencies, own.turns, differences, clock, other if on_cpu else None)


def turns_of(
    made: Mapping[str, Ready],
    seconds: float,
    clock: Clock,
    begin: Callable[[int], None] = lambda turn: None,
    *,
    rounds: int = ROUNDS,
    most: int = MOST_ROUNDS,
) -> _Times:
    """Return for each network the times of its passes in seconds, turn by turn, by both clocks.

    Args:
        made: what to time in turns; call this as ``ready`` is called.
        seconds: for each network, over the first ``rounds`` turns.
        clock: which decides whether more turns are due.
        begin: called before each of the first turns with its number.
        rounds: turns in any case.
        most: turns at most.
    """
    times: _Times = {name: [] for name in made}
    end = time.perf_counter() + _PATIENCE * seconds * len(made)
    for number in range(most):
        if number < rounds:
            begin(number)
        elif _narrow(times, clock) or time.perf_counter() >= end:
            break
        # the first of a turn finds other caches than the second, so it is not always the same one
        order = list(made.items())
        for name, it in order if number % 2 else reversed(order):
            for _ in range(WARM_UP if number == 0 else 1):
                it.run()
            times[name].append(_timed(it, seconds / rounds))
    return times


def _timed(it: Ready, seconds: float) -> list[tuple[float, float]]:
    """Return the times of some passes on the wall and of the processor."""
    passes: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while True:
        wall, processor = time.perf_counter(), time.process_time()
        it.run()
        computed = time.process_time() - processor
        now = time.perf_counter()
        passes.append((now - wall, computed))
        if now >= end:
            return passes


def _narrow(times: _Times, clock: Clock) -> bool:
    """Say whether the ratio of each network to the first is known well enough."""
    first, *others = (medians_of(turns, clock) for turns in times.values())
    for turns in others:
        ratios = [mine / yours for mine, yours in zip(first, turns, strict=True)]
        low, high = median_interval(ratios)
        if not high - low <= 2 * NARROW * statistics.median(ratios):
            return False
    return True


def medians_of(turns: Sequence[Sequence[tuple[float, float]]], clock: Clock) -> tuple[float, ...]:
    """Return the median of each turn in milliseconds."""
    return tuple(float(np.median([each[_CLOCKS.index(clock)] for each in turn])) * 1e3 for turn in turns)


def _latency(
    turns: Sequence[Sequence[tuple[float, float]]],
    clock: Clock,
    batch: int,
    threads: int,
    device: str,
    runtime: Runtime,
) -> Latency:
    passes = np.array([each[_CLOCKS.index(clock)] for turn in turns for each in turn]) * 1e3
    low, middle, high = np.quantile(passes, (0.25, 0.5, 0.75))
    return Latency(float(middle), float(high - low), len(passes), batch, threads, device, runtime)
