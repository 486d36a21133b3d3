"""What comes out of a run: its networks, measurements and plans, as plain values that others save and show."""

from secateur.outcome.network_stages import CUT, DENSE, DISTILLED, REPAIRED, TUNED, measured, stages, way_of
from secateur.outcome.outcome import Outcome, Width, widths
from secateur.outcome.source import Source
from secateur.outcome.spent import Spent
from secateur.outcome.step import Step

__all__ = [
    "CUT",
    "DENSE",
    "DISTILLED",
    "REPAIRED",
    "TUNED",
    "Outcome",
    "Source",
    "Spent",
    "Step",
    "Width",
    "measured",
    "stages",
    "way_of",
    "widths",
]
