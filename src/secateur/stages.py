"""What follows the first stage of a recipe: another method or granularity, on what the stage before has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from secateur import rules
from secateur.core.sizes.size import Measure
from secateur.errors import SettingError, nearest
from secateur.reading import written

Option: TypeAlias = bool | int | float | str | list["Option"]
FRACTION = rules.fraction("a fraction above 0 and up to 1")
MEASURE = rules.one_of(Measure)
OPTIONS = rules.table("a table of the method's settings")
_MOST_BITS = 4096
_NAME = rules.text("", least=1)
_RULES = {"of": MEASURE, "keep": rules.optional(FRACTION), "options": OPTIONS}
_TARGET = ("keep", "of")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One more step of deciding, cutting and fine-tuning; zeros of earlier steps stay zeros.

    Attributes:
        method: name of the pruning method.
        options: the method's own settings, by name.
        keep: largest fraction of the dense network to keep, in (0, 1]; None where the method decides by itself.
        of: what ``keep`` is a fraction of.

    Raises:
        SettingError: if a value is out of range or of the wrong type.
    """

    method: str
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    keep: float | None = None
    of: Measure = "macs"

    def __post_init__(self) -> None:
        if not _NAME.accepts(self.method):
            raise SettingError('a [[then]] of the recipe does not say which method to use; add name = "..." there')
        for name, refusal in rules.broken(self, _RULES):
            raise SettingError(f"'{name}' in a [[then]] {refusal}; correct it in the recipe")
        if self.keep is not None:
            object.__setattr__(self, "keep", float(self.keep))
        object.__setattr__(self, "options", options(self.options))

    def to_dict(self) -> dict[str, Any]:
        """Return the tables ``target`` and ``method``, as they stand in a recipe below ``[[then]]``."""
        target: dict[str, Any] = {} if self.keep is None else {"keep": self.keep}
        target |= {} if self.of == "macs" else {"of": self.of}
        return {**({"target": target} if target else {}), "method": {"name": self.method, **self.options}}

    @staticmethod
    def from_dict(table: object) -> Stage:
        """Read what ``to_dict`` returns, or what a person has written.

        Raises:
            SettingError: if something is unknown, missing or impossible.
        """
        entries = _table(table, "each [[then]]")
        for name in entries:
            if name not in ("target", "method"):
                raise SettingError(f"unknown setting '{name}' in [[then]] of the recipe; known are target, method")
        target, method = (_table(entries.get(name, {}), f"[then.{name}]") for name in ("target", "method"))
        for name in target:
            if name not in _TARGET:
                raise SettingError(
                    f"unknown setting '{name}' in [then.target] of the recipe{nearest(name, _TARGET)}; known are "
                    f"{', '.join(_TARGET)}"
                )
        return Stage(method=cast("str", method.pop("name", "")), options=method, **target)


def options(given: Mapping[str, object]) -> dict[str, Option]:
    """Return a method's settings in the form in which TOML gives them back.

    Raises:
        SettingError: if one of them cannot be written down.
    """
    return {name: _option(name, value) for name, value in given.items()}


def _option(name: str, value: object) -> Option:
    if name == "name":
        raise SettingError("a method setting cannot be called 'name'; rename it")
    if isinstance(value, list | tuple):
        return [_option(f"{name}[{i}]", entry) for i, entry in enumerate(cast("list[object]", value))]
    long = isinstance(value, int) and value.bit_length() > _MOST_BITS  # which Python does not write as digits
    if isinstance(value, bool | int | float | str) and value == value and not long:
        return value
    raise SettingError(
        f"the method setting '{name}' must be a number, text, true, false or a list of these, not {written(value)}"
    )


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} in the recipe must be a table with the settings of a stage; correct it")
    return dict(cast("Mapping[str, Any]", value))
