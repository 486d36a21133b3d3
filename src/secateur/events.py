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


def warn(text: str, tell: Tell) -> None:
    """Tell a warning; where nobody listens it is a warning of Python's to whoever called Secateur.

    Args:
        text: one sentence.
        tell: hears it.
    """
    tell(Event("warning", text))
    if tell is not ignore:
        return
    level, frame = 1, inspect.currentframe()
    # contextlib runs the functions that Secateur decorates with a context
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("secateur", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)
