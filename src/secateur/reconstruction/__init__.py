"""What pruning takes from each layer, and how far the others make up for it: least squares over whole units."""

from secateur.reconstruction.curves import error_curves
from secateur.reconstruction.data_free_curves import blind_curves, shares
from secateur.reconstruction.refit import refit

__all__ = ["blind_curves", "error_curves", "refit", "shares"]
