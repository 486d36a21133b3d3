"""What is measured on a real network: its size, its accuracy and its speed."""

from __future__ import annotations

from .accuracy import Accuracy, accuracy
from .counts import Counts, count
from .deployment import Deployed, deploy
from .execution import fastest
from .forward import ExampleInputs
from .latency import Latency, latency
from .measurement import Measurement, measure
from .runtimes import RUNTIMES, Runtime, installed, missing
from .side_by_side import SideBySide, side_by_side

__all__ = [
    "RUNTIMES",
    "Accuracy",
    "Counts",
    "Deployed",
    "ExampleInputs",
    "Latency",
    "Measurement",
    "Runtime",
    "SideBySide",
    "accuracy",
    "count",
    "deploy",
    "fastest",
    "installed",
    "latency",
    "measure",
    "missing",
    "side_by_side",
]
