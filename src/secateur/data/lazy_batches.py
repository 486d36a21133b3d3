"""Batches that are not read before somebody looks at them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import overload

from secateur.data.inputs import Inputs


class Later(Sequence[Inputs]):
    """Batches that are made when somebody first looks at them.

    Args:
        load: makes them.
    """

    def __init__(self, load: Callable[[], Sequence[Inputs]]) -> None:
        self._load = functools.cache(load)

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self._load())

    @overload
    def __getitem__(self, index: int) -> Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Inputs]: ...
    def __getitem__(self, index: int | slice) -> Inputs | Sequence[Inputs]:
        """Return a batch, or some."""
        return self._load()[index]
