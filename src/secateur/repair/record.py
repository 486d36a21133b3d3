"""What a repair has brought, and what judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur.arguments import checked
from secateur.measure import Accuracy
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
    """One repair and what it brought, on the validation images.

    Attributes:
        step: which repair.
        layers: how many layers it changed.
        before: accuracy without it; None where there is no labelled data to measure it on.
        after: accuracy with it; None in the same case.
    """

    step: str
    layers: int
    before: Accuracy | None
    after: Accuracy | None

    def __post_init__(self) -> None:
        check_types(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Repair:
        """Read what ``dataclasses.asdict`` returns.

        Raises:
            KeyError, TypeError: if it is not that.
        """
        parts: dict[str, Any] = {name: values[name] and Accuracy(**values[name]) for name in ("before", "after")}
        return Repair(**{**values, **parts})
