"""The files that a comparison leaves for people and programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from secateur import artifact, reading
from secateur.artifact.manifest import RECIPE
from secateur.compare import figures, precisions, tables
from secateur.compare.comparison import CONTROLS, Comparison
from secateur.compare.findings import Findings, findings
from secateur.compare.notes import notes
from secateur.compare.requests import Request
from secateur.compare.run_files import Run
from secateur.compare.significance import Spread
from secateur.errors import ArtifactError, SecateurError
from secateur.report.figures import script
from secateur.report.numbers import percent
from secateur.report.speed import CORNERS
from secateur.report.summary import RUNTIME_NAMES
from secateur.report.templating import pages
from secateur.spelling import elsewhere, said

PAGE, TABLE, RUNS, DOCUMENT = "comparison.html", "table.csv", "runs.csv", "comparison.json"


@dataclass(frozen=True)
class Written:
    """Where everything is.

    Attributes:
        page: for people.
        table: one row for each method and keep.
        runs: one row for each run.
        document: all of it as JSON.
    """

    page: Path
    table: Path
    runs: Path
    document: Path


def write(comparison: Comparison, done: Sequence[tuple[Request, Run]], folder: str | Path) -> tuple[Findings, Written]:
    """Write table, runs, JSON and page of the runs that are there, and return what they say.

    Raises:
        ArtifactError: if there is no run, or a file cannot be written.
    """
    folder = Path(folder)
    if not done:
        raise ArtifactError(
            f"there is no run of this comparison in {folder} yet; "
            f"{said('begin with secateur.compare.carry_out', 'leave --show out to begin')}"
        )
    written = Written(folder / PAGE, folder / TABLE, folder / RUNS, folder / DOCUMENT)
    try:
        found = findings(comparison, done)
        texts = {
            written.page: render(comparison, found, done),
            written.table: tables.table_csv(found),
            written.runs: tables.runs_csv(done),
            written.document: json.dumps(tables.document(comparison, found, done), indent=1, allow_nan=False) + "\n",
            folder / RECIPE: comparison.text,
        }
        content = {path: text.encode() for path, text in texts.items()}
    except (SecateurError, MemoryError):
        raise
    except Exception as error:  # of runs that are no longer as they were written
        raise ArtifactError(
            f"a file in {folder / 'runs'} is damaged: {reading.wrong(error)}; delete it and give the same command again"
        ) from error
    try:
        for path, data in content.items():
            if not path.is_file() or path.read_bytes() != data:  # those of a comparison may lie where nobody can write
                artifact.write_file(path, data)
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}; {elsewhere()}") from None
    return found, written


def render(comparison: Comparison, found: Findings, done: Sequence[tuple[Request, Run]]) -> str:
    """Return the page: one file that needs neither other files nor a network."""
    templates = pages("compare", "report")

    def spread(value: Spread | None, scale: float = found.metric.scale, digits: int = found.metric.digits) -> str:
        return tables.spread(value, scale, digits)

    templates.filters |= {"spread": spread, "change": tables.change, "verdict": tables.verdict}
    timed = any(line.latency for line in found.lines)
    quantities = ("macs", "params", *(("latency",) if timed else ()))
    tried = any(line.tried > 1 for line in found.lines)
    asked = [(CONTROLS[name], _MEANING[name]) for name in comparison.controls or ()]
    return templates.get_template("comparison.html.j2").render(
        comparison=comparison,
        percent=percent,
        subject=_subject(comparison),
        found=found,
        metric=found.metric,
        done=done,
        notes=notes(found),
        charts=[Markup(figures.trade_off(found, quantity)) for quantity in quantities],
        timed=timed,
        runtimes=" and ".join(
            RUNTIME_NAMES.get(name, name) for name in dict.fromkeys(line.runtime for line in found.lines) if name
        ),
        tried=tried,
        cuts=any(line.cut for line in found.lines),
        repaired=any(line.repaired for line in found.lines),
        controls=asked,
        precisions={
            "headings": precisions.headings(done),
            "rows": precisions.rows(done),
            "left_out": precisions.left_out(done),
            "about": CORNERS,
        },
        environment=_environment(done),
        recipe=comparison.text,
        plotly=Markup(script()),
    )


_MEANING = {
    "random": "Units drawn at random, the same share of every group: chance instead of a criterion.",
    "uniform": "The smallest L1 norms, the same share of every group: the plain way.",
    "scratch": "The network of uniform width from new weights, trained for as many epochs as the others in all (and as "
    "the dense network, if the recipe trains it).",
    "dense": "The whole network, trained for as many more epochs as the pruned ones: what the epochs alone are worth.",
}


def _subject(comparison: Comparison) -> str:
    model = comparison.base.model.replace("\\", "/").rpartition("/")[2].removeprefix("secateur:")
    return f"{model} on {comparison.base.data.partition(':')[0]}"


def _environment(done: Sequence[tuple[Request, Run]]) -> dict[str, Any]:
    """Return what all runs had in common, and the values where they differ."""
    shown: dict[str, Any] = {}
    for name in ("secateur", "torch", "python", "platform", "processor", "cores", "threads", "accelerator", "git"):
        values = dict.fromkeys(str(run.environment.get(name)) for _, run in done if run.environment.get(name))
        shown |= {name: "; ".join(values)} if values else {}
    return shown
