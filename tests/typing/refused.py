"""Mistakes that type checkers must find: a line here that is no error to one of them fails the test of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import secateur
from secateur import Budget, DropUnits, Limits, Paper, Plan, Recipe, Result, ScoreMethod, Session, Settings, Target


def names_that_are_not_there() -> None:
    secateur.prun()  # type: ignore[attr-defined]
    secateur.Target.of_macs()  # type: ignore[attr-defined]


def settings_of_another_type(result: Result) -> None:
    Target("0.5")  # type: ignore[arg-type]
    Target(0.5, of="flops")  # type: ignore[arg-type]
    Target(0.5, "macs", 3)  # type: ignore[call-arg]
    Limits(min_units="one")  # type: ignore[arg-type]
    Settings(epochs="ten")  # type: ignore[arg-type]
    Settings(learning_rate=0.1)  # type: ignore[call-arg]
    DropUnits("conv1", 3)  # type: ignore[arg-type]
    Plan.from_json(3)  # type: ignore[arg-type]
    Budget(1e6)  # type: ignore[call-arg]
    Recipe(data="digits", method="magnitude")  # type: ignore[call-arg]
    result.save(folder=3)  # type: ignore[arg-type]


def calls_with_another_argument() -> None:
    secateur.prune("secateur:lenet5", keep=0.5)  # type: ignore[call-arg]
    secateur.prune("secateur:lenet5", method=3)  # type: ignore[arg-type]
    secateur.prune("secateur:lenet5", train={"epochs": 1})  # type: ignore[arg-type]
    secateur.build(classes=10)  # type: ignore[call-arg]
    secateur.build("secateur:lenet5", classes="ten")  # type: ignore[arg-type]
    secateur.run_recipe(Path("recipe.toml"))  # type: ignore[arg-type]
    secateur.load(3)  # type: ignore[arg-type]
    Session("secateur:lenet5")  # type: ignore[arg-type]


def values_that_do_not_change() -> None:
    Target(0.5).keep = 0.4  # type: ignore[misc]
    Plan().edits = ()  # type: ignore[misc]


@dataclass(frozen=True)
class WithoutScore(ScoreMethod):
    paper: ClassVar[Paper] = Paper("A title", "A. Author", "CVPR", 2019)


def methods_that_are_not_whole(path: Path) -> None:
    WithoutScore()  # type: ignore[abstract]
    Paper("A title", "A. Author", "CVPR")  # type: ignore[call-arg]
    number: int = Recipe.read(path).to_toml()  # type: ignore[assignment]
    print(number)
