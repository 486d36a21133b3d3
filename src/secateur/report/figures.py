"""The charts of the report, as HTML fragments that expect plotly.js on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from secateur.outcome.network_stages import measured, metric_of, quality_in
from secateur.tasks import Metric

BEFORE, AFTER = "#7b899c", "#2f9e5b"
TRAIN, VALIDATION = "#c9770f", "#2878c8"
"""At least three times as light or as dark as white and as the dark page (WCAG 2.2, 1.4.11)."""
_SYMBOLS = ("circle", "square", "diamond")
_GRID = "rgba(128,128,128,0.25)"


def widths(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return bars of the output channels of each layer, before and after."""
    import plotly.graph_objects as go

    names = [str(layer["layer"]) for layer in layers]
    figure = go.Figure(
        [
            go.Bar(name=when, x=names, y=[layer[key] for layer in layers], marker={"color": color})
            for when, key, color in (("before", "before", BEFORE), ("after", "after", AFTER))
        ]
    )
    figure.update_layout(barmode="group", bargap=0.25, yaxis_title="output channels", xaxis={"type": "category"})
    return fragment(figure, "widths", 380, f"Output channels of {len(layers)} layers, before and after pruning")


def groups(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return which layers lose channels together: a line for each group over the layers that it ties.

    Args:
        layers: rows of the explanation, in the order of execution; those without a group stay as they are.
    """
    import plotly.graph_objects as go

    names = [str(layer["layer"]) for layer in layers]
    members: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        members.setdefault(str(layer["group"]), []).append(layer)
    stay = members.pop("", [])
    figure = go.Figure()
    for group, tied in [*members.items(), *([("stays", stay)] if stay else [])]:
        figure.add_trace(
            go.Scatter(
                x=[str(layer["layer"]) for layer in tied],
                y=[group] * len(tied),
                mode="markers" if tied is stay else "lines+markers",
                line={"color": AFTER, "width": 3},
                marker={"color": BEFORE if tied is stay else AFTER, "size": 9},
                customdata=[[layer["prunable"], layer["width"]] for layer in tied],
                hovertemplate="%{x}: %{customdata[0]} of %{customdata[1]} channels can go<extra></extra>",
                showlegend=False,
            )
        )
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed")
    says = f"Which of {len(names)} layers lose channels together, in {len(members)} groups"
    return fragment(figure, "groups", 120 + 22 * (len(members) + bool(stay)), says)


def search(errors: Sequence[float], complete: Sequence[bool], number: int, metric: Metric | None = None) -> str:
    """Return how good each candidate of a search is in the order of trial, the best so far, and how they spread.

    Args:
        errors: of each candidate the share of wrong validation images, or ``Metric.error``.
        complete: whether it saw all images; the others were given up when they could no longer win.
        number: of the search, which tells its chart from others.
        metric: whose values are drawn; None for the share of wrong images itself.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    drawn = partial(valued, metric) if metric else lambda error: 100.0 * error
    shares = [drawn(error) for error in errors]
    best = [drawn(min(errors[: i + 1])) for i in range(len(errors))]
    order = list(range(1, len(shares) + 1))
    colors = [TRAIN if whole else BEFORE for whole in complete]
    figure = make_subplots(rows=1, cols=2, column_widths=[0.7, 0.3], shared_yaxes=True, horizontal_spacing=0.03)
    figure.add_trace(go.Scatter(x=order, y=shares, mode="markers", name="candidate", marker={"color": colors}), 1, 1)
    line = {"color": AFTER, "width": 2, "shape": "hv"}
    figure.add_trace(go.Scatter(x=order, y=best, mode="lines", name="best so far", line=line), 1, 1)
    counts, edges = np.histogram(shares, bins="auto")
    middles = (edges[:-1] + edges[1:]) / 2
    bars = {"marker": {"color": BEFORE}, "showlegend": False, "hoverinfo": "x"}
    spread = {"x": counts.tolist(), "y": middles.tolist(), "width": np.diff(edges).tolist()}
    figure.add_trace(go.Bar(**spread, orientation="h", **bars), 1, 2)
    figure.update_xaxes(title_text="candidates tried", col=1)
    figure.update_xaxes(title_text="how many", col=2)
    figure.update_yaxes(title_text=f"validation {metric.title if metric else 'error in %'}", col=1)
    shown = metric.name if metric else "error"
    says = f"Validation {shown} of {len(shares)} candidates in the order of trial, and the best so far"
    return fragment(figure, f"search-{number}", 350, says)


def valued(metric: Metric, error: float) -> float:
    """Return the value of a metric that has an error, as it is shown."""
    return metric.scale * metric.value_of(error)


def trade_off(document: Mapping[str, Any]) -> str:
    """Return the metric against what is left of MACs, parameters and latency, from the dense to the final network.

    Args:
        document: content of measurement.json; with qualities.
    """
    import plotly.graph_objects as go

    before, after = document["before"], document["after"]
    metric = metric_of(document)
    known = [(name, network, found) for name, network in measured(document).items() if (found := quality_in(network))]
    sizes = [("MACs", "counts", "macs"), ("parameters", "counts", "params"), ("latency", "latency", "milliseconds")]
    figure = go.Figure()
    for (size, part, key), color, symbol in zip(sizes, (AFTER, VALIDATION, TRAIN), _SYMBOLS, strict=True):
        if not before[part] or not after[part] or not before[part][key]:
            continue
        left = 100 * after[part][key] / before[part][key]
        points = [(100.0 if network is before else left, found, name) for name, network, found in known]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _, _ in points],
                y=[metric.scale * found.value for _, found, _ in points],
                name=size,
                mode="lines+markers",
                line={"color": color, "width": 2, "dash": "dot"},
                marker={
                    "color": color,
                    "size": 10,
                    "symbol": [symbol, *[f"{symbol}-open"] * (len(points) - 2), symbol],
                },
                customdata=[words for _, _, words in points],
                hovertemplate=f"%{{customdata}}: %{{y:.{metric.digits}f}} {metric.unit} with %{{x:.1f}} % left",
            )
        )
    figure.update_xaxes(title_text="left of the dense network in %", rangemode="tozero")
    figure.update_yaxes(title_text=f"test {metric.title}")
    says = f"Test {metric.name} over what is left of MACs, parameters and latency"
    return fragment(figure, "trade-off", 330, says)


