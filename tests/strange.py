"""Every public name with arguments that it takes, and values that hardly any argument is meant to be."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur
from secateur import errors, methods
from secateur.core.plan import Block, DropUnits, Regroup, ZeroWeights
from secateur.core.problem import Problem
from secateur.encoding import encode
from secateur.errors import SecateurError
from secateur.run import Result, Step

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"
PACKAGES = ("data", "measure", "models", "training", "checks")
LONGEST = 200  # letters of a value that a sentence may repeat


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )
        self.eval()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Word(str):
    """A text of a class of its own, which fails when it is compared or shown."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    def __repr__(self) -> str:
        raise ValueError("no words")

    __str__ = __repr__


class Whole(int):
    """A number of a class of its own, which fails when it is compared or shown."""

    def __le__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    __ge__ = __lt__ = __gt__ = __le__

    def __repr__(self) -> str:
        raise ValueError("no words")


class Table(Mapping[str, Any]):
    """A table that cannot be read to its end."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("the table is closed")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Failing:
    """What fails when it is iterated over."""

    def __iter__(self) -> Iterator[Any]:
        raise ValueError("the file is closed")


class Level(IntEnum):
    ONE = 1


class Wrapped(nn.Module):
    """A network that takes anything and gives nothing back."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        return None


def looped() -> list[Any]:
    """Return a list that holds itself."""
    values: list[Any] = []
    values.append(values)
    return values


def looped_table() -> dict[str, Any]:
    """Return a table that holds itself."""
    table: dict[str, Any] = {}
    table["x"] = table
    return table


STRANGE: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "object": object,
    "text": lambda: "x",
    "empty text": lambda: "",
    "long text": lambda: "x" * 100_000,
    "nul": lambda: "a\0b",
    "half a letter": lambda: "\ud800",
    "lines": lambda: "a\nb\x1b[31m",
    "bytes": lambda: b"x",
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus inf": lambda: float("-inf"),
    "huge": lambda: 10**30,
    "digits": lambda: 10**5000,
    "true": lambda: True,
    "complex": lambda: 1j,
    "decimal": lambda: Decimal(1),
    "fraction": lambda: Fraction(1, 2),
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": lambda: {1, "x"},
    "loop": looped,
    "looped table": looped_table,
    "nested": lambda: [[1, [None]], {}],
    "list of none": lambda: [None],
    "texts": lambda: ["x", "y"],
    "long list": lambda: list(range(5000)),
    "table": lambda: {"x": None},
    "odd keys": lambda: {1: 2, None: 3},
    "generator": lambda: (each for each in (1, 2)),
    "range": lambda: range(3),
    "class": lambda: int,
    "layer class": lambda: nn.Linear,
    "function": lambda: lambda *args, **kwargs: None,
    "module": lambda: torch,
    "path": lambda: Path("/nowhere/at/all"),
    "numpy int": lambda: np.int64(3),
    "numpy float": lambda: np.float32(0.5),
    "numpy nan": lambda: np.float64("nan"),
    "numpy bool": lambda: np.bool_(True),
    "numpy text": lambda: np.str_("x"),
    "array": lambda: np.ones((2, 3)),
    "objects": lambda: np.array([None, "x"], dtype=object),
    "single": lambda: torch.tensor(1.5),
    "tensor": lambda: torch.ones(2, 3),
    "numbers": lambda: torch.arange(4),
    "nans": lambda: torch.full((2, 1, 8, 8), float("nan")),
    "no images": lambda: torch.zeros(0, 1, 8, 8),
    "meta": lambda: torch.zeros(1, 1, 8, 8, device="meta"),
    "list of meta": lambda: [torch.zeros(1, 1, 8, 8, device="meta")],
    "sparse": lambda: torch.eye(3).to_sparse(),
    "labels alone": lambda: [(1, 2)],
    "identity": nn.Identity,
    "no output": Wrapped,
    "meta network": lambda: nn.Linear(2, 2, device="meta"),
    "unprintable": Unprintable,
    "word": lambda: Word("macs"),
    "whole": lambda: Whole(2),
    "shut table": Table,
    "failing": Failing,
    "level": lambda: Level.ONE,
    "slice": lambda: slice(None),
    "ellipsis": lambda: ...,
    "lock": threading.Lock,
}


