"""What the clock decides is decided once: it is kept in the work folder and in the recipe that is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kills import Killed
from nets import Plain
from secateur.core.sizes.limits import Limits
from secateur.data import Data
from secateur.errors import SettingError
from secateur.events import Event, ignore
from secateur.recipe import Recipe
from secateur.run import (
    Result,
    headline_speed,
    job,
    layer_times,
    pipeline,
    prune,
    recorded_choices,
    run_recipe,
    subject,
    work_folder,
)
from secateur.training import Settings, Speed, loop

OPEN = Settings(epochs=2, batch_size=16, lr=0.05, augment="none", device="cpu")
RECIPE = Recipe(
    model="nets:plain",
    data="colours",
    method="magnitude",
    keep=0.5,
    pretrain=OPEN,
    train=replace(OPEN, lr=0.02),
    repair=(),
    rounds=2,
    export=(),
    threads=1,
)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch, data: Data) -> dict[str, list[Any]]:
    """Let every measurement come out otherwise than the one before; return what was measured."""
    measured: dict[str, list[Any]] = {}

    def whim(name: str, values: Iterator[Any]) -> Callable[..., Any]:
        def measure(*_: Any, **__: Any) -> Any:
            measured.setdefault(name, []).append(next(values))
            return measured[name][-1]

        return measure

    def build(*_: Any, **__: Any) -> nn.Module:
        return Plain()

    speeds = [Speed(), Speed("bf16"), Speed("float32", "channels_last")]
    limits = [Limits(by_group=(("0.0", n), ("2.0", n)), source=f"whim {n}") for n in (4, 8, 2)]
    monkeypatch.setattr(loop, "choose", whim("speed", cycle(speeds)))
    monkeypatch.setattr(headline_speed, "fastest_of", whim("runtime", cycle(["eager", "channels_last"])))
    monkeypatch.setattr(layer_times, "measured_limits", whim("widths", cycle(limits)))
    monkeypatch.setattr(layer_times, "worth_timing", lambda graph: True)
    monkeypatch.setattr(pipeline.Pipeline, "time", lambda self, model: None)
    monkeypatch.setattr(pipeline.Pipeline, "foretell", lambda self, graph: None)
    monkeypatch.setattr(subject, "load_data", lambda *_, **__: data)
    monkeypatch.setattr(subject, "build", build)
    return measured


def go(recipe: Recipe, work: Path | None = None, tell: Callable[[Event], None] = ignore) -> Result:
    torch.manual_seed(0)
    return run_recipe(recipe, work=work, tell=tell)


def test_a_saved_recipe_gives_the_same_numbers_without_a_clock(clocks: dict[str, list[Any]]) -> None:
    first = go(RECIPE)
    assert first.recipe is not None
    assert {name: len(found) for name, found in clocks.items()} == {"speed": 2, "runtime": 1, "widths": 1}
    assert set(first.recipe.chosen) == {"pretrain", "train", "runtime", "widths"}
    saved = Recipe.from_toml(first.recipe.to_toml())
    assert saved == first.recipe
    assert saved.name() == RECIPE.name()
    clocks.clear()
    again = go(saved)
    assert clocks == {}
    assert again.plans == first.plans  # with the notes that say why these widths
    assert same(again.model, first.model)
    assert again.recipe == saved


@pytest.mark.parametrize("bound", [False, True])
def test_all_weights_are_read_once_for_a_choice(
    bound: bool, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[nn.Module] = []

    def digest(model: nn.Module, facts: tuple[object, ...]) -> str:
        read.append(model)
        return "abc"

    for module in (recorded_choices, work_folder):
        monkeypatch.setattr(module, "digest", digest)
    for value in (7, 8):  # another run takes what the first has chosen
        ours = recorded_choices.Choices(work_folder.Work(tmp_path))
        assert ours.take("number", net, (), lambda value=value: value, int, bound=bound) == 7
        assert read == [net]
        read.clear()


@pytest.mark.parametrize("at", [at if at % 3 == 1 else pytest.param(at, marks=pytest.mark.slow) for at in range(1, 10)])
def test_a_run_that_goes_on_takes_what_was_chosen(at: int, clocks: dict[str, list[Any]], tmp_path: Path) -> None:
    """Killed before any step as well as between the rounds; what it ends with is what its recipe gives."""
    heard = 0

    def kill(event: Event) -> None:
        nonlocal heard
        heard += event.stage in ("train", "plan", "apply", "measure") and bool(event.text)
        if heard == at:
            raise Killed

    with pytest.raises(Killed):
        go(RECIPE, tmp_path / "work", kill)
    chosen = {name: list(found) for name, found in clocks.items()}
    done = go(RECIPE, tmp_path / "work")
    for name, found in chosen.items():  # nothing that was chosen before the kill is chosen again
        assert clocks[name][: len(found)] == found
    assert {name: len(found) for name, found in clocks.items()} == {"speed": 2, "runtime": 1, "widths": 1}
    assert done.recipe is not None
    assert same(go(done.recipe).model, done.model)


def test_all_rounds_train_in_the_way_that_was_chosen_for_the_first(
    net: nn.Module, data: Data, clocks: dict[str, list[Any]]
) -> None:
    result = prune(net, None, "magnitude", 0.4, data, train=OPEN, rounds=3, latency=False)
    assert len(clocks["speed"]) == 1
    assert {history.speed for history in result.histories} == set(clocks["speed"])


def test_the_way_in_which_layers_run_is_a_choice_too(
    net: nn.Module, data: Data, clocks: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks and the full weight agree to rounding only, which a training carries on."""
    turns: list[dict[str, str]] = []

    def fastest(model: nn.Module, inputs: Any) -> dict[str, str]:
        ways = cycle(["blocks", "dense"] if len(turns) % 2 else ["dense", "blocks"])
        turns.append({name: next(ways) for name in job.execution_of(model)})
        job.execute(model, turns[-1])
        return turns[-1]

    monkeypatch.setattr(job, "fastest", fastest)
    wide = Plain()

    def grouped(chosen: Any) -> Result:
        return prune(wide, None, "self_grouping", 0.6, data, train=OPEN, chosen=chosen, threads=1, repair=())

    first = grouped(None)
    assert len(turns) == 2
    assert any(turns)
    again = grouped(first.chosen)
    assert len(turns) == 2
    assert same(again.model, first.model)
    assert job.execution_of(again.model) == job.execution_of(first.model)


