from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from secateur.cli.flags import Flag, flags_of, shown


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        share: how much of ``all``, in
            (0, 1].
    """

    share: float = 0.25


@dataclass(frozen=True)
class Example(Base):
    """Settings of all kinds.

    Attributes:
        name: what it is called; None for nothing.
        count: how many.
        fast: whether to hurry.
        kind: which.
        sizes: some numbers.
        rates: rates by layer.
        either: a number or a word.
    """

    name: str | None = None
    count: int = 3
    fast: bool = True
    kind: Literal["one", "two"] = "one"
    sizes: tuple[int, ...] = (1, 2)
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    either: int | str = 1


def flag(name: str) -> Flag:
    return next(found for found in flags_of(Example, "own", "Own") if found.field == name)


@given(st.integers(), st.floats(-1e3, 1e3, width=16), st.sampled_from(["one", "two"]), st.lists(st.integers(0, 99)))
def test_what_is_shown_is_read_back(count: int, share: float, kind: str, sizes: list[int]):
    assert flag("count").value(shown(count)) == count
    assert flag("share").value(shown(share)) == pytest.approx(share, rel=1e-5)
    assert flag("kind").value(shown(kind)) == kind
    assert flag("sizes").value([shown(tuple(sizes))]) == tuple(sizes)


@given(st.dictionaries(st.from_regex(r"[a-z.*]{1,8}", fullmatch=True), st.integers(1, 99).map(lambda n: n / 100)))
def test_pairs_are_read_one_by_one(rates: dict[str, float]):
    assert flag("rates").value([f"{name}={rate}" for name, rate in rates.items()]) == [list(p) for p in rates.items()]


def test_a_pair_is_split_at_its_last_sign():
    assert flag("rates").value(["a=b=0.5"]) == [["a=b", 0.5]]


@pytest.mark.parametrize(("raw", "value"), [("3", 3), ("three", "three")])
def test_the_first_type_that_fits_is_taken(raw: str, value: object):
    assert flag("either").value(raw) == value


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("count", "1.5", "'1.5' is not a whole number"),
        ("share", "half", "'half' is not a number"),
        ("kind", "tow", "did you mean 'two'?"),
        ("sizes", ["1,x"], "'x' is not a whole number"),
        ("rates", ["conv"], "'conv' is not of the form PATTERN=NUMBER"),
        ("rates", ["=1"], "not of the form"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(name: str, raw: Any, words: str):
    with pytest.raises(typer.BadParameter, match=f".*{words.replace('?', '[?]')}.*"):
        flag(name).value(raw)


def test_help_comes_from_the_docstrings_of_the_class_and_its_base():
    assert flag("share").help == "How much of all, in (0, 1]. [default: 0.25]"
    assert flag("name").help == "What it is called; leave out for nothing."
    assert flag("fast").help == "Whether to hurry. [default: on]"
    assert flag("sizes").help == "Some numbers. [default: 1,2]"


def test_a_name_that_is_taken_gets_its_owner_in_front():
    names = {found.field: found.option for found in flags_of(Example, "own", "Own", taken=["--count"])}
    assert names["count"] == "--own-count"
    assert names["kind"] == "--kind"
