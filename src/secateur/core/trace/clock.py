"""How long reading a network may take."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from secateur.core.interrupts import deferred
from secateur.errors import SettingError, TraceError


class Clock:
    """Runs from when it is made; raises where it is checked after its time is up."""

    def __init__(self, name: str, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise SettingError(f"the patience for reading a network must be above 0 seconds, not {seconds}")
        self._name = name
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self, place: str) -> None:
        """Go on, or stop here.

        Raises:
            TraceError: if time is up.
        """
        if self._end is not None and time.monotonic() > self._end:
            raise TraceError(
                f"reading {self._name} took more than {self._seconds:g} s and stopped in '{place}'; give it "
                "more patience, or smaller example inputs"
            )

    @contextmanager
    def running(self) -> Generator[None]:
        """Check before each module that runs inside the block."""
        if self._end is None:
            yield
            return

        def enter(module: nn.Module, args: Any) -> None:
            self.check(type(module).__name__)

        hook = register_module_forward_pre_hook(enter)
        try:
            yield
        finally:
            with deferred:
                hook.remove()
