"""Commands whose flags are known only when they are called, and help texts that fit a narrow terminal."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
import typer.core

from secateur.cli.flags import Flag
from secateur.cli.output import reserved

GENERAL = "Options"
_LONGEST_WORD = 26  # letters, with quotes and comma, such as "segmentation?ignore=11"
_LEAST = 8  # columns for names, however narrow the terminal is


@dataclass(frozen=True)
class Given:
    """What the user set, by the owner of the flag; what was not given is left out."""

    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def of(self, owner: str) -> dict[str, Any]:
        """Return the values of one owner's fields."""
        return dict(self.values.get(owner, {}))


class Sectioned(typer.core.TyperCommand):
    """A command whose options stand under headings."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line says after the command's name."""
        arguments = [it for it in self.get_params(ctx) if it.param_type_name == "argument"]
        return ["[OPTIONS]", *(_argument(it) if it.required else f"[{_argument(it)}]" for it in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and then the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "rich_help_panel", None)
                if parameter.param_type_name == "argument":
                    heading, record = heading or "Arguments", (_argument(parameter), record[1])
                sections.setdefault(heading or GENERAL, []).append(record)
        for heading, records in sorted(sections.items(), key=lambda item: item[0] == GENERAL):
            write_section(formatter, heading, records)


def write_section(formatter: Any, heading: str, records: Sequence[tuple[str, str]]) -> None:
    """Write names and their texts under a heading, no word of them split.

    Args:
        formatter: of click, which would leave texts a column too narrow for their words beside long names.
        heading: of the section.
        records: a name and a text each.
    """
    gaps = 3 * formatter.indent_increment
    with formatter.section(textwrap.fill(heading, formatter.width - 1)):
        formatter.write_dl(records, col_max=max(min(30, formatter.width - gaps - _LONGEST_WORD), _LEAST))


def add(
    app: typer.Typer,
    name: str,
    function: Callable[..., None],
    flags: Callable[[Sequence[str]], Iterable[Flag]] | None = None,
    *,
    example: str = "",
) -> None:
    """Add a command to a program.

    Args:
        app: the program.
        name: of the command.
        function: what it does; its docstring is the help. With ``flags`` its first argument is ``Given``.
        flags: returns the flags of the command from what follows its name on the command line. It is called
            when the command is, so it may import what is slow.
        example: a command line to end the help with.
    """
    text = inspect.getdoc(function) or ""
    if example:
        text += f"\n\n\b\nFor example:\n  {example}"  # \b keeps the lines as they are
    if flags is None:
        app.command(name, cls=Sectioned, help=text)(reserved(function))
        return

    class Late(typer.core.TyperCommand):
        def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
            try:
                found = list(flags(args))
            except typer.BadParameter as error:
                error.ctx = error.ctx or parent  # or no usage would be shown
                raise
            command: Any = _built(name, text, function, found)
            return command.make_context(info_name, args, parent, **extra)

    app.command(name, cls=Late, help=text)(_nothing)


def _built(name: str, text: str, function: Callable[..., None], flags: list[Flag]) -> Any:
    """Return the command with its flags, as typer makes it from a function's signature."""

    def call(**values: Any) -> None:
        given: dict[str, dict[str, Any]] = {}
        for flag in flags:
            raw = values.pop(flag.key)
            if raw is not None:
                given.setdefault(flag.owner, {})[flag.field] = flag.value(raw)
        reserved(function)(Given(given), **values)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [
        *(parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY),
        *(flag.parameter() for flag in flags),
        *(parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY),
    ]
    setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010  (functions declare no such attribute)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=Sectioned, help=text)(call)
    return typer.main.get_command(single)


def _argument(parameter: Any) -> str:
    """Return the name of an argument, the same for all versions of typer."""
    return str(parameter.metavar or parameter.name).strip("[]").upper()


def _nothing() -> None:
    """Stand in for a command until its flags are known."""
