"""``methods`` and ``show``: which methods there are, and everything about one of them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_type_hints

import typer

from secateur.cli.flags import choices_of, documentation, shown
from secateur.cli.output import ours
from secateur.cli.selection import AsJson
from secateur.cli.tables import say, say_json, table


def methods(as_json: AsJson = False) -> None:
    """List the pruning methods."""
    from secateur.methods import methods as registry

    found = [(name, _first_line(kind), kind.paper) for name, kind in registry().items()]
    if as_json:
        rows = [{"name": name, "text": text, **dataclasses.asdict(paper)} for name, text, paper in found]
        say_json({"methods": rows})
        return
    rows = [(name, text, paper.title, str(paper.year)) for name, text, paper in found]
    say(table(("Method", "What it does", "Paper", "Year"), rows, numbers=(3,)))
    say("", "`secateur show METHOD` tells more about one of them.")


def show(
    method: Annotated[str, typer.Argument(help="Name of the method.", show_default=False, metavar="METHOD")],
    as_json: AsJson = False,
) -> None:
    """Explain a method: its idea, rule, cost, settings and paper."""
    from secateur.methods import card, find
    from secateur.report.page import sections

    kind = find(method)
    head, parts = sections(card(kind))
    settings = _settings(kind)
    if as_json:
        paper = {**dataclasses.asdict(kind.paper), "citation": kind.paper.cite(), "bibtex": kind.paper.bibtex()}
        say_json({"name": method, "text": head, "card": dict(parts), "settings": settings, "paper": paper})
        return
    say(f"{method}: {head}", "", table(("", ""), [(name, text.replace("``", "")) for name, text in parts]), "")
    rows = [(f"{s['name']} = {s['default']}", s["text"] + _choices(s["choices"])) for s in settings]
    if rows:
        say(table(("Setting", "Meaning"), rows), "")
    say(kind.paper.cite(), "")
    print(kind.paper.bibtex(), file=ours())  # to be copied, so its lines stay whole


def _settings(kind: Any) -> list[dict[str, Any]]:
    texts, hints = documentation(kind), get_type_hints(kind)
    return [
        {
            "name": field.name,
            "default": "" if field.default is dataclasses.MISSING else shown(field.default),
            "choices": list(choices_of(hints.get(field.name))),
            "text": texts.get(field.name, ""),
        }
        for field in dataclasses.fields(kind)
    ]


def _choices(choices: list[str]) -> str:
    return f" [{' | '.join(choices)}]" if choices else ""


def _first_line(kind: Any) -> str:
    from secateur.methods import card

    return card(kind).partition("\n")[0]
