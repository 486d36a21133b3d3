"""What the library tells its caller while it works; it never prints by itself."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One piece of news from long work.

    Attributes:
        stage: what is going on, for instance ``"train"``, ``"trace"``, ``"measure"``.
        text: one sentence for a person; may be empty for pure progress.
        step: how many of ``total`` pieces of this stage are done.
        total: how many pieces there are; None where unknown or meaningless.
        values: numbers worth showing or keeping, such as ``{"loss": 0.31}``.
    """

    stage: str
    text: str = ""
    step: int = 0
    total: int | None = None
    values: Mapping[str, float] = field(default_factory=dict[str, float])


_OURS = ("secateur", "contextlib")  # whose frames stand between the caller and us where a context decorates
_SAID: set[str] = set()

Tell = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event; the default listener."""


def once(tell: Tell) -> Tell:
    """Return a listener that passes everything on, but the same warning only once."""
    said: set[str] = set()

    def listen(event: Event) -> None:
        if event.stage == "warning" and event.text in said:
            return
        if event.stage == "warning":
            said.add(event.text)
        tell(event)

    return tell if tell is ignore else listen


@dataclass(frozen=True)
class Display:
    """A listener that nobody has asked for: it shows the progress; warnings stay warnings of Python's."""

    show: Tell

    def __call__(self, event: Event) -> None:
        """Show one event."""
        self.show(event)


def listens(tell: Tell) -> bool:
    """Tell whether a caller has given a listener of its own."""
    return tell is not ignore and not isinstance(tell, Display)


def warn(text: str, tell: Tell) -> None:
    """Tell a warning; where nobody listens it is a warning of Python's to whoever called Secateur.

    Args:
        text: one sentence.
        tell: hears it.
    """
    if listens(tell):
        tell(Event("warning", text))
    else:
        warn_caller(text)


def warn_caller(text: str) -> None:
    """Give a warning of Python's to whoever called Secateur."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


def warn_once(text: str, tell: Tell) -> None:
    """Give a warning to the caller and its listener, the first time in this process alone.

    Python's own memory of what was said is lost whenever somebody changes its filters, as many libraries do.
    """
    if text in _SAID:
        return
    _SAID.add(text)
    if listens(tell):
        tell(Event("warning", text))
    warn_caller(text)
