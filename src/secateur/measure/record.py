"""What all measured values have in common: they turn into plain dicts and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Self

from secateur.arguments import checked
from secateur.errors import ArtifactError
from secateur.reading import written
from secateur.typed import check_types


@checked
@dataclass(frozen=True)
class Record:
    """Base of frozen dataclasses whose fields are numbers and strings."""

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that ``to_dict`` was called on.

        Raises:
            ArtifactError: if a field is missing, unknown, or of the wrong type.
        """
        kind = cls.__name__.lower()
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        older = {field.name: field.default for field in dataclasses.fields(cls) if field.default is not MISSING}
        values = {**older, **values}  # what earlier versions did not write
        for name in fields:
            if name not in values:
                raise ArtifactError(f"the stored {kind} lacks '{name}': the file is damaged")
        for name in values:
            if name not in fields:
                raise ArtifactError(f"the stored {kind} has an unknown entry {written(name)}: the file is damaged")
        return cls(**{name: _typed(values[name], wanted, kind, name) for name, wanted in fields.items()})


def _typed(value: object, wanted: str, kind: str, name: str) -> object:
    if wanted in ("float", "Number") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted == "str" and isinstance(value, str):
        return value
    raise ArtifactError(f"'{name}' in the stored {kind} must be {wanted}, not {written(value)}: the file is damaged")
