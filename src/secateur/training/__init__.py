"""Training: one loop for pre-training, fine-tuning and shaping, that resumes after a kill with the same
result.

The names below are loaded when they are first used, so that reading a recipe does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.training.batchnorm import recalibrate
    from secateur.training.history import History, Row
    from secateur.training.loop import fit
    from secateur.training.settings import Settings
    from secateur.training.speed import Speed

__all__ = ["History", "Row", "Settings", "Speed", "fit", "recalibrate"]

_HOMES = {
    "History": "history",
    "Row": "history",
    "Settings": "settings",
    "Speed": "history",
    "fit": "loop",
    "recalibrate": "batchnorm",
}


if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
