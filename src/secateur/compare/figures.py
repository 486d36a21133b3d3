"""The charts of a comparison, as HTML fragments that expect plotly.js on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from secateur.compare.findings import Findings, Line
from secateur.report.figures import BEFORE, fragment
from secateur.tasks import ACCURACY

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b98000", "#3a97cf", "#8c6d31", "#7b5ea7")
"""Told apart by most eyes (after Okabe and Ito, two of them darker, to be seen on white), then two more."""
CONTROL_COLORS = ("#7a8794", "#5f6b78", "#8b96a1")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon")


def trade_off(found: Findings, quantity: str) -> str:
    """Return the test metric over what is left, a line for each method, with the standard deviation and every run.

    Args:
        found: the table.
        quantity: ``"macs"``, ``"params"`` (in percent of the dense network) or ``"latency"`` (in milliseconds).
    """
    import plotly.graph_objects as go

    size: Callable[[Line], float | None] = {
        "macs": lambda line: 100 * line.macs,
        "params": lambda line: 100 * line.params,
        "latency": lambda line: line.latency.mean if line.latency else None,
    }[quantity]
    lines = [line for line in found.lines if line.keep is not None and size(line) is not None]
    names = {line.name: line.control for line in sorted(lines, key=lambda line: line.control)}
    figure = go.Figure()
    for number, (name, control) in enumerate(names.items()):
        mine = sorted((line for line in lines if line.name == name), key=lambda line: line.keep or 0.0)
        style = _style(number, control, sum(not c for c in names.values()))
        _add(figure, name, mine, [size(line) for line in mine], style)
    _reference(figure, found)
    title = {"macs": "MACs left in %", "params": "parameters left in %", "latency": "milliseconds a forward pass"}
    figure.update_xaxes(title_text=title[quantity])
    figure.update_yaxes(title_text=f"test {found.metric.title}")
    says = f"Test {found.metric.name} of {len(names)} methods over {title[quantity]}"
    return fragment(figure, f"trade-off-{quantity}", 420, says, below=len(names))


def _style(number: int, control: bool, methods: int) -> dict[str, Any]:
    if control:
        place = number - methods
        return {
            "color": CONTROL_COLORS[place % len(CONTROL_COLORS)],
            "dash": "dot",
            "symbol": f"{MARKERS[place % len(MARKERS)]}-open",
        }
    lap = number // len(COLORS)  # colours that come again get other markers
    symbol = MARKERS[(number + lap) % len(MARKERS)]
    return {"color": COLORS[number % len(COLORS)], "dash": "solid" if not lap else "dash", "symbol": symbol}


def _add(figure: Any, name: str, lines: Sequence[Line], sizes: Sequence[float | None], style: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    metric = lines[0].metric if lines else ACCURACY
    stds = [metric.scale * (line.test.std or 0.0) for line in lines]
    figure.add_trace(
        go.Scatter(
            x=sizes,
            y=[metric.scale * line.test.mean for line in lines],
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line={"color": style["color"], "width": 2, "dash": style["dash"]},
            marker={"color": style["color"], "size": 9, "symbol": style["symbol"]},
            error_y={"type": "data", "array": stds, "thickness": 1.5, "width": 4, "visible": any(stds)},
            customdata=[[line.keep, _count(len(line.seeds))] for line in lines],
            hovertemplate=f"%{{y:.{metric.digits}f}} {metric.unit} (keep %{{customdata[0]}}, %{{customdata[1]}})",
        )
    )
    if any(len(line.seeds) > 1 for line in lines):
        points = [(size, metric.scale * v) for line, size in zip(lines, sizes, strict=True) for v in line.test.values]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                mode="markers",
                marker={"color": style["color"], "size": 4, "opacity": 0.5},
                legendgroup=name,
                showlegend=False,
                hoverinfo="skip",
            )
        )


def _count(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def _reference(figure: Any, found: Findings) -> None:
    """Draw the dense network as a line: as it came, and trained on."""
    if not found.lines:
        return
    scale = found.metric.scale
    levels = [("dense network", scale * (found.dense or found.lines[0].dense).mean, "dash")]
    levels += [(line.label, scale * line.test.mean, "longdash") for line in found.at(None)]
    for name, level, dash in levels:
        figure.add_hline(y=level, line={"color": BEFORE, "width": 1.5, "dash": dash})
        figure.add_annotation(
            x=0 if dash == "dash" else 1,
            xref="paper",
            y=level,
            text=name,
            showarrow=False,
            xanchor="left" if dash == "dash" else "right",
            yanchor="bottom",
            font={"size": 11, "color": "#7a8794"},
        )
