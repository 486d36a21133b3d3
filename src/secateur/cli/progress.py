"""Progress on standard error: a bar on a terminal, one line for each finished stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

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

from secateur.events import Event

FORECAST = "forecast"  # the stage whose text is a promise to keep in sight
RUN = "run"  # the stage that names one of several runs
TRAIN = "train"  # the stage whose texts are news to keep, one for each epoch


class Listener:
    """Hears the library's events and shows them; use it as a context manager.

    Args:
        quiet: show nothing but warnings.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self.live = self.console.is_terminal and not quiet
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


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
