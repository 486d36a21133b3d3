"""The flags that say what to prune and how, and the recipe that they make."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import GENERAL, Given
from secateur.cli.flags import Flag, flags_of

if TYPE_CHECKING:
    from secateur.recipe import Recipe

NETWORK = (
    "model", "weights", "transfer", "data", "task", "classes", "mean", "std", "val_fraction", "split_seed",
    "train_images", "image", "image_size", "workers",
)  # fmt: skip
IMAGES = ("calibrate", "calibrate_images")
TARGET = (
    "method", "keep", "of", "rounds", "leave", "free_outputs", "groups", "repair", "patience", "min_units", "multiple",
    "seed",
)  # fmt: skip
PLACE = ("runtime", "threads")
OUTPUT = "Output"
_DEFAULT = "reconstruction with --data or --calibrate, else magnitude"
_OWN = ("--out", "--force", "--download", "--quiet", "--json", "--debug", "--help")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results only, no progress.", rich_help_panel=GENERAL)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=GENERAL)
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the Python code that the network comes from.", rich_help_panel=GENERAL),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=OUTPUT)]
Download = Annotated[bool, typer.Option("--download", help="Fetch a missing data set.", rich_help_panel=GENERAL)]


def selection_flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of the network, the target and the method that the arguments name."""
    from secateur.budget import Budget
    from secateur.recipe import Recipe

    network = flags_of(Recipe, "recipe", "Network and data", names=(*NETWORK, *IMAGES), required=("model",))
    target = flags_of(Recipe, "recipe", "What to remove", names=TARGET)
    target = [
        dataclasses.replace(flag, help=f"{flag.help} [default: {_DEFAULT}]") if flag.field == "method" else flag
        for flag in target
    ]
    own = [field.name for field in dataclasses.fields(Budget) if field.name not in PLACE]
    limits = flags_of(Budget, "budget", "Limits, all to be met together", names=own)
    place = flags_of(Recipe, "recipe", "Where it will run", names=PLACE)
    return [*network, *target, *limits, *place, *method_flags(args)]


def recipe_of(given: Given, **more: Any) -> Recipe:
    """Return the recipe that the flags ask for.

    Args:
        given: the flags.
        more: what else it says; the flags' method goes before one that is named here.

    Raises:
        SettingError: if a value is out of range.
    """
    from secateur.budget import Budget
    from secateur.methods import default
    from secateur.recipe import Recipe

    options = {name: value for name, value in given.of("method").items() if value is not None}
    asked = given.of("recipe")
    method = asked.get("method") or more.pop("method", "") or default(images=_sees(asked))
    values: dict[str, Any] = {**asked, "options": options, **more, "method": method}
    with speaking_of_flags():
        if limits := given.of("budget"):
            values["budget"] = Budget(**limits)
        return Recipe(**values)


@contextmanager
def speaking_of_flags() -> Generator[None]:
    """Let what is wrong with the settings of a recipe, which speaks of a file, speak of flags."""
    from secateur.errors import SettingError

    try:
        yield
    except SettingError as error:
        raise SettingError(_in_flags(str(error).partition("; correct")[0])) from None


def _in_flags(text: str) -> str:
    """Return a message about the settings of a recipe with the flags for their names; what was given stays as it is."""
    from secateur.budget import Budget
    from secateur.recipe import Recipe

    names = {field.name for kind in (Recipe, Budget) for field in dataclasses.fields(kind)}
    about, sign, given = text.partition(", not ")
    given, other, remedy = given.partition("; set ")

    def flag(quoted: re.Match[str]) -> str:
        return f"--{quoted[1].replace('_', '-')}" if quoted[1] in names else quoted[0]

    own = re.compile(r"'(\w+)'")
    return own.sub(flag, about) + sign + given + other + own.sub(flag, remedy).replace(" of a budget", "")


def method_asked(given: Given) -> bool:
    """Tell whether the flags name a method, or settings that only the usual one has."""
    return bool(given.of("recipe").get("method") or given.of("method"))


def method_flags(args: Sequence[str], method: str = "", beside: Sequence[Flag] = ()) -> list[Flag]:
    """Return the flags of the settings of the method that the arguments name, or of another where they name none.

    Args:
        args: what the command was called with.
        method: the other one; that of the library if empty.
        beside: the command's further flags, which are settings of no method.
    """
    from secateur.budget import Budget
    from secateur.methods import default, find
    from secateur.recipe import Recipe
    from secateur.training.settings import Settings

    name = _word_of("method", args)
    if name is None:
        if "--help" in args or "-h" in args:  # nothing to show, so the methods need not be read
            return []
        name = method or default(images=_sees({name: _word_of(name, args) for name in ("data", "calibrate")}))
    fields = [field.name for kind in (Recipe, Settings, Budget) for field in dataclasses.fields(kind)]
    taken = {*_OWN, *(f"--{field.replace('_', '-')}" for field in fields)}
    own = flags_of(find(name), "method", f"Settings of {name}", taken=taken)
    _refuse_others(args, name, [flag.option for flag in (*own, *beside)], taken)
    return own


def _refuse_others(args: Sequence[str], name: str, own: Sequence[str], taken: set[str]) -> None:
    """Refuse a setting that another method has, and say which.

    Raises:
        typer.BadParameter: if one is there.
    """
    from secateur.methods import default, methods

    asked = {word.partition("=")[0].replace("--no-", "--", 1) for word in args if word.startswith("--")}
    for option in sorted(asked - taken - set(own)):
        theirs = [
            other
            for other, kind in methods().items()
            if any(flag.option == option for flag in flags_of(kind, "method", "", taken=taken))
        ]
        if theirs:
            chosen = "" if _word_of("method", args) else ", which is taken where no method is named,"
            some = " or ".join((", ".join(theirs[:-1]), theirs[-1]) if len(theirs) > 1 else theirs)
            usual = default(images=False)
            raise typer.BadParameter(
                f"{name}{chosen} has no such setting, but {some} has; add --method "
                f"{usual if usual in theirs else theirs[0]}.",
                param_hint=f"'{option}'",
            )


def _sees(asked: Mapping[str, Any]) -> bool:
    """Tell whether there are images to choose and repair by."""
    return bool(asked.get("data") or asked.get("calibrate"))


def _word_of(flag: str, args: Sequence[str]) -> str | None:
    """Return what a flag is given, before the flags of the method are known."""
    found = None
    for place, word in enumerate(args):
        if word == f"--{flag}" and place + 1 < len(args):
            found = args[place + 1]
        elif word.startswith(f"--{flag}="):
            found = word.removeprefix(f"--{flag}=")
    return found
