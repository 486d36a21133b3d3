"""The one place that makes pages of templates: what is put in is escaped, and what is missing is an error."""

from __future__ import annotations

from typing import Any


def pages(*packages: str) -> Any:
    """Return jinja2's environment of templates.

    Args:
        packages: of secateur, whose folders ``templates`` are looked into, in this order.
    """
    import jinja2

    loaders = [jinja2.PackageLoader(f"secateur.{package}", "templates") for package in packages]
    return jinja2.Environment(loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined)
