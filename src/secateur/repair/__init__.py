"""Undoing part of the damage of surgery without training, from a few hundred images."""

from secateur.reconstruction import refit as reconstruct
from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.kit import (
    DEFAULT,
    FEWEST_FITTED,
    STEPS,
    Repair,
    affordable,
    check,
    chosen,
    ordered,
    repair,
    take,
    taken,
)
from secateur.repair.trial import helps

__all__ = [
    "DEFAULT",
    "FEWEST_FITTED",
    "STEPS",
    "Repair",
    "affordable",
    "check",
    "chosen",
    "compensate",
    "fold_constants",
    "helps",
    "ordered",
    "reconstruct",
    "repair",
    "take",
    "taken",
]
