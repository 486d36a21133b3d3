"""Curves of sensitivity: their chart, their table, and a page of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from secateur.core.selection.sensitivity_curves import Curve
from secateur.report import figures
from secateur.report.metrics import capital, metric_text
from secateur.report.numbers import NONE
from secateur.report.templating import pages
from secateur.tasks import ACCURACY, Metric

KEEPS = (0.9, 0.75, 0.5, 0.25, 0.1)
"""Fractions at which tables read the curves."""
BETWEEN = "~"
"""Stands before what is read between two points that were measured."""
_RAMP = ("#6a4fc4", "#2f7fb8", "#1fa187", "#5f9a1c", "#c9770f")
"""From the first layers to the last; to be seen on white and on black."""


def chart(found: Sequence[Curve], number: int = 1) -> str:
    """Return the validation metric over the share of units left in each group, or the loss where only it is known.

    Args:
        found: in the order of execution, which the colours follow.
        number: of the chart, which tells it from others on the page.
    """
    import plotly.graph_objects as go

    known, metric = all(curve.values for curve in found), metric_in(found)
    figure = go.Figure()
    for place, curve in enumerate(found):
        shares = [100 * kept / curve.size for kept in curve.kept]
        figure.add_trace(
            go.Scatter(
                x=shares,
                y=[metric.scale * value for value in curve.values] if known else list(curve.loss),
                name=curve.group,
                mode="lines+markers",
                line={"color": _colour(place, len(found)), "width": 2},
                marker={"size": 5},
                hovertemplate=f"%{{y:.{metric.digits if known else 2}f}} with %{{x:.0f}} % left",
            )
        )
    figure.update_xaxes(title_text="units left in the group in %", range=[-2, 102])
    figure.update_yaxes(title_text=f"validation {metric.title}" if known else "validation loss")
    shown = metric.name if known else "loss"
    says = f"Validation {shown} of {len(found)} groups over the share of their units that is left"
    return figures.fragment(figure, f"sensitivity-{number}", 420, says, below=len(found))


def metric_in(found: Sequence[Curve]) -> Metric:
    """Return the metric of curves."""
    return next((curve.metric for curve in found if curve.metric), ACCURACY)


def table(found: Sequence[Curve]) -> list[tuple[str, int, list[tuple[str, float]]]]:
    """Return for each group its name, its size, and text and number of the metric at ``KEEPS``.

    The text of what was not measured but lies between two points begins with ``BETWEEN``.
    """
    rows: list[tuple[str, int, list[tuple[str, float]]]] = []
    for curve in found:
        rows.append((curve.group, curve.size, [_cell(curve, keep) for keep in KEEPS]))
    return rows


def _cell(curve: Curve, keep: float) -> tuple[str, float]:
    value = curve.value_at(keep)
    if value is None:
        return NONE, float("nan")
    return ("" if curve.is_measured(keep) else BETWEEN) + metric_text(metric_in([curve]), value), value


def of(document: Mapping[str, Any]) -> list[tuple[Markup, list[tuple[str, int, list[tuple[str, float]]]]]]:
    """Return chart and table of each round of a run that measured curves."""
    rounds = [[Curve.from_dict(curve) for curve in found] for found in document.get("sensitivity", ())]
    return [(Markup(chart(found, number)), table(found)) for number, found in enumerate(rounds, 1) if found]


def page(found: Sequence[Curve], subject: str, method: str, images: int) -> str:
    """Return a page of its own, one file that needs nothing else.

    Args:
        found: the curves.
        subject: network and data in words.
        method: which says what goes first.
        images: how many validation images were looked at.
    """
    return (
        pages("report")
        .get_template("sensitivity.html.j2")
        .render(
            subject=subject,
            method=method,
            images=images,
            sensitivity=[(Markup(chart(found)), table(found))] if found else [],
            keeps=KEEPS,
            metric=metric_in(found),
            metric_label=capital(metric_in(found).name),
            plotly=Markup(figures.script()),
        )
    )


def _colour(place: int, number: int) -> str:
    """Return a colour of the ramp."""
    where = place / max(1, number - 1) * (len(_RAMP) - 1)
    low = min(int(where), len(_RAMP) - 2)
    first, second = (bytes.fromhex(_RAMP[i][1:]) for i in (low, low + 1))
    mixed = [round(a + (b - a) * (where - low)) for a, b in zip(first, second, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"
