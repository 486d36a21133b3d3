from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import get_args

import pytest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur import methods
from secateur.core.selection.sensitivity_curves import Allocate
from secateur.errors import first_line, nearest, reason_of, visible
from secateur.methods.reconstruction import Shares
from secateur.recipe_rules import REPAIRS

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


@pytest.mark.parametrize("wrong", ["fit", "reconstruct", "reconstruction"])
@pytest.mark.parametrize(
    ("known", "right"),
    [
        (REPAIRS, "reconstruct"),
        (methods.methods(), "reconstruction"),
        (get_args(Allocate), "reconstruction"),
        (get_args(Shares), "errors"),
    ],
)
def test_what_has_another_name_in_each_place_is_answered_with_that_of_the_place(
    wrong: str, known: Iterable[str], right: str
) -> None:
    assert nearest(wrong, known) == f" (did you mean '{right}'?)"


class Corrupt(Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        raise FileNotFoundError(errno.ENOENT, "it is gone", "file 9")


def test_what_a_reading_process_says_is_what_was_raised_there() -> None:
    found = list[str]()
    for workers in (0, 1):
        with pytest.raises(Exception, match="it is gone") as caught:
            next(iter(DataLoader(Corrupt(), num_workers=workers)))
        found.append(reason_of(caught.value))
    assert found == ["FileNotFoundError: [Errno 2] it is gone: 'file 9'"] * 2


def test_reasons_of_errors_that_say_nothing_or_much() -> None:
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one"
    carried = 'X.\nOriginal Traceback (most recent call last):\n  File "a.py", line 3\n    f()\n    ^^^\nlib.of.Wrong\n'
    assert reason_of(RuntimeError(carried)) == "Wrong"
    assert reason_of(RuntimeError("Original Traceback (most recent call last):")).startswith("RuntimeError: Original")
