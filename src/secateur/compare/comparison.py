"""What is compared with what, as one value that is read from one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import tomli_w

from secateur import rules
from secateur.compare.entry import Entry, changed
from secateur.core.method import shapes
from secateur.errors import SettingError, nearest
from secateur.methods import make
from secateur.reading import Foreign, written
from secateur.recipe import TARGET, Recipe
from secateur.recipe_text import parsed, read
from secateur.repair import chosen
from secateur.training.settings import Settings

Control = Literal["random", "uniform", "scratch", "dense"]
CONTROLS: Mapping[str, str] = {
    "random": "random units",
    "uniform": "uniform width",
    "scratch": "thin network from scratch",
    "dense": "dense network, trained on",
}
"""The labels of the controls: chance instead of a criterion; L1 norms and the same share of every group; the network
of uniform width from new weights with the same budget; the whole network with the same extra epochs."""
_OWN = ("seeds", "controls", "scratch", "int8")
_RESERVED = ("name", "label", "train", "shape")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several methods on one network and data set.

    Attributes:
        base: what all runs have in common; its method, keep and seed are not looked at.
        entries: the methods.
        keeps: the fractions to keep, each in (0, 1].
        repairs: what is done after the cut without training; of several, every method and control that prunes runs
            with each. Empty: that of the base, or the default.
        seeds: each run is repeated with each of them.
        controls: which of ``CONTROLS`` run along.
        scratch: settings of training the thin network from scratch that differ from those of training the others.
        int8: whether the dense and the pruned network of each run are written in float32 and in int8 as well, tested
            and timed in turns.
        text: the file that it was read from.

    Raises:
        SettingError: if something is out of range, unknown or missing.
    """

    base: Recipe
    entries: tuple[Entry, ...]
    keeps: tuple[float, ...]
    repairs: tuple[tuple[str, ...], ...] = ()
    seeds: tuple[int, ...] = (0,)
    controls: tuple[Control, ...] | None = None
    scratch: Mapping[str, Any] = field(default_factory=dict[str, Any])
    int8: bool = False
    text: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.entries:
            raise SettingError("there is nothing to compare; add a table [[method]] with its name to the recipe")
        _check_list(
            "keeps", self.keeps, lambda keep: type(keep) in (int, float) and 0 < keep <= 1, "fractions in (0, 1]"
        )
        _check_list("seeds", self.seeds, rules.SEED.accepts, f"whole numbers of 0 to {rules.SEED.most}")
        object.__setattr__(self, "keeps", tuple(float(keep) for keep in self.keeps))
        if not rules.FLAG.accepts(self.int8):
            raise SettingError(f"'int8' must be true or false, not {self.int8!r}; correct it in the recipe")
        if not self.repairs:
            object.__setattr__(self, "repairs", (chosen(self.base.repair, images=True),))
        if len(set(self.repairs)) < len(self.repairs):
            raise SettingError("'repairs' must name each way once; correct it in the recipe")
        for repair in self.repairs:
            replace(self.base, repair=repair)
        if not self.base.data:
            raise SettingError("a comparison needs data to measure accuracies on; name a data set in the recipe")
        if self.base.then:
            raise SettingError("a comparison cannot have further stages; take [[then]] out of the recipe")
        if self.base.minutes is not None:
            raise SettingError("a comparison trains by epochs, the same for all; take 'minutes' out of the recipe")
        self._check_controls()
        for entry in self.entries:
            entry.recipe(self.base, self.keeps[0], self.seeds[0])
        if self.scratch and self.base.train is None:
            raise SettingError(
                "[scratch] trains a network, but the recipe has no [train]; add it, or take [scratch] out"
            )
        if self.base.train is not None:
            self.scratch_settings()

    def _check_controls(self) -> None:
        known = get_args(Control)
        trains = self.base.train is not None
        if self.controls is None:
            plain = tuple(name for name in known if trains or name in ("random", "uniform"))
            object.__setattr__(self, "controls", plain)
        for name in self.controls or ():
            if name not in known:
                raise SettingError(f"unknown control '{name}'{nearest(str(name), known)}; known are {', '.join(known)}")
            if name in ("scratch", "dense") and not trains:
                raise SettingError(f"the control '{name}' trains a network; add a table [train] to the recipe")

    def all_entries(self) -> tuple[Entry, ...]:
        """Return the methods, then those controls that prune; these are of uniform scope by default."""
        asked = self.controls or ()
        added = [
            Entry(method=method, label=CONTROLS[name], control=True)
            for name, method in (("uniform", "magnitude"), ("random", "random_units"))
            if name in asked
        ]
        return (*self.entries, *added)

    def uniform(self, keep: float, seed: int) -> Recipe:
        """Return the recipe of the network of uniform width."""
        return Entry(method="magnitude", label="").recipe(self.base, keep, seed)

    def budget(self) -> int:
        """Return for how many epochs a pruned network is trained after it is cut."""
        return 0 if self.base.train is None else self.base.train.epochs * self.base.rounds

    def scratch_settings(self) -> Settings:
        """Return how the thin network is trained from scratch: as long as dense and pruned network together."""
        first = self.base.pretrain or self.base.train
        assert first is not None
        epochs = self.budget() + (0 if self.base.pretrain is None else self.base.pretrain.epochs)
        return changed(first, {"epochs": epochs, **self.scratch})

    def dense_settings(self) -> Settings:
        """Return how the dense network is trained on: as long as the pruned ones."""
        assert self.base.train is not None
        return replace(self.base.train, epochs=self.budget())

    @staticmethod
    def from_toml(text: str) -> Comparison:
        """Read a comparison.

        It is a recipe with ``keeps`` in [target] instead of ``keep``, and ``repairs`` instead of ``repair`` for several
        ways, several [[method]] tables (each with a ``name``, its settings, and if need be a ``label`` and tables
        ``train`` and ``shape``), ``seeds``, ``controls``, ``int8`` and [scratch].

        Raises:
            SettingError: if the text is not TOML, or an entry is unknown, missing or impossible.
        """
        document = parsed(text)
        _refuse_run(document)
        own = {name: document.pop(name, None) for name in _OWN}
        top = [f.name for f in fields(Recipe) if f.name not in (*TARGET, "options", "then", "export", "seed")]
        for name in document:
            if name not in (*top, "target", "then"):
                own_place = name in (*TARGET, "keeps", "repairs")
                hint = " (it belongs in [target])" if own_place else nearest(name, (*top, "target", *_OWN))
                raise SettingError(f"unknown setting '{name}' at the top of the recipe{hint}")
        entries = _entries(document.pop("method", None))
        target: Any = document.get("target", {})
        if isinstance(target, dict):
            if "keep" in target:
                raise SettingError("a comparison takes several keeps; write keeps = [0.5] in [target] of the recipe")
            keeps: Any = cast("dict[str, Any]", target).pop("keeps", None)
            own["repairs"] = _repairs(cast("dict[str, Any]", target))
        else:
            keeps = None  # and the recipe will complain
        if keeps is None:
            raise SettingError("the recipe does not say how much to keep; add keeps = [0.7, 0.5] in [target]")
        document.setdefault("latency", False)  # times taken beside other work mislead; they must be asked for
        base = Recipe.from_toml(tomli_w.dumps({**document, "method": {"name": entries[0].method}}))
        more: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        if not isinstance(more.get("scratch", {}), dict):
            raise SettingError(
                "'scratch' in the recipe must be a table; write a line [scratch] with its settings below"
            )
        for name in ("seeds", "controls"):
            if name in more:
                more[name] = _tuple(name, more[name])
        return Comparison(base=base, entries=entries, keeps=_tuple("keeps", keeps), text=text, **more)

    @staticmethod
    def read(path: str | Path) -> Comparison:
        """Read a comparison from a file; code that it names is not run unless somebody vouches for it.

        Raises:
            SettingError: if the file cannot be read or is no comparison; the message names the file.
        """
        found = read(path, Comparison.from_toml)
        return replace(found, base=replace(found.base, model=Foreign(found.base.model), task=Foreign(found.base.task)))


