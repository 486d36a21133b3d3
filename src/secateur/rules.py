"""What a setting may be: a check of its value, with the words that say what is wanted instead."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast, get_args

from secateur.errors import SettingError, nearest
from secateur.reading import Foreign, shown, written
from secateur.spelling import setting

LONGEST = 4096
"""Letters of a name or path."""

LARGEST = 2**53
"""Of numbers that nobody counts to; beyond it a float no longer tells one from the next."""

_OWN: Mapping[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
_IMAGE = re.compile(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}")
_HALF = re.compile(r"[\ud800-\udfff]")  # of a letter beyond 16 bits: no file can hold it
_NO_PATH = re.compile(r"[\0\ud800-\udfff]|[^/\\]{256}")  # what no name of a file has


@dataclass(frozen=True)
class Rule:
    """One thing that a value must be; values come from files and from callers, so they can be of any type.

    What asks on behalf of a user calls ``judged``, for an object may fail while it is looked at.

    Attributes:
        accepts: whether a value is it.
        wanted: what it must be, to follow the words "must be".
        names: the words that it, or each of its entries, may be, where there are few.
        most: the largest number that it may be, said only of one that is larger.
        remark: says what to write instead of a value that means something else; empty for others.
        plain: the same value in the type that the code takes, such as an int for a number of numpy; values that it
            knows nothing of as they are. ``accepts`` is asked about what it returns.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    names: tuple[str, ...] = ()
    most: float = math.inf
    remark: Callable[[Any], str] = lambda value: ""
    plain: Callable[[Any], Any] = lambda value: value

    def refusal(self, value: object) -> str:
        """Return what is wrong with a value that is not accepted, to follow its name."""
        entries = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
        strange = next((entry for entry in entries if isinstance(entry, str) and entry not in self.names), None)
        if self.names and strange is not None:
            value = strange
        elif isinstance(value, tuple):
            value = list(entries)  # as recipes write it
        near = nearest(value, self.names) if isinstance(value, str) and value not in self.names else ""
        bound = f" and at most {self.most}" if isinstance(value, int) and value > self.most else ""
        return f"must be {self.wanted}{bound}, not {written(value)}{near}{self.remark(value)}"


def judged(value: Any, rule: Rule) -> tuple[Any, str]:
    """Return a value in the type that the code takes, and what is wrong with it; nothing where it is accepted.

    An object may raise whatever it likes while it is looked at, such as a closed file that is to be a list; then that
    is what is wrong with it.
    """
    try:
        plain = rule.plain(value)
        return plain, "" if rule.accepts(plain) else rule.refusal(plain)
    except Exception as error:
        kind = type(value).__name__
        return value, f"must be {rule.wanted}, not a {kind} that cannot be looked at ({shown(error)})"


def scalar(value: Any) -> Any:
    """Return a single number, truth value or text of numpy, of an enumeration or of another class, as Python's own.

    A fraction is a number too. Other values are returned as they are, and so is the text of a file, which must not lose
    that it is one.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    for kind in (str, int, float):
        if isinstance(value, kind) and type(value) not in (kind, bool, Foreign):
            return _OWN[kind](value)
    if isinstance(value, Fraction):
        with suppress(OverflowError):
            return float(value)
    return value


FLAG = Rule(lambda value: isinstance(value, bool), "true or false", plain=scalar)


def whole(least: int, of: str = "", most: int = LARGEST) -> Rule:
    """Return the rule for whole numbers from ``least`` to ``most``; ``of`` is what they count."""
    far = most >= 2**31  # then few need to hear of it
    wanted = f"a whole number of {of}, at least {least}" if of else f"a whole number of at least {least}"
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        wanted if far else f"{wanted} and at most {most}",
        most=most if far else math.inf,
        plain=scalar,
    )


def number(accepts: Callable[[float], bool], wanted: str) -> Rule:
    """Return the rule for finite numbers that a function accepts."""
    return Rule(lambda value: _finite(value) and accepts(float(value)), wanted, plain=scalar)


def fraction(wanted: str) -> Rule:
    """Return the rule for fractions above 0 and up to 1 of a network."""

    def remark(value: object) -> str:
        if is_count(value):
            return "; set 'max_macs' or 'max_params' of a budget to limit a number of MACs or parameters"
        return f"; set {cast('float', value) / 100:g} for {value} %" if is_percentage(value) else ""

    return replace(number(lambda value: 0 < value <= 1, wanted), remark=remark)


def is_percentage(value: object) -> bool:
    """Tell whether a number that should be a fraction may be meant as percent."""
    return _finite(value) and 1 < cast("float", value) <= 100


def is_count(value: object) -> bool:
    """Tell whether a number that should be a fraction may be meant as a number of MACs or parameters."""
    return _finite(value) and cast("float", value) > 100


def text(wanted: str, least: int = 0) -> Rule:
    """Return the rule for texts of at least so many letters, no longer than ``LONGEST``."""
    return Rule(
        lambda value: isinstance(value, str) and least <= len(value) <= LONGEST and not _HALF.search(value),
        wanted,
        plain=scalar,
    )


def one_of(choices: Any, mark: str = "") -> Rule:
    """Return the rule for the values of a ``Literal``, shown between marks."""
    names = get_args(choices)
    return Rule(
        lambda value: any(type(value) is type(name) and value == name for name in names),
        "one of " + ", ".join(f"{mark}{name}{mark}" for name in names),
        tuple(str(name) for name in names),
        plain=scalar,
    )


def instance(kind: type, wanted: str) -> Rule:
    """Return the rule for objects of a class."""
    return Rule(lambda value: isinstance(value, kind), wanted)


def table(wanted: str) -> Rule:
    """Return the rule for tables, whatever is in them."""
    return Rule(lambda value: isinstance(value, dict), wanted, plain=lambda v: dict(v) if isinstance(v, Mapping) else v)


def each(rule: Rule, wanted: str) -> Rule:
    """Return the rule for tuples whose every entry obeys a rule."""

    def plain(value: Any) -> Any:
        return tuple(map(rule.plain, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else value

    return Rule(
        lambda value: isinstance(value, tuple) and all(map(rule.accepts, cast("tuple[Any, ...]", value))),
        wanted,
        rule.names,
        plain=plain,
    )


def different(rule: Rule) -> Rule:
    """Return a rule for tuples of values that can be hashed, with the further demand that none comes twice."""
    return replace(rule, accepts=lambda value: rule.accepts(value) and len(set(value)) == len(value))


def optional(rule: Rule) -> Rule:
    """Return a rule that also accepts None, which a file cannot hold and so no message offers."""
    return replace(rule, accepts=lambda value: value is None or rule.accepts(value))


ROUNDS = whole(1, most=10_000)
"""Steps of pruning and fine-tuning; each reads the network anew."""

SEED = whole(0, most=2**32 - 1)
"""Seed that a user gives: the range of numpy's and Lightning's; what is derived from it is below torch's 2**63."""

