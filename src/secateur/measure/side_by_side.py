"""Several networks timed in turns, so that what slows the machine down for a while slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..events import Event, Tell, ignore
from .forward import ExampleInputs, device_of, evaluating
from .latency import WARM_UP, Latency, batch_of, check_conditions
from .runtimes import Ready, Runtime, known, ready, threads_set, verified

ROUNDS = 11


@dataclass(frozen=True)
class SideBySide:
    """How fast some networks are in one runtime.

    Attributes:
        runtime: see ``Runtime``.
        latencies: median and spread of all passes of each network.
        turns: for each network the median of each turn, in milliseconds; equally numbered turns followed each other.
        differences: how far the outputs were from those of PyTorch eager, relative to the largest.
    """

    runtime: Runtime
    latencies: Mapping[str, Latency]
    turns: Mapping[str, tuple[float, ...]]
    differences: Mapping[str, float]

    def ratio(self, of: str, to: str) -> float:
        """Return how many times the latency of one network is that of another, the median over the turns."""
        return float(np.median(self._ratios(of, to)))

    def ratio_spread(self, of: str, to: str) -> float:
        """Return the interquartile range of that ratio."""
        low, high = np.quantile(self._ratios(of, to), (0.25, 0.75))
        return float(high - low)

    def _ratios(self, of: str, to: str) -> np.ndarray:
        return np.array(self.turns[of]) / np.array(self.turns[to])


def side_by_side(
    networks: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    runtime: Runtime = "eager",
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    tell: Tell = ignore,
) -> SideBySide:
    """Time networks in turns, after comparing what each puts out with PyTorch eager.

    Args:
        networks: by name; all on one device. They stay as they are.
        example_inputs: what each of them takes, of the batch size to time.
        runtime: see ``Runtime``.
        threads: of the CPU; None means as many as torch has now.
        seconds: to time each network for, at least, over all turns.
        clock: what the times are taken by, in seconds; by default the one on the wall.
        tell: hears of each turn, under the stage ``"measure RUNTIME"``.

    Raises:
        ExportError: if a network cannot be converted for the runtime.
        ModelError: if a network does not run, or computes something else in the runtime.
        SettingError: if a setting is out of range, or the runtime is not installed.
    """
    check_conditions(threads, seconds)
    runtime = known(runtime)
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
        times = _turns(made, seconds, clock, lambda turn: tell(Event(f"measure {runtime}", "", turn, ROUNDS)))
    latencies = {
        name: _latency(times[name], batch_of(example_inputs), used, str(device_of(model)), runtime)
        for name, model in networks.items()
    }
    turns = {name: tuple(float(np.median(turn)) * 1e3 for turn in rounds) for name, rounds in times.items()}
    return SideBySide(runtime, latencies, turns, differences)


def _turns(
    made: Mapping[str, Ready], seconds: float, clock: Callable[[], float], begin: Callable[[int], None]
) -> dict[str, list[list[float]]]:
    """Return for each network the times of its passes, turn by turn."""
    times: dict[str, list[list[float]]] = {name: [] for name in made}
    for number in range(ROUNDS):
        begin(number)
        # the first of a turn finds other caches than the second, so it is not always the same one
        order = list(made.items())
        for name, it in order if number % 2 else reversed(order):
            for _ in range(WARM_UP if number == 0 else 1):
                it.run()
            times[name].append(_timed(it, seconds / ROUNDS, clock))
    return times


def _timed(it: Ready, seconds: float, clock: Callable[[], float]) -> list[float]:
    passes: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        start = clock()
        it.run()
        passes.append(clock() - start)
        if time.perf_counter() >= end:
            return passes


def _latency(rounds: list[list[float]], batch: int, threads: int, device: str, runtime: Runtime) -> Latency:
    passes = np.array([each for turn in rounds for each in turn]) * 1e3
    low, middle, high = np.quantile(passes, (0.25, 0.5, 0.75))
    return Latency(float(middle), float(high - low), len(passes), batch, threads, device, runtime)
