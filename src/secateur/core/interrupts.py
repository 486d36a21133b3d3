"""Ctrl-C waits while something is put back: an undo that is broken off would leave a network or the process changed."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

# below ``signal``, without the steps in Python around it, between which Ctrl-C could still strike
_bare = importlib.import_module("_signal")
_exchange: Callable[[int, object], object] = _bare.signal
_present: Callable[[int], object] = _bare.getsignal


class _Deferring:
    """A context during which the main thread hears of Ctrl-C only when it leaves; a second one breaks through.

    One context may lie in another one. In other threads, which Ctrl-C does not reach, nothing happens, nor where
    nobody listens to it in Python.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._before: object = None
        self._waiting = False

    def __enter__(self) -> None:
        if _present(signal.SIGINT) is None:  # no handler that Python could put back
            return
        try:
            before = _exchange(signal.SIGINT, self._hear)
        except ValueError:  # another thread
            return
        if before != self._hear:
            self._before = before
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        if threading.get_ident() != threading.main_thread().ident or not self._depth:
            return
        self._depth -= 1
        if self._depth:
            return
        before = self._before
        try:
            _exchange(signal.SIGINT, before)
        finally:
            waiting, self._waiting, self._before = self._waiting, False, None
        if waiting:
            self._tell(before, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._tell(self._before, frame)
        self._waiting = True

    def _tell(self, handler: object, frame: FrameType | None) -> None:
        if callable(handler):
            handler(signal.SIGINT, frame)
        elif handler == signal.SIG_DFL:
            signal.raise_signal(signal.SIGINT)


deferred = _Deferring()
"""Wrap in it what puts things back, and what takes two steps to change something and to note how to undo it."""
