from __future__ import annotations

import pytest

from secateur.cli.progress import Listener
from secateur.events import Event

NEWS = (
    Event("trace", "reading the network"),
    Event("measure", "measuring the dense network"),
    Event("measure", "testing the accuracy", 1, 2),
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
