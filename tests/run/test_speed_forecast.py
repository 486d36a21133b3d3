from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Settings, prune
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.limits import Limits
from secateur.core.trace import trace
from secateur.errors import ExportError
from secateur.events import Event
from secateur.measure import Latency, SideBySide
from secateur.measure.layer_table import LayerTable
from secateur.run import speed_forecast
from secateur.run.speed_forecast import Foretold, foretell

IMAGE = torch.randn(1, 3, 8, 8)


class Wide(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(64, 4),
        )  # fmt: skip


def clocked(times: dict[str, Any], runtime: str = "eager") -> SideBySide:
    """Return what a measurement in turns would be with these milliseconds, one for each turn."""
    turns = {name: tuple(time) if isinstance(time, tuple) else (float(time),) * 11 for name, time in times.items()}
    latencies = {name: Latency(turn[5], 0.0, 11, 1, 1, "cpu", runtime) for name, turn in turns.items()}
    return SideBySide(runtime, latencies, turns, dict.fromkeys(turns, 0.0))  # type: ignore[arg-type]


def at_these_times(monkeypatch: pytest.MonkeyPatch, times: dict[str, Any]) -> None:
    def measured(networks: dict[str, nn.Module], *_: Any, **__: Any) -> SideBySide:
        return clocked({name: times[name] for name in networks})

    monkeypatch.setattr(speed_forecast, "side_by_side", measured)


def foretold(monkeypatch: pytest.MonkeyPatch, times: dict[str, Any], auto: Plan | None = None) -> Foretold:
    at_these_times(monkeypatch, times)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: 1.0)
    monkeypatch.setattr(LayerTable, "save", lambda self: None)
    model = Wide().eval()
    plan = Plan((DropUnits("0", tuple(range(32))), DropUnits("2", tuple(range(32)))))
    return foretell(model, trace(model, IMAGE), plan, IMAGE, "eager", threads=1, auto=auto)


def test_a_stand_in_that_keeps_the_promise_of_its_macs_is_told_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = foretold(monkeypatch, {"dense": 9.0, "pruned": 3.0})
    assert not found.warns
    assert found.sentence().startswith("expect about 3.00 times the speed in eager here")
    assert f"where the MACs fall {found.macs:.2f} times" in found.sentence()


def test_a_speed_far_below_the_macs_is_a_warning_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    found = foretold(monkeypatch, {"dense": 9.0, "pruned": 8.0})
    assert found.macs > 3
    assert found.warns
    assert "67% of its time is not in convolutions" in found.sentence()  # three layers of 1 ms each
    assert "0, 2, 6 are bound by memory or overhead" in found.sentence()


def test_a_difference_inside_the_noise_is_no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = (1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.03, 0.97, 1.0, 1.01, 0.99)
    found = foretold(monkeypatch, {"dense": 1.0, "pruned": noise})
    assert "no measurable difference in speed" in found.sentence()


def test_times_that_scatter_promise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wild = (1.0, 3.0, 0.5, 2.0, 0.7, 1.5, 4.0, 0.4, 1.0, 2.5, 0.6)
    found = foretold(monkeypatch, {"dense": 2.0, "pruned": wild})
    assert found.speed is None
    assert not found.warns
    assert "the speed-up cannot be foretold here: the times scatter too much" in found.sentence()


def test_what_a_runtime_cannot_have_is_not_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> SideBySide:
        raise ExportError("no such operator; time it in another runtime")

    monkeypatch.setattr(speed_forecast, "side_by_side", refuse)
    model = Wide().eval()
    found = foretell(model, trace(model, IMAGE), Plan((DropUnits("0", (0,)),)), IMAGE, "eager")
    assert found.sentence() == "the speed-up cannot be foretold here: no such operator; time it in another runtime"


def test_the_price_of_a_number_is_that_of_the_widths_chosen_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = foretold(monkeypatch, {"dense": 9.0, "pruned": 4.0, "auto": 2.0}, auto=Plan())
    assert found.price == 2.0
    assert found.warns
    assert "leave the multiple out" in found.sentence()
    cheap = foretold(monkeypatch, {"dense": 9.0, "pruned": 3.0, "auto": 2.9}, auto=Plan())
    assert not cheap.warns
    json.dumps(cheap.to_dict())


def told(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Event]:
    """Prune with made-up times, and return the events of the forecast."""
    times = {"dense": 9.0, "pruned": 4.0, "auto": 2.0}
    at_these_times(monkeypatch, times)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: float(shape.macs))
    events: list[Event] = []
    options = {"method": "magnitude", "target": 0.5, "runtime": "eager", "threads": 1, **options}
    prune(Wide(), IMAGE, tell=events.append, **options)
    return [event for event in events if event.stage in ("forecast", "warning")]


def test_a_number_that_costs_speed_is_warned_about_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    events = told(monkeypatch, limits=Limits(multiple=1))
    assert [event.stage for event in events] == ["warning"]
    assert "leave the multiple out" in events[0].text


def test_without_long_work_the_measurement_itself_comes_soon_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch) == []


def test_nothing_is_foretold_where_nothing_may_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, limits=Limits(multiple=1), latency=False) == []


def test_a_method_that_searches_is_not_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.methods.weak_subnetwork import WeakSubnetwork

    events = told(monkeypatch, method=WeakSubnetwork())
    assert len(events) == 1
    assert "cannot be foretold here: weak_subnetwork finds out by itself" in events[0].text


def test_what_was_foretold_and_the_multiples_are_kept_with_the_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from secateur import load_data

    data = load_data("mnist5k")
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    times = {"dense": 9.0, "pruned": 4.5}
    at_these_times(monkeypatch, times)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: float(shape.weight[0] * shape.weight[1]))
    brief = dataclasses.replace(Settings(), epochs=0)
    result = prune(net, None, "magnitude", 0.63, data, train=brief, runtime="eager", threads=1)
    assert result.foretold["speed"]["ratio"] == 2.0
    assert result.multiples == {"0": 4}  # the rule says 16; these layers cost no more at halves and quarters of it
    folder = result.save(tmp_path / "out")
    document = json.loads((folder / "measurement.json").read_text())
    assert document["multiples"] == result.multiples
    assert document["notes"] == list(result.plans[0].notes)
    assert "layers timed in eager" in document["notes"][0]
