"""Whatever a public name is called with, what a user can cause is one sentence; what says the same is taken."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
import strange
from secateur.arguments import checked
from secateur.core.plan import DropUnits, Plan
from secateur.errors import DataError, ModelError, SecateurError, SettingError, nearest
from secateur.reading import Foreign
from secateur.run import Step
from secateur.spelling import spelt_for

SLOW = frozenset({"prune", "run_recipe", "fit", "check_method", "deploy", "Result.deploy", "measure", "latency"})
SLOW |= {"side_by_side", "fastest_runtime", "Result.save", "save"}
SLOW |= {"export_pt2", "export_onnx", "export_source"}
SLOW |= {"Session", "Session.step", "Session.finish", "Session.load_state_dict"}
CERTAIN = (
    "none",
    "object",
    "loop",
    "class",
    "unprintable",
    "failing",
    "shut table",
)  # refused before any work, wherever they are not meant
OWN = {("tell", "meta network"), ("build", "function"), ("known", "failing")}  # the user's, which fail by themselves


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
                if (name, kind) not in OWN and not _does_the_work(call, name, kind):
                    tried += 1
                    wrong = call(name, strange.STRANGE[kind]())
                    found += [f"{call.name}({name}) of {kind}: {wrong}"] if wrong else []
    assert tried > 300
    assert found == []


TAKES_ANYTHING = {("prune", "calibrate"), ("prune", "chosen"), ("fit", "memory"), ("load", "build")}  # of the long ones


def _does_the_work(call: strange.Call, name: str, kind: str) -> bool:
    """Tell where a value would be taken, and long work done: what is the default anyway is not strange."""
    return (kind == "none" and call.default(name) is None) or (
        call.name in SLOW and (call.name, name) in TAKES_ANYTHING
    )


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
    with (
        spelt_for("flags"),
        pytest.raises(SettingError, match=r"^--numbers must be a whole number, not 'x'; correct it$"),
    ):
        sample(network, 1, "x")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        sample()


class Measures(StrEnum):
    PARAMS = "params"


def test_members_of_an_enumeration_say_what_their_values_say() -> None:
    assert secateur.Target(0.5, Measures.PARAMS) == secateur.Target(0.5, "params")
    assert type(secateur.Settings(epochs=strange.Level.ONE).epochs) is int
    assert secateur.Budget(max_macs=0.5, threads=strange.Whole(2)).threads == 2
    assert secateur.Target(0.5, strange.Word("macs")).of == "macs"


@checked
def listed(names: Sequence[str] = (), table: Mapping[str, int] | None = None) -> tuple[Any, Any]:
    return names, table


def test_a_text_of_a_class_of_its_own_is_one_wherever_texts_stand() -> None:
    word, whole = strange.Word("a"), strange.Whole(2)
    for names in (listed(word)[0], listed([word])[0][0], *listed(table={word: whole})[1]):
        assert type(names) is str
    assert type(listed(table={"a": whole})[1]["a"]) is int
    assert listed(table=(table := {"a": 2}))[1] is table


def test_the_text_of_a_file_stays_one() -> None:
    assert type(secateur.Recipe(model=Foreign("net.py:make"), method="magnitude").model) is Foreign


@pytest.mark.parametrize("names", [strange.Failing(), (1 / zero for zero in [0]), strange.Table().values()])
def test_what_cannot_be_looked_at_is_said_in_the_words_of_its_error(names: Any) -> None:
    said = "names must be a list, each entry a text, not a .* that cannot be looked at .(the file|division|the table)"
    with pytest.raises(SettingError, match=said):
        sample(nn.Identity(), names=names)


class Loader(list[Any]):
    """A loader that fails on the way, as a data set does whose third file is damaged."""

    def __iter__(self) -> Iterator[Any]:
        yield from list.__iter__(self)
        raise OSError("picture 3 is cut off")


class Asserting(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert input.ndim == 2, "vectors only"
        return super().forward(input)


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("batches", lambda w, it: secateur.measure.quality(w.model, it)),
        ("batches", lambda w, it: secateur.training.recalibrate(w.model, it)),
        ("val batches", lambda w, it: secateur.data.from_loaders(w.batches, Loader(), w.batches, 2)),
        (
            "train batches",
            lambda w, it: list(secateur.data.from_loaders(it, w.batches, w.batches, 2).batches("train", 1)),
        ),
        ("calibration images", lambda w, it: secateur.load_calibration(iter(it), count=99)),
        ("calibration images", lambda w, it: secateur.load_calibration(strange.Failing())),
    ],
)
def test_an_iterable_that_fails_is_said_with_its_own_words(world: strange.World, what: str, read: Any) -> None:
    said = rf"^the {what} cannot be read .(OSError: picture 3 is cut off|ValueError: the file is closed).: mend"
    with pytest.raises(DataError, match=said) as caught:
        read(world, Loader(world.batches))
    assert isinstance(caught.value.__cause__, OSError | ValueError)


def test_a_forward_may_fail_as_it_likes(world: strange.World) -> None:
    with pytest.raises(ModelError, match=r"inputs of shape \(6, 1, 8, 8\): AssertionError: vectors only"):
        secateur.measure.quality(Asserting(8, 2), world.batches)


@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, torch.jit.ScriptModule])
def test_what_only_holds_the_network_is_named_at_every_door(world: strange.World, wrap: type[nn.Module]) -> None:
    wrapped = wrap.__new__(wrap)
    nn.Module.__init__(wrapped)
    for door in (secateur.apply, lambda *given: secateur.masked(*given).__enter__()):
        with pytest.raises(ModelError, match="cannot be pruned as it is: give"):
            door(wrapped, world.graph, world.plan)
    with pytest.raises(ModelError, match="cannot be pruned as it is: give"):
        secateur.verify(wrapped, world.graph, world.plan, world.thin, world.x)


def test_images_without_pixels_are_one_sentence() -> None:
    with pytest.raises(DataError, match="the calibration images hold no pixels"):
        secateur.load_calibration(torch.zeros(2, 1, 0, 0))
    assert secateur.data.Calibration((torch.zeros(2, 1, 0, 0),), 2, "nowhere").different == 0


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
