"""Networks by name (built in, of torchvision or timm, or the user's own), their weights, and their classifiers."""

from __future__ import annotations

from .builtin import MODELS
from .head import classes_of, head_of, replace_head
from .sources import build
from .transfer import Transferred, classes_in, fit_classes, give_weights, transfer_weights
from .weights import load_weights

__all__ = [
    "MODELS",
    "Transferred",
    "build",
    "classes_in",
    "classes_of",
    "fit_classes",
    "give_weights",
    "head_of",
    "load_weights",
    "replace_head",
    "transfer_weights",
]
