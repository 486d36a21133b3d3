"""Lines of tables in Markdown."""

from __future__ import annotations


def head(*names: str) -> str:
    """Return the headings and the line below them."""
    return line(*names) + "\n" + line(*(["---"] * len(names)))


def line(*cells: str) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"
