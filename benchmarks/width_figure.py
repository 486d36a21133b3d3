"""The picture of ``channel_widths.py``: an SVG for light and dark pages and small screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from svg_page import svg_page

PANELS = (
    ("3x3 at 14x14", "outputs", "3x3 convolution, 128 channels in, at 14x14"),
    ("3x3 at 14x14", "inputs", "3x3 convolution, 128 channels out, at 14x14"),
    ("1x1 at 14x14", "outputs", "1x1 convolution, 128 channels in, at 14x14"),
    ("depthwise 3x3 at 28x28", "both", "depthwise 3x3 convolution at 28x28"),
)
NAMED = {"outputs": "channels out", "inputs": "channels in", "both": "channels"}
RUNTIMES = {
    "eager": ("PyTorch eager", "#c2410c", "#fb923c"),
    "channels_last": ("PyTorch channels last", "#8a6d00", "#facc15"),
    "onnxruntime": ("ONNX Runtime", "#1d4ed8", "#7cb3ff"),
    "openvino": ("OpenVINO", "#15803d", "#5fd38a"),
}
FIRST, LAST, GRID = 1, 80, 16
WIDTH, TOP, HEIGHT, LEFT, RIGHT = 480, 66, 212, 52, 14
PLOT = 132  # height of the axes inside a panel


def figure(curves: Mapping[str, Sequence[float]]) -> str:
    """Return the SVG.

    Args:
        curves: milliseconds at the widths 1, 2, ... under ``"LAYER | WAY | RUNTIME"``.
    """
    height = TOP + HEIGHT * len(PANELS)
    there = [
        runtime for runtime in RUNTIMES if any(f"{layer} | {way} | {runtime}" in curves for layer, way, _ in PANELS)
    ]
    parts = legend(there)
    for place, (layer, way, title) in enumerate(PANELS):
        lines = {it: curves[name] for it in there if (name := f"{layer} | {way} | {it}") in curves}
        parts += panel(TOP + place * HEIGHT, title, NAMED[way], lines)
    return svg_page("Milliseconds of single layers by number of channels", WIDTH, height, style(), parts)


def style() -> str:
    """Return colours for both kinds of page; the figure brings its own ground, so that no page makes it illegible."""
    light = [".page{fill:#fff}text{fill:#24292f}.grid{stroke:#d0d7de}polyline{fill:none;stroke-width:2}"]
    dark = [".page{fill:#1c2128}text{fill:#e6edf3}.grid{stroke:#444c56}"]
    for name, (_, bright, dim) in RUNTIMES.items():
        light.append(f".{name}{{stroke:{bright}}}")
        dark.append(f".{name}{{stroke:{dim}}}")
    return f"{''.join(light)}@media(prefers-color-scheme:dark){{{''.join(dark)}}}"


def legend(runtimes: Sequence[str]) -> list[str]:
    parts: list[str] = []
    for place, runtime in enumerate(runtimes):
        x, y = LEFT + 210 * (place % 2), 22 + 22 * (place // 2)
        parts.append(f'<line class="{runtime}" x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 34}" y="{y + 5}">{RUNTIMES[runtime][0]}</text>')
    return parts


def panel(top: float, title: str, below: str, lines: Mapping[str, Sequence[float]]) -> list[str]:
    """Return one set of axes: milliseconds over widths, upright lines at the multiples of 16."""
    most = max((max(times[FIRST - 1 : LAST]) for times in lines.values()), default=1.0)
    step = nice(most / 3)
    ceiling = step * -(-most // step)
    bottom = top + 26 + PLOT

    def x(width: float) -> float:
        return LEFT + (width - FIRST) / (LAST - FIRST) * (WIDTH - LEFT - RIGHT)

    def y(time: float) -> float:
        return bottom - time / ceiling * PLOT

    parts = [f'<text x="{LEFT}" y="{top + 16}" font-weight="600">{title}</text>']
    for number in range(round(ceiling / step) + 1):
        at = y(number * step)
        parts.append(f'<line class="grid" x1="{x(FIRST):.1f}" y1="{at:.1f}" x2="{x(LAST):.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{number * step:.3g}</text>')
    for width in range(GRID, LAST + 1, GRID):
        at = x(width)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{y(ceiling):.1f}" x2="{at:.1f}" y2="{bottom}"/>')
        end = "end" if width == LAST else "middle"
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="{end}">{width}</text>')
    parts.append(f'<text x="{x(FIRST):.1f}" y="{bottom + 18}">ms,</text>')
    parts.append(f'<text x="{x(FIRST):.1f}" y="{bottom + 34}">by {below}</text>')
    for runtime, times in lines.items():
        points = " ".join(f"{x(w):.1f},{y(times[w - 1]):.1f}" for w in range(FIRST, min(LAST, len(times)) + 1))
        parts.append(f'<polyline class="{runtime}" points="{points}" stroke-linejoin="round"/>')
    return parts


def nice(value: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten."""
    power = 10.0**-20
    while power * 10 <= value:
        power *= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)
