"""What is measured on a real network: its size, its accuracy and its speed."""

from __future__ import annotations

from .accuracy import Accuracy, accuracy
from .counts import Counts, count
from .execution import fastest
from .forward import ExampleInputs
from .latency import Latency, Runtime, latency
from .measurement import Measurement, measure

__all__ = [
    "Accuracy",
    "Counts",
    "ExampleInputs",
    "Latency",
    "Measurement",
    "Runtime",
    "accuracy",
    "count",
    "fastest",
    "latency",
    "measure",
]
