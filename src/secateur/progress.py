"""Progress on standard error: a bar on a terminal, one line for each finished stage elsewhere.

The library shows it where nobody listens and somebody can see it: in a terminal and in a notebook.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Any, ParamSpec, TextIO, TypeVar, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from secateur import rules
from secateur.events import Display, Event, Tell, heard, ignore

P = ParamSpec("P")
R = TypeVar("R")
_PROGRESS = rules.optional(rules.FLAG)
_DECIDED: ContextVar[bool | None] = ContextVar("decided", default=None)

FORECAST = "forecast"  # the stage whose text is a promise to keep in sight
RUN = "run"  # the stage that names one of several runs
TRAIN = "train"  # the stage whose texts are news to keep, one for each epoch


class Unfailing:
    """A text stream that never ends the work of whoever writes to it.

    Its reader may go away, its disk may be full and its letters may lack a sign: what cannot be written is dropped, and
    after the first failure all the rest.

    Args:
        stream: where the text goes.

    Attributes:
        error: the first failure; None as long as all is well.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write a text as far as the stream can."""
        try:
            self._do(self.stream.write, text)
        except UnicodeEncodeError as error:
            self._do(self.stream.write, text.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._do(self.stream.flush)

    def drop(self) -> None:
        """Forget what could not be written, which would be tried again when the program ends and spoil its status."""
        if self.error is not None:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
                self.stream.flush()

    def _do(self, what: Callable[..., object], *args: str) -> None:
        if self.error is None:
            try:
                what(*args)
            except UnicodeEncodeError:
                raise
            except (OSError, ValueError) as error:  # the latter from a stream that is closed
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Listener:
    """Hears the library's events and shows them; use it as a context manager.

    Args:
        quiet: show nothing but warnings.
    """

    def __init__(self, quiet: bool = False) -> None:
        stream = cast("IO[str] | None", sys.stderr and Unfailing(sys.stderr))
        self.console = Console(file=stream, stderr=True, highlight=False)
        self.quiet = quiet
        self.live = _can_draw(self.console) and not quiet
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        self.task: TaskID | None = None
        self.stage = self.title = ""
        self.begun = 0.0

    def __enter__(self) -> Listener:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.stage == "warning":
            self.line(f"warning: {event.text}")
            return
        if self.quiet:
            return
        if event.stage == FORECAST:
            self.line(f"forecast: {event.text}")
            return
        if event.stage == RUN:
            self.finish()
            self.line(event.text)
            return
        if event.stage != self.stage:
            self.begin(event.stage, event.text)
        elif event.text and event.stage != TRAIN and self.task is not None:
            self.bar.update(self.task, description=event.text)
        if event.text and event.stage == TRAIN:
            self.line(event.text)
        if event.total is not None and self.task is not None:
            self.bar.update(self.task, completed=event.step, total=event.total)

    def begin(self, stage: str, text: str) -> None:
        """Close the stage before and start another one."""
        self.finish()
        self.stage, self.title, self.begun = stage, "training" if stage == TRAIN else text or stage, time.perf_counter()
        if self.live:
            self.task = self.bar.add_task(self.title, total=None)

    def finish(self) -> None:
        """Close the current stage with a line that says how long it took."""
        if self.stage and not self.quiet:
            self.line(f"{self.title} ({_duration(time.perf_counter() - self.begun)})")
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.stage, self.task = "", None

    def line(self, text: str) -> None:
        """Write one line above the bar."""
        self.console.print(Text(text), soft_wrap=True)


class Showing:
    """A listener that shows progress where nobody else listens, in each call of whatever has it.

    Warnings are then Python's, be there a display or not. A display that is there already, of a function that calls
    this one, serves for both.

    Args:
        progress: whether to show it; None: in a terminal and in a notebook.
        tell: who listens.

    Raises:
        SettingError: if ``progress`` is something else.
    """

    def __init__(self, progress: bool | None, tell: Tell) -> None:
        rules.refuse(("progress", progress, _PROGRESS))
        self._progress, self._alone, self._now = progress, tell is ignore, heard(tell)

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        self._now(event)

    @contextmanager
    def call(self) -> Generator[None]:
        """Show what is told inside the block."""
        wanted = _somebody_sees() if self._progress is None else self._progress
        if not self._alone or _DECIDED.get() is not None or not wanted:
            with _decided():
                yield
            return
        silent = self._now
        with _decided(), Listener() as listener:
            self._now = Display(listener)
            try:
                yield
            finally:
                self._now = silent


def shown(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function with the arguments ``progress`` and ``tell`` show its progress, see ``Showing``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        progress, tell = cast("bool | None", kwargs.get("progress")), cast("Tell", kwargs.get("tell", ignore))
        showing = Showing(progress, tell)
        kwargs["tell"] = showing
        with showing.call():
            return function(*args, **kwargs)

    return call


@contextmanager
def _decided() -> Generator[None]:
    """Let what is called in between show nothing of its own."""
    token = _DECIDED.set(True)
    try:
        yield
    finally:
        _DECIDED.reset(token)


def _somebody_sees() -> bool:
    """Tell whether standard error is a terminal, or the program a notebook; of several processes for the first one."""
    if threading.current_thread() is not threading.main_thread() or os.environ.get("RANK", "0") != "0":
        return False
    try:
        terminal = sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
    return terminal or Console(stderr=True).is_jupyter


def _can_draw(console: Console) -> bool:
    """Tell whether a bar can be drawn and taken away again, which in notebooks ipywidgets do."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
