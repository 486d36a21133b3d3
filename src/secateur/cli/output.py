"""Standard output is for what a command has found: whatever libraries print goes to standard error.

Neither stream ends a command. A long work comes to its end and is saved although nobody reads what it prints any more,
or the disk that this goes to is full; how it ended says so then.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TextIO, cast

import typer

from secateur.errors import SecateurError
from secateur.progress import Unfailing

P = ParamSpec("P")

_ours: Unfailing | None = None
_saved = ""


def ours() -> TextIO:
    """Return the stream for what a command has found."""
    return sys.stdout if _ours is None else cast("TextIO", _ours)


def saved(where: Path | str) -> None:
    """Note where the result of the command is, for whoever cannot be shown it."""
    global _saved
    _saved = f"; the result is in {where}"


def reserved(function: Callable[P, None]) -> Callable[P, None]:
    """Let a command alone print on standard output: what else is printed there meanwhile goes to standard error."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        global _ours, _saved
        before = _ours, _saved
        stream = sys.stdout if isinstance(sys.stdout, Unfailing) else Unfailing(sys.stdout or io.StringIO())
        _ours, _saved = stream, ""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                function(*args, **kwargs)
            stream.flush()
            if stream.error is not None:
                _end(stream.error)
        finally:
            _ours, _saved = before

    return call


def _end(error: OSError | ValueError) -> None:
    """End a command that has done its work and could not print it; a reader that has gone away knows that.

    Raises:
        SecateurError: saying where the result is, if there is one.
    """
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        raise typer.Exit(1)
    raise SecateurError(_sentence(error))


def _sentence(error: OSError | ValueError) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return f"cannot write to standard output: {reason}{_saved}"


@contextmanager
def program() -> Generator[None]:
    """Give a program its streams for as long as it runs: the block ends with ``SystemExit``.

    Descriptor 1, to which libraries print in C and which the processes that they begin are given, becomes that of
    standard error; only the stream that commands print on still leads to standard output.
    """
    _occupy()
    own = os.dup(1)
    os.dup2(2, 1)
    before = sys.stdout, sys.stderr
    like = before[0]
    if like is None:  # pyright: ignore[reportUnnecessaryComparison]  # it was closed
        stdout = Unfailing(io.StringIO())
    else:
        stdout = Unfailing(os.fdopen(os.dup(own), "w", encoding=like.encoding, errors="replace"))
    stderr = Unfailing(before[1] or io.StringIO())  # pyright: ignore[reportUnnecessaryComparison]
    sys.stdout, sys.stderr = cast("TextIO", stdout), cast("TextIO", stderr)
    try:
        yield
    except SystemExit as ended:
        stdout.flush()
        if stdout.error is None or ended.code:
            raise
        if not (isinstance(stdout.error, OSError) and stdout.error.errno == errno.EPIPE):
            print(f"error: {_sentence(stdout.error)}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        for stream in (stdout, stderr):
            stream.flush()
            stream.drop()
        sys.stdout, sys.stderr = before
        os.dup2(own, 1)
        os.close(own)


def _occupy() -> None:
    """Open what is closed of the standard descriptors, or the next file that is opened would be taken for it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
