from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest

from secateur import events
from secateur.events import Display, Event, ignore, listens, warn, warn_once


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SAID", set())


def test_only_a_listener_of_the_caller_takes_the_place_of_pythons_warnings() -> None:
    heard: list[Event] = []
    display = Display(heard.append)
    display(Event("trace"))
    assert (listens(ignore), listens(display), listens(heard.append)) == (False, False, True)
    with pytest.warns(UserWarning, match="look out"):
        warn("look out", display)
    assert heard == [Event("trace")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("look out", heard.append)
    assert heard[1:] == [Event("warning", "look out")]


def test_in_a_loop_it_is_said_once_whatever_happens_to_the_filters() -> None:
    heard: list[Event] = []
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3):
            with warnings.catch_warnings():  # makes Python forget what it has said
                warnings.simplefilter("default")
            warnings.simplefilter("always")
            warn_once("an optimizer", heard.append)
            warn_once("another thing", ignore)
    assert [str(each.message) for each in caught] == ["an optimizer", "another thing"]
    assert [event.text for event in heard] == ["an optimizer"]


def test_a_context_that_decorates_is_not_whom_to_warn() -> None:
    @contextlib.contextmanager
    def around() -> Generator[None]:
        yield

    library = {"__name__": "secateur.some", "warn": warn, "ignore": ignore, "around": around}
    exec("@around()\ndef verb():\n    warn('look out', ignore)", library)
    with pytest.warns(UserWarning, match="look out") as caught:
        library["verb"]()  # pyright: ignore
    assert [Path(each.filename) for each in caught] == [Path(__file__)]
