"""The picture of ``int8.py``: size on disk over time, as an SVG for light and dark pages and small screens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svg_page import svg_page

NETWORKS = {
    ("resnet50", "macs"): ("ResNet-50", "#1d4ed8", "#7cb3ff"),
    ("resnet18", "macs"): ("ResNet-18", "#15803d", "#5fd38a"),
    ("mobilenet_v2", "macs"): ("MobileNetV2", "#c2410c", "#fb923c"),
    ("mobilenet_v2", "latency"): ("MobileNetV2, half of the latency", "#7c3aed", "#c4a5ff"),
}
PANELS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PATHS = (
    (("dense", "float32"), ("dense", "int8"), ("pruned", "int8")),
    (("dense", "float32"), ("pruned", "float32"), ("pruned", "int8")),
)
"""The two ways from the dense network in float32 to the pruned one in int8."""
WIDTH, TOP, HEIGHT, LEFT, RIGHT = 480, 160, 316, 50, 18
PLOT = 234  # height of the axes inside a panel
Row = Mapping[str, Any]
Place = Callable[[float], float]


def figure(rows: Sequence[Row]) -> str:
    """Return the SVG of the rows that were timed, a panel for each runtime."""
    found = {(row["network"], row["of"]): row for row in rows if row["what"] == "speed"}
    kept = {key: found[key] for key in NETWORKS if key in found}
    panels = [it for it in PANELS if all(it in corner["times"] for row in kept.values() for corner in row["corners"])]
    parts = legend(list(kept))
    for place, runtime in enumerate(panels):
        parts += panel(TOP + place * HEIGHT, runtime, kept)
    title = "Megabytes on disk over milliseconds a picture: dense and pruned networks, in float32 and in int8"
    return svg_page(title, WIDTH, TOP + HEIGHT * len(panels), style(), parts)


def style() -> str:
    """Return colours for both kinds of page; the figure brings its own ground, so that no page makes it illegible."""
    light = [".page,.dense{fill:#fff}text{fill:#24292f}.grid{stroke:#d0d7de}polyline{fill:none;stroke-width:1.5}"]
    light.append(".key{stroke:#24292f}.key.pruned{fill:#24292f}")
    dark = [".page,.dense{fill:#1c2128}text{fill:#e6edf3}.grid{stroke:#444c56}.key{stroke:#e6edf3}"]
    dark.append(".key.pruned{fill:#e6edf3}")
    for number, (_, bright, dim) in enumerate(NETWORKS.values()):
        light.append(f".n{number}{{stroke:{bright}}}.n{number}.pruned{{fill:{bright}}}")
        dark.append(f".n{number}{{stroke:{dim}}}.n{number}.pruned{{fill:{dim}}}")
    return f"{''.join(light)}@media(prefers-color-scheme:dark){{{''.join(dark)}}}"


def legend(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Return what colours and marks mean."""
    parts: list[str] = []
    for place, key in enumerate(keys):
        y = 20 + 22 * place
        number = list(NETWORKS).index(key)
        parts.append(f'<line class="n{number}" x1="{LEFT}" y1="{y}" x2="{LEFT + 26}" y2="{y}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 34}" y="{y + 5}">{NETWORKS[key][0]}</text>')
    for place, (network, precision) in enumerate(dict.fromkeys(corner for path in PATHS for corner in path)):
        x, y = LEFT + 8 + 210 * (place % 2), 24 + 22 * (len(keys) + place // 2)
        parts += [mark("key", x, y, network, precision), f'<text x="{x + 10}" y="{y + 5}">{network} {precision}</text>']
    return parts


def mark(colour: str, x: float, y: float, network: str, precision: str) -> str:
    """Return a ring of a dense and a disc of a pruned network, a square where it is in int8."""
    shown = f'class="{colour} {network}" stroke-width="2"'
    if precision == "int8":
        return f'<rect {shown} x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<circle {shown} cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def panel(top: float, runtime: str, rows: Mapping[tuple[str, str], Row]) -> list[str]:
    """Return one set of axes, both of which grow by the same factor a step."""
    bottom = top + 26 + PLOT
    points = {key: points_of(row, runtime) for key, row in rows.items()}
    every = [point for each in points.values() for point in each.values()]
    x, times = axis([time for time, _ in every], LEFT, WIDTH - RIGHT)
    y, sizes = axis([size for _, size in every], bottom, bottom - PLOT)
    parts = [f'<text x="{LEFT}" y="{top + 16}" font-weight="600">{PANELS[runtime]}: MB on disk</text>']
    for size in sizes:
        at = y(size)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{size:g}</text>')
    for time in times:
        at = x(time)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{bottom - PLOT}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{time:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 36}" text-anchor="end">ms a picture, one thread</text>')
    for key, corners in points.items():
        number = list(NETWORKS).index(key)
        for path in PATHS:
            if all(corner in corners for corner in path):
                line = " ".join(f"{x(corners[corner][0]):.1f},{y(corners[corner][1]):.1f}" for corner in path)
                parts.append(f'<polyline class="n{number}" points="{line}" stroke-linejoin="round"/>')
        parts += [mark(f"n{number}", x(time), y(size), *corner) for corner, (time, size) in corners.items()]
    return parts


def points_of(row: Row, runtime: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return milliseconds and megabytes of each corner that there is."""
    return {
        (each["network"], each["precision"]): (each["times"][runtime]["milliseconds"], each["bytes"] / 1e6)
        for each in row["corners"]
    }


def axis(values: Sequence[float], first: float, last: float) -> tuple[Place, list[float]]:
    """Return where values stand between two ends, and the steps of 1, 2 and 5 times a power of ten around them."""
    steps = [factor * 10.0**power for power in range(-3, 5) for factor in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values))
    high = min(step for step in steps if step >= max(values))
    scale = (last - first) / math.log(high / low)
    return lambda value: first + math.log(value / low) * scale, [step for step in steps if low <= step <= high]
