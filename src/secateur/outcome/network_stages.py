"""The networks of a run by what they are: dense, cut, repaired, fine-tuned or distilled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from secateur.measure import Quality
from secateur.tasks import ACCURACY, Metric

DENSE, CUT, REPAIRED, TUNED, DISTILLED = "dense", "cut", "repaired", "fine-tuned", "distilled"
_T = TypeVar("_T")


def stages(
    dense: _T, cut: _T | None, middle: _T | None, after: _T, *, repaired: bool, way: str = TUNED
) -> dict[str, _T]:
    """Return what belongs to each network that a run had, by its name, in the order in which they came about.

    Args:
        dense: of the network that went in.
        cut: of the network before its repair, None if that was not looked at.
        middle: of the network before fine-tuning or distillation, None if there was none.
        after: of the network that came out.
        repaired: whether there was a repair.
        way: name of the network that came of ``middle``.
    """
    found = {DENSE: dense}
    if repaired and cut is not None:
        found[CUT] = cut
    found[REPAIRED if repaired else CUT] = after if middle is None else middle
    if middle is not None:
        found[way] = after
    return found


def way_of(minutes: Mapping[str, Any] | None) -> str:
    """Return the name of the network that was trained after its repair, by how its minutes were used, if it had any."""
    return DISTILLED if minutes is not None and minutes["way"] == "distillation" else TUNED


def measured(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a document says of each network that the run had, by its name.

    Those on the way are left out where nothing but the size is known of them, which is that of the last.

    Args:
        document: content of measurement.json; of an earlier version it has no ``cut``, nor perhaps ``repairs``.
    """
    cut, repaired = document.get("cut"), bool(document.get("repairs"))
    found = stages(
        document["before"],
        cut,
        document["middle"],
        document["after"],
        repaired=repaired,
        way=way_of(document.get("minutes")),
    )
    ends = (next(iter(found)), next(reversed(found)))
    return {name: part for name, part in found.items() if name in ends or quality_in(part)}


def quality_in(part: Mapping[str, Any]) -> Quality | None:
    """Return how well a network of a document does, None where that was not measured."""
    found = part.get("quality") or part.get("accuracy")  # as earlier versions called it
    return Quality.from_dict(found) if found else None


def metric_of(document: Mapping[str, Any]) -> Metric:
    """Return what a document measures networks by; the accuracy where it measures none."""
    parts = filter(None, (document.get(when) for when in ("before", "after")))
    found = next(filter(None, map(quality_in, parts)), None)
    return found.metric if found else ACCURACY
