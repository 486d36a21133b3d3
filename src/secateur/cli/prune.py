"""``prune``, ``run`` and ``demo``: the three ways to have a recipe carried out."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.carrying_out import carry_out, without_missing
from secateur.cli.command import Given
from secateur.cli.flags import Flag, flags_of
from secateur.cli.selection import (
    OUTPUT,
    AsJson,
    Download,
    Force,
    Quiet,
    Trust,
    method_asked,
    recipe_of,
    selection_flags,
)
from secateur.errors import DataError, SettingError
from secateur.spelling import spelt_for

if TYPE_CHECKING:
    from secateur.training.settings import Settings

FIRST = "Training the dense network first (otherwise as fine-tuning)"
LIMIT = "Fine-tuning or distillation in a limited time"
_FIRST = ("epochs", "lr")

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Result folder; by default out/ and a name made of the recipe.",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]


def flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``prune``: those of a recipe, of fine-tuning and of the method."""
    from secateur.recipe import Recipe
    from secateur.training.settings import Settings

    training = flags_of(Settings, "train", "Fine-tuning (--epochs turns it on)")
    first = flags_of(Settings, "pretrain", FIRST, names=_FIRST, taken=[f"--{name}" for name in _FIRST])
    output = flags_of(Recipe, "recipe", OUTPUT, names=("export", "latency"))
    limit = flags_of(Recipe, "recipe", LIMIT, names=("minutes",))
    return [*selection_flags(args), *limit, *training, *first, *output]


def prune(
    given: Given,
    *,
    out: Out = None,
    force: Force = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a network smaller, fine-tune it, and save it with the proof.

    Each method has settings of its own: add --method NAME --help to see them. A run that was killed goes on
    when the same command is given again.
    """
    from secateur.recipe_rules import EXPORTS

    more = {} if "export" in given.of("recipe") else {"export": without_missing(EXPORTS)}
    training = _training(given)
    first = _first(given, training)
    for what, asked in (("fine-tuning", training), ("training the dense network", first)):
        if asked is not None and not given.of("recipe").get("data"):
            raise DataError(f"{what} needs data: name a data set with --data, or leave out the settings of {what}")
    recipe = recipe_of(given, train=training, pretrain=first, **more)
    named = method_asked(given)
    carry_out(recipe, out, force=force, download=download, quiet=quiet, as_json=as_json, method_asked=named)


def run(
    recipe: Annotated[
        Path,
        typer.Argument(help="A recipe file, or a result folder to repeat.", show_default=False, metavar="RECIPE"),
    ],
    out: Out = None,
    force: Force = False,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe file says.

    Every result folder holds its recipe.toml. A run that was killed goes on when the same command is given
    again.
    """
    from secateur.recipe import Recipe

    file = recipe / "recipe.toml" if recipe.is_dir() else recipe
    asked = Recipe.read(file)
    asked = asked.vouched() if trust else asked
    with spelt_for("recipe"):
        carry_out(asked, out, force=force, download=download, quiet=quiet, as_json=as_json)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Result folder.", metavar="DIR", rich_help_panel=OUTPUT)] = Path(
        "out/demo"
    ),
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train, prune, repair, verify, export and report on real digits, in about two minutes."""
    import dataclasses

    from secateur.recipe import Recipe

    recipe = Recipe.from_toml(importlib.resources.files("secateur.cli").joinpath("demo.toml").read_text("utf-8"))
    recipe = dataclasses.replace(recipe, export=without_missing(recipe.export))
    carry_out(recipe, out, force=force, download=False, quiet=quiet, as_json=as_json)


def _training(given: Given) -> Settings | None:
    """Return how to fine-tune; None if no flag asks for it, or if there is nothing to do in no epochs.

    Flags without ``--epochs`` are those of the training of the dense network, where there is one.
    """
    from secateur.training.settings import Settings

    values = given.of("train")
    asked = {name: value for name, value in values.items() if name != "recalibrate" or value}
    if set(asked) == {"recalibrate"}:  # which needs no epochs
        asked["epochs"] = 0
    if not asked or (asked.get("epochs") == 0 and not asked.get("recalibrate")):
        return None
    settings = Settings(**asked)
    if given.of("recipe").get("minutes") is None:
        if "epochs" not in asked and "epochs" in given.of("pretrain"):
            return None
        _refuse_without_length(asked, "", "how to fine-tune")
    return settings


def _first(given: Given, training: Settings | None) -> Settings | None:
    """Return how to train the dense network before it is pruned; None if no flag asks for it."""
    import dataclasses

    from secateur.training.settings import Settings

    values = given.of("pretrain")
    if not values:
        return None
    alike = {name: value for name, value in given.of("train").items() if name not in ("epochs", "recalibrate")}
    settings = dataclasses.replace(training or Settings(**alike), **values)
    if training is None:
        _refuse_without_length(values, "pretrain-", "how to train the dense network")
    return settings


def _refuse_without_length(values: Mapping[str, Any], before: str, how: str) -> None:
    """Refuse flags that say how to train where none says that there is to be a training."""
    if "epochs" not in values:
        flag = f"--{before}{next(iter(values)).replace('_', '-')}"
        raise SettingError(
            f"{flag} says {how}, and nothing for how long: add --{before}epochs 10, say, or leave it out"
        )
