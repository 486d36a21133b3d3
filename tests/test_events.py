"""Warnings reach somebody: the listener, or where nobody listens the caller, as warnings of Python's."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nets import Plain, images
from secateur import events
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.data import Data
from secateur.data.arrays import from_arrays
from secateur.errors import SettingError
from secateur.events import Display, Event, Tell, heard, ignore, once, to_caller, warn, warn_once
from secateur.methods.magnitude import Magnitude
from secateur.recipe import Recipe
from secateur.repair import repair
from secateur.run import headline_speed, layer_times, prune, prune_as, run_recipe
from secateur.run.pipeline import Pipeline

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: Patch) -> None:
    monkeypatch.setattr(events, "_SAID", set())


def loud(count: int = 80) -> Tensor:
    return 255 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def labelled(pixels: Tensor) -> Data:
    part = (pixels, torch.arange(len(pixels)) % 5)
    return from_arrays(part, part, mean=[0.0] * 3, std=[1.0] * 3)


def layers_that_cannot_be_timed(patch: Patch, tell: Tell) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise SettingError("it cannot be had here")

    patch.setattr(layer_times, "measured_limits", fail)
    patch.setattr(layer_times, "worth_timing", lambda graph: True)
    patch.setattr(Pipeline, "time", lambda self, model: None)
    prune(Plain().eval(), images(2), target=0.5, runtime="eager", tell=tell)


def a_choice_that_does_not_fit(patch: Patch, tell: Tell) -> None:
    patch.setattr(layer_times, "worth_timing", lambda graph: False)
    patch.setattr(Pipeline, "time", lambda self, model: None)
    patch.setattr(headline_speed, "fastest_of", lambda *_: "eager")
    prune(Plain().eval(), images(2), target=0.5, chosen={"runtime": "abacus"}, tell=tell)


def loud_data(patch: Patch, tell: Tell) -> None:
    prune(Plain(), data=labelled(loud()), target=0.5, latency=False, tell=tell)


def loud_images(patch: Patch, tell: Tell) -> None:
    prune(Plain(), calibrate=loud(), target=0.5, latency=False, tell=tell)


def a_recipe(patch: Patch, tell: Tell) -> None:
    np.save("one.npy", loud()[:, :1, :, :].repeat(1, 1, 4, 4)[..., :28, :28].numpy())
    run_recipe(
        Recipe(model="lenet5", method="magnitude", keep=0.5, classes=10, calibrate="one.npy", latency=False), tell=tell
    )


def a_recipe_for_a_network(patch: Patch, tell: Tell) -> None:
    np.save("three.npy", loud().numpy())
    recipe = Recipe(model="none", method="magnitude", keep=0.5, calibrate="three.npy", latency=False)
    prune_as(recipe, Plain(), None, tell=tell)


def a_repair_alone(patch: Patch, tell: Tell) -> None:
    net, some = Plain().eval(), images(80)
    graph = trace(net, some[:1])
    plan = Plan((DropUnits(graph.free[0].name, (0, 1)),))
    repair(net, apply(net, graph, plan), graph, plan, [some], ("reconstruct", "recalibrate"), tell=tell)


ACTS: dict[str, tuple[Callable[[Patch, Tell], None], str]] = {
    "timing": (layers_that_cannot_be_timed, "widths are chosen by rule"),
    "choices": (a_choice_that_does_not_fit, "is made anew"),
    "data": (loud_data, "hold values up to"),
    "images": (loud_images, "hold values up to"),
    "recipe": (a_recipe, "hold values up to"),
    "prune_as": (a_recipe_for_a_network, "hold values up to"),
    "repair": (a_repair_alone, "it would undo part of"),
}


@pytest.mark.parametrize("displayed", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_what_a_listener_hears_is_a_warning_of_pythons_where_there_is_none(
    act: str, displayed: bool, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, words = ACTS[act]
    told, shown = list[Event](), list[Event]()
    torch.manual_seed(0)
    call(monkeypatch, told.append)
    texts = [event.text for event in told if event.stage == "warning"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        torch.manual_seed(0)
        call(monkeypatch, Display(shown.append) if displayed else ignore)
    assert bool(shown) == displayed
    assert "warning" not in {event.stage for event in shown}
    ours = [each for each in caught if each.category is UserWarning]
    assert [str(each.message) for each in ours] == texts
    assert {each.filename for each in ours} == {__file__}
    assert any(words in text for text in texts)
    assert len(texts) == len(set(texts))


@dataclass(frozen=True)
class Talkative(Magnitude):
    """Warns by itself, from behind a decorator of torch's."""

    @torch.no_grad()
    def plan(self, problem: Problem) -> Plan:
        problem.tell(Event("warning", "look out"))
        return super().plan(problem)


def test_the_line_that_called_is_warned_whatever_stands_between() -> None:
    frame = inspect.currentframe()
    assert frame is not None
    with pytest.warns(UserWarning, match="look out") as caught:
        line, _ = frame.f_lineno, prune(Plain().eval(), images(2), Talkative(), 0.5, latency=False)
    assert [(each.filename, each.lineno) for each in caught] == [(__file__, line)]


def test_news_that_are_no_warnings_are_dropped() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_caller(Event("plan", "deciding"))
    told: list[Event] = []
    listen = told.append
    assert heard(listen) is listen
    assert heard(heard(ignore)) is to_caller


def test_in_a_loop_it_is_said_once_whatever_happens_to_the_filters() -> None:
    heard: list[Event] = []
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3):
            with warnings.catch_warnings():  # makes Python forget what it has said
                warnings.simplefilter("default")
            warnings.simplefilter("always")
            warn_once("an optimizer", heard.append)
            warn_once("another thing", ignore)
    assert [str(each.message) for each in caught] == ["an optimizer", "another thing"]
    assert [event.text for event in heard] == ["an optimizer"]


def test_one_warning_is_enough_for_a_caller_whom_the_listener_tells() -> None:
    for number, tell in enumerate((ignore, to_caller, Display(ignore), once(to_caller), once(Display(ignore)))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_once(f"optimizer {number}", tell)
        assert [str(each.message) for each in caught] == [f"optimizer {number}"]


def test_a_context_that_decorates_is_not_whom_to_warn() -> None:
    @contextlib.contextmanager
    def around() -> Generator[None]:
        yield

    library = {"__name__": "secateur.some", "warn": warn, "ignore": ignore, "around": around}
    exec("@around()\ndef verb():\n    warn('look out', ignore)", library)
    with pytest.warns(UserWarning, match="look out") as caught:
        library["verb"]()  # pyright: ignore
    assert [Path(each.filename) for each in caught] == [Path(__file__)]
