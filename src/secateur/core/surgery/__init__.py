"""The only code that edits a model: remove for real, silence reversibly, and check that both agree."""

from secateur.core.surgery.forward import Inputs, run, tensors_in
from secateur.core.surgery.optimizer import migrate_optimizer
from secateur.core.surgery.removal import apply
from secateur.core.surgery.silence import Hold, hold, masked, zeros_left
from secateur.core.surgery.verification import TOLERANCE, Verification, relative_difference, verify

__all__ = [
    "TOLERANCE",
    "Hold",
    "Inputs",
    "Verification",
    "apply",
    "hold",
    "masked",
    "migrate_optimizer",
    "relative_difference",
    "run",
    "tensors_in",
    "verify",
    "zeros_left",
]
