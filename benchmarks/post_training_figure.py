"""The picture of ``post_training.py``: an SVG for light and dark pages and small screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from post_training_tables import KEEPS, OURS, Row, by_cell, mean
from svg_page import svg_page

PANELS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56", "resnet56_projection": "ResNet-56, projections",
          "shufflenet_v2_x0_5": "ShuffleNetV2 x0.5"}  # fmt: skip
ARMS = {
    OURS: ("Secateur", "#c2410c", "#fb923c"),
    "magnitude, refit": ("magnitude, layers refitted", "#15803d", "#5fd38a"),
    "random_units, refit": ("random units, layers refitted", "#8a6d00", "#facc15"),
    "torch_pruning, recalibrate": ("Torch-Pruning, batch norms anew", "#7c3aed", "#c4a5ff"),
    "folding, fold": ("Secateur without any image", "#b3267a", "#f78fc5"),
    "magnitude, recalibrate": ("magnitude, batch norms anew", "#1d4ed8", "#7cb3ff"),
    "magnitude": ("magnitude alone", "#57606a", "#9aa4af"),
}
"""What is drawn: words, and colours for light and dark pages; the first is the thickest."""
WIDTH, TOP, HEIGHT, LEFT, RIGHT = 480, 180, 250, 46, 16
PLOT = 168  # height of the axes inside a panel
LESS, MOST = 0.3, 1.0  # of the MACs
Line = list[tuple[float, float]]


def figure(rows: Sequence[Row]) -> str:
    """Return the SVG: accuracy over the share of the MACs, for widths of any number, the mean of all draws."""
    panels = {name: lines for name in PANELS if tells(lines := lines_of(rows, name))}
    height = TOP + HEIGHT * len(panels)
    drawn = [arm for arm in ARMS if any(arm in lines for lines in panels.values())]
    parts = legend(drawn)
    for place, (name, lines) in enumerate(panels.items()):
        parts += panel(TOP + place * HEIGHT, PANELS[name], lines)
    return svg_page(
        "Accuracy on CIFAR-10 over the share of the MACs that is left, without any training",
        WIDTH,
        height,
        style(),
        parts,
    )


def tells(lines: Mapping[str, Line]) -> bool:
    """Tell whether there is anything to compare yet: two lines with three points beside the dense network's."""
    return sum(len(line) > 3 for line in lines.values()) > 1


def lines_of(rows: Sequence[Row], network: str) -> dict[str, Line]:
    """Return the points of each arm, from the dense network on; nothing where the dense one was not measured."""
    found = by_cell(rows)
    dense = mean(found.get((network, 1.0, 1, "dense", 0), []))
    if dense is None:
        return {}
    lines: dict[str, Line] = {}
    for arm in ARMS:
        cells = [found.get((network, keep, 1, arm, 0), []) for keep in KEEPS]
        points = [(macs, top1) for cell in cells if (top1 := mean(cell)) is not None and (macs := mean(cell, "macs"))]
        if points:
            lines[arm] = [(1.0, dense), *points]
    return lines


def style() -> str:
    """Return colours for both kinds of page; the figure brings its own ground, so that no page makes it illegible."""
    light = [".page{fill:#fff}text{fill:#24292f}.grid{stroke:#d0d7de}polyline{fill:none;stroke-width:2}"]
    dark = [".page{fill:#1c2128}text{fill:#e6edf3}.grid{stroke:#444c56}"]
    for number, (_, bright, dim) in enumerate(ARMS.values()):
        light.append(f".a{number}{{stroke:{bright}}}circle.a{number}{{fill:{bright}}}")
        dark.append(f".a{number}{{stroke:{dim}}}circle.a{number}{{fill:{dim}}}")
    light.append("polyline.a0{stroke-width:3.5}")
    return f"{''.join(light)}@media(prefers-color-scheme:dark){{{''.join(dark)}}}"


def legend(arms: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for place, arm in enumerate(arms):
        y, number = 20 + 22 * place, list(ARMS).index(arm)
        parts.append(f'<line class="a{number}" x1="{LEFT}" y1="{y}" x2="{LEFT + 26}" y2="{y}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 34}" y="{y + 5}">{ARMS[arm][0]}</text>')
    return parts


def panel(top: float, title: str, lines: Mapping[str, Line]) -> list[str]:
    """Return one set of axes: per cent over the share of the MACs, which falls from left to right."""
    bottom = top + 26 + PLOT

    def x(macs: float) -> float:
        return LEFT + (MOST - macs) / (MOST - LESS) * (WIDTH - LEFT - RIGHT)

    def y(top1: float) -> float:
        return bottom - top1 * PLOT

    parts = [f'<text x="{LEFT}" y="{top + 16}" font-weight="600">{title}: top-1 in %, no training</text>']
    for percent in range(0, 101, 20):
        at = y(percent / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{percent}</text>')
    for tenth in range(10, 2, -1):
        at, anchor = x(tenth / 10), "end" if tenth == 3 else "middle"
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{y(1):.1f}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{tenth / 10:.1f}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 36}" text-anchor="end">share of the MACs that is left</text>')
    for arm, points in reversed(lines.items()):
        number = list(ARMS).index(arm)
        text = " ".join(f"{x(macs):.1f},{y(top1):.1f}" for macs, top1 in points)
        parts.append(f'<polyline class="a{number}" points="{text}" stroke-linejoin="round"/>')
        parts += [f'<circle class="a{number}" cx="{x(m):.1f}" cy="{y(t):.1f}" r="2.5"/>' for m, t in points]
    return parts
