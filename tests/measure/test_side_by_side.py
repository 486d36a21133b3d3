"""Turns, clocks and what is said of a difference; times are made up where they matter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import nets
from secateur.measure import SideBySide, SpeedUp, side_by_side
from secateur.measure.runtimes import Ready
from secateur.measure.side_by_side import MOST_ROUNDS, ROUNDS, Clocked, turns_of

X = torch.randn(2, 3, 8, 8)


class Clocks:
    """Two clocks, which a network moves when it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.processor = 0.0
        from secateur.measure.side_by_side import time

        monkeypatch.setattr(time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(time, "process_time", lambda: self.processor)

    def network(self, wall: Iterator[float] | float, processor: float) -> Ready:
        def run() -> None:
            self.wall += wall if isinstance(wall, float) else next(wall)
            self.processor += processor

        return Ready(run, list)


def test_both_clocks_time_the_same_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    made = {"dense": clocks.network(0.004, 0.003), "pruned": clocks.network(0.002, 0.001)}
    times = turns_of(made, 0.1, "processor")
    assert len(times["dense"]) == len(times["pruned"]) == ROUNDS  # nothing wavers, so that is enough
    for name, wall, processor in (("dense", 0.004, 0.003), ("pruned", 0.002, 0.001)):
        for turn in times[name]:
            assert turn == [pytest.approx((wall, processor))] * len(turn)
    assert len(times["dense"][0]) == 3  # passes of 4 ms in the 9 ms of a turn


def wavering() -> Iterator[float]:
    while True:
        for time in (0.002, 0.004, 0.008):
            yield from [time] * 11


def test_turns_go_on_while_the_interval_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    made = {"dense": clocks.network(wavering(), 0.003), "pruned": clocks.network(0.002, 0.001)}
    assert len(turns_of(made, 10.0, "processor")["dense"]) == ROUNDS  # by the other clock nothing wavers
    assert len(turns_of(made, 0.01, "wall", most=20)["dense"]) == ROUNDS  # its patience is at its end
    clocks = Clocks(monkeypatch)
    slow = {"dense": clocks.network(wavering(), 0.0), "pruned": clocks.network(0.002, 0.0)}
    assert ROUNDS < len(turns_of(slow, 0.5, "wall")["dense"]) <= MOST_ROUNDS


def found_of(dense: tuple[float, ...], pruned: tuple[float, ...]) -> SideBySide:
    from secateur.measure import Latency

    def latency(milliseconds: float) -> Latency:
        return Latency(milliseconds, 0.1, 11, 1, 1, "cpu", "onnxruntime")

    latencies = {"dense": latency(dense[0]), "pruned": latency(pruned[0])}
    turns = {"dense": dense, "pruned": pruned}
    other = Clocked({"dense": latency(20.0), "pruned": latency(5.0)}, {"dense": (20.0,), "pruned": (5.0,)})
    return SideBySide("onnxruntime", latencies, turns, {"dense": 0.0, "pruned": 0.0}, "processor", other)


def test_the_speed_up_is_the_median_over_the_turns_with_its_interval() -> None:
    ratios = (1.9, 1.95, 2.0, 2.01, 2.02, 2.03, 2.04, 2.05, 2.06, 2.1, 9.0)
    found = found_of(tuple(3.0 * ratio for ratio in ratios), (3.0,) * 11)
    assert found.ratio("dense", "pruned") == pytest.approx(2.03)
    assert found.interval("dense", "pruned") == pytest.approx((1.95, 2.1))
    assert found.interval("pruned", "dense") == pytest.approx((1 / 2.1, 1 / 1.95))
    assert found.differ("dense", "pruned")
    speed = SpeedUp.of(found)
    assert (speed.ratio, speed.low, speed.high) == pytest.approx((2.03, 1.95, 2.1))
    assert (speed.wall_ratio, speed.processor_ratio) == pytest.approx((4.0, 2.03))
    assert speed.milliseconds == pytest.approx((5.7, 3.0))  # by the clock that decides
    assert (speed.dense.milliseconds, speed.pruned.milliseconds) == (20.0, 5.0)  # by the clock on the wall
    assert (speed.rounds, speed.confidence, speed.runtime, speed.threads) == (11, 0.95, "onnxruntime", 1)
    stored: dict[str, Any] = speed.to_dict()
    assert stored["differs"] is True
    assert stored["dense"]["runtime"] == "onnxruntime"


def test_equal_networks_do_not_differ() -> None:
    wobble = tuple(3.0 * (0.97 if turn % 2 else 1.03) for turn in range(11))
    found = found_of(wobble, (3.0,) * 11)
    assert not found.differ("dense", "pruned")
    assert not SpeedUp.of(found).differs


def test_one_thread_is_timed_by_the_processor_and_several_on_the_wall() -> None:
    model = nets.Plain()
    networks = {"dense": model, "pruned": copy.deepcopy(model)}
    one = side_by_side(networks, X, threads=1, seconds=0.02)
    assert (one.clock, one.by("processor") is not None) == ("processor", True)
    two = side_by_side(networks, X, threads=2, seconds=0.02)
    assert two.clock == "wall"
    assert two.by("processor") is two.other
    assert two.by("wall") is not None
    assert model.training
