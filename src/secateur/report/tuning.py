"""The charts of a search over pruning parameters, as HTML fragments that expect plotly.js on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.figures import AFTER, BEFORE, TRAIN, VALIDATION, fragment, valued
from secateur.tasks import ACCURACY, Metric


def charts(searches: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the objectives of each search, the parameters of all, and the course of the training.

    Args:
        searches: those of the document that have ``tuning``, in the order of time.
    """
    if not searches:
        return []
    drawn = [objectives(search, number) for number, search in enumerate(searches, 1)]
    if len(searches) > 1:
        drawn.append(parameters(searches))
    if any(search["tuning"]["course"] for search in searches):
        drawn.append(course(searches))
    return drawn


def objectives(search: Mapping[str, Any], number: int) -> str:
    """Return the objective against the trials, and the best so far; the winner is marked."""
    import plotly.graph_objects as go

    tuning, best = search["tuning"], int(search["best"])
    values: list[float | None] = list(tuning["values"])
    order = list(range(1, len(values) + 1))
    lowest: list[float | None] = []
    for value in values:
        known = [v for v in (value, lowest[-1] if lowest else None) if v is not None]
        lowest.append(min(known) if known else None)
    texts = [
        "<br>".join(f"{name}: {x:.3g}" for name, x in zip(tuning["names"], point, strict=True))
        for point in tuning["points"]
    ]
    colors = [AFTER if i == best else BEFORE for i in range(len(values))]
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(x=order, y=values, mode="markers", name="trial", marker={"color": colors, "size": 8}, text=texts)
    )
    line = {"color": AFTER, "width": 2, "shape": "hv"}
    figure.add_trace(go.Scatter(x=order, y=lowest, mode="lines", name="best so far", line=line, hoverinfo="skip"))
    goal = f" with at most {tuning['goal']:.1%} of the {tuning['of']}" if tuning["goal"] is not None else ""
    metric = metric_in(search)
    wanted = "objective" if tuning["goal"] is None else f"error by {metric.name}" if metric else "error"
    figure.update_layout(xaxis_title=f"trials of search {number}{goal}", yaxis_title=f"{wanted} without retraining")
    return fragment(figure, f"tuning-{number}", 330, f"The {wanted} of {len(values)} trials, and the best so far")


def parameters(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return the chosen parameters, search after search: a line for each."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = list(dict.fromkeys(name for search in searches for name in search["tuning"]["names"]))
    for name in names:
        places: list[int] = []
        chosen: list[float] = []
        for number, search in enumerate(searches, 1):
            tuning = search["tuning"]
            if name in tuning["names"]:
                places.append(number)
                chosen.append(tuning["points"][search["best"]][tuning["names"].index(name)])
        figure.add_trace(go.Scatter(x=places, y=chosen, mode="lines+markers", name=name))
    figure.update_layout(xaxis_title="search", yaxis_title="chosen parameter")
    figure.update_xaxes(dtick=1)
    return fragment(figure, "tuning-parameters", 330, "Chosen parameters, search after search", below=len(names))


def course(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return how much of the network was in play, and how well it did, as the training went on."""
    import plotly.graph_objects as go

    metric = metric_in(searches[0]) or ACCURACY
    marks = [mark for search in searches for mark in search["tuning"]["course"]]
    steps, beside = [mark[0] for mark in marks], metric.unit != "%"
    figure = go.Figure()
    for name, values, color, axis in (
        (f"{searches[0]['tuning']['of']} left", [100.0 * mark[1] for mark in marks], VALIDATION, "y"),
        (
            f"{metric.name} on the images that judge",
            [valued(metric, mark[2]) for mark in marks],
            TRAIN,
            "y2" if beside else "y",
        ),
    ):
        line = {"color": color, "width": 2}
        figure.add_trace(go.Scatter(x=steps, y=values, mode="lines+markers", name=name, line=line, yaxis=axis))
    figure.update_layout(xaxis_title="optimizer steps", yaxis_title="%", hovermode="x unified")
    if beside:
        figure.update_layout(yaxis2={"title": {"text": metric.title}, "overlaying": "y", "side": "right"})
    return fragment(figure, "tuning-course", 330, f"What is left, and {metric.name}, over the optimizer steps")


def metric_in(search: Mapping[str, Any]) -> Metric | None:
    """Return what the errors of a search are of; None for the share of wrong images."""
    return Metric(**search["metric"]) if search.get("metric") else None
