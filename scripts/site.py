"""Pages of the documentation that are made from the code: one for each method, and lists of methods and decisions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from secateur.methods import METHODS, card
from secateur.report.page import sections

ROOT = Path(__file__).parents[1]
COMMAND = "secateur prune --model resnet20 --weights FILE --data cifar10:DIR --keep 0.5"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every generated page where the navigation names its folder."""
    assert config.nav is not None
    for entry in walk(config.nav):
        for title, target in entry.items():
            if target == "methods/":
                entry[title] = ["methods/index.md", *(f"methods/{name}.md" for name in sorted(METHODS))]
            elif target == "decisions/":
                files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
                entry[title] = [f"decisions/{path.name}" for path in files]
    return config


def walk(nav: list[Any]) -> list[dict[str, Any]]:
    """Return every titled entry, at any depth."""
    found: list[dict[str, Any]] = []
    for entry in nav:
        if isinstance(entry, dict):
            found.append(entry)
            found += [inner for value in entry.values() if isinstance(value, list) for inner in walk(value)]
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the methods."""
    files.append(File.generated(config, "methods/index.md", content=overview()))
    for name in METHODS:
        files.append(File.generated(config, f"methods/{name}.md", content=page(name)))
    return files


def overview() -> str:
    """Return the page that lists all methods."""
    rows = [
        f"| [`{name}`]({name}.md) | {sections(card(kind))[0]} | {kind.paper.authors.split(',')[0]} et al., "
        f"{kind.paper.year} |"
        for name, kind in sorted(METHODS.items())
    ]
    head = "# Methods\n\nEach page is made from the card that opens the method's source file.\n"
    return "\n".join([head, "| name | what it does | paper |", "| --- | --- | --- |", *rows, ""])


def page(name: str) -> str:
    """Return the page of a method: its card, its settings, how to run it, and what to cite."""
    kind = METHODS[name]
    head, parts = sections(card(kind))
    text = [f"# `{name}`", head, kind.paper.cite()]
    for title, body in parts:
        text += [f"## {title}", body.replace("``", "`")]
    settings = [f"| `{field.name}` | `{default(field)}` |" for field in dataclasses.fields(kind)]
    if settings:
        text += ["## Settings", "\n".join(["| setting | default |", "| --- | --- |", *settings])]
        text += [f"::: {kind.__module__}.{kind.__name__}\n    options:\n      members: false\n      heading_level: 3"]
    text += [
        "## Run it",
        f"```console\n$ {COMMAND} --method {name}\n```",
        "## Cite",
        f"```bibtex\n{kind.paper.bibtex()}\n```",
    ]
    return "\n\n".join(text) + "\n"


def default(field: dataclasses.Field[Any]) -> str:
    """Return a setting's default as it is written in Python."""
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
