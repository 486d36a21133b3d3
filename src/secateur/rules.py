"""What a setting may be: a check of its value, with the words that say what is wanted instead."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from secateur.errors import SettingError, nearest
from secateur.reading import written

REPEATED = (tuple, list, Sequence)
LONGEST = 4096
"""Letters of a name or path."""

LARGEST = 2**53
"""Of numbers that nobody counts to; beyond it a float no longer tells one from the next."""

_IMAGE = re.compile(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}")
_HALF = re.compile(r"[\ud800-\udfff]")  # of a letter beyond 16 bits: no file can hold it


@dataclass(frozen=True)
class Rule:
    """One thing that a value must be; values come from files, so they can be of any type.

    Attributes:
        accepts: whether a value is it; never raises.
        wanted: what it must be, to follow the words "must be".
        names: the words that it, or each of its entries, may be, where there are few.
        most: the largest number that it may be, said only of one that is larger.
        remark: says what to write instead of a value that means something else; empty for others.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    names: tuple[str, ...] = ()
    most: float = math.inf
    remark: Callable[[Any], str] = lambda value: ""

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


FLAG = Rule(lambda value: isinstance(value, bool), "true or false")


def whole(least: int, of: str = "", most: int = LARGEST) -> Rule:
    """Return the rule for whole numbers from ``least`` to ``most``; ``of`` is what they count."""
    far = most >= 2**31  # then few need to hear of it
    wanted = f"a whole number of {of}, at least {least}" if of else f"a whole number of at least {least}"
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        wanted if far else f"{wanted} and at most {most}",
        most=most if far else math.inf,
    )


def number(accepts: Callable[[float], bool], wanted: str) -> Rule:
    """Return the rule for finite numbers that a function accepts."""
    return Rule(lambda value: _finite(value) and accepts(float(value)), wanted)


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
        lambda value: isinstance(value, str) and least <= len(value) <= LONGEST and not _HALF.search(value), wanted
    )


def one_of(choices: Any, mark: str = "") -> Rule:
    """Return the rule for the values of a ``Literal``, shown between marks."""
    names = get_args(choices)
    return Rule(
        lambda value: any(type(value) is type(name) and value == name for name in names),
        "one of " + ", ".join(f"{mark}{name}{mark}" for name in names),
        tuple(str(name) for name in names),
    )


def instance(kind: type, wanted: str) -> Rule:
    """Return the rule for objects of a class."""
    return Rule(lambda value: isinstance(value, kind), wanted)


def each(rule: Rule, wanted: str) -> Rule:
    """Return the rule for tuples whose every entry obeys a rule."""
    return Rule(
        lambda value: isinstance(value, tuple) and all(map(rule.accepts, cast("tuple[Any, ...]", value))),
        wanted,
        rule.names,
    )


def different(rule: Rule) -> Rule:
    """Return a rule for tuples of values that can be hashed, with the further demand that none comes twice."""
    return Rule(lambda value: rule.accepts(value) and len(set(value)) == len(value), rule.wanted, rule.names)


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
)
"""Shape of an image; empty where nothing is said."""


WORKERS = optional(whole(0, most=1024))
"""Processes that read pictures; None for as many as the machine has cores, at most 8."""


THREADS = optional(whole(1, "threads", most=4096))
"""Threads of a CPU; None for as many as torch has. Far more than any machine has end in an overflow."""


MINUTES = optional(number(lambda value: value >= 0, "a number of minutes of at least 0"))
"""Time for the repair and for training; None for no limit."""


def broken(settings: object, table: Mapping[str, Rule]) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting that breaks its rule, and what is wrong with it."""
    for name, rule in table.items():
        value = getattr(settings, name)
        if not rule.accepts(value):
            yield name, rule.refusal(value)


def refuse(*given: tuple[str, object, Rule]) -> None:
    """Refuse the first of some arguments (name, value, rule) that breaks its rule.

    Raises:
        SettingError: with its name, and what is wanted.
    """
    for name, value, rule in given:
        if not rule.accepts(value):
            raise SettingError(f"{name} {rule.refusal(value)}")


def hints(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass, ``object`` for all where one of them cannot be found out."""
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):  # a type that only the checker imports
        return {field.name: object for field in dataclasses.fields(kind)}


def pair_of(hint: Any) -> Any:
    """Return V for mappings from text to V and for sequences of such pairs, else None."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (dict, Mapping) and len(args) == 2:
        return args[1]
    if origin in REPEATED:
        pair = get_args(args[0])
        if get_origin(args[0]) is tuple and len(pair) == 2 and pair[0] is str and pair[1] is not Ellipsis:
            return pair[1]
    return None


def of_type(hint: Any) -> Rule:
    """Return the rule for the values of a type; one that accepts everything for types that no setting has.

    A sequence may be a list or a tuple, one of texts also a single text, and one of pairs also a mapping.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Literal:
        return one_of(hint)
    if origin in (Union, types.UnionType):
        rules = [of_type(arg) for arg in args if arg is not type(None)]
        some = Rule(
            lambda value: any(rule.accepts(value) for rule in rules), " or ".join(rule.wanted for rule in rules)
        )
        return optional(some) if type(None) in args else some
    if (kind := pair_of(hint)) is not None:
        value_rule = of_type(kind)
        return Rule(
            lambda value: _are_pairs(value, value_rule),
            f"a list of pairs of a text and {value_rule.wanted}, or a table",
        )
    if origin in REPEATED and (len(args) == 1 or args[1:] == (Ellipsis,)):
        entry = of_type(args[0])
        return Rule(
            lambda value: (
                (args[0] is str and isinstance(value, str))
                or (isinstance(value, list | tuple) and all(map(entry.accepts, cast("Sequence[Any]", value))))
            ),
            f"a list, each entry {entry.wanted}",
        )
    return Rule(lambda value: True, "anything")


def check_types(settings: Any) -> None:
    """Compare every field of a dataclass with its type, since what a file says can be of any.

    Raises:
        SettingError: if one does not fit; names it, and says what is wanted.
    """
    kind: type = type(settings)
    known = hints(kind)
    table = {field.name: of_type(known.get(field.name, object)) for field in dataclasses.fields(settings)}
    for name, refusal in broken(settings, table):
        raise SettingError(f"'{name}' {refusal}; correct this setting of {kind.__name__}")


def _are_pairs(value: object, rule: Rule) -> bool:
    pairs = list(cast("Mapping[Any, Any]", value).items()) if isinstance(value, Mapping) else value
    return isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) and rule.accepts(pair[1])
        for pair in cast("list[Any]", pairs)
    )


_PLAIN: dict[Any, Rule] = {
    bool: FLAG,
    int: Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST,
        "a whole number",
        most=LARGEST,
    ),
    float: number(lambda value: True, "a finite number"),
    str: text("a text"),
}


def _finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False
