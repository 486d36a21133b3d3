"""Claiming work, so that no two processes do the same at once; a claim ends with its process at the latest."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError

_FAR = 1 << 30  # the byte that Windows locks: what it locks nobody else can read, and the number shall be read
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""From a file system that knows no locks: work there is as free as if nobody claimed any."""


def lock_of(folder: Path) -> Path:
    """Return the file that stands for writing an artifact, by the resolved path of its folder."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Generator[str | None]:
    """Claim some work for this process.

    Yields None, or the number of the process that has it.

    Args:
        path: a file that stands for the work; its folder exists. It goes with the claim, and where a process was killed
            with the next one.
        wait: until the work is free.

    Raises:
        OSError: if the file cannot be written.
    """
    while True:
        with path.open("a+", encoding="utf-8") as lock:
            if not _locked(lock, wait):
                lock.seek(0)
                yield lock.read().strip() or "unknown"
                return
            if not _is_at(lock, path):  # it was removed by who held it before: others will lock a new one
                continue
            try:
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
                yield None
            finally:
                with contextlib.suppress(OSError):  # of Windows, which removes no open file, or a disk that fails
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
    except ImportError:
        return _locked_by_windows(file, wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _locked_by_windows(file: Any, wait: bool) -> bool:
    msvcrt: Any = importlib.import_module("msvcrt")
    while True:
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            if not wait:
                return False
            time.sleep(0.2)
        else:
            file.seek(0)
            return True


def check_name(folder: Path) -> None:
    """Refuse an empty name and places that are no folder of their own, such as ``.``, ``..`` and ``/``.

    Raises:
        ArtifactError: if it is one.
    """
    if folder.name in ("", ".."):
        raise ArtifactError(f"'{folder}' is no name for a result; name a folder of its own, such as out/small")
