"""What a repair has brought, and what judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.arguments import checked
from secateur.measure import Quality
from secateur.typed import check_types

MIN_IMAGES_FOR_MEANS = 2
"""Images below which there are no means either."""


@dataclass(frozen=True)
class Judge:
    """What tells whether a repair that looks at no image brings a network closer to the dense one.

    Attributes:
        name: what that is, in words.
        times: the squared error of the cut network that may be left on it.
    """

    name: str
    times: float

    @staticmethod
    def of(images: int | None) -> Judge:
        """Return what so many different images are as a judge; None: there is an example input alone.

        A single input says little about others, so what it finds a little worse is let pass.
        """
        name = "the example input" if images is None else "the images"
        return Judge(name, 1.5 if images is None or images < MIN_IMAGES_FOR_MEANS else 1.0)


@checked
@dataclass(frozen=True)
class Repair:
    """One repair and what it brought, on the validation examples.

    Attributes:
        step: which repair.
        layers: how many layers it changed.
        before: how well the network does without it; None where there is no labelled data to measure it on.
        after: how well it does with it; None in the same case.
    """

    step: str
    layers: int
    before: Quality | None
    after: Quality | None

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON has."""
        parts = {"before": self.before, "after": self.after}
        return {
            "step": self.step,
            "layers": self.layers,
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Repair:
        """Read what ``to_dict`` returns.

        Raises:
            KeyError, TypeError, ArtifactError: if it is not that.
        """
        parts: dict[str, Any] = {name: values[name] and Quality.from_dict(values[name]) for name in ("before", "after")}
        return Repair(**{**values, **parts})
