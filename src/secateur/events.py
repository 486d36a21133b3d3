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


_SAID: set[str] = set()  # warnings that have become Python's

Tell = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event; the default listener."""


def to_caller(event: Event) -> None:
    """Make a warning one of Python's, of the line that has called Secateur, and drop all other news."""
    if event.stage != "warning":
        return
    _SAID.add(event.text)
    modules, frame = list[str](), inspect.currentframe()
    while frame is not None:
        modules.append(str(frame.f_globals.get("__name__")))
        frame = frame.f_back
    # others stand between our frames, too: torch where it decorates them, and methods that somebody has written
    level = 1 + max(number for number, module in enumerate(modules) if module.partition(".")[0] == "secateur")
    while modules[level : level + 1] == ["contextlib"]:  # which runs what we decorate with a context
        level += 1
    warnings.warn(event.text, UserWarning, stacklevel=level + 1)


@dataclass(frozen=True)
class Display:
    """A listener that nobody has asked for: it shows the progress; warnings are Python's."""

    show: Tell

    def __call__(self, event: Event) -> None:
        """Show one event."""
        (to_caller if event.stage == "warning" else self.show)(event)


def heard(tell: Tell) -> Tell:
    """Return the listener, or where nobody listens one that makes warnings of Python's of those that are told.

    For whatever a user calls and can give a listener to; all that is called from there passes on what this returns.
    """
    return to_caller if tell is ignore else tell


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


def warn(text: str, tell: Tell) -> None:
    """Tell a warning; where nobody listens it is a warning of Python's to whoever called Secateur.

    Args:
        text: one sentence.
        tell: hears it.
    """
    heard(tell)(Event("warning", text))


def warn_once(text: str, tell: Tell) -> None:
    """Give a warning to the caller and its listener, which may be only a display, once in this process.

    Python's own memory of what was said is lost whenever somebody changes its filters, as many libraries do.
    """
    if text in _SAID:
        return
    warn(text, tell)
    if text not in _SAID:
        to_caller(Event("warning", text))
