"""Undoing part of the damage of surgery without training, from a few hundred images."""

from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.kit import DEFAULT, STEPS, Repair, check, chosen, ordered, repair, take, taken
from secateur.repair.reconstruction import reconstruct

__all__ = [
    "DEFAULT",
    "STEPS",
    "Repair",
    "check",
    "chosen",
    "compensate",
    "fold_constants",
    "ordered",
    "reconstruct",
    "repair",
    "take",
    "taken",
]