IMAGES = whole(1, "images", most=2**24)
"""Unlabelled images to look at: all are held in memory."""

SIDE = whole(1, "pixels", most=2**12)
"""Height and width of an image; one of this size already takes 200 MB in float32."""

IMAGE = Rule(
    lambda value: isinstance(value, str) and (not value or bool(_IMAGE.fullmatch(value))),
    'channels, height and width such as "3x32x32"',
    remark=lambda value: (
        f"; a size alone is given with {setting('image_size')}"
        if isinstance(value, str | int) and str(value).isdecimal()
        else ""
    ),
)
"""Shape of an image; empty where nothing is said."""

TEXT = Rule(lambda value: isinstance(value, str), "a text")
"""Text of any length, such as the content of a file."""

MEASURED = Rule(
    lambda value: isinstance(value, float) or (type(value) is int and value.bit_length() < 1000),
    "a number",
    plain=scalar,
)
"""What was measured or computed, which need not be finite."""

CLASSES = whole(1, most=2**16)
"""Labels of a data set, or scores of a classifier."""

WORKERS = optional(whole(0, most=1024))
"""Processes that read pictures; None for as many as the machine has cores, at most 8."""

THREADS = optional(whole(1, "threads", most=4096))
"""Threads of a CPU; None for as many as torch has. Far more than any machine has end in an overflow."""

MINUTES = optional(number(lambda value: value >= 0, "a number of minutes of at least 0"))
"""Time for the repair and for training; None for no limit."""

PATH = Rule(
    lambda value: isinstance(value, str | Path) and len(str(value)) <= LONGEST and not _NO_PATH.search(str(value)),
    "a path",
    plain=lambda value: Path(value) if isinstance(value, os.PathLike) and not isinstance(value, Path) else value,
)
"""Place of a file or folder, as a text or as a ``Path``."""

SECONDS = number(lambda value: 0 < value <= 86_400, "a number of seconds above 0 and up to a day")
"""Time for measuring."""

Seed: TypeAlias = Annotated[int, SEED]
AnySeed: TypeAlias = Annotated[int, whole(0)]  # of one pass, made of a user's
Rounds: TypeAlias = Annotated[int, ROUNDS]
Images: TypeAlias = Annotated[int, IMAGES]
Side: TypeAlias = Annotated[int, SIDE]
Workers: TypeAlias = Annotated[int | None, WORKERS]
Threads: TypeAlias = Annotated[int | None, THREADS]
Minutes: TypeAlias = Annotated[float | None, MINUTES]
Seconds: TypeAlias = Annotated[float, SECONDS]
Count: TypeAlias = Annotated[int, whole(1)]
Pixels: TypeAlias = Annotated[int, whole(0, "pixels", most=2**16)]
Positive: TypeAlias = Annotated[float, number(lambda value: value > 0, "a number above 0")]
Smoothing: TypeAlias = Annotated[float, number(lambda value: 0 <= value < 1, "a number in [0, 1)")]
Classes: TypeAlias = Annotated[int, CLASSES]
Channels: TypeAlias = Annotated[int, whole(1, most=2**16)]
Number: TypeAlias = Annotated[float, MEASURED]
Text: TypeAlias = Annotated[str, TEXT]


def broken(settings: object, table: Mapping[str, Rule]) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting that breaks its rule, and what is wrong with it; make the others plain.

    Args:
        settings: a dataclass, frozen or not.
        table: the rule of each of its settings.
    """
    for name, rule in table.items():
        given = getattr(settings, name)
        value, refusal = judged(given, rule)
        if value is not given:
            object.__setattr__(settings, name, value)
        if refusal:
            yield name, refusal


def refuse(*given: tuple[str, object, Rule]) -> None:
    """Refuse the first of some arguments (name, value, rule) that breaks its rule.

    Raises:
        SettingError: with its name, and what is wanted.
    """
    for name, value, rule in given:
        refusal = judged(value, rule)[1]
        if refusal:
            raise SettingError(f"{name} {refusal}")


def _finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False
