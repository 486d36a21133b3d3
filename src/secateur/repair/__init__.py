"""Undoing part of the damage of surgery without training, from a few hundred images."""

from secateur.repair.compensation import compensate
from secateur.repair.constants import fold_constants
from secateur.repair.kit import STEPS, Repair, check, repair, take
from secateur.repair.reconstruction import reconstruct

__all__ = ["STEPS", "Repair", "check", "compensate", "fold_constants", "reconstruct", "repair", "take"]