def training(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], quantity: str, metric: Metric) -> str:
    """Return the curves of ``"loss"`` or ``"metric"`` over all epochs, run after run.

    Args:
        runs: name and rows of each training, in the order of time.
        quantity: which of the two.
        metric: of the task.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    scale = metric.scale if quantity == "metric" else 1.0
    start, total = 0, sum(len(rows) for _, rows in runs)
    for number, (name, rows) in enumerate(runs):
        epochs = list(range(start + 1, start + len(rows) + 1))
        for part, label, color in (("train", "training", TRAIN), ("val", "validation", VALIDATION)):
            values = [None if (v := of_epoch(row, f"{part}_{quantity}")) is None else scale * v for row in rows]
            line = {"color": color, "width": 2, "dash": "dot" if part == "train" else "solid"}
            mode = "lines+markers" if len(rows) < 3 else "lines"
            figure.add_trace(
                go.Scatter(
                    x=epochs, y=values, name=label, mode=mode, line=line, legendgroup=part, showlegend=not number
                )
            )
        if len(runs) > 1 and len(rows) >= 0.17 * total:  # else the names would lie on each other on a phone
            figure.add_annotation(
                x=start + 0.5, y=1, yref="paper", text=name, showarrow=False, xanchor="left", yanchor="bottom"
            )
        if number:
            figure.add_vline(x=start + 0.5, line={"color": _GRID, "dash": "dash"})
        start += len(rows)
    figure.update_xaxes(dtick=math.ceil(start / 10))
    title = metric.title if quantity == "metric" else "loss"
    figure.update_layout(hovermode="x unified", xaxis_title="epoch", yaxis_title=title)
    says = f"{title} of training and validation over {start} epoch{'' if start == 1 else 's'}"
    return fragment(figure, quantity, 350, says, above=1.1)  # over the names of the runs


def of_epoch(row: Mapping[str, Any], name: str) -> float | None:
    """Return a number of an epoch; earlier versions wrote the metric as the accuracy."""
    return row[name] if name in row else row.get(name.replace("metric", "accuracy"))


def script() -> str:
    """Return plotly.js with lines, markers and bars alone: a quarter of the bundle that plotly for Python has.

    It is ``plotly-basic.min.js`` of the npm package plotly.js-basic-dist-min 4.1.1 (MIT), as it is.
    """
    return resources.files("secateur.report").joinpath("static", "plotly-basic.min.js").read_text("utf-8")


def fragment(figure: Any, name: str, height: int, says: str, above: float = 1.02, below: int = 0) -> str:
    """Return a figure as a fragment of HTML in the looks of the report.

    Args:
        figure: a plotly figure.
        name: of its element, after ``chart-``.
        height: in pixels.
        says: what it shows, for readers who hear the page; the points are read out by the arrow keys (``page.js``).
        above: where a legend above the chart begins; the chart's upper edge is 1.
        below: names in a legend that stands below the chart instead, where there are many.
    """
    import plotly.io

    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    place = {"y": above, "yanchor": "bottom"}
    foot = 48
    if below:
        place = {"y": 0, "yref": "container", "yanchor": "bottom"}
        foot += 14 + 20 * math.ceil(below / 2)  # two names in a row on a phone
    figure.update_layout(
        template="none",
        height=height + foot - 48,
        dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 56, "r": 12, "t": 36 if above < 1.1 else 60, "b": foot},
        legend={"orientation": "h", "x": 0, "xanchor": "left", **place},
        hoverlabel={"bgcolor": "#1f2937", "font": {"color": "#ffffff"}},
    )
    figure.update_xaxes(**axis, showgrid=name != "widths")
    figure.update_yaxes(**axis)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    drawn = plotly.io.to_html(
        figure,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        div_id=f"chart-{name}",
        default_height=f"{height + foot - 48}px",
    )
    return (
        f'<div class="plot" role="figure" tabindex="0" aria-label="{escape(says)}. Arrow keys read the points.">'
        f'{drawn}<p class="heard" aria-live="polite"></p></div>'
    )
