"""Refuse arguments of the wrong kind where a user calls, with one sentence and before any work.

A public function says in its annotations what it takes; ``checked`` reads them when it is first called. What a public
dataclass takes is checked when it is made (``secateur.typed.check_types``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

from secateur.errors import SettingError
from secateur.rules import Rule, judged
from secateur.spelling import said, setting
from secateur.typed import table_of

T = TypeVar("T", bound=Callable[..., Any])


def checked(public: T) -> T:
    """Let a function, or the public methods of a class, refuse arguments that are not of their types.

    What is of another type but says the same, as numbers of numpy, arrives as a value of the type itself. Parameters
    whose annotation does not narrow them, or names what only type checkers import, take anything; ``Annotated`` with a
    ``Rule`` narrows them further. Calls without the right names or number of arguments are Python's to refuse.

    Raises:
        SettingError: by what is returned: names the argument, what it must be, and whose it is.
    """
    if not isinstance(public, type):
        return cast("T", _checked(public, public.__name__))
    for name, member in list(vars(public).items()):
        where = f"{public.__name__}.{name}"
        if name == "__init__" and not is_dataclass(public):  # those check what they are made of by themselves
            public.__init__ = _checked(public.__init__, public.__name__)
        if name.startswith("_"):
            continue
        if isinstance(member, staticmethod | classmethod):
            setattr(public, name, type(member)(_checked(member.__func__, where)))
        elif inspect.isfunction(member):
            setattr(public, name, _checked(member, where))
    return cast("T", public)


def _checked(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    rest = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        rules, positional = table_of(function), list(args)
        for number, value in enumerate(args):
            name = names[number] if number < len(names) else rest
            if name in rules:
                positional[number] = _taken(name, value, rules[name], where)
        for name, value in kwargs.items():
            if name in rules:
                kwargs[name] = _taken(name, value, rules[name], where)
        return function(*positional, **kwargs)

    return call


def _taken(name: str, value: Any, rule: Rule, where: str) -> Any:
    value, refusal = judged(value, rule)
    if refusal:
        argument = f"{name} {refusal}; correct this argument of {where}"
        raise SettingError(said(argument, f"{setting(name)} {refusal}; correct it"))
    return value
