"""What is measured on a real network: its size, its accuracy and its speed."""

from __future__ import annotations

from .accuracy import Accuracy, accuracy
from .choice import fastest_runtime
from .counts import Counts, count
from .deployment import Deployed, deploy
from .execution import fastest
from .forward import ExampleInputs
from .latency import Latency, latency
from .measurement import Measurement, measure
from .runtimes import RUNTIMES, Runtime, installed, missing
from .side_by_side import SideBySide, side_by_side
from .speed_up import SpeedUp

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
    "SpeedUp",
    "accuracy",
    "count",
    "deploy",
    "fastest",
    "fastest_runtime",
    "installed",
    "latency",
    "measure",
    "missing",
    "side_by_side",
]