def _refuse_run(document: Mapping[str, Any]) -> None:
    """Refuse a file for ``secateur run``, with one method and one fraction and nothing of a comparison."""
    target = document.get("target")
    several = isinstance(target, Mapping) and ("keeps" in target or "repairs" in target)
    if isinstance(document.get("method"), Mapping) and not several and not set(_OWN) & document.keys():
        raise SettingError(
            "this is the recipe of a single run; carry it out with `secateur run`, or make a comparison of it: "
            "keeps = [0.5] in [target] instead of keep, and a table [[method]] for each method instead of [method]"
        )


def _entries(tables: object) -> tuple[Entry, ...]:
    if isinstance(tables, dict):
        tables = [tables]  # a single [method]
    if not isinstance(tables, list) or not tables:
        raise SettingError('the recipe names no method; add a table [[method]] with name = "..."')
    return tuple(_entry(table) for table in cast("list[object]", tables))


def _entry(table: object) -> Entry:
    if not isinstance(table, dict):
        raise SettingError('each method in the recipe must be a table [[method]] with name = "..."')
    entries = cast("dict[str, Any]", table)
    name, label = entries.get("name"), entries.get("label", "")
    if not isinstance(name, str) or not name:
        raise SettingError('a [[method]] of the recipe does not say which method it is; add name = "..." there')
    if not isinstance(label, str):
        raise SettingError(f"the 'label' of {name} must be a text, not {label!r}; correct it in the recipe")
    for part in ("train", "shape"):
        if not isinstance(entries.get(part, {}), dict):
            raise SettingError(f"'{part}' of {name} must be a table; write a line [method.{part}] below its [[method]]")
    options = {key: value for key, value in entries.items() if key not in _RESERVED}
    kind = make(name, options)
    if entries.get("shape") and not shapes(kind):
        raise SettingError(f"{name} does not train before it decides; take its table [method.shape] out of the recipe")
    train, shape = (cast("dict[str, Any]", entries.get(part, {})) for part in ("train", "shape"))
    return Entry(method=name, label=label or _label(name, options), options=options, train=train, shape=shape)


def _label(name: str, options: Mapping[str, object]) -> str:
    return f"{name} ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name


def _repairs(target: dict[str, Any]) -> tuple[tuple[str, ...], ...] | None:
    """Take the ways to repair out of the table [target]; None where it names none."""
    ways = target.pop("repairs", None)
    if ways is None:
        return None
    if "repair" in target:
        raise SettingError("[target] of the recipe has 'repair' and 'repairs'; take one of them out")
    if not isinstance(ways, list) or not ways or not all(isinstance(way, list) for way in cast("list[object]", ways)):
        raise SettingError(
            f"'repairs' must be lists such as [[], [\"reconstruct\"]], not {ways!r}; correct it in the recipe"
        )
    return tuple(tuple(way) for way in cast("list[list[str]]", ways))


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SettingError(f"'{name}' must be a list such as [1, 2], not {written(value)}; correct it in the recipe")
    return tuple(cast("list[Any]", value))


def _check_list(name: str, values: Sequence[_T], accepts: Any, wanted: str) -> None:
    for value in values:
        if not accepts(value):
            raise SettingError(f"'{name}' must be {wanted}, not {written(value)}; correct it in the recipe")
    if not values or len(set(values)) < len(values):
        raise SettingError(f"'{name}' must name at least one value, each once; correct it in the recipe")
