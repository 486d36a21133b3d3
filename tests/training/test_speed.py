from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from secateur.events import Event
from secateur.tasks import Classification
from secateur.training import Settings, Speed, fit, speed

CPU = torch.device("cpu")
BATCH = (torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))
Net = Callable[[int], nn.Module]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[Speed, float]:
    """Let the times of candidates, in seconds a step, be what the test says; bf16 counts as supported."""
    times: dict[Speed, float] = {}
    build = speed._stepper

    def stepper(trial: Any, candidate: Speed) -> Any:
        step = build(trial, Speed(candidate.precision, candidate.memory_format))
        step.candidate = candidate
        return step

    def once(step: Any, device: object) -> float:
        return times[step.candidate]

    monkeypatch.setattr(speed, "_stepper", stepper)
    monkeypatch.setattr(speed, "_once", once)
    monkeypatch.setattr(speed, "_bf16", lambda device: True)
    for precision in ("float32", "bf16"):
        for layout in ("contiguous", "channels_last"):
            times[Speed(precision, layout)] = 1.0
    return times


def choose(
    model: nn.Module, steps: int = 1000, tell: Callable[[Event], None] = lambda event: None, **fields: Any
) -> Speed:
    settings = Settings(**{"compile": "off", **fields})
    return speed.choose(model, Classification(), BATCH, settings, CPU, steps=steps, tell=tell)


def test_the_fastest_wins(net: Net, clock: dict[Speed, float]) -> None:
    events: list[Event] = []
    clock[Speed("bf16", "channels_last")] = 0.5
    assert choose(net(0), tell=events.append) == Speed("bf16", "channels_last")
    assert [event.values.get("milliseconds") for event in events] == [None, 1000, 1000, 1000, 500]


def test_only_what_is_open_is_chosen(net: Net, clock: dict[Speed, float]) -> None:
    clock[Speed("bf16", "channels_last")] = 0.1
    clock[Speed("bf16", "contiguous")] = 0.2
    assert choose(net(0), precision="float32").precision == "float32"
    assert choose(net(0), memory_format="contiguous") == Speed("bf16", "contiguous")
    assert choose(net(0), compile="on") == Speed("bf16", "channels_last", "on")


def test_noise_decides_nothing(net: Net, clock: dict[Speed, float]) -> None:
    clock[Speed("float32", "channels_last")] = 0.96
    assert choose(net(0)) == Speed()


def test_short_trainings_are_not_measured(net: Net, clock: dict[Speed, float]) -> None:
    clock[Speed("bf16", "channels_last")] = 0.1
    assert choose(net(0), steps=1) == Speed()


def test_a_hopeless_candidate_is_stopped_after_one_step(
    net: Net, clock: dict[Speed, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock[Speed("bf16", "contiguous")] = clock[Speed("bf16", "channels_last")] = 10.0
    steps: dict[Speed, int] = {}
    once = speed._once

    def counting(step: Any, device: object) -> float:
        steps[step.candidate] = steps.get(step.candidate, 0) + 1
        return once(step, device)

    monkeypatch.setattr(speed, "_once", counting)
    assert choose(net(0)) == Speed()
    assert steps[Speed("bf16", "contiguous")] == steps[Speed("bf16", "channels_last")] == 1
    assert steps[Speed("float32", "channels_last")] > 3


def test_a_step_is_timed_with_what_it_waits_for() -> None:
    assert speed._once(lambda: time.sleep(0.02), CPU) >= 0.02


@pytest.mark.parametrize(
    ("steps", "compiled", "expected"), [(10_000, 0.5, "on"), (10_000, 0.99, "off"), (400, 0.5, "off")]
)
def test_compiling_is_for_long_trainings_that_gain(
    net: Net, clock: dict[Speed, float], steps: int, compiled: float, expected: str
) -> None:
    clock[Speed("float32", "contiguous", "on")] = compiled
    assert (
        choose(net(0), steps=steps, compile="auto", precision="float32", memory_format="contiguous").compile == expected
    )


def test_compiling_that_fails_is_no_error(net: Net, clock: dict[Speed, float], monkeypatch: pytest.MonkeyPatch) -> None:
    build = speed._stepper

    def stepper(trial: Any, candidate: Speed) -> Any:
        if candidate.compile == "on":
            raise RuntimeError("no compiler")
        return build(trial, candidate)

    monkeypatch.setattr(speed, "_stepper", stepper)
    events: list[Event] = []
    assert choose(net(0), steps=10_000, compile="auto", tell=events.append) == Speed()
    assert "torch.compile does not work here" in events[-1].text


def test_the_network_is_only_looked_at(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_BUDGET", 0.2)
    model = net(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    events: list[Event] = []
    choose(model, steps=10**6, tell=events.append)  # really measured
    assert len(events) > 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_that_cannot_be_copied_takes_the_defaults(net: Net) -> None:
    model = net(0)
    model.extra = torch.ones(1, requires_grad=True) * 2
    events: list[Event] = []
    assert choose(model, steps=10**6, tell=events.append) == Speed()
    assert "not measured" in events[-1].text


def test_fit_runs_with_what_was_chosen(net: Net, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.training import loop

    chosen = Speed("bf16", "channels_last", "off")
    monkeypatch.setattr(loop, "choose", lambda *args, **kwargs: chosen)
    seen: set[tuple[torch.dtype, bool]] = set()
    model = net(0)
    model[0].register_forward_hook(
        lambda module, args, out: seen.add((out.dtype, args[0].is_contiguous(memory_format=torch.channels_last)))
    )
    history = fit(model, toy, Settings(epochs=1, batch_size=16, device="cpu"))
    assert history.speed == chosen
    assert (torch.bfloat16, True) in seen


def test_settings_that_say_all_are_not_measured(
    net: Net, toy: Any, plain: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.training import loop

    monkeypatch.setattr(loop, "choose", None)
    assert fit(net(0), toy, plain(epochs=1, memory_format="channels_last")).speed == Speed("float32", "channels_last")
