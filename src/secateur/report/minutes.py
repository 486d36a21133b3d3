"""How the minutes that a run was given were used, as sentences for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report.numbers import percent
from secateur.report.summary import Document

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
    return [f"{start} and {steps}, {_seconds(found['training'])}; it ended because {found['ended']}.", _gain(found)]


def _gain(found: Mapping[str, Any]) -> str:
    where = f"On {found['held_out']:,} {'validation' if found['way'] == 'fine-tuning' else 'held-out'} images"
    if not found["steps"]:
        return f"There was no time for a step of training: the network is the one from before it ({_state(found)})."
    if not found["gained"]:
        return f"{where} nothing was better than before: the network is the one from before training ({_state(found)})."
    if found["accuracy_after"] is not None:
        change = f"{percent(found['accuracy_before'], 2)} to {percent(found['accuracy_after'], 2)}"
        return f"{where} accuracy went from {change}, and the loss from {_loss(found, 'before')} to {_loss(found)}."
    return f"{where} the squared error against the dense network went from {_loss(found, 'before')} to {_loss(found)}."


def _state(found: Mapping[str, Any]) -> str:
    if found["accuracy_before"] is not None:
        return f"accuracy {percent(found['accuracy_before'], 2)}"
    return f"squared error {_loss(found, 'before')} of the dense network's outputs"


def _loss(found: Mapping[str, Any], when: str = "after") -> str:
    value = found[when]
    if value is None:  # it was not finite
        return "no finite number"
    return f"{value:.3f}" if found["way"] == "fine-tuning" else percent(value, 2)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
