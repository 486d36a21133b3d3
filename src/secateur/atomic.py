"""Files that appear whole or not at all, and what is left of those whose process was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

UNFINISHED = re.compile(r"^\..+\.(partial|old)-(\d+)")


def write_file(path: Path, data: bytes, check: Callable[[Path], None] = lambda written: None) -> None:
    """Write a file atomically: whatever happens, ``path`` holds the old bytes or all of the new ones.

    A link is replaced, and what it leads to stays: folders of results may hold links that others have made.

    Args:
        path: the file.
        data: its content.
        check: raises if what was written, under another name still, is not to take the place.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    refuse_special(path, links=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    for left in unfinished(path, "partial", alone=False):  # by a process that was killed
        if left.is_file() or left.is_symlink():
            left.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # and not where a link of this name leads
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def refuse_special(path: Path, *, links: bool = False) -> None:
    """Refuse to put a file in the place of what is there and is no file: a pipe, a device, a folder or a link.

    Call it before any work on a path that a user has named.

    Args:
        path: the file to be.
        links: accept a link, which is replaced.

    Raises:
        OSError: if there is such a thing, or the path is no name for a file.
    """
    if path.name in ("", ".."):
        raise OSError(errno.EINVAL, "it is no name for a file", str(path))
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(mode):
        if not links:
            raise OSError(errno.EINVAL, "it is a symbolic link, which would be replaced", str(path))
    elif not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device and not a regular file", str(path))


def is_full(error: BaseException | None) -> bool:
    """Say whether an error means that a disk, or the share of it that one may use, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def hidden(folder: Path, kind: str) -> Path:
    """Return under which name this process keeps what is to become, or was, a folder."""
    return folder.with_name(f".{folder.name}.{kind}-{os.getpid()}")


def unfinished(folder: Path, kind: str, *, alone: bool) -> list[Path]:
    """Return what a killed save left behind under hidden names; what another one still works on only if ``alone``."""
    found: list[Path] = []
    for path in sorted(folder.parent.glob(f".{_escape(folder.name)}.{kind}-*")):
        match = UNFINISHED.match(path.name)
        if match and (alone or not _at_work(int(match[2]))):
            found.append(path)
    return found


def _escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _at_work(process: int) -> bool:
    """Say whether another process of this number runs; our own cannot have left anything before now."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sync(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
