"""The times that ``secateur bench`` took, as text, for the terminal and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur import reading
from secateur.artifact.bounded_reading import MOST
from secateur.errors import ArtifactError
from secateur.report.numbers import TIMES, milliseconds
from secateur.report.speed_words import SAME
from secateur.report.summary import Document

NAME = "bench.json"


def rows(document: Document) -> list[tuple[str, str, str, str]]:
    """Return runtime, dense time, pruned time (both in milliseconds) and speed-up of each runtime."""
    return [
        (
            entry["runtime"],
            _time(entry["dense"]),
            _time(entry["pruned"]),
            speed_up(entry),
        )
        for entry in document["runtimes"]
    ]


def speed_up(entry: Document) -> str:
    """Return the speed-up in one runtime with its interval, unless it is inside the noise."""
    factor = f"{entry['speedup']:.2f}{TIMES}"
    if "speedup_low" not in entry:  # timed by an earlier version
        return factor
    return f"{factor}\n({entry['speedup_low']:.2f} to {entry['speedup_high']:.2f})" if entry["differs"] else SAME


def conditions(document: Document) -> str:
    """Return how the times were taken, and what the MACs would have promised."""
    threads = document["threads"]
    place = document["device"]
    if place == "cpu":
        place = f"CPU, {threads} thread{'s' if threads != 1 else ''}"
    worst = max(max(entry["dense"]["difference"], entry["pruned"]["difference"]) for entry in document["runtimes"])
    macs = document["macs"]
    counted = "counted " if document.get("uncounted") else ""
    fewer = f"; the {counted}MACs fell {macs['dense'] / macs['pruned']:.2f}{TIMES}" if macs["pruned"] else ""
    first = document["runtimes"][0]
    sure = "; in brackets the interval that holds the speed-up with 95 % confidence" if "differs" in first else ""
    clock = ", processor time" if first.get("clock") == "processor" else ""
    return (
        f"Batch of {document['batch_size']}, {place}{clock}; median and interquartile range of a pass, the two "
        f"networks in turns{sure}{fewer}. All outputs equal those of PyTorch eager to {worst:.0e}."
    )


def read(folder: Path) -> dict[str, Any] | None:
    """Return the times in a result folder, None if none were taken.

    Raises:
        ArtifactError: if the file is damaged.
    """
    path = folder / NAME
    try:
        document: Any = reading.values(reading.text(path, MOST))
        return document if rows(document) and conditions(document) else None
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{path} is damaged: {reading.wrong(error)}; remove it, and run secateur bench {folder} again"
        ) from error


def _time(entry: dict[str, Any]) -> str:
    middle, spread = milliseconds(entry["milliseconds"]), milliseconds(entry["spread"], 2)
    return f"{middle} \N{PLUS-MINUS SIGN} {spread}".replace(" ms", "")
