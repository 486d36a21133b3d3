from __future__ import annotations

import pytest

from secateur.errors import first_line, visible

RED = "\x1b[31merror\x1b[0m"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (RED, "error"),
        ("\x1b[1;38;5;196mdeep\x1b[22m \x1b[2Kline", "deep line"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07text", "text"),
        ("bell\x07 and back\x08", "bell and back"),
        ("cut off \x1b", "cut off "),
        ("täglich 5 %\tzwei\nlines", "täglich 5 %\tzwei\nlines"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_the_first_line_that_says_something_is_quoted() -> None:
    assert first_line(RuntimeError(f"\x1b[96m\n\n  {RED} here \nmore")) == "error here"
    assert first_line(RuntimeError(f"first\n{RED} last\n\n"), last=True) == "error last"
    assert first_line(RuntimeError()) == first_line(RuntimeError("\x1b[0m\n")) == "RuntimeError"
    assert first_line(ValueError("x" * 1000)) == "x" * 300 + "..."
