"""How a constraint is tightened round by round.

Source: Chen, Tung, Vedula, Mori, "Constraint-Aware Deep Neural Network Compression", ECCV 2018, and its code.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from secateur.errors import SettingError

Cooling = Literal["exponential", "linear", "none"]
RATE = 0.5
"""Of exponential cooling, per round."""


def cooled(start: float, end: float, number: int, rounds: int, kind: Cooling = "exponential") -> float:
    """Return the constraint of a round; that of the last one is ``end``.

    Linear cooling takes equal steps, exponential cooling follows Newton's law with the remainder of the last round
    taken off everywhere, and ``none`` asks for the end at once.

    Args:
        start: what holds before the first round.
        end: what has to hold in the end.
        number: of the round, from 0.
        rounds: how many there are.
        kind: of cooling.

    Raises:
        SettingError: if the kind is unknown, or there is no such round.
    """
    if kind not in get_args(Cooling):
        raise SettingError(f"unknown cooling '{kind}'; choose one of {', '.join(get_args(Cooling))}")
    if not 0 <= number < rounds:
        raise SettingError(f"there is no round {number} of {rounds} for the constraint to be cooled in")
    if kind == "none" or number + 1 == rounds:
        return end
    if kind == "linear":
        return start + (number + 1) / rounds * (end - start)
    return end + (start - end) * (math.exp(-RATE * (number + 1)) - math.exp(-RATE * rounds))
