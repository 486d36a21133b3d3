"""What the commands print: tables and lines that can be read in 30 columns, or one JSON document."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secateur.cli.output import ours

if TYPE_CHECKING:
    from secateur.core.graph.explanation import Explanation
    from secateur.measure import Counts, Latency, Quality
    from secateur.tasks import Task


_GAP = 3  # between the columns of a table
_FOLDED = 20  # letters of a word that is no label, which more of them may be folded to


@dataclass(frozen=True)
class Sheet:
    """A table, or where one would be too wide to be read a paragraph for each row.

    Attributes:
        headings: one for each column; all empty for no heading.
        rows: texts, as many as headings.
        numbers: columns that are aligned to the right and never wrapped.
        whole: further columns that are never wrapped.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]
    whole: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.narrowest() <= options.max_width:
            yield self._table(options.max_width)
            return
        for first, *others in self.rows:
            yield Text(first, overflow="fold")
            for heading, cell in zip(self.headings[1:], others, strict=True):
                if cell:
                    yield Padding(Text(f"{heading}: {cell}" if heading else cell, overflow="fold"), (0, 0, 0, 2))

    def narrowest(self) -> int:
        """Return in how many columns of a terminal the table can be read: no label in it is cut."""
        return sum(self._least(place) for place in range(len(self.headings))) + self._gaps

    @property
    def _gaps(self) -> int:
        return _GAP * (len(self.headings) - 1)

    def _cells(self, place: int) -> list[str]:
        return [row[place] for row in (self.headings, *self.rows)]

    def _most(self, place: int) -> int:
        return max(map(cell_len, self._cells(place)))

    def _least(self, place: int) -> int:
        if place in (*self.numbers, *self.whole):
            return self._most(place)
        longest = max((cell_len(word) for cell in self._cells(place) for word in cell.split()), default=0)
        return longest if place == 0 else min(longest, _FOLDED)

    def _table(self, width: int) -> Table:
        """Return the table; columns that wrap share what is left, which rich would do without regard to words."""
        least = [self._least(place) for place in range(len(self.headings))]
        wanted = [self._most(place) - it for place, it in enumerate(least)]
        spare = min(width - self.narrowest(), sum(wanted))
        made = Table(box=box.SIMPLE_HEAD, show_header=any(self.headings), pad_edge=False, show_edge=False)
        for place, heading in enumerate(self.headings):
            justify: JustifyMethod = "right" if place in self.numbers else "left"
            no_wrap = place in (*self.numbers, *self.whole)
            own = least[place] + (wanted[place] * spare // sum(wanted) if spare else 0)
            made.add_column(Text(heading), justify=justify, no_wrap=no_wrap, overflow="fold", width=own)
        for row in self.rows:
            made.add_row(*map(Text, row))
        return made


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), whole: Sequence[int] = ()
) -> Sheet:
    """Return a table, see ``Sheet``."""
    return Sheet(headings, list(rows), numbers, whole)


def say(*things: Sheet | str) -> None:
    """Print results on standard output; paragraphs are wrapped on a terminal, or where COLUMNS says how."""
    console = Console(file=ours(), highlight=False)
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
    print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False), file=ours())


def change(document: Mapping[str, Any]) -> Sheet:
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


def explanation_table(explanation: Explanation, multiples: Mapping[str, int]) -> Sheet:
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


def quality_rows(quality: Quality, task: Task) -> list[tuple[str, str]]:
    """Return how well a network does as rows."""
    from secateur.report.metrics import capital

    pairs = zip(quality.metrics, quality.values, strict=True)
    metrics = [(capital(metric.name), metric.text(value)) for metric, value in pairs]
    loss = [] if quality.loss is None else [("Loss", f"{quality.loss:.4f}")]
    return [*metrics, *loss, (f"{capital(task.example)}s", f"{quality.examples:,}")]


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
