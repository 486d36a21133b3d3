"""Tables of what ``post_training.py`` has measured, and what must hold of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from markdown_tables import head, line

Row: TypeAlias = dict[str, Any]

KEEPS = (0.8, 0.7, 0.6, 0.5, 0.35)
SEEDS = (0, 1, 2)
OURS = "reconstruction, refit"
MUST: Mapping[tuple[str, float], Mapping[int, float]] = {
    ("resnet20", 0.7): {1: 0.906, 8: 0.900},
    ("resnet20", 0.5): {1: 0.865, 8: 0.853},
    ("resnet56", 0.7): {1: 0.930, 8: 0.929},
    ("resnet56", 0.5): {1: 0.916, 8: 0.912},
    ("resnet56_projection", 0.5): {1: 0.925},
}
"""Least top-1 of ours, the mean of all draws, by the multiple of the widths."""
ABLATIONS = (
    "magnitude, refit", "random_units, refit", "reconstruction, uniform", "reconstruction, uniform, refit",
    "reconstruction, cut alone", "random_units, shares, refit", "magnitude, shares, refit",
)  # fmt: skip


class Job(NamedTuple):
    """What one row says."""

    network: str
    keep: float
    multiple: int
    arm: str
    seed: int
    epochs: int = 0


Cell: TypeAlias = tuple[str, float, int, str, int]


def key(row: Row) -> Job:
    return Job(*(row[name] for name in Job._fields))


def by_cell(rows: Sequence[Row]) -> dict[Cell, list[Row]]:
    """Return the rows of all draws together, by everything else."""
    found: dict[Cell, list[Row]] = {}
    for row in rows:
        job = key(row)
        found.setdefault((job.network, job.keep, job.multiple, job.arm, job.epochs), []).append(row)
    return found


def mean(rows: Sequence[Row], what: str = "top1") -> float | None:
    """Return the mean over draws; None where one failed or none was measured."""
    return statistics.mean(row[what] for row in rows) if rows and all(what in row for row in rows) else None


def tables(rows: Sequence[Row], arms: Sequence[str], said: Mapping[str, str]) -> str:
    """Return everything there is to say, in Markdown.

    Args:
        rows: the last of each kind.
        arms: in the order of the lines.
        said: names of networks, in the order of the tables.
    """
    found = by_cell(rows)
    parts = ["Top-1 in % on all test images without training, mean of the draws ± standard deviation (number of draws)"]
    for network, name in said.items():
        dense = mean(found.get((network, 1.0, 1, "dense", 0), []))
        for multiple in sorted({cell[2] for cell in found if cell[0] == network and cell[3] != "dense"}):
            lines = [
                line(arm, *(cell_of(found.get((network, keep, multiple, arm, 0), []), keep) for keep in KEEPS))
                for arm in arms
                if any((network, keep, multiple, arm, 0) in found for keep in KEEPS)
            ]
            if lines:
                widths = "any width" if multiple == 1 else f"multiples of {multiple}"
                of = "" if dense is None else f", dense {100 * dense:.2f}"
                parts += ["", f"{name}{of}, {widths}:", "", head("arm", *map(str, KEEPS)), *lines]
    parts += tuned_table(found, said)
    lost = [text for network in said for text in beaten(found, network)]
    parts += ["", "Where ours is not the best of all arms:", "", *([f"- {it}" for it in lost] or ["- nowhere"])]
    notes = [f"- {it}" for it in reasons(rows)] or ["- none"]
    return "\n".join([*parts, "", "Without a number:", "", *notes])


def reasons(rows: Sequence[Row]) -> list[str]:
    """Return why there is no number, once for each network and arm with the targets."""
    where: dict[str, list[str]] = {}
    for row in rows:
        if "failed" in row:
            where.setdefault(f"{row['network']}, {row['arm']}: {row['failed']}", []).append(
                f"{row['keep']} (multiple {row['multiple']})"
            )
    return [f"{reason}; at {', '.join(dict.fromkeys(targets))}" for reason, targets in where.items()]


def tuned_table(found: Mapping[Cell, Sequence[Row]], said: Mapping[str, str]) -> list[str]:
    """Return a line for each arm that was fine-tuned, a column for each number of epochs."""
    cells = [cell for cell in found if cell[4]]
    epochs = sorted({cell[4] for cell in cells})
    parts: list[str] = []
    for network, keep in sorted({cell[:2] for cell in cells}, reverse=True):
        parts += [
            "",
            f"{said[network]} at {keep}, any width, fine-tuned:",
            "",
            head("arm", "before", *map(str, epochs)),
        ]
        for arm in dict.fromkeys(cell[3] for cell in cells if cell[:2] == (network, keep)):
            tuned = [found.get((network, keep, 1, arm, number), []) for number in epochs]
            before = mean([row for rows in tuned for row in rows], "before")
            parts.append(line(arm, percent(before), *(cell_of(rows, keep) for rows in tuned)))
    return parts


def cell_of(rows: Sequence[Row], keep: float) -> str:
    """Return one cell: the accuracy, and the share of the MACs where it is far from what was asked for."""
    top1 = mean(rows)
    if top1 is None:
        return "failed" if rows else ""
    text = f"{100 * top1:.2f}"
    if len(rows) > 1:
        text += f" ± {100 * statistics.stdev(row['top1'] for row in rows):.2f} ({len(rows)})"
    macs = statistics.mean(row["macs"] for row in rows)
    return text if abs(macs - keep) <= 0.02 else f"{text}, {macs:.2f} of the MACs"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def beaten(found: Mapping[Cell, Sequence[Row]], network: str) -> list[str]:
    """Return where another arm has more than ours at the same target; our own ablations are named as such."""
    texts: list[str] = []
    for cell, rows in found.items():
        name, keep, multiple, arm, epochs = cell
        theirs, ours = mean(rows), mean(found.get((network, keep, multiple, OURS, epochs), []))
        if arm.startswith(f"{OURS}, "):  # ours with other images, or other shares
            continue
        if name == network and theirs is not None and ours is not None and theirs > ours:
            what = "its ablation " if arm in ABLATIONS else ""
            after = f", {epochs} epochs" if epochs else ""
            where = f"{network} at {keep}, multiple {multiple}{after}"
            texts.append(f"{where}: {what}{arm} {100 * theirs:.2f}, ours {100 * ours:.2f}")
    return texts


def failures(rows: Sequence[Row]) -> list[str]:
    """Return which of the numbers that must hold do not, or were not measured."""
    found = by_cell(rows)
    missed: list[str] = []
    for (network, keep), least in MUST.items():
        for multiple, wanted in least.items():
            draws = found.get((network, keep, multiple, OURS, 0), [])
            where = f"{network} at {keep}, multiple {multiple}"
            top1 = mean(draws)
            if {row["seed"] for row in draws} < set(SEEDS) or top1 is None:
                missed.append(f"{where}: {len(draws)} of {len(SEEDS)} draws were measured")
            elif top1 < wanted:
                missed.append(f"{where}: {100 * top1:.2f} %, not {100 * wanted:.1f} %")
            missed += [f"{where}: {row['macs']:.4f} of the MACs" for row in draws if row.get("macs", 0) > keep + 1e-9]
    return missed
