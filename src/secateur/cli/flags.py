"""Flags from dataclasses: a setting's field, type and docstring are its flag, so no flag is written twice."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer

from secateur.errors import nearest
from secateur.typed import REPEATED, pair_of
from secateur.typed import hints as hints_of

LONG = 48  # letters of a flag and its choices, beyond which a narrow terminal has no room for them
SEVERAL = ",..."
_SCALARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True)
class Flag:
    """One command-line flag for one field of a dataclass.

    Attributes:
        owner: which settings it belongs to, for instance ``"recipe"``.
        field: name of the field.
        option: how it is written, such as ``"--batch-size"``.
        hint: type of the field, without None.
        help: what it does, one sentence.
        section: heading under which the help shows it.
        required: whether the command refuses to work without it.
    """

    owner: str
    field: str
    option: str
    hint: Any
    help: str
    section: str
    required: bool = False

    @property
    def key(self) -> str:
        """Return the name of the parameter, unique over all owners."""
        return f"{self.owner}__{self.field}"

    def parameter(self) -> inspect.Parameter:
        """Return the flag as a parameter that typer understands; its default None means that it was not given."""
        names, kind = (self.option,), str
        if self.hint is bool:
            names, kind = (f"{self.option}/--no-{self.option[2:]}",), bool
        elif get_origin(self.hint) in REPEATED or pair_of(self.hint):
            kind = list[str]
        shown, said = _metavar(self.hint), self.help
        if shown is not None and len(f"{self.option} {shown}") > LONG:
            choices = shown.removesuffix(SEVERAL)
            shown, said = shown.replace(choices, "NAME"), f"{said} Names: {choices.replace('|', ', ')}."
        option: Any = typer.Option(*names, help=said, metavar=shown, rich_help_panel=self.section, show_default=False)
        return inspect.Parameter(
            self.key,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if self.required else None,
            annotation=Annotated[kind if self.required else kind | None, option],
        )

    def value(self, raw: Any) -> Any:
        """Return what was written as a value of the field's type.

        Raises:
            typer.BadParameter: if it cannot be one; says what is wanted.
        """
        try:
            return raw if self.hint is bool else _convert(self.hint, raw)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=f"'{self.option}'") from None


def flags_of(
    kind: type,
    owner: str,
    section: str,
    *,
    names: Iterable[str] | None = None,
    taken: Iterable[str] = (),
    required: Iterable[str] = (),
) -> list[Flag]:
    """Return a flag for each field of a dataclass.

    Args:
        kind: the dataclass; its docstring's ``Attributes`` section, or a base class's, is the help.
        owner: see ``Flag``.
        section: see ``Flag``.
        names: which fields, in this order; all if None.
        taken: flags that others have; a field of that name gets ``--OWNER-NAME`` instead.
        required: fields that must be given.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    texts, hints, taken = documentation(kind), hints_of(kind), set(taken)
    flags: list[Flag] = []
    for name in fields if names is None else names:
        field, must = fields[name], name in required
        option = f"--{name.replace('_', '-')}"
        if option in taken:
            option = f"--{owner}-{option[2:]}"
        text = f"{_sentence(_for_the_terminal(texts.get(name, '')))} {_default(field)}".strip()
        flags.append(Flag(owner, name, option, _without_none(hints.get(name, str)), text, section, must))
    return flags


def documentation(kind: type) -> dict[str, str]:
    """Return what the ``Attributes`` sections of a class and its bases say about each field."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "")
        section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", text, flags=re.MULTILINE)
        entries = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)
        found |= {name: " ".join(body.split()) for name, body in zip(entries[1::2], entries[2::2], strict=True)}
    return {name: text.replace("``", "") for name, text in found.items()}


def _for_the_terminal(text: str) -> str:
    """Put a docstring in the words of the command line, where there is no None and no empty text to give."""
    return re.sub(r"; (?:None|empty) (for|where) ", r"; leave out \1 ", text)


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return the words that a type allows; none if it is not a choice."""
    hint = _without_none(hint)
    return tuple(str(choice) for choice in get_args(hint)) if get_origin(hint) is Literal else ()


def shown(value: object) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        return ",".join(f"{name}={shown(entry)}" for name, entry in pairs.items()) or "none"
    if isinstance(value, tuple | list):
        return ",".join(shown(entry) for entry in cast("Sequence[object]", value)) or "none"
    return "none" if value is None else str(value)


def _convert(hint: Any, raw: Any) -> Any:
    """Turn text, or a list of texts from a repeated flag, into a value; ValueError if it cannot be."""
    entry = pair_of(hint)
    if entry is not None:
        return [_pair(text, entry) for text in raw]
    if get_origin(hint) in REPEATED:
        inner = next((kind for kind in get_args(hint) if kind is not Ellipsis), str)
        words = [word.strip() for text in raw for word in text.split(",")]
        return tuple(_convert(inner, word) for word in words if word and word != "none")
    if choices := choices_of(hint):
        if raw not in choices:
            raise ValueError(f"'{raw}' is not one of {', '.join(choices)}{nearest(raw, choices)}.")
        return get_args(hint)[choices.index(raw)]
    if get_origin(hint) in (Union, types.UnionType):
        return _first(get_args(hint), raw)
    return _scalar(hint, raw)


def _scalar(hint: Any, raw: str) -> Any:
    if hint is str:
        return raw
    if hint in (int, float):
        try:
            return hint(raw)
        except ValueError:
            raise ValueError(f"'{raw}' is not a {'whole ' if hint is int else ''}number.") from None
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _first(hints: Sequence[Any], raw: str) -> Any:
    """Return the value in the first of several types that it fits."""
    for hint in sorted(hints, key=lambda hint: hint is str):
        try:
            return _convert(hint, raw)
        except ValueError:
            continue
    raise ValueError(f"'{raw}' is none of {', '.join(_metavar(hint) or 'TEXT' for hint in hints)}.")


def _pair(text: str, kind: Any) -> list[Any]:
    name, sign, value = text.rpartition("=")
    if not sign or not name:
        raise ValueError(f"'{text}' is not of the form {_metavar(dict[str, kind])}.")
    return [name, _convert(kind, value)]


def _metavar(hint: Any) -> str | None:
    if hint is bool:
        return None
    if choices := choices_of(hint):
        return "|".join(choices)
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join(_metavar(kind) or "VALUE" for kind in get_args(hint) if kind is not type(None))
    entry = pair_of(hint)
    if entry is not None:
        return f"PATTERN={_metavar(entry) or 'VALUE'}"
    if get_origin(hint) in REPEATED:
        return f"{_metavar(get_args(hint)[0]) or 'VALUE'}{SEVERAL}"
    return _SCALARS.get(hint, "VALUE")


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        left = [kind for kind in get_args(hint) if kind is not type(None)]
        return left[0] if len(left) == 1 else Union[tuple(left)]  # noqa: UP007  (the members are known at run time)
    return hint


def _default(field: dataclasses.Field[Any]) -> str:
    value: object = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value is None or value == "":
        return ""
    return f"[default: {shown(value)}]"


def _sentence(text: str) -> str:
    text = text.rstrip(".")
    return f"{text[:1].upper()}{text[1:]}." if text else ""
