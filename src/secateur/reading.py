"""Files that anybody may have made: read whole, never without a bound, and never waited for.

A file that came with a result, a recipe or a folder of pictures can be of any size and kind. What is read here is a
regular file no larger than its kind has reason to be, and its text is looked at before it becomes objects, which take
far more memory than the text.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
import stat
import zipfile
from pathlib import Path
from typing import Any

from secateur.errors import SecateurError, visible

MIB = 2**20
VALUES = 2_000_000
"""Values in one JSON text; each takes up to a hundred times the memory of its letters."""

WIDE = 8 * MIB
"""Longer texts must be ASCII, as everything long that Secateur writes is: others take four bytes a letter."""

_LENGTH = 8  # bytes of the header's length, with which a safetensors file begins
_MOST_HEADER = 8 * MIB
_END_OF_ZIP = 2**16 + 22  # bytes behind the table of contents, with the longest comment
_MOST_CONTENTS = 4 * MIB
_SHOWN = 300  # letters of a foreign text in a message
_REPEATED = 160  # letters of a value that is repeated in a message
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 4, _REPEATED, _REPEATED, 80
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


class Foreign(str):
    """A text that a file holds: it may name code, but that is not run before somebody who has looked at it says so.

    It is equal to the plain text, and ``str`` of it is that text, which may.
    """

    __slots__ = ()


class Unfit(ValueError):
    """What a file holds cannot be used; the message says why, in words that can follow the file's name."""


def regular(path: str | Path) -> int:
    """Return the size of a regular file in bytes; links are followed.

    Raises:
        OSError: if there is none, or it is a folder, pipe, socket or device, which would be waited for without end.
    """
    found = os.stat(_possible(path))
    _insist(found, path)
    return found.st_size


def inside(path: Path) -> Path:
    """Return the path of a file that is to be written, unless a link of its name leads out of the folder.

    Whoever made the folder would otherwise choose which of the reader's files is overwritten. Read, such a file may be:
    what an artifact holds is proved by its hash, and stores of blobs lay folders out as links.

    Args:
        path: the file; it need not be there.

    Raises:
        OSError: if it is elsewhere.
    """
    if not Path(os.path.realpath(_possible(path))).is_relative_to(os.path.realpath(path.parent)):
        raise OSError(errno.EINVAL, "a link leads out of its folder (put a copy of the file there)", str(path))
    return path


def data(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: if it cannot be read, is no regular file or larger; ``strerror`` says what is wrong.
    """
    handle = os.open(_possible(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        _insist(found, path)
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {most:,} are read", str(path))
        return file.read(most)


def text(path: str | Path, most: int) -> str:
    """Return the text of a regular file in UTF-8, without the mark that editors on Windows begin one with.

    Raises:
        OSError: as ``data``, or if it is long and not ASCII.
        UnicodeDecodeError: if it is no UTF-8.
    """
    found = data(path, most)
    if len(found) > WIDE and not found.isascii():
        raise OSError(errno.EFBIG, f"it has {len(found):,} bytes that are not all ASCII", str(path))
    return found.decode("utf-8-sig")


def values(text: str) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: if it is no JSON, nested too deeply, or has more than ``VALUES`` values.
    """
    if text.count(",") + text.count("[") + text.count("{") > VALUES:
        raise Unfit(f"it holds more than {VALUES:,} values")
    try:
        return json.loads(text)
    except RecursionError:
        raise Unfit("it is nested too deeply") from None


def entries(path: str | Path) -> list[zipfile.ZipInfo]:
    """Return what a zip file says of its entries; none is expanded.

    Raises:
        OSError: if it cannot be read.
        zipfile.BadZipFile: if it is no zip file, or its table of contents is larger than there is reason for.
    """
    size = regular(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - _END_OF_ZIP))
        end = file.read(_END_OF_ZIP)
    at = end.rfind(b"PK\5\6")
    if at >= 0 and _MOST_CONTENTS < int.from_bytes(end[at + 12 : at + 16], "little") < 2**32 - 1:
        raise zipfile.BadZipFile("its table of contents is larger than there is reason for")
    with zipfile.ZipFile(path) as file:
        return file.infolist()


def is_safetensors(path: str | Path) -> bool:
    """Say whether a file begins as a safetensors file: with the length of a header within reason, and its brace.

    Raises:
        OSError: if it cannot be read, or is no regular file.
    """
    if regular(path) <= _LENGTH:
        return False
    with open(path, "rb") as file:
        start = file.read(_LENGTH + 1)
    return start[_LENGTH:] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= _MOST_HEADER


def line(text: str, most: int = 2000) -> str:
    """Return a text as one line of printable letters, cut where it is long: nothing that a terminal would obey."""
    words = " ".join(visible(text[: 2 * most]).split())
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return words if len(words) <= most else f"{words[:most]}..."


def shown(value: object) -> str:
    """Return a value of any type and size, or what an error says, as a short line."""
    if isinstance(value, KeyError) and value.args:
        return f"it lacks {shown(repr(value.args[0]))}"
    if isinstance(value, OSError) and value.strerror:
        value = value.strerror
    if isinstance(value, BaseException):
        value = str(value) or type(value).__name__
    return line(value if isinstance(value, str) else written(value), _SHOWN)


def written(value: object) -> str:
    """Return the ``repr`` of a value; dots for what is long or deep in it. Never raises, whatever the value does."""
    try:
        return line(_REPR.repr(value), _REPEATED)
    except Exception:  # a number of thousands of digits, or a class whose own repr fails
        return f"{'a huge' if type(value) is int else 'a'} {type(value).__name__}"


def wrong(error: Exception) -> str:
    """Return what is wrong with a file by an error that was not foreseen when it was used."""
    if isinstance(error, SecateurError | Unfit | OSError | KeyError | UnicodeDecodeError | json.JSONDecodeError):
        return shown(error)
    return f"it holds something impossible ({shown(error)})"


def _possible(path: str | Path) -> str | Path:
    if "\0" in str(path):  # which Python refuses with an error of another kind
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path


def _insist(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device and not a regular file", str(path))
