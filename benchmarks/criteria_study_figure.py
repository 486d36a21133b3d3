"""The picture of ``criteria_study.py``: each method after the bare cut and after the fit, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from svg_page import svg_page

WIDTH, TOP, LINE, HEAD, LEFT, RIGHT = 540, 66, 24, 34, 256, 22
STYLE = (
    ".page{fill:#fff}text{fill:#24292f}.grid{stroke:#d0d7de}.way{stroke:#9aa4af;stroke-width:2}"
    ".cut{fill:#fff;stroke:#57606a;stroke-width:2}.fit{fill:#c2410c}"
    "@media(prefers-color-scheme:dark){.page{fill:#1c2128}text{fill:#e6edf3}.grid{stroke:#444c56}"
    ".cut{fill:#1c2128;stroke:#9aa4af}.fit{fill:#fb923c}}"
)


class Pair(NamedTuple):
    """Accuracies of one method in per cent."""

    label: str
    cut: float
    fitted: float
    control: bool = False


def figure(panels: Mapping[str, Sequence[Pair]]) -> str:
    """Return the SVG: one panel for each size, one line for each method."""
    heights = [HEAD + LINE * len(pairs) + 30 for pairs in panels.values()]
    height = TOP + sum(heights)
    parts = [
        '<circle class="cut" cx="20" cy="22" r="5"/><text x="34" y="27">the cut alone</text>',
        '<circle class="fit" cx="20" cy="46" r="5"/>'
        '<text x="34" y="51">fitted to the dense network on 1,000 images without labels</text>',
    ]
    top = TOP
    for (title, pairs), taken in zip(panels.items(), heights, strict=True):
        parts += panel(top, title, pairs)
        top += taken
    return svg_page(
        "Accuracy of each method after the bare cut and after the fit, without any training",
        WIDTH,
        height,
        STYLE,
        parts,
    )


def panel(top: float, title: str, pairs: Sequence[Pair]) -> list[str]:
    """Return one panel: per cent from left to right."""

    def x(percent: float) -> float:
        return LEFT + percent / 100 * (WIDTH - LEFT - RIGHT)

    bottom = top + HEAD + LINE * len(pairs)
    parts = [f'<text x="12" y="{top + 16}" font-weight="600">Top-1 in % at {escape(title)}</text>']
    for percent in range(0, 101, 20):
        at = x(percent)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{top + HEAD - 8}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{percent}</text>')
    for place, pair in enumerate(pairs):
        y = top + HEAD + LINE * place + LINE / 2 - 4
        slant = ' font-style="italic"' if pair.control else ""
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 5:.1f}" text-anchor="end" font-size="12"{slant}>'
            f"{escape(pair.label)}</text>",
            f'<line class="way" x1="{x(pair.cut):.1f}" y1="{y:.1f}" x2="{x(pair.fitted):.1f}" y2="{y:.1f}"/>',
            f'<circle class="cut" cx="{x(pair.cut):.1f}" cy="{y:.1f}" r="4"/>',
            f'<circle class="fit" cx="{x(pair.fitted):.1f}" cy="{y:.1f}" r="5"/>',
        ]
    return parts
