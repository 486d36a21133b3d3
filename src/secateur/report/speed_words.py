"""A speed-up in words, which never claim what is inside the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report.numbers import change

SAME = "no measurable difference"
"""What is said of two times whose difference is inside the noise; never a factor."""


def faster(speed: Mapping[str, Any]) -> str:
    """Return a speed-up in words, such as ``2.00x faster``, unless it is inside the noise.

    Args:
        speed: what ``SpeedUp.to_dict`` returns.
    """
    return change(speed["ratio"], 1.0, "faster", "slower") if speed["differs"] else SAME


def interval(speed: Mapping[str, Any]) -> str:
    """Return the interval of a speed-up in the words of ``faster``; empty where there is no difference."""
    if not speed["differs"]:
        return ""
    low, high = sorted((speed["low"], speed["high"]) if speed["ratio"] > 1 else (1 / speed["high"], 1 / speed["low"]))
    return f"{100 * speed['confidence']:.0f} % interval {low:.2f} to {high:.2f}"
