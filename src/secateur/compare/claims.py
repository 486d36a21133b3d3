"""Claiming work, so that several processes can share a comparison."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Generator[str | None]:
    """Claim some work for this process, so that several can share a comparison.

    Yields None, or the number of the process that has it.

    Args:
        path: a file that stands for the work; the claim ends with the block, or with the process.
        wait: until the work is free.
    """
    while True:
        with path.open("a+", encoding="utf-8") as lock:
            if not _locked(lock, wait):
                lock.seek(0)
                yield lock.read().strip() or "unknown"
                return
            if not _is_at(lock, path):  # it was removed by who held it before: others will lock a new one
                continue
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield None
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(file: Any, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # such systems have no such locks: two processes there would do the same work twice
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
