"""When a run times its networks, in what, and what it keeps of that."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.benchmark import Timer

from secateur.budget import Budget
from secateur.data import Data
from secateur.errors import ExportError, SettingError
from secateur.events import Event
from secateur.measure import Latency, SideBySide, measurement, runtime_choice
from secateur.recipe import Recipe
from secateur.run import headline_speed, job, pipeline, prune, run_recipe, speed_forecast
from secateur.run.headline_speed import meant_for
from secateur.training import Settings

X = torch.randn(1, 3, 8, 8)


def made_up(ratio: float, seen: list[Any] | None = None) -> Callable[..., SideBySide]:
    """Return a measurement of made-up times, which notes what it was called with."""

    def measured(networks: dict[str, nn.Module], inputs: Any, runtime: Any, **options: Any) -> SideBySide:
        if seen is not None:
            seen.append((dict(networks), runtime, options["threads"]))
        times = {"dense": 4.0, "pruned": 4.0 / ratio}
        latencies = {name: Latency(each, 0.1, 11, 1, 1, "cpu", runtime) for name, each in times.items()}
        turns = {name: (each,) * 11 for name, each in times.items()}
        return SideBySide(runtime, latencies, turns, dict.fromkeys(times, 0.0))

    return measured


def test_both_networks_are_timed_once_and_together_when_all_is_done(
    net: nn.Module, data: Data, train: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    heard: list[Event] = []

    def measured(*given: Any, **options: Any) -> SideBySide:
        heard.append(Event("timed", ""))
        return made_up(2.0, seen)(*given, **options)

    monkeypatch.setattr(headline_speed, "side_by_side", measured)
    monkeypatch.setattr(measurement, "latency", None)  # no network is timed by itself
    monkeypatch.setattr(pipeline.Pipeline, "foretell", lambda self, graph: None)
    result = prune(
        net, None, "magnitude", 0.5, data, train=train, runtime="channels_last", threads=1, tell=heard.append
    )
    [(networks, runtime, threads)] = seen
    assert list(networks) == ["dense", "pruned"]
    assert networks["pruned"] is result.model
    assert all(torch.equal(t, net.state_dict()[name]) for name, t in networks["dense"].state_dict().items())
    assert (runtime, threads) == ("channels_last", 1)
    stages = [event.stage for event in heard]
    assert stages[-1] == "timed"
    assert "train" in stages
    assert result.speed is not None
    assert (result.speed.ratio, result.speed.runtime) == (2.0, "channels_last")
    assert result.before.latency == result.speed.dense
    assert result.after.latency == result.speed.pruned
    assert result.after.quality is not None


def test_nothing_is_timed_without_latency(
    net: nn.Module, data: Data, train: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*given: Any, **options: Any) -> Any:
        raise AssertionError("a network is timed")

    for module, name in (
        (headline_speed, "side_by_side"),
        (headline_speed, "fastest_runtime"),
        (job, "fastest"),
        (speed_forecast, "foretell"),
        (measurement, "latency"),
        (time, "process_time"),
        (Timer, "blocked_autorange"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    result = prune(net, None, "magnitude", 0.5, data, train=train, latency=False)
    assert result.speed is None
    assert result.before.latency is None
    # what is not timed need not be installed
    monkeypatch.setattr(headline_speed, "missing", lambda runtime, device: f"{runtime} needs something")
    prune(net, X, target=0.5, runtime="openvino", latency=False)


def test_the_runtimes_are_those_of_the_formats() -> None:
    assert meant_for(("pt2", "onnx")) == ("eager", "channels_last", "onnxruntime", "openvino")
    assert meant_for(("onnx",)) == ("onnxruntime", "openvino")
    assert meant_for(("source", "pt2")) == meant_for(()) == ("eager", "channels_last")


def test_the_fastest_of_several_is_the_headline(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def chosen(model: Any, inputs: Any, among: Any, **options: Any) -> Any:
        asked.append((among, options["threads"]))
        return None if len(asked) == 2 else among[-1]

    monkeypatch.setattr(headline_speed, "fastest_runtime", chosen)
    monkeypatch.setattr(headline_speed, "side_by_side", made_up(2.0))
    result = prune(net, X, target=0.5, threads=1)
    assert asked == [(("eager", "channels_last", "onnxruntime", "openvino"), 1)]
    assert result.speed is not None
    assert result.speed.runtime == "openvino"
    result = prune(net, X, target=0.5, runtime=("onnxruntime",))  # which cannot have it
    assert asked[1:] == [(("onnxruntime",), None), (("eager", "channels_last"), None)]
    assert result.speed is not None
    assert result.speed.runtime == "channels_last"


def test_what_cannot_run_a_network_is_passed_over(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> bytes:
        raise ExportError("no")

    found = runtime_choice.fastest_runtime(net, X, ("eager", "channels_last"), seconds=0.01)
    assert found in ("eager", "channels_last")
    monkeypatch.setattr(runtime_choice, "onnx_program", fails)
    assert runtime_choice.fastest_runtime(net, X, ("onnxruntime", "eager")) == "eager"
    assert runtime_choice.fastest_runtime(net, X, ("onnxruntime", "openvino")) is None
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    assert runtime_choice.fastest_runtime(net, X, ("openvino",)) is None
    assert net.training


@pytest.mark.parametrize(("ahead", "chosen"), [(0.97, "eager"), (0.9, "channels_last")])
def test_a_tie_between_runtimes_is_decided_alike_each_time(
    ahead: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"eager": 1.0, "channels_last": ahead}
    monkeypatch.setattr(runtime_choice, "turns_of", lambda made, *_, **__: {name: times[name] for name in made})
    monkeypatch.setattr(runtime_choice, "medians_of", lambda found, _: [found])
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    assert runtime_choice.fastest_runtime(net, X, ("eager", "channels_last")) == chosen


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"runtime": "openvno"}, "not 'openvno' .*did you mean 'openvino'"),
        ({"runtime": ("eager", "fast")}, "not 'fast'"),
        ({"runtime": "openvino"}, "openvino needs the package openvino; run: pip install"),
        ({"threads": 0}, "threads must be a whole number of threads, at least 1"),
        (
            {"runtime": "eager", "budget": Budget(max_latency=0.5, runtime="compile")},
            "'runtime' is eager for the run, bu",
        ),
        (
            {"threads": 1, "budget": Budget(max_latency=0.5, threads=2)},
            "'threads' is 1 for the run, but 2 for its budg",
        ),
    ],
)
def test_impossible_runtimes_are_refused_before_any_work(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], error: str
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    heard: list[Event] = []
    with pytest.raises(SettingError, match=error):
        prune(net, X, target=0.5, tell=heard.append, **asked)
    assert heard == []


def test_a_recipe_names_a_runtime_that_must_be_there_before_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    recipe = Recipe(model="lenet5", data="nowhere", method="magnitude", keep=0.5, runtime="openvino")
    with pytest.raises(SettingError, match="openvino needs the package openvino"):
        run_recipe(recipe)


def test_a_resumed_run_does_not_change_its_mind(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(("eager", "channels_last"))
    monkeypatch.setattr(headline_speed, "fastest_runtime", lambda *given, **options: next(names))
    monkeypatch.setattr(headline_speed, "side_by_side", made_up(2.0))
    first, again = (prune(net, X, target=0.5, work=tmp_path / "work") for _ in range(2))
    assert first.speed == again.speed
    [kept] = (tmp_path / "work").glob("runtime-*.json")
    assert json.loads(kept.read_text()) == {"runtime": "eager"}
    kept.write_text("no JSON")
    third = prune(net, X, target=0.5, work=tmp_path / "work")
    assert third.speed is not None
    assert third.speed.runtime == "channels_last"


def test_several_processes_do_not_ask_a_clock(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(headline_speed, "missing", lambda runtime, device: "gone" if runtime == "openvino" else "")
    monkeypatch.setattr(
        headline_speed, "fastest_runtime", lambda model, inputs, among, **options: asked.append(among) or among[0]
    )
    monkeypatch.setattr(headline_speed, "side_by_side", made_up(2.0))
    prune(net, X, target=0.5)
    prune(net, X, target=0.5, runtime=("eager", "channels_last"))
    assert asked == [("onnxruntime",), ("channels_last",)]


def test_a_runtime_that_fails_in_the_end_costs_no_result(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(networks: Any, inputs: Any, runtime: str, **options: Any) -> SideBySide:
        if runtime == "onnxruntime":
            raise ExportError("it cannot be converted")
        return made_up(1.5)(networks, inputs, runtime, **options)

    monkeypatch.setattr(headline_speed, "side_by_side", fails)
    monkeypatch.setattr(headline_speed, "missing", lambda runtime, device: "")
    monkeypatch.setattr(pipeline.Pipeline, "foretell", lambda self, graph: None)
    heard: list[Event] = []
    result = prune(net, X, target=0.5, runtime="onnxruntime", tell=heard.append)
    assert result.speed is not None
    assert result.speed.runtime == "eager"
    [warning] = [event.text for event in heard if event.stage == "warning"]
    assert warning == "the networks cannot be timed in onnxruntime and are timed in eager (it cannot be converted)"


def test_a_whole_run_with_real_clocks(net: nn.Module, tmp_path: Path) -> None:
    from secateur import artifact, report

    result = prune(net, X, target=0.5, runtime="eager", threads=1)
    assert result.speed is not None
    assert result.speed.low <= result.speed.ratio <= result.speed.high
    result.save(tmp_path / "result")
    text = report.outcome(artifact.document(result))
    assert "a forward pass in PyTorch eager " in text
    stored = artifact.load(tmp_path / "result", dense=net).measurement["speed"]
    assert stored["ratio"] == result.speed.ratio
