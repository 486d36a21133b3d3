"""What is measured on a real network: its size, how well it does and its speed."""

from __future__ import annotations

from secateur.measure.counts import Counts, count
from secateur.measure.deployment import Deployed, deploy
from secateur.measure.forward import ExampleInputs
from secateur.measure.latency import Latency, latency
from secateur.measure.layer_execution import fastest
from secateur.measure.measurement import Measurement, measure
from secateur.measure.quality import Quality, quality
from secateur.measure.runtime_choice import fastest_runtime
from secateur.measure.runtimes import RUNTIMES, Runtime, installed, missing
from secateur.measure.side_by_side import SideBySide, side_by_side
from secateur.measure.speed_up import SpeedUp

__all__ = [
    "RUNTIMES",
    "Counts",
    "Deployed",
    "ExampleInputs",
    "Latency",
    "Measurement",
    "Quality",
    "Runtime",
    "SideBySide",
    "SpeedUp",
    "count",
    "deploy",
    "fastest",
    "fastest_runtime",
    "installed",
    "latency",
    "measure",
    "missing",
    "quality",
    "side_by_side",
]
