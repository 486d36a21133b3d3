"""The picture and the table of ``accuracy_and_time.py``: an SVG for light and dark pages and small screens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_tables import head, line
from svg_page import svg_page

NAMES = {"resnet20_projection": "ResNet-20", "resnet56_projection": "ResNet-56"}
WAYS = {
    ("Secateur", True): ("Secateur, fine-tuned", "#c2410c", "#fb923c", ""),
    ("Secateur", False): ("Secateur, no training", "#c2410c", "#fb923c", "6 4"),
    ("Torch-Pruning", True): ("Torch-Pruning, fine-tuned", "#7c3aed", "#c4a5ff", ""),
    ("Torch-Pruning", False): ("Torch-Pruning, batch norms anew", "#7c3aed", "#c4a5ff", "6 4"),
}
"""Who cut, and whether it was trained on: words, colours for light and dark pages, and dashes."""
WIDTH, TOP, HEIGHT, LEFT, RIGHT = 480, 116, 250, 46, 16
PLOT = 168  # height of the axes inside a panel
Row = Mapping[str, Any]
Line = list[tuple[float, float]]


def figure(rows: Sequence[Row]) -> str:
    """Return the SVG: accuracy over the share of the dense network's time."""
    panels = {name: lines for name in NAMES if len(lines := lines_of(rows, name)) > 1}
    height = TOP + HEIGHT * len(panels)
    epochs = max((row["epochs"] for row in rows), default=0)
    parts = legend(epochs)
    for place, (name, lines) in enumerate(panels.items()):
        parts += panel(TOP + place * HEIGHT, NAMES[name], lines)
    return svg_page(
        "Accuracy on CIFAR-10 over measured time, without training and after some", WIDTH, height, style(), parts
    )


def lines_of(rows: Sequence[Row], network: str) -> dict[int, Line]:
    """Return the points of each way, from the dense network on; nothing where the dense one was not measured."""
    mine = [row for row in rows if row["network"] == network]
    dense = next((row for row in mine if row["by"] == "dense"), None)
    if dense is None:
        return {}
    lines: dict[int, Line] = {}
    for number, (by, trained) in enumerate(WAYS):
        cells = [row for row in mine if row["by"] == by and bool(row["epochs"]) == trained]
        if cells:  # from large to small: fewer MACs may take longer
            cells.sort(key=lambda row: -row["macs"])
            lines[number] = [(1.0, dense["top1"]), *((row["share"], row["top1"]) for row in cells)]
    return lines


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of all rows."""
    lines = [head("network", "by", "MACs", "time", "95 %", "epochs", "top-1 in %")]
    for row in sorted(rows, key=lambda row: (row["network"], row["epochs"], row["by"], -row["macs"])):
        between = "{:.2f} to {:.2f}".format(*row["interval"])
        sizes = (f"{row['macs']:.2f}", f"{row['share']:.2f}", between)
        lines.append(line(NAMES[row["network"]], row["by"], *sizes, str(row["epochs"]), f"{100 * row['top1']:.2f}"))
    return "\n".join(lines)


def style() -> str:
    """Return colours for both kinds of page; the figure brings its own ground, so that no page makes it illegible."""
    light = [".page{fill:#fff}text{fill:#24292f}.grid{stroke:#d0d7de}polyline{fill:none;stroke-width:2.5}"]
    dark = [".page{fill:#1c2128}text{fill:#e6edf3}.grid{stroke:#444c56}"]
    for number, (_, bright, dim, dash) in enumerate(WAYS.values()):
        light.append(
            f".w{number}{{stroke:{bright};stroke-dasharray:{dash or 'none'}}}circle.w{number}{{fill:{bright}}}"
        )
        dark.append(f".w{number}{{stroke:{dim}}}circle.w{number}{{fill:{dim}}}")
    return f"{''.join(light)}@media(prefers-color-scheme:dark){{{''.join(dark)}}}"


def legend(epochs: int) -> list[str]:
    parts: list[str] = []
    for number, (words, *_) in enumerate(WAYS.values()):
        y = 20 + 22 * number
        words = words.replace("fine-tuned", f"{epochs} epoch{'' if epochs == 1 else 's'} of fine-tuning")
        parts.append(f'<line class="w{number}" x1="{LEFT}" y1="{y}" x2="{LEFT + 26}" y2="{y}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 34}" y="{y + 5}">{words}</text>')
    return parts


def panel(top: float, title: str, lines: Mapping[int, Line]) -> list[str]:
    """Return one set of axes: per cent over the share of the time, which falls from left to right."""
    bottom = top + 26 + PLOT
    shares = [share for points in lines.values() for share, _ in points]
    lowest = math.floor(10 * min(top1 for points in lines.values() for _, top1 in points)) / 10
    tenths = range(math.ceil(10 * max(shares)), math.ceil(10 * min(shares) - 1e-9) - 2, -1)

    def x(share: float) -> float:
        return LEFT + (tenths[0] - 10 * share) / (tenths[0] - tenths[-1]) * (WIDTH - LEFT - RIGHT)

    def y(top1: float) -> float:
        return bottom - (top1 - lowest) / (1 - lowest) * PLOT

    parts = [f'<text x="{LEFT}" y="{top + 16}" font-weight="600">{title}: top-1 in %</text>']
    for percent in range(round(100 * lowest), 101, 10):
        at = y(percent / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{percent}</text>')
    for tenth in tenths:
        at = x(tenth / 10)
        anchor = "end" if tenth == tenths[-1] else "middle"
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{y(1):.1f}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{tenth / 10:.1f}</text>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 36}" text-anchor="end">share of the time in ONNX Runtime</text>'
    )
    for number, points in sorted(lines.items(), reverse=True):
        text = " ".join(f"{x(share):.1f},{y(top1):.1f}" for share, top1 in points)
        parts.append(f'<polyline class="w{number}" points="{text}" stroke-linejoin="round"/>')
        parts += [f'<circle class="w{number}" cx="{x(s):.1f}" cy="{y(t):.1f}" r="2.5"/>' for s, t in points]
    return parts
