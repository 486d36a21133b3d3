"""What a setting may be: a check of its value, with the words that say what is wanted instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, get_args


@dataclass(frozen=True)
class Rule:
    """One thing that a value must be; values come from files, so they can be of any type.

    Attributes:
        accepts: whether a value is it; never raises.
        wanted: what it must be, to follow the words "must be".
    """

    accepts: Callable[[Any], bool]
    wanted: str


FLAG = Rule(lambda value: isinstance(value, bool), "true or false")


def whole(least: int, of: str = "") -> Rule:
    """Return the rule for whole numbers from ``least`` up; ``of`` is what they count."""
    wanted = f"a whole number of {of}, at least {least}" if of else f"a whole number of at least {least}"
    return Rule(lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least, wanted)


def number(accepts: Callable[[float], bool], wanted: str) -> Rule:
    """Return the rule for finite numbers that a function accepts."""
    return Rule(lambda value: _finite(value) and accepts(float(value)), wanted)


def text(wanted: str, least: int = 0) -> Rule:
    """Return the rule for texts of at least so many letters."""
    return Rule(lambda value: isinstance(value, str) and len(value) >= least, wanted)


def one_of(choices: Any, mark: str = "") -> Rule:
    """Return the rule for the values of a ``Literal``, shown between marks."""
    names = get_args(choices)
    return Rule(
        lambda value: isinstance(value, str) and value in names,
        "one of " + ", ".join(f"{mark}{name}{mark}" for name in names),
    )


def a(kind: type, wanted: str) -> Rule:
    """Return the rule for objects of a class."""
    return Rule(lambda value: isinstance(value, kind), wanted)


def each(rule: Rule, wanted: str) -> Rule:
    """Return the rule for tuples whose every entry obeys a rule."""
    return Rule(
        lambda value: isinstance(value, tuple) and all(map(rule.accepts, cast("tuple[Any, ...]", value))), wanted
    )


def different(rule: Rule) -> Rule:
    """Return a rule for tuples of values that can be hashed, with the further demand that none comes twice."""
    return Rule(lambda value: rule.accepts(value) and len(set(value)) == len(value), rule.wanted)


def optional(rule: Rule) -> Rule:
    """Return a rule that also accepts None, which a file cannot hold and so no message offers."""
    return Rule(lambda value: value is None or rule.accepts(value), rule.wanted)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False
