"""Whatever a public name is called with, what a user can cause is one sentence; what says the same is taken."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
import strange
from secateur.arguments import checked
from secateur.core.plan import DropUnits, Plan
from secateur.errors import SecateurError, SettingError, nearest
from secateur.run import Step

SLOW = frozenset({"prune", "run_recipe", "fit", "check_method", "deploy", "Result.deploy", "measure", "latency"})
SLOW |= {"side_by_side", "fastest_runtime", "export_pt2", "export_onnx", "export_source", "Result.save", "save"}
CERTAIN = ("none", "object", "loop", "class", "unprintable")  # refused before any work, wherever they are not meant
OWN = {("tell", "meta network"), ("build", "function")}  # functions of the user's, which fail by themselves


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> strange.World:
    return strange.World(tmp_path_factory.mktemp("world"))


@pytest.mark.filterwarnings("ignore")
def test_nothing_but_a_sentence_comes_out(world: strange.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    draw, found, tried = random.Random(0), list[str](), 0
    for call in strange.calls(world):
        for name in call.parameters:
            few = draw.sample(sorted(strange.STRANGE), 2)
            for kind in ("object",) if call.name in SLOW else {*CERTAIN, *few}:
                if (name, kind) not in OWN and not (call.name in SLOW and _takes_anything(call.name, name)):
                    tried += 1
                    wrong = call(name, strange.STRANGE[kind]())
                    found += [f"{call.name}({name}) of {kind}: {wrong}"] if wrong else []
    assert tried > 300
    assert found == []


def _takes_anything(function: str, name: str) -> bool:
    """Tell of the long ones where a strange value would be taken, and the work done."""
    return (function, name) in {("prune", "calibrate"), ("prune", "chosen"), ("fit", "memory"), ("load", "build")}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w: secateur.load(None), "folder must be a path, not None; correct this argument of load"),  # type: ignore[arg-type]
        (lambda w: secateur.load_data(1), "spec must be a text, not 1"),  # type: ignore[arg-type]
        (lambda w: secateur.models.build(None), "spec must be a text, not None"),
        (lambda w: secateur.data.from_arrays(None, None), "train must be a pair of"),
        (lambda w: secateur.data.from_loaders([], [], [], float("nan")), "classes must be a whole number"),
        (lambda w: secateur.trace(w.model, w.x, seconds="x"), "seconds must be a number, not 'x'"),  # type: ignore[arg-type]
        (lambda w: secateur.trace(w.model, w.x, tried=None), "tried must be a list, each entry a Plan, not None"),  # type: ignore[arg-type]
        (lambda w: secateur.trace(None, w.x), r"model must be a network \(torch.nn.Module\), not None"),  # type: ignore[arg-type]
        (lambda w: secateur.prune(w.model, w.x, target=0.5, leave=b"x"), "leave must be a list, each entry a text"),  # type: ignore[arg-type]
        (lambda w: secateur.prune(w.model, w.x, target=0.5, repair=0), "repair must be a list, each entry a text"),  # type: ignore[arg-type]
        (lambda w: secateur.prune(w.model, w.x, target=0.5, tested="x"), "tested must be a Quality"),  # type: ignore[arg-type]
        (lambda w: secateur.prune(w.model, w.x, target=0.5, data=[]), "data must be a data set"),  # type: ignore[arg-type]
        (lambda w: secateur.measure.quality(w.model, w.batches, device="cuda:99"), "device must be a device that"),
        (lambda w: secateur.measure.quality(w.model, w.batches, device="meta"), "device must be a device that"),
        (
            lambda w: secateur.measure.count(w.model, torch.zeros(1, 1, 8, 8, device="meta")),
            "has a shape and no values",
        ),
        (lambda w: secateur.verify(w.model, w.graph, w.plan, w.thin, strange.looped()), "inputs must be a tensor"),
        (lambda w: Plan(edits="x"), "'edits' must be a list"),  # type: ignore[arg-type]
        (lambda w: Step(method=None), "'method' must be a method such as"),  # type: ignore[arg-type]
        (lambda w: secateur.Limits(min_units=True), "min_units must be a whole number"),
        (lambda w: w.timed.ratio("dense", "prune"), r"no network 'prune' was timed \(did you mean 'pruned'"),
        (lambda w: secateur.save(None, "x"), "result must be a Result"),  # type: ignore[arg-type]
        (lambda w: secateur.methods.make("magnitude").plan(None), "problem must be a Problem"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_named(world: strange.World, call: Any, said: str) -> None:
    with pytest.raises(SecateurError, match=said):
        call(world)


def test_what_says_the_same_is_taken(world: strange.World) -> None:
    assert type(secateur.Limits(min_units=np.int64(2)).min_units) is int
    assert type(secateur.Target(np.float32(0.5)).keep) is float
    assert type(secateur.Settings(epochs=np.int32(3), nesterov=np.bool_(False)).epochs) is int
    assert DropUnits("0", np.arange(3)).units == (0, 1, 2)  # type: ignore[arg-type]
    layer = world.graph.groups[0].name
    for leave in ({layer}, (each for each in [layer]), dict.fromkeys([layer]).keys(), layer, np.array([layer])):
        with pytest.raises(SecateurError, match=r"cannot keep only 0.01 .* 0.4 remain"):
            secateur.prune(world.model, world.x, "magnitude", 0.01, leave=leave, latency=False)  # type: ignore[arg-type]


def test_a_plan_of_arrays_survives_json() -> None:
    plan = Plan((DropUnits("a", tuple(np.array([0, 2]))),))
    assert Plan.from_json(plan.to_json()) == plan


@checked
def sample(network: nn.Module, *numbers: int, names: Sequence[str] = (), other: Unknown = None) -> Any:  # noqa: F821  # type: ignore[name-defined]
    return network, numbers, names, other


def test_arguments_are_checked_by_position_and_name() -> None:
    network = nn.Identity()
    assert sample(network, np.int64(1), 2, names={"a"}, other=object) == (network, (1, 2), ("a",), object)
    assert sample(network=network)[0] is network
    with pytest.raises(
        SettingError, match=r"^numbers must be a whole number, not 'x'; correct this argument of sample$"
    ):
        sample(network, 1, "x")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        sample()


def test_sentences_are_one_short_line() -> None:
    assert str(SecateurError("a\nb\x1b[31m  c \ud800")) == "a b c ?"
    long = str(SecateurError(f"'/{'x' * 1000}.pt' is missing"))
    assert long.startswith("'/xxx")
    assert long.endswith("xxx.pt' is missing")
    assert len(long) < 250


@pytest.mark.parametrize(("name", "known"), [(None, ["a"]), (3, ["a"]), ("a", None), ("a", [None, 3])])
def test_nothing_is_near_what_is_no_text(name: object, known: Any) -> None:
    assert nearest(name, known) == ""


def test_the_table_knows_every_public_function(world: strange.World) -> None:
    named = {call.name for call in strange.calls(world)}
    assert {"prune", "trace", "Graph.kept", "Plan", "Plan.from_json", "Magnitude.plan", "Step"} <= named
    assert len(named) > 120