@dataclass(frozen=True)
class Call:
    """A public callable with arguments that it takes.

    Attributes:
        name: under which a user calls it.
        function: to call.
        given: arguments by name; made anew for each call.
    """

    name: str
    function: Callable[..., Any]
    given: Callable[[], dict[str, Any]] = field(repr=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters; those that take any number of arguments get one."""
        return tuple(inspect.signature(self.function).parameters)

    def default(self, name: str) -> Any:
        """Return what an argument is where it is not given; a thing of its own where it must be."""
        return inspect.signature(self.function).parameters[name].default

    def __call__(self, name: str, value: Any) -> str:
        """Call with one strange argument; say what is wrong with what happens, nothing if all is well."""
        given = {**self.given(), name: value}
        kinds = inspect.signature(self.function).parameters
        args = [given.pop(key) for key, each in kinds.items() if each.kind is each.POSITIONAL_ONLY and key in given]
        args += [given.pop(key) for key, each in kinds.items() if each.kind is each.VAR_POSITIONAL and key in given]
        more = [given.pop(key) for key, each in kinds.items() if each.kind is each.VAR_KEYWORD and key in given]
        if more:
            return ""
        try:
            with warnings.catch_warnings(action="ignore"):
                _used(self.function(*args, **given))
        except SecateurError as error:
            return _faults(str(error), value)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""


def _used(result: Any) -> None:
    """Look at what came out where looking is what does the work."""
    if isinstance(result, contextlib.AbstractContextManager) and not isinstance(result, nn.Module):
        with result:
            pass


def _faults(sentence: str, value: Any) -> str:
    try:
        text = repr(value)
    except (RuntimeError, ValueError):
        text = ""
    if not sentence.strip() or "\n" in sentence or len(sentence) > 1500:
        return f"no sentence of one line: {sentence[:300]!r}"
    if len(text) > LONGEST and text[: LONGEST + 2] in sentence:
        return f"repeats the value: {sentence[:300]!r}"
    return ""


class World:
    """A tiny network with all that belongs to it.

    Args:
        folder: for files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = Net()
        torch.manual_seed(1)
        self.x = torch.randn(2, 1, 8, 8)
        self.batches = [(torch.randn(6, 1, 8, 8), torch.arange(6) % 2) for _ in range(2)]
        self.arrays = (torch.rand(20, 1, 8, 8).numpy(), (torch.arange(20) % 2).numpy())
        self.data = secateur.data.from_arrays(self.arrays, self.arrays)
        self.graph = secateur.trace(self.model, self.x)
        self.plan = secateur.Plan((DropUnits(self.graph.groups[0].name, (0,)),))
        self.thin = secateur.apply(self.model, self.graph, self.plan)
        self.counts = secateur.measure.count(self.model, self.x)
        self.quality = secateur.measure.quality(self.model, self.batches)
        self.measurement = secateur.measure.Measurement(self.counts, self.quality)
        self.latency = secateur.measure.Latency(1.0, 0.1, 3, 2, 1, "cpu", "eager")
        self.timed = secateur.measure.side_by_side({"dense": self.model, "pruned": self.thin}, self.x, seconds=1e-3)
        self.settings = secateur.Settings(epochs=1, batch_size=8, augment="none", precision="float32")
        self.calibration = secateur.data.load_calibration(self.x)
        self.recipe = secateur.Recipe(model="lenet5", data="mnist5k", method="magnitude", keep=0.5, latency=False)
        self.result: Result = secateur.prune(Net(), self.x, "magnitude", 0.5, latency=False)
        self.artifact = secateur.save(self.result, folder / "artifact")
        self.encoded = encode(Net(), folder / "net.encoded").path
        self.problem = Problem(self.model, self.graph, secateur.Target(0.5))

    def given(self, owner: str, takes: Collection[str]) -> dict[str, Any]:
        """Return arguments for a public callable, those without a default first of all."""
        common: dict[str, Callable[[], Any]] = {
            "model": Net,
            "dense": lambda: self.model,
            "thin": lambda: secateur.apply(self.model, self.graph, self.plan),
            "graph": lambda: self.graph,
            "plan": lambda: self.plan,
            "example_inputs": lambda: self.x,
            "inputs": lambda: self.x,
            "batches": lambda: self.batches,
            "path": lambda: self.folder / "file",
            "seconds": lambda: 1e-3,
        }
        own: dict[str, Callable[[], dict[str, Any]]] = {
            "Budget": lambda: {"max_macs": 0.5},
            "Graph": lambda: {each.name: getattr(self.graph, each.name) for each in dataclasses.fields(self.graph)},
            "Result": lambda: {each.name: getattr(self.result, each.name) for each in dataclasses.fields(self.result)},
            "Recipe": lambda: {"model": "lenet5", "method": "magnitude"},
            "Recipe.from_toml": lambda: {"text": self.recipe.to_toml()},
            "Budget.from_dict": lambda: {"table": {"max_macs": 0.5}},
            "Settings.from_dict": lambda: {"values": {"epochs": 1}},
            "Plan.from_json": lambda: {"text": self.plan.to_json()},
            "Plan.with_zeros": lambda: {"other": self.plan},
            "Plan": lambda: {"edits": self.plan.edits},
            "DropUnits": lambda: {"group": "0", "units": (0, 1)},
            "Block": lambda: {"outputs": (0,), "inputs": (0,)},
            "Regroup": lambda: {"layer": "0", "blocks": (Block((0,), (0,)),)},
            "ZeroWeights": lambda: {"tensor": "w", "shape": (2, 4), "keep": b"\xff"},
            "ZeroWeights.of": lambda: {"tensor": "w", "keep": torch.ones(2, 4)},
            "Target": lambda: {"keep": 0.5},
            "Target.most": lambda: {"whole": 10},
            "Step": lambda: {"method": methods.make("magnitude")},
            "Graph.group": lambda: {"name": self.graph.groups[0].name},
            "Graph.width": lambda: {"tensor": "0.weight", "rows": 4},
            "Graph.without": lambda: {"patterns": "0"},
            "Graph.choose": lambda: {"groups": "all"},
            "Graph.leaves": lambda: {"layer": "0"},
            "Result.save": lambda: {"folder": self.folder / "again", "force": True},
            "Result.deploy": lambda: {"time": False},
            "apply": dict,
            "check_method": lambda: {"method": methods.make("magnitude"), "networks": {"net": (self.model, self.x)}},
            "load": lambda: {"folder": self.artifact},
            "save": lambda: {"result": self.result, "folder": self.folder / "saved", "force": True},
            "load_data": lambda: {"spec": "mnist5k"},
            "prune": lambda: {
                "model": self.model,
                "method": "magnitude",
                "target": 0.5,
                "latency": False,
                "progress": False,
            },
            "run_recipe": lambda: {"recipe": self.recipe, "progress": False},
            "measure": lambda: {"time": False},
            "side_by_side": lambda: {"networks": {"a": self.model, "b": self.thin}},
            "deploy": lambda: {"time": False},
            "migrate_optimizer": lambda: {
                "optimizer": torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9),
                "model": self.model,
            },
            "Metric": lambda: {"name": "score"},
            "Custom": lambda: {"criterion": torch.nn.functional.mse_loss, "score": torch.nn.functional.l1_loss},
            "Paper": lambda: {"title": "t", "authors": "a", "venue": "v", "year": 2000},
            "Session": lambda: {"model": Net(), "example_inputs": self.x, "method": "magnitude", "keep": 0.5},
            "Session.step": lambda: {"holders": None},
            "Session.load_state_dict": lambda: {"state": self.session.state_dict(), "holders": None},
            "Session.finish": lambda: {"latency": False},
            "Cut": lambda: vars(self.session.step()),
            "Outcome.migrate": dict,
            "Result.migrate": lambda: {"optimizer": torch.optim.SGD(self.result.dense.parameters(), lr=0.1)},
            "Problem": lambda: {"model": self.model, "graph": self.graph, "target": secateur.Target(0.5)},
            "Problem.error_curves": lambda: {"scores": None},
            "Problem.curves": lambda: {"scores": {}},
            "from_arrays": lambda: {"train": self.arrays, "test": self.arrays},
            "with_task": lambda: {
                "data": [self.batches, self.batches],
                "task": secateur.tasks.Classification(),
                "classes": 2,
            },
            "from_loaders": lambda: {"train": self.batches, "val": self.batches, "test": self.batches, "classes": 2},
            "load_calibration": lambda: {"source": self.x},
            "Calibration": lambda: {"batches": (self.x,), "count": 2, "source": "x"},
            "Calibration.of_type": lambda: {"dtype": torch.float64},
            "Calibration.at_most": lambda: {"count": 1},
            "from_onnx": lambda: {"path": self.folder / "none.onnx", "image": 8},
            "build": lambda: {"spec": "lenet5", "classes": 2, "channels": 1},
            "repair": lambda: {"images": [self.x], "steps": ("fold",)},
            "export_pt2": lambda: {"path": self.folder / "a.pt2"},
            "export_onnx": lambda: {"path": self.folder / "a.onnx"},
            "export_int8": lambda: {"path": self.folder / "a.onnx", "calibrate": self.x, "progress": False},
            "export_source": lambda: {"path": self.folder / "a.py"},
            "encode": lambda: {"path": self.folder / "encoded", "force": True},
            "decode": lambda: {"path": self.encoded, "network": Net()},
            "SpeedUp": lambda: {each.name: getattr(self.speed, each.name) for each in dataclasses.fields(self.speed)},
            "SpeedUp.of": lambda: {"found": self.timed},
            "SideBySide": lambda: {
                each.name: getattr(self.timed, each.name) for each in dataclasses.fields(self.timed)
            },
            "SideBySide.by": lambda: {"clock": "wall"},
            **{
                f"SideBySide.{each}": lambda: {"of": "dense", "to": "pruned"}
                for each in ("ratio", "interval", "differ")
            },
            "Quality": lambda: vars(self.quality),
            "Counts": lambda: vars(self.counts),
            "Latency": lambda: vars(self.latency),
            "Measurement": lambda: {"counts": self.counts},
            "Measurement.from_dict": lambda: {"values": self.measurement.to_dict()},
            "Deployed": lambda: {
                "model": self.model,
                "folded": (),
                "left": (),
                "memory_format": "contiguous",
                "difference": 0.0,
            },
            "fastest_runtime": lambda: {"among": ("eager",)},
            "missing": lambda: {"runtime": "eager"},
            "installed": dict,
            "fit": lambda: {"data": self.data, "settings": self.settings, "progress": False},
            "recalibrate": dict,
            "History": dict,
            "History.from_dict": lambda: {"values": secateur.training.History().to_dict()},
            "Row": lambda: {
                "epoch": 0,
                "train_loss": 1.0,
                "train_metric": 0.5,
                "val_loss": None,
                "val_metric": None,
                "lr": 0.1,
                "seconds": 1.0,
            },
            "Data": lambda: {each.name: getattr(self.data, each.name) for each in dataclasses.fields(self.data)},
            "Data.batches": lambda: {"split": "train", "batch_size": 4},
            "Data.size": lambda: {"split": "train"},
            "Order": lambda: {
                "split": "val",
                "batch_size": 4,
                "augment": "none",
                "shuffle": False,
                "seed": 0,
                "device": torch.device("cpu"),
                "rank": 0,
                "world": 1,
            },
            "Order.positions": lambda: {"size": 4, "rng": torch.Generator()},
            "Order.shares": lambda: {"size": 4},
            "Transferred": lambda: {"fresh": ()},
            "classes_in": lambda: {"weights": str(self.folder / "nothing.pt")},
            "fit_classes": lambda: {"classes": 2},
            "give_weights": lambda: {"weights": str(self.folder / "nothing.pt"), "name": "net"},
            "replace_head": lambda: {"classes": 3},
            "transfer_weights": lambda: {"weights": str(self.folder / "nothing.pt")},
            "Limits.multiple_of": lambda: {"group": self.graph.groups[0]},
            "Limits.allow": lambda: {"group": self.graph.groups[0], "width": 2},
            "Limits.multiple_near": lambda: {"group": self.graph.groups[0], "width": 2},
            "Limits.finer": lambda: {"groups": self.graph.groups},
            "Magnitude.plan": lambda: {"problem": self.problem},
            "Magnitude.check": lambda: {"target": secateur.Target(0.5)},
            "Magnitude.score": lambda: {"group": self.graph.groups[0], "problem": self.problem},
            "Magnitude.scores": lambda: {"problem": self.problem},
            "Magnitude.shaping": lambda: {"problem": self.problem},
            "find": lambda: {"name": "magnitude"},
            "make": lambda: {"name": "magnitude"},
            "default": lambda: {"images": True},
            "name_of": lambda: {"method": methods.make("magnitude")},
            "card": lambda: {"method": methods.find("magnitude")},
            "nearest": lambda: {"name": "x", "known": ["xy"]},
        }
        return {**{key: make() for key, make in common.items() if key in takes}, **own.get(owner, dict)()}

    @cached_property
    def speed(self) -> Any:
        """How much faster the thin network is."""
        return secateur.measure.SpeedUp.of(self.timed)

    @cached_property
    def session(self) -> secateur.Session:
        """A session whose goal is reached."""
        session = secateur.Session(Net(), self.x, "magnitude", 0.5, steps=1)
        session.step()
        return session

    def instance(self, kind: type) -> Any:
        """Return an object of a public class, None where there is none to call."""
        known: list[Any] = [
            secateur.Budget(max_macs=0.5),
            self.graph,
            secateur.Limits(),
            self.plan,
            self.recipe,
            self.result,
            self.settings,
            secateur.Target(0.5),
            self.problem,
            self.calibration,
            self.speed,
            self.timed,
            self.measurement,
            self.data,
            methods.make("magnitude"),
            secateur.training.History(),
            self.session,
        ]
        return next((each for each in known if type(each) is kind), None)


