from __future__ import annotations

import importlib.util
import inspect
import io
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from secateur.compare import carry_out
from secateur.encoding import encode
from secateur.errors import SettingError
from secateur.events import Event, Tell, ignore
from secateur.export import export_int8
from secateur.export.corners import corners
from secateur.progress import Listener, Unfailing, shown
from secateur.run import prune, prune_as, run_recipe
from secateur.session import Session
from secateur.training import fit

NEWS = (
    Event("trace", "reading the network"),
    Event("measure", "measuring the dense network"),
    Event("measure", "testing the network", 1, 2),
    Event("train", "", 1, 4, {"loss": 0.5}),
    Event("train", "epoch 1 of 2: loss 0.5", 2, 4),
    Event("train", "epoch 2 of 2: loss 0.4", 4, 4),
    Event("warning", "look out"),
)


def hear(capsys: pytest.CaptureFixture[str], quiet: bool = False) -> str:
    with Listener(quiet) as tell:
        for event in NEWS:
            tell(event)
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.fixture(autouse=True)
def _pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def test_elsewhere_than_on_a_terminal_each_stage_is_a_line_when_it_ends(capsys: pytest.CaptureFixture[str]):
    lines = hear(capsys).splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "reading the network",
        "measuring the dense network",
        "epoch 1 of 2: loss 0.5",
        "epoch 2 of 2: loss 0.4",
        "warning: look out",
        "training",
    ]


def test_quiet_says_warnings_alone(capsys: pytest.CaptureFixture[str]):
    assert hear(capsys, quiet=True) == "warning: look out\n"


def test_a_terminal_shows_a_bar_that_goes_away(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("COLUMNS", "60")
    text = hear(capsys)
    assert "━" in text
    assert text.endswith("\x1b[?25h") or "━" not in text.splitlines()[-1]


def test_a_stage_that_fails_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        with Listener() as tell:
            tell(Event("trace", "reading the network"))
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert capsys.readouterr().err == ""


# -- by itself


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@shown
def verb(*, nested: bool = True, progress: bool | None = None, tell: Tell = ignore) -> str:
    tell(Event("trace", "reading the network"))
    if nested:
        part(tell=tell)
    return "done"


@shown
def part(*, progress: bool | None = None, tell: Tell = ignore) -> None:
    tell(Event("measure", "measuring"))


def said(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **asked: Any) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    assert verb(**asked) == "done"
    return stream.getvalue()


def test_a_terminal_shows_the_progress_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, Terminal())
    assert text.count("reading the network (") == text.count("measuring (") == 1
    assert "\x1b[?25l" in text  # a bar, whose cursor is hidden
    assert said(monkeypatch, io.StringIO()) == ""


def test_what_was_asked_for_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, Terminal(), progress=False) == ""
    lines = said(monkeypatch, io.StringIO(), progress=True).splitlines()
    assert [line.partition(" (")[0] for line in lines] == ["reading the network", "measuring"]
    heard: list[Event] = []
    for progress in (None, True, False):
        assert said(monkeypatch, Terminal(), progress=progress, tell=heard.append) == ""
    assert [event.stage for event in heard] == ["trace", "measure"] * 3
    with pytest.raises(SettingError, match="progress must be true or false, not 'yes'"):
        verb(progress="yes")  # type: ignore[arg-type]


def test_a_notebook_shows_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: sys.stderr.write(text))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no ipywidgets: lines, no bar
    assert said(monkeypatch, io.StringIO()).count("reading the network (") == 1


def test_other_threads_and_other_processes_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    thread = threading.Thread(target=verb)
    thread.start()
    thread.join()
    monkeypatch.setenv("RANK", "1")
    verb()
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(sys, "stderr", None)
    verb()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("function", [prune, prune_as, run_recipe, fit, carry_out, export_int8, corners, encode])
def test_the_long_verbs_have_it(function: Callable[..., object]) -> None:
    assert inspect.signature(function).parameters["progress"].default is None
    with pytest.raises(SettingError, match="progress must be true or false"):
        function(progress="yes")


def test_a_session_shows_reading_cuts_and_measuring_and_is_silent_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    session = Session(net, torch.rand(1, 3, 8, 8), "magnitude", 0.6, steps=1, every=2, progress=True)
    assert "reading the network (" in new(stream)
    session.step()
    assert new(stream) == ""
    session.step()
    assert "deciding what to remove (" in new(stream)
    session.finish(latency=False)
    assert "measuring" in new(stream)
    Session(net, torch.rand(1, 3, 8, 8), "magnitude", 0.6, steps=1)
    assert new(stream) == ""
    with pytest.raises(SettingError, match="progress must be true or false"):
        Session(net, torch.rand(1, 3, 8, 8), progress="yes")  # type: ignore[arg-type]


def new(stream: io.StringIO) -> str:
    """Return what was written since this was asked last."""
    text = stream.getvalue()
    stream.truncate(0)
    stream.seek(0)
    return text


class Narrow(io.TextIOWrapper):
    """A stream that knows ASCII alone."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)


def test_a_stream_that_lacks_a_sign_shows_another() -> None:
    narrow = Narrow()
    stream = Unfailing(narrow)
    assert stream.write("größer\n") == 7
    stream.write("and on\n")
    assert narrow.buffer.getvalue() == b"gr??er\nand on\n"
    assert stream.error is None


def test_a_stream_that_is_closed_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    with Listener() as tell:
        tell(Event("train", "epoch 1 of 2"))
        tell(Event("warning", "beware"))
