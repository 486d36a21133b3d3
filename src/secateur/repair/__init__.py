"""Undoing part of the damage of surgery without training, from a few hundred images."""

from secateur.reconstruction import refit as reconstruct
from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.kit import DEFAULT, STEPS, Repair, check, chosen, ordered, repair, take, taken

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
