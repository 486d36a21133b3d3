"""Undoing part of the damage of surgery without training, from a few hundred images or from weights alone."""

from secateur.reconstruction import refit as reconstruct
from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.folding import fold
from secateur.repair.kit import (
    DATA_FREE,
    DEFAULT,
    STEPS,
    WITHOUT_IMAGES,
    Repair,
    check,
    chosen,
    ordered,
    repair,
    take,
    taken,
)

__all__ = [
    "DATA_FREE",
    "DEFAULT",
    "STEPS",
    "WITHOUT_IMAGES",
    "Repair",
    "check",
    "chosen",
    "compensate",
    "fold",
    "fold_constants",
    "ordered",
    "reconstruct",
    "repair",
    "take",
    "taken",
]
