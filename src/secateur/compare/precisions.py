"""The table of a comparison's networks in float32 and in int8, of the runs of one seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secateur.compare.requests import Request
from secateur.compare.run_files import Run
from secateur.report import speed


def headings(done: Sequence[tuple[Request, Run]]) -> tuple[str, ...]:
    """Return the headings; none if nothing was written in int8."""
    kept = _first(done)
    return () if not kept else ("Method", "Keep", *speed.corner_headings(_corners(kept[0][1])))


def rows(done: Sequence[tuple[Request, Run]]) -> list[tuple[str, ...]]:
    """Return the dense network of the first run, then the pruned ones; each time is one in turns with its dense one."""
    found: list[tuple[str, ...]] = []
    for request, run in _first(done):
        four = _corners(run)
        for entry, row in zip(four["corners"], speed.corner_rows(four), strict=True):
            if entry["network"] == "pruned":
                found.append((request.label, f"{request.keep:g}", *row))
            elif request is _first(done)[0][0]:
                found.append(("", "", *row))
    return found


def left_out(done: Sequence[tuple[Request, Run]]) -> list[str]:
    """Return what could not be had, and why."""
    return [f"{request.title}: {reason}" for request, run in _first(done) for reason in _corners(run)["left_out"]]


def _first(done: Sequence[tuple[Request, Run]]) -> list[tuple[Request, Run]]:
    """Return the runs of the first seed that have such numbers."""
    with_int8 = [(request, run) for request, run in done if run.int8]
    seed = min((request.seed for request, _ in with_int8), default=0)
    return [(request, run) for request, run in with_int8 if request.seed == seed]


def _corners(run: Run) -> Any:
    assert run.int8 is not None
    return run.int8
