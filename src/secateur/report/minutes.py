"""How the minutes that a run was given were used, as sentences for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.outcome.network_stages import metric_of
from secateur.report.metrics import metric_text
from secateur.report.numbers import percent
from secateur.report.summary import Document
from secateur.tasks import Metric

_WAYS = {
    "fine-tuning": "fine-tuning with labels",
    "distillation": "distillation from the dense network, without labels",
}


def used(document: Document) -> list[str]:
    """Return two sentences, on what the time was used for and on what that has gained; none without minutes."""
    found = document.get("minutes")
    if not found:
        return []
    repair = f"the repair took {_seconds(found['repair'])}" if document.get("repairs") else "there was no repair"
    start = f"Of {found['minutes']:g} minute{'' if found['minutes'] == 1 else 's'} {repair}"
    if found["way"] == "none":
        return [f"{start}; nothing was trained, for {found['ended']}."]
    steps = f"{found['steps']:,} step{'' if found['steps'] == 1 else 's'} of {_WAYS[found['way']]}"
    return [
        f"{start} and {steps}, {_seconds(found['training'])}; it ended because {found['ended']}.",
        _gain(found, metric_of(document)),
    ]


def _gain(found: Mapping[str, Any], metric: Metric) -> str:
    where = f"On {found['held_out']:,} {'validation' if found['way'] == 'fine-tuning' else 'held-out'} images"
    state = _state(found, metric)
    if not found["steps"]:
        return f"There was no time for a step of training: the network is the one from before it ({state})."
    if not found["gained"]:
        return f"{where} nothing was better than before: the network is the one from before training ({state})."
    values = _values(found)
    if values is not None:
        change = " to ".join(metric_text(metric, value) for value in values)
        loss = "" if found["after"] is None else f", and the loss from {_loss(found, 'before')} to {_loss(found)}"
        return f"{where} {metric.name} went from {change}{loss}."
    return f"{where} the squared error against the dense network went from {_loss(found, 'before')} to {_loss(found)}."


def _state(found: Mapping[str, Any], metric: Metric) -> str:
    values = _values(found)
    if values is not None:
        return f"{metric.name} {metric_text(metric, values[0])}"
    return f"squared error {_loss(found, 'before')} of the dense network's outputs"


def _values(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the metric before and after; earlier versions wrote it as the accuracy. None without labels."""
    before, after = (found.get(f"metric_{when}", found.get(f"accuracy_{when}")) for when in ("before", "after"))
    return None if before is None or after is None else (before, after)


def _loss(found: Mapping[str, Any], when: str = "after") -> str:
    value = found[when]
    if value is None:  # it was not finite
        return "no finite number"
    return f"{value:.3f}" if found["way"] == "fine-tuning" else percent(value, 2)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
