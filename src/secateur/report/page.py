"""Rendering an artifact folder as one HTML file that needs nothing else, neither files nor network."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup, escape

from secateur import reading, recipe_text
from secateur.artifact import record, write_file
from secateur.artifact.bounded_reading import naming, table_of, text_of, whole_number
from secateur.artifact.document import FORMAT
from secateur.artifact.manifest import ENVIRONMENT, MANIFEST, MEASUREMENT, RECIPE
from secateur.atomic import refuse_special
from secateur.errors import ArtifactError, SecateurError
from secateur.outcome.network_stages import measured, metric_of, quality_in
from secateur.report import curves, figures, limits, minutes, predictions, speed, summary, tuning, zeros_and_bits
from secateur.report.metrics import capital
from secateur.report.templating import pages
from secateur.spelling import said
from secateur.tasks import Metric

NAME = "report.html"
_STAGES = {
    "train": "training the dense network",
    "images": "reading images",
    "trace": "reading the network",
    "shape": "training with the method's regulariser",
    "runtime": "choosing the runtime",
    "budget": "settling the budget",
    "foretell": "foretelling the speed",
    "reconstruct": "measuring what layers can be fitted to",
    "layers": "timing layers",
    "plan": "deciding",
    "apply": "surgery",
    "verify": "verifying",
    "repair": "repairing",
    "fine-tune": "fine-tuning",
    "distil": "distilling",
    "measure": "measuring",
    "answers": "comparing answers",
}


def write(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the report of an artifact.

    Args:
        folder: the artifact; measurement.json, environment.json and, if there, recipe.toml,
            bench.json and predictions.json are read from it.
        out: the file to write; ``report.html`` in the folder if None.

    Returns:
        The file that was written.

    Raises:
        ArtifactError: if the folder is no artifact, or the report cannot be written.
    """
    folder = Path(folder)
    path = folder / NAME if out is None else Path(out)
    with _writing(path):
        refuse_special(path, links=out is None)
    try:
        page = render(
            _read(folder, MEASUREMENT),
            _read(folder, ENVIRONMENT),
            _recipe(folder),
            speed.read(folder),
            predictions.section(folder),
        ).encode()
    except (SecateurError, MemoryError):
        raise
    except Exception as error:  # of a document that is no longer as it was written
        raise ArtifactError(
            f"{MEASUREMENT} in {folder} is incomplete or damaged: {reading.wrong(error)}; run the recipe again"
        ) from error
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, page)
    if out is None and (folder / MANIFEST).is_file():
        record(folder, NAME)
    return path


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        advice = said("choose another file", "free some space, or copy the result to where files can be written")
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def render(
    document: Mapping[str, Any],
    environment: Mapping[str, Any],
    recipe: str,
    bench: Mapping[str, Any] | None = None,
    answers: Markup = Markup(),  # noqa: B008  (immutable)
) -> str:
    """Return the page.

    Args:
        document: content of measurement.json.
        environment: content of environment.json.
        recipe: content of recipe.toml; empty if there is none.
        bench: content of bench.json; None if there is none.
        answers: the part that ``predictions.section`` returns.
    """
    rows = summary.rows(document)
    layers = document["explanation"]["rows"]
    runs = _runs(document)
    templates = pages("report")
    templates.filters |= {"prose": _prose, "shown": _shown, "milliseconds": _milliseconds}
    return templates.get_template("report.html.j2").render(
        document=document,
        environment=environment,
        recipe=recipe,
        subject=summary.subject(document),
        outcome=summary.outcome(document),
        rows=rows,
        stages=list(measured(document)),
        tiles=[row for row in rows if row.ratio and _is_tile(row, metric_of(document))],
        target=summary.target(document),
        verification=summary.verification(document),
        limits=[*limits.foretold(document), *limits.kept(document)],
        notes=limits.widths(document),
        multiples=dict(document.get("multiples") or {}),
        speed=_speed(bench) if bench else None,
        repairs=[*summary.repairs(document), *summary.calibration(document)],
        answers=answers,
        minutes=minutes.used(document),
        timing=summary.timing(document),
        zeros=zeros_and_bits.zeros(document),
        bit_operations=zeros_and_bits.bit_operations(document),
        training=summary.training(document) if quality_in(document["after"]) else "",
        tested=quality_in(document["after"]),
        metric=metric_of(document),
        metric_label=capital(metric_of(document).name),
        layers=layers,
        pinned=[layer for layer in layers if layer["prunable"] < layer["width"]],
        card=sections(document["method"]["card"]),
        seconds={_STAGES.get(name, name): value for name, value in document["seconds"].items()},
        percent=summary.percent,
        widths=Markup(figures.widths(document["widths"])) if document["widths"] else "",
        groups=Markup(figures.groups(layers)) if layers else "",
        trade_off=Markup(figures.trade_off(document)) if _tested(document) else "",
        sensitivity=curves.of(document),
        keeps=curves.KEEPS,
        searches=[Markup(chart) for chart in _searches(document)],
        curves=[Markup(figures.training(runs, quantity, metric_of(document))) for quantity in _drawn(runs)],
        plotly=Markup(figures.script()),
    )


