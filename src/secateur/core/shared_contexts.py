"""Contexts that change something of the whole process, for blocks that overlap in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

from secateur.core.interrupts import deferred


class Together:
    """A context of the whole process: the first of several blocks that overlap enters it, the last one leaves it.

    If each of them put back what it had found, the one that ends last would put back what another one had set.

    Args:
        make: makes the context.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._context: AbstractContextManager[object] | None = None

    @contextmanager
    def __call__(self) -> Generator[None]:
        """Be inside for a while."""
        inside = False
        try:
            with deferred, self._lock:
                if self._inside == 0:
                    context = self._make()
                    context.__enter__()
                    self._context = context
                self._inside += 1
                inside = True
            yield
        finally:
            with deferred, self._lock:
                self._inside -= inside
                if inside and self._inside == 0 and self._context is not None:
                    context, self._context = self._context, None
                    context.__exit__(None, None, None)
