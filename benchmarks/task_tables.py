"""Tables of what ``tasks.py`` has measured, and their place in the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from markdown_tables import head, line
from secateur.measure import Quality

Row: TypeAlias = dict[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- made by benchmarks/tasks.py --docs -->", "<!-- end -->"
SAID = {
    "camvid": "Segmentation: a small U-Net on CamVid",
    "lraspp": "Segmentation: LR-ASPP on MobileNetV3-Large (torchvision, from random weights) on CamVid",
    "bccd": "Detection: SSD (torchvision) on a small residual network, blood cells (BCCD)",
    "superresolution": "Super-resolution by 2: a small EDSR, trained on textures, tested on Set5 and Set14",
    "retrieval": "Retrieval: embeddings of EfficientNet-Lite0 (timm) from ImageNet, ten classes of textures",
    "discs": "Regression: a small residual network counts discs drawn on textures (a task made up for this)",
    "textures": "Transfer: EfficientNet-Lite0 (timm) from ImageNet to ten classes of textures",
    "cells": "Transfer: SSD (torchvision) on EfficientNet-Lite0 from ImageNet, blood cells (BCCD)",
}
BRIEFLY = {
    "camvid": "segmentation, U-Net, CamVid",
    "lraspp": "segmentation, LR-ASPP, CamVid",
    "bccd": "detection, small SSD, blood cells",
    "superresolution": "super-resolution by 2, small EDSR",
    "retrieval": "retrieval, EfficientNet-Lite0, textures",
    "discs": "regression, counting discs",
    "textures": "transfer, EfficientNet-Lite0, textures",
    "cells": "transfer, SSD on EfficientNet-Lite0, blood cells",
}
SUMMARISED = {"bccd": (0, 1), "cells": (0, 1)}
"""Which metrics of a task the summary has where it is not the main one alone: of detectors mAP and mAP@0.5."""
COMPARED = ("reconstruction", "magnitude", "random_units")


def tables(rows: Sequence[Row], tasks: Sequence[str], arms: Sequence[str]) -> str:
    """Return a table for each task that has rows, in Markdown.

    Args:
        rows: the last of each kind.
        tasks: in the order of the tables.
        arms: in the order of the lines.
    """
    parts: list[str] = ["", *summary([row for row in rows if "failed" not in row], tasks)]
    for task in tasks:
        own = [row for row in rows if row["task"] == task and "failed" not in row]
        dense = [row for row in own if row["arm"] == "dense"]
        if dense:
            parts += ["", *table(dense, own, arms)]
    failed = [f"- {row['task']}, {row['arm']}, seed {row['seed']}: {row['failed']}" for row in rows if "failed" in row]
    if failed:
        parts += ["", "Without a number:", "", *failed]
    parts += ["", *conditions(rows)]
    return "\n".join(parts[1:])


def summary(rows: Sequence[Row], tasks: Sequence[str]) -> Iterator[str]:
    """Yield a line for each test set: what the dense network achieves, and how far from it the others are.

    Differences are taken between networks of the same seed; with several seeds they are means with their standard
    deviation.
    """
    tuned = [f"{arm}, tuned" for arm in COMPARED]
    yield head("task", "metric", "seeds", "dense", COMPARED[0], *tuned, f"{COMPARED[0]}, times as fast")
    for task in tasks:
        own = [row for row in rows if row["task"] == task and "metrics" in row]
        dense = {row["seed"]: row for row in own if row["arm"] == "dense"}
        if not dense:
            continue
        first = next(iter(dense.values()))
        chosen = {arm: [row for row in own if row["arm"] == arm and row["seed"] in dense] for arm in COMPARED}
        columns = [[row for row in chosen[COMPARED[0]] if not row["epochs"]]]
        columns += [[row for row in chosen[arm] if row["epochs"]] for arm in COMPARED]
        for test in first["metrics"]:
            for number in SUMMARISED.get(task, (0,)):
                title = heading(first, test, number)
                apart = [difference(each, dense, test, number) for each in columns]
                yield line(
                    BRIEFLY[task], title, str(len(dense)), value(list(dense.values()), test, number), *apart,
                    speed(columns[0]),
                )  # fmt: skip


def difference(rows: Sequence[Row], dense: Mapping[int, Row], test: str, number: int) -> str:
    """Return one cell: how far rows are from the dense networks of their seeds; how many where these are not all."""
    if not rows:
        return ""
    qualities = [[Quality.from_dict(each["metrics"][test]) for each in (row, dense[row["seed"]])] for row in rows]
    metric = qualities[0][0].metrics[number]
    found = [metric.scale * (one.values[number] - other.values[number]) for one, other in qualities]
    text = f"{statistics.mean(found):+.{metric.digits}f}"
    text += f" ± {statistics.stdev(found):.{metric.digits}f}" if len(found) > 1 else ""
    return text + of_seeds(len(rows), len(dense))


def of_seeds(count: int, dense: int) -> str:
    """Say how many seeds a cell or a line has where these are fewer than those of the dense network."""
    return "" if count == dense else f" ({count} seed{'s' * (count != 1)})"


def conditions(rows: Sequence[Row]) -> list[str]:
    """Return where and with what rows were measured, one line for each kind of machine and versions."""
    lines = list[str]()
    for row in rows:
        machine, versions = row["machine"], {**row["versions"]}
        versions["secateur"] = versions["secateur"].partition("+")[0]
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(
            f"Measured on {machine['processor']} ({machine['capability']}), {machine['threads']} thread; {said}."
        )
    return list(dict.fromkeys(lines))


def table(dense: Sequence[Row], rows: Sequence[Row], arms: Sequence[str]) -> Iterator[str]:
    """Yield the lines of one task."""
    first = dense[0]
    (sizes,) = {tuple(about["images"].values())[:2] for about in first["data"].values()}
    tests = {name: about["images"]["test"] for name, about in first["data"].items()}
    shape = "x".join(map(str, next(iter(first["data"].values()))["shape"]))
    counted = ", ".join(f"{count} {name} images" for name, count in tests.items())
    seeds = f"{len(dense)} seeds" if len(dense) > 1 else f"seed {first['seed']}"
    yield (
        f"**{SAID[first['task']]}.** {first['macs'] / 1e6:,.0f} million MACs at {shape}; trained for "
        f"{first['trained']} epochs on {sizes[0]} images; {counted}; {seeds}."
    )
    yield ""
    metrics = [(test, number) for test, it in first["metrics"].items() for number in range(len(it["metrics"]))]
    names = [heading(first, test, number) for test, number in metrics]
    yield head("network", "MACs", "times as fast", *names)
    yield line("dense", "1", "1", *(value(dense, *which) for which in metrics))
    for arm in arms:
        for epochs in sorted({row["epochs"] for row in rows if row["arm"] == arm}):
            own = [row for row in rows if row["arm"] == arm and row["epochs"] == epochs and "metrics" in row]
            if own:
                said = f"{arm}, {epochs} epoch{'s' * (epochs != 1)}" if epochs else arm
                macs = statistics.mean(row["macs"] for row in own)
                said += of_seeds(len(own), len(dense))
                yield line(said, f"{macs:.2f}", speed(own), *(value(own, *which) for which in metrics))


def heading(row: Row, test: str, number: int) -> str:
    title = Quality.from_dict(row["metrics"][test]).metrics[number].title
    return f"{test}, {title}" if len(row["metrics"]) > 1 else title


def value(rows: Sequence[Row], test: str, number: int) -> str:
    """Return one cell: the mean over seeds, with the standard deviation where there are several."""
    qualities = [Quality.from_dict(row["metrics"][test]) for row in rows]
    metric = qualities[0].metrics[number]
    found = [metric.scale * each.values[number] for each in qualities]
    text = f"{statistics.mean(found):.{metric.digits}f}"
    return f"{text} ± {statistics.stdev(found):.{metric.digits}f}" if len(found) > 1 else text


def speed(rows: Sequence[Row]) -> str:
    found = [row["speed"] for row in rows if "speed" in row]
    if not found:
        return ""
    return f"{statistics.mean(it['ratio'] for it in found):.2f} ({found[0]['runtime']})"


def documented(text: str) -> str:
    """Put the tables into the page of results; return what was done."""
    page = PAGE.read_text("utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no lines '{BEGIN}' and '{END}' between which the tables belong")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")
    return f"written into {PAGE.name}"
