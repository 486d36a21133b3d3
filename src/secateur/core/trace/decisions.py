"""Decisions that a forward takes on values of tensors: counted as it runs, and turned in further runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from secateur.errors import ModelError

_FAR = 1e9  # beyond what a program compares a number with
_LONGER = 100  # further decisions that a run may take before it counts as endless

Turn = Callable[[Any], Any]
_TURNS: dict[type, tuple[Turn, ...]] = {
    bool: (lambda value: not value,),
    float: (lambda value: -_FAR, lambda value: _FAR),
    int: tuple(lambda value, other=other: other for other in range(8)),  # such as the number of an expert
}


class Decisions:
    """Stands between tensors and the Python values that code makes of them, in every run of one network."""

    def __init__(self) -> None:
        self._kinds: list[type] = []
        self._most: int | None = None
        self._turn: Callable[[int, Any], Any] = lambda number, value: value

    def begin(self) -> None:
        """Begin to count anew, as each run does."""
        self._kinds = []

    def take(self, func: Callable[..., Any], tensor: Tensor, *rest: Any) -> Any:
        """Return the Python value of a tensor that the running code asks for, or another.

        Raises:
            ModelError: if a run in which decisions are turned takes no end.
        """
        value = func(tensor, *rest)
        if type(value) not in _TURNS:
            return value
        self._kinds.append(type(value))
        if self._most is not None and len(self._kinds) > self._most:
            raise ModelError("a run with turned decisions takes no end")
        return self._turn(len(self._kinds) - 1, value)

    def turns(self, most: int) -> Iterator[AbstractContextManager[None]]:
        """Yield contexts in which a run takes other decisions than the last one did: all of them, then one at a time.

        Args:
            most: how many are yielded.
        """
        kinds = list(self._kinds)
        together = range(max(len(_TURNS[kind]) for kind in kinds) if len(kinds) > 1 else 0)
        by_ways = sorted(enumerate(kinds), key=lambda each: len(_TURNS[each[1]]))  # the plainest come first
        one_by_one = [(number, way) for number, kind in by_ways for way in range(len(_TURNS[kind]))]
        for number, way in [*((None, way) for way in together), *one_by_one][:most]:
            yield self._turning(number, way, len(kinds))

    @contextmanager
    def _turning(self, number: int | None, way: int, count: int) -> Generator[None]:
        def turn(at: int, value: Any) -> Any:
            ways = _TURNS[type(value)]
            return ways[way % len(ways)](value) if number in (None, at) else value

        before = self._turn
        self._turn, self._most = turn, count + _LONGER
        try:
            yield
        finally:
            self._turn, self._most = before, None
