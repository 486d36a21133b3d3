"""The only code that edits a model: remove for real, silence reversibly, and check that both agree."""

from secateur.core.surgery.batch_size_check import check_batches, other_batches
from secateur.core.surgery.forward import Inputs, finite, run, tensors_in
from secateur.core.surgery.image_size_check import check_sizes
from secateur.core.surgery.in_place import become
from secateur.core.surgery.optimizer import migrate_optimizer, migrate_through, migrated
from secateur.core.surgery.optimizer_contents import optimizers_in
from secateur.core.surgery.proof import carrying_out, cut, prove, prove_elsewhere
from secateur.core.surgery.removal import apply
from secateur.core.surgery.silence import Hold, hold, masked, zeros_left
from secateur.core.surgery.training_mode_check import check_training, compare_training
from secateur.core.surgery.verification import TOLERANCE, Verification, left, relative_difference, verified, verify

__all__ = [
    "TOLERANCE",
    "Hold",
    "Inputs",
    "Verification",
    "apply",
    "become",
    "carrying_out",
    "check_batches",
    "check_sizes",
    "check_training",
    "compare_training",
    "cut",
    "finite",
    "hold",
    "left",
    "masked",
    "migrate_optimizer",
    "migrate_through",
    "migrated",
    "optimizers_in",
    "other_batches",
    "prove",
    "prove_elsewhere",
    "relative_difference",
    "run",
    "tensors_in",
    "verified",
    "verify",
    "zeros_left",
]