def test_shares_by_the_times_of_layers_are_kept_with_the_recipe(
    data: Data, clocks: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = layer_times.Forecast.of

    def counted(*given: Any, **named: Any) -> Any:
        asked.append(1)
        return ask(*given, **named)

    recipe = replace(RECIPE, pretrain=None, rounds=1, options={"allocate": "latency"}, multiple=1, runtime="eager")
    first = go(recipe)
    assert first.recipe is not None
    monkeypatch.setattr(layer_times.Forecast, "of", counted)
    again = go(Recipe.from_toml(first.recipe.to_toml()))
    assert asked == []
    assert again.plans == first.plans
    changed = go(replace(first.recipe, keep=0.7))  # another request: the plan of the first is none for it
    assert asked
    assert changed.plans != first.plans


def test_a_choice_that_does_not_fit_here_is_made_anew_with_a_warning(clocks: dict[str, list[Any]]) -> None:
    first = go(RECIPE)
    assert first.recipe is not None
    heard: list[Event] = []
    wrong = {"runtime": "abacus", "train": {"device": "cpu", "precision": "float1"}, "widths": 3}
    clocks.clear()
    done = go(replace(first.recipe, chosen={**first.recipe.chosen, **wrong}), tell=heard.append)
    warnings = [event.text for event in heard if event.stage == "warning"]
    assert len(warnings) == 3
    assert all("is made anew" in text for text in warnings)
    assert {name: len(found) for name, found in clocks.items()} == {"speed": 1, "runtime": 1, "widths": 1}
    assert done.recipe is not None
    assert done.recipe.chosen["runtime"] in ("eager", "channels_last")


def test_choices_are_a_table(clocks: dict[str, list[Any]]) -> None:
    with pytest.raises(SettingError, match="'chosen' must be a table"):
        replace(RECIPE, chosen=("eager",))
