"""What a task has to say about its answers so that people can look at them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from secateur.data import Data
from secateur.predictions.album import Album, visible
from secateur.predictions.content import Example, Layout, Mark, Swatch
from secateur.tasks import Task

NONE = "\N{EM DASH}"
"""Stands for a number that is none."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True, eq=False)
class Seen:
    """A test example with what came of it, all on the CPU.

    Attributes:
        number: its place among those that were looked at.
        image: what the network was given, (C, H, W); None if that is no image.
        target: what is wanted.
        dense: the answer of the dense network.
        pruned: that of the pruned one.
    """

    number: int
    image: Tensor | None
    target: Any
    dense: Any
    pruned: Any


class Painter(ABC, Generic[T]):
    """Compares the answers of two networks, and draws them.

    Args:
        task: what the networks do.
        data: where the examples are from.
    """

    layout: ClassVar[Layout] = "strips"
    order: ClassVar[str]
    """By what examples are ordered, a sentence."""

    def __init__(self, task: T, data: Data) -> None:
        self.task, self.data = task, data

    def wanted(self, batch: Any) -> Sequence[Any]:
        """Return what is wanted of each example of a batch."""
        return list(self.task.target(batch).cpu())

    @abstractmethod
    def found(self, output: Any, batch: Any) -> Sequence[Any]:
        """Return what matters of a network's answer for each example of a batch, on the CPU and in little memory.

        Args:
            output: what ``Task.output`` returned, in float32.
            batch: one of the data.
        """

    def compare(self, seen: Sequence[Seen]) -> Sequence[float]:
        """Return how much the networks disagree on each example: the larger the more, NaN most of all."""
        return [self.disagreement(each) for each in seen]

    @abstractmethod
    def disagreement(self, seen: Seen) -> float:
        """Return how much the networks disagree on an example."""

    @abstractmethod
    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Draw an example."""

    def note(self, album: Album) -> str:
        """Return what has to be said of all examples that were drawn."""
        return ""

    def legend(self, album: Album) -> Sequence[Swatch]:
        """Return what the colours of the examples that were drawn stand for."""
        return ()

    def name(self, label: int) -> str:
        """Return what a class is called."""
        names = self.data.names
        return names[label] if 0 <= label < len(names) else f"class {label}"

    def photo(self, seen: Seen, album: Album) -> tuple[int, ...]:
        """Return the number of an example's picture; nothing if it is none."""
        if seen.image is None:
            return ()
        return (album.photo(seen.number, visible(seen.image, self.data.mean, self.data.std)),)


def verdict(right: bool) -> Mark:
    """Return the mark of an answer."""
    return "right" if right else "wrong"


def share(value: float, digits: int = 1) -> str:
    """Return a share of the whole in hundredths."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else NONE
