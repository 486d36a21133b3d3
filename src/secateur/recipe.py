"""Everything that defines a run, as one value and as one file that a person can read, edit and run again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import tomli_w

from secateur import rules
from secateur.arguments import checked
from secateur.budget import Budget, agreed
from secateur.core.graph import Groups
from secateur.core.sizes.limits import Multiple
from secateur.core.sizes.size import Measure
from secateur.errors import SettingError, nearest
from secateur.measure.runtimes import Runtime, known
from secateur.reading import Foreign
from secateur.recipe_rules import EXPORTS, RULES
from secateur.recipe_text import parsed, read
from secateur.rules import Text
from secateur.stages import Option, Stage, options
from secateur.training.settings import Settings

TARGET = ("keep", "of", "rounds", "leave", "free_outputs", "groups", "repair", "patience", "min_units", "multiple")
_TRAINING = ("train", "pretrain", "shape")
_WORDS = ("leave", "free_outputs", "repair", "export")  # which may be a text, as on the command line
_TUPLES = ("leave", "free_outputs", "repair", "mean", "std", "export", "then")


@checked
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a run; equal recipes on equal machines give equal networks.

    Attributes:
        model: which network: ``"secateur:resnet20"``, ``"timm:resnet18"``, ``"net.onnx"``, or ``"net.py:function"``.
        weights: file with the trained weights, or ``"pretrained"`` for those that torchvision or timm publish; empty
            for none.
        transfer: the weights were trained on other data: the classifier is drawn anew for the classes of this data.
        data: which data set, for instance ``"mnist5k"`` or ``"cifar10:DIR"``; empty for none.
        task: what the network is for, if not what the data set is usually for: ``"segmentation"`` for instance, with
            settings as in ``"segmentation?ignore=11"``, or your own function that returns a task, as
            ``"my_task.py:make"``.
        calibrate: unlabelled images to repair and decide by: a folder of pictures, or a .npy, .npz or .safetensors file
            of arrays; empty for training images of the data.
        calibrate_images: how many unlabelled images to use; 64 to 1,000 are useful.
        method: name of the pruning method.
        options: the method's own settings, by name.
        keep: largest fraction to keep, in (0, 1]; None where the method decides by itself.
        of: what ``keep`` is a fraction of.
        budget: limits that are to be met together, beside or instead of ``keep``; None for none.
        rounds: in how many steps of pruning and fine-tuning the target is approached.
        leave: layers, or modules with all the layers in them (names or patterns), that keep all their units.
        free_outputs: outputs, or what holds several (paths such as "1.feats", or patterns), that may lose channels;
            what is predicted, and all that is not named, keeps its width.
        groups: which may lose units: all, or only those inside blocks, so that residual streams, which several layers
            put out whose outputs are added up, stay as they are.
        repair: what to do after the cut without training, of ``"reconstruct"``, ``"fold"``, ``"compensate"``
            and ``"recalibrate"``, where the first makes the others needless, or nothing (an empty list, none on the
            command line); None for ``"reconstruct"`` where there are images, labelled or not, else for ``"fold"``.
        patience: give up reading the network after this many seconds; None for never.
        min_units: fewest units left in a group.
        multiple: widths are multiples of this, 1 = any number; ``"auto"`` = for each group what runs fast.
        seed: seed of all randomness.
        classes: number of classes of the network, and of masks, which need not be counted then; None for that of the
            data.
        mean: per-channel mean for normalising images in [0, 1]; None for the data set's own.
        std: per-channel standard deviation for the same; None for the data set's own.
        val_fraction: share of the training images held out for validation, in (0, 1); None for the data set's own.
        split_seed: draws these, and ``train_images``; None for ``seed``. That of the training which made the weights.
        train_images: train on so many of the training images only, drawn by the seed; None for all.
        image: shape of an image such as ``"1x28x28"`` (channels, height, width), as which pictures are read, and on
            which the network is tried where there are none; empty for that of the data, else the network's usual one.
        image_size: height and width of images from a folder of pictures, in pixels, with masks and boxes as well, and
            of the crops of wanted images that are trained on where images are wanted; or where there are none of what
            the network is tried on; None for 224, and for unlabelled ones of the size that the network takes.
        workers: processes that read an image folder; None for one for each processor core, at most 8.
        train: settings of fine-tuning; None for none.
        minutes: of wall-clock time for the repair and then, in what is left, fine-tuning with labels or distillation
            without, stopped in time and kept only if held-out images gain; epochs are then an upper bound. 0 for the
            repair alone; None for no limit.
        pretrain: settings of training the dense network first; None for none.
        shape: settings of a method's own training before it decides; None for those of ``train``.
        then: further stages of pruning and fine-tuning, each with a method and target of its own.
        export: formats to export, of ``"pt2"``, ``"onnx"``, ``"source"``, ``"onnx-int8"`` and ``"openvino-int8"``.
        latency: whether to time the networks.
        runtime: what the network will run in, which is what its speed is stated in; None for the fastest that is
            installed of those that can run what is exported.
        threads: of the CPU that it will run on; None for as many as torch takes.
        chosen: what the clock has decided in the run that saved this recipe, by name; taken from here instead of being
            measured again, so that the numbers are the same. Take the table out to have it all chosen anew.

    Raises:
        SettingError: if a value is out of range or of the wrong type.
    """

    model: str
    weights: str = ""
    transfer: bool = False
    data: str = ""
    task: str = ""
    calibrate: str = ""
    calibrate_images: int = 1000
    method: str
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    keep: float | None = None
    of: Measure = "macs"
    budget: Budget | None = None
    rounds: int = 1
    leave: tuple[str, ...] = ()
    free_outputs: tuple[str, ...] = ()
    groups: Groups = "all"
    repair: tuple[str, ...] | None = None
    patience: float | None = None
    min_units: int = 1
    multiple: Multiple = "auto"
    seed: int = 0
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    val_fraction: float | None = None
    split_seed: int | None = None
    train_images: int | None = None
    image: str = ""
    image_size: int | None = None
    workers: int | None = None
    train: Settings | None = None
    minutes: float | None = None
    pretrain: Settings | None = None
    shape: Settings | None = None
    then: tuple[Stage, ...] = ()
    export: tuple[str, ...] = EXPORTS
    latency: bool = True
    runtime: Runtime | None = None
    threads: int | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in _TUPLES:
            value = getattr(self, name)
            if isinstance(value, str) and name in _WORDS:
                value = [word.strip() for word in value.split(",") if word.strip() not in ("", "none")]
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(cast("list[object]", value)))
        if isinstance(self.budget, Mapping):
            object.__setattr__(self, "budget", Budget.from_dict(self.budget))
        for name, refusal in rules.broken(self, RULES):
            raise SettingError(f"'{name}' {refusal}; correct it in the recipe")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise SettingError(
                "'mean' and 'std' must be given together, one number per channel each; correct the recipe"
            )
        if self.image and self.image_size is not None:
            raise SettingError("'image' says height and width, so leave 'image_size' out; correct it in the recipe")
        if self.transfer and not (self.weights and self.data):
            raise SettingError(
                "'transfer' moves trained 'weights' to other 'data'; give both; correct it in the recipe"
            )
        if self.runtime is not None:
            known(self.runtime)
        agreed(self.budget, self.runtime, self.threads)
        for name in ("keep", "val_fraction", "patience", "minutes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "options", options(self.options))

    def to_toml(self) -> str:
        """Return the recipe as TOML text with the tables [target], [method], [train], [pretrain] and [[then]]."""
        flat = self._values()
        stages = {"then": [stage.to_dict() for stage in self.then]} if self.then else {}
        target = {name: flat.pop(name) for name in TARGET if name in flat}
        method = {"name": flat.pop("method"), **flat.pop("options")}
        training = {name: flat.pop(name) for name in _TRAINING if name in flat}
        chosen = {"chosen": flat.pop("chosen")} if self.chosen else {}
        return tomli_w.dumps({**flat, "target": target, "method": method, **training, **stages, **chosen}, indent=2)

    @staticmethod
    def from_toml(text: Text) -> Recipe:
        """Read a recipe written by ``to_toml`` or by hand; what is left out takes its default.

        Raises:
            SettingError: if the text is not TOML, or an entry is unknown, missing or impossible.
        """
        document = parsed(text)
        _refuse_comparison(document)
        tables = {name: _table(document, name) for name in ("target", "method", *_TRAINING)}
        top = [f.name for f in fields(Recipe) if f.name not in (*TARGET, "options")]
        _refuse_unknown(document, [*top, "target"], "at the top of the recipe")
        _refuse_unknown(tables["target"] or {}, TARGET, "in [target] of the recipe")
        method = dict(tables["method"] or {})
        values: dict[str, Any] = {
            **document,
            **(tables["target"] or {}),
            "method": method.pop("name", None),
            "options": method,
        }
        stages = values.get("then", ())
        if not isinstance(stages, list | tuple):
            raise SettingError("'then' in the recipe must be stages; write a line [[then]] with its settings below")
        values["then"] = tuple(Stage.from_dict(stage) for stage in cast("list[object]", stages))
        missing = [name for name in ("model", "method") if values.get(name) is None]
        if missing:
            wanted = {"model": 'model = "..." at the top', "method": 'name = "..." in [method]'}[missing[0]]
            raise SettingError(f"the recipe does not say which {missing[0]} to use; add {wanted}")
        for name in _TRAINING:
            table = tables[name]
            values[name] = None if table is None else Settings.from_dict(table)
        return Recipe(**values)

    @staticmethod
    def read(path: str | Path) -> Recipe:
        """Read a recipe file; code that it names is not run unless somebody vouches for it, see ``vouched``.

        Raises:
            SettingError: if the file cannot be read or is not a recipe; the message names the file.
        """
        found = read(path, Recipe.from_toml)
        return replace(found, model=Foreign(found.model), task=Foreign(found.task))

    @property
    def shape_asked(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an image, where ``image`` says them."""
        return tuple(map(int, self.image.split("x"))) if self.image else None  # pyright: ignore[reportReturnType]

    def vouched(self) -> Recipe:
        """Return the recipe with leave to run the code that ``model`` and ``task`` name, which you have looked at."""
        return replace(self, model=str(self.model), task=str(self.task))

    def name(self) -> str:
        """Return a short folder name such as ``l1-keep0.5-1f0c9a``; equal recipes have equal names.

        The last part is a hash of every setting that differs from its default, so that a setting added
        by a later version does not rename the recipes that do not use it. Without a repair a recipe has the name that
        it had when none was the default: what lies under it was made so.
        """
        method = re.sub(r"[^A-Za-z0-9_]+", "_", self.method)
        keep = "" if self.keep is None else f"-keep{self.keep:g}"
        text = json.dumps(self._changed(), sort_keys=True)
        return f"{method}{keep}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    def _values(self) -> dict[str, Any]:
        """Return all set values as TOML can carry them."""
        values: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "then" or (f.name == "chosen" and not value):
                continue
            if isinstance(value, Settings):
                value = {name: entry for name, entry in value.to_dict().items() if entry is not None}
            if isinstance(value, Budget):
                value = value.to_dict()
            if value is not None:
                values[f.name] = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
        return values

    def _changed(self) -> dict[str, Any]:
        """Return the values that differ from their defaults."""
        plain = Settings().to_dict()
        changed: dict[str, Any] = {}
        for f in fields(self):
            if f.name == "chosen":  # what comes of the recipe, not what it asks for
                continue
            value = getattr(self, f.name)
            if isinstance(value, Settings):
                entries = value.to_dict()
                changed[f.name] = {name: entries[name] for name in entries if entries[name] != plain.get(name)}
            elif f.default is MISSING or value != (() if f.name == "repair" else f.default):
                changed[f.name] = [stage.to_dict() for stage in value] if f.name == "then" else value
                if f.name == "budget":
                    changed[f.name] = value.to_dict()
        return changed


def _refuse_comparison(document: Mapping[str, Any]) -> None:
    """Refuse a file for ``secateur compare``, which has several methods and fractions instead of one."""
    target = document.get("target")
    keeps = isinstance(target, Mapping) and ("keeps" in target or "repairs" in target)
    if keeps or isinstance(document.get("method"), list) or {"seeds", "controls", "scratch"} & document.keys():
        raise SettingError("this is the recipe of a comparison; carry it out with `secateur compare`")


def _table(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Take a table out of the document; None where there is none."""
    value = document.pop(name, None)
    if value is not None and not isinstance(value, dict):
        raise SettingError(f"'{name}' in the recipe must be a table; write a line [{name}] with its settings below")
    return cast("dict[str, Any] | None", value)


def _refuse_unknown(entries: Mapping[str, Any], known: tuple[str, ...] | list[str], where: str) -> None:
    for name in entries:
        if name not in known:
            hint = " (it belongs in [target])" if name in TARGET else nearest(name, known)
            raise SettingError(f"unknown setting '{name}' {where}{hint}; known are {', '.join(known)}")
