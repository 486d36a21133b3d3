"""What is shown of the answers of two networks: plain values that JSON has, every text ready to print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

FORMAT = 1

Mark = Literal["", "right", "wrong"]
"""Whether an answer is the one that is wanted; empty where there is no such verdict."""

Layout = Literal["strips", "cards", "table"]
"""Rows of pictures, one picture with its answers, or answers alone."""


@dataclass(frozen=True)
class Box:
    """A box on a picture, in its pixels.

    Attributes:
        x: of the left edge.
        y: of the upper edge.
        width: of the box.
        height: of the box.
        colour: as ``#rrggbb``.
        label: what stands on it.
    """

    x: float
    y: float
    width: float
    height: float
    colour: str
    label: str


@dataclass(frozen=True)
class Tile:
    """A picture with its caption.

    Attributes:
        name: whose it is, such as ``"dense"``.
        text: the rest of the caption.
        alt: what is to be seen, for those who do not see it.
        layers: numbers of the pictures that lie on each other, the lowest first, all of one size.
        boxes: drawn over them.
        mark: see ``Mark``.
    """

    name: str
    text: str
    alt: str
    layers: tuple[int, ...]
    boxes: tuple[Box, ...] = ()
    mark: Mark = ""


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, with a name over them where there are several strips."""

    tiles: tuple[Tile, ...]
    name: str = ""


@dataclass(frozen=True)
class Fact:
    """An answer in words or numbers."""

    name: str
    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Example:
    """A test example with the answers of both networks.

    Attributes:
        title: how they differ, in words.
        disagreement: the larger the more; the measure is that of the task.
        strips: its pictures.
        facts: its answers where they are no pictures.
    """

    title: str
    disagreement: float
    strips: tuple[Strip, ...] = ()
    facts: tuple[Fact, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON has; a disagreement that is no finite number becomes None."""
        known = self.disagreement if math.isfinite(self.disagreement) else None
        return {**asdict(self), "disagreement": known}


@dataclass(frozen=True)
class Swatch:
    """A colour of the legend, as ``#rrggbb``, with what it stands for."""

    colour: str
    name: str


def document(
    task: str,
    layout: Layout,
    examples: Sequence[Example],
    pictures: Sequence[dict[str, Any]],
    *,
    looked_at: int,
    note: str,
    legend: Sequence[Swatch],
) -> dict[str, Any]:
    """Return the content of predictions.json.

    Args:
        task: its name.
        layout: how the examples are arranged.
        examples: the worst disagreement first.
        pictures: which tiles name by their number.
        looked_at: how many test examples these were chosen from.
        note: what has to be said of all of them.
        legend: of the colours.
    """
    return {
        "format": FORMAT,
        "task": task,
        "layout": layout,
        "looked_at": looked_at,
        "note": note,
        "legend": [asdict(entry) for entry in legend],
        "pictures": list(pictures),
        "examples": [example.to_dict() for example in examples],
    }
