"""What the commands print: tables and lines that can be read in 60 columns, or one JSON document."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from secateur.core.graph.explanation import Explanation
    from secateur.measure import Accuracy, Counts, Latency


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), whole: Sequence[int] = ()
) -> Table:
    """Return a table.

    Args:
        headings: one for each column; all empty for no heading.
        rows: texts, as many as headings.
        numbers: columns that are aligned to the right and never wrapped.
        whole: further columns that are never wrapped.
    """
    made = Table(box=box.SIMPLE_HEAD, show_header=any(headings), pad_edge=False, show_edge=False, padding=(0, 1))
    for place, heading in enumerate(headings):
        justify: JustifyMethod = "right" if place in numbers else "left"
        made.add_column(Text(heading), justify=justify, no_wrap=place in (*numbers, *whole), overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def say(*things: Table | str) -> None:
    """Print results on standard output; paragraphs are wrapped on a terminal, or where COLUMNS says how."""
    console = Console(highlight=False)
    wraps = console.is_terminal or bool(os.environ.get("COLUMNS"))
    for thing in things:
        if isinstance(thing, str) and wraps:
            for line in Text(thing, overflow="ignore").wrap(console, console.width):
                line.rstrip()
                console.print(line, soft_wrap=True)
        elif isinstance(thing, str):
            console.print(Text(thing), soft_wrap=True)
        else:
            console.print(thing)


def say_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def change(document: Mapping[str, Any]) -> Table:
    """Return the table of a run: the dense network, what the cut left, repaired, fine-tuned."""
    from secateur.outcome.network_stages import measured
    from secateur.report import rows

    headings = ["", *(name.capitalize() for name in measured(document)), "Change"]
    texts = [[row.label.partition(" (")[0], *row.values, row.ratio] for row in rows(document)]
    return table(headings, texts, numbers=range(1, len(headings) - 1))


def conditions(document: Mapping[str, Any]) -> list[str]:
    """Return one line that says how the time was taken; none if it was not."""
    from secateur.report import rows
    from secateur.report.summary import LATENCY

    found = [row for row in rows(document) if row.label.startswith(LATENCY)]
    return [
        f"{row.label.replace(' (', ': ').removesuffix(')')}{f'; {row.interval}' if row.interval else ''}."
        for row in found
    ]


def kept_whole(explanation: Mapping[str, Any]) -> str:
    """Return one line that says which channels no method may remove, and why."""
    reasons: dict[str, list[str]] = {}
    for row in explanation["rows"]:
        if row["prunable"] < row["width"]:
            reasons.setdefault(row["reason"] or "no reason known", []).append(row["layer"])
    if not reasons:
        return "Pinned: nothing; every channel may be removed."
    parts = [f"{', '.join(_some(layers, 3))} ({reason})" for reason, layers in reasons.items()]
    return f"Pinned: {'; '.join(parts)}."


def explanation_table(explanation: Explanation, multiples: Mapping[str, int]) -> Table:
    """Return one row per layer: how much of it can go, in which multiples, and with what, or why not.

    Args:
        explanation: of a network.
        multiples: of the width of each group, by its name.
    """
    rows = [
        (row.layer, str(row.width), str(row.prunable), str(multiples.get(row.group, "")), row.why)
        for row in explanation.rows
    ]
    return table(("Layer", "Width", "Prunable", "Multiple", "Together with / why not"), rows, numbers=(1, 2, 3))


def counts_rows(counts: Counts) -> list[tuple[str, str]]:
    """Return the size of a network as rows."""
    zeros = [("Nonzero parameters", f"{counts.nonzero:,}")] if counts.nonzero != counts.params else []
    return [
        ("Parameters", f"{counts.params:,}"),
        *zeros,
        ("MACs", f"{counts.macs:,}"),
        *([("Not counted", counts.missing)] if counts.uncounted else []),
        ("Activations", f"{counts.activations:,}"),
    ]


def latency_rows(latency: Latency) -> list[tuple[str, str]]:
    """Return the time of a forward pass, and how it was taken, as rows."""
    from secateur.report.numbers import milliseconds

    threads = f", {latency.threads} thread{'s' if latency.threads != 1 else ''}" if latency.device == "cpu" else ""
    return [
        ("Latency", milliseconds(latency.milliseconds)),
        ("Between quartiles", milliseconds(latency.spread, 2)),
        ("Runs", f"{latency.runs:,}"),
        ("Batch", str(latency.batch_size)),
        ("On", f"{latency.device}{threads}, {latency.runtime}"),
    ]


def accuracy_rows(accuracy: Accuracy) -> list[tuple[str, str]]:
    """Return how well a network does as rows."""
    return [
        ("Accuracy", f"{100 * accuracy.top1:.2f} %"),
        ("Loss", f"{accuracy.loss:.4f}"),
        ("Images", f"{accuracy.examples:,}"),
    ]


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values."""
    rows = [
        {
            "layer": row.layer,
            "width": row.width,
            "prunable": row.prunable,
            "group": row.group,
            "with": list(row.with_),
            "reason": row.reason,
            "remedy": row.remedy,
        }
        for row in explanation.rows
    ]
    return {"rows": rows, "reachable": explanation.reachable, "uncounted": explanation.uncounted}


def _some(names: Sequence[str], most: int) -> list[str]:
    """Return the first names and how many more there are."""
    left = len(names) - most
    return [*names[:most], f"{left} more"] if left > 1 else list(names)
