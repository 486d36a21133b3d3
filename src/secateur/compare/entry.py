"""One method of a comparison, with settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from secateur.core.method import Method, shapes
from secateur.methods import make
from secateur.recipe import Recipe
from secateur.stages import Option
from secateur.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method with its settings.

    Attributes:
        method: its name.
        label: what tables call it; of entries with the same label that which does best on the validation images is
            reported, for each keep.
        options: its own settings.
        train: training settings that replace those of the comparison, by name.
        shape: the same for the method's own training before it decides.
        control: whether it is there as a control.
    """

    method: str
    label: str
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shape: Mapping[str, Any] = field(default_factory=dict[str, Any])
    control: bool = False

    def made(self) -> Method:
        """Return the method.

        Raises:
            SettingError: if it or one of its settings is unknown.
        """
        return make(self.method, self.options)

    def recipe(self, base: Recipe, keep: float, seed: int) -> Recipe:
        """Return the recipe of one run of this method."""
        train = base.train and changed(base.train, self.train)
        shape = None
        if shapes(self.made()) and (base.shape or base.train or self.shape):
            shape = changed(base.shape or train or Settings(), self.shape)
        return replace(
            base, method=self.method, options=self.options, keep=keep, seed=seed, train=train, shape=shape, export=()
        )


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some of them replaced, by name."""
    return Settings.from_dict({**settings.to_dict(), **changes}) if changes else settings
