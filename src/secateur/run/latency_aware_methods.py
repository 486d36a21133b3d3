"""Which methods share their cut out by the times of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secateur.budget import Budget
from secateur.core.method import Method, ScoreMethod
from secateur.errors import SettingError
from secateur.methods.reconstruction import Reconstruction
from secateur.spelling import said


def shares_by_latency(method: Method) -> bool:
    """Say whether a method shares its cut out by the times of layers."""
    return "latency" in (getattr(method, "allocate", ""), getattr(method, "shares", ""))


def decides_by_the_clock(method: Method) -> bool:
    """Say whether a plan of a method depends on what is timed while it decides."""
    return shares_by_latency(method) or getattr(method, "milliseconds", None) is not None


def latency_aware(method: Method) -> Method | None:
    """Return a method with shares by the times of layers; None if it has none, or somebody has chosen its shares."""
    if isinstance(method, ScoreMethod) and method.allocate == "scope":
        return replace(method, allocate="latency")
    if isinstance(method, Reconstruction) and method.shares == "errors":
        return replace(method, shares="latency")
    return None


def check_timing(methods: Sequence[Method], latency: bool, budget: Budget | None) -> None:
    """Refuse shares by latency where nothing may be timed.

    Raises:
        SettingError: if times are needed and not allowed.
    """
    allowed = latency or (budget is not None and budget.max_latency is not None)
    if not allowed and any(shares_by_latency(method) for method in methods):
        raise SettingError(
            "sharing out by latency needs the times of layers, but nothing may be timed ("
            f"{said('latency=False', '--no-latency, or a plan without --forecast', 'latency = false')}); allow it, or "
            "choose another way to share out"
        )