def _tested(document: Mapping[str, Any]) -> bool:
    return bool(quality_in(document["before"]) and quality_in(document["after"]))


def _speed(bench: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of the runtimes as text."""
    four: Mapping[str, Any] | None = bench.get("int8")
    return {
        "rows": speed.rows(bench),
        "conditions": speed.conditions(bench),
        "left_out": [*bench["left_out"].values(), *(four["left_out"] if four else ())],
        "corner_headings": speed.corner_headings(four) if four else (),
        "corners": speed.corner_rows(four) if four else (),
        "about_corners": speed.CORNERS,
    }


_TILES = ("Parameters", "MACs", "Latency")


def _is_tile(row: summary.Row, metric: Metric) -> bool:
    return row.label.split(" ")[0] in _TILES or row.label == capital(metric.name)


def _drawn(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Return which curves a training has: of the loss, and of the metric where any epoch knows it."""
    names = ("train_metric", "val_metric")
    known = any(figures.of_epoch(row, name) is not None for _, rows in runs for row in rows for name in names)
    return ["loss", *(["metric"] if known else [])] if runs else []


def sections(card: str) -> tuple[str, list[tuple[str, str]]]:
    """Split a method's card into its first line(s) and its parts: a word and a full stop, then indented text."""
    head, *parts = re.split(r"^([A-Z][\w ]{1,20})\.[ \t]{2,}", card, flags=re.MULTILINE)
    texts = [" ".join(part.split()) for part in parts]
    return " ".join(head.split()), list(zip(texts[::2], texts[1::2], strict=True))


def _prose(text: str) -> Markup:
    """Escape a text and set what stands between back quotes as code."""
    return Markup(re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", str(escape(text))))


def _milliseconds(time: float) -> str:
    return summary.milliseconds(time, 2)


def _shown(value: Any) -> str:
    """Return a setting as a person would write it."""
    if value is None or value == [] or value == "":
        return summary.NONE
    if isinstance(value, list):
        return ", ".join(
            str(entry) if isinstance(entry, str) else json.dumps(entry) for entry in cast("list[Any]", value)
        )
    return value if isinstance(value, str) else json.dumps(value)


def _searches(document: Mapping[str, Any]) -> list[str]:
    """Return a chart for every search that a method has made."""
    charts: list[str] = []
    searches = document.get("searches", [])
    for number, found in enumerate((search for search in searches if "tuning" not in search), 1):
        trials = [trial for trial in found["trials"] if trial["images"]]
        errors = [trial.get("guess", trial["errors"] / trial["images"]) for trial in trials]
        complete = [trial["images"] == found["images"] for trial in trials]
        charts += [figures.search(errors, complete, number, tuning.metric_in(found))] if trials else []
    return charts + tuning.charts([search for search in searches if "tuning" in search])


def _runs(document: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the name and rows of every training that took place."""
    training = document["training"]
    rounds = training["rounds"]
    names = ["fine-tuning"] if len(rounds) == 1 else [f"round {i}" for i in range(1, len(rounds) + 1)]
    own = [("the method's own training", history) for history in training.get("shaped", [])]
    found = [("dense network", training["pretrain"]), *own, *zip(names, rounds, strict=True)]
    return [(name, history["rows"]) for name, history in found if history and history["rows"]]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = table_of(path)
    except ArtifactError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        if folder.with_name(f"{folder.name}.work").is_dir():
            raise ArtifactError(
                f"the run of {folder} is still going, or was interrupted: wait until it ends, or give its command again"
            ) from None
        raise ArtifactError(f"{folder} is not a Secateur artifact: it has no {name}; check the path") from None
    with naming(path):
        if whole_number({"format": 0, **content}, "format") > FORMAT:
            raise ArtifactError(f"{path} is of a newer version; run: pip install --upgrade secateur")
    return content


def _recipe(folder: Path) -> str:
    path = folder / RECIPE
    return text_of(path, recipe_text.MOST) if path.exists() else ""
