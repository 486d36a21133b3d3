"""One step of a run: decide by a method, cut, and fine-tune."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.core.method import Method
from secateur.core.sizes.size import Target
from secateur.typed import check_types


@dataclass(frozen=True)
class Step:
    """What one round does.

    Attributes:
        method: decides what goes.
        target: how much of the dense network may stay after it; None if the method's settings say it all.
    """

    method: Method
    target: Target | None = None

    def __post_init__(self) -> None:
        check_types(self)
