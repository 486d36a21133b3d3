"""Metrics of a task as text, alike in the terminal and on the page."""

from __future__ import annotations

from secateur.report.numbers import percent, signed
from secateur.tasks import Metric


def capital(name: str) -> str:
    """Return a name as a label; what is an abbreviation stays as it is."""
    return name[:1].upper() + name[1:] if name[1:2].islower() and name.partition(" ")[0].islower() else name


def metric_text(metric: Metric, value: float, digits: int | None = None) -> str:
    """Return a value of a metric as the tables write it, shares with other digits where asked."""
    return percent(value, metric.digits if digits is None else digits) if metric.unit == "%" else metric.text(value)


def metric_change(metric: Metric, before: float, after: float) -> str:
    """Return a difference of two values of a metric as the tables write it."""
    unit = "points" if metric.unit == "%" else metric.unit
    return f"{signed(metric.scale * (after - before), metric.digits)}{f' {unit}' if unit else ''}"