def public() -> dict[str, Any]:
    """Return all that a user may call, by its name: the front door, the reference, and what packages list."""
    found: dict[str, Any] = {name: getattr(secateur, name) for name in secateur.__all__}
    for path in re.findall(r"^::: (\S+)", REFERENCE.read_text("utf-8"), re.MULTILINE):
        module, _, name = path.rpartition(".")
        found[name] = getattr(importlib.import_module(module), name)
    for package in PACKAGES:
        module = importlib.import_module(f"secateur.{package}")
        found |= {name: getattr(module, name) for name in module.__all__}
    found |= {kind.__name__: kind for kind in (Step, DropUnits, Block, Regroup, ZeroWeights, methods.find("magnitude"))}
    found |= {name: getattr(methods, name) for name in ("find", "make", "default", "name_of", "card")}
    found |= {name: getattr(errors, name) for name in ("nearest",)}
    for name in ("Group", "Structure", "Outcome"):  # which come out of readings and runs
        del found[name]
    return {name: value for name, value in found.items() if callable(value) and not _is_error(value)}


def calls(world: World) -> Iterator[Call]:
    """Yield every public function, constructor and method of a public class with arguments that it takes."""
    for name, value in public().items():
        if not inspect.isclass(value):
            if inspect.isfunction(value):
                yield _call(world, name, value)
            continue
        if (dataclasses.is_dataclass(value) or value is secateur.Session) and not inspect.isabstract(value):
            yield _call(world, name, value)
        thing = world.instance(value)
        for method, member in inspect.getmembers(value):
            if method.startswith("_") or not callable(member) or inspect.isclass(member):
                continue
            if isinstance(inspect.getattr_static(value, method), staticmethod | classmethod):
                yield _call(world, f"{name}.{method}", getattr(value, method))
            elif thing is not None and inspect.ismethod(getattr(thing, method)):
                yield _call(world, f"{name}.{method}", getattr(thing, method))


def _call(world: World, name: str, function: Callable[..., Any]) -> Call:
    takes = set(inspect.signature(function).parameters)

    def given() -> dict[str, Any]:
        return {key: value for key, value in world.given(name, takes).items() if key in takes}

    return Call(name, function, given)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)
