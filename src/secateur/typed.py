"""What the type of a setting or of an argument asks of its value: rules that are made of annotations."""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from secateur import rules
from secateur.errors import SettingError
from secateur.rules import Rule

REPEATED = (tuple, list, Sequence)
ANYTHING = Rule(lambda value: True, "anything")
"""The rule of types that cannot be looked at."""

_TEXTS = (str, bytes, bytearray, memoryview)
_WORDS = {  # of classes that are better known by other names, or that somebody has to make first
    "torch.nn.modules.module.Module": "a network (torch.nn.Module)",
    "torch.Tensor": "a tensor",
    "torch.optim.optimizer.Optimizer": "an optimizer of torch",
    "numpy.ndarray": "an array",
    "secateur.core.method.Method": "a method such as Magnitude(norm='l2')",
    "secateur.core.task.Task": "a task such as secateur.tasks.Regression() (secateur.tasks.read_task takes a name)",
    "secateur.training.settings.Settings": "Settings of a training",
    "secateur.core.graph.graph.Graph": "a Graph, which secateur.trace returns",
    "secateur.data.dataset.Data": "a data set, which secateur.load_data returns",
    "secateur.outcome.outcome.Outcome": "a Result, which secateur.prune returns",
}


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


class _Known(dict[str, Any]):
    """The names of a module, with ``Any`` for those that only type checkers import."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return Any


@functools.cache
def table_of(annotated: Any) -> Mapping[str, Rule]:
    """Return the rule of each field of a dataclass, or of each parameter of a function, whose type can be looked at."""
    inner = annotated if isinstance(annotated, type) else inspect.unwrap(annotated)
    known = _Known()
    for kind in reversed(inspect.getmro(inner)) if isinstance(inner, type) else [inner]:
        known |= vars(sys.modules[kind.__module__])
    try:
        found = get_type_hints(inner, localns=known, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}
    if isinstance(annotated, type):
        found = {field.name: found[field.name] for field in dataclasses.fields(annotated) if field.init}
    return {name: rule for name, hint in found.items() if name != "return" and (rule := of_type(hint)) is not ANYTHING}


def of_type(hint: Any) -> Rule:
    """Return the rule for the values of a type; one that accepts everything for types that cannot be looked at.

    A sequence may be anything that can be read once more, one of texts also a single text, and one of pairs also a
    mapping. A rule that an ``Annotated`` type carries stands for the type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Annotated:
        return next((rule for rule in args[1:] if isinstance(rule, Rule)), of_type(args[0]))
    if origin is Literal:
        return rules.one_of(hint)
    if origin in (Union, types.UnionType):
        path = (rules.PATH,) if Path in args and str in args else ()
        others = [arg for arg in args if arg is not type(None) and not (path and arg in (str, Path))]
        return _any_of([*path, *map(of_type, others)], type(None) in args)
    if origin in (dict, Mapping) and args:
        return _table(of_type(args[0]), of_type(args[1]))
    if origin in REPEATED and args:
        fixed = origin is tuple and args[1:] != (Ellipsis,)
        return _parts([of_type(arg) for arg in args]) if fixed else _sequence(hint, args[0])
    if origin is Callable:  # a class makes something, and what returns nothing is wanted for what it does
        does = args[-1] in (None, type(None))
        return Rule(lambda value: callable(value) and not (does and isinstance(value, type)), "a function")
    if origin is Iterable and get_origin(args[0]) is tuple:  # an array is one thing and no pairs
        return _any_iterable(lambda value: not hasattr(value, "shape"))
    return _of_class(origin or hint)


def check_types(settings: Any) -> None:
    """Compare every field of a dataclass with its type, since what a file says can be of any.

    Raises:
        SettingError: if one does not fit; names it, and says what is wanted.
    """
    kind: type = type(settings)
    for name, refusal in rules.broken(settings, table_of(kind)):
        raise SettingError(f"'{name}' {refusal}; correct this setting of {kind.__name__}")


def _any_of(choices: Sequence[Rule], nothing: bool) -> Rule:
    if ANYTHING in choices:
        return ANYTHING
    some = Rule(
        lambda value: any(rule.accepts(value) for rule in choices),
        " or ".join(dict.fromkeys(rule.wanted for rule in choices)),
        tuple(name for rule in choices for name in rule.names),
        plain=lambda value: next((new for rule in choices if rule.accepts(new := rule.plain(value))), value),
    )
    return rules.optional(some) if nothing else some


def _table(key: Rule, entry: Rule) -> Rule:
    def accepts(value: object) -> bool:
        pairs = _pairs(value)
        return pairs is not None and all(key.accepts(name) and entry.accepts(each) for name, each in pairs)

    def plain(value: object) -> object:
        pairs = _pairs(value)
        if pairs is None or not all(isinstance(name, str) for name, _ in pairs):
            return value
        found = [(key.plain(name), entry.plain(each)) for name, each in pairs]
        same = all(one is name and new is each for (one, new), (name, each) in zip(found, pairs, strict=True))
        return value if same and type(value) is dict else dict(found)

    return Rule(accepts, f"a table, each value {entry.wanted}", plain=plain)


