"""Tables of what ``real_speed.py`` has measured, and what must hold of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from markdown_tables import head, line

Row: TypeAlias = dict[str, Any]

VARIANTS = {
    "ours": "default",
    "multiple=1": "any width",
    "tp round_to=1": "Torch-Pruning, any width",
    "tp round_to=16": "Torch-Pruning, multiples of 16",
}
RUNTIMES = ("eager", "channels_last", "compile", "onnxruntime", "openvino")
CIFAR = ("resnet20", "resnet56")
RESNETS = ("resnet18", "resnet50")
FIVE = (*RESNETS, "densenet121", "mobilenet_v2", "efficientnet_b0")
FIFTEEN = (
    *(*FIVE, *CIFAR, "regnet_x_400mf", "convnext_tiny", "vgg16_bn", "googlenet", "shufflenet_v2_x1_0"),
    *("mobilenet_v3_large", "unet", "ssdlite320_mobilenet_v3_large"),
)
REACHED = 0.9  # share of what the fastest network by the table of layers attains that counts as reached


def key(row: Row) -> tuple[str, str, int, int]:
    return row["network"], row["runtime"], row["batch"], row["threads"]


def tables(rows: Sequence[Row]) -> str:
    """Return everything there is to say, in Markdown."""
    found = {key(row): row for row in rows}
    parts = ["Time ratio dense / thin, of the MACs ratio, share of it. One image, one thread, processor time.", ""]
    parts += main_table(found)
    conditions = sorted({(row["threads"], row["batch"]) for row in rows} - {(1, 1)})
    for threads, batch in conditions:
        parts += ["", f"Default limits, batch {batch}, {threads} thread{'s' * (threads > 1)}:", ""]
        parts += runtimes_table(found, batch, threads)
    parts += [
        "",
        "Possible for the CIFAR ResNets by the table of layers, on grids of widths:",
        "",
        *possible_table(found),
    ]
    slow = [line for row in rows for line in slower(row)]
    parts += ["", "Slower than dense:", "", *([f"- {line}" for line in slow] or ["- none"])]
    notes = dict.fromkeys(line for row in rows for line in reasons(row))
    return "\n".join([*parts, "", "Without a time:", "", *([f"- {note}" for note in notes] or ["- none"])])


def main_table(found: dict[tuple[str, str, int, int], Row]) -> list[str]:
    """Return a line for each network and runtime, a column for each variant."""
    lines = [head("network", "runtime", "dense ms", *VARIANTS.values())]
    for network in FIFTEEN:
        for runtime in RUNTIMES:
            row = found.get((network, runtime, 1, 1))
            if row is None or "failed" in row:
                continue
            cells = [said(row["variants"].get(name)) for name in VARIANTS]
            lines.append(line(network, runtime, f"{row['dense']['ms']:.3g}", *cells))
    return lines


def compact(rows: Sequence[Row]) -> str:
    """Return a line for each network, a column for each runtime at one image and one thread; last any width."""
    found = {key(row): row for row in rows}
    timed = [it for it in RUNTIMES if any(row["runtime"] == it and "variants" in row for row in rows)]
    lines = [head("network", *timed, "onnxruntime, any width")]
    for network in FIFTEEN:
        cells = [(runtime, "ours") for runtime in timed] + [("onnxruntime", "multiple=1")]
        variants = [found.get((network, runtime, 1, 1), {}).get("variants", {}).get(name) for runtime, name in cells]
        lines.append(line(network, *(factor(it) for it in variants)))
    return "\n".join(lines)


def factor(it: dict[str, Any] | None) -> str:
    """Return how many times faster, in bold where that is slower."""
    if it is None or "failed" in it:
        return "-"
    text = f"{it['time']:.2f}"
    return f"**{text}**" if it["interval"][1] < 1 else text


def runtimes_table(found: dict[tuple[str, str, int, int], Row], batch: int, threads: int) -> list[str]:
    """Return a line for each network, a column for each runtime."""
    lines = [head("network", *RUNTIMES)]
    for network in FIFTEEN:
        cells = [found.get((network, runtime, batch, threads)) for runtime in RUNTIMES]
        if any(cells):
            lines.append(line(network, *(said(row and row.get("variants", {}).get("ours")) for row in cells)))
    return lines


def possible_table(found: dict[tuple[str, str, int, int], Row]) -> list[str]:
    lines = [
        head("network", "runtime", "outside convolutions", "best by the table", "its widths", "it attains", "default")
    ]
    for network in CIFAR:
        for runtime in RUNTIMES:
            row = found.get((network, runtime, 1, 1), {})
            best = possible(row)
            if best is None:
                continue
            grid, it = best
            widths = ", ".join(f"{name} {width}" for name, width in it["widths"].items())
            by_table = f"{it['time']:.2f} of {it['macs']:.2f} (multiples of {grid})"
            rest = f"{100 * row['possible']['rest']:.0f} %"
            attained = said(row["possible"].get("attained"))
            lines.append(line(network, runtime, rest, by_table, widths, attained, said(row["variants"].get("ours"))))
    return lines


def possible(row: Row) -> tuple[str, dict[str, Any]] | None:
    """Return the grid with the best time ratio by the table of layers."""
    grids = {grid: it for grid, it in row.get("possible", {}).get("grids", {}).items() if it is not None}
    return max(grids.items(), key=lambda item: item[1]["time"], default=None)


def said(it: dict[str, Any] | None) -> str:
    """Return one cell: how many times faster, of how many times fewer MACs."""
    if it is None or "failed" in it:
        return "-"
    text = f"{it['time']:.2f} of {it['macs']:.2f} ({100 * it['share']:.0f} %)"
    return f"**{text}**" if it["interval"][1] < 1 else text


def where(row: Row) -> str:
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    return f"{row['network']} in {row['runtime']}, batch {row['batch']}, {threads}"


def slower(row: Row) -> list[str]:
    """Return our variants that are slower than the dense network beyond the noise."""
    ours = {name: row.get("variants", {}).get(name, {"failed": ""}) for name in ("ours", "multiple=1")}
    return [
        f"{where(row)}: {VARIANTS[name]} {it['time']:.2f} ({it['interval'][0]:.2f} to {it['interval'][1]:.2f})"
        for name, it in ours.items()
        if "failed" not in it and it["interval"][1] < 1
    ]


def reasons(row: Row) -> list[str]:
    if "failed" in row:
        return [f"{where(row)}: {row['failed']}"]
    return [
        f"{row['network']}, {VARIANTS[name]}: {it['failed']}" for name, it in row["variants"].items() if "failed" in it
    ]


def failures(rows: Sequence[Row]) -> list[str]:
    """Return what does not hold, or was not measured, of one thread and the default limits."""
    found = {key(row): row for row in rows}
    missed: list[str] = []
    for network in FIVE:
        missed += fast_enough(found, network, "onnxruntime", 0.9)
        missed += fast_enough(found, network, "channels_last", 0.8 if network in RESNETS else 0.7)
    for network in FIFTEEN:
        missed += [it for runtime in RUNTIMES for it in never_slower(found, network, runtime)]
    return missed + [it for network in CIFAR for it in reached(found, network)]


def fast_enough(found: dict[tuple[str, str, int, int], Row], network: str, runtime: str, least: float) -> list[str]:
    """Say whether a share is too small, or smaller than that of Torch-Pruning beyond the noise."""
    row = found.get((network, runtime, 1, 1), {})
    ours = row.get("variants", {}).get("ours", {"failed": ""})
    theirs = row.get("variants", {}).get("tp round_to=16", {"failed": ""})
    if "failed" in ours:
        return []  # said once, by never_slower
    missed: list[str] = []
    if ours["share"] < least:
        missed.append(f"{network} in {runtime}: {100 * ours['share']:.0f} % of the MACs ratio, not {100 * least:.0f} %")
    if "failed" not in theirs and ours["interval"][1] / ours["macs"] < theirs["interval"][0] / theirs["macs"]:
        missed.append(
            f"{network} in {runtime}: {100 * ours['share']:.0f} % of the MACs ratio, Torch-Pruning in multiples of 16 "
            f"{100 * theirs['share']:.0f} %"
        )
    return missed


def never_slower(found: dict[tuple[str, str, int, int], Row], network: str, runtime: str) -> list[str]:
    row = found.get((network, runtime, 1, 1))
    if row is None:
        return [f"{network} in {runtime}: not measured"]
    failed = row.get("failed") or row["variants"]["ours"].get("failed")
    if failed:
        return [f"{network} in {runtime}: no time: {failed}"]
    batches = (
        found[it] for it in found if (it[0], it[1], it[3]) == (network, runtime, 1) and "failed" not in found[it]
    )
    ours = ((row, row["variants"]["ours"]) for row in batches)
    return [
        f"{where(row)}: slower than dense, {it['time']:.2f}" for row, it in ours if it.get("interval", (0, 1))[1] < 1
    ]


def reached(found: dict[tuple[str, str, int, int], Row], network: str) -> list[str]:
    """Say where the default is slower than the network that is the fastest by the table of layers, as measured."""
    missed: list[str] = []
    for runtime in RUNTIMES:
        row = found.get((network, runtime, 1, 1), {})
        best, ours = row.get("possible", {}).get("attained", {}), row.get("variants", {}).get("ours", {})
        if "time" in best and "time" in ours and ours["interval"][1] < REACHED * best["time"]:
            missed.append(f"{network} in {runtime}: {ours['time']:.2f}, the best by the table {best['time']:.2f}")
    return missed
