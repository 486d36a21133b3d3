"""Networks by name (built in, of torchvision or timm, or the user's own), and their weights."""

from __future__ import annotations

from .builtin import MODELS
from .sources import build
from .weights import load_weights

__all__ = ["MODELS", "build", "load_weights"]