def _sequence(hint: Any, kind: Any) -> Rule:
    """Return the rule for sequences of any length."""
    entry, value_of, later = of_type(kind), pair_of(hint), get_origin(kind) is Annotated
    wanted = f"a list, each entry {entry.wanted}"
    if value_of is not None:
        wanted = f"a list of pairs of a text and {of_type(value_of).wanted}, or a table"

    def numbers(entries: Sequence[Any]) -> bool:
        return kind is int and set(map(type, entries)) == {int}

    def accepts(value: object) -> bool:
        if kind is str and isinstance(value, str):
            return entry.accepts(value)
        if isinstance(value, list | tuple):
            entries = cast("Sequence[Any]", value)
            if numbers(entries):  # long where they number units, and then their ends say enough
                return entry.accepts(min(entries)) and entry.accepts(max(entries))
            return entry is ANYTHING or all(map(entry.accepts, entries))
        return (entry is ANYTHING or later) and isinstance(value, Sequence) and not isinstance(value, _TEXTS)

    def plain(value: object) -> object:
        if kind is str and isinstance(value, str):
            return entry.plain(value)
        if value_of is not None and isinstance(value, Mapping):
            value = tuple(cast("Mapping[object, object]", value).items())
        entries = value if type(value) in (list, tuple) or entry is ANYTHING else _gathered(value, kind)
        if not isinstance(entries, list | tuple) or entry is ANYTHING:
            return value
        if numbers(cast("Sequence[object]", entries)):
            return entries
        found = [entry.plain(each) for each in cast("Sequence[object]", entries)]
        same = all(one is other for one, other in zip(found, cast("Sequence[object]", entries), strict=True))
        return entries if same else tuple(found)

    return Rule(accepts, wanted, entry.names, plain=plain)


def _parts(entries: Sequence[Rule]) -> Rule:
    """Return the rule for tuples of so many entries, which a file writes as lists."""

    def accepts(value: object) -> bool:
        found = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
        return (
            isinstance(value, list | tuple)
            and len(found) == len(entries)
            and all(rule.accepts(each) for rule, each in zip(entries, found, strict=True))
        )

    def plain(value: object) -> object:
        found = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
        if not isinstance(value, list | tuple) or len(found) != len(entries):
            return value
        new = tuple(rule.plain(each) for rule, each in zip(entries, found, strict=True))
        return value if all(one is other for one, other in zip(new, found, strict=True)) else new

    wanted = " and ".join(rule.wanted for rule in entries)
    return Rule(accepts, f"a pair of {wanted}" if len(entries) == 2 else f"a tuple of {wanted}", plain=plain)


def _gathered(value: object, kind: Any) -> object:
    """Return the entries of a set, view, generator, range or array in a tuple; other values, and what fails, as is."""
    later = isinstance(value, Sequence) and get_origin(kind) is Annotated  # read when somebody looks
    if later or isinstance(value, (Mapping, *_TEXTS)) or not isinstance(value, Iterable):
        return value
    try:
        numbers = cast("Any", value).tolist() if kind in (int, float) and hasattr(value, "tolist") else value
        return tuple(cast("Iterable[object]", numbers))
    except TypeError:  # arrays of no dimension
        return value


def _pairs(value: object) -> Sequence[tuple[object, object]] | None:
    """Return the entries of a table, or of a list of pairs that stands for one; None for anything else."""
    if isinstance(value, Mapping):
        return list(cast("Mapping[object, object]", value).items())
    pairs = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
    whole = isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(cast("Sequence[object]", pair)) == 2 for pair in pairs
    )
    return [(pair[0], pair[1]) for pair in cast("Sequence[Sequence[object]]", pairs)] if whole else None


def _any_iterable(fits: Callable[[object], bool]) -> Rule:
    return Rule(
        lambda value: (
            not isinstance(value, _TEXTS)
            and (isinstance(value, Iterable) or _is_indexed(type(cast("object", value))))
            and fits(value)
        ),
        "something to iterate over",
    )


def _is_indexed(kind: type) -> bool:
    """Tell whether objects of a class can be iterated over in the old way; of an enumeration only the class can."""
    return any("__getitem__" in vars(base) for base in kind.__mro__)


def _of_class(kind: Any) -> Rule:
    if kind is Iterable:
        return _any_iterable(lambda value: getattr(value, "shape", None) != ())
    if not isinstance(kind, type) or kind in (object, Any) or getattr(kind, "_is_protocol", False):
        return ANYTHING
    name = f"{kind.__module__}.{kind.__qualname__}"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    return rules.instance(kind, _WORDS.get(name, f"{article} {kind.__name__}"))


_PLAIN: dict[Any, Rule] = {
    bool: rules.FLAG,
    int: replace(rules.whole(-rules.LARGEST), wanted="a whole number"),
    float: rules.number(lambda value: True, "a finite number"),
    str: rules.text("a text"),
    Path: replace(rules.PATH, plain=lambda value: Path(value) if isinstance(value, str | os.PathLike) else value),
}
