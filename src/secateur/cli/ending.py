"""Ending like an interruption where a program is told to terminate: what is half done is cleared away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises."""


@contextmanager
def going_on(work: Path) -> Generator[None]:
    """Say of an interruption whether the same command goes on from a folder: only one with something in it is kept.

    Args:
        work: the folder, which need not be there.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        words = str(error) or "interrupted"
        kept = any(path.is_file() and path.suffix != ".lock" for path in work.rglob("*"))
        how = f"; the same command goes on from {work}" if kept else " before there was anything to go on from"
        raise type(error)(f"{words}{how}") from None


@contextmanager
def ending_well() -> Generator[None]:
    """Raise ``Terminated`` in the main thread on SIGTERM; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != own:  # a process that was forked off: nobody has asked it to say anything
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise Terminated("terminated")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
