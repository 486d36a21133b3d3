"""Networks by name (built in, of torchvision or timm, or the user's own), their weights, and their classifiers."""

from __future__ import annotations

from secateur.models.builtin import MODELS
from secateur.models.head import classes_of, head_of, replace_head
from secateur.models.onnx_files import OnnxNetwork, from_onnx
from secateur.models.sources import build
from secateur.models.transfer import Transferred, classes_in, fit_classes, give_weights, transfer_weights
from secateur.models.weights import load_weights

__all__ = [
    "MODELS",
    "OnnxNetwork",
    "Transferred",
    "build",
    "classes_in",
    "classes_of",
    "fit_classes",
    "from_onnx",
    "give_weights",
    "head_of",
    "load_weights",
    "replace_head",
    "transfer_weights",
]
