"""The runs that a comparison consists of; equal requests have equal names, and are carried out once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from secateur.compare.comparison import CONTROLS, Comparison, Control
from secateur.recipe import Recipe
from secateur.training.settings import Settings

Kind = Literal["prune", "scratch", "dense"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run.

    Attributes:
        kind: prune a network; train the thin network from scratch; train the dense network on.
        label: what it is called.
        entry: number of the method among all that prune; -1 for other controls.
        control: whether it is a control.
        recipe: what to do; for ``scratch`` it names the network of uniform width, and for all kinds its ``train`` says
            how to train.
    """

    kind: Kind
    label: str
    entry: int
    control: bool
    recipe: Recipe

    @property
    def keep(self) -> float:
        """Return the fraction that is asked for; 1 for the dense network."""
        return 1.0 if self.recipe.keep is None else self.recipe.keep

    @property
    def seed(self) -> int:
        """Return the seed."""
        return self.recipe.seed

    @property
    def name(self) -> str:
        """Return a file name; equal runs have equal names, whatever they are called."""
        return f"{self.kind}-{self.recipe.name()}-seed{self.seed}"

    @property
    def title(self) -> str:
        """Return what the run is, in words."""
        keep = "" if self.kind == "dense" else f"keep {self.keep:g}, "
        repair = f"repair {self.repair}, " if self.repair else ""
        return f"{self.label}, {keep}{repair}seed {self.seed}"

    @property
    def repair(self) -> str:
        """Return what is done after the cut without training, in words; empty where nothing is cut."""
        return repair_in_words(self.recipe.repair or ()) if self.kind == "prune" else ""


def repair_in_words(steps: Sequence[str]) -> str:
    """Return repairs as tables have them, such as ``reconstruct``."""
    return " + ".join(steps) if steps else "none"


def requests(comparison: Comparison) -> tuple[Request, ...]:
    """Return all runs in the order of work: seed by seed, so that a whole table is there after the first one."""
    found: list[Request] = []
    asked, base = comparison.controls or (), comparison.base
    for seed in comparison.seeds:
        if "dense" in asked:
            found.append(_control("dense", replace(base, keep=None), comparison.dense_settings(), seed))
        for keep in comparison.keeps:
            for repair, (number, entry) in itertools.product(comparison.repairs, enumerate(comparison.all_entries())):
                recipe = entry.recipe(replace(base, repair=repair), keep, seed)
                found.append(
                    Request(kind="prune", label=entry.label, entry=number, control=entry.control, recipe=recipe)
                )
            if "scratch" in asked:
                recipe = comparison.uniform(keep, seed)
                found.append(_control("scratch", recipe, comparison.scratch_settings(), seed))
    return tuple(found)


def distinct(found: Sequence[Request]) -> tuple[Request, ...]:
    """Return each run once, as it is called first, in the same order."""
    first: dict[str, Request] = {}
    for request in found:
        first.setdefault(request.name, request)
    return tuple(first.values())


def _control(kind: Control, recipe: Recipe, train: Settings, seed: int) -> Request:
    assert kind in ("scratch", "dense")
    plain = {"method": "none", "options": {}} if kind == "dense" else {}
    made = replace(recipe, train=train, shape=None, seed=seed, export=(), repair=(), **plain)
    return Request(kind=kind, label=CONTROLS[kind], entry=-1, control=True, recipe=made)
