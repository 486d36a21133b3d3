"""Decisions that a forward takes on values of tensors: counted as it runs, and turned in further runs."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from secateur.errors import ModelError

_FAR = 1e9  # beyond what a program compares a number with
_ALIKE = 2  # decisions of one line of code that are turned on their own; a loop may take hundreds
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
        self._places: list[tuple[str, int]] = []
        self._most: int | None = None
        self._turn: Callable[[int, Any], Any] = lambda number, value: value

    def begin(self) -> None:
        """Begin to count anew, as each run does."""
        self._kinds, self._places = [], []

    def take(self, func: Callable[..., Any], tensor: Tensor, *rest: Any) -> Any:
        """Return the Python value of a tensor that the running code asks for, or another.

        Raises:
            ModelError: if a run in which decisions are turned takes no end.
        """
        value = func(tensor, *rest)
        if type(value) not in _TURNS:
            return value
        self._kinds.append(type(value))
        self._places.append(_line_that_asks())
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
        alike = Counter[tuple[str, int]]()
        alone: list[tuple[int, type]] = []
        for number, (kind, place) in enumerate(zip(kinds, self._places, strict=True)):
            alike[place] += 1
            if alike[place] <= _ALIKE:
                alone.append((number, kind))
        by_ways = sorted(alone, key=lambda each: len(_TURNS[each[1]]))  # the plainest come first
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


def _line_that_asks() -> tuple[str, int]:
    """Return the file and line of the code that wants the value, outside of PyTorch and this library."""
    frame = inspect.currentframe()
    assert frame is not None, "other interpreters than CPython do not run PyTorch"
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", "secateur"):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
