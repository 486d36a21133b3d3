"""The pruning methods: one file each, found by its name.

A file ``filter_std.py`` holds one method class ``FilterStd``; its module docstring is the method's card. Other
packages add theirs through the entry point group ``secateur.methods``, and test them with ``secateur.check_method``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from secateur.arguments import checked
from secateur.core.method import Method
from secateur.errors import SettingError, nearest, reason_of

__all__ = ["ENTRY_POINTS", "METHODS", "card", "default", "find", "make", "methods", "name_of"]

ENTRY_POINTS = "secateur.methods"

if TYPE_CHECKING:
    METHODS: Mapping[str, type[Method]]  # made when it is first asked for


@cache
def methods() -> Mapping[str, type[Method]]:
    """Return every method by name, those of other packages included.

    A method of another package that cannot be loaded, or that has a name already taken, is left out with a warning.
    """
    found: dict[str, type[Method]] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if not module.name.startswith("_"):
            found[module.name] = _method_in(f"{__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        problem = "the name is taken by another method" if entry.name in found else ""
        try:
            kind: object = None if problem else entry.load()
        except Exception as error:  # whatever is wrong with one package, the others must work
            kind, problem = None, reason_of(error)
        if isinstance(kind, type) and issubclass(kind, Method):
            found[entry.name] = kind
        else:
            problem = problem or "it is no subclass of secateur.Method"
            warnings.warn(f"the method '{entry.name}' ({entry.value}) is left out: {problem}", stacklevel=2)
    return found


if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt name for one that is there

    def __getattr__(name: str) -> Mapping[str, type[Method]]:
        if name == "METHODS":  # a constant in all but the moment at which it is filled
            return methods()
        point_to_class(name, __name__)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def point_to_class(name: str, asked: str) -> None:
    """Refuse the class of a method where it is not.

    Args:
        name: what was asked for; nothing is said of what is no method's class.
        asked: the module in which it was looked for.

    Raises:
        ImportError: says where the class is; an ``AttributeError`` would be told without its sentence by ``import``.
    """
    for method, kind in methods().items() if name[:1].isupper() else ():
        if kind.__name__ == name:
            home = f"{kind.__module__}.{name}"
            raise ImportError(f"{asked} has no '{name}'; it is {home}, or method=\"{method}\"", name=asked)


@checked
def find(name: str) -> type[Method]:
    """Return the method of this name.

    Raises:
        SettingError: if there is none; names the nearest.
    """
    known = methods()
    if name not in known:
        raise SettingError(f"unknown method '{name}'{nearest(name, known)}; `secateur methods` lists them")
    return known[name]


@checked
def default(*, images: bool) -> str:
    """Return the name of the method that is taken where none is named.

    Args:
        images: whether there are images, labelled or not, to choose and repair by.
    """
    return "reconstruction" if images else "magnitude"


@checked
def make(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Return the method of this name with these settings.

    Raises:
        SettingError: if the method or one of the settings is unknown, or a value is out of range.
    """
    kind = find(name)
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options or {}:
        if option not in known:
            raise SettingError(f"{name} has no setting '{option}'{nearest(option, known)}; it has {', '.join(known)}")
    return kind(**(options or {}))


@checked
def name_of(method: Method | type[Method]) -> str:
    """Return the name under which a method is known, or its class name if it is not registered."""
    kind = method if isinstance(method, type) else type(method)
    return next((name for name, known in methods().items() if known is kind), kind.__name__)


@checked
def card(method: type[Method]) -> str:
    """Return the method's card: the docstring of its file."""
    return inspect.getdoc(inspect.getmodule(method)) or inspect.getdoc(method) or ""


def _method_in(module_name: str) -> type[Method]:
    module = importlib.import_module(module_name)
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module_name and issubclass(kind, Method) and not inspect.isabstract(kind)
    ]
    if len(kinds) != 1:
        raise ImportError(f"{module_name} must hold exactly one method, found {len(kinds)}")
    return kinds[0]
