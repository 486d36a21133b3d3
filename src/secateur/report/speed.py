"""The times that ``secateur bench`` took, as text, for the terminal and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur import reading
from secateur.artifact.bounded_reading import MOST
from secateur.errors import ArtifactError
from secateur.measure import Quality
from secateur.report.metrics import capital, metric_text
from secateur.report.numbers import NONE, TIMES, milliseconds, size
from secateur.report.speed_words import SAME
from secateur.report.summary import RUNTIME_NAMES, Document

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


CORNERS = (
    "The metric is that on the test images; sizes are of the ONNX files, times those of these files in turns, "
    "in brackets how many times as fast as the dense network in float32. Files in int8 are calibrated on unlabelled "
    "images, and layers that hurt stay in float32."
)


def corner_headings(document: Document) -> tuple[str, ...]:
    """Return the headings of the table of both networks in both precisions."""
    first = document["corners"][0]
    metric = [capital(Quality.from_dict(first["quality"]).metric.name)] if first["quality"] else []
    return ("Network", *metric, "Size", *(f"{RUNTIME_NAMES[name]}, ms" for name in first["times"]))


def corner_rows(document: Document) -> list[tuple[str, ...]]:
    """Return network and precision, metric if there is one, size of the file, and the time in each runtime."""
    any_tested = document["corners"][0]["quality"] is not None
    return [_corner(entry, any_tested) for entry in document["corners"]]


def _corner(entry: Document, any_tested: bool) -> tuple[str, ...]:
    tested = None if entry["quality"] is None else Quality.from_dict(entry["quality"])
    metric = [NONE if tested is None else metric_text(tested.metric, tested.value)] if any_tested else []
    left = len(entry["int8"]["left"]) if entry["int8"] else 0
    some = f"\n({left} layer{'' if left == 1 else 's'} in float32)" if left else ""
    dense = (entry["network"], entry["precision"]) == ("dense", "float32")
    times = [
        milliseconds(it["milliseconds"]).replace(" ms", "")
        + ("" if dense else f" ({speed_up(it).partition(chr(10))[0]})")
        for it in entry["times"].values()
    ]
    return (f"{entry['network']} {entry['precision']}{some}", *metric, size(entry["bytes"]), *times)


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
        four = document.get("int8")
        whole = rows(document) and conditions(document) and (four is None or (corner_headings(four), corner_rows(four)))
        return document if whole else None
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
