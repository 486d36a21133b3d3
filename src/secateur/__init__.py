"""Make convolutional networks smaller and faster by pruning them, and prove it.

The names below are loaded when they are first used, so that ``import secateur`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur import tasks as tasks
    from secateur.artifact import load, save
    from secateur.budget import Budget
    from secateur.checks import check_method
    from secateur.core.graph import Graph, Group
    from secateur.core.method import Method, Paper, ScoreMethod
    from secateur.core.plan import DropUnits, Plan
    from secateur.core.problem import Problem
    from secateur.core.sizes.limits import Limits
    from secateur.core.sizes.size import Target, size
    from secateur.core.surgery import apply, hold, masked, migrate_optimizer, verify
    from secateur.core.trace import trace
    from secateur.data import from_arrays, from_loaders, load_calibration, load_data
    from secateur.errors import SecateurError
    from secateur.export import export_int8, export_onnx, export_pt2, export_source
    from secateur.methods import METHODS
    from secateur.models import build, from_onnx, transfer_weights
    from secateur.outcome import Step
    from secateur.recipe import Recipe
    from secateur.run import Result, prune, run_recipe
    from secateur.session import Session
    from secateur.tasks import Task
    from secateur.training import Settings, fit

_HOMES = {
    "METHODS": "methods",
    "Budget": "budget",
    "DropUnits": "core.plan",
    "Graph": "core.graph",
    "Group": "core.graph",
    "Limits": "core.sizes.limits",
    "Method": "core.method",
    "Paper": "core.method",
    "Plan": "core.plan",
    "Problem": "core.problem",
    "Recipe": "recipe",
    "Result": "run",
    "ScoreMethod": "core.method",
    "SecateurError": "errors",
    "Session": "session",
    "Settings": "training",
    "Step": "outcome",
    "Target": "core.sizes.size",
    "Task": "tasks",
    "apply": "core.surgery",
    "build": "models",
    "check_method": "checks",
    "export_int8": "export",
    "export_onnx": "export",
    "export_pt2": "export",
    "export_source": "export",
    "fit": "training",
    "from_arrays": "data",
    "from_loaders": "data",
    "from_onnx": "models",
    "hold": "core.surgery",
    "load": "artifact",
    "load_calibration": "data",
    "load_data": "data",
    "masked": "core.surgery",
    "migrate_optimizer": "core.surgery",
    "prune": "run",
    "run_recipe": "run",
    "save": "artifact",
    "size": "core.sizes.size",
    "trace": "core.trace",
    "transfer_weights": "models",
    "verify": "core.surgery",
}

__all__ = [
    "METHODS",
    "Budget",
    "DropUnits",
    "Graph",
    "Group",
    "Limits",
    "Method",
    "Paper",
    "Plan",
    "Problem",
    "Recipe",
    "Result",
    "ScoreMethod",
    "SecateurError",
    "Session",
    "Settings",
    "Step",
    "Target",
    "Task",
    "apply",
    "build",
    "check_method",
    "export_int8",
    "export_onnx",
    "export_pt2",
    "export_source",
    "fit",
    "from_arrays",
    "from_loaders",
    "from_onnx",
    "hold",
    "load",
    "load_calibration",
    "load_data",
    "masked",
    "migrate_optimizer",
    "prune",
    "run_recipe",
    "save",
    "size",
    "trace",
    "transfer_weights",
    "verify",
]


_MODULES = ("tasks",)


if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt name for one that is there

    def __getattr__(name: str) -> object:
        if name == "__version__":
            metadata = importlib.import_module("importlib.metadata")
            try:
                return metadata.version("secateur")
            except metadata.PackageNotFoundError:
                raise AttributeError("secateur is not installed, so that it has no version") from None
        if name in _MODULES:
            return importlib.import_module(f"secateur.{name}")
        if name not in _HOMES:
            if name[:1].isupper():  # a method's class, perhaps, and asking loads all of them
                importlib.import_module("secateur.methods").point_to_class(name, "secateur")
            raise AttributeError(f"module 'secateur' has no attribute '{name}'")
        value = getattr(importlib.import_module(f"secateur.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
