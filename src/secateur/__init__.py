"""Make convolutional networks smaller and faster by pruning them, and prove it.

The names below are loaded when they are first used, so that ``import secateur`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.artifact import load, save
    from secateur.budget import Budget
    from secateur.checks import check_method
    from secateur.core.graph import Graph
    from secateur.core.method import Method, ScoreMethod
    from secateur.core.plan import Plan
    from secateur.core.sizes.limits import Limits
    from secateur.core.sizes.size import Target, size
    from secateur.core.surgery import apply, hold, masked, verify
    from secateur.core.trace import trace
    from secateur.data import load_data
    from secateur.errors import SecateurError
    from secateur.methods import METHODS
    from secateur.recipe import Recipe
    from secateur.run import Result, prune, run_recipe
    from secateur.training import Settings

_HOMES = {
    "METHODS": "methods",
    "Budget": "budget",
    "Graph": "core.graph",
    "Limits": "core.limits",
    "Method": "core.method",
    "Plan": "core.plan",
    "Recipe": "recipe",
    "Result": "run",
    "ScoreMethod": "core.method",
    "SecateurError": "errors",
    "Settings": "training",
    "Target": "core.size",
    "apply": "core.surgery",
    "check_method": "checks",
    "hold": "core.surgery",
    "load": "artifact",
    "load_data": "data",
    "masked": "core.surgery",
    "prune": "run",
    "run_recipe": "run",
    "save": "artifact",
    "size": "core.size",
    "trace": "core.trace",
    "verify": "core.surgery",
}

__all__ = [
    "METHODS",
    "Budget",
    "Graph",
    "Limits",
    "Method",
    "Plan",
    "Recipe",
    "Result",
    "ScoreMethod",
    "SecateurError",
    "Settings",
    "Target",
    "apply",
    "check_method",
    "hold",
    "load",
    "load_data",
    "masked",
    "prune",
    "run_recipe",
    "save",
    "size",
    "trace",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"secateur.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
