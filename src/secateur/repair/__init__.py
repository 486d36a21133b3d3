"""Undoing part of the damage of surgery without training, from a few hundred images or from weights alone."""

from secateur.recipe_rules import DATA_FREE
from secateur.reconstruction import refit as reconstruct
from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.folding import fold
from secateur.repair.record import Judge, Repair
from secateur.repair.repairs import (
    DEFAULT,
    STEPS,
    WITHOUT_IMAGES,
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
    "DATA_FREE",
    "DEFAULT",
    "STEPS",
    "WITHOUT_IMAGES",
    "Judge",
    "Repair",
    "affordable",
    "check",
    "chosen",
    "compensate",
    "fold",
    "fold_constants",
    "helps",
    "ordered",
    "reconstruct",
    "repair",
    "take",
    "taken",
]
