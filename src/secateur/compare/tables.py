"""The numbers of a comparison as rows: for the terminal, the page, CSV files and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from secateur.compare.comparison import Comparison
from secateur.compare.findings import Findings, Line
from secateur.compare.notes import notes
from secateur.compare.requests import Request
from secateur.compare.run_files import Run
from secateur.compare.significance import Spread, Verdict
from secateur.report.numbers import NONE, signed

TABLE = (
    "label", "method", "control", "keep", "repair", "settings", "seeds", "epochs", "test_mean", "test_std", "val_mean",
    "val_std", "cut_mean", "cut_std", "repaired_mean", "repaired_std", "dense_mean", "macs_left", "params_left",
    "latency_ms", "speedup", "speedup_low", "speedup_high", "speedup_in_words", "runtime",
    "p_random", "against_random", "p_best", "against_best", "same_as",
)  # fmt: skip
RUNS = (
    "label", "method", "control", "keep", "repair", "seed", "epochs", "dense", "cut", "repaired", "test", "val", "macs",
    "params", "dense_macs", "dense_params", "latency", "dense_latency", "runtime", "speedup", "speedup_low",
    "speedup_high", "verification", "seconds", "name",
)  # fmt: skip


def table_csv(found: Findings) -> str:
    """Return the table as CSV, one row for each method and keep; shares, not percent."""
    return _csv(TABLE, [_flat(line) for line in found.lines])


def runs_csv(done: Sequence[tuple[Request, Run]]) -> str:
    """Return every run as a row of CSV; shares, not percent, and milliseconds."""
    rows = [{**run.to_dict(), **_speed(run), **_asked(request)} for request, run in done]
    return _csv(RUNS, [{name: row[name] for name in RUNS} for row in rows])


def document(comparison: Comparison, found: Findings, done: Sequence[tuple[Request, Run]]) -> dict[str, Any]:
    """Return everything as JSON values: the table, the notes, what was left out, and every run."""
    return {
        "format": 1,
        "recipe": comparison.text,
        "keeps": list(comparison.keeps),
        "seeds": list(comparison.seeds),
        "done": found.done,
        "total": found.total,
        "notes": notes(found),
        "dense": _spread(found.dense),
        "lines": [_nested(line) for line in found.lines],
        "left_out": [_nested(line) for line in found.left_out],
        "runs": [{**run.to_dict(), **_asked(request)} for request, run in done],
    }


def spread(value: Spread | None, scale: float = 100.0, digits: int = 2) -> str:
    """Return mean and standard deviation, such as ``91.20 ± 0.15``, shares in percent."""
    if value is None:
        return NONE
    text = f"{scale * value.mean:.{digits}f}"
    return text if value.std is None else f"{text} \N{PLUS-MINUS SIGN} {scale * value.std:.{digits}f}"


def change(line: Line) -> str:
    """Return the difference from the dense network, of shares in points, with its sign."""
    return signed(line.metric.scale * (line.test.mean - line.dense.mean), line.metric.digits)


def verdict(value: Verdict | None) -> str:
    """Return a verdict in words; a dash where there is none."""
    return NONE if value is None else value.text


def _flat(line: Line) -> dict[str, Any]:
    random, best = line.against_random, line.against_best
    return {
        "label": line.label,
        "method": line.method,
        "control": line.control,
        "keep": line.keep,
        "repair": line.repair,
        "settings": line.settings,
        "seeds": len(line.seeds),
        "epochs": line.epochs,
        **_both("test", line.test),
        **_both("val", line.val),
        **_both("cut", line.cut),
        **_both("repaired", line.repaired),
        "dense_mean": line.dense.mean,
        "macs_left": line.macs,
        "params_left": line.params,
        "latency_ms": line.latency.mean if line.latency else None,
        "speedup": line.speedup,
        "speedup_low": line.interval[0] if line.interval else None,
        "speedup_high": line.interval[1] if line.interval else None,
        "speedup_in_words": line.faster,
        "runtime": line.runtime,
        "p_random": random.p if random else None,
        "against_random": random.text if random else None,
        "p_best": best.p if best else None,
        "against_best": best.text if best else None,
        "same_as": ", ".join(line.same_as),
    }


def _asked(request: Request) -> dict[str, Any]:
    return {"label": request.label, "control": request.control, "repair": request.repair}


def _speed(run: Run) -> dict[str, Any]:
    if run.speed is None:
        return dict.fromkeys(("runtime", "speedup", "speedup_low", "speedup_high"))
    speed = run.speed
    return {
        "runtime": speed["dense"]["runtime"],
        "speedup": speed["ratio"],
        "speedup_low": speed["low"],
        "speedup_high": speed["high"],
    }


def _both(name: str, value: Spread | None) -> dict[str, float | None]:
    return {f"{name}_mean": value.mean if value else None, f"{name}_std": value.std if value else None}


def _nested(line: Line) -> dict[str, Any]:
    values = asdict(line)
    for name in ("test", "val", "cut", "repaired", "dense", "latency"):
        values[name] = _spread(getattr(line, name))
    del values["networks"]  # which tells them apart and says no more
    lists = {"seeds": list(line.seeds), "same_as": list(line.same_as)}
    return {**values, **lists, "speedup_in_words": line.faster}


def _spread(value: Spread | None) -> dict[str, Any] | None:
    return value and {"values": list(value.values), "mean": value.mean, "std": value.std}


def _csv(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
